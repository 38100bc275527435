"""Buffers: memory that is really there."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable
from typing import ClassVar

from mempool.buffer import EXPORTS, Block, Buffer, handle_of
from mempool.errors import PoisonError
from mempool.sources import forks, provider
from mempool.sources.entering import was_entered
from mempool.sources.memory import Memory
from mempool.sources.protocol import Room
from mempool.sources.provider import Provider

#: What a poisoned spare holds, and its last byte. Source: Linux, include/linux/poison.h.
POISON_FREE, POISON_END = 0x6B, 0xA5
#: Bytes of the memory that a PoisonError shows.
DUMPED = 16
#: Said once, by the first `Buffers`.
NO_EXPORTS = (
    "mempool: this is Python 3.11 and the core is not compiled, so code in C does not take a Buffer itself: hand it the "
    "view buf[:], as in file.readinto(buf[:]); or install mempool with a C compiler, or use Python 3.12 or later"
)
_ZERO = ("never", "free", "alloc")

_memcmp = (ctypes.cdll.msvcrt if os.name == "nt" else ctypes.CDLL(None)).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Buffers:
    """Makes buffers of a fixed size, whose memory is really there. Each element is a `mempool.Buffer`.

    size: bytes, as a number or in words: 65536, "64 KiB", "1.5 MiB". Small ones share pages.
    level: how much of the memory is really there: "virtual", "backed", "resident", "locked" or "huge"; see
        `mempool.sources.memory.Memory`. It is verified; memory that cannot be had at this level raises MemoryError.
    align: the address is a multiple of it: a power of two up to 2 MiB; None: a page, or less for small elements.
    huge: ask for transparent huge pages.
    zero: "free": a buffer is wiped when it is returned; "alloc": it is wiped before it is handed out; "never": neither.
    poison: fill spares with a pattern, and raise PoisonError if one was written to; MEMPOOL_POISON=1 does the same.
    numa_node: the NUMA node on which the pages lie; None: the kernel chooses.
    dontfork: keep the memory out of children of a fork, for memory that is pinned, registered with a device or read into
        past the cache. A child's pool has lost its spares and makes new ones; a buffer from before the fork raises
        UseAfterFree there, and is accepted, and disposed of, when it is freed. Its views from before must not be used.
    memory: where the bytes come from, in place of the kernel's anonymous memory: an object that gives and takes regions,
        see `mempool.sources.Provider`. It decides the size and all options about memory above.

    Raises ValueError or TypeError for options that can never be met.
    """

    def __init__(
        self,
        size: int | str | None = None,
        *,
        level: str = "resident",
        align: int | None = None,
        huge: bool = False,
        zero: str = "never",
        poison: bool = False,
        numa_node: int | None = None,
        dontfork: bool = False,
        memory: Provider | None = None,
    ) -> None:
        if zero not in _ZERO:
            raise ValueError(f'Buffers: zero is "never", "free" or "alloc", not {zero!r}')
        self._memory: Provider
        if memory is not None:
            if size is not None or (level, align, huge, numa_node, dontfork) != ("resident", None, False, None, False):
                raise TypeError(
                    "Buffers: with memory=, the memory decides on size, level, align, huge, numa_node and dontfork; "
                    "leave them out"
                )
            self._memory = provider.require(memory)
        elif size is None:
            raise TypeError('Buffers: say how large an element is, as in Buffers("1 MiB"), or give memory=')
        else:
            self._memory = Memory(
                size,
                level=level,
                align=align,
                huge=huge,
                numa_node=numa_node,
                dontfork=dontfork,
                name=f"Buffers({size!r})",
            )
        if not EXPORTS:
            self._warn_once()
        self._mortal: dict[int, Block] | None = None
        if dontfork:
            self._mortal = {}
            forks.register(self)
        self.size: int = self._memory.size
        self._zero = zero
        self._poison = poison or os.environ.get("MEMPOOL_POISON", "") not in ("", "0")
        # There only where needed: a pool that has to call them cannot take its fast path.
        if zero == "free" or self._poison:
            self.reset: Callable[[Buffer], None] = self._wipe
        if zero == "alloc" or self._poison:
            self.check: Callable[[Buffer], None] = self._inspect

    _warned: ClassVar[bool] = False

    @classmethod
    def _warn_once(cls) -> None:
        if not Buffers._warned:
            Buffers._warned = True
            warnings.warn(NO_EXPORTS, RuntimeWarning, stacklevel=3)

    @property
    def level(self) -> str | None:
        """The level that was verified, and holds now for each element; None before the first."""
        return getattr(self._memory, "verified", None)

    def regain(self) -> None:
        """In a forked child: bring elements from before the fork to their level again. `Pool.refill` calls it."""
        if isinstance(self._memory, Memory):
            self._memory.regain()

    def room_for(self, elements: int) -> Room | None:
        """None where nothing speaks against so many more elements; else how many there is room for: see `Memory`."""
        return self._memory.room_for(elements) if isinstance(self._memory, Memory) else None

    def alloc(self) -> Buffer:
        """Map an element, or a block of small ones, and bring it to its level."""
        region = self._memory.take()
        buffer: Buffer | None = None
        try:
            buffer = handle_of(Block(region, self))
            if self._mortal is not None:
                self._mortal[id(buffer.block)] = buffer.block
            buffer.begin()
        except BaseException:
            if buffer is None or not buffer.is_alive():
                self._memory.give(region)
            raise
        if self._poison or self._zero == "free":
            self._wipe(buffer)
        return buffer

    def free(self, element: Buffer, /) -> None:
        """Give its memory back; the handle is dead then. Raises BufferError while somebody views it."""
        if element.block.source is not self:
            raise ValueError(f"{self!r}: this buffer is of another source; free it there")
        if element.block.is_lost:
            element._forsake()
            return
        if self._mortal is not None:
            self._mortal.pop(id(element.block), None)
        if self._zero == "free":
            element.fill(0)
        try:
            region = element.detach()
        except MemoryError:
            region = element.detach()  # once more: who frees an element does not come back
        try:
            self._memory.give(region)
        except BaseException as error:
            if was_entered(self._memory.give, error):
                raise
            self._memory.give(region)  # once more: the buffer has no memory any longer
            if not isinstance(error, MemoryError):
                raise

    def _pin(self) -> object:
        """Before a fork: all elements live until the child knows that they are lost."""
        return list((self._mortal or {}).values())

    def _lose(self) -> None:
        """In a child: what was made before the fork is not there."""
        lost, self._mortal = self._mortal or {}, {}
        for block in list(lost.values()):
            block.lose()

    def _wipe(self, element: Buffer) -> None:
        """An element lies in the pool from now on."""
        if element.block.is_lost:
            return
        if self._poison:
            element.fill(POISON_FREE)
            element[-1] = POISON_END
        else:
            element.fill(0)

    def _inspect(self, element: Buffer) -> None:
        """An element is about to be handed out."""
        if self._poison and not _is_poisoned(element):
            raise PoisonError(_tell_damage(element))
        if self._zero != "never":
            element.fill(0)

    def __repr__(self) -> str:
        return f"Buffers({self.size})"


def _is_poisoned(element: Buffer) -> bool:
    size = len(element)
    if element[-1] != POISON_END or (size > 1 and element[0] != POISON_FREE):
        return False
    # The memory but its last byte, compared with itself one byte further: all bytes are alike.
    try:
        return size <= 2 or _memcmp(element.address, element.address + 1, size - 2) == 0
    except ctypes.ArgumentError:  # so ctypes says that it cannot have a few bytes
        raise MemoryError(f"{element!r}: no memory to call memcmp with") from None


def _tell_damage(element: Buffer) -> str:
    with element[:] as view:
        good = bytes([POISON_FREE]) * 65536
        offset = 0
        while offset + len(good) < len(view) and view[offset : offset + len(good)] == good:
            offset += len(good)
        while offset < len(view) - 1 and view[offset] == POISON_FREE:
            offset += 1
        dump = bytes(view[offset : offset + DUMPED]).hex(" ")
        return (
            f"{element!r}: the byte at offset {offset} was written after the buffer was freed, or beyond the end of "
            f"another: {dump} where {POISON_FREE:02x} ... {POISON_END:02x} should be. Somebody uses memory that is not his"
        )
