"""What a buffer knows of its pool."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mempool.buffer import Buffer
    from mempool.traffic import Traffic


class Home:
    """Where a buffer belongs. What it knows of its pool, which it must not keep alive."""

    __slots__ = ("_pool", "_source", "name")

    def __init__(self, pool: Traffic, source: Any) -> None:
        self.name: str = pool.name
        self._pool = weakref.ref(pool)
        self._source = source

    def recover(self, dropped: list[Buffer]) -> str:
        """Its user has dropped it. Returns what to warn of, if anything."""
        pool = self._pool()
        if pool is None:
            self._source.free(dropped[0])
            return ""
        return pool._recover(dropped)
