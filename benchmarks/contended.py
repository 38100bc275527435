"""16 threads share 4 elements and hold each for 1 ms: how much gets through, how long the longest waits, how fair it is.

At best 4 elements serve 4000 holders a second, and each thread has its turn every 16 / 4 = 4 ms. A thread that sleeps for
1 ms comes back later than that, with or without a pool; the row "nothing" says how much is lost to that alone: as many
threads as there are elements, which sleep and share nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from mempool.benchmarks.measure import ROUNDS_QUICK, Row, Target, in_rounds, jain, percentile, row_of
from mempool import Pool
from mempool.sources import Objects

GROUP = "contended"
THREADS, ELEMENTS, HOLD_SECONDS = 16, 4, 0.001
TURN_SECONDS = THREADS / ELEMENTS * HOLD_SECONDS
IDEAL = ELEMENTS / HOLD_SECONDS  # holders a second
SECONDS, SECONDS_QUICK = 1.0, 0.2


@dataclass(frozen=True, slots=True)
class Crowd:
    """What one run has seen."""

    throughput: float  # as a share of the ideal
    wait_longest: float  # in ideal turns
    wait_p999: float  # in ideal turns
    fairness: float


def crowd(take: Callable[[], Any], give: Callable[[Any], object], threads: int, seconds: float) -> Crowd:
    """So many threads that take, hold, give, for so long."""
    waits: list[list[float]] = [[] for _ in range(threads)]
    ready = threading.Barrier(threads + 1)
    stop = threading.Event()

    def work(mine: list[float]) -> None:
        ready.wait()
        while not stop.is_set():
            began = perf_counter()
            element = take()
            mine.append(perf_counter() - began)
            time.sleep(HOLD_SECONDS)
            give(element)

    workers = [threading.Thread(target=work, args=(mine,)) for mine in waits]
    for worker in workers:
        worker.start()
    ready.wait()
    began = perf_counter()
    time.sleep(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    # Whoever stood in the line was served still, and the time until then counts as well.
    lasted = perf_counter() - began
    every = sorted(wait for mine in waits for wait in mine)
    return Crowd(
        throughput=len(every) / lasted / IDEAL,
        wait_longest=every[-1] / TURN_SECONDS,
        wait_p999=percentile(every, 0.999) / TURN_SECONDS,
        fairness=jain([len(mine) for mine in waits]),
    )


def run(*, quick: bool) -> Iterator[Row]:
    seconds = SECONDS_QUICK if quick else SECONDS
    pool = Pool(Objects(object), ELEMENTS, keep=ELEMENTS, limit=ELEMENTS)
    shelf: queue.LifoQueue[object] = queue.LifoQueue()
    for _ in range(ELEMENTS):
        shelf.put(object())
    crowds: dict[str, list[Crowd]] = {"pool": [], "queue.LifoQueue": [], "nothing": []}

    def of(name: str, *, take: Callable[[], Any], give: Callable[[Any], object], threads: int) -> Callable[[], float]:
        def measure() -> float:
            crowds[name].append(crowd(take, give, threads, seconds))
            return crowds[name][-1].throughput

        return measure

    in_rounds(
        {
            "pool": of("pool", take=pool.alloc, give=pool.free, threads=THREADS),
            "queue.LifoQueue": of("queue.LifoQueue", take=shelf.get, give=shelf.put, threads=THREADS),
            "nothing": of("nothing", take=lambda: None, give=lambda _element: None, threads=ELEMENTS),
        },
        ROUNDS_QUICK,
    )
    for name in ("pool", "queue.LifoQueue"):
        ours, seen = name == "pool", crowds[name]
        yield row_of(
            GROUP,
            f"{name}: throughput",
            "4000 holders a second",
            [c.throughput for c in seen],
            target=Target(0.9, at_most=False) if ours else None,
        )
        yield row_of(
            GROUP,
            f"{name}: throughput",
            "4 threads that only sleep",
            [c.throughput / control.throughput for c, control in zip(seen, crowds["nothing"], strict=True)],
        )
        yield row_of(
            GROUP,
            f"{name}: longest wait",
            "a turn of 4 ms",
            [c.wait_longest for c in seen],
            target=Target(2.0) if ours else None,
        )
        yield row_of(GROUP, f"{name}: p99.9 of the waits", "a turn of 4 ms", [c.wait_p999 for c in seen])
        yield row_of(GROUP, f"{name}: Jain's index of fairness", "1 = all alike", [c.fairness for c in seen], unit="")
    yield row_of(
        GROUP,
        "nothing: throughput",
        "4000 holders a second",
        [c.throughput for c in crowds["nothing"]],
        note="what sleeping for 1 ms leaves on this machine, without any pool",
    )
