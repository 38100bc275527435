# cython: language_level=3
"""How a thread waits: what it is parked on, and the wait of a whole call without a Python frame.

Whoever is about to wait holds the GIL until it is parked, and the caller that it has just served cannot run before. So each
microsecond on the way there is one of every turn.
"""

from __future__ import annotations

import asyncio
import sys
from _queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from mempool import _cython as cython
from mempool.clock import Clock, Wakes

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.fast_path import DEFAULT, FastPath, Quick
    from mempool._core.mutex import WITHOUT_GIL
    from mempool._core.queueing import Queueing
    from mempool._core.transfer import Ticket
    from mempool.waiting import HAS_SETTLED, INFINITE, Wait, loaded_modules, loop_here, seconds_of, usual_clock, usual_now
    from mempool.waiting import kinds as task_kinds

#: The kinds of callers that were registered, the latest first; see parking.register.
thread_kinds: list[Any] = []
kinds: list[Any] = thread_kinds  # the same in C, see waiting.py


class LockParker:
    """A thread parks on a lock; the base of parking.ThreadParker.

    `wake` is one call in C, which finalizers and signal handlers may make. Where the clock is not the system's, that clock
    parks the thread, on a queue; and it is on a queue uncompiled, and without the GIL, which guards `is_woken`.

    parkers: all of this thread that are parked.
    """

    lock: cython.p_void
    is_woken: cython.bint
    is_in_use: cython.bint
    thread: Any
    owner: Any
    on_gone: Any
    parkers: Any
    _clock: Any
    _wakes: Any

    def __init__(self, clock: Clock, thread: int, owner: object, parkers: list[Any]) -> None:
        self.thread = thread
        self.owner = owner
        self.on_gone = None
        self.parkers = parkers
        self._clock = clock
        self._wakes = None
        self.is_woken = self.is_in_use = False
        if cython.compiled and not WITHOUT_GIL and clock is usual_clock and self.lock == cython.NULL:
            self.lock = mempool_new_lock()  # type: ignore[name-defined]  # in the .pxd; locked until `wake`
        if not cython.compiled or self.lock == cython.NULL:
            wakes: Wakes = SimpleQueue()
            self._wakes = wakes

    def __dealloc__(self) -> None:
        if cython.compiled and self.lock != cython.NULL:
            mempool_forget(cython.cast(cython.p_void, self))  # type: ignore[name-defined]
            mempool_end_lock(self.lock, self.is_woken)  # type: ignore[name-defined]

    def forget(self) -> None:
        """Compiled: this thread, whose state ends, parks on it no more. Somebody who has just woken it may still have it."""
        if cython.compiled:
            mempool_forget(cython.cast(cython.p_void, self))  # type: ignore[name-defined]

    def wake(self) -> None:
        """See Waker."""
        if self._wakes is not None:
            self._wakes.put(None)
        else:
            self.unlock()

    def __call__(self) -> None:
        """The same: what a ticket calls to wake its waiter, without a bound method for each wait."""
        if self._wakes is not None:
            self.wake()
        else:
            self.unlock()

    def unlock(self) -> cython.void:
        """Compiled: have `sleep` return."""
        if cython.compiled and not self.is_woken:
            self.is_woken = True
            mempool_unlock(self.lock)  # type: ignore[name-defined]

    def park(self, seconds: float | None) -> None:
        """Block this thread until woken, at most so many seconds; None: without end."""
        self.parkers.append(self)
        try:
            if self._wakes is not None:
                self._clock.park(self._wakes, seconds)
            else:
                self.sleep(INFINITE if seconds is None else seconds)
        finally:
            self.parkers.remove(self)

    def sleep(self, seconds: cython.double) -> cython.bint:
        """Compiled: block on the lock. Raises what a signal handler raises; without that, a signal may end it early."""
        if cython.compiled and sleep_on(self.lock, seconds):
            self.is_woken = False
        return True


#: What stands in parking.py, above this module; see `introduce`.
_new_parker_here: Any = None
_is_in_trio: Any = None


def introduce(new_parker_here: Any, is_in_trio: Any) -> None:
    """Tell what only parking.py knows.

    new_parker_here: makes the LockParker that this thread uses again for each wait, and keeps it until the thread ends.
    is_in_trio: tells whether a task of trio runs here.
    """
    global _new_parker_here, _is_in_trio
    _new_parker_here, _is_in_trio = new_parker_here, is_in_trio


#: The name of a thread's loop in its dict, where _asyncio keeps it before CPython 3.13. None: there is no _asyncio.
_name_of_loop: Any = (
    sys.intern("__asyncio_running_event_loop__") if asyncio._get_running_loop.__module__ == "_asyncio" else None
)
#: That of sys.modules when it had neither gevent nor eventlet nor trio; see `mempool_version` in the .pxd.
_version_of_modules: cython.ulonglong = 0


