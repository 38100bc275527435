"""Warm buffers of a pool beside fresh memory, written whole; page faults per use; bookkeeping; what stays resident.

Fresh memory costs because the system makes each page when it is first written. Whether `numpy.empty` returns fresh
memory is malloc's choice: a program that frees an array and makes the next gets the same memory back, as warm as a pool's.
So there are two rows: a burst of arrays that are alive together, which malloc gives back to the system when they are gone;
and the same array again and again, where there is nothing to gain. A third asks the system for pages each time.

What a pool costs is its bookkeeping, measured beside the elements themselves. What malloc costs shows after a burst: buffers
below its threshold for a mapping of their own stay resident when they are freed, all of them or those between survivors.
"""

from __future__ import annotations

import mmap
import resource
import statistics
import threading
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from mempool.benchmarks import peers, resident
from mempool.benchmarks.measure import (
    ROUNDS,
    ROUNDS_LONG,
    ROUNDS_QUICK,
    Point,
    Row,
    Target,
    in_rounds,
    in_words,
    ratios,
    row_of,
)

from mempool import Buffer, Buffers, Pool

GROUP = "memory"
MIB = 1 << 20
SIZE = 16 * MIB  # that of the target
BURST = 4
TIMES, TIMES_QUICK = 8, 3
SIZES, SIZES_QUICK = (1, 4, 16, 64), (1, 16)  # MiB
#: Bytes that are written in one batch of the rows by size and by threads, so that a short one is not all noise.
WRITTEN = 128 * MIB
ELEMENTS, ELEMENTS_QUICK = 10**6, 10**5
BURST_BYTES, BURST_BYTES_QUICK = 1 << 30, 1 << 26


class Ways:
    """How a burst of buffers of one size is had, written whole and given back."""

    def __init__(self, np: Any, size: int, held: int) -> None:
        """held: how many a pool keeps warm: as many as all threads hold together."""
        self.np: Any = np
        self.size: int = size
        self.pool: Pool[Buffer] = Pool(Buffers(size), held)

    def pooled(self, count: int) -> None:
        buffers = []
        for _ in range(count):
            buffer = self.pool.alloc()
            self.np.frombuffer(buffer, self.np.uint8).fill(1)
            buffers.append(buffer)
        self.pool.free_many(buffers)

    def fresh(self, count: int) -> None:
        arrays = []
        for _ in range(count):
            array = self.np.empty(self.size, self.np.uint8)
            array.fill(1)
            arrays.append(array)

    def mapped(self, count: int) -> None:
        buffers = []
        for _ in range(count):
            buffer = mmap.mmap(-1, self.size)
            self.np.frombuffer(buffer, self.np.uint8).fill(1)
            buffers.append(buffer)


def least(call: Callable[[int], None], count: int, times: int) -> Callable[[], float]:
    """Seconds per buffer: the least of a few."""

    def measure() -> float:
        best = float("inf")
        for _ in range(times):
            began = perf_counter()
            call(count)
            best = min(best, perf_counter() - began)
        return best / count

    return measure


def design_row(np: Any, *, quick: bool) -> Iterator[Row]:
    ways = Ways(np, SIZE, BURST)
    one, burst = "pool, one at a time", f"pool, {BURST} together"
    versus = {
        f"numpy.empty, {BURST} together": (ways.fresh, BURST, burst, Target(2.0, at_most=False)),
        "numpy.empty, one at a time": (ways.fresh, 1, one, None),
        "mmap, one at a time": (ways.mapped, 1, one, None),
    }
    times = TIMES_QUICK if quick else TIMES
    contestants = {one: least(ways.pooled, 1, times), burst: least(ways.pooled, BURST, times)}
    contestants |= {name: least(call, count, times) for name, (call, count, *_rest) in versus.items()}
    seconds = in_rounds(contestants, ROUNDS_QUICK if quick else ROUNDS)
    for name, (_call, _count, beside, target) in versus.items():
        note = f"{in_words(min(seconds[name]))} : {in_words(min(seconds[beside]))} a buffer"
        yield row_of(GROUP, f"16 MiB: {name}", beside, ratios(seconds, name, beside), target=target, note=note)
    for name, call, count in (
        (burst, ways.pooled, BURST),
        (f"numpy.empty, {BURST} together", ways.fresh, BURST),
        ("numpy.empty, one at a time", ways.fresh, 1),
        ("mmap, one at a time", ways.mapped, 1),
    ):
        yield faults(name, call, count)


