"""Where rows come from: the pages of this user's processes, and whatever else knows pools.

A source of rows is an object with `rows()`. ROW_SOURCES names those that `ls`, `top`, `why`, `resize` and `export` look at
beside the pages, as "module:function"; the function takes nothing and returns rows. One whose module is not there has none.

Imports nothing of the package but what `mempool top` loads without the pools.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Protocol

from mempool.watch.reader import Page, Reader, Row, rows_of

#: Functions that list pools which no page shows: those of several processes have a file of their own.
ROW_SOURCES: list[str] = ["mempool.watch.shared_pools:rows"]


class RowSource(Protocol):
    """Gives the rows that `top` draws."""

    def rows(self) -> list[Row]:
        """Of this moment."""


class Here:
    """What this user can see on this machine."""

    def __init__(self, directory: str | None = None) -> None:
        self.reader: Reader = Reader(directory)
        self.pages: Sequence[Page] = ()
        self._others: list[Callable[[], list[Row]]] | None = None

    def rows(self) -> list[Row]:
        """Of all processes that live, and of what other sources know."""
        self.pages = tuple(self.reader.pages())
        if self._others is None:
            self._others = [found for name in ROW_SOURCES if (found := _load(name)) is not None]
        rows = rows_of(self.pages)
        for others in self._others:
            rows += others()
        return rows

    def page_of(self, row: Row) -> Page | None:
        """The page from which `rows` has this row; None: it has it from elsewhere."""
        return next((page for page in self.pages if page.stem == row.key[0]), None)


def _load(name: str) -> Callable[[], list[Row]] | None:
    module, _, function = name.partition(":")
    try:
        found: Callable[[], list[Row]] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError):
        return None
    return found
