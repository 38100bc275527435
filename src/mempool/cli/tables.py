"""Tables of pools as plain text. Imports nothing of the package but what `mempool top` loads without the pools."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from mempool.watch.reader import Row
from mempool.watch.words import state_of

HEAD = ("POOL", "PROCESS", "PROMISE", "SPARE", "OUT", "LINE", "LIMIT", "FAILURES", "STATE")
#: Which columns hold numbers.
RIGHT = frozenset({"PROMISE", "SPARE", "OUT", "LINE", "LIMIT", "FAILURES"})


def width_of(text: str) -> int:
    """How many columns a terminal gives this text."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text
    )


def fit(text: str, width: int, *, right: bool = False) -> str:
    """A text in exactly so many columns; what is cut off is marked."""
    wide = width_of(text)
    if wide > width:
        kept = ""
        for letter in text:
            if width_of(kept + letter) > width - 1:
                break
            kept += letter
        text, wide = kept + "…" if width > 0 else "", width_of(kept) + 1
    pad = " " * max(0, width - wide)
    return pad + text if right else text + pad


def lines_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table with aligned columns."""
    widths = [max(width_of(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(
            fit(cell, width, right=name in RIGHT) for cell, width, name in zip(row, widths, head, strict=True)
        ).rstrip()
        for row in (head, *rows)
    ]


def cells(row: Row) -> tuple[str, ...]:
    """What `ls` shows of a pool."""
    f = row.figures
    state = state_of(f, row.why)[1]
    if f is None:
        return (row.pool, f"{row.process} {row.where}", *"------", state)
    limit = "-" if f.limit is None else str(f.limit)
    numbers = (f.reserve, f.spare, f.out, f.waiting)
    return (row.pool, f"{row.process} {row.where}", *map(str, numbers), limit, str(f.source_failures), state)
