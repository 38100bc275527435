"""Frozen values that tell what a pool promises and what it has done."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from mempool.engine import CLOSED, SERVED, TIMED_OUT, WAIT_BUCKETS, WITHDRAWN, Snapshot


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What a pool promises at one moment. `promised == min(spare, promised) + owed + filling + unfunded`."""

    promised: int
    """The reserve (minimum size): how many elements the pool promises."""
    spare: int
    """Elements in the pool (idle)."""
    owed: int
    """The part of the reserve that elements now out (outstanding) will refill when they are returned, lingering ones too."""
    unfunded: int
    """The part of the reserve that not even every return would fill: a grow ran out of memory. See `Pool.refill`."""
    filling: int = 0
    """The part of the reserve that a resize or a refill is making now. It ends as `spare` or `owed`; or as `unfunded`,
    where the source fails or the caller is interrupted."""
    level: str | None = None
    """How the memory of each element is guaranteed: the level of `Buffers`; None: the source does not say.

    In a forked child it is a weaker one as long as there is memory from before the fork; `Pool.refill` brings it back.
    """

    @property
    def held(self) -> bool:
        """Whether the promise is covered: nothing is unfunded. (While elements are being made, nothing has failed yet.)"""
        return self.unfunded == 0


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool is and has done, all of one moment. Numbers are elements unless a field says otherwise."""

    name: str
    """The pool's name."""
    reserve: int
    """How many are promised."""
    keep: int
    """How many spares stay warm (max idle)."""
    limit: int | None
    """How many may exist at once (max size); None: as many as the source makes."""
    spare: int
    """In the pool (idle)."""
    out: int
    """In use, or on the way to a user or back."""
    lingering: int
    """The part of `out` that users have freed, and that is returned when its last view ends: see `linger` of `Pool.free`."""
    disposing: int
    """On their way to the source's free."""
    made: int
    """Made by the source since the pool began."""
    disposed: int
    """Given to the source's free, or written off. `made - disposed == spare + out + disposing`, always."""
    written_off: int
    """The part of `disposed` for which the source's free was not called: lost with its holder, see `Pool.write_off`; or an
    interrupt, or memory that lacks, let nobody call it, three times in a row."""
    waiting: int
    """Callers in the line (the wait queue)."""
    closed: bool
    """Whether the pool is closed."""
    served_from_spare: int
    """Handed out at once, from spares beyond the reserve."""
    served_from_source: int
    """Handed out fresh from the source."""
    served_from_reserve: int
    """Handed out of the reserve, because the source failed or the limit was reached."""
    served_from_line: int
    """Handed out to callers that stood in the line."""
    resizes: int
    """Calls of `resize` that reached their moment."""
    source_failures: int
    """How often the source ran out of memory."""
    waits_served: int
    """Waits that ended with all that was asked for."""
    waits_timed_out: int
    """Waits that ended with PoolTimeout."""
    waits_cancelled: int
    """Waits that ended with a cancellation, an interrupt, another error, or the pool's closing."""
    wait_seconds_total: float
    """Seconds waited, whatever the end."""
    wait_seconds_max: float
    """The longest wait in seconds, whatever its end."""
    wait_histogram: tuple[tuple[float, int], ...]
    """Waits by duration, whatever their end: (upper bound in seconds, how many up to it and above the one before)."""
    offered: int = 0
    """The part of `out` that was offered to other processes, and that nobody has adopted yet: see `SharedPool.offer`."""

    def as_dict(self) -> dict[str, Any]:
        """All fields, as `json.dumps` writes them: the last bound of the histogram, infinity, is None."""
        values = dataclasses.asdict(self)
        values["wait_histogram"] = [
            [None if bound == float("inf") else bound, waits] for bound, waits in self.wait_histogram
        ]
        return values


def guarantee_of(snapshot: Snapshot) -> Guarantee:
    """What is promised at that moment, and what covers it."""
    s = snapshot
    return Guarantee(s.reserve, s.spare, s.owed, unfunded_of(s), filling=s.filling, level=s.level)


def unfunded_of(snapshot: Snapshot) -> int:
    """How many of the reserve not even the return of everything that is out would fill."""
    s = snapshot
    return max(0, s.reserve - s.spare) - s.owed - s.filling


def stats_of(name: str, snapshot: Snapshot) -> PoolStats:
    """What the pool of that name is and has done at that moment."""
    s = snapshot
    return PoolStats(
        name=name,
        reserve=s.reserve,
        keep=s.keep,
        limit=s.limit,
        spare=s.spare,
        out=s.out,
        lingering=s.lingering,
        disposing=s.disposing,
        made=s.made,
        disposed=s.disposed,
        written_off=s.written_off,
        waiting=s.waiting,
        closed=s.closed,
        served_from_spare=s.from_spare,
        served_from_source=s.from_source,
        served_from_reserve=s.from_reserve,
        served_from_line=s.from_line,
        resizes=s.resizes,
        source_failures=s.source_failures,
        waits_served=s.waits[SERVED],
        waits_timed_out=s.waits[TIMED_OUT],
        waits_cancelled=s.waits[WITHDRAWN] + s.waits[CLOSED],
        wait_seconds_total=s.wait_seconds_total,
        wait_seconds_max=s.wait_seconds_max,
        wait_histogram=tuple(zip((*WAIT_BUCKETS, float("inf")), s.wait_histogram, strict=True)),
        offered=s.offered,
    )
