"""Waiting by the system's clock: that it ends, and that no number of seconds is too large. All else is tested by hand."""

import threading
import time
from collections.abc import Iterator

import pytest

from mempool import Pool, PoolTimeout
from mempool.testing import Element, ScriptedSource, Step
from mempool.testing.contract.callers import KINDS, Callers, ThreadCallers, in_line

SOON = 60

FOR_EVER = [float("inf"), 1e300, 1e10, None]


@pytest.fixture(params=KINDS)
def callers(request: pytest.FixtureRequest) -> Iterator[Callers]:
    callers = KINDS[request.param]()
    yield callers
    callers.close()


@pytest.fixture
def pool() -> Iterator[Pool[Element]]:
    with Pool(ScriptedSource(), 1, limit=1, patience=None) as pool:
        yield pool


def test_time_passes(pool: Pool[Element], callers: Callers) -> None:
    """A timeout of the system's clock is up, not before its time."""
    element = pool.alloc()
    began = time.monotonic()
    error = callers.call(pool, "alloc", timeout=0.05).exception(SOON)
    assert isinstance(error, PoolTimeout)
    assert time.monotonic() - began >= 0.05
    with pytest.raises(PoolTimeout):
        pool.drain(timeout=0.01)
    pool.free(element)


def test_the_head_asks_again_as_time_passes(callers: Callers) -> None:
    """A source that recovers without any change serves the head within moments."""
    source: ScriptedSource[Element] = ScriptedSource()
    pool = Pool(source, 0)
    source.then(Step.FAILS)
    pool.free(callers.call(pool, "alloc").result(SOON))
    assert source.alloc_calls == 2


@pytest.mark.parametrize("seconds", FOR_EVER)
def test_no_timeout_is_too_long(
    pool: Pool[Element], callers: Callers, seconds: float | None, request: pytest.FixtureRequest
) -> None:
    """Any number of seconds is a timeout: for the head of the line, and for those behind it who have nothing else to do."""
    element = pool.alloc()
    waiters = [in_line(pool, lambda: callers.call(pool, "alloc", timeout=seconds)) for _ in range(3)]
    for waiter in waiters:
        pool.free(element)
        assert waiter.result(SOON) is element
    pool.free(element)


@pytest.mark.parametrize("seconds", FOR_EVER)
def test_no_drain_is_too_long(pool: Pool[Element], seconds: float | None) -> None:
    """The same for drain."""
    element, ended = pool.alloc(), threading.Event()
    draining = ThreadCallers().call(pool, "drain", timeout=seconds)
    draining.add_done_callback(lambda _: ended.set())
    assert not ended.wait(0.05)  # it waits, and has not raised
    pool.free(element)
    draining.result(SOON)
