"""Ticket: one call's elements, and its place in the line of all processes, as the face of every pool knows it.

What it owns is ticket.pxi's business, in C: dropped, it returns it.
"""

from __future__ import annotations

from typing import Any

from mempool.engine import WITHDRAWN, Waker
from mempool.shared._engine import Ticket as Owning

#: Seconds: when the head of the line asks for memory by itself for the first time.
ASK_FIRST = 0.05


class Ticket(Owning):
    """A ticket, as the face knows it."""

    def __init__(self, _tx: object, _wanted: int) -> None:
        self.elements: list[Any] = []
        self.waker: Waker | None = None
        self.owner: Any = None
        self.door: Any = None  # a Door: where its loop is told, and of which place
        self.stood: int = -1
        self.refused = self.retry_now = False
        self.ask_after: float = ASK_FIRST
        self.ask_at: float | None = None
        self.rest_until: float = 0.0

    @property
    def first(self) -> int:
        """Its elements begin here."""
        return 0

    @property
    def count(self) -> int:
        """Its elements end here."""
        return len(self.elements)

    @property
    def has_lost_its_place(self) -> bool:
        """Whether it stands in the line no more though nobody has served it: it is a parent's, or was taken for dead."""
        return self.state == WITHDRAWN

    def wake(self) -> None:
        """Have its caller look."""
        if self.waker is not None:
            self.waker.wake()
