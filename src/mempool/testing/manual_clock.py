"""ManualClock: a pool's clock in the hands of a test."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import threading
from collections.abc import Callable
from typing import TypeVar

from mempool.clock import Clock, Wakes
from mempool.testing.waiting import wait_until

#: A `Pool`, or one of your own.
AnyPool = TypeVar("AnyPool")

#: The time at which a ManualClock begins, in seconds: far from 0, where a moment could be mistaken for a duration.
BEGINNING = 1000.0
#: Seconds. Less than that is no time, but what remains of a sum of others.
ROUNDING = 1e-9


class ManualTimer(asyncio.TimerHandle):
    """A timer that fires when a ManualClock is advanced, on any kind of loop."""

    def __init__(
        self, clock: ManualClock, when: float, callback: Callable[[], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(when, callback, (), loop)
        self._clock = clock

    def cancel(self) -> None:
        """Never fire. Does not tell the loop, which knows nothing of this timer."""
        self._clock.forget(self)


class ManualClock(Clock):
    """Seconds that pass only by `advance`. Begins at 1000 s, so that no moment is mistaken for a duration.

        clock = ManualClock()
        pool = clock.attach(Pool(source, reserve=1))
        ...
        clock.wait_until_parked(1)      # the caller under test has looked at the clock and lies down
        clock.advance(0.05)

    A deadline counts from the moment at which the caller looked at the clock, not from the moment at which it parked, so
    nothing is lost when the test advances in between. Time that passes in one step fires each timer once.
    """

    shares_timers = False  # so that `parked` counts every task

    def __init__(self) -> None:
        self._now = BEGINNING
        self.looks: int = 0
        """How often anybody asked for the time."""
        self._lock = threading.RLock()
        self._seen = threading.local()  # when each thread last looked
        self._alarms: dict[object, tuple[float, Callable[[], object]]] = {}

    def attach(self, pool: AnyPool) -> AnyPool:
        """Make this the pool's clock, before anybody waits, and return the pool.

        pool: a `Pool`; or a pool of your own that keeps a `mempool.clock.Clock` in the attribute `_clock`, and looks there
            whenever it asks for the time or parks a caller. Raises TypeError where there is no such attribute.
        """
        # Not hasattr: what a wrapper finds in the pool behind it could be set, and would change nothing there.
        if inspect.getattr_static(pool, "_clock", None) is None:
            raise TypeError(
                f"{pool!r} has no clock of its own to replace, which would be its attribute `_clock`; attach the clock to "
                "the mempool.Pool behind it, or keep a mempool.clock.Clock there"
            )
        pool._clock = self  # type: ignore[attr-defined]
        return pool

    def now(self) -> float:
        """The time in seconds: 1000, and what was advanced."""
        self.looks += 1
        self._seen.now = self._now
        return self._now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass at once, and wake whoever was to be woken by then."""
        with self._lock:
            self._now += seconds
            due = sorted((when, number) for number, (when, _) in enumerate(self._alarms.values()) if when <= self._now)
            keys = list(self._alarms)
            rings = [self._alarms.pop(keys[number])[1] for _, number in due]
        for ring in rings:
            ring()

    @property
    def parked(self) -> int:
        """How many threads and timers wait for this clock."""
        return len(self._alarms)

    @property
    def next_alarm(self) -> float | None:
        """Seconds until the first of them is due; None: nobody waits for a time."""
        with self._lock:
            due = min((when for when, _ in self._alarms.values()), default=float("inf"))
        return None if due == float("inf") else due - self._now

    def wait_until_parked(self, callers: int, timeout: float = 30) -> None:
        """Wait, in real time, until at least so many threads and timers wait for this clock."""
        wait_until(lambda: self.parked >= callers, timeout)

    def park(self, wakes: Wakes, seconds: float | None) -> None:
        """Block until something is put into `wakes`, or so many seconds have been advanced. None: no such end."""
        key = object()
        with self._lock:
            due = float("inf") if seconds is None else self._due(seconds)
            if due <= self._now:
                return
            self._alarms[key] = (due, lambda: wakes.put(None))
        try:
            wakes.get()
        finally:
            with self._lock:
                self._alarms.pop(key, None)

    def call_later(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], None]
    ) -> asyncio.TimerHandle:
        """Have a loop call back when so many seconds have been advanced."""
        due = self._due(seconds)
        timer = ManualTimer(self, due, callback, loop)

        def ring() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(callback)

        with self._lock:
            if due > self._now:
                self._alarms[timer] = (due, ring)
                return timer
        ring()
        return timer

    def forget(self, timer: ManualTimer) -> None:
        """A timer was cancelled."""
        with self._lock:
            self._alarms.pop(timer, None)

    def _due(self, seconds: float) -> float:
        looked: float = getattr(self._seen, "now", self._now)
        due = looked + seconds
        if 0 < seconds < ROUNDING:
            # Whoever parks for that is not quite there by a rounding error, and would park again and again.
            with self._lock:
                self._now = max(self._now, math.nextafter(due, math.inf))
        return due
