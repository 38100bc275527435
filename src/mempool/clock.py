"""Time as the pool sees it, so that tests can hold it in their hands."""

from __future__ import annotations

import asyncio
import threading
import time
from _queue import Empty
from collections.abc import Callable
from typing import Protocol


def in_words(seconds: float) -> str:
    """Seconds, for a person: three digits, or all those before the point."""
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"


class Wakes(Protocol):
    """What a caller parks on, as far as a clock must know it: a `queue.SimpleQueue` of None is one."""

    def put(self, wake: None, /) -> None:
        """End the `get` that is under way, or else the next one. Never blocks; from any thread, any number of times."""

    def get(self, *, timeout: float | None = None) -> None:
        """Suspend the caller until there was a `put`. Raises queue.Empty after so many seconds; None: never."""


class Clock:
    """Monotonic time in seconds, and how a thread parks until it is woken or the time is up."""

    #: Whether one timer of a loop may do for all of its tasks that wait long, see parking.Alarm.
    shares_timers: bool = True
    #: Seconds, from an arbitrary beginning.
    now: Callable[[], float] = staticmethod(time.monotonic)

    def park(self, wakes: Wakes, seconds: float | None) -> None:
        """Block until something is put into `wakes`, at most so many seconds."""
        try:
            # Longer than the system can count is for ever.
            wakes.get(timeout=None if seconds is None or seconds > threading.TIMEOUT_MAX else seconds)
        except Empty:
            pass

    def call_later(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], None]
    ) -> asyncio.TimerHandle:
        """Have a loop call back after so many seconds."""
        return loop.call_later(seconds, callback)


SYSTEM_CLOCK = Clock()
