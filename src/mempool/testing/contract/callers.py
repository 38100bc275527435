"""Who calls: a thread, or a task of an event loop. The tests are the same for both."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol

from mempool.lease import Lease
from mempool.leases import Leases
from mempool.pool import Pool
from mempool.testing.waiting import wait_until


class Callers(Protocol):
    """Makes calls to a pool, here and in the background."""

    def call(self, pool: Pool[Any], name: str, *args: Any, **options: Any) -> Future[Any]:
        """Begin a call ("alloc", "alloc_many") of its own thread or task."""

    def enter(self, lease: Lease[Any] | Leases[Any]) -> Future[Any]:
        """Begin to enter a lease."""

    def leave(self, lease: Lease[Any] | Leases[Any]) -> Future[Any]:
        """Leave a lease that was entered."""

    def close(self) -> None:
        """No more calls; the test is over."""


class _OfAThread(Future[Any]):
    """What comes of a call in a thread of its own. Who has it has it alone: the thread has ended.

    For whoever waits goes on as soon as set_result tells, while the thread that calls it still refers to the result. So a
    dropped buffer went back to its pool at any later moment, also while a test read the pool's figures.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is the result
            self.set_exception(error)

    def result(self, timeout: float | None = None) -> Any:
        try:
            return super().result(timeout)
        finally:
            self._end()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        try:
            return super().exception(timeout)
        finally:
            self._end()

    def _end(self) -> None:
        if self.done() and self._thread is not threading.current_thread():  # it has a few steps left, or may take for ever
            self._thread.join()


def in_a_thread(call: Callable[[], Any]) -> Future[Any]:
    """What comes of a call in a thread of its own."""
    return _OfAThread(call)


class ThreadCallers:
    """Each call in a thread of its own."""

    def call(self, pool: Pool[Any], name: str, *args: Any, **options: Any) -> Future[Any]:
        """Begin a call."""
        return in_a_thread(lambda: getattr(pool, name)(*args, **options))

    def enter(self, lease: Lease[Any] | Leases[Any]) -> Future[Any]:
        """Begin `with lease`."""
        return in_a_thread(lease.__enter__)

    def leave(self, lease: Lease[Any] | Leases[Any]) -> Future[Any]:
        """End `with lease`."""
        return in_a_thread(lambda: lease.__exit__(None, None, None))

    def close(self) -> None:
        """Nothing is left to close."""


class TaskCallers:
    """Each call in a task of its own, all in one event loop, which runs in a thread of its own."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.loop: asyncio.AbstractEventLoop = new_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, pool: Pool[Any], name: str, *args: Any, **options: Any) -> Future[Any]:
        """Begin the `_async` form of a call."""
        return self._run(getattr(pool, f"{name}_async")(*args, **options))

    def enter(self, lease: Lease[Any] | Leases[Any]) -> Future[Any]:
        """Begin `async with lease`."""
        return self._run(lease.__aenter__())

    def leave(self, lease: Lease[Any] | Leases[Any]) -> Future[Any]:
        """End `async with lease`."""
        return self._run(lease.__aexit__(None, None, None))

    def close(self) -> None:
        """Stop the loop, cancelling what still runs."""
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self.loop).result(60)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(60)
        self.loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)


def _uvloop_callers() -> Callers:
    return TaskCallers(importlib.import_module("uvloop").new_event_loop)


#: How to make each kind of caller; uvloop's only where it is installed.
KINDS: dict[str, Callable[[], Callers]] = {
    "thread": ThreadCallers,
    "task": lambda: TaskCallers(asyncio.new_event_loop),
}
if importlib.util.find_spec("uvloop") is not None:
    KINDS["uvloop"] = _uvloop_callers


def in_line(pool: Pool[Any], begin: Callable[[], Future[Any]]) -> Future[Any]:
    """Begin a call and return when it stands in the line, or is over."""
    before = joined(pool)
    future = begin()
    wait_until(lambda: future.done() or joined(pool) > before)
    return future


def joined(pool: Pool[Any]) -> int:
    """How many have ever joined the line."""
    stats = pool.stats()
    return stats.waiting + stats.waits_served + stats.waits_timed_out + stats.waits_cancelled
