"""Buffers: page-aligned memory that is really there."""

from __future__ import annotations

import errno
import mmap

from mempool.sources.sizes import parse_size

#: Linux 5.14: populate (prefault) the pages for writing; not in the mmap module. Source: madvise(2).
MADV_POPULATE_WRITE = 23


class Buffers:
    """Elements of so many bytes, each an anonymous private mapping of whole pages.

    size: bytes, as a number or in words: 65536, "64 KiB", "1.5 MiB".

    Every page is populated before `alloc` returns, so that using it later can neither fail nor fault in new pages. An
    element is a `mmap.mmap`: writable, `len(element) == size`, for `readinto`, `recv_into`, `memoryview`, slices.
    Memory that cannot be had raises MemoryError.
    """

    def __init__(self, size: int | str) -> None:
        self.size: int = parse_size(size)

    def alloc(self) -> mmap.mmap:
        """Map and populate an element."""
        try:
            element = mmap.mmap(-1, self.size)
        except OSError as error:
            raise MemoryError(f"Buffers: no {self.size} bytes: {error.strerror}") from error
        try:
            _populate(element)
        except BaseException:
            element.close()
            raise
        return element

    def free(self, element: mmap.mmap, /) -> None:
        """Unmap an element. One that is still viewed by somebody is unmapped when the last view dies."""
        try:
            element.close()
        except BufferError:
            pass  # dropping the reference does it, when the views are gone

    def __repr__(self) -> str:
        return f"Buffers({self.size})"


def _populate(element: mmap.mmap) -> None:
    if hasattr(element, "madvise"):
        try:
            element.madvise(MADV_POPULATE_WRITE)
            return
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: a kernel before 5.14
                raise MemoryError(f"Buffers: {len(element)} bytes cannot be populated: {error.strerror}") from error
    for offset in range(0, len(element), mmap.PAGESIZE):
        element[offset] = 0
