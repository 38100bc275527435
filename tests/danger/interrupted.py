"""A pool whose call an interrupt cuts short, its source, and what was taken: for the sweeps of interrupts."""

from __future__ import annotations

from typing import Any

from books import assert_at_rest

from mempool import Buffer, Pool
from mempool.clock import SYSTEM_CLOCK


class Counting:
    """A source that counts what was made and what was disposed of, and fails on demand."""

    def __init__(self, source: Any) -> None:
        self.source, self.made, self.fails = source, 0, False
        self._gone: list[Any] = []

    @property
    def disposed(self) -> int:
        return len(self._gone)

    def alloc(self) -> Any:
        if self.fails:
            raise MemoryError
        element = self.source.alloc()
        self.made += 1
        return element

    def free(self, element: Any) -> None:
        # A buffer whose free an interrupt has cut short still has its memory, and is freed again when it is dropped: that is
        # one buffer. Of anything else a second call is a second element.
        what = element.block if type(element) is Buffer else object()
        if what not in self._gone:
            self._gone.append(what)
        self.source.free(element)


class Scene:
    """A pool, and what a call under test (mine) and others have taken from it."""

    def __init__(self, source: Any, reserve: int, *, reset: bool = False, **options: Any) -> None:
        self.source = Counting(source)
        if reset:
            self.source.reset = lambda element: None  # type: ignore[attr-defined]
        self.pool: Pool[Any] = Pool(self.source, reserve, name="scene", **options)
        self.mine: list[Any] = []
        self.others: list[Any] = []
        self.views: list[Any] = []

    def take(self, n: int) -> list[Any]:
        return [self.pool.alloc() for _ in range(n)]

    def end(self) -> None:
        """Give back what is known to be out, and look."""
        self.source.fails = False
        for element in self.mine + self.others:
            if self.pool.core.is_out(element):
                self.pool.free(element)
        self.pool._clock = SYSTEM_CLOCK  # no cycle that keeps it alive: who looks for a deadlock looks at every pool
        assert_at_rest(self.pool)
        stats = self.pool.stats()
        assert self.source.made - self.source.disposed == stats.made - stats.disposed
