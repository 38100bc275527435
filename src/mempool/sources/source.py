"""Source: where elements come from, as a type. protocol.py looks for its optional parts."""

from __future__ import annotations

from typing import Protocol, TypeVar

T = TypeVar("T")


class Source(Protocol[T]):
    """Where elements come from. `alloc` may fail with MemoryError.

    It may have more: `reset(element)`, called with what is returned, and `check(element)`, called with what is about to
    be handed out; an element at which one of them raises is disposed of. `level`: how its memory is guaranteed.
    `room_for(elements)`, which returns a `Room`, how many more could be made, or None: asked before many are. `regain()`,
    which brings memory to its level again where a fork took it: `Pool.refill` calls it.

    A source to which such a name means another thing says so: `pool_uses = ()`, or `pool_uses = ("reset",)` for some.
    """

    def alloc(self) -> T:
        """Make an element; never None."""

    def free(self, element: T, /) -> None:
        """Dispose of an element."""
