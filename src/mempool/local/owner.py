"""Owner: what a buffer knows of its pool."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mempool.buffer import Buffer
    from mempool.local.returning import Returning


class Owner:
    """To whom a buffer belongs. What it knows of its pool, which it must not keep alive."""

    __slots__ = ("_returning", "_source", "name")

    def __init__(self, name: str, source: Any) -> None:
        self.name: str = name
        self._returning: weakref.ref[Returning] | None = None
        self._source = source

    def belongs_to(self, returning: Returning) -> None:
        """Say who takes back what was dropped."""
        self._returning = weakref.ref(returning)

    def reclaim(self, dropped: list[Buffer]) -> str:
        """Take back a buffer that its user has dropped. Returns what to warn of, if anything."""
        returning = None if self._returning is None else self._returning()
        if returning is None:
            self._source.free(dropped[0])
            return ""
        return returning.reclaim(dropped)
