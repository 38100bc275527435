"""What it costs a warm `alloc` and `free` to be seen: `python -m verification.seen`.

By the processor time of the thread that calls, and not by the clock: a busy machine, and the reader itself, take the
processor from it by turns. Each figure is the median of rounds that alternate, one pool beside the other in one process.

    shown        a pool whose figures are mirrored into a page, beside one whose figures are not: at most 1.05
    read         the first while somebody reads the page 1,000 times a second, beside itself while nobody does: at most 1.01
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from mempool import Objects, Pool, watch

ROUNDS, PAIRS = 31, 200_000
READER = """
import sys, time
from mempool.watch.reader import Reader
reader = Reader(sys.argv[1])
while True:
    list(reader.pages())
    time.sleep(0.001)
"""


def warm() -> Pool[Any]:
    """A pool that has spares."""
    pool = Pool(Objects(object), reserve=4, keep=16, track="nothing", name="seen")
    pool.free_many(pool.alloc_many(8))
    return pool


def seconds(pool: Pool[Any]) -> float:
    """Processor seconds of so many pairs."""
    alloc, free = pool.alloc, pool.free
    began = time.thread_time()
    for _ in range(PAIRS):
        free(alloc())
    return time.thread_time() - began


def ratio(what: str, one: Callable[[], float], other: Callable[[], float], most: float) -> None:
    """Measure both by turns, and print it."""
    ratios, costs = [], []
    for number in range(ROUNDS):
        first, second = (one(), other()) if number % 2 else (other(), one())[::-1]
        ratios.append(first / second)
        costs.append(first)
    nanoseconds = 1e9 * statistics.median(costs) / PAIRS
    spread = statistics.quantiles(ratios, n=4)
    told = f"{statistics.median(ratios):.3f} x (quartiles {spread[0]:.3f}, {spread[2]:.3f}; at most {most})"
    print(f"{what:8}{told}, {nanoseconds:.1f} ns a pair", flush=True)


def main() -> None:
    """Both figures."""
    hidden = warm()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        watch.publish(directory=folder)
        hidden._engine.core.mirror_to(None)
        shown = warm()

        def read() -> float:
            reader = subprocess.Popen([sys.executable, "-c", READER, folder])
            try:
                time.sleep(0.3)  # until it reads
                return seconds(shown)
            finally:
                reader.kill()
                reader.wait()

        try:
            ratio("shown", lambda: seconds(shown), lambda: seconds(hidden), 1.05)
            ratio("read", read, lambda: seconds(shown), 1.01)
        finally:
            watch.unpublish()


if __name__ == "__main__":
    main()
