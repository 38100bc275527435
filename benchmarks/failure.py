"""A source that fails 0 to 100 % of the time: 8 threads hold an element for 1 ms each, and 4 are in reserve.

With a source that never fails, 8 hold at once. With one that always fails, the 4 of the reserve pass through all hands:
half the throughput, and every request is served. The pool keeps no more than its reserve, so that the source is asked
again and again. Beside it the same threads without a pool: a failure is then the user's, and his request is lost.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator

from mempool.benchmarks.contended import Crowd, crowd
from mempool.benchmarks.measure import ROUNDS_LONG, Point, Row, in_rounds, row_of

from mempool import Objects, Pool

GROUP = "failure"
THREADS, RESERVE, HOLD_SECONDS = 8, 4, 0.001
SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)
SECONDS, SECONDS_QUICK = 0.3, 0.1
ROUNDS_QUICK = 3


class Unreliable:
    """Makes objects, but for this share of the calls."""

    def __init__(self, share: float) -> None:
        self.share: float = 0.0
        self.asked: int = 0
        self.failed: int = 0
        self.source: Objects[object] = Objects(self.make)
        self.pool: Pool[object] = Pool(self.source, RESERVE, keep=RESERVE)  # filled while the source still works
        self.share = share
        self.random: Callable[[], float] = random.Random(share).random

    def make(self) -> object:
        self.asked += 1
        if self.share and self.random() < self.share:
            self.failed += 1
            raise MemoryError
        return object()


class Alone:
    """The same source without a pool."""

    def __init__(self, share: float) -> None:
        self.random: Callable[[], float] = random.Random(share).random
        self.share: float = share
        self.asked: int = 0
        self.lost: int = 0

    def take(self) -> object:
        self.asked += 1
        try:
            if self.random() < self.share:
                raise MemoryError
            return object()
        except MemoryError:
            self.lost += 1
            return None

    def give(self, element: object) -> None:
        """Nothing to do."""


def run(*, quick: bool) -> Iterator[Row]:
    pooled = {share: Unreliable(share) for share in SHARES}
    alone = {share: Alone(share) for share in SHARES}
    crowds: dict[str, list[Crowd]] = {}

    def of(name: str, take: Callable[[], object], give: Callable[[object], object]) -> Callable[[], float]:
        crowds[name] = []

        def measure() -> float:
            crowds[name].append(crowd((take, give), THREADS, HOLD_SECONDS, SECONDS_QUICK if quick else SECONDS))
            return crowds[name][-1].a_second

        return measure

    contestants = {f"pool {share}": of(f"pool {share}", p.pool.alloc, p.pool.free) for share, p in pooled.items()}
    contestants |= {f"alone {share}": of(f"alone {share}", a.take, a.give) for share, a in alone.items()}
    in_rounds(contestants, ROUNDS_QUICK if quick else ROUNDS_LONG)
    for share in SHARES:
        seen, best = crowds[f"pool {share}"], crowds["pool 0.0"]
        source = pooled[share]
        p999 = statistics.median(c.wait_p999 for c in seen)
        yield row_of(
            GROUP,
            f"source fails {share:.0%}: holders a second",
            "it never fails",
            [c.a_second / other.a_second for c, other in zip(seen, best, strict=True)],
            note=f"{statistics.median(c.a_second for c in seen):,.0f} a second; p99.9 of the waits {p999 * 1e3:.3g} ms; "
            f"source asked {source.asked:,} times, failed {source.failed:,}; no request lost",
            point=Point("pool", share * 100, statistics.median(c.a_second for c in seen), "requests served a second"),
        )
        yield row_of(
            GROUP,
            f"source fails {share:.0%}: p99.9 of the waits",
            "nothing",
            [c.wait_p999 * 1e3 for c in seen],
            unit="ms",
            point=Point("pool", share * 100, p999 * 1e3, "p99.9 of the waits, ms"),
        )
        without = alone[share]
        served = [c.a_second * (1 - without.lost / without.asked) for c in crowds[f"alone {share}"]]
        yield row_of(
            GROUP,
            f"source fails {share:.0%}, no pool: requests served",
            "all of them",
            [1 - without.lost / without.asked],
            note=f"{without.lost:,} of {without.asked:,} requests lost",
            point=Point("no pool: what fails is lost", share * 100, statistics.median(served), "requests served a second"),
        )
