"""mempool.linux beside a model of the kernel: the same calls, the same answers, the same state."""

from __future__ import annotations

import copy

from clocks import LeapingClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kernel_model import KernelPool, Memory, numbers
from linux_pools import DIRECT_RECLAIM, IO, drain
from sweeps import LONG

from mempool.linux import (
    GFP_ATOMIC,
    GFP_KERNEL,
    GFP_NOFS,
    GFP_NOIO,
    GFP_NOWAIT,
    mempool_alloc,
    mempool_alloc_bulk,
    mempool_alloc_preallocated,
    mempool_create,
    mempool_destroy,
    mempool_free,
    mempool_free_bulk,
    mempool_is_saturated,
    mempool_resize,
)
from mempool.testing import Element

MASKS = [GFP_KERNEL, GFP_NOIO, GFP_NOFS, GFP_ATOMIC, GFP_NOWAIT, 0, IO, DIRECT_RECLAIM, GFP_ATOMIC | IO]


class BesideTheKernel(RuleBasedStateMachine):
    """The same calls on the model of the kernel and on mempool.linux: the same answers, elements, source calls."""

    @initialize(min_nr=st.integers(0, 12), plan=st.lists(st.booleans(), max_size=14) | st.just([]))
    def create(self, min_nr: int, plan: list[bool]) -> None:
        self.kernel = KernelPool(min_nr, Memory(list(plan)))
        self.memory = Memory(list(plan))
        # Kept apart from its twin by identity, as the elements of the kernel are by address.
        self.out: list[tuple[Element, Element]] = []
        pool = mempool_create(min_nr, self.memory.alloc, self.memory.free, None)
        assert (pool is None) == self.kernel.failed
        if pool is None:
            assert self.memory.log == self.kernel.memory.log
            self.create(min_nr, [])
        else:
            self.pool = pool
            self.pool._clock = LeapingClock()

    def handed_out(self, theirs: Element | None, ours: Element | None) -> None:
        assert numbers([ours]) == numbers([theirs])
        if theirs is not None and ours is not None:
            self.out.append((theirs, ours))

    @rule(plan=st.lists(st.booleans(), max_size=8))
    def memory_changes(self, plan: list[bool]) -> None:
        self.kernel.memory.plan = list(plan)
        self.memory.plan = list(plan)

    @rule(gfp_mask=st.sampled_from(MASKS))
    def alloc(self, gfp_mask: int) -> None:
        self.handed_out(self.kernel.alloc(gfp_mask), mempool_alloc(self.pool, gfp_mask))

    @rule()
    def alloc_preallocated(self) -> None:
        self.handed_out(self.kernel.alloc_preallocated(), mempool_alloc_preallocated(self.pool))

    @rule(taken=st.lists(st.booleans(), max_size=10))
    def alloc_bulk(self, taken: list[bool]) -> None:
        held = [self.out.pop() if self.out and is_taken else (None, None) for is_taken in taken]
        theirs, ours = [one for one, _ in held], [other for _, other in held]
        rehearsal = copy.deepcopy(self.kernel)
        rehearsal.alloc_bulk(list(theirs))
        if rehearsal.naps > self.kernel.naps or len(theirs) > self.kernel.min_nr:
            # What happens in a wait depends on others, and is the line's affair; more than promised may have no end.
            self.out += [(a, b) for a, b in zip(theirs, ours, strict=True) if a is not None and b is not None]
            return
        allocated = sum(element is not None for element in ours)
        assert mempool_alloc_bulk(self.pool, ours, len(ours), allocated) == self.kernel.alloc_bulk(theirs) == 0
        assert numbers(ours) == numbers(theirs)
        self.out += [(a, b) for a, b in zip(theirs, ours, strict=True) if a is not None and b is not None]

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0))
    def free(self, which: int) -> None:
        theirs, ours = self.out.pop(which % len(self.out))
        self.kernel.free(theirs)
        mempool_free(ours, self.pool)

    @rule()
    def free_nothing(self) -> None:
        self.kernel.free(None)
        mempool_free(None, self.pool)

    @rule(count=st.integers(0, 10))
    def free_bulk(self, count: int) -> None:
        some, self.out = self.out[:count], self.out[count:]
        freed = self.kernel.free_bulk([theirs for theirs, _ in some])
        assert mempool_free_bulk(self.pool, [ours for _, ours in some], len(some)) == freed
        self.out += some[freed:]

    @rule(new_min_nr=st.integers(1, 14) | st.just(1) | st.just(10**15))
    def resize(self, new_min_nr: int) -> None:
        assert mempool_resize(self.pool, new_min_nr) == self.kernel.resize(new_min_nr)

    @rule()
    def all_spares_are_taken_and_brought_back(self) -> None:
        """That is what tells in which order they lie."""
        theirs = list(iter(self.kernel.alloc_preallocated, None))
        ours = drain(self.pool)
        assert numbers(ours) == numbers(theirs)
        for one, other in zip(reversed(theirs), reversed(ours), strict=True):
            self.kernel.free(one)
            mempool_free(other, self.pool)

    @invariant()
    def both_are_in_the_same_state(self) -> None:
        if hasattr(self, "pool"):
            assert self.memory.log == self.kernel.memory.log
            assert self.pool.min_nr == self.kernel.min_nr
            assert self.pool.curr_nr == self.kernel.curr_nr
            assert mempool_is_saturated(self.pool) == self.kernel.is_saturated()
            stats = self.pool.stats()
            assert stats.made - stats.disposed == stats.spare + stats.out
            assert stats.out == len(self.out)

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            mempool_destroy(self.pool)
            self.kernel.exit()
            assert self.memory.log == self.kernel.memory.log


TestBesideTheKernel = BesideTheKernel.TestCase
TestBesideTheKernel.settings = settings(max_examples=300 if LONG else 60, stateful_step_count=40, deadline=None)
