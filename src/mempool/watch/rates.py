"""What figures say over time: rates, how long waits of the last minute were, and how many spares there were.

Imports nothing of the package but what `mempool top` loads without the pools.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from mempool.namedtuples import NamedTuple
from mempool.watch.layout import Figures
from mempool.watch.reader import Row
from mempool.watch.words import quantile

#: The last minute is looked at in so many columns of so many seconds.
COLUMNS, COLUMN_SECONDS = 20, 3.0
MARKS = "▁▂▃▄▅▆▇█"


class Rates(NamedTuple):
    """Of one pool."""

    allocs: float
    """A second, since the last look."""
    failures: float
    """Of the source, a second, since the last look."""
    p50: float | None
    """In which half of the waits of the last minute have ended; None: nobody has waited."""
    p99: float | None


NONE = Rates(0.0, 0.0, None, None)


class History:
    """One pool's last minute."""

    __slots__ = ("_column", "_columns", "_last", "_last_at", "allocs", "failures", "figures", "seen")

    def __init__(self, figures: Figures, now: float) -> None:
        self.figures: Figures = figures
        self.allocs: float = 0.0
        self.failures: float = 0.0
        self.seen: float = now
        self._last, self._last_at = figures, now
        self._column = int(now / COLUMN_SECONDS)
        # The fewest spares of each column, and the waits counted at its beginning.
        self._columns: deque[tuple[int, tuple[int, ...]]] = deque([(figures.spare, figures.wait_histogram)], COLUMNS)

    def add(self, figures: Figures, now: float) -> None:
        """Its figures of this moment."""
        self.seen = now
        spare = figures.spare
        column = int(now / COLUMN_SECONDS)
        for _ in range(min(COLUMNS, column - self._column)):
            self._columns.append((spare, figures.wait_histogram))
        self._column = column
        if spare < self._columns[-1][0]:
            self._columns[-1] = (spare, self._columns[-1][1])
        self.figures = figures
        seconds = now - self._last_at
        if seconds > 0:
            self.allocs = max(0, figures.served - self._last.served) / seconds
            self.failures = max(0, figures.source_failures - self._last.source_failures) / seconds
            self._last, self._last_at = figures, now

    def rates(self) -> Rates:
        """Of this moment."""
        waits, before = self.figures.wait_histogram, self._columns[0][1]
        if waits == before:
            return Rates(self.allocs, self.failures, None, None)
        delta = [counted - then for counted, then in zip(waits, before, strict=True)]
        return Rates(self.allocs, self.failures, quantile(delta, 0.5), quantile(delta, 0.99))

    def sparkline(self) -> str:
        """How many spares there were, at the least, in each column; the promise is the full height."""
        full = self.figures.reserve or 1
        return "".join(MARKS[min(7, 8 * spare // full) if spare < full else 7] for spare, _ in self._columns)


class Histories:
    """Of all pools that are looked at again and again."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, int], History] = {}

    def add(self, rows: Sequence[Row], now: float) -> None:
        """All rows of this moment. Who is not among them is gone."""
        of = self.of
        for row in rows:
            if row.figures is not None:
                history = of.get(row.key)
                if history is None:
                    of[row.key] = History(row.figures, now)
                else:
                    history.add(row.figures, now)
        if len(of) > len(rows):
            self.of = {key: history for key, history in of.items() if history.seen == now}

    def rates(self, row: Row) -> Rates:
        """Of this row."""
        history = self.of.get(row.key)
        return NONE if history is None else history.rates()

    def allocs(self, row: Row) -> float:
        """Of this row, a second."""
        history = self.of.get(row.key)
        return 0.0 if history is None else history.allocs


def memory_pressure() -> float | None:
    """How much of the last ten seconds some task has stood still for want of memory, in percent; None: not known."""
    try:
        with open("/proc/pressure/memory", encoding="ascii") as file:
            return float(file.readline().partition("avg10=")[2].split()[0])
    except (OSError, ValueError, IndexError):
        return None
