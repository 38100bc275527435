"""Where the bytes of `Buffers` may come from beside the kernel's anonymous memory: shared memory, a file, a device's."""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

from mempool.sizes import in_words
from mempool.sources.protocol import refuse_async


class RegionLike(Protocol):
    """So many bytes, at one place as long as anybody refers to this object."""

    address: int
    """Where they begin."""
    size: int
    """How many."""
    view: memoryview
    """They themselves: writable, contiguous, of format "B"."""


class Provider(Protocol):
    """Gives and takes regions of one size, for `Buffers(memory=...)`.

    A pool writes where a region's `address` says: that it is really there, and stays there as long as anybody refers to the
    region, is the provider's promise. `take` and `give` are called from any thread, and by finalizers in the midst of each
    other: use what is one step, as `deque.pop` and `deque.append` are, and no lock.

    It may have `verified`: a word for how the memory is guaranteed, for `guarantee().level`.
    """

    size: int
    """Bytes of each region."""

    def take(self) -> Any:
        """A region, see RegionLike; raises MemoryError where there is none."""

    def give(self, region: Any, /) -> None:
        """A region that was taken is no longer needed. Nobody looks at it through the pool any more."""


class BufferRegion:
    """A region made of any writable buffer: a slice of `SharedMemory.buf`, of an `mmap`, of a bytearray.

    buffer: writable and contiguous. It is kept as long as anybody refers to the region.
    """

    __slots__ = ("address", "size", "view")

    def __init__(self, buffer: Any) -> None:
        self.view: memoryview = memoryview(buffer).cast("B")
        """The bytes."""
        self.size: int = len(self.view)
        """How many."""
        self.address: int = ctypes.addressof(ctypes.c_char.from_buffer(self.view))
        """Where they begin."""

    def __repr__(self) -> str:
        return f"<BufferRegion of {in_words(self.size)} at {self.address:#x}>"


def require(memory: Any) -> Provider:
    """Raise TypeError, with the way out, where `Buffers` could not use this."""
    for name in ("take", "give"):
        method = getattr(memory, name, None)
        if not callable(method):
            raise TypeError(
                f"Buffers: memory has take() and give(region), see mempool.sources.Provider; {memory!r} has no {name}"
            )
        refuse_async(f"Buffers: the memory's {name}", method)
    size = getattr(memory, "size", None)
    if not isinstance(size, int) or size < 1:
        raise TypeError(f"Buffers: memory has size, the bytes of each region; {memory!r} has {size!r}")
    provider: Provider = memory
    return provider
