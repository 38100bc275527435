"""One event loop: awaiting an element and giving it back, beside asyncio.Queue's get and put_nowait.

First with elements at hand. Then 64 tasks share 4, and each gives the loop a turn while it holds one: what is compared is a
turn, beside an asyncio.Semaphore's and a Queue's.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from itertools import repeat
from time import perf_counter
from typing import Any

from mempool.benchmarks.measure import (
    ROUNDS,
    ROUNDS_QUICK,
    SLICES,
    SLICES_QUICK,
    Point,
    Row,
    Target,
    in_rounds,
    in_words,
    ratios,
    row_of,
)
from mempool.benchmarks.uncontended import RESERVE, warm

from mempool import Objects, Pool

GROUP = "asynchronous"
TURNS = 2000
TASKS, SHARED = 64, 4
QUEUE = "await asyncio.Queue.get + put_nowait"


async def pairs(take: Callable[[], Awaitable[Any]], give: Callable[[Any], object]) -> float:
    began = perf_counter()
    for _ in repeat(None, TURNS):
        give(await take())
    return (perf_counter() - began) / TURNS


async def leases(pool: Pool[object]) -> float:
    lease = pool.lease
    began = perf_counter()
    for _ in repeat(None, TURNS):
        async with lease():
            pass
    return (perf_counter() - began) / TURNS


async def queued() -> asyncio.Queue[object]:
    queue: asyncio.Queue[object] = asyncio.Queue()
    for _ in range(2 * RESERVE):
        queue.put_nowait(object())
    return queue


async def turns(enter: Callable[[], AbstractAsyncContextManager[Any]]) -> float:
    """Seconds a turn."""

    async def work() -> None:
        for _ in repeat(None, TURNS // TASKS):
            async with enter():
                await asyncio.sleep(0)

    began = perf_counter()
    await asyncio.gather(*[work() for _ in range(TASKS)])
    return (perf_counter() - began) / (TURNS // TASKS * TASKS)


async def turns_of_queue() -> float:
    """The same with a queue of as many elements."""
    queue: asyncio.Queue[object] = asyncio.Queue()
    for _ in range(SHARED):
        queue.put_nowait(object())

    async def work() -> None:
        for _ in repeat(None, TURNS // TASKS):
            element = await queue.get()
            try:
                await asyncio.sleep(0)
            finally:
                queue.put_nowait(element)

    began = perf_counter()
    await asyncio.gather(*[work() for _ in range(TASKS)])
    return (perf_counter() - began) / (TURNS // TASKS * TASKS)


async def turns_of_semaphore() -> float:
    """The same with a semaphore, which belongs to the loop it is first waited for in."""
    semaphore = asyncio.Semaphore(SHARED)
    return await turns(lambda: semaphore)


async def turns_of_pool() -> float:
    """The same with a pool at its limit."""
    return await turns(Pool(Objects(object), SHARED, keep=SHARED, limit=SHARED).lease)


def contended(*, quick: bool) -> Iterator[Row]:
    slices = SLICES_QUICK if quick else SLICES
    ways = {"async with pool.lease()": turns_of_pool, "Semaphore": turns_of_semaphore, "Queue": turns_of_queue}
    with asyncio.Runner() as runner:

        def least(way: Callable[[], Any]) -> Callable[[], float]:
            return lambda: min(runner.run(way()) for _ in range(slices))

        seconds = in_rounds({name: least(way) for name, way in ways.items()}, ROUNDS_QUICK if quick else ROUNDS)
    ours, *others = ways
    for other, target in zip(others, (Target(1.2), None), strict=True):
        note = f"{in_words(min(seconds[ours]))} : {in_words(min(seconds[other]))}"
        what = f"{TASKS} tasks share {SHARED}, {ours}: a turn"
        yield row_of(GROUP, what, f"asyncio.{other}", ratios(seconds, ours, other), target=target, note=note)


def run(*, quick: bool) -> Iterator[Row]:
    pool, slices = warm("identity"), SLICES_QUICK if quick else SLICES
    with asyncio.Runner() as runner:
        queue = runner.run(queued())

        def least(measured: Callable[[], Any]) -> Callable[[], float]:
            return lambda: min(runner.run(measured()) for _ in range(slices))

        seconds = in_rounds(
            {
                QUEUE: least(lambda: pairs(queue.get, queue.put_nowait)),
                "await alloc_async + free": least(lambda: pairs(pool.alloc_async, pool.free)),
                "async with pool.lease()": least(lambda: leases(pool)),
            },
            ROUNDS_QUICK if quick else ROUNDS,
        )
    for what, target in (("await alloc_async + free", Target(0.4)), ("async with pool.lease()", Target(0.6)), (QUEUE, None)):
        note = f"{in_words(min(seconds[what]))} : {in_words(min(seconds[QUEUE]))}"
        point = Point(what, 0.0, statistics.median(seconds[what]))
        yield row_of(GROUP, what, QUEUE, ratios(seconds, what, QUEUE), target=target, note=note, point=point)
    yield from contended(quick=quick)
