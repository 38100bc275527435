"""Source: where elements come from, as a type. protocol.py looks for its optional parts."""

from __future__ import annotations

from typing import Protocol, TypeVar

T = TypeVar("T")


class Source(Protocol[T]):
    """Makes and disposes of elements (a factory). `alloc` may raise MemoryError; then the pool uses its reserve.

    Only `alloc` and `free` are required. The pool also uses these, if the source has them:

    - `reset(element)`: is called when an element is returned. If it raises, the element is disposed of.
    - `check(element)`: is called before an element is handed out. If it raises, the element is disposed of.
    - `level`: how the memory of an element is guaranteed.
    - `room_for(elements)`: is called before many elements are made. Returns a `Room` that says how many can be made;
      None: no objection.
    - `regain()`: is called by `Pool.refill`. Brings memory to its level again after a fork.

    If one of these names means something else in your source, set `pool_uses = ()`; or name those that the pool shall use:
    `pool_uses = ("reset",)`.
    """

    def alloc(self) -> T:
        """Make an element; never None."""

    def free(self, element: T, /) -> None:
        """Dispose of an element."""
