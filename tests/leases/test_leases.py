"""Leases that are released twice, interrupted, lost, or looked at while they wait."""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from typing import Any

import pytest
from callers import SOON, Caller

import mempool
from mempool import Buffers, DoubleFree, Objects, Pool, dropped
from mempool.testing import ScriptedSource, Step, wait_until


def test_a_lease_whose_element_was_lost_on_its_way_back_is_released() -> None:
    def fails(_element: object) -> None:
        raise RuntimeError("the reset fails")

    pool = Pool(Objects(bytearray, reset=fails), 1)
    lease = pool.lease()
    assert lease.element is not None
    with pytest.raises(RuntimeError, match="the reset fails"):
        lease.release()
    for access in (lease.release, lambda: lease.element):
        with pytest.raises(DoubleFree, match="was released already"):
            access()
    assert pool.stats().out == 0


def test_a_lease_that_waits_has_nothing_for_another_caller() -> None:
    pool = Pool(Objects(bytearray), 1, limit=1)
    element = pool.alloc()
    lease = pool.lease()
    anna = Caller("anna")
    waiting = anna.does(lambda: lease.element)
    wait_until(lambda: pool.stats().waiting == 1)
    for access in (lease.release, lambda: lease.element):
        with pytest.raises(DoubleFree, match="waits for its element"):
            access()
    pool.free(element)
    assert waiting.result(SOON) is lease.element is element
    lease.release()
    anna.ends()
    assert pool.stats().spare == 1


def test_of_two_who_release_one_lease_the_second_is_told() -> None:
    """The first is still resetting the element, which nobody may have before."""
    entered, may_go = threading.Event(), threading.Event()

    def reset(_element: object) -> None:
        entered.set()
        assert may_go.wait(SOON)

    pool = Pool(Objects(bytearray, reset=reset), 1, limit=1)
    lease = pool.lease()
    assert lease.element is not None
    anna = Caller("anna")
    releasing = anna.does(lease.release)
    assert entered.wait(SOON)
    for access in (lease.release, lambda: lease.element):
        with pytest.raises(DoubleFree, match="is being released"):
            access()
    assert pool.try_alloc() is None
    may_go.set()
    assert releasing.result(SOON) is None
    with pytest.raises(DoubleFree, match="was released already"):
        lease.release()
    assert pool.stats().spare == 1
    anna.ends()


def test_a_lease_that_could_not_be_released_can_be_released_again() -> None:
    pool = Pool(Buffers(64), 1)
    lease = pool.lease()
    view = lease.element[:]
    with pytest.raises(BufferError):
        lease.release()
    assert len(lease.element) == 64
    view.release()
    lease.release()
    assert pool.stats().out == 0


@pytest.mark.skipif(mempool.IMPLEMENTATION == "compiled", reason="compiled, no interrupt strikes there")
def test_a_lease_that_was_interrupted_when_all_was_done_has_nothing_left() -> None:
    """Its element is back, and only its own state does not know yet."""
    lease: Any = Pool(Objects(bytearray), 1).lease()
    assert lease.element is not None
    held = lease.state
    lease.release()
    lease.state = held
    for access in (lease.release, lambda: lease.element):
        with pytest.raises(DoubleFree, match="was released already"):
            access()


@pytest.mark.skipif(mempool.IMPLEMENTATION == "compiled", reason="compiled, no interrupt strikes there")
def test_who_was_interrupted_in_the_midst_of_a_release_may_go_on() -> None:
    """The lease names its releaser before its state says that it is being released."""
    pool = Pool(Objects(object), 1)
    lease = pool.lease()
    lease.__enter__()
    assert lease._claim("releaser", threading.get_ident())  # and here the signal's handler raises
    lease.release()
    assert pool.stats().out == 0


@pytest.mark.skipif(mempool.IMPLEMENTATION == "compiled", reason="compiled, nobody comes in between")
def test_who_comes_between_anothers_claim_and_its_release_is_told() -> None:
    pool = Pool(Objects(object), 1)
    lease = pool.lease()
    lease.__enter__()
    anna = Caller("Anna")
    assert anna.does(lambda: lease._claim("releaser", threading.get_ident())).result(SOON)
    with pytest.raises(DoubleFree, match="is being released"):
        lease.release()
    anna.does(lease.release).result(SOON)
    assert pool.stats().out == 0
    anna.ends()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_lease_that_left_its_buffer_to_the_views_was_released() -> None:
    pool = Pool(Buffers(64), 1)
    lease = pool.lease()
    views = []
    with contextlib.suppress(KeyError), lease as buffer:
        views.append(buffer[:])
        raise KeyError
    with pytest.raises(DoubleFree, match="was released already"):
        lease.release()
    del buffer
    views.pop().release()
    assert pool.stats().out == 0


def test_a_lease_says_why_it_cannot_be_released() -> None:
    lease = Pool(Objects(object), 1).lease()
    with pytest.raises(RuntimeError, match="this lease never took an element"):
        lease.release()
    assert lease.element is not None
    lease.release()
    with pytest.raises(DoubleFree, match="this lease was released already"):
        lease.release()


def test_a_lease_that_was_never_served_has_nothing_to_say_when_it_is_dropped() -> None:
    pool = Pool(ScriptedSource(otherwise=Step.FAILS), 0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        lease: Any = pool.lease()
        assert not lease._use_warm()
        lease._make_ticket()
        del lease
    assert said == []


def test_what_is_dropped_where_no_python_runs_is_told_at_a_line_that_exists() -> None:
    """As the last thing of a thread: there is nothing to point to, and where memory lacks CPython crashes."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        dropped.warn("dropped", 10_000)
    assert [warning.filename for warning in told] == [dropped.__file__]


def test_many_leases_that_were_returned_before_an_interrupt_are_not_returned_again() -> None:
    """It struck between the pool's having them and the lease's knowing: whoever drops the lease then, drops nothing."""
    pool = Pool(Objects(bytearray), 2)
    lease = pool.lease_many(2)
    lease.__enter__()
    pool._engine.give(lease._ticket)  # type: ignore[attr-defined]
    unraisable: list[Any] = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(sys, "unraisablehook", unraisable.append)
        del lease
    assert unraisable == []
    assert (pool.stats().out, pool.stats().spare) == (0, 4)  # two for the lease, and the reserve of two
