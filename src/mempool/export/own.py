"""The pools of this process, as those of others are read from a page."""

from __future__ import annotations

from mempool import lifecycle
from mempool.export.families import Counts, Gauges, Key, both_counts, both_gauges, counts_of, gauges_of
from mempool.watch.page import program


def own_figures() -> tuple[dict[Key, Gauges], dict[Key, Counts]]:
    """Of all pools of this process that live; those of one name are added up."""
    gauges: dict[Key, Gauges] = {}
    counts: dict[Key, Counts] = {}
    process = program()
    for engine in lifecycle.engines():
        s, key = engine.snapshot(), (engine.name, process)
        now, done = gauges_of(s, max(0, s.reserve - s.spare) - s.owed - s.filling), counts_of(s)
        gauges[key] = both_gauges(gauges[key], now) if key in gauges else now
        counts[key] = both_counts(counts[key], done) if key in counts else done
    return gauges, counts
