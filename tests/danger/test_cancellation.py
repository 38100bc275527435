"""Tasks that are cancelled, time out, or whose loop ends, at every point: no element is lost, nobody waits in vain."""

import asyncio
import contextlib
import gc
import inspect
import itertools
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable

import pytest
from books import assert_nothing_under_way

from mempool import Pool, PoolTimeout
from mempool.testing import Element, ManualClock, ScriptedSource, SourceBroken, Step, assert_books, wait_until

works, fails, raises, slow = Step
SOON = 60

Call = Callable[[Pool[Element]], Awaitable[object]]


async def alloc(pool: Pool[Element]) -> object:
    element = await pool.alloc_async()
    try:
        await asyncio.sleep(0)  # sleeps: one more point at which it can be cancelled
    finally:
        pool.free(element)
    return element


async def alloc_many(pool: Pool[Element]) -> object:
    elements = await pool.alloc_many_async(2)
    try:
        await asyncio.sleep(0)  # sleeps: as above
    finally:
        pool.free_many(elements)
    return elements


async def lease(pool: Pool[Element]) -> object:
    async with pool.lease() as element:
        await asyncio.sleep(0)  # sleeps: as above
    return element


calls = pytest.mark.parametrize("call", [alloc, alloc_many, lease])


def begin(reserve: int = 2) -> tuple[Pool[Element], ScriptedSource[Element]]:
    """A pool whose source is dry and whose clock stands still."""
    source = ScriptedSource()
    pool = ManualClock().attach(Pool(source, reserve))
    source.otherwise = fails
    return pool, source


def assert_reserve_can_be_had(pool: Pool[Element], source: ScriptedSource[Element]) -> None:
    """Everything is back, nobody waits, and the whole reserve can be had at once."""
    assert_books(pool, source)
    assert_nothing_under_way(pool)
    pool.free_many(pool.alloc_many(pool.min_nr, timeout=0))


async def turns(n: int) -> None:
    """Let the loop go round."""
    for _ in range(n):
        await asyncio.sleep(0)  # sleeps: one turn of the loop