def faults(name: str, call: Callable[[int], None], count: int) -> Row:
    """Page faults per buffer, from the second use on."""
    call(count)
    seen = []
    for _ in range(ROUNDS_QUICK):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        call(count)
        seen.append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / count)
    pages = SIZE // resource.getpagesize()
    return row_of(GROUP, f"16 MiB: {name}: page faults", f"{pages} pages", seen, unit="a buffer")


def by_size(np: Any, mib: int, threads: int, *, quick: bool) -> Iterator[Row]:
    """Buffers of one size, a few alive together in each thread: pooled and fresh."""
    size = mib * MIB
    count = BURST if mib < SIZES[-1] else BURST // 2
    ways = Ways(np, size, threads * count)
    turns = max(1, WRITTEN // (size * count * threads) // (4 if quick else 1))

    def together(call: Callable[[int], None]) -> Callable[[], float]:
        def work() -> None:
            for _ in range(turns):
                call(count)

        def measure() -> float:
            workers = [threading.Thread(target=work) for _ in range(threads)]
            began = perf_counter()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            return (perf_counter() - began) / (turns * count * threads)

        return lambda: min(measure() for _ in range(3))

    seconds = in_rounds({"pool": together(ways.pooled), "fresh": together(ways.fresh)}, 3 if quick else ROUNDS_LONG)
    who = "1 thread" if threads == 1 else f"{threads} threads"
    note = f"{in_words(min(seconds['fresh']))} : {in_words(min(seconds['pool']))} a buffer"
    what = f"{mib} MiB written whole, {who}, {count} together: numpy.empty"
    rate = {way: size / (1 << 30) / statistics.median(seconds[way]) for way in seconds}
    point = Point(f"numpy.empty, {who}", mib, rate["fresh"])
    yield row_of(GROUP, what, "pool", ratios(seconds, "fresh", "pool"), note=note, point=point)
    what = f"{mib} MiB written whole, {who}, {count} together: pool"
    rates = [size / (1 << 30) / each for each in seconds["pool"]]
    yield row_of(GROUP, what, "nothing", rates, unit="GiB/s", point=Point(f"pool, {who}", mib, rate["pool"]))


def bookkeeping(*, quick: bool) -> Iterator[Row]:
    """Bytes per element beside the element itself."""
    elements = ELEMENTS_QUICK if quick else ELEMENTS
    kinds = [f"pool, track={track}" for track in ("nothing", "identity", "holders")]
    for kind in (*kinds, "collections.deque", "queue.LifoQueue", "dict by id"):
        figures = resident.in_a_child("bookkeeping", kind, elements)
        for state, size in figures.items():
            where = {"spare": "all spare", "out": "all out"}[state] if kind in kinds else "all in it"
            yield row_of(GROUP, f"bookkeeping of {elements:,}, {where}: {kind}", "nothing", [size], unit="bytes each")


def bursts(size: int, *, quick: bool) -> Iterator[Row]:
    """What is resident after a burst and back."""
    count = (BURST_BYTES_QUICK if quick else BURST_BYTES) // size
    what = f"burst of {count:,} x {in_bytes(size)} and back"
    for kind in ("pool", "numpy", *(f"pyarrow, {name}" for name in peers.ARROW_POOLS)):
        try:
            figures = resident.in_a_child("burst", kind, size, count)
        except ImportError as error:
            yield Row(GROUP, f"{what}: {kind}", "before", note=peers.Missing.by(error).why)
            continue
        note = (
            f"{figures['most'] / MIB:,.0f} MiB at most; {figures['some'] / MIB:,.0f} MiB beside the survivors while 1 in "
            f"{resident.SURVIVORS_EVERY} was still in use"
        )
        if kind == "pool":
            note += f"; keep={resident.KEPT}"
        elif kind.startswith("pyarrow"):
            note += "; without release_unused()"
        yield row_of(GROUP, f"{what}: {kind}: resident", "before", [figures["none"] / MIB], unit="MiB", note=note)


def in_bytes(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 1024} KiB"


def run(*, quick: bool) -> Iterator[Row]:
    try:
        import numpy as np
    except ImportError as error:
        target = Target(2.0, at_most=False)
        yield Row(GROUP, f"16 MiB: numpy.empty, {BURST} together", "pool", target=target, note=peers.Missing.by(error).why)
        return
    yield from design_row(np, quick=quick)
    for threads in (1, 4):
        for mib in SIZES_QUICK if quick else SIZES:
            yield from by_size(np, mib, threads, quick=quick)
    yield from bookkeeping(quick=quick)
    for size in (MIB, 64 * 1024):
        yield from bursts(size, quick=quick)
