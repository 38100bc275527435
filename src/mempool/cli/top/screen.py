"""What `mempool top` draws: the lines of a frame, of so many columns. Draws nothing by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mempool.cli.tables import fit, width_of
from mempool.watch import words
from mempool.watch.rates import COLUMNS, Histories, Rates
from mempool.watch.reader import Row

#: The columns from left to right: name, width, aligned right. The last takes what is left.
TABLE: tuple[tuple[str, int, bool], ...] = (
    ("POOL", 12, False),
    ("PROCESS", 18, False),
    ("PROMISE", 7, True),
    ("SPARE", 6, True),
    ("OUT", 6, True),
    ("LINE", 5, True),
    ("ALLOC/s", 8, True),
    ("P50", 5, True),
    ("P99", 5, True),
    ("FAIL/s", 6, True),
    ("SPARE, 60 s", COLUMNS, False),
    ("STATE", 0, False),
)
#: What goes first where a terminal is narrow.
DISPENSABLE = ("SPARE, 60 s", "P50", "FAIL/s", "ALLOC/s", "P99", "PROCESS", "OUT", "PROMISE", "LINE", "SPARE")
STATE_MIN = 12
#: How badness looks, beside its words: red, red, yellow, cyan; nothing more for the rest.
COLOURS = ("31", "31", "33", "36", "2", "")
KEYS = " q quit   / filter   s sort   enter why   r resize   p pause"
ORDERS = ("state", "line", "alloc/s", "name")


class View:
    """What the user has chosen to see."""

    def __init__(self, *, colour: bool = True) -> None:
        self.order: str = ORDERS[0]
        self.filter: str = ""
        self.selected: tuple[str, int] | None = None
        self.first: int = 0
        self.is_paused: bool = False
        self.prompt: str | None = None
        self.said: list[str] = []
        self.colour: bool = colour
        self._cache: dict[tuple[str, int], tuple[object, ...]] = {}
        self._layout: tuple[int, tuple[tuple[str, int, bool], ...]] = (0, ())

    # -- which rows

    def chosen(self, rows: Sequence[Row], histories: Histories) -> list[Row]:
        """Those that fit the filter, in the user's order. The selection stays with its pool."""
        if self.filter:
            wanted = self.filter.casefold()
            rows = [row for row in rows if wanted in f"{row.target} {row.process}".casefold()]
        keys: dict[str, Callable[[Row], tuple[object, ...]]] = {
            "state": lambda row: (words.state_of(row.figures, row.why)[0], row.pool, row.where),
            "line": lambda row: (-(row.figures.waiting if row.figures else 0), row.pool, row.where),
            "alloc/s": lambda row: (-histories.allocs(row), row.pool, row.where),
            "name": lambda row: (row.pool, row.where),
        }
        ordered = sorted(rows, key=keys[self.order])
        if ordered and self.selected not in {row.key for row in ordered}:
            self.selected = ordered[0].key
        return ordered

    def move(self, rows: Sequence[Row], by: int) -> None:
        """Select another row."""
        keys = [row.key for row in rows]
        if keys:
            at = keys.index(self.selected) if self.selected in keys else 0
            self.selected = keys[max(0, min(len(keys) - 1, at + by))]

    # -- what they look like

    def frame(self, rows: Sequence[Row], histories: Histories, head: str, columns: int, height: int) -> list[str]:
        """Exactly `height` lines, none wider than `columns`."""
        shown = self.chosen(rows, histories)
        table = self.table(columns)
        said = self._sayings(shown, columns)
        room = max(1, height - 3 - len(said))
        at = next((number for number, row in enumerate(shown) if row.key == self.selected), 0)
        self.first = max(0, min(max(at - room + 1, min(self.first, at)), max(0, len(shown) - room)))
        lines = [self._style(fit(head, columns), "1"), self._style(fit(self._names(table), columns), "4")]
        lines += [self._line(row, histories, table, columns) for row in shown[self.first : self.first + room]]
        lines += [""] * (height - len(said) - 1 - len(lines))
        lines += [fit(text, columns).rstrip() for text in said]
        keys = self.prompt if self.prompt is not None else KEYS + ("   PAUSED" if self.is_paused else "")
        lines.append(self._style(fit(keys, columns), "7"))
        return lines[-height:] if height < 4 else lines[:height]

    def table(self, columns: int) -> tuple[tuple[str, int, bool], ...]:
        """The columns that have room, each with its width."""
        if self._layout[0] == columns:
            return self._layout[1]
        left = list(TABLE)
        for name in DISPENSABLE:
            if sum(width + 1 for _, width, _ in left) + STATE_MIN <= columns:
                break
            left = [column for column in left if column[0] != name]
        state = columns - sum(width + 1 for name, width, _ in left if name != "STATE")
        wider = max(0, state - 34) // 2  # what nobody needs for a state
        sized = [
            (name, state - 2 * wider if name == "STATE" else width + (wider if name in {"POOL", "PROCESS"} else 0), right)
            for name, width, right in left
        ]
        self._layout = (columns, tuple(sized))
        self._cache.clear()
        return self._layout[1]

    def _names(self, table: Sequence[tuple[str, int, bool]]) -> str:
        return " ".join(fit(name, max(0, width), right=right) for name, width, right in table)

    def _line(self, row: Row, histories: Histories, table: Sequence[tuple[str, int, bool]], columns: int) -> str:
        history = histories.of.get(row.key)
        rates = histories.rates(row)
        spark = history.sparkline() if history is not None else ""
        is_selected = row.key == self.selected
        basis = (row.figures, row.why, rates, spark, is_selected)
        known = self._cache.get(row.key)
        if known is not None and known[:-1] == basis:
            return str(known[-1])
        badness, state = words.state_of(row.figures, row.why)
        cells = self._cells(row, rates, spark)
        cells["STATE"] = state
        body = " ".join(
            fit(cells[name], width, right=right) for name, width, right in table if name != "STATE" and width > 0
        )
        if width_of(body) > columns:
            body = fit(body, columns)
        told = fit(state, max(0, columns - width_of(body) - 1))
        if is_selected:
            line = self._style(fit(f"{body} {told}", columns), "7")
        else:
            line = f"{body} {self._style(told.rstrip(), COLOURS[badness])}" if told else body
        if len(self._cache) > 2000:
            self._cache.clear()
        self._cache[row.key] = (*basis, line)
        return line

    def _cells(self, row: Row, rates: Rates, spark: str) -> dict[str, str]:
        f = row.figures
        cells = {"POOL": row.pool, "PROCESS": f"{row.process} {row.where}", "SPARE, 60 s": spark.rjust(COLUMNS)}
        if f is None:
            return {**dict.fromkeys((name for name, _, _ in TABLE), ""), **cells}
        cells.update(PROMISE=str(f.reserve), SPARE=str(f.spare), OUT=str(f.out), LINE=str(f.waiting))
        cells["ALLOC/s"] = f"{rates.allocs:.0f}"
        cells["FAIL/s"] = f"{rates.failures:.0f}"
        cells["P50"] = words.seconds(rates.p50)
        cells["P99"] = words.seconds(rates.p99)
        return cells

    def _sayings(self, shown: Sequence[Row], columns: int) -> list[str]:
        """What is said below the table: an answer, else `why` of the selected row by its figures."""
        if self.said:
            return wrapped(self.said, columns - 1)
        for row in shown:
            if row.key == self.selected:
                return [f" {row.pool}: {row.why if row.figures is None else words.sentence(row.figures)}"]
        return [
            " no pool is shown; run a program with MEMPOOL_WATCH=numbers"
            + (f" (filter: {self.filter})" if self.filter else "")
        ]

    def _style(self, text: str, code: str) -> str:
        """A text in this style. Reverse and bold are kept where colours are not wanted."""
        if not code or not text or (not self.colour and code not in {"1", "7"}):
            return text
        return f"\x1b[{code}m{text}\x1b[0m"


def wrapped(texts: Sequence[str], width: int) -> list[str]:
    """At most eight lines of no more than so many columns."""
    lines: list[str] = []
    for text in texts:
        line = ""
        for word in text.split():
            if line and len(line) + 1 + len(word) > width:
                lines.append(line)
                line = ""
            line = f"{line} {word}"
        lines.append(line)
    return lines[:8]


def head_of(rows: Sequence[Row], pressure: float | None) -> str:
    """The first line: what there is, and how short memory is."""
    processes = len({row.key[0] for row in rows})
    queued = sum(1 for row in rows if row.figures is not None and row.figures.waiting)
    what = f"{counted(processes, 'process', 'es')}, {counted(len(rows), 'pool', 's')}, {queued} with a line"
    told = "" if pressure is None else f"   memory pressure {pressure:.2f} %"
    return f"mempool top   {what}{told}"


def counted(number: int, noun: str, plural: str) -> str:
    """A number and its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{plural}"
