"""Ticket: one call's elements, and its place in the line of all processes, as the face of every pool knows it.

What it owns is ticket.pxi's business, in C: dropped, it returns it.
"""

from __future__ import annotations

from mempool.engine import WITHDRAWN
from mempool.shared._engine import Ticket as Owning


class Ticket(Owning):
    """A ticket, as the face knows it."""

    __slots__ = ()

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
