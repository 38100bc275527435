"""Loops of every kind in one line with threads: asyncio, uvloop, trio; loops that are closed; exact order by design.

Beside this: test_one_line.py for the order under load, test_cancellation.py for tasks that leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import itertools
import os
import sys
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from books import assert_at_rest
from sweeps import LONG

from mempool import Objects, Pool, PoolTimeout
from mempool.testing import ScriptedSource, wait_until
from mempool.testing.contract.callers import TaskCallers

SOON = 60  # seconds
HANDOFFS = 800 if LONG else 200  # in each kind of loop; test_one_line.py has the ten thousand


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        return pytest.importorskip("uvloop").new_event_loop()
    return asyncio.new_event_loop()


kinds = pytest.mark.parametrize("kind", ["asyncio", "uvloop"])


@pytest.fixture(params=["asyncio", "uvloop"])
def loops(request: pytest.FixtureRequest) -> Iterator[list[asyncio.AbstractEventLoop]]:
    """Three, each in a thread of its own."""
    made = [TaskCallers(lambda: new_loop(request.param)) for _ in range(3)]
    yield [callers.loop for callers in made]
    for callers in made:
        callers.close()


def test_a_standing_line_of_threads_and_tasks_is_served_in_the_order_in_which_it_was_joined(
    loops: list[asyncio.AbstractEventLoop],
) -> None:
    """Eight threads and eight tasks of three loops join one at a time; each freed element goes to the longest there."""
    pool = Pool(ScriptedSource(), 1, limit=1)
    element = pool.alloc()
    served: deque[int] = deque()
    begins: list[deque[int]] = [deque() for _ in range(8)]
    told = [threading.Semaphore(0) for _ in range(8)]

    def in_thread(number: int) -> None:
        while told[number].acquire() and begins[number]:
            turn = begins[number].popleft()
            pool.alloc(timeout=SOON)
            served.append(turn)

    async def in_task(turn: int) -> None:
        await pool.alloc_async(timeout=SOON)
        served.append(turn)

    def join(turn: int) -> None:
        """Have the caller of this turn stand in the line: even turns are threads', odd ones tasks'."""
        before = pool.stats().waiting
        caller = turn // 2 % 8
        if turn % 2:
            asyncio.run_coroutine_threadsafe(in_task(turn), loops[caller % 3])
        else:
            begins[caller].append(turn)
            told[caller].release()
        wait_until(lambda: pool.stats().waiting == before + 1)

    threads = [threading.Thread(target=in_thread, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(16):
            join(turn)
        for turn in range(HANDOFFS):
            pool.free(element)
            wait_until(lambda turn=turn: len(served) == turn + 1)
            assert served[-1] == turn
            if turn + 16 < HANDOFFS:
                join(turn + 16)
    finally:
        for semaphore in told:
            semaphore.release()
        for thread in threads:
            thread.join(SOON)
    assert list(served) == list(range(HANDOFFS))
    pool.free(element)
    assert_at_rest(pool)


# -- loops that are closed


def abandon(kind: str, call: Callable[[], Coroutine[Any, Any, object]], tasks: int) -> list[asyncio.Task[object]]:
    """So many tasks that call and wait, in a loop that is closed with them."""
    loop = new_loop(kind)
    abandoned: list[asyncio.Task[object]] = []

    async def main() -> None:
        for _ in range(tasks):
            task = loop.create_task(call())
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            abandoned.append(task)
        await asyncio.sleep(0)  # sleeps: each has its turn, and waits

    loop.run_until_complete(main())
    loop.close()
    return abandoned


@kinds
def test_two_thousand_tickets_of_a_closed_loop_lose_their_places_and_no_element(kind: str) -> None:
    """One free finds them all gone, one after another, without a stack as deep, and serves the thread behind them."""
    pool = Pool(Objects(bytearray), 1, limit=1)
    element = pool.alloc()
    abandoned = abandon(kind, pool.alloc_async, 2000)
    assert pool.stats().waiting == 2000
    behind = threading.Thread(target=lambda: pool.free(pool.alloc(timeout=SOON)))
    behind.start()
    wait_until(lambda: pool.stats().waiting == 2001)
    pool.free(element)
    behind.join(SOON)
    assert not behind.is_alive()
    assert_at_rest(pool)
    end(abandoned)
    assert_at_rest(pool)


@kinds
def test_a_loop_that_is_closed_between_the_offer_and_the_resumption_gives_the_element_back(kind: str) -> None:
    """The task was served and never ran again: its element is returned with the task, at the latest."""
    pool = Pool(Objects(bytearray), 1, limit=1)
    element = pool.alloc()
    loop = new_loop(kind)
    tasks: list[asyncio.Task[object]] = []

    async def main() -> None:
        tasks.append(loop.create_task(pool.alloc_async()))
        tasks[0]._log_destroy_pending = False  # type: ignore[attr-defined]
        await asyncio.sleep(0)  # sleeps: it waits
        assert pool.stats().waiting == 1

    loop.run_until_complete(main())
    pool.free(element)  # accepted for a task that runs no more
    assert (pool.stats().waiting, pool.stats().out) == (0, 1)
    loop.close()
    end(tasks)
    assert_at_rest(pool)


def end(tasks: list[asyncio.Task[object]]) -> None:
    """Forget tasks whose loop is closed, which Python complains about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tasks.clear()
        gc.collect()


