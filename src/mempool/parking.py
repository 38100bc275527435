"""Where a caller waits until its ticket is served: a thread on a queue, a task on a future or an event of its loop.

Greenlets of gevent and eventlet wait on their hub, see greenlets.py. `register` and `register_tasks` add other kinds.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from mempool import blocking, greenlets, native, waiting
from mempool.clock import SYSTEM_CLOCK, Clock
from mempool.engine import Waker
from mempool.waiting import AsyncioParker, task_of

__all__ = ["Parker", "TaskParker", "Waker", "register", "register_tasks"]


class Parker(Waker, Protocol):
    """A caller of `alloc` or `with pool.lease()` that waits."""

    def park(self, seconds: float | None) -> None:
        """Suspend the caller until `wake`, at most so many seconds; None: without end. May return for no reason at all.

        What is thrown into the caller while it is suspended (a timeout, an end by force) must come out of here.
        """


class TaskParker(Waker, Protocol):
    """A caller of `await pool.alloc_async()` or `async with pool.lease()` that waits."""

    now: Callable[[], float]
    """The time in seconds by which its deadlines are measured: the `now` of the pool's clock, or that of its loop."""

    async def park(self, seconds: float | None) -> None:
        """Suspend the task until `wake`, at most so many seconds; None: without end. May return for no reason at all.

        What is thrown into the task while it is suspended (a cancellation) must come out of here.
        """


_Parker = TypeVar("_Parker")


class _Kind(Generic[_Parker]):
    """A kind of callers that was registered."""

    def __init__(self, current: Callable[[], object], parker: Callable[[Clock], _Parker]) -> None:
        self.current = current
        self.parker = parker


# The latest first. Each change is one call into C, and each walk goes through a copy.
_kinds: list[_Kind[Parker]] = blocking.thread_kinds
_task_kinds: list[_Kind[TaskParker]] = waiting.task_kinds


def register(current: Callable[[], object], parker: Callable[[Clock], Parker]) -> Callable[[], None]:
    """Have a kind of callers of `alloc` and `with pool.lease()` wait in their own way. Returns a function that ends it.

    current: who calls, if it is one of this kind: what the parker has for its `owner`; else None. Asked of every caller
        that must wait, in any thread, so it is quick and never fails.
    parker: makes the parker of the caller that runs now, given the pool's clock. A parker that leaves time to this clock
        (`clock.park(wakes, seconds)`, see `mempool.clock.Wakes`) can be tested with a `ManualClock`.

    What was registered last is asked first; tasks, greenlets and threads come after all that were registered.
    """
    return _add(_kinds, _Kind(current, parker))


def register_tasks(current: Callable[[], object], parker: Callable[[Clock], TaskParker]) -> Callable[[], None]:
    """Have a kind of tasks, callers of `alloc_async` and `async with pool.lease()`, wait in their own way, as `register`."""
    return _add(_task_kinds, _Kind(current, parker))


def _add(kinds: list[_Kind[_Parker]], kind: _Kind[_Parker]) -> Callable[[], None]:
    def remove() -> None:
        if kind in kinds:
            kinds.remove(kind)

    kinds.insert(0, kind)
    return remove


class ThreadParker(blocking.LockParker):
    """A thread parks on a lock of the system's."""

    may_be_gone: bool = False

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, native.get_ident(), current_owner(), _local.parked.parkers)


class GreenletParker(ThreadParker):
    """A greenlet parks on its hub, which runs the other greenlets of its thread meanwhile."""

    may_be_gone: bool = True

    def __init__(self, clock: Clock, hub: object) -> None:
        super().__init__(clock)
        self._wakes = greenlets.wakes(hub)

    def wake(self) -> None:
        """See Waker."""
        try:
            self._wakes.put(None)
        except greenlets.HubGoneError:
            self.strand()

    def strand(self) -> None:
        """The hub or its thread has ended, and this greenlet with it."""
        if self.on_gone is not None:
            self.on_gone()


class TrioParker:
    """A task of trio parks on an event; a wake-up from another thread goes through the run's token."""

    may_be_gone: bool = True

    def __init__(self, clock: Clock, trio: Any) -> None:
        self.owner: object = trio.lowlevel.current_task()
        self.on_gone: Callable[[], object] | None = None
        # Trio's own clock, which may be a test's, unless the pool has been given another.
        self.now: Callable[[], float] = trio.current_time if clock is SYSTEM_CLOCK else clock.now
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()

    def wake(self) -> None:
        """See Waker."""
        try:
            self._token.run_sync_soon(self._rouse)
        except RuntimeError:  # trio.RunFinishedError: as above
            if self.on_gone is not None:
                self.on_gone()

    def _rouse(self) -> None:
        self._event.set()

    async def park(self, seconds: float | None) -> None:
        """Suspend this task until woken, at most so many seconds; None: without end."""
        with self._trio.move_on_after(float("inf") if seconds is None else seconds):
            await self._event.wait()
        self._event = self._trio.Event()


