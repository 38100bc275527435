"""Who calls: threads that stand in the line, and named ones that do as they are told, for tests of who holds and who waits.

Threads and tasks alike are called by `mempool.testing.contract.callers`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from mempool import Objects, Pool
from mempool.testing.contract.callers import ThreadCallers, in_line

SOON = 60  # seconds


def make(name: str, elements: int = 1) -> Pool[Any]:
    """A pool with so many elements, that tracks who holds them."""
    return Pool(Objects(bytearray), elements, limit=elements, name=name, track="holders")


def waiter(pool: Pool[Any], wanted: int = 1) -> Future[Any]:
    """Somebody who stands in the line for so many, in a thread; or who has got them, if nobody need wait."""
    return in_line(pool, lambda: ThreadCallers().call(pool, "alloc_many", wanted))


class Caller:
    """A named thread that does one thing after another, each when it is told to."""

    def __init__(self, name: str) -> None:
        self._todo: list[tuple[Callable[[], object], Future[Any]]] = []
        self._more = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def does(self, call: Callable[[], object]) -> Future[Any]:
        done: Future[Any] = Future()
        self._todo.append((call, done))
        self._more.release()
        return done

    def take(self, pool: Pool[Any]) -> Any:
        """An element that it says is its own, so that nobody else will free it."""

        def take() -> Any:
            element = pool.alloc()
            pool.take_over(element)
            return element

        return self.does(take).result(SOON)

    def waits(self, pool: Pool[Any]) -> Future[Any]:
        """Have it stand in the line."""
        return in_line(pool, lambda: self.does(pool.alloc))

    def _run(self) -> None:
        while self._more.acquire() and self._todo:
            call, done = self._todo.pop(0)
            try:
                done.set_result(call())
            except BaseException as error:  # noqa: BLE001 - for whoever asks for the result
                done.set_exception(error)

    def ends(self) -> None:
        self._more.release()
        self._thread.join(SOON)
        assert not self._thread.is_alive()
