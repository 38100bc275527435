"""What is exported of a pool: the families of metrics, added up by pool and program, and as Prometheus' text.

A counter of many processes must not fall when one of them ends: what its pools had counted when they were last seen stays
in the sum, for as long as the exporter lives. A killed process leaves its page, so that not even its last calls are lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mempool.engine import Snapshot
from mempool.watch.layout import BUCKETS, Figures
from mempool.watch.reader import WITHOUT_SLOT, Reader, Row, rows_of
from mempool.watch.sources import Here

#: Of whom numbers are added up: the pool's name, and the program's.
Key = tuple[str, str]


class Family(NamedTuple):
    """One metric: its name without a suffix, its type, its help, and its samples."""

    name: str
    kind: str
    help: str
    samples: Sequence[tuple[str, tuple[tuple[str, str], ...], float]]
    """Suffix of the name, labels, number."""


class Gauges(NamedTuple):
    """Of this moment, of all pools of a key."""

    spare: int
    out: int
    disposing: int
    reserve: int
    keep: int
    limit: int | None
    """None: one of them has none."""
    unfunded: int
    waiting: int


class Counts(NamedTuple):
    """Since each of the pools of a key began; they never fall."""

    from_spare: int
    from_source: int
    from_reserve: int
    from_line: int
    waits_served: int
    waits_timed_out: int
    waits_cancelled: int
    source_failures: int
    resizes: int
    made: int
    disposed: int
    wait_seconds: float
    histogram: tuple[int, ...]


NO_COUNTS = Counts(*(0,) * 11, 0.0, (0,) * (len(BUCKETS) + 1))


def gauges_of(f: Figures | Snapshot, unfunded: int) -> Gauges:
    """What a pool is."""
    return Gauges(f.spare, f.out, f.disposing, f.reserve, f.keep, f.limit, unfunded, f.waiting)


def counts_of(f: Figures | Snapshot) -> Counts:
    """What a pool has done."""
    return Counts(
        *(f.from_spare, f.from_source, f.from_reserve, f.from_line),
        *(f.waits[1], f.waits[4], f.waits[2] + f.waits[3]),
        *(f.source_failures, f.resizes, f.made, f.disposed),
        f.wait_seconds_total,
        f.wait_histogram,
    )


def both_gauges(a: Gauges, b: Gauges) -> Gauges:
    """Of two pools of one key."""
    limit = None if a.limit is None or b.limit is None else a.limit + b.limit
    return Gauges(
        *(a.spare + b.spare, a.out + b.out, a.disposing + b.disposing, a.reserve + b.reserve, a.keep + b.keep),
        limit,
        a.unfunded + b.unfunded,
        a.waiting + b.waiting,
    )


def both_counts(a: Counts, b: Counts) -> Counts:
    """The same."""
    sums = [one + other for one, other in zip(a[:-1], b[:-1], strict=True)]
    histogram = tuple(one + other for one, other in zip(a.histogram, b.histogram, strict=True))
    return Counts._make((*sums, histogram))


class Totals:
    """Adds up what rows say, again and again. directory: where pages lie, as for `mempool.watch.publish`."""

    def __init__(self, directory: str | None = None) -> None:
        self._here = Here(directory)
        self._seen: dict[tuple[str, int], tuple[Key, Counts]] = {}
        self._gone: dict[Key, Counts] = {}

    def look(self) -> list[Family]:
        """The families of this moment, of all processes that show pools."""
        rows = self._here.rows()
        unread = self._keep_what_ended(rows)
        gauges: dict[Key, Gauges] = {}
        counts: dict[Key, Counts] = dict(self._gone)
        for row in rows:
            if row.figures is None:
                continue
            key = (row.pool, row.process)
            now = gauges_of(row.figures, row.figures.unfunded)
            done = self._not_fallen(row.key, counts_of(row.figures))
            self._seen[row.key] = (key, done)
            gauges[key] = both_gauges(gauges[key], now) if key in gauges else now
            counts[key] = both_counts(counts[key], done) if key in counts else done
        for key, done in unread:
            counts[key] = both_counts(counts[key], done) if key in counts else done
        return families(gauges, counts)

    def text(self) -> str:
        """The same as Prometheus reads it."""
        return text_of(self.look())

    def _not_fallen(self, key: tuple[str, int], done: Counts) -> Counts:
        """A page that was written over, by whom ever, does not let a counter fall."""
        before = self._seen.get(key)
        if before is None or (done.made >= before[1].made and done.from_spare >= before[1].from_spare):
            return done
        return before[1]

    def _keep_what_ended(self, rows: Sequence[Row]) -> list[tuple[Key, Counts]]:
        """Returns what is only unread this time, as of the last time.

        A page that says nothing of one pool may have been read in the midst of that pool's step, whose process had lost its
        processor there. The pool is there again the next time, and would be counted twice if it were taken for ended.
        """
        lacking = self._seen.keys() - {row.key for row in rows}
        unsteady = {row.key[0] for row in rows if row.figures is None and row.key[1] != WITHOUT_SLOT}
        ended = {one for one in lacking if one[0] not in unsteady}
        unread = [self._seen[one] for one in lacking - ended]
        if not ended:
            return unread
        for row in rows_of(list(Reader(self._here.reader.directory).pages(dead=True))):
            if row.key in ended and row.figures is not None:
                key, _ = self._seen[row.key]
                self._seen[row.key] = (key, self._not_fallen(row.key, counts_of(row.figures)))
        for one in ended:
            key, done = self._seen.pop(one)
            self._gone[key] = both_counts(self._gone.get(key, NO_COUNTS), done)
        return unread


def families(gauges: dict[Key, Gauges], counts: dict[Key, Counts]) -> list[Family]:
    """All metrics of these pools."""
    return list(_gauges(gauges)) + list(_counters(counts))


def _labels(key: Key, **more: str) -> tuple[tuple[str, str], ...]:
    return (("pool", key[0]), ("process", key[1]), *more.items())


def _gauges(of: dict[Key, Gauges]) -> Iterator[Family]:
    states = ("spare", "out", "disposing")
    samples = [("", _labels(key, state=state), float(getattr(g, state))) for key, g in of.items() for state in states]
    yield Family("mempool_elements", "gauge", "Elements that exist, by where they are.", samples)
    for name, field, told in (
        ("mempool_reserve_elements", "reserve", "Elements that the pool promises."),
        ("mempool_keep_elements", "keep", "Spares that stay warm."),
        ("mempool_limit_elements", "limit", "Elements that may exist at once; absent: any number."),
        ("mempool_unfunded_elements", "unfunded", "The part of the promise that not even every return would fill."),
        ("mempool_waiting", "waiting", "Callers in the line."),
    ):
        values = [(_labels(key), getattr(g, field)) for key, g in of.items()]
        yield Family(name, "gauge", told, [("", labels, float(value)) for labels, value in values if value is not None])


def _counters(of: dict[Key, Counts]) -> Iterator[Family]:
    origins = ("spare", "source", "reserve", "line")
    samples = [("_total", _labels(key, origin=o), float(getattr(c, f"from_{o}"))) for key, c in of.items() for o in origins]
    yield Family("mempool_served", "counter", "Elements handed out, by where they came from.", samples)
    outcomes = ("served", "timed_out", "cancelled")
    samples = [
        ("_total", _labels(key, outcome=o), float(getattr(c, f"waits_{o}"))) for key, c in of.items() for o in outcomes
    ]
    yield Family("mempool_waits", "counter", "Waits in the line, by how they ended.", samples)
    for name, field, told in (
        ("mempool_source_failures", "source_failures", "How often the source ran out of memory."),
        ("mempool_resizes", "resizes", "Calls of resize that reached their moment."),
        ("mempool_made", "made", "Elements made by the source."),
        ("mempool_disposed", "disposed", "Elements given to the source's free, or written off."),
    ):
        yield Family(name, "counter", told, [("_total", _labels(key), float(getattr(c, field))) for key, c in of.items()])
    samples = [sample for key, c in of.items() for sample in _histogram(key, c)]
    yield Family("mempool_wait_seconds", "histogram", "How long waits in the line took, whatever their end.", samples)


def _histogram(key: Key, counts: Counts) -> Iterator[tuple[str, tuple[tuple[str, str], ...], float]]:
    seen = 0
    for bound, waits in zip((*map(repr, BUCKETS), "+Inf"), counts.histogram, strict=True):
        seen += waits
        yield ("_bucket", _labels(key, le=bound), float(seen))
    yield ("_sum", _labels(key), counts.wait_seconds)
    yield ("_count", _labels(key), float(seen))


def text_of(of: Iterable[Family]) -> str:
    """Prometheus' text format, version 0.0.4."""
    lines = []
    for family in of:
        if family.samples:
            shown = family.name + ("_total" if family.kind == "counter" else "")
            lines += [f"# HELP {shown} {family.help}", f"# TYPE {shown} {family.kind}"]
            for suffix, labels, value in family.samples:
                told = ",".join(f'{name}="{escaped(text)}"' for name, text in labels)
                number = repr(value) if value % 1 else str(int(value))
                lines.append(f"{family.name}{suffix}{{{told}}} {number}")
    return "\n".join(lines) + "\n" if lines else ""


def escaped(text: str) -> str:
    """As a label's value is written."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