# -- every point at which a task can be cancelled


async def alloc(pool: Pool[Any]) -> None:
    pool.free(await pool.alloc_async())


async def lease(pool: Pool[Any]) -> None:
    async with pool.lease():
        await asyncio.sleep(0)  # sleeps: one more point


async def alloc_many(pool: Pool[Any]) -> None:
    pool.free_many(await pool.alloc_many_async(2))


@kinds
@pytest.mark.parametrize("call", [alloc, lease, alloc_many])
def test_a_task_may_be_cancelled_or_run_out_of_time_at_every_turn_of_its_loop(
    kind: str, call: Callable[[Pool[Any]], Coroutine[Any, Any, None]]
) -> None:
    """Before and after the offer, at once after it, by cancel or asyncio.timeout, with callers behind that are served."""
    pool = Pool(Objects(bytearray), 2, limit=2)

    async def timed() -> None:
        async with asyncio.timeout(0.0002):
            await call(pool)

    async def main(before: int, after: int, by_timeout: bool) -> None:
        held = await pool.alloc_many_async(2)
        task = asyncio.ensure_future(timed() if by_timeout else call(pool))
        behind = [asyncio.ensure_future(call(pool)) for _ in range(2)]
        for _ in range(before):
            await asyncio.sleep(0)  # sleeps: one turn
        pool.free_many(held)
        for _ in range(after):
            await asyncio.sleep(0)  # sleeps: one turn
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            await task
        await asyncio.wait_for(asyncio.gather(*behind), SOON)

    loop = new_loop(kind)
    try:
        for before, after, by_timeout in itertools.product(range(4), range(4), (False, True)):
            loop.run_until_complete(main(before, after, by_timeout))
            assert_at_rest(pool)
    finally:
        loop.close()


# -- trio


