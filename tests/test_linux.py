"""mempool.linux: the kernel's names do what the kernel does, call by call; and what each of them promises by itself."""

from __future__ import annotations

import copy
import ctypes
import errno
import inspect
import mmap
import threading
from _queue import Empty, SimpleQueue
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kernel_model import Element, KernelPool, Memory

from mempool import DoubleFree, ForeignElement, Pool, PoolClosed, linux
from mempool.clock import Clock
from mempool.linux import (
    GFP_ATOMIC,
    GFP_KERNEL,
    GFP_NOFS,
    GFP_NOIO,
    GFP_NOWAIT,
    KmemCache,
    Mempool,
    mempool_alloc,
    mempool_alloc_bulk,
    mempool_alloc_preallocated,
    mempool_create,
    mempool_create_kmalloc_pool,
    mempool_create_page_pool,
    mempool_create_slab_pool,
    mempool_destroy,
    mempool_free,
    mempool_free_bulk,
    mempool_is_saturated,
    mempool_resize,
)
from mempool.testing import wait_until

IO = linux.__GFP_IO
DIRECT_RECLAIM = linux.__GFP_DIRECT_RECLAIM
ZERO = linux.__GFP_ZERO
ALWAYS = linux.__GFP_NOMEMALLOC | linux.__GFP_NORETRY | linux.__GFP_NOWARN
MASKS = [GFP_KERNEL, GFP_NOIO, GFP_NOFS, GFP_ATOMIC, GFP_NOWAIT, 0, IO, DIRECT_RECLAIM, GFP_ATOMIC | IO]