def parker_here(clock: Clock) -> Parker:
    """Where the caller that runs now waits: one of a kind that was registered, a greenlet on its hub, or this thread."""
    if _kinds:
        for kind in tuple(_kinds):
            if kind.current() is not None:
                return kind.parker(clock)
    hub = greenlets.hub_here() if greenlets.are_loaded() else None
    return ThreadParker(clock) if hub is None else GreenletParker(clock, hub)


def task_parker_here(clock: Clock) -> TaskParker:
    """Where the task that runs now waits."""
    if _task_kinds:
        for task_kind in tuple(_task_kinds):
            if task_kind.current() is not None:
                return task_kind.parker(clock)
    loop = asyncio._get_running_loop()
    task = None if loop is None else task_of(loop)
    if loop is not None and task is not None:
        return AsyncioParker(clock, loop, task)
    trio = _trio_running()
    if trio is not None:
        return TrioParker(clock, trio)
    if loop is not None:
        return AsyncioParker(clock, loop)
    raise RuntimeError("no event loop of asyncio or trio is running here; await alloc_async inside one, or call alloc")


def current_owner() -> object:
    """Who runs now: one of a kind that was registered, a task, a greenlet, else this thread."""
    if _kinds or _task_kinds:
        for current in [kind.current for kind in _task_kinds] + [kind.current for kind in _kinds]:
            owner = current()
            if owner is not None:
                return owner
    task = task_here()
    if task is None and greenlets.are_loaded():
        task = greenlets.current()
    return task if task is not None else _this_thread()


def task_here() -> object:
    """The task of asyncio or trio whose code runs here: its loop stands still while this code does; or None."""
    loop = asyncio._get_running_loop()
    if loop is not None:
        task = task_of(loop)
        if task is not None:
            return task
    trio = _trio_running()
    return None if trio is None else trio.lowlevel.current_task()


def stopped_here() -> list[object]:
    """What stands still while the code that runs here does: the event loops of this thread, if any, and then the thread.

    As `runner_of` names them. Where greenlets are, only the loop whose task runs here, because the others' may go on.
    """
    loop = asyncio._get_running_loop()
    if greenlets.are_loaded():
        return [] if loop is None or task_of(loop) is None else [loop]
    trio = _trio_running()
    stopped = [loop] if loop is not None else []
    if trio is not None:
        stopped.append(trio.lowlevel.current_root_task())
    return [*stopped, _this_thread()] if stopped else []


def runner_of(owner: object) -> object:
    """Without what this owner cannot run: the loop of a task of asyncio, the root task of one of trio; else the owner."""
    get_loop = getattr(owner, "get_loop", None)
    if get_loop is not None:
        return get_loop()
    while (nursery := getattr(owner, "parent_nursery", None)) is not None:
        owner = nursery.parent_task
    return owner


class ThreadOwner:
    """A thread as the one who waits or holds. Not its ident, which the next thread may be given."""

    def __init__(self) -> None:
        self.name: str = threading.current_thread().name


class _Life:
    """What a thread alone refers to: it dies with the thread, and in the child of another thread's fork."""


class _Parked:
    """Where the callers of one thread are parked: one, or more when a signal handler parks, too, or there are greenlets."""

    def __init__(self) -> None:
        self.parkers: list[ThreadParker] = []

    def __del__(self) -> None:
        # The thread ends, and no greenlet of it will run again: what they wait for would be given to nobody.
        for parker in list(self.parkers):
            parker.forget()
            if isinstance(parker, GreenletParker) and not sys.is_finalizing():
                parker.strand()


class _Local(native.local):
    owner: ThreadOwner | None = None

    def __init__(self) -> None:
        self.life = _Life()
        self.parked: _Parked = _Parked()


_local = _Local()


def wake_this_thread() -> None:
    """In a forked child: who has served this thread, or a greenlet of it, may not live here to wake it."""
    for parker in list(_local.parked.parkers):
        parker.wake()


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
    # Without the GIL `get` takes the lock of the dict. In a forked child a thread may hold it that does not live there, so
    # the child would hang; `in` and a subscript take none. `test_forks_at_any_moment_of_busy_threads`
    if "trio" not in sys.modules:
        return None
    try:
        trio = sys.modules["trio"]
        trio.lowlevel.current_task()
    except (KeyError, RuntimeError, AttributeError):
        return None
    return trio


def _parker_of_this_thread() -> ThreadParker:
    """One that is used again, and lives as long as the thread. Always among those parked, which does no harm."""
    parker = ThreadParker(SYSTEM_CLOCK)
    parker.parkers = None  # no cycle
    _local.parked.parkers.append(parker)
    return parker


blocking.introduce(_parker_of_this_thread, _trio_running)
