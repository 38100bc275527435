"""The cost of a call as the pool grows: 1 to 10^6 spares, 1 to 10^6 elements out, 1 to 10^4 callers in line.

Each figure is the cost at that size as a multiple of the cost at the smallest. A call that searches nothing costs the same
at every size, but for the processor's caches: what was not touched for long is read from memory.

The line is one of tasks, because a machine has no ten thousand threads: each takes the one element, gives it to the next,
and lines up again. asyncio.Semaphore does the same beside it (asyncio.Queue does not: whoever has just put an element may
take it again, past everybody who waits). When one of its waiters is cancelled, it searches its line. A place in the pool's
line costs several times as much: each has a timer of the loop (its deadline, the question to the source, or the log's
patience), may be woken by other threads, and is counted.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import random
import statistics
from collections.abc import Awaitable, Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

from mempool.benchmarks.measure import ROUNDS_LONG, Contestant, Point, Row, in_rounds, in_words, ratios, row_of, slices_of

from mempool import Objects, Pool

GROUP = "growth"
SIZES, SIZES_QUICK = (1, 10, 100, 10**3, 10**4, 10**5, 10**6), (1, 10**4)
CALLERS, CALLERS_QUICK = (1, 10, 100, 10**3, 10**4), (1, 10**3)
HANDOFFS, HANDOFFS_QUICK = 20_000, 4_000
#: Callers that leave, in as many lines as it takes.
LEAVING, LEAVING_QUICK = 10_000, 1_000
ROUNDS_FEW = 3
SEMAPHORE = "asyncio.Semaphore"
#: More than a cache line of pointers, so that the free list and the table of outstanding elements are really walked on.
SEVERAL = 100


def with_spares(spares: int) -> Pool[object]:
    """A pool with so many spares, none of which is reserved."""
    pool = Pool(Objects(object), spares)
    pool.resize(0, keep=spares)
    return pool


def with_out(out: int) -> tuple[Pool[object], list[object]]:
    """A pool of which so many are out, and a few spares beyond."""
    pool = Pool(Objects(object), out + SEVERAL)
    pool.resize(0, keep=out + SEVERAL)
    return pool, pool.alloc_many(out)


def calls(*, quick: bool) -> Iterator[Row]:
    """Taking and giving back, by the number of spares and by the number out."""
    sizes = SIZES_QUICK if quick else SIZES
    contestants: dict[str, Contestant] = {}
    users = []
    for size in sizes:
        pool = with_spares(size)
        contestants[f"spares {size}"] = slices_of("give(take())", quick=quick, take=pool.alloc, give=pool.free)
        lending, theirs = with_out(size)
        users.append(theirs)
        one = slices_of("give(take())", quick=quick, take=lending.alloc, give=lending.free)
        contestants[f"out {size}"] = one
        contestants[f"several {size}"] = several_at_once(lending)
    seconds = in_rounds(contestants, ROUNDS_LONG)
    for key, what in (
        ("spares", "alloc + free, {} spare"),
        ("out", "alloc + free, {} out"),
        ("several", f"{SEVERAL} x alloc, then {SEVERAL} x free, " + "{} out"),
    ):
        series = what.removesuffix(", {} spare").removesuffix(", {} out") + (
            ", by spares" if key == "spares" else ", by out"
        )
        yield from curve(seconds, key, sizes, what, Point(series, 0.0, 0.0, "spares, or elements out"))


def several_at_once(pool: Pool[object]) -> Contestant:
    """A hundred taken, then a hundred given back, the oldest first: seconds per pair."""
    alloc, free = pool.alloc, pool.free

    def measure() -> float:
        best = float("inf")
        for _ in range(20):
            began = perf_counter()
            taken = [alloc() for _ in range(SEVERAL)]
            for element in taken:
                free(element)
            best = min(best, perf_counter() - began)
        return best / SEVERAL

    return measure


def curve(seconds: dict[str, list[float]], key: str, sizes: Sequence[int], what: str, at: Point) -> Iterator[Row]:
    """A row per size. at: which series and panel the points belong to."""
    first = f"{key} {sizes[0]}"
    for size in sizes:
        name = f"{key} {size}"
        median = statistics.median(seconds[name])
        point = dataclasses.replace(at, x=size, y=median)
        figures = ratios(seconds, name, first)
        yield row_of(GROUP, what.format(f"{size:,}"), f"at {sizes[0]}", figures, note=in_words(median), point=point)


# -- the line


async def handed_on(take: Callable[[], Awaitable[Any]], give: Callable[[Any], object], callers: int, times: int) -> float:
    """Seconds per hand-off while so many stand in line."""
    left = times + callers
    began = 0.0

    async def call() -> None:
        nonlocal left, began
        while left > 0:
            element = await take()
            left -= 1
            if left == times:
                began = perf_counter()  # by now everybody has lined up once
            give(element)

    element = await take()
    tasks = [asyncio.create_task(call()) for _ in range(callers + 1)]
    await asyncio.sleep(0)  # all line up
    give(element)
    await asyncio.gather(*tasks)
    return (perf_counter() - began) / times


async def cancelled(take: Callable[[], Awaitable[Any]], give: Callable[[Any], object], callers: int, leaving: int) -> float:
    """Seconds per caller that leaves the line, in no order."""
    element = await take()
    shuffle, lasted, lines = random.Random(callers).shuffle, 0.0, max(1, leaving // callers)
    for _ in range(lines):
        tasks = [asyncio.create_task(take_it(take)) for _ in range(callers)]
        await asyncio.sleep(0)
        shuffle(tasks)
        began = perf_counter()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        lasted += perf_counter() - began
    give(element)
    return lasted / (lines * callers)


async def take_it(take: Callable[[], Awaitable[Any]]) -> Any:
    return await take()


async def pool_of_one() -> tuple[Callable[[], Awaitable[Any]], Callable[[Any], object]]:
    pool = Pool(Objects(object), 1, limit=1)
    return pool.alloc_async, pool.free


async def semaphore_of_one() -> tuple[Callable[[], Awaitable[Any]], Callable[[Any], object]]:
    semaphore = asyncio.Semaphore(1)
    return semaphore.acquire, lambda _acquired: semaphore.release()


def line(*, quick: bool) -> Iterator[Row]:
    """Handing on and leaving, by the number of callers in line."""
    callers, times = (CALLERS_QUICK, HANDOFFS_QUICK) if quick else (CALLERS, HANDOFFS)
    leaving = LEAVING_QUICK if quick else LEAVING
    contestants: dict[str, Contestant] = {}
    for key, make in (("pool", pool_of_one), ("semaphore", semaphore_of_one)):
        for number in callers:

            def hand_on(make: Any = make, number: int = number) -> float:
                async def measure() -> float:
                    return await handed_on(*await make(), number, times)

                return asyncio.run(measure())

            def leave(make: Any = make, number: int = number) -> float:
                async def measure() -> float:
                    return await cancelled(*await make(), number, leaving)

                return asyncio.run(measure())

            contestants[f"{key} hands on {number}"] = hand_on
            contestants[f"{key} leaves {number}"] = leave
    gc.collect()
    seconds = in_rounds(contestants, ROUNDS_FEW)
    ways = (("hands on", "hand on, line up again"), ("leaves", "leave, cancelled"))
    for key, name in (("pool", "pool"), ("semaphore", SEMAPHORE)):
        for how, what in ways:
            at = Point(f"{name}: {what}", 0.0, 0.0, "callers in line")
            yield from curve(seconds, f"{key} {how}", callers, f"{name}: {what}, {{}} in line", at)
    for how, what in ways:
        for number in (callers[0], callers[-1]):
            ours, theirs = f"pool {how} {number}", f"semaphore {how} {number}"
            yield row_of(GROUP, f"pool: {what}, {number:,} in line", SEMAPHORE, ratios(seconds, ours, theirs))


def run(*, quick: bool) -> Iterator[Row]:
    yield from calls(quick=quick)
    yield from line(quick=quick)
