"""One interrupt at a place that is known to be dangerous (test_interrupts.py tries all places): no element is lost by it."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import pytest

from mempool import IMPLEMENTATION, Buffers, Objects, Pool, UseAfterFree
from mempool._core import Decisions, Ends, Transfer
from mempool.local import returning
from mempool.local.returning import Returning
from mempool.testing import Element, ScriptedSource
from mempool.tracking import Holders


def interrupt_once(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] = KeyboardInterrupt
) -> None:
    """Let the next call of this function raise before it does anything. The one after that goes through."""
    function = getattr(owner, name)

    def interrupt(*_arguments: Any, **_options: Any) -> Any:
        monkeypatch.setattr(owner, name, function)
        raise error

    monkeypatch.setattr(owner, name, interrupt)


def test_a_buffer_that_is_viewed_when_an_interrupt_strikes_stays_its_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """It went to the free list with a handle that somebody knew, and to the next user."""
    views: list[memoryview] = []
    forget = Holders.forget

    def view_and_interrupt(_tracker: Holders, _elements: Any) -> Any:
        views.append(buffer[:])
        monkeypatch.setattr(Holders, "forget", forget)
        raise KeyboardInterrupt

    pool = Pool(Buffers(64), 1, limit=1, track="holders")
    buffer = pool.alloc()
    monkeypatch.setattr(Holders, "forget", view_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.free(buffer)
    assert (pool.stats().out, pool.stats().spare) == (1, 0)
    views.pop().release()
    pool.free(buffer)
    assert pool.stats().out == 0


@pytest.mark.parametrize("way", ["alloc_many", "lease"])
def test_what_a_failed_call_had_is_returned_although_an_interrupt_strikes(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two things are raised: what the source or the check raises, and in the midst of the way back the interrupt."""

    class Sour(Objects[Any]):
        left = 1

        def alloc(self) -> Any:
            if not self.left:
                raise OSError("the device is gone")
            self.left -= 1
            return super().alloc()

        def check(self, _element: Any) -> None:
            raise OSError("spoilt")

    pool: Pool[Any] = Pool(Sour(bytearray), 0, keep=4, limit=2)
    interrupt_once(Returning, "undo_call", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pool.alloc_many(2) if way == "alloc_many" else pool.lease().__enter__()
    assert (pool.stats().out, pool.stats().disposing) == (0, 0)


def test_a_lease_that_was_interrupted_twice_returns_what_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had not come to say that it holds something."""

    class Spoilt(Objects[Any]):
        def check(self, _element: Any) -> None:
            raise OSError("spoilt")

    pool: Pool[Any] = Pool(Spoilt(bytearray), 1)
    lease = pool.lease()
    interrupt_once(Returning, "undo_call", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        lease.__enter__()
    del lease
    assert (pool.stats().out, pool.stats().disposing) == (0, 0)


def test_an_interrupt_ends_a_disposal_which_can_be_done_again() -> None:
    source = ScriptedSource()
    pool = Pool(source, 200)
    interrupts = iter([KeyboardInterrupt])

    def free(element: Element) -> None:
        for interrupt in interrupts:
            raise interrupt
        ScriptedSource.free(source, element)

    source.free = free  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        pool.close()
    assert 0 < pool.stats().spare < 200
    pool.close()
    assert pool.stats().spare == 0


@pytest.mark.skipif(IMPLEMENTATION == "compiled", reason="compiled, the fast path has no such place")
def test_an_interrupt_before_a_handle_dies_does_not_spare_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The element is back by then, and the next user's."""
    pool = Pool(Buffers(64), 1)
    buffer = pool.alloc()
    interrupt_once(returning, "revoke", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pool.free(buffer)
    assert pool.stats().out == 0
    with pytest.raises((UseAfterFree, ValueError)):
        buffer[:]


@pytest.mark.skipif(IMPLEMENTATION == "compiled", reason="compiled, nothing can be put in the place of a decision")
def test_an_interrupt_after_the_reset_does_not_cost_the_element(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Objects(bytearray, reset=bytearray.clear), 0, keep=1)
    element = pool.alloc()
    interrupt_once(Decisions, "take_back", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pool.free(element)
    assert (pool.stats().spare, pool.stats().disposed) == (1, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_pool_whose_end_was_cut_short_is_closed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """By its finalizer, to which nobody comes back."""
    pool = Pool(ScriptedSource(), 2)
    gc.disable()  # or it might be the end of another test's pool
    try:
        interrupt_once(Pool, "close", monkeypatch, error)
        with pytest.raises(error):
            pool.__del__()
    finally:
        gc.enable()
    assert pool.stats().disposed == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("forget", [True, False])
def test_a_fill_whose_end_was_cut_short_is_over(error: type[BaseException], forget: bool) -> None:
    """Else the figures would tell for ever of what is being made. An interrupt is raised, a lack of memory is not."""

    class Struck(Decisions):
        times = 0

        def end_fill(self, fill: Transfer) -> None:
            Struck.times += 1
            if Struck.times == 1:
                raise error
            super().end_fill(fill)

    ends = Ends(Struck(False, False, False))
    fill = Transfer(0)
    ends.fills[fill] = 1
    ends.core.begin_fill(fill)
    assert ends.core.snapshot()["fills"] == 1
    with pytest.raises(KeyboardInterrupt) if error is KeyboardInterrupt else contextlib.nullcontext():
        ends.end_fill(fill, forget=forget)
    assert (ends.core.snapshot()["fills"], Struck.times) == (0, 2)
    assert list(ends.fills) == ([] if forget else [fill])
