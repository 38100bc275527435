# cython: language_level=3
"""Mapping: the memory of a page, into which pools mirror their figures for `mempool.watch`. Decides nothing.

A page is a file that other processes read. In a forked child the parent's page must not change, whoever forked: so the
compiled core has libc put private memory in its place (pthread_atfork), and close the file, whose lock says that its owner
lives. Uncompiled, a fork by C code that Python does not know of is noticed by the process id, at each store.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from typing import TYPE_CHECKING, Any

from mempool import _cython as cython

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if cython.compiled:
    from cython.cimports.libc.string import memcpy

#: The words of a slot, as watch/layout.py describes them: a sequence number, the pool's number, and its figures.
_SEQUENCE = struct.Struct("<q")
_NUMBERS = struct.Struct("<48q2d")


@cython.final
@cython.cclass
class Mapping:
    """The first `size` bytes of the file `fd`, shared with whoever reads it. One a process; the file stays the caller's."""

    base: cython.longlong  # compiled: the address; uncompiled: the process that it belongs to
    size: cython.Py_ssize_t
    memory: Any  # uncompiled

    def __cinit__(self) -> None:
        self.base = 0

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self.memory = None
        if cython.compiled:
            base: cython.longlong = mempool_map(fd, size)  # type: ignore[name-defined]
            if base < 0:
                raise OSError(-base, os.strerror(-base))
            self.base = base
        else:
            # Before 3.13 a mapping has a descriptor of its own, which it closes at its end, whosever that is by then.
            options: Any = {"trackfd": False} if sys.version_info >= (3, 13) else {}
            self.memory = mmap.mmap(fd, size, **options)
            self.base = os.getpid()

    def __dealloc__(self) -> None:
        if cython.compiled and self.base != 0:
            mempool_unmap(self.base, self.size)  # type: ignore[name-defined]

    def is_shared(self) -> bool:
        """Whether what is stored here can be read from outside: no fork has come in between."""
        if cython.compiled:
            return mempool_mapped_at(self.base) >= 0  # type: ignore[name-defined,no-any-return]
        return self.base == os.getpid()

    def store(self, at: cython.Py_ssize_t, data: bytes) -> None:
        """Put these bytes there. Where nobody can read them any more, they are the process's own business."""
        length: cython.Py_ssize_t = len(data)
        if at < 0 or at + length > self.size:
            raise IndexError("outside of the page")
        if cython.compiled:
            memcpy(cython.cast(cython.p_char, self.base) + at, cython.cast(cython.p_char, data), length)
        elif self.is_shared():
            self.memory[at : at + length] = data

    def let_go(self) -> None:
        """Say that the caller closes the file, or, uncompiled in a forked child, close what is left of the parent's."""
        if cython.compiled:
            mempool_let_go(self.base)  # type: ignore[name-defined]
        else:
            self.memory.close()


class Mirror:
    """Uncompiled: where the figures of one pool go when a decision is made. (Compiled, the state has a pointer.)"""

    def __init__(self, mapping: Mapping, at: int) -> None:
        self.mapping = mapping
        self.at = at

    def store(self, state: Any) -> None:
        """Mirror these figures, between an odd and an even sequence number. Raises nothing for want of memory."""
        if not self.mapping.is_shared():
            return
        memory: Any = self.mapping.memory
        try:
            before = _SEQUENCE.unpack_from(memory, self.at)[0] | 1
            _SEQUENCE.pack_into(memory, self.at, before)
            _NUMBERS.pack_into(memory, self.at + 16, *figures_of(state))
            _SEQUENCE.pack_into(memory, self.at, before + 1)
        except (MemoryError, ValueError):
            pass  # the next decision mirrors all of it; or the mapping is closed


def figures_of(state: Any) -> tuple[Any, ...]:
    """The figures of a state, in the order of watch/layout.py; `mirror_state` in state.pxd is the same."""
    return (
        state.reserve,
        state.keep,
        -1 if state.limit == sys.maxsize else state.limit,
        state.closed,
        state.spare,
        state.made,
        state.disposed,
        state.disposing,
        state.written_off,
        state.permits,
        state.fills,
        state.starved,
        state.lingering,
        state.waiting,
        state.from_spare,
        state.from_source,
        state.from_reserve,
        state.from_line,
        state.resizes,
        state.source_failures,
        *state.waits[:5],
        *state.wait_histogram,
        state.wait_seconds_total,
        state.wait_seconds_max,
    )
