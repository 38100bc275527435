"""Objects: any Python object as an element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from mempool.sources import protocol

T = TypeVar("T")


class Objects(Generic[T]):
    """Elements made by a function.

    make: called without arguments; makes a new object each time; raises MemoryError when it cannot.
    dispose: called with an element that is no longer needed; None: it is dropped.
    reset: called with each element that is returned, before anybody else can have it; None: nothing to do. An element
        whose reset raises is disposed of.
    """

    def __init__(
        self,
        make: Callable[[], T],
        dispose: Callable[[T], object] | None = None,
        reset: Callable[[T], object] | None = None,
    ) -> None:
        if not callable(make):
            raise TypeError(f"Objects: make is a function that makes an element, not {make!r}")
        for what, function in (("make", make), ("dispose", dispose), ("reset", reset)):
            protocol.refuse_async(f"Objects: {what}", function)
        self._make = make
        self._dispose = dispose
        if reset is not None:
            self.reset = reset

    def alloc(self) -> T:
        """Make an element."""
        return self._make()

    def free(self, element: T, /) -> None:
        """Dispose of an element."""
        if self._dispose is not None:
            self._dispose(element)

    def __repr__(self) -> str:
        return f"Objects({getattr(self._make, '__qualname__', self._make)!s})"
