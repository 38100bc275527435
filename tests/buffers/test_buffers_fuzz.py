"""Any order of alloc, view, free and drop, whatever the size, alignment and level: nothing lost, shared or crashed."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sweeps import LONG

from mempool import Buffer, Buffers, DoubleFree, Pool, UseAfterFree
from mempool.sources import levels

np: Any = pytest.importorskip("numpy")

SIZES = [1, 2, 3, 63, 64, 65, 1000, 4095, 4096, 4097, 70_000, 2 << 20]
VIEWS = {
    "memoryview": lambda buffer: buffer[:],
    "slice": lambda buffer: buffer[: max(1, len(buffer) // 2)],
    "array": lambda buffer: buffer.array(),
    "dlpack": np.from_dlpack,
}


class Held:
    """A buffer that is out, what was written into it, and who looks at it."""

    def __init__(self, buffer: Buffer, stamp: int) -> None:
        self.buffer: Buffer | None = buffer
        self.address = buffer.address
        self.stamp = stamp
        self.views: list[Any] = []
        buffer[0] = buffer[-1] = stamp

    def look(self) -> None:
        """Nobody else has written here."""
        if self.buffer is not None:
            assert (self.buffer[0], self.buffer[-1]) == (self.stamp, self.stamp)
        for view in self.views:
            assert view[0] == self.stamp


class Users(RuleBasedStateMachine):
    """Users of one pool who do what they like, beside a list of what they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Held] = []
        self.dead: list[Buffer] = []
        self.stamps = 0
        self.pool: Pool[Buffer] | None = None

    @initialize(
        size=st.sampled_from(SIZES),
        align=st.sampled_from([None, 1, 64, 512, 8192]),
        level=st.sampled_from(["virtual", "backed", "resident"]),
        zero=st.sampled_from(["never", "free", "alloc"]),
        poison=st.booleans(),
        huge=st.booleans() if levels.transparent_huge_pages() not in {None, "never"} else st.just(False),
        track=st.sampled_from(["nothing", "identity", "holders"]),
        reserve=st.integers(0, 3),
    )
    def begin(self, size: int, align: int | None, track: str, reserve: int, **options: Any) -> None:
        self.align = align or 1
        self.size = size
        self.pool = Pool(Buffers(size, align=align, **options), reserve, track=track)

    @rule()
    def alloc(self) -> None:
        assert self.pool is not None
        self.hold(self.pool.alloc(timeout=0))

    @rule(n=st.integers(1, 4))
    def alloc_many(self, n: int) -> None:
        assert self.pool is not None
        for buffer in self.pool.alloc_many(n, timeout=0):
            self.hold(buffer)

    def hold(self, buffer: Buffer) -> None:
        assert len(buffer) == self.size
        assert buffer.address % self.align == 0
        self.stamps = self.stamps % 255 + 1
        self.held.append(Held(buffer, self.stamps))

    @precondition(lambda self: any(held.buffer for held in self.held))
    @rule(data=st.data(), kind=st.sampled_from(sorted(VIEWS)))
    def view(self, data: st.DataObject, kind: str) -> None:
        held = data.draw(st.sampled_from([held for held in self.held if held.buffer]))
        held.views.append(VIEWS[kind](held.buffer))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        """Works where nobody looks, and changes nothing where somebody does."""
        assert self.pool is not None
        held = data.draw(st.sampled_from(self.held))
        if held.buffer is None:
            return
        if held.views:
            with pytest.raises(BufferError):
                self.pool.free(held.buffer)
        else:
            self.pool.free(held.buffer)
            self.dead.append(held.buffer)
            self.held.remove(held)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """The handle, while the views stay."""
        held = data.draw(st.sampled_from(self.held))
        held.buffer = None
        if not held.views:
            self.held.remove(held)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def look_away(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.held))
        held.views.clear()
        gc.collect(0)
        if held.buffer is None:
            self.held.remove(held)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def become_garbage(self, data: st.DataObject) -> None:
        """Handle and views at the same moment, in a circle."""
        held = data.draw(st.sampled_from(self.held))
        self.held.remove(held)
        held.views.append(held)
        del held
        gc.collect()

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def use_what_is_dead(self, data: st.DataObject) -> None:
        assert self.pool is not None
        buffer = data.draw(st.sampled_from(self.dead))
        with pytest.raises(ValueError, match=r"freed|released"):
            buffer[:]
        with pytest.raises(UseAfterFree):
            buffer[0] = 1
        with pytest.raises(DoubleFree):
            self.pool.free(buffer)

    @rule(reserve=st.integers(0, 5))
    def resize(self, reserve: int) -> None:
        assert self.pool is not None
        self.pool.resize(reserve)

    @invariant()
    def nothing_is_lost_or_shared(self) -> None:
        if self.pool is None:
            return
        stats = self.pool.stats()
        assert stats.out == len(self.held)
        assert stats.made - stats.disposed == stats.spare + stats.out
        addresses = sorted(held.address for held in self.held)
        assert all(low + self.size <= high for low, high in itertools.pairwise(addresses))
        for held in self.held:
            held.look()

    def teardown(self) -> None:
        self.held.clear()
        gc.collect()
        if self.pool is not None:
            assert self.pool.stats().out == 0
            self.pool.close()
            assert self.pool.stats().made == self.pool.stats().disposed


TestUsers = pytest.mark.filterwarnings("ignore:.*a buffer was dropped:ResourceWarning")(Users.TestCase)
TestUsers.settings = settings(
    max_examples=20 if LONG else 10, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
