"""Where a caller waits until its ticket is served: a thread on a queue, a task on a future or an event of its loop."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import weakref
from _queue import SimpleQueue
from collections.abc import Callable
from typing import Any, Protocol

from mempool.clock import SYSTEM_CLOCK, Clock

#: A moment that does not come.
NEVER = float("inf")


class Place(Protocol):
    """What a ticket needs to know of the one who waits."""

    owner: object
    """Who waits: a thread's ident or a task."""
    thread: int
    """In which thread."""
    can_be_lost: bool
    """Whether `wake` may find nobody there."""
    on_loss: Callable[[], object] | None
    """Called by `wake` when nobody is there any more: the loop is closed. Sends home what the ticket got."""

    def now(self) -> float:
        """The time, in seconds, by the clock this caller lives by."""

    def wake(self) -> None:
        """End the parking, now or the next time. Never blocks; callable from anywhere, any number of times."""


class ThreadPlace:
    """A thread parks on a queue, whose `put` is one C call that finalizers and signal handlers may make."""

    can_be_lost: bool = False

    def __init__(self, clock: Clock) -> None:
        self.thread: int = threading.get_ident()
        self.owner: object = current_owner()
        self.on_loss: Callable[[], object] | None = None
        self.now: Callable[[], float] = clock.now
        self._clock = clock
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def wake(self) -> None:
        """See Place."""
        self._wakes.put(None)

    def park(self, seconds: float | None) -> None:
        """Block this thread until woken, at most so many seconds; None: without end."""
        _local.parked.append(self)
        try:
            self._clock.park(self._wakes, seconds)
        finally:
            _local.parked.remove(self)


#: Seconds. Who parks for longer is given no timer of its own.
LONG = 1.0
#: Seconds by which the shared timer may be late, so that it need not look through all who are parked for each of them.
LATE = 0.01


