"""What it costs a warm `alloc` and `free` to be seen: `python -m verification.seen`.

By the processor time of the thread that calls, and not by the clock: a busy machine, and the reader itself, take the
processor from it by turns. Each figure is the median of many short rounds that alternate, in one process.

    shown        a pool whose figures are mirrored into a page, beside one whose figures are not: at most 1.05
    read         the first while somebody reads the page 1,000 times a second, beside itself while nobody does: at most 1.01

Reading adds no instruction; what it can cost is a line of the cache that the reader had last. So reader and caller run on
a processor each, and the reader is stopped and continued instead of begun anew: rounds are short then, and there are many.
The error is that of the median, from resampling: a figure is as good as that is small.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from mempool import Objects, Pool, watch

ROUNDS, PAIRS, WARM_UP = 300, 200_000, 20_000
READER = """
import mmap, sys, time
from mempool.watch.reader import Reader
reader = Reader(sys.argv[1])
counted = mmap.mmap(int(sys.argv[2]), 8)
reads = 0
began = time.monotonic()
while True:
    list(reader.pages())
    reads += 1
    counted[:] = reads.to_bytes(8, "little")
    if reads == 200:
        print(flush=True)
    time.sleep(max(0.0, 0.001 - (time.monotonic() - began)))
    began = time.monotonic()
"""


def warm() -> Pool[Any]:
    """A pool that has spares."""
    pool = Pool(Objects(object), reserve=4, keep=16, track="nothing", name="seen")
    pool.free_many(pool.alloc_many(8))
    return pool


def seconds(pool: Pool[Any]) -> float:
    """Processor seconds of so many pairs."""
    alloc, free = pool.alloc, pool.free
    for _ in range(WARM_UP):
        free(alloc())
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
    draw = random.Random(1)
    error = statistics.stdev(statistics.median(draw.choices(ratios, k=ROUNDS)) for _ in range(500))
    told = f"{statistics.median(ratios):.4f} x, give or take {error:.4f} (quartiles {spread[0]:.3f}, {spread[2]:.3f})"
    print(f"{what:8}{told}; at most {most}; {nanoseconds:.1f} ns a pair", flush=True)


def stop(reader: subprocess.Popen[str]) -> None:
    """Have it stand still, and wait until it does."""
    os.kill(reader.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, reader.pid, os.WSTOPPED | os.WNOWAIT)


def main() -> None:
    """Both figures."""
    processors = sorted(os.sched_getaffinity(0))
    hidden = warm()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, tempfile.TemporaryFile() as count:
        count.truncate(8)
        counted = mmap.mmap(count.fileno(), 8)
        reads, wall = [0], [0.0]
        watch.publish(directory=folder)
        hidden._engine.core.mirror_to(None)
        shown = warm()
        command = [sys.executable, "-c", READER, folder, str(count.fileno())]
        reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[count.fileno()])
        assert reader.stdout is not None
        reader.stdout.readline()  # it reads
        if len(processors) > 1:
            os.sched_setaffinity(0, processors[:1])
            os.sched_setaffinity(reader.pid, processors[1:])

        def read() -> float:
            before, began = int.from_bytes(counted[:], "little"), time.monotonic()
            os.kill(reader.pid, signal.SIGCONT)
            try:
                return seconds(shown)
            finally:
                stop(reader)
                reads[0] += int.from_bytes(counted[:], "little") - before
                wall[0] += time.monotonic() - began

        try:
            stop(reader)
            ratio("shown", lambda: seconds(shown), lambda: seconds(hidden), 1.05)
            ratio("read", read, lambda: seconds(shown), 1.01)
            print(f"        it was read {reads[0] / wall[0]:.0f} times a second")
        finally:
            reader.kill()
            reader.wait()
            watch.unpublish()
            os.sched_setaffinity(0, processors)


if __name__ == "__main__":
    main()
