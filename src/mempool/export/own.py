"""The pools of this process, as those of others are read from a page."""

from __future__ import annotations

from mempool import lifecycle
from mempool.engine import Snapshot
from mempool.export.families import Counts, Gauges, Key, both_counts, both_gauges
from mempool.watch.page import program


def _gauges(s: Snapshot) -> Gauges:
    unfunded = max(0, s.reserve - s.spare) - s.owed - s.filling
    return Gauges(s.spare, s.out, s.disposing, s.reserve, s.keep, s.limit, unfunded, s.waiting)


def _counts(s: Snapshot) -> Counts:
    return Counts(
        *(s.from_spare, s.from_source, s.from_reserve, s.from_line),
        *(s.waits[1], s.waits[4], s.waits[2] + s.waits[3]),
        *(s.source_failures, s.resizes, s.made, s.disposed),
        s.wait_seconds_total,
        s.wait_histogram,
    )


def own_figures() -> tuple[dict[Key, Gauges], dict[Key, Counts]]:
    """Of all pools of this process that live; those of one name are added up."""
    gauges: dict[Key, Gauges] = {}
    counts: dict[Key, Counts] = {}
    process = program()
    for engine in lifecycle.engines():
        snapshot, key = engine.snapshot(), (engine.name, process)
        now, done = _gauges(snapshot), _counts(snapshot)
        gauges[key] = both_gauges(gauges[key], now) if key in gauges else now
        counts[key] = both_counts(counts[key], done) if key in counts else done
    return gauges, counts