class Alarm:
    """One timer for all tasks of one loop that are parked for long, which most of them never are to the end.

    A timer each would be set and cancelled at every turn, and cost more than all else that a turn does. This one is left
    to ring, rouses whose time is up and is set for the next of them; where nobody is parked any more, it is not.
    """

    __slots__ = ("__weakref__", "_clock", "_due", "_loop", "_parked")

    def __init__(self, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._clock = clock
        self._loop = weakref.ref(loop)
        self._due: float = NEVER
        self._parked: dict[TaskPlace, float] = {}

    def is_for(self, clock: Clock, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether it rings by this clock in this loop."""
        return self._loop() is loop and self._clock is clock

    def expect(self, place: TaskPlace, seconds: float) -> None:
        """Rouse this one after so many seconds, unless it is forgotten before."""
        when = self._clock.now() + seconds
        self._parked[place] = when
        if when < self._due:
            self._set(when)

    def forget(self, place: TaskPlace) -> None:
        """It does not wait any more."""
        self._parked.pop(place, None)

    def _set(self, when: float) -> None:
        loop = self._loop()
        if loop is not None:
            # An earlier timer is left where it is, and finds nobody. It is `_due` that says which one counts.
            self._clock.call_later(loop, when - self._clock.now(), functools.partial(self._ring, when))
            self._due = when

    def _ring(self, when: float) -> None:
        if when != self._due:
            return  # set for an earlier time since
        self._due = NEVER
        now = self._clock.now()  # a loop may ring a little early, by its own time: then nobody's is up, and it is set again
        for place, its_time in list(self._parked.items()):
            if its_time <= now:
                self._parked.pop(place, None)
                place._rouse()
        if self._parked:
            self._set(max(min(self._parked.values()), now + LATE))


class TaskPlace:
    """A task of asyncio, whatever the loop, parks on a future; a wake-up from another thread goes through the loop."""

    __slots__ = ("_clock", "_future", "_loop", "_woken", "now", "on_loss", "owner", "thread")

    can_be_lost: bool = True

    def __init__(self, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.thread: int = threading.get_ident()
        self.owner: object = asyncio.current_task(loop)
        self.on_loss: Callable[[], object] | None = None
        self.now: Callable[[], float] = clock.now
        self._clock = clock
        self._loop = loop
        self._woken = False
        self._future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """See Place."""
        try:
            if asyncio._get_running_loop() is self._loop and asyncio.current_task(self._loop) is not None:
                self._rouse()  # inside a task of this loop, so the loop is not asleep
            else:
                self._loop.call_soon_threadsafe(self._rouse)
        except RuntimeError:  # the loop is closed: its ticket loses its place, and not an element
            if self.on_loss is not None:
                self.on_loss()

    def _rouse(self) -> None:
        self._woken = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def park(self, seconds: float | None) -> None:
        """Suspend this task until woken, at most so many seconds; None: without end."""
        # First of all: a finalizer or a signal handler in this very task may rouse it at any line, and must find it.
        self._future = self._loop.create_future()
        timer = alarm = None
        try:
            if not self._woken:
                if seconds is not None:
                    if seconds > LONG and self._clock.shares_timers:
                        alarm = _alarm(self._clock, self._loop)
                        alarm.expect(self, seconds)
                    else:
                        timer = self._clock.call_later(self._loop, seconds, self._rouse)
                await self._future
        finally:
            self._future = None
            if timer is not None:
                timer.cancel()
            elif alarm is not None:
                alarm.forget(self)
        self._woken = False


class TrioPlace:
    """A task of trio parks on an event; a wake-up from another thread goes through the run's token."""

    can_be_lost: bool = True

    def __init__(self, clock: Clock, trio: Any) -> None:
        self.thread: int = threading.get_ident()
        self.owner: object = trio.lowlevel.current_task()
        self.on_loss: Callable[[], object] | None = None
        # Trio's own clock, which may be a test's, unless the pool has been given another.
        self.now: Callable[[], float] = trio.current_time if clock is SYSTEM_CLOCK else clock.now
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def wake(self) -> None:
        """See Place."""
        try:
            self._token.run_sync_soon(self._rouse)
        except RuntimeError:  # trio.RunFinishedError: as above
            if self.on_loss is not None:
                self.on_loss()

    def _rouse(self) -> None:
        self._event.set()

    async def park(self, seconds: float | None) -> None:
        """Suspend this task until woken, at most so many seconds; None: without end."""
        with self._trio.move_on_after(float("inf") if seconds is None else seconds):
            await self._event.wait()
        self._event = self._trio.Event()


def task_place(clock: Clock) -> TaskPlace | TrioPlace:
    """The place of the task that runs now."""
    loop = asyncio._get_running_loop()
    if loop is not None:
        return TaskPlace(clock, loop)
    trio = _trio_running()
    if trio is not None:
        return TrioPlace(clock, trio)
    raise RuntimeError("no event loop of asyncio or trio is running here; await alloc_async inside one, or call alloc")


def current_owner() -> object:
    """The task that runs now, else this thread."""
    loop = asyncio._get_running_loop()
    task: object = None
    if loop is not None:
        task = asyncio.current_task(loop)
    elif "trio" in sys.modules:
        trio = _trio_running()
        if trio is not None:
            task = trio.lowlevel.current_task()
    return task or _local.owner or _this_thread()


class ThreadOwner:
    """A thread as the one who waits or holds. Not its ident, which the next thread may be given."""

    def __init__(self) -> None:
        self.name: str = threading.current_thread().name


class _Life:
    """What a thread alone refers to: it dies with the thread, and in the child of another thread's fork."""


class _Local(threading.local):
    owner: ThreadOwner | None = None
    #: That of the loop which ran last in this thread.
    alarm: Alarm | None = None

    def __init__(self) -> None:
        self.life = _Life()
        #: Where this thread is parked: once, or deeper when a signal handler parks, too.
        self.parked: list[ThreadPlace] = []


_local = _Local()


def _alarm(clock: Clock, loop: asyncio.AbstractEventLoop) -> Alarm:
    alarm = _local.alarm
    if alarm is None or not alarm.is_for(clock, loop):
        alarm = _local.alarm = Alarm(clock, loop)
    return alarm


def wake_this_thread() -> None:
    """In a forked child: who has served this thread may not live here to wake it."""
    for place in _local.parked:
        place.wake()


def life_of_this_thread() -> weakref.ref[object]:
    """Tells whether the thread that asks now still lives in this process."""
    return weakref.ref(_local.life)


def _this_thread() -> ThreadOwner:
    owner = _local.owner
    if owner is None:
        owner = _local.owner = ThreadOwner()
    return owner


def _trio_running() -> Any:
    """The module trio if one of its runs is active in this thread. Never imports it."""
    trio = sys.modules.get("trio")
    if trio is None:
        return None
    try:
        trio.lowlevel.current_task()
    except (RuntimeError, AttributeError):
        return None
    return trio
