"""Objects: any Python object as an element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from mempool.sources import protocol

T = TypeVar("T")


class Objects(Generic[T]):
    """Makes elements of any type by calling a function.

    make: a function without arguments that returns a new object at each call, and raises MemoryError when it cannot.
    dispose: a function that is called with an element that the pool no longer needs; None: the element is dropped.
    reset: a function that is called with each element that is returned, before anybody else gets it; None: nothing is
        called. If it raises, the element is disposed of.
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
