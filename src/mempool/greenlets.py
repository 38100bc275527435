"""Where greenlets of gevent and eventlet wait: on their hub, which runs the others meanwhile.

Neither library is imported here: who runs under a hub has imported it. A `_queue.SimpleQueue`, on which threads park,
would stop the hub's thread and all its greenlets with it.
"""

from __future__ import annotations

import os
import sys
from _queue import Empty
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

#: Seconds: three years. A hub of gevent ends when none of its watchers waits for anything; a timer keeps it.
FOR_EVER = 1e8


class HubGoneError(Exception):
    """The hub was destroyed: its greenlets run no more."""


def are_loaded() -> bool:
    """Whether this process may have hubs at all."""
    return "gevent" in sys.modules or "eventlet" in sys.modules


def hub_here() -> Any:
    """The hub that this thread has, if any, whichever library's; None where its loop itself is what runs now.

    A thread without a hub has no other greenlets to run, and is not given one. Another thread may be in the midst of
    importing the library: what is not there yet can be the hub of nobody.
    """
    for name, find in (("gevent.hub", _hub_of_gevent), ("eventlet.hubs", _hub_of_eventlet)):
        module = sys.modules.get(name)
        hub = None if module is None else find(module)
        if hub is not None:
            return hub
    return None


def _hub_of_gevent(_module: Any) -> Any:
    find = getattr(sys.modules.get("gevent._hub_local"), "get_hub_if_exists", None)
    hub = None if find is None else find()
    return None if hub is None or hub.loop is None or hub is _current() else hub


def _hub_of_eventlet(module: Any) -> Any:
    # Not `get_hub()`, which makes one.
    hub = getattr(getattr(module, "_threadlocal", None), "hub", None)
    return None if hub is None or hub.greenlet is _current() else hub


def current() -> object:
    """The greenlet that runs now under a hub; None for a thread's main greenlet, which stands for the thread."""
    if not are_loaded() or hub_here() is None:
        return None
    greenlet = _current()
    return greenlet if greenlet.parent is not None else None


def _current() -> Any:
    return sys.modules["greenlet"].getcurrent()


def name_of(owner: object) -> str | None:
    """A greenlet for messages; None: it is none."""
    module = sys.modules.get("greenlet")
    if module is None or not isinstance(owner, module.greenlet):
        return None
    return f"greenlet {getattr(owner, 'name', None) or hex(id(owner))}"


def is_on_this_stack(coroutine: Any) -> bool:
    """Whether this coroutine is what runs in the current greenlet. Another greenlet may run the loop of this thread."""
    wanted = getattr(coroutine, "cr_frame", None)
    if wanted is None:
        return True  # made in C: no other greenlet can be told from it
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame is not wanted:
        frame = frame.f_back
    return frame is not None


class GeventWakes:
    """What a caller under gevent's hub parks on."""

    def __init__(self, hub: Any) -> None:
        self.hub: Any = hub
        self._woken = False
        self._waiter: Any = None

    def put(self, _wake: None, /) -> None:
        """Wake the caller, now or the next time. From any thread. Raises HubGoneError."""
        try:
            self.hub.loop.run_callback_threadsafe(self._rouse)
        except (AttributeError, ValueError):  # the hub has no loop any more, or one that is destroyed
            raise HubGoneError from None

    def _rouse(self) -> None:
        self._woken = True
        if self._waiter is not None:
            self._waiter.switch(None)

    def get(self, timeout: float | None = None) -> None:
        """Let other greenlets run until woken. Raises Empty when the time is up."""
        if not self._woken:
            # One that is switched to before it waits keeps that: a signal handler in this line can lose nothing.
            waiter = self._waiter = sys.modules["gevent.hub"].Waiter(self.hub)
            timer = self.hub.loop.timer(FOR_EVER if timeout is None else min(timeout, FOR_EVER))
            try:
                timer.start(waiter.switch, None)
                waiter.get()
            finally:
                self._waiter = None
                timer.close()
            if not self._woken:
                raise Empty
        self._woken = False


class EventletWakes:
    """What a caller under eventlet's hub parks on."""

    def __init__(self, hub: Any) -> None:
        self.hub: Any = hub
        self._woken = False
        self._sleeper: Any = None
        self._bell = Bell.of(hub)

    def put(self, _wake: None, /) -> None:
        """Wake the caller, now or the next time. From any thread. Raises HubGoneError."""
        if self._bell.is_anothers():
            # In a child of os.fork a hub of eventlet is not to be used (`eventlet.hubs.use_hub()` makes another): who
            # was parked there at the fork is not woken any more.
            raise HubGoneError
        self._bell.ring(self._rouse)

    def _rouse(self) -> None:
        self._woken = True
        self._resume()

    def _resume(self) -> None:
        sleeper, self._sleeper = self._sleeper, None  # once: whoever is switched to anew waits for something else
        if sleeper is not None:
            sleeper.switch()

    def get(self, timeout: float | None = None) -> None:
        """Let other greenlets run until woken. Raises Empty when the time is up."""
        if self._bell.is_anothers():  # but it is used all the same
            self._bell = Bell.of(self.hub)
        if not self._woken:
            self._sleeper = _current()
            timer = None
            try:
                if timeout is not None:
                    timer = self.hub.schedule_call_global(min(timeout, FOR_EVER), self._resume)
                self.hub.switch()
            finally:
                self._sleeper = None
                if timer is not None:
                    timer.cancel()
            if not self._woken:
                raise Empty
        self._woken = False


class Bell:
    """How anybody gets a function called by a hub of eventlet, whose own ways are for its own thread only.

    And not for a signal handler or a finalizer there: what they schedule while the hub sorts its timers is lost.
    """

    def __init__(self, hub: Any) -> None:
        self._reading = self._writing = -1
        self._os: Any = sys.modules["eventlet.patcher"].original("os")
        self._rung: deque[Callable[[], None]] = deque()
        self._process: int = os.getpid()
        self._reading, self._writing = self._os.pipe()
        self._os.set_blocking(self._reading, False)
        self._os.set_blocking(self._writing, False)
        self._hub = hub
        hub.add(hub.READ, self._reading, self._answer, self._answer, None)

    @staticmethod
    def of(hub: Any) -> Bell:
        """The bell of this hub. Called in its thread."""
        bell: Bell | None = getattr(hub, "_mempool_bell", None)
        if bell is None or bell.is_anothers():
            # The hub keeps the old one: to take its pipe out of an epoll that is the parent's, too, would deafen the parent.
            bell = hub._mempool_bell = Bell(hub)
        return bell

    def is_anothers(self) -> bool:
        """Whether this process was forked since it was made: the pipe is the parent's, too."""
        return self._process != os.getpid()

    def ring(self, function: Callable[[], None]) -> None:
        """Have the hub call this. Never blocks."""
        self._rung.append(function)
        try:
            self._os.write(self._writing, b"!")
        except BlockingIOError:
            pass  # full: the hub will hear of it

    def _answer(self, *_which: object) -> None:
        """Called by the hub."""
        if self.is_anothers():
            return
        try:
            self._os.read(self._reading, 4096)
        except BlockingIOError:
            pass
        while self._rung:
            # Not called here: the hub would blame the pipe for what a greenlet raises, and listen to it no more.
            self._hub.schedule_call_global(0, self._rung.popleft())

    def __del__(self) -> None:
        for end in (self._reading, self._writing):
            try:
                self._os.close(end)
            except OSError:
                pass


def wakes(hub: Any) -> GeventWakes | EventletWakes:
    """A new place to park under this hub."""
    return EventletWakes(hub) if hasattr(hub, "schedule_call_global") else GeventWakes(hub)