def is_thread_alone() -> cython.bint:
    """Whether what runs here is a thread, and neither a loop nor other greenlets stand still while it waits."""
    global _version_of_modules  # noqa: PLW0603 - one of C's, beside what reads it
    if kinds or task_kinds:
        return False
    if not (cython.compiled and mempool_had_no_loop(_name_of_loop)) and loop_here() is not None:
        return False
    modules: dict[str, Any] = loaded_modules
    version: cython.ulonglong = mempool_version(modules) if cython.compiled else 0  # type: ignore[name-defined]
    if version != 0 and version == _version_of_modules:
        return True
    if "gevent" in modules or "eventlet" in modules:  # as greenlets.are_loaded, without a call
        return False
    if "trio" in modules:
        return not _is_in_trio()
    _version_of_modules = version
    return True


def obtain(pool: Any, ticket: Any, timeout: Any) -> bool:
    """`_obtain` of a pool, compiled, as it mostly is. False: something is unusual, and nothing has happened.

    Usual is a pool of one of the library's engines on the system's clock, and a caller who is no more than a thread.
    """
    return obtained(pool, ticket, timeout)


def obtained(pool: FastPath, ticket: Any, timeout: Any) -> cython.bint:
    """`obtain`, in C."""
    if not cython.compiled or WITHOUT_GIL:
        return False
    if not isinstance(pool._engine, Queueing):
        return pool._quick is not None and obtained_elsewhere(pool, pool._quick, ticket, timeout)
    queueing: Queueing = pool._engine
    if queueing._clock is not usual_clock or not is_thread_alone():
        return False
    parker: LockParker = parker_of_this_thread()
    if parker.is_in_use:
        return False  # in a signal handler, while this thread is parked
    own: Ticket = ticket
    deadline: cython.double = deadline_of(pool, timeout)
    if not Queueing.try_take(queueing, own, True, True):
        stand(pool, queueing, own, parker, deadline)
    Queueing.check_out(queueing, own)
    return True


def parker_of_this_thread() -> LockParker:
    """The one that is used again for each wait."""
    parker: LockParker | None = parker_here()  # type: ignore[name-defined]  # in the .pxd
    if parker is None:
        parker = _new_parker_here()
        keep_here(parker)  # type: ignore[name-defined]
    return parker


def deadline_of(pool: FastPath, timeout: Any) -> cython.double:
    """By the system's clock."""
    deadline: cython.double = INFINITE
    if (timeout is not DEFAULT and timeout != DEFAULT) or pool._timeout is not None:
        asked: Any = pool
        deadline = asked._deadline(timeout, usual_now)
    return deadline


def obtained_elsewhere(pool: FastPath, quick: Quick, ticket: Any, timeout: Any) -> cython.bint:
    """The same of a pool whose engine is another one.

    After the wake each step is one in C: this thread has slept, the processor's caches have forgotten what it does, and the
    interpreter's own code for a few lines of Python took as long as the kernel takes to wake it.
    """
    engine: Any = pool._engine
    if engine.clock is not usual_clock or not is_thread_alone():
        return False
    parker: LockParker = parker_of_this_thread()
    if parker.is_in_use:
        return False  # in a signal handler, while this thread is parked
    deadline: cython.double = deadline_of(pool, timeout)
    if not engine.try_take(ticket, ask_source=True, may_wait=True):
        stand_elsewhere(pool, quick, ticket, parker, deadline)
    if not quick.check_out(ticket):
        engine.check_out(ticket)
    return True


def stand_elsewhere(pool: Any, quick: Quick, ticket: Any, parker: LockParker, deadline: cython.double) -> cython.bint:
    """`stand`, of another engine: that chooses what the parker's thread sleeps on, as this lines up."""
    wait: Wait = Wait.__new__(Wait)
    wait.begin(pool, None, ticket, parker, None, usual_now, deadline, seconds_of(usual_now), False)
    parker.is_in_use = True
    try:
        while True:
            seconds: cython.double = wait.step()
            if seconds == HAS_SETTLED:
                break
            quick.sleep(parker._wakes, seconds)
    finally:
        parker.is_in_use = False
        parker._wakes = None
        wait.end()
    return True


def stand(pool: Any, queueing: Queueing, ticket: Ticket, parker: LockParker, deadline: cython.double) -> cython.bint:
    """Wait in the line until the ticket is served."""
    wait: Wait = Wait.__new__(Wait)
    wait.begin(pool, queueing, ticket, None, None, usual_now, deadline, seconds_of(usual_now), False)
    ticket.set_waiter(parker, parker.owner, parker.thread, False)
    parker.is_in_use = True
    try:
        while True:
            seconds: cython.double = wait.step()
            if seconds == HAS_SETTLED:
                break
            parker.sleep(seconds)
    finally:
        parker.is_in_use = False
        wait.end()
    return True


if cython.compiled:
    go_quickly()  # type: ignore[name-defined]  # in the .pxd
