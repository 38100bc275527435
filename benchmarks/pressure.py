"""What it costs to follow memory pressure, how soon it is met, and how much a bad afternoon of it moves a pool.

The machine is a folder with the files that Linux has. What takes hours is run by a clock that is moved by hand.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, sleep
from unittest import mock

from mempool.benchmarks.measure import Row, Target, row_of

from mempool import Objects, Pool
from mempool.pressure import Pressure, follow
from mempool.testing import ManualClock

GROUP = "pressure"
KEEP = (64, 256)
HOUR = 3600
ROUNDS, ROUNDS_QUICK = 2000, 200
REACTIONS, REACTIONS_QUICK = 20, 4
BESIDE = f"keep from {KEEP[0]} to {KEEP[1]}"


def a_pool() -> Pool[object]:
    pool = Pool(Objects(object), 8, keep=KEEP[1])
    pool.free_many(pool.alloc_many(KEEP[1]))
    return pool


class Afternoon:
    """A pool on a machine whose pressure is said, second by second, by a clock that is moved by hand."""

    def __init__(self) -> None:
        self.clock: ManualClock = ManualClock()
        self.percent: float = 0.0
        self.pool: Pool[object] = a_pool()
        self.pressure: Pressure = follow(self.pool, KEEP, source=lambda: self.percent, thread=False, clock=self.clock)

    def run(self, seconds: float, percent: Callable[[], float]) -> None:
        for _ in range(round(seconds / 2)):
            self.percent = percent()
            self.clock.advance(2)
            self.pressure.look()

    def steps(self) -> int:
        return len(self.pressure.log)

    def reversals(self) -> int:
        ways = [step.keep[1] > step.keep[0] for step in self.pressure.log]
        return sum(1 for before, after in itertools.pairwise(ways) if before and not after)


def look(rounds: int) -> Row:
    """One look of the thread: the figure is read, and nothing is to be done."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "memory")
        file.write_text(
            "some avg10=0.20 avg60=0.10 avg300=0.05 total=1658960\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"
        )
        pool, clock = a_pool(), ManualClock()
        pressure = follow(pool, KEEP, source=file, thread=False, clock=clock)
        took = []
        for _ in range(rounds):
            clock.advance(2)
            began = perf_counter()
            pressure.look()
            took.append((perf_counter() - began) * 1e6)
        pressure.close()
    return row_of(GROUP, "a look that finds calm", "every 2 s, in one thread", took, unit="µs")


def reaction(rounds: int) -> Row:
    """From what systemd writes into its FIFO until the pool keeps less."""
    took = []
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(Path(folder, "watch"))
        writing = os.open(Path(folder, "watch"), os.O_RDWR | os.O_NONBLOCK)
        for _ in range(rounds):
            pool = a_pool()
            with mock.patch.dict(os.environ, MEMORY_PRESSURE_WATCH="/watch"), follow(pool, KEEP, root=folder):
                began = perf_counter()
                os.write(writing, b"x")
                while pool.keep == KEEP[1] and perf_counter() - began < 10:
                    sleep(0.0002)
                took.append((perf_counter() - began) * 1000)
        os.close(writing)
    return row_of(GROUP, "a trigger is met", "$MEMORY_PRESSURE_WATCH, a FIFO", took, unit="ms", target=Target(1000))


def flapping() -> Iterator[Row]:
    """10 s of pressure, 50 s without, for an hour."""
    afternoon = Afternoon()
    for _ in range(60):
        afternoon.run(10, lambda: 40.0)
        afternoon.run(50, lambda: 0.0)
    beside = "10 s of 40 %, 50 s of 0 %, an hour"
    yield row_of(GROUP, "flapping: steps", beside, [afternoon.steps()], unit="", target=Target(5))
    yield row_of(GROUP, "flapping: reversals", beside, [afternoon.reversals()], unit="", target=Target(0))


def burst() -> Row:
    """Half a minute of pressure; minutes until keep is at nine tenths of what it was."""
    afternoon = Afternoon()
    afternoon.run(30, lambda: 60.0)
    seconds = 0
    while afternoon.pool.keep < 0.9 * KEEP[1] - 1 and seconds < HOUR:
        afternoon.run(10, lambda: 0.0)
        seconds += 10
    return row_of(GROUP, "one burst: back after", "30 s of 60 %", [seconds / 60], unit="min", target=Target(15))


def own() -> Row:
    """Memory is short whenever more than 200 are kept."""
    afternoon = Afternoon()
    afternoon.run(2 * HOUR, lambda: 25.0 if afternoon.pool.keep > 200 else 0.0)
    beside = "25 % above 200 kept, two hours"
    return row_of(GROUP, "made by the pool itself: steps", beside, [afternoon.steps()], unit="", target=Target(6))


def run(*, quick: bool) -> Iterator[Row]:
    """All rows of the group."""
    yield look(ROUNDS_QUICK if quick else ROUNDS)
    if os.name == "posix":
        yield reaction(REACTIONS_QUICK if quick else REACTIONS)
    yield from flapping()
    yield burst()
    yield own()
