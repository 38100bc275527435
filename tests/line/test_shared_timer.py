"""One timer of a loop for all of its tasks that wait long: who is roused when, and that nobody is forgotten."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import mempool
from mempool import Pool, PoolTimeout, waiting
from mempool.testing import ManualClock, ScriptedSource, wait_until
from mempool.testing.contract.callers import TaskCallers
from mempool.waiting import LONG

SOON = 60
TASKS = 64


class SharingClock(ManualClock):
    """As the system's clock, one timer may do for many."""

    shares_timers = True


class HastyClock(SharingClock):
    """The loop's own time runs ahead of the pool's, as uvloop's does by up to a millisecond."""

    def call_later(self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], None]) -> Any:
        return super().call_later(loop, seconds - 0.001 if seconds > 0.005 else seconds, callback)


@pytest.fixture
def callers() -> Iterator[TaskCallers]:
    callers = TaskCallers(asyncio.new_event_loop)
    yield callers
    callers.close()


def emptied(clock: ManualClock, **options: Any) -> tuple[Pool[Any], Any]:
    """A pool at its limit, whose only element is out: nobody in its line asks for himself."""
    pool = clock.attach(Pool(ScriptedSource(), 1, limit=1, **options))
    return pool, pool.alloc()


def test_many_tasks_that_wait_long_share_one_timer(callers: TaskCallers) -> None:
    """And all of them are told when their time is up."""
    clock = SharingClock()
    pool, _element = emptied(clock, patience=None)
    waiting = [callers.call(pool, "alloc", timeout=5) for _ in range(TASKS)]
    wait_until(lambda: pool.stats().waiting == TASKS)
    clock.wait_until_parked(2)
    assert clock.parked == 2  # and one for the head of the line, which asks by itself
    clock.advance(5)
    assert {type(one.exception(SOON)) for one in waiting} == {PoolTimeout}
    assert pool.stats().waits_timed_out == TASKS


@pytest.mark.parametrize("make_clock", [SharingClock, HastyClock])
def test_each_is_roused_when_its_own_time_is_up(callers: TaskCallers, make_clock: Callable[[], ManualClock]) -> None:
    """Whoever came later and has less time is not kept waiting by those before; and those are not forgotten."""
    clock = make_clock()
    pool, element = emptied(clock, patience=None)
    head = callers.call(pool, "alloc")  # which asks by itself, and has its own timer for that
    clock.wait_until_parked(1)
    began, waiting = clock.now(), {}
    for seconds in (4, 3, 2):
        waiting[seconds] = callers.call(pool, "alloc", timeout=seconds)
        wait_until(lambda: pool.stats().waiting == 1 + len(waiting))
    for seconds, others in ((2, {3, 4}), (3, {4}), (4, set())):
        while not waiting[seconds].done():
            clock.advance(0.01)
            for _ in range(5):  # the ring, the rousing, the answer
                callers._run(asyncio.sleep(0)).result(SOON)
        assert isinstance(waiting[seconds].exception(SOON), PoolTimeout)
        assert clock.now() - began >= seconds
        assert {other for other, one in waiting.items() if not one.done()} == others
    pool.free(element)
    pool.free(head.result(SOON))


def test_who_waits_for_a_moment_has_a_timer_of_its_own(callers: TaskCallers) -> None:
    """It is to the point, and cancelled when it is not needed any more."""
    clock = SharingClock()
    pool, element = emptied(clock, patience=None)
    waiting = [callers.call(pool, "alloc", timeout=LONG / 2) for _ in range(3)]
    clock.wait_until_parked(3)
    pool.free(element)
    wait_until(lambda: clock.parked == 2)
    clock.advance(LONG / 2)
    assert sum(one.exception(SOON) is None for one in waiting) == 1


def test_who_was_served_is_not_kept(callers: TaskCallers) -> None:
    """The timer that is left rings for nobody, and is not set again."""
    clock = SharingClock()
    pool, element = emptied(clock, patience=None)
    waiting = [callers.call(pool, "alloc", timeout=5)]
    wait_until(lambda: pool.stats().waiting == 1)
    waiting.append(callers.call(pool, "alloc", timeout=5))
    clock.wait_until_parked(2)
    pool.free(element)
    pool.free(waiting[0].result(SOON))
    pool.free(waiting[1].result(SOON))
    assert clock.parked == 1
    clock.advance(5)
    assert clock.parked == 0


def test_a_wait_is_logged_when_patience_ends_by_the_shared_timer(
    callers: TaskCallers, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each who waits so long."""
    clock = SharingClock()
    pool, element = emptied(clock, patience=10)
    waiting = callers.call(pool, "alloc")
    clock.wait_until_parked(1)
    clock.advance(10)
    wait_until(lambda: "a caller has waited for 10 s" in caplog.text)
    pool.free(element)
    pool.free(waiting.result(SOON))
    assert len(caplog.records) == 1


def test_a_loop_is_not_kept_alive_by_its_timer() -> None:
    """When it is closed and dropped, it goes, although this thread ran it last."""
    loop = asyncio.new_event_loop()
    pool = Pool(ScriptedSource(), 1, limit=1)
    element = pool.alloc()

    async def wait_and_be_served() -> None:
        task = asyncio.ensure_future(pool.alloc_async())
        await asyncio.sleep(0)
        pool.free(element)
        pool.free(await task)

    loop.run_until_complete(wait_and_be_served())
    loop.close()
    seen = weakref.ref(loop)
    del loop
    gc.collect()
    assert seen() is None


@pytest.mark.skipif(mempool.IMPLEMENTATION == "compiled", reason="compiled, it is a function in C")
def test_each_loop_of_a_thread_has_a_timer_of_its_own() -> None:
    """The last one is kept at hand for all threads; it is another loop's, or that of another clock, as often as not."""
    clock, loops = SharingClock(), [asyncio.new_event_loop() for _ in range(2)]
    turns = [loops[0], loops[1], loops[0], loops[0]]
    assert [waiting.alarm_of(clock, loop).loop() for loop in turns] == turns
    assert waiting.alarm_of(SharingClock(), loops[0]) is not waiting.alarm_of(clock, loops[0])
    for loop in loops:
        loop.close()
