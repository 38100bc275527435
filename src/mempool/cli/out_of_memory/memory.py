"""How memory runs out in a child: a limit on its address space, and a ballast that takes all that is left.

The ballast takes blocks of a buffer's size, then halves, down to SMALLEST. So everything as large as a buffer is
contested, and is taken again as soon as anybody frees it; what is smaller is not. That is how memory runs out in
earnest: the large allocations fail first, and what the interpreter needs for its own small objects (a file, a hash, a
string) it finds in memory that it has already. `lay_in_stock` makes sure that it has some.
"""

from __future__ import annotations

import resource
import threading
from enum import Enum, auto
from pathlib import Path

#: Bytes. Blocks below it the ballast leaves alone, so a buffer is at least as large.
SMALLEST = 64 * 1024
#: Bytes that bytearray and malloc add to a block at most. With them a block has exactly as many pages as a buffer of the
#: pool. With one page more, it would leave gaps that only the pool can use.
ADDED = 64
#: Seconds between two looks for memory that somebody has freed.
INTERVAL = 0.001

#: For a child's environment, before it starts: glibc's malloc reads these once.
ENVIRONMENT = {
    # An arena per thread reserves 64 MiB of address space each, which is what the limit counts.
    "MALLOC_ARENA_MAX": "1",
    # glibc raises this threshold by itself (to 32 MiB) and would then keep freed buffers in its heap, out of reach of
    # everybody else: what one thread frees is there for all.
    "MALLOC_MMAP_THRESHOLD_": str(SMALLEST - 4096),
}


class LimitIgnoredError(Exception):
    """The system takes a limit and does not enforce it."""


class Level(Enum):
    """How much of the memory below the limit the ballast holds."""

    NOTHING = auto()
    HALF = auto()
    ALL = auto()


def address_space_used() -> int:
    """Bytes of address space in use, as RLIMIT_AS counts them."""
    with Path("/proc/self/statm").open("rb", buffering=0) as statm:
        return int(statm.read(200).split()[0]) * resource.getpagesize()


def resident_max() -> int:
    """Bytes of memory in use at most so far. (ru_maxrss would begin with the parent's.)"""
    with Path("/proc/self/status").open("rb") as status:
        for line in status:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def limit_address_space(size: int) -> int:
    """From now on no more than so many bytes can be mapped. Returns what holds, which a hard limit may make less."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))
    return size


def lift_limit() -> None:
    """As far as the hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def lay_in_stock() -> list[object]:
    """Have the interpreter's allocators own some MiB of free memory in small pieces. Keep what is returned.

    None of it serves a buffer: the free pieces are kept apart by others that stay, so none is as large as a buffer.
    """
    # Objects up to 512 bytes come from pools in arenas of 1 MiB. One object per MiB keeps the arena, the rest is free.
    small = [bytes(440) for _ in range(8 * 2048)]
    stays: list[object] = list(small[::2048])
    # Larger ones, up to a buffer, come from malloc's heap. Every second piece stays: the free ones must not merge.
    pieces = [bytearray(16 * 1024) for _ in range(512)]
    stays += pieces[::2]
    return stays


class Ballast(threading.Thread):
    """Takes what memory is left, in blocks, and goes on taking what is freed."""

    def __init__(self, block: int, allowance: int) -> None:
        super().__init__(name="ballast", daemon=True)
        self.size: int = 0
        self.size_max: int = 0
        self._block = block
        self._implausible = 2 * allowance + (64 << 20)
        self._blocks: list[bytearray] = []
        self._level = Level.NOTHING
        self._news = threading.Condition()
        self._orders = 0
        self._orders_done = 0
        self._ends = False
        self._error: BaseException | None = None

    def be(self, level: Level) -> None:
        """Hold so much, and return when it is so."""
        with self._news:
            self._level = level
            self._orders += 1
            self._news.notify_all()
            self._news.wait_for(lambda: self._orders_done == self._orders or self._error is not None)
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Let go of everything, for good."""
        with self._news:
            self._ends = True
            self._news.notify_all()
        self.join()

    def run(self) -> None:
        """Follow the orders; while the order is ALL, look again and again."""
        try:
            while not self._ends:
                with self._news:
                    is_ordered = self._news.wait_for(
                        lambda: self._orders_done != self._orders or self._ends,
                        INTERVAL if self._level is Level.ALL else None,
                    )
                    order, level = self._orders, self._level
                if level is Level.ALL:
                    self._take()
                elif is_ordered:
                    self._leave(self.size // 2 if level is Level.HALF else 0)
                with self._news:
                    self._orders_done = order
                    self._news.notify_all()
        except BaseException as error:  # noqa: BLE001 - whoever gives the next order hears of it
            with self._news:
                self._error = error
                self._news.notify_all()
        self._leave(0)

    def _take(self) -> None:
        block = self._block
        while block >= SMALLEST:
            try:
                self._blocks.append(bytearray(block - ADDED))
            except MemoryError:
                block //= 2
                continue
            self.size += block
            self.size_max = max(self.size_max, self.size)
            if self.size > self._implausible:
                raise LimitIgnoredError

    def _leave(self, size: int) -> None:
        while self.size > size:
            self.size -= len(self._blocks.pop()) + ADDED
