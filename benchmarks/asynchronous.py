"""One event loop, elements at hand: awaiting an element and giving it back, beside asyncio.Queue's get and put_nowait."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Iterator
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

from mempool import Pool

GROUP = "asynchronous"
TURNS = 2000
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
    for what, target in (("await alloc_async + free", Target(0.8)), ("async with pool.lease()", None), (QUEUE, None)):
        note = f"{in_words(min(seconds[what]))} : {in_words(min(seconds[QUEUE]))}"
        point = Point(what, 0.0, statistics.median(seconds[what]))
        yield row_of(GROUP, what, QUEUE, ratios(seconds, what, QUEUE), target=target, note=note, point=point)
