"""Warm 16 MiB buffers of a pool, taken and written whole, beside fresh memory of that size, written whole.

Fresh memory costs because the system makes each page when it is first written. Whether `numpy.empty` returns fresh
memory is malloc's choice: a program that frees an array and makes the next gets the same memory back, as warm as a pool's.
So there are two rows: a burst of arrays that are alive together, which malloc gives back to the system when they are gone;
and the same array again and again, where there is nothing to gain. A third asks the system for pages each time.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from time import perf_counter

from mempool.benchmarks.measure import ROUNDS, ROUNDS_QUICK, Row, Target, in_rounds, in_words, ratios, row_of
from mempool import Pool
from mempool.sources import Buffers

GROUP = "memory"
SIZE = 16 << 20
BURST = 4
TIMES, TIMES_QUICK = 8, 3


def run(*, quick: bool) -> Iterator[Row]:
    try:
        import numpy as np
    except ImportError:
        yield Row(GROUP, "numpy.empty", "pool", target=Target(2.0, at_most=False), note="numpy is not installed here")
        return
    pool = Pool(Buffers(SIZE), BURST)
    pool.free_many(pool.alloc_many(2 * BURST))

    def pooled(count: int) -> None:
        buffers = []
        for _ in range(count):
            buffer = pool.alloc()
            np.frombuffer(buffer, np.uint8).fill(1)
            buffers.append(buffer)
        pool.free_many(buffers)

    def fresh(count: int) -> None:
        arrays = []
        for _ in range(count):
            array = np.empty(SIZE, np.uint8)
            array.fill(1)
            arrays.append(array)

    def mapped(count: int) -> None:
        buffers = []
        for _ in range(count):
            buffer = mmap.mmap(-1, SIZE)
            np.frombuffer(buffer, np.uint8).fill(1)
            buffers.append(buffer)

    def least(call: Callable[[int], None], count: int) -> Callable[[], float]:
        def measure() -> float:
            best = float("inf")
            for _ in range(TIMES_QUICK if quick else TIMES):
                began = perf_counter()
                call(count)
                best = min(best, perf_counter() - began)
            return best / count

        return measure

    one, burst = "pool, one at a time", f"pool, {BURST} together"
    versus = {
        f"numpy.empty, {BURST} together": (fresh, BURST, burst, Target(2.0, at_most=False)),
        "numpy.empty, one at a time": (fresh, 1, one, None),
        "mmap, one at a time": (mapped, 1, one, None),
    }
    contestants = {one: least(pooled, 1), burst: least(pooled, BURST)}
    contestants |= {name: least(call, count) for name, (call, count, *_rest) in versus.items()}
    seconds = in_rounds(contestants, ROUNDS_QUICK if quick else ROUNDS)
    for name, (_call, _count, beside, target) in versus.items():
        note = f"{in_words(min(seconds[name]))} : {in_words(min(seconds[beside]))} a buffer"
        yield row_of(GROUP, name, beside, ratios(seconds, name, beside), target=target, note=note)