def test_a_task_of_trio_lives_by_trios_clock_and_stands_in_the_same_line() -> None:
    """Timeouts in virtual time; a thread serves it and it serves a thread; a cancelled one takes nothing with it."""
    trio = pytest.importorskip("trio")
    testing = pytest.importorskip("trio.testing")
    pool = Pool(ScriptedSource(), 1, limit=1, patience=None)

    async def times_out() -> None:
        element = await pool.alloc_async()
        began = trio.current_time()
        with pytest.raises(PoolTimeout):
            await pool.alloc_async(timeout=1000)
        assert trio.current_time() - began == pytest.approx(1000)
        with trio.move_on_after(50) as scope:
            await pool.alloc_many_async(1)
        assert scope.cancelled_caught
        assert pool.stats().waiting == 0
        pool.free(element)

    trio.run(times_out, clock=testing.MockClock(autojump_threshold=0))
    assert_at_rest(pool)

    async def takes_turns() -> None:
        for _ in range(20):
            element = await pool.alloc_async()
            thread = threading.Thread(target=lambda: pool.free(pool.alloc(timeout=SOON)))
            thread.start()
            wait_until(lambda: pool.stats().waiting == 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(alloc_in_trio)
                nursery.start_soon(alloc_in_trio)
                await testing.wait_all_tasks_blocked()
                nursery.start_soon(cancelled_in_trio)
                await testing.wait_all_tasks_blocked()
                pool.free(element)
            thread.join(SOON)

    async def alloc_in_trio() -> None:
        async with pool.lease():
            await trio.lowlevel.checkpoint()

    async def cancelled_in_trio() -> None:
        with trio.move_on_after(0):
            await alloc_in_trio()

    trio.run(takes_turns)
    assert_at_rest(pool)


def test_a_run_of_trio_that_ends_between_the_offer_and_the_resumption_gives_the_element_back() -> None:
    """An offer to a task whose run is cancelled in the same turn."""
    trio = pytest.importorskip("trio")
    testing = pytest.importorskip("trio.testing")
    pool = Pool(ScriptedSource(), 1, limit=1)

    async def take_and_free() -> None:
        pool.free(await pool.alloc_async())

    async def main(free_first: bool) -> None:
        element = await pool.alloc_async()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_and_free)
            await testing.wait_all_tasks_blocked()
            if free_first:
                pool.free(element)
            nursery.cancel_scope.cancel()
            if not free_first:
                pool.free(element)

    for free_first in (True, False):
        trio.run(main, free_first)
        assert_at_rest(pool)


# -- no loop at all


def test_an_asynchronous_call_outside_of_any_loop_says_so() -> None:
    """Awaited by hand, when it would have to wait."""
    pool = Pool(Objects(bytearray), 1, limit=1)
    held = pool.alloc()
    with pytest.raises(RuntimeError, match="no event loop of asyncio or trio is running here"):
        pool.alloc_async().send(None)
    pool.free(held)
    assert_at_rest(pool)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there a forked child goes on in its parent's loop")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    "forked_by",
    [
        "Python",
        pytest.param(
            "C code",
            marks=pytest.mark.skipif(
                sys.version_info >= (3, 12), reason="from CPython 3.12 on, asyncio itself does not notice a fork by C code"
            ),
        ),
    ],
)
def test_the_child_of_a_fork_runs_in_no_loop(forked_by: str) -> None:
    """As asyncio has it: a task that forks would wait in the child for a loop that runs in the parent."""
    fork = os.fork if forked_by == "Python" else ctypes.PyDLL(None).fork
    pool = Pool(ScriptedSource(), 1, limit=1, name="forked")

    async def main() -> int:
        pool.free(await pool.alloc_async())
        element = pool.alloc()
        here = asyncio.create_task(pool.alloc_async())  # this one waits, so the loop is known by now
        await asyncio.sleep(0)
        assert pool.stats().waiting == 1
        child: int = fork()
        if child == 0:
            try:
                pool.alloc_async().send(None)
            except RuntimeError as refused:
                os._exit(0 if "no event loop" in str(refused) else 2)
            finally:
                os._exit(1)
        pool.free(element)
        pool.free(await here)
        return child

    child = asyncio.run(main())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert_at_rest(pool)


def test_a_loop_that_has_ended_is_kept_by_nothing() -> None:
    """What is known of the loop that runs is looked up each time, and not kept."""

    async def main() -> Callable[[], object]:
        pool = Pool(ScriptedSource(), 1, limit=1)
        element = pool.alloc()
        waiting = asyncio.create_task(pool.alloc_async())
        await asyncio.sleep(0)
        pool.free(element)
        pool.free(await waiting)
        pool.close()
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(main())
    gc.collect()
    assert loop() is None