@calls
@pytest.mark.parametrize("wait", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("more", [0, 1, 2, 3])
def test_a_task_cancelled_at_any_turn_loses_nothing(call: Call, wait: int, more: int) -> None:
    """Before it runs, in the line, between the offer and the resumption, with the element, after: at every turn."""
    pool, source = begin()

    async def main() -> None:
        held = await pool.alloc_many_async(2)
        task = asyncio.ensure_future(call(pool))
        behind = asyncio.ensure_future(call(pool))
        await turns(wait)
        pool.free_many(held)
        await turns(more)
        task.cancel()
        await asyncio.wait([task, behind], timeout=SOON)
        assert behind.done()
        assert behind.exception() is None

    asyncio.run(main())
    assert_reserve_can_be_had(pool, source)


@calls
def test_a_task_cancelled_between_the_offer_and_its_resumption_gives_it_to_the_next(call: Call) -> None:
    """The element was accepted for a task that is cancelled before it runs again: the next in line has it at once."""
    pool, source = begin()

    async def main() -> None:
        held = await pool.alloc_many_async(2)
        first, second = asyncio.ensure_future(call(pool)), asyncio.ensure_future(call(pool))
        await turns(2)
        assert pool.stats().waiting == 2
        pool.free_many(held)  # both are offered to the one, or one to each
        first.cancel()
        await asyncio.wait([first, second], timeout=SOON)
        assert first.cancelled()
        assert second.done()
        assert second.exception() is None

    asyncio.run(main())
    assert_reserve_can_be_had(pool, source)
    assert pool.stats().waits_cancelled + pool.stats().waits_served == 2


@pytest.mark.parametrize("call", ["alloc_async", "alloc_many_async", "lease", "lease_many", "drain_async"])
@pytest.mark.parametrize("offload", [False, True])
def test_what_a_task_that_waited_in_vain_had_dies_with_it_and_without_a_collection(call: str, offload: bool) -> None:
    """A task keeps the error by which it ended, with all frames of its traceback: none of them knows the task."""
    source = ScriptedSource()
    clock = ManualClock()
    pool = clock.attach(Pool(source, 2, limit=2, timeout=1, offload=offload))
    seen: list[weakref.ref[Witness]] = []

    async def caller() -> None:
        witness = Witness()
        seen.append(weakref.ref(witness))
        if call == "drain_async":
            await pool.drain_async()
        elif call.startswith("lease"):
            async with pool.lease() if call == "lease" else pool.lease_many(1):
                pass
        else:
            await (pool.alloc_async() if call == "alloc_async" else pool.alloc_many_async(1))

    async def main() -> None:
        held = pool.alloc_many(2)
        task = asyncio.create_task(caller())
        await turns(5)
        clock.wait_until_parked(1)
        clock.advance(1)
        await asyncio.wait([task])
        assert type(task.exception()) is PoolTimeout
        del task
        assert seen[0]() is None
        pool.free_many(held)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()
    assert_reserve_can_be_had(pool, source)


class Witness:
    """What a caller has in a local of its own."""


@calls
@pytest.mark.parametrize("ending", ["served at once", "served after a wait", "cancelled", "out of time"])
def test_what_a_coroutine_had_dies_with_it_and_without_a_collection(call: Call, ending: str) -> None:
    """The exceptions that end a wait, StopIteration too, are in no cycle with the pool's frames, which know its caller's."""
    source = ScriptedSource()
    clock = ManualClock()
    pool = clock.attach(Pool(source, 2, limit=2, timeout=1))
    seen: list[weakref.ref[Witness]] = []

    async def caller() -> None:
        witness = Witness()
        seen.append(weakref.ref(witness))
        await call(pool)

    async def main() -> None:
        held = [] if ending == "served at once" else pool.alloc_many(2)
        coroutine = caller()
        with contextlib.suppress(PoolTimeout, asyncio.CancelledError, StopIteration):
            coroutine.send(None)  # to where it waits, if it does
            assert pool.stats().waiting == bool(held)
            if ending == "cancelled":
                coroutine.throw(asyncio.CancelledError())
            if ending == "out of time":
                clock.advance(1)
            while held and ending == "served after a wait":
                pool.free(held.pop())
            while True:
                coroutine.send(None)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
        pool.free_many(held)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
        assert seen[0]() is None
    finally:
        gc.enable()
    assert_reserve_can_be_had(pool, source)


@calls
def test_asyncios_own_timeout_is_a_cancellation_like_any_other(call: Call) -> None:
    """asyncio.timeout around a call: TimeoutError for its task, nothing lost."""
    pool, source = begin()

    async def main() -> None:
        held = await pool.alloc_many_async(2)
        for seconds in (0, -1, 0.001):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(seconds):
                    await call(pool)
        assert pool.stats().waiting == 0
        pool.free_many(held)

    asyncio.run(main())
    assert_reserve_can_be_had(pool, source)


@calls
def test_a_group_that_fails_cancels_its_callers_in_the_line(call: Call) -> None:
    """One task of a TaskGroup fails while the others wait: they leave the line and take nothing with them."""
    pool, source = begin()

    async def five_and_one_that_fails(held: Element) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(call(pool))
            await turns(2)
            assert pool.stats().waiting == 5
            pool.free(held)
            raise KeyError

    async def main() -> None:
        held = await pool.alloc_many_async(2)
        with pytest.raises(ExceptionGroup):
            await five_and_one_that_fails(held[0])
        assert pool.stats().waiting == 0
        pool.free(held[1])

    asyncio.run(main())
    assert_reserve_can_be_had(pool, source)


def test_a_gatherer_that_is_cancelled_while_the_source_breaks_says_so() -> None:
    """What nobody wants of what it gathered is disposed of; if the source's free raises, its task hears of it."""
    pool, source = begin()
    source.then_free(raises)

    async def main() -> None:
        held = await pool.alloc_many_async(2)
        task = asyncio.ensure_future(pool.alloc_many_async(2))
        await turns(2)
        pool.free(held.pop())
        pool.resize(0)
        assert pool.stats().spare == 1
        task.cancel()
        with pytest.raises(SourceBroken):
            await task
        pool.free_many(held)

    asyncio.run(main())
    assert source.existing == []
    assert_reserve_can_be_had(pool, source)


def test_cancellation_storms_lose_nothing() -> None:
    """Hundreds of tasks on few elements, each cancelled after another number of turns, beside some that are not."""
    pool, source = begin(reserve=3)

    async def main() -> None:
        numbers = itertools.cycle([0, 1, 2, 3, 5, 8])
        steady = [asyncio.ensure_future(call(pool)) for call in [alloc, alloc_many, lease] * 20]
        for _ in range(300):
            task = asyncio.ensure_future(next(kinds)(pool))
            await turns(next(numbers))
            task.cancel()
        await asyncio.wait(steady, timeout=SOON)
        assert all(task.done() and task.exception() is None for task in steady)

    kinds = itertools.cycle([alloc, alloc_many, lease])
    asyncio.run(main())
    assert_reserve_can_be_had(pool, source)


def test_time_that_is_up_at_the_moment_of_the_offer_loses_nothing() -> None:
    """The deadline passes and an element is freed in the same turn: the caller has it or PoolTimeout."""
    pool, source = begin(reserve=1)
    clock = pool._clock
    assert isinstance(clock, ManualClock)

    async def main(free_first: bool) -> None:
        held = await pool.alloc_async()
        task = asyncio.ensure_future(pool.alloc_async(timeout=1))
        await turns(2)
        if free_first:
            pool.free(held)
        clock.advance(1)
        if not free_first:
            pool.free(held)
        try:
            pool.free(await asyncio.wait_for(task, SOON))
        except PoolTimeout:
            assert not free_first

    for free_first in (True, False):
        asyncio.run(main(free_first))
        assert_reserve_can_be_had(pool, source)


# -- loops that end


@pytest.fixture
def lost_loop() -> Callable[[Pool[Element], Call], list[asyncio.Task[object]]]:
    """Tasks that stand in the line while their loop is closed, uncancelled: what no program should do."""
    tasks: list[asyncio.Task[object]] = []

    def lose(pool: Pool[Element], call: Call) -> list[asyncio.Task[object]]:
        loop = asyncio.new_event_loop()

        async def line_up() -> None:
            for _ in range(2):
                task = asyncio.ensure_future(call(pool))
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                tasks.append(task)
            await turns(2)

        loop.run_until_complete(line_up())
        loop.close()
        return tasks

    return lose


@calls
@pytest.mark.parametrize("remembered", [True, False])
def test_a_loop_closed_while_its_tickets_wait_loses_their_places_and_no_element(
    lost_loop: Callable[[Pool[Element], Call], list[asyncio.Task[object]]], call: Call, remembered: bool
) -> None:
    """Elements freed after a loop was closed go to those behind its tickets, whether anybody remembers the tasks or not."""
    pool, source = begin()
    held = pool.alloc_many(2)
    tasks = lost_loop(pool, call)
    assert pool.stats().waiting == 2
    if not remembered:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tasks.clear()
            gc.collect()
    behind = threading.Thread(target=lambda: pool.free(pool.alloc()))
    behind.start()
    wait_until(lambda: pool.stats().waiting in (1, 3))
    pool.free_many(held)
    behind.join(SOON)
    assert not behind.is_alive()
    assert_reserve_can_be_had(pool, source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tasks cannot run their ends
        tasks.clear()
        gc.collect()
    assert_reserve_can_be_had(pool, source)


def test_a_gatherer_whose_loop_is_closed_does_not_hold_up_the_line(
    lost_loop: Callable[[Pool[Element], Call], list[asyncio.Task[object]]],
) -> None:
    """It has lost its place: the first element that is returned, too few for it, goes to the one behind it."""
    pool, source = begin()
    pool.resize(limit=2)  # so that nobody is told to ask the source, and finds out on the way
    held = pool.alloc_many(2)
    tasks = lost_loop(pool, alloc_many)
    taken: list[Element] = []
    behind = threading.Thread(target=lambda: taken.append(pool.alloc(timeout=None)), daemon=True)
    behind.start()
    wait_until(lambda: pool.stats().waiting == 3)
    pool.free(held.pop())
    behind.join(SOON)
    assert not behind.is_alive()
    pool.free_many([*held, *taken])
    tasks.clear()
    assert_reserve_can_be_had(pool, source)


def test_a_run_that_ends_cancels_its_callers_in_the_line() -> None:
    """asyncio.run ends while tasks wait: they are cancelled, and leave the line."""
    pool, source = begin()
    held = pool.alloc_many(2)

    async def main() -> None:
        tasks.extend(asyncio.ensure_future(call(pool)) for call in (alloc, alloc_many, lease))
        await turns(2)
        assert pool.stats().waiting == 3

    tasks: list[asyncio.Future[object]] = []
    asyncio.run(main())
    assert pool.stats().waiting == 0
    pool.free_many(held)
    assert_reserve_can_be_had(pool, source)
