"""Owner: what a shared pool's buffers know of their pool, as local/owner.py is for those of one process."""

from __future__ import annotations

import weakref
from typing import Any

from mempool.buffer import Buffer
from mempool.shared.errors import ClientGone


class Owner:
    """To whom a buffer belongs. What it knows of its pool, which it must not keep alive."""

    def __init__(self, engine: Any) -> None:
        self.name: str = engine.name
        self._engine = weakref.ref(engine)

    def reclaim(self, dropped: list[Buffer]) -> str:
        """Take back a buffer that its user has dropped. Returns what to warn of, if anything."""
        engine = self._engine()
        try:
            return "" if engine is None else str(engine.take_dropped(dropped))
        except ClientGone:
            return ""  # a child of a fork that has not attached yet: what it drops is its parent's

    def free(self, _buffer: Buffer) -> None:
        """A buffer that never was out is dropped: its ticket has the element."""