class LeapingClock(Clock):
    """Nobody else is there: a wait ends at once, and the time has passed."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def park(self, wakes: SimpleQueue[None], seconds: float | None) -> None:
        try:
            wakes.get_nowait()
        except Empty:
            assert seconds is not None, "would wait for ever"
            self.time += seconds


def create(min_nr: int, memory: Memory | None = None) -> Mempool[Element]:
    """A pool that was made, for tests that want no more than that."""
    memory = memory or Memory()
    pool = mempool_create(min_nr, memory.alloc, memory.free, None)
    assert pool is not None
    return pool


def take(pool: Mempool[Element], gfp_mask: int = GFP_NOWAIT) -> Element:
    element = mempool_alloc(pool, gfp_mask)
    assert element is not None
    return element


def drain(pool: Mempool[Any]) -> list[Any]:
    """All spares, top first."""
    return list(iter(lambda: mempool_alloc_preallocated(pool), None))


# -- beside the kernel ----------------------------------------------------------------------------------------------


class BesideTheKernel(RuleBasedStateMachine):
    """The same calls on the model of the kernel and on mempool.linux: the same answers, elements, calls of the source."""

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
        assert ours == theirs
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
        assert ours == theirs
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
        assert ours == theirs
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
TestBesideTheKernel.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


# -- create and destroy ---------------------------------------------------------------------------------------------


def test_create_fills_the_pool_before_it_returns() -> None:
    memory = Memory()
    pool = create(3, memory)
    assert isinstance(pool, Pool)
    assert (pool.min_nr, pool.curr_nr) == (3, 3)
    assert memory.log == [("alloc", GFP_KERNEL, n) for n in (1, 2, 3)]


def test_create_that_runs_out_of_memory_is_none_and_leaves_nothing() -> None:
    memory = Memory([True, True, False])
    assert mempool_create(3, memory.alloc, memory.free, None) is None
    assert memory.log[3:] == [("free", 0, 2), ("free", 0, 1)]


def test_create_hands_pool_data_to_both_functions() -> None:
    def alloc_fn(gfp_mask: int, pool_data: list[str]) -> object:
        pool_data.append("alloc")
        return object()

    def free_fn(element: object, pool_data: list[str]) -> None:
        pool_data.append("free")

    seen: list[str] = []
    mempool_destroy(mempool_create(1, alloc_fn, free_fn, seen))
    assert seen == ["alloc", "free"]


def test_create_with_more_places_than_there_can_be_is_none() -> None:
    memory = Memory()
    assert mempool_create(10**15, memory.alloc, memory.free, None) is None
    assert memory.log == []


@pytest.mark.parametrize(("min_nr", "error"), [(-1, ValueError), (1.5, TypeError), (None, TypeError), ("3", TypeError)])
def test_create_refuses_what_is_no_number_of_elements(min_nr: Any, error: type[Exception]) -> None:
    memory = Memory()
    with pytest.raises(error):
        mempool_create(min_nr, memory.alloc, memory.free, None)
    assert memory.log == []


def test_create_refuses_what_is_no_function() -> None:
    with pytest.raises(TypeError, match="alloc_fn"):
        mempool_create(1, None, Memory().free, None)  # type: ignore[arg-type]


def test_an_alloc_fn_that_raises_memory_error_has_failed_as_if_it_returned_none() -> None:
    def alloc_fn(gfp_mask: int, pool_data: None) -> bytearray:
        raise MemoryError

    assert mempool_create(1, alloc_fn, lambda element, data: None, None) is None


def test_an_alloc_fn_that_raises_anything_else_is_heard() -> None:
    def alloc_fn(gfp_mask: int, pool_data: list[int]) -> list[int]:
        if pool_data:
            raise LookupError("no such disk")
        return [gfp_mask]

    broken: list[int] = []
    pool = mempool_create(1, alloc_fn, lambda element, data: None, broken)
    assert pool is not None
    broken.append(1)
    with pytest.raises(LookupError, match="no such disk"):
        mempool_alloc(pool, GFP_KERNEL)
    assert pool.curr_nr == 1


def test_an_element_may_be_false_in_a_condition() -> None:
    """Only None is NULL."""
    pool = mempool_create(1, lambda mask, data: bytearray(), lambda element, data: None, None)
    assert pool is not None
    element = mempool_alloc(pool, GFP_NOWAIT)
    assert element == bytearray()
    mempool_free(element, pool)
    assert pool.stats().disposed == 1


def test_a_pool_for_none_holds_one() -> None:
    """Promises nothing, and yet a free that finds it empty stays, so that somebody who waits is served."""
    memory = Memory()
    pool = create(0, memory)
    assert (pool.min_nr, pool.curr_nr) == (0, 1)
    first, second = take(pool), take(pool)
    spare = mempool_alloc_preallocated(pool)
    assert (pool.curr_nr, mempool_is_saturated(pool)) == (0, True)
    for element in (first, second, spare):
        mempool_free(element, pool)
    assert pool.curr_nr == 1
    assert mempool_alloc_preallocated(pool) is first


@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize("new_min_nr", [1, 2, 5])
def test_a_pool_for_none_that_is_resized_is_filled(new_min_nr: int, is_empty: bool) -> None:
    """A resize to 1 is a growth to the kernel, and growth fills."""
    memory = Memory()
    pool = create(0, memory)
    spare = mempool_alloc_preallocated(pool) if is_empty else None
    assert mempool_resize(pool, new_min_nr) == 0
    assert (pool.min_nr, pool.curr_nr) == (new_min_nr, new_min_nr)
    assert len(memory.log) == new_min_nr + is_empty
    mempool_free(spare, pool)
    assert pool.curr_nr == new_min_nr


def test_destroy_disposes_of_the_last_first() -> None:
    memory = Memory()
    mempool_destroy(create(3, memory))
    assert memory.log[3:] == [("free", 0, 3), ("free", 0, 2), ("free", 0, 1)]


def test_destroy_of_nothing_is_allowed() -> None:
    mempool_destroy(None)


def test_after_destroy_nothing_is_handed_out_and_what_comes_home_is_disposed_of() -> None:
    memory = Memory()
    pool = create(1, memory)
    element = take(pool)
    mempool_destroy(pool)
    with pytest.raises(PoolClosed):
        mempool_alloc(pool, GFP_KERNEL)
    with pytest.raises(PoolClosed):
        mempool_alloc_preallocated(pool)
    with pytest.raises(PoolClosed):
        mempool_resize(pool, 2)
    mempool_free(element, pool)
    assert memory.log[-1] == ("free", 0, element.number)


# -- alloc ----------------------------------------------------------------------------------------------------------


def test_alloc_asks_the_source_first_and_gently() -> None:
    """Also when the pool is full: its spares are for the day when there is no memory."""
    memory = Memory()
    pool = create(2, memory)
    assert take(pool, GFP_KERNEL) == Element(3)
    assert memory.log[-1] == ("alloc", (GFP_KERNEL | ALWAYS) & ~(DIRECT_RECLAIM | IO), 3)


def test_alloc_takes_the_spare_that_came_last() -> None:
    memory = Memory()
    pool = create(3, memory)
    memory.plan = [False] * 9
    assert [take(pool) for _ in range(3)] == [Element(3), Element(2), Element(1)]


@pytest.mark.parametrize("gfp_mask", [GFP_ATOMIC, GFP_NOWAIT, 0])
def test_alloc_that_may_not_sleep_asks_once_and_returns_none(gfp_mask: int) -> None:
    memory = Memory()
    pool = create(1, memory)
    memory.plan = [False] * 9
    take(pool, gfp_mask)
    assert mempool_alloc(pool, gfp_mask) is None
    assert memory.log[1:] == [("alloc", gfp_mask | ALWAYS, None)] * 2


def test_alloc_that_may_do_io_but_not_sleep_asks_twice_and_returns_none() -> None:
    memory = Memory()
    pool = create(1, memory)
    mempool_alloc_preallocated(pool)
    memory.plan = [False] * 9
    assert mempool_alloc(pool, IO) is None
    assert memory.log[1:] == [("alloc", ALWAYS, None), ("alloc", IO | ALWAYS, None)]


def test_alloc_that_may_sleep_asks_again_with_all_it_may() -> None:
    memory = Memory()
    pool = create(1, memory)
    mempool_alloc_preallocated(pool)
    memory.plan = [False, True]
    assert take(pool, GFP_KERNEL) == Element(2)
    assert memory.log[-1] == ("alloc", GFP_KERNEL | ALWAYS, 2)


def test_alloc_that_may_sleep_waits_and_asks_again_from_time_to_time() -> None:
    memory = Memory()
    pool = create(1, memory)
    pool._clock = LeapingClock()
    mempool_alloc_preallocated(pool)
    memory.plan = [False] * 5
    assert take(pool, GFP_NOIO) == Element(2)
    assert [mask for _, mask, _ in memory.log[2:]] == [GFP_NOIO | ALWAYS] * 5
    assert pool.stats().waits_served == 1


def test_alloc_that_waits_is_served_by_a_free() -> None:
    memory = Memory()
    pool = create(1, memory)
    memory.plan = [False] * 10**6
    element = take(pool)
    got: list[Element] = []
    waiter = threading.Thread(target=lambda: got.append(take(pool, GFP_KERNEL)))
    waiter.start()
    wait_until(lambda: pool.stats().waiting == 1)
    mempool_free(element, pool)
    waiter.join()
    assert got[0] is element


def test_alloc_that_waits_is_served_by_a_resize() -> None:
    """In the kernel it would sleep on until its five seconds are over. There is memory for the resize alone."""
    made = iter(range(1, 100))
    pool = mempool_create(
        1, lambda mask, data: Element(next(made)) if mask == GFP_KERNEL else None, lambda element, data: None, None
    )
    assert pool is not None
    take(pool)
    got: list[Element] = []
    waiter = threading.Thread(target=lambda: got.append(take(pool, GFP_KERNEL)))
    waiter.start()
    wait_until(lambda: pool.stats().waiting == 1)
    assert mempool_resize(pool, 2) == 0
    waiter.join()
    assert got == [Element(2)]
    assert (pool.curr_nr, pool.stats().made) == (2, 4)


def test_alloc_that_may_sleep_does_not_overtake_and_one_that_may_not_has_only_the_source() -> None:
    memory = Memory()
    pool = create(1, memory)
    memory.plan = [False] * 10**6
    element = take(pool)
    got: list[Element] = []

    def wait() -> None:
        mine = take(pool, GFP_KERNEL)
        got.append(mine)
        mempool_free(mine, pool)

    waiters = [threading.Thread(target=wait) for _ in range(2)]
    for number, waiter in enumerate(waiters, 1):
        waiter.start()
        wait_until(lambda number=number: pool.stats().waiting == number)  # type: ignore[misc]
    assert mempool_alloc(pool, GFP_ATOMIC) is None
    mempool_free(element, pool)
    for waiter in waiters:
        waiter.join()
    assert got == [element, element]
    assert pool.curr_nr == 1


def test_alloc_warns_of_zeroing_which_spares_do_not_heed() -> None:
    pool = create(1)
    with pytest.warns(RuntimeWarning, match="__GFP_ZERO"):
        mempool_alloc(pool, GFP_KERNEL | ZERO)


def test_each_thread_asks_with_its_own_mask() -> None:
    """Two threads are in alloc_fn at the same time, a third resizes: each sees what its own call allows."""
    together = threading.Barrier(3)
    seen: dict[str, list[int]] = {"atomic": [], "noio": [], "resize": []}
    is_armed: list[bool] = []

    def alloc_fn(gfp_mask: int, pool_data: None) -> list[int]:
        if is_armed:
            together.wait()
            seen[threading.current_thread().name].append(gfp_mask)
            together.wait()
        return [gfp_mask]

    pool = mempool_create(1, alloc_fn, lambda element, data: None, None)
    assert pool is not None
    is_armed.append(True)
    threads = [
        threading.Thread(name="atomic", target=mempool_alloc, args=(pool, GFP_ATOMIC)),
        threading.Thread(name="noio", target=mempool_alloc, args=(pool, GFP_NOIO)),
        threading.Thread(name="resize", target=mempool_resize, args=(pool, 2)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {
        "atomic": [GFP_ATOMIC | ALWAYS],
        "noio": [(GFP_NOIO | ALWAYS) & ~DIRECT_RECLAIM],
        "resize": [GFP_KERNEL],
    }


def test_a_pool_whose_alloc_fn_uses_another_pool_has_its_own_mask() -> None:
    """Stacked pools: each call says what it allows, and afterwards the outer mask is back."""
    below = Memory()
    lower = create(1, below)
    seen: list[int] = []

    def alloc_fn(gfp_mask: int, pool_data: None) -> Element | None:
        mempool_resize(lower, lower.min_nr + 1)
        seen.append(linux._mask_now.get())
        return mempool_alloc(lower, gfp_mask)

    upper = mempool_create(1, alloc_fn, mempool_free_to(lower), None)
    assert upper is not None
    below.log.clear()
    seen.clear()
    take(upper, GFP_ATOMIC)
    assert [mask for _, mask, _ in below.log] == [GFP_KERNEL, GFP_ATOMIC | ALWAYS]
    assert seen == [GFP_ATOMIC | ALWAYS]
    assert linux._mask_now.get() == GFP_KERNEL


def mempool_free_to(pool: Mempool[Element]) -> Callable[[Element, None], None]:
    return lambda element, data: mempool_free(element, pool)


def test_a_plain_pool_call_asks_with_all_flags() -> None:
    memory = Memory()
    pool = create(1, memory)
    with pool.lease() as element:
        assert memory.log[-1] == ("alloc", GFP_KERNEL, element.number)


def test_an_alloc_that_is_interrupted_leaves_nothing_behind() -> None:
    memory = Memory()
    pool = create(2, memory)

    class Interrupted(BaseException):
        pass

    class BrokenClock(LeapingClock):
        def park(self, wakes: SimpleQueue[None], seconds: float | None) -> None:
            raise Interrupted

    drain(pool)
    pool._clock = BrokenClock()
    memory.plan = [True, False, False, False]
    elems: list[Element | None] = [None, None]
    with pytest.raises(Interrupted):
        mempool_alloc_bulk(pool, elems)
    assert elems == [None, None]
    assert (pool.curr_nr, pool.stats().waiting, linux._mask_now.get()) == (1, 0, GFP_KERNEL)


def test_alloc_preallocated_never_asks_the_source() -> None:
    memory = Memory()
    pool = create(1, memory)
    assert mempool_alloc_preallocated(pool) == Element(1)
    assert mempool_alloc_preallocated(pool) is None
    assert len(memory.log) == 1


# -- bulk -----------------------------------------------------------------------------------------------------------


def test_alloc_bulk_fills_the_empty_places_only() -> None:
    memory = Memory()
    pool = create(4, memory)
    mine = take(pool)
    elems: list[Element | None] = [None, mine, None, None]
    memory.plan = [True, False]
    assert mempool_alloc_bulk(pool, elems, 3, 1) == 0
    assert elems == [Element(6), mine, Element(4), None]


def test_alloc_bulk_asks_again_before_it_takes_too_few_spares() -> None:
    """Two are missing and one is there: it stays there."""
    memory = Memory()
    pool = create(2, memory)
    mempool_alloc_preallocated(pool)
    memory.plan = [False, True, True]
    elems: list[Element | None] = [None, None]
    mempool_alloc_bulk(pool, elems)
    assert elems == [Element(3), Element(4)]
    assert pool.curr_nr == 1


def test_alloc_bulk_waits_until_all_are_there() -> None:
    memory = Memory()
    pool = create(3, memory)
    held = drain(pool)
    memory.plan = [False] * 10**6
    elems: list[Element | None] = [None] * 3
    waiter = threading.Thread(target=mempool_alloc_bulk, args=(pool, elems))
    waiter.start()
    wait_until(lambda: pool.stats().waiting == 1)
    for element in held:
        assert elems == [None] * 3
        mempool_free(element, pool)
    waiter.join()
    assert sorted(map(id, elems)) == sorted(map(id, held))


def test_alloc_bulk_of_nothing_asks_for_nothing() -> None:
    memory = Memory()
    pool = create(1, memory)
    mine = take(pool)
    elems: list[Element | None] = [mine]
    assert mempool_alloc_bulk(pool, elems[:0]) == mempool_alloc_bulk(pool, elems) == 0
    assert len(memory.log) == 2


def test_alloc_bulk_warns_of_more_than_the_pool_promises() -> None:
    pool = create(1)
    elems: list[Element | None] = [None, None]
    with pytest.warns(RuntimeWarning, match="2 at once, 1 promised"):
        mempool_alloc_bulk(pool, elems)
    assert None not in elems


@pytest.mark.parametrize(("count", "allocated"), [(3, 0), (-1, 0), (2, 1), (2, -1)])
def test_alloc_bulk_refuses_figures_that_do_not_fit_the_list(count: int, allocated: int) -> None:
    memory = Memory()
    pool = create(2, memory)
    elems: list[Element | None] = [None, None]
    with pytest.raises(ValueError, match="pool"):
        mempool_alloc_bulk(pool, elems, count, allocated)
    assert len(memory.log) == 2


def test_free_bulk_fills_what_is_short_and_leaves_the_rest_to_the_caller() -> None:
    memory = Memory()
    pool = create(2, memory)
    elems = [*drain(pool), take(pool)]
    assert mempool_free_bulk(pool, elems) == 2
    assert pool.curr_nr == 2
    assert mempool_free_bulk(pool, elems[2:], 1) == 0
    assert memory.log[-1][0] == "alloc"
    mempool_free(elems[2], pool)
    assert memory.log[-1] == ("free", 0, 3)


def test_free_bulk_refuses_more_than_there_are() -> None:
    pool = create(2)
    with pytest.raises(ValueError, match="pool"):
        mempool_free_bulk(pool, drain(pool), 3)


# -- free -----------------------------------------------------------------------------------------------------------


def test_free_fills_the_reserve_and_what_is_more_goes_to_the_source() -> None:
    memory = Memory()
    pool = create(1, memory)
    spare = mempool_alloc_preallocated(pool)
    more = take(pool)
    mempool_free(spare, pool)
    mempool_free(more, pool)
    assert pool.curr_nr == 1
    assert memory.log[-1] == ("free", 0, more.number)


def test_free_of_nothing_is_ignored() -> None:
    memory = Memory()
    pool = create(1, memory)
    mempool_free(None, pool)
    assert (pool.curr_nr, len(memory.log)) == (1, 1)


def test_freeing_twice_or_to_another_pool_is_refused() -> None:
    """The kernel would hand one element to two users."""
    pool, other = create(1), create(1)
    element = mempool_alloc_preallocated(pool)
    with pytest.raises(ForeignElement):
        mempool_free(element, other)
    mempool_free(element, pool)
    with pytest.raises(DoubleFree):
        mempool_free(element, pool)


# -- resize ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_min_nr", [0, -1])
def test_resize_to_nothing_is_refused(new_min_nr: int) -> None:
    memory = Memory()
    pool = create(2, memory)
    with pytest.raises(ValueError, match=f"not to {new_min_nr}"):
        mempool_resize(pool, new_min_nr)
    assert (pool.min_nr, pool.curr_nr, len(memory.log)) == (2, 2, 2)


@pytest.mark.parametrize("min_nr", [0, 2])
def test_resize_beyond_all_places_is_enomem_and_changes_nothing(min_nr: int) -> None:
    memory = Memory()
    pool = create(min_nr, memory)
    before = len(memory.log)
    assert mempool_resize(pool, 10**15) == -errno.ENOMEM
    assert (pool.min_nr, pool.curr_nr, len(memory.log)) == (min_nr, max(1, min_nr), before)
    mempool_free(take(pool), pool)
    assert mempool_resize(pool, 3) == 0


def test_resize_that_runs_out_of_elements_is_0_and_frees_fill_the_rest() -> None:
    memory = Memory()
    pool = create(1, memory)
    held = [take(pool) for _ in range(3)]
    memory.plan = [True, False]
    assert mempool_resize(pool, 4) == 0
    assert (pool.min_nr, pool.curr_nr, mempool_is_saturated(pool)) == (4, 2, False)
    assert not pool.guarantee().unfunded
    for element in held:
        mempool_free(element, pool)
    assert mempool_is_saturated(pool)
    assert memory.log[-1] == ("free", 0, held[2].number)


def test_resize_to_less_disposes_of_the_last_first() -> None:
    memory = Memory()
    pool = create(4, memory)
    assert mempool_resize(pool, 2) == 0
    assert memory.log[4:] == [("free", 0, 4), ("free", 0, 3)]
    assert (pool.min_nr, pool.curr_nr) == (2, 2)


def test_resize_to_the_same_fills_nothing() -> None:
    memory = Memory()
    pool = create(2, memory)
    mempool_alloc_preallocated(pool)
    assert mempool_resize(pool, 2) == 0
    assert (pool.curr_nr, len(memory.log)) == (1, 2)


def test_resize_whose_free_fn_runs_out_of_memory_does_not_say_that_nothing_has_changed() -> None:
    troubles = [MemoryError("no memory to free memory")]

    def free_fn(element: Element, pool_data: None) -> None:
        if troubles:
            raise troubles.pop()

    pool = mempool_create(3, Memory().alloc, free_fn, None)
    assert pool is not None
    with pytest.raises(MemoryError, match="to free memory"):
        mempool_resize(pool, 2)
    assert (pool.min_nr, pool.curr_nr) == (2, 2)


# -- ready-made pools -----------------------------------------------------------------------------------------------


def test_a_kmalloc_pool_gives_bytes_of_a_fixed_size() -> None:
    pool = mempool_create_kmalloc_pool(2, "1 KiB")
    assert pool is not None
    element = mempool_alloc(pool, GFP_KERNEL)
    assert element is not None
    assert (len(element), element.readonly, bytes(element)) == (1024, False, bytes(1024))
    element[:5] = b"hello"
    mempool_free(element, pool)
    mempool_destroy(pool)
    with pytest.raises(ValueError, match="released"):
        element[0]


def test_an_element_that_is_still_viewed_is_disposed_of_without_harm() -> None:
    pool = mempool_create_kmalloc_pool(1, 16)
    assert pool is not None
    element = mempool_alloc(pool, GFP_KERNEL)
    assert element is not None
    view = memoryview(element)
    mempool_free(element, pool)
    assert pool.stats().disposed == 1
    assert len(view) == 16


def test_a_slab_pool_gives_objects_of_its_cache() -> None:
    cache = KmemCache(192)
    pool = mempool_create_slab_pool(3, cache)
    assert pool is not None
    element = mempool_alloc(pool, GFP_KERNEL)
    assert element is not None
    assert len(element) == cache.size == 192
    assert repr(cache) == "KmemCache(192)"
    mempool_free(element, pool)
    assert pool.stats().disposed == 1


def test_a_cache_makes_and_takes_back_objects_by_itself() -> None:
    cache = KmemCache("4 KiB")
    element = cache.alloc(GFP_KERNEL)
    assert element is not None
    cache.free(element)
    with pytest.raises(ValueError, match="released"):
        len(element)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_page_pool_gives_two_to_the_order_pages_aligned(order: int) -> None:
    pool = mempool_create_page_pool(2, order)
    assert pool is not None
    element = mempool_alloc(pool, GFP_KERNEL)
    assert element is not None
    assert len(element) == mmap.PAGESIZE << order
    byte = ctypes.c_char.from_buffer(element)
    assert ctypes.addressof(byte) % mmap.PAGESIZE == 0
    del byte
    mempool_free(element, pool)
    mempool_destroy(pool)
    assert element.closed


@pytest.mark.parametrize("size", [0, -4, 1.5, "much"])
def test_what_is_no_size_is_refused(size: Any) -> None:
    for make in (KmemCache, lambda size: mempool_create_kmalloc_pool(1, size)):
        with pytest.raises((ValueError, TypeError), match="size"):
            make(size)


@pytest.mark.parametrize(("order", "error"), [(-1, ValueError), (0.5, TypeError), ("0", TypeError)])
def test_what_is_no_order_is_refused(order: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        mempool_create_page_pool(1, order)


@pytest.mark.parametrize("bytes_at_once", [1 << 60, 1 << 80])
def test_ready_made_pools_that_get_no_memory_are_none(bytes_at_once: int) -> None:
    assert mempool_create_kmalloc_pool(1, bytes_at_once) is None
    assert mempool_create_slab_pool(1, KmemCache(bytes_at_once)) is None
    assert mempool_create_page_pool(1, (bytes_at_once // mmap.PAGESIZE).bit_length() - 1) is None


@pytest.mark.parametrize(
    ("alloc_fn", "free_fn", "pool_data", "size"),
    [
        (linux.mempool_alloc_slab, linux.mempool_free_slab, KmemCache(32), 32),
        (linux.mempool_kmalloc, linux.mempool_kfree, 32, 32),
        (linux.mempool_alloc_pages, linux.mempool_free_pages, 1, 2 * mmap.PAGESIZE),
    ],
)
def test_what_the_ready_made_pools_call_may_be_given_to_create(
    alloc_fn: Any, free_fn: Any, pool_data: Any, size: int
) -> None:
    pool = mempool_create(2, alloc_fn, free_fn, pool_data)
    assert pool is not None
    element: Any = mempool_alloc(pool, GFP_KERNEL)
    assert len(element) == size
    mempool_free(element, pool)
    assert pool.stats().disposed == 1


# -- names ----------------------------------------------------------------------------------------------------------


def test_the_masks_are_composed_as_the_kernel_composes_them() -> None:
    high, fs, kswapd = linux.__GFP_HIGH, linux.__GFP_FS, linux.__GFP_KSWAPD_RECLAIM
    assert DIRECT_RECLAIM | kswapd == linux.__GFP_RECLAIM
    assert GFP_KERNEL == linux.__GFP_RECLAIM | IO | fs == 0xCC0
    assert GFP_KERNEL & ~fs == GFP_NOFS
    assert GFP_NOIO == GFP_NOFS & ~IO
    assert high | kswapd == GFP_ATOMIC
    assert kswapd | linux.__GFP_NOWARN == GFP_NOWAIT


def test_each_flag_is_a_bit_of_its_own() -> None:
    flags = [getattr(linux, name) for name in linux.__all__ if name.startswith("__GFP") and name != "__GFP_RECLAIM"]
    assert all(flag.bit_count() == 1 for flag in flags)
    assert len(set(flags)) == len(flags)


def test_all_of_the_kernels_names_are_there() -> None:
    """Those that begin with underscores too, which a star would otherwise leave out."""
    namespace: dict[str, object] = {}
    exec("from mempool.linux import *", namespace)
    assert {"__GFP_DIRECT_RECLAIM", "mempool_create", "GFP_KERNEL", "KmemCache"} <= namespace.keys()


@pytest.mark.parametrize("name", [name for name in linux.__all__ if name.startswith("mempool_")])
def test_a_kernel_name_says_which_kernel_function_it_is(name: str) -> None:
    assert f"Kernel: {name}" in (inspect.getdoc(getattr(linux, name)) or "")
