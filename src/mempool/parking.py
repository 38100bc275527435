"""Where a caller waits until its ticket is served: a thread on a queue, a task on a future."""

from __future__ import annotations

import asyncio
import threading
from _queue import SimpleQueue
from typing import Protocol

from mempool.clock import Clock


class Place(Protocol):
    """What a ticket needs to know of the one who waits."""

    owner: object
    """Who waits: a thread's ident or a task."""
    thread: int
    """In which thread."""

    def wake(self) -> None:
        """End the parking, now or the next time. Never blocks; callable from anywhere, any number of times."""


class ThreadPlace:
    """A thread parks on a queue, whose `put` is one C call that finalizers and signal handlers may make."""

    def __init__(self, clock: Clock) -> None:
        self.thread = threading.get_ident()
        self.owner: object = self.thread
        self._clock = clock
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def wake(self) -> None:
        self._wakes.put(None)

    def park(self, seconds: float | None) -> None:
        """Block this thread until woken, at most so many seconds; None: without end."""
        self._clock.park(self._wakes, seconds)


class TaskPlace:
    """A task parks on a future of its loop; a wake-up from another thread goes through the loop."""

    def __init__(self, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.thread = threading.get_ident()
        self.owner: object = asyncio.current_task(loop)
        self._clock = clock
        self._loop = loop
        self._woken = False
        self._future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        try:
            if threading.get_ident() == self.thread and asyncio._get_running_loop() is self._loop:
                self._rouse()
            else:
                self._loop.call_soon_threadsafe(self._rouse)
        except RuntimeError:
            pass  # the loop is closed: nobody is there, and the place in the line is given up by the caller's end

    def _rouse(self) -> None:
        self._woken = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def park(self, seconds: float | None) -> None:
        """Suspend this task until woken, at most so many seconds; None: without end."""
        if not self._woken:
            self._future = self._loop.create_future()
            timer = None if seconds is None else self._clock.call_later(self._loop, seconds, self._rouse)
            try:
                await self._future
            finally:
                self._future = None
                if timer is not None:
                    timer.cancel()
        self._woken = False


def task_place(clock: Clock) -> TaskPlace:
    """The place of the task that runs now."""
    return TaskPlace(clock, asyncio.get_running_loop())
