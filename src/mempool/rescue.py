"""rescue: a ballast that is thrown off when memory runs out, so that the error path has some to work with."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from mempool.sizes import in_words
from mempool.sources.memory import Memory, Region


class rescue:  # noqa: N801 - reads as a verb: `with mempool.rescue("8 MiB"):`
    """So many bytes that are free again as soon as a MemoryError leaves the block, before anybody handles it.

        try:
            with mempool.rescue("8 MiB") as r:
                answer = work(request)
        except MemoryError:         # here are 8 MiB: logging, flushing and answering work
            log.error("out of memory; ballast used: %s", bool(r.used))
            answer = SORRY

    size: bytes, as a number or in words.
    level: of what kind of memory the ballast is; see `mempool.sources.Memory`.

    What it does: the constructor takes the ballast, and raises MemoryError where there is none; an error path that needs
    no ballast is better than one that only seems to have one. When a MemoryError (alone or in an exception group) leaves
    the block, the ballast goes back to the system at once. It is taken again when the block is entered next, or left
    without a MemoryError; where memory is still short, quietly not, and `ready` is False. Between two uses the ballast
    stays, until the object is dropped or closed: make one per process and enter it around each request. Any number of
    threads and tasks may be inside at once; the first that fails throws it off for all.

    What it cannot do: run before a handler that stands inside the block, or in a function called there; Python tells nobody
    of an exception before it is handled, short of tracing every line. Such a handler begins with `r.release()`, which
    needs no memory. And it helps against no killer: a process that the kernel's out-of-memory killer has chosen raises
    nothing.
    """

    def __init__(self, size: int | str, *, level: str = "resident") -> None:
        self._memory = Memory(size, level=level, name=f"rescue({size!r})")
        self._ballast: list[Region] = [self._memory.take()]
        self._closed = False
        self.used: int = 0
        """How often the ballast was thrown off."""

    @property
    def size(self) -> int:
        """Bytes of the ballast."""
        return self._memory.size

    @property
    def ready(self) -> bool:
        """Whether there is a ballast to throw off."""
        return bool(self._ballast)

    def __enter__(self) -> Self:
        self._take()
        return self

    def __exit__(self, _type: type[BaseException] | None, exc: BaseException | None, _trace: TracebackType | None) -> None:
        if exc is not None and _is_of_memory(exc):
            self.release()
        else:
            self._take()

    def release(self) -> None:
        """Throw the ballast off now: for a handler inside the block, as its first line."""
        try:
            region = self._ballast.pop()
        except IndexError:
            return  # somebody else has
        self.used += 1
        self._drop(region)

    def close(self) -> None:
        """Give the ballast back for good."""
        self._closed = True
        while self._ballast:
            self._drop(self._ballast.pop())

    def _take(self) -> None:
        if self._ballast or self._closed:
            return
        try:
            self._ballast.append(self._memory.take())
        except MemoryError:
            return  # as before it was thrown off; the next time, perhaps
        if len(self._ballast) > 1:  # another thread did the same
            self._drop(self._ballast.pop())

    def _drop(self, region: Region) -> None:
        try:
            self._memory.give(region)
        except MemoryError:
            pass  # not even for a few bytes; dropping the last reference unmaps it

    def __repr__(self) -> str:
        return f"<rescue of {in_words(self.size)}: {'ready' if self.ready else 'thrown off'}, used {self.used} times>"


def _is_of_memory(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions:  # noqa: SIM110 - a generator would need memory
            if _is_of_memory(inner):
                return True
        return False
    return isinstance(exc, MemoryError)
