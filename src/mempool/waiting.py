# cython: language_level=3
"""How a caller waits in the line: Wait, for every kind of callers; and AsyncioParker, where a task of asyncio is parked.

A task waits without a Python frame: what `async with` a lease awaits is a Routine, which is finished at once where it
need not wait. A coroutine costs its frame, each time, and one of Cython's loses what it returns where there is no memory
for a StopIteration. A Routine owns nothing itself: what it returns is owned by whoever made it until it has been returned.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import weakref
from typing import TYPE_CHECKING, Any

from mempool import _cython as cython
from mempool import garbage, greenlets, native
from mempool.clock import SYSTEM_CLOCK, Clock, in_words
from mempool.engine import NEVER, SERVED, TIMED_OUT, WAITING, WITHDRAWN
from mempool.errands import Errand
from mempool.errors import PoolTimeout
from mempool.native import get_ident

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.mutex import WITHOUT_GIL
    from mempool._core.queueing import NOT_COUNTED, Queueing
    from mempool._core.transfer import Ticket

#: What Wait.step returns when there is nothing to wait for any more.
SETTLED = -1.0
#: Seconds. Who parks for longer is given no timer of its own.
LONG = 1.0
#: Seconds by which the shared timer may be late, so that it need not look through all who are parked for each of them.
LATE = 0.01
#: What `_go_on` returns at the end. A class of CPython's: no reference to it is counted, from 3.12 on.
FINISHED: object = StopIteration

log: logging.Logger = logging.getLogger("mempool")

#: The kinds of tasks that were registered, the latest first; see parking.register_tasks.
task_kinds: list[Any] = []

# The same in C, where a name costs nothing. One of Python's is looked up each time, from CPython 3.12 on in a dict.
STILL_WAITING: cython.Py_ssize_t = WAITING
HAS_BEEN_SERVED: cython.Py_ssize_t = SERVED
HAS_WITHDRAWN: cython.Py_ssize_t = WITHDRAWN
INFINITE: cython.double = NEVER
HAS_SETTLED: cython.double = SETTLED
LONG_WAIT: cython.double = LONG
MAY_BE_LATE: cython.double = LATE
WORTH_A_LOOK: cython.double = garbage.WAIT_MIN
DEFAULT: str = "default"
kinds: list[Any] = task_kinds
loaded_modules: dict[str, Any] = sys.modules
thread_ident: Any = get_ident

asyncio_future: Any = asyncio.Future
usual_clock: Any = SYSTEM_CLOCK
usual_now: Any = SYSTEM_CLOCK.now


def seconds_of(now: Any) -> cython.double:
    """What this clock's `now` says."""
    if cython.compiled and now is usual_now:
        seconds: cython.double = mempool_seconds()  # type: ignore[name-defined]  # in the .pxd
        if seconds >= 0:
            return seconds
    return now()  # type: ignore[no-any-return]


#: The type of the loop that ran last whose futures are asyncio's own.
_plain_loop: Any = None
running_loop: Any = asyncio._get_running_loop
#: The tasks that loops run now; before CPython 3.14, where `current_task` is written around this dict. From then on it stays
#: empty, as a thread's own state has its task: who looked here would take each task for its thread.
_tasks_of_loops: dict[Any, Any] | None = (
    getattr(asyncio.tasks, "_current_tasks", None) if sys.version_info < (3, 14) else None
)
current_task: Any = asyncio.current_task


def this_thread() -> Any:
    """Its ident."""
    if cython.compiled:
        return PyThread_get_thread_ident()  # type: ignore[name-defined]  # in the .pxd
    return thread_ident()


def loop_here() -> Any:
    """`asyncio._get_running_loop()`, compiled without the system call by which that, before CPython 3.12, notices a fork."""
    if cython.compiled:
        loop: Any = mempool_known_loop()  # type: ignore[name-defined]  # in the .pxd
        if loop is None:
            loop = running_loop()
            mempool_learn_from(loop)  # type: ignore[name-defined]
        return loop
    return running_loop()


def task_running_in(loop: Any) -> Any:
    """The task that this loop runs now; or None."""
    return current_task(loop) if _tasks_of_loops is None else _tasks_of_loops.get(loop)


@cython.final
@cython.freelist(16)
@cython.cclass
class Wait:
    """One caller's wait in the line, step by step, whoever parks it in between: a thread, a task, a greenlet.

    Whoever makes one calls `end`, whatever is raised, and parks after each `step` for as long as it says. Between two steps
    an exception may be thrown into the caller: `end` then withdraws it.
    """

    pool: Any  # a BasePool
    engine: Any
    quick: Any  # its Quick; or None
    queueing: Any  # the engine, where it is a Queueing: then a call of it is one in C; else None
    own: Any  # and its ticket, a Ticket
    ticket: Any
    place: Any  # None: of a thread, which the ticket knows already
    parker: AsyncioParker | None  # the place, where it is one and known to be
    owner: Any  # and the task that is parked there, until the end: see AsyncioParker.__init__
    now: Any
    errand: Any
    deadline: cython.double
    began: cython.double
    made_at: cython.double  # later than `began` where the source was asked before, which may take long
    warn_at: cython.double
    until: cython.double  # when the parking that the last step asked for ends at the latest
    outcome: cython.Py_ssize_t
    stands: cython.bint  # it joined the line, and its wait is to be counted
    may_collect: cython.bint
    offload: cython.bint

    def __init__(
        self,
        pool: Any,
        ticket: Any,
        place: Any,
        now: Any,
        deadline: cython.double,
        *,
        began: cython.double = NEVER,
        offload: cython.bint = False,
    ) -> None:
        """began: when the call began; NEVER: now. offload: a thread asks the source, which wakes the caller when it has."""
        queueing: Any = pool._engine if isinstance(pool._engine, Queueing) else None
        time: cython.double = now()
        self.begin(pool, queueing, ticket, place, None, now, deadline, time if began == NEVER else began, offload)
        self.made_at = time

    def begin(  # noqa: PLR0917 - a call in C
        self,
        pool: Any,
        queueing: Queueing | None,  # its ticket is a Ticket
        ticket: Any,
        place: Any,
        owner: Any,
        now: Any,
        deadline: cython.double,
        began: cython.double,
        offload: cython.bint,
    ) -> cython.bint:
        self.pool = pool
        self.engine = self.pool._engine
        self.quick = self.pool._quick
        self.queueing = queueing
        self.own = None if queueing is None else cython.cast(Ticket, ticket)
        self.ticket = ticket
        self.place = place
        self.parker = None if owner is None else cython.cast(AsyncioParker, place)
        self.owner = owner
        self.now = now
        self.errand = None
        self.deadline = deadline
        self.began = self.made_at = began
        self.offload = offload
        self.outcome = HAS_WITHDRAWN
        self.stands = False
        self.warn_at = INFINITE
        if self.pool._patience is not None:
            patience: cython.double = self.pool._patience
            self.warn_at = began + patience
        self.until = INFINITE
        # Dropped in a reference cycle, an element is out until the collector finds it: looked for once in a wait.
        self.may_collect = deadline - began >= WORTH_A_LOOK
        return True

    def state(self) -> cython.Py_ssize_t:
        """That of the ticket."""
        if self.own is not None:
            return self.own.state  # type: ignore[no-any-return]
        if self.quick is not None:
            return self.quick.state(self.ticket)  # type: ignore[no-any-return]
        return self.ticket.state  # type: ignore[no-any-return]

    def __call__(self) -> None:
        """The caller can run no more: what it got, and its place, go to the next."""
        self.engine.abandon(self.ticket)

    def step(self) -> cython.double:
        """Seconds to park, at most; NEVER: until woken; SETTLED: the ticket is served. Raises what ends the wait."""
        time: cython.double = self.made_at
        if not self.stands:
            self.join()
        elif self.errand is not None or self.state() == STILL_WAITING:
            time = seconds_of(self.now)
        while self.errand is not None or self.state() == STILL_WAITING:
            if self.errand is not None:
                if self.state() != STILL_WAITING and not self.errand.is_over():
                    break  # what it brings is for others
                if self.errand.is_over():
                    self.end_errand()
                    continue
            # At the beginning neither holds, and the names need not be looked up.
            if self.may_collect and time > self.began and (time >= self.deadline or time - self.began >= garbage.LOOK_AFTER):
                self.may_collect = False
                if self.pool._collects and self.engine.snapshot().out > 0 and garbage.look():
                    time = seconds_of(self.now)
                    continue
            if time >= self.deadline:
                self.outcome = TIMED_OUT
                raise PoolTimeout(
                    f"{self.engine.called}: waited {in_words(time - self.began)} in vain. {self.pool.why_empty()}"
                )
            if time >= self.warn_at:
                self.warn_at = INFINITE
                log.warning("a caller has waited for %s. %s", in_words(time - self.began), self.pool.why_empty())
            until: cython.double = min(self.deadline, self.warn_at)
            if self.errand is None:
                begin: Any = self.begin_errand if self.offload else None
                due: cython.double = self.poll(time, begin)
                if due <= time:  # it was done, and things may have changed
                    time = seconds_of(self.now)
                    continue
                until = min(until, due)
            self.until = until
            return until if until == INFINITE else max(0.0, until - time)
        if self.state() != HAS_BEEN_SERVED:
            raise self.pool._unserved(self.ticket)
        self.outcome = HAS_BEEN_SERVED
        return HAS_SETTLED

    def park(self, parker: Any) -> None:
        """Step, and park a thread or greenlet in between, until the ticket is served; then `end`. Raises as `step`."""
        try:
            while (seconds := self.step()) != HAS_SETTLED:
                parker.park(None if seconds == INFINITE else seconds)
        finally:
            self.end()

    def poll(self, time: cython.double, begin: Any) -> cython.double:
        if self.queueing is not None:
            due: cython.double = Queueing.poll(self.queueing, self.own, time, begin)  # so, no subclass's is looked for
        else:
            due = self.engine.poll(self.ticket, time, begin)
        return due

    def join(self) -> cython.bint:
        """Line up."""
        knows_holders: cython.bint
        if self.parker is None and self.place is not None and self.place.may_be_gone:
            self.place.on_gone = self
        if self.queueing is not None:
            if self.parker is not None:  # as `enqueue` does, in C
                self.parker.on_gone = self
                self.own.set_waiter(self.parker, self.owner, this_thread(), True)
                Queueing.join(self.queueing, self.own)
            elif self.place is None:
                Queueing.join(self.queueing, self.own)
            else:
                self.queueing.enqueue(self.own, self.place)
            knows_holders = self.queueing.knows_holders
        else:
            self.engine.enqueue(self.ticket, self.place)
            knows_holders = self.engine.tracker.knows_holders
        if knows_holders and self.state() == STILL_WAITING:
            self.pool._find_deadlock(self.ticket, self.deadline != INFINITE)
        self.stands = True
        return True

    def begin_errand(self, ask: Any) -> None:
        """Have a thread ask the source."""
        self.errand = Errand(ask, self.place.wake)
        self.errand.begin()

    def end_errand(self) -> cython.bint:
        errand: Any = self.errand
        self.errand = None
        errand.result()
        return True

    def end(self) -> None:
        """It waits no longer. May be done again."""
        outcome: cython.Py_ssize_t = self.outcome if self.stands else NOT_COUNTED
        seconds: cython.double = seconds_of(self.now) - self.began
        if self.queueing is not None and (self.parker is not None or self.place is None):  # as `dequeue` does, in C
            Queueing.leave(self.queueing, self.own, outcome, seconds)
            if self.parker is not None:
                self.parker.on_gone = self.owner = None
        elif self.quick is None or not self.quick.leave(self.ticket, self.place, outcome, seconds):
            self.engine.dequeue(self.ticket, self.place, self.outcome if self.stands else None, seconds)
        self.stands = False
        if self.errand is not None:
            self.errand.leave()


class Routine:
    """An awaitable that its class drives step by step: to asyncio, to trio and to `await` it is a coroutine.

    inner: what it waits for, another awaitable that has begun; what is sent or thrown in goes there.
    """

    inner: Any
    has_begun: cython.bint
    has_ended: cython.bint

    _is_finalizing = staticmethod(sys.is_finalizing)  # here, because at the end this module's `sys` is None already

    def __init__(self) -> None:
        self.inner = None
        self.has_begun = self.has_ended = False

    def __await__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self._step(None)

    def send(self, value: Any) -> Any:
        """See collections.abc.Coroutine."""
        return self._step(value)

    def throw(self, kind: Any, error: Any = None, traceback: Any = None) -> Any:
        """See collections.abc.Coroutine. What waits for nothing ends with this error."""
        error = _instance_of(kind, error, traceback)
        try:
            if self.inner is None:
                raise error
            return self.inner.throw(error)
        except StopIteration:
            pass  # what was waited for took no notice, and has ended well
        except BaseException:
            self.end()
            raise
        finally:
            kind = error = traceback = None  # an error whose frames know it would keep what they hold until a collection
        return self._finish()

    def close(self) -> None:
        """See collections.abc.Coroutine."""
        try:
            if self.inner is not None:
                self.inner.close()
        finally:
            self.end()

    def _go_on(self, sent: Any) -> Any:
        """Run to the next wait and return what its loop is to be given; or FINISHED. Not called again after an error."""
        raise NotImplementedError

    def _begin_inside(self, inner: Any) -> Any:
        """Go on by what this awaitable, which has not begun, yields."""
        self.inner = inner
        return go_on_inside(inner, None)

    def _outcome(self) -> Any:
        """What `await` returns."""
        return None

    def _cancel(self) -> cython.void:
        """It ends without having told what it brought: that goes back."""

    def end(self) -> cython.void:
        """An error comes out, or nobody awaits it any more."""
        if self.has_begun and not self.has_ended:
            self.has_ended = True
            self.inner = None
            self._cancel()
        self.has_ended = True

    def __del__(self) -> None:
        if self.has_begun and not self.has_ended and not self._is_finalizing():
            try:
                self.end()
            except (KeyboardInterrupt, MemoryError):  # Python swallows what is raised here, and nobody would come back to it
                self._cancel()
                raise

    def begin_step(self) -> cython.void:
        if self.has_ended:
            raise RuntimeError("cannot reuse already awaited coroutine")
        self.has_begun = True

    def _step(self, sent: Any) -> Any:
        self.begin_step()
        try:
            yielded: object = self._go_on(sent)
        except BaseException:
            self.end()
            raise
        return yielded if yielded is not FINISHED else self._finish()

    def _finish(self) -> Any:
        try:
            stop: StopIteration = StopIteration(self._outcome())
            self.has_ended = True
        except BaseException:
            self.end()  # no memory, or an interrupt: nobody will hear of it
            raise
        try:
            raise stop
        finally:
            # From CPython 3.12 on the exception keeps its traceback after `await` has met it. Its frame would keep it in
            # turn, and the frames above what the caller was given, until a collection.
            stop = None  # type: ignore[assignment]  # nobody reads it any more


def _instance_of(kind: Any, error: Any, traceback: Any) -> Any:
    """The exception that the arguments of a `throw` mean."""
    if isinstance(kind, BaseException):
        error = kind
    elif not isinstance(error, kind):
        error = kind() if error is None else kind(error)
    return error if traceback is None else error.with_traceback(traceback)


def go_on_inside(inner: Any, sent: Any) -> Any:
    """The next step of an awaitable that has no result: what it yields, or FINISHED."""
    if cython.compiled:
        return send_inside(inner, sent)
    try:
        return inner.send(sent)
    except StopIteration:
        return FINISHED


def quicken(kind: Any) -> Any:
    """Compiled, have `await` call `_go_on` directly. A subclass is given it by name, because it was made before."""
    if cython.compiled:
        set_slots(kind, next_of, send_to)


quicken(Routine)


class _Local(native.local):
    #: That of the loop which ran last in this thread.
    alarm: Any = None


_local: Any = _Local()
#: That of any thread, which is at hand in C: most programs have one loop.
_last_alarm: Any = None


@cython.final
@cython.cclass
class Alarm:
    """One timer for all tasks of one loop that are parked for long, which most of them never are to the end.

    A timer each would be set and cancelled at every turn, and cost more than all else that a turn does. This one is left
    to ring, rouses whose time is up and is set for the next of them; where nobody is parked any more, it is not.
    """

    clock: Any
    loop: Any  # a weak reference
    due: cython.double
    parked: dict[Any, None]

    def __init__(self, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.clock = clock
        self.loop = weakref.ref(loop)
        self.due = NEVER
        self.parked = {}

    def expect(self, place: AsyncioParker, when: cython.double) -> cython.void:
        """Rouse this one at that time, unless it is forgotten before."""
        place.due = when
        self.parked[place] = None
        if when < self.due:
            self.set(when)

    def set(self, when: cython.double) -> cython.void:
        loop: Any = self.loop()
        if loop is not None:
            # An earlier timer is left where it is, and finds nobody. It is `due` that says which one counts.
            self.clock.call_later(loop, when - self.clock.now(), functools.partial(self.ring, when))
            self.due = when

    def ring(self, when: cython.double) -> None:
        """Rouse whose time is up."""
        if when != self.due:
            return  # set for an earlier time since
        self.due = NEVER
        now: cython.double = self.clock.now()  # a loop may ring a little early, by its own time: then it is set again
        due: cython.double = INFINITE
        place: AsyncioParker
        for place in list(self.parked):
            if place.due <= now:
                self.parked.pop(place, None)
                place._rouse()
            else:
                due = min(due, place.due)
        if self.parked and due < self.due:  # else it has been set meanwhile, for one who parked in between
            self.set(max(due, now + MAY_BE_LATE))


def alarm_of(clock: Any, loop: Any) -> Alarm:
    """That of this loop, which runs in this thread."""
    global _last_alarm  # noqa: PLW0603 - one for all threads is meant
    alarm: Alarm | None = None
    if not WITHOUT_GIL:  # there, another thread may put its own in this one's place while it is being taken
        alarm = _last_alarm
        if alarm is not None and alarm.clock is clock and alarm.loop() is loop:
            return alarm
    alarm = _local.alarm
    if alarm is None or alarm.clock is not clock or alarm.loop() is not loop:
        alarm = _local.alarm = Alarm(clock, loop)
    if not WITHOUT_GIL:
        _last_alarm = alarm
    return alarm


@cython.final
@cython.cclass
class AsyncioParker(Routine):
    """A task of asyncio, whatever the loop, parks on a future; a wake-up from another thread goes through the loop."""

    task: Any  # a weak reference
    may_be_gone: cython.bint
    on_gone: Any
    now: Any
    clock: Any
    loop: Any
    shares_timers: cython.bint
    future: Any
    timer: Any
    alarm: Alarm | None
    seconds: cython.double
    due: cython.double  # when the alarm is to rouse it
    is_woken: cython.bint

    def __init__(self, clock: Clock, loop: asyncio.AbstractEventLoop, task: Any = None) -> None:
        self.prepare(clock, loop)
        owner: Any = task if task is not None else task_running_in(loop)
        # A weak reference: the error that ends a task's wait has this parker in its traceback, and the task keeps the error.
        # A strong one would close a cycle, in which what the task had in its locals stays until a collection.
        self.task = None if owner is None else weakref.ref(owner)

    def prepare(self, clock: Any, loop: Any) -> cython.bint:
        if not cython.compiled:  # compiled, a new one comes with None and False
            Routine.__init__(self)
            self.on_gone = None
            self.future = self.timer = self.alarm = self.task = None
            self.is_woken = False
        self.may_be_gone = True
        is_usual: cython.bint = clock is usual_clock  # then the names need not be looked up
        self.now = usual_now if is_usual else clock.now
        self.shares_timers = is_usual or clock.shares_timers
        self.clock = clock
        self.loop = loop
        self.seconds = INFINITE
        return True

    @property
    def owner(self) -> object:
        """See Waker."""
        return None if self.task is None else self.task()

    def wake(self) -> None:
        """See Waker."""
        if loop_here() is self.loop and task_running_in(self.loop) is not None:
            self._rouse()  # inside a task of this loop, so the loop is neither asleep nor closed
            return
        try:
            self.loop.call_soon_threadsafe(self._rouse)
        except RuntimeError:  # the loop is closed: its ticket loses its place, and not an element
            if self.on_gone is not None:
                self.on_gone()

    def __call__(self) -> None:
        """The same: what a ticket calls to wake its waiter."""
        self.wake()

    def _rouse(self) -> None:
        self.is_woken = True
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def park(self, seconds: float | None) -> Any:
        """Suspend this task until woken, at most so many seconds; None: without end. To be awaited."""
        self.seconds = NEVER if seconds is None else seconds
        self.has_begun = self.has_ended = False
        return self

    def _go_on(self, sent: Any) -> Any:
        if self.future is not None:
            self.get_up()
            return FINISHED
        return self.future if self.lie_down(self.seconds, INFINITE) else FINISHED

    def _cancel(self) -> cython.void:
        self.get_up()

    def lie_down(self, seconds: cython.double, when: cython.double) -> cython.bint:
        """Park: whoever runs this task is given the future. False: it was woken before. when: the end; NEVER: not told."""
        # First of all: a finalizer or a signal handler in this very task may rouse it at any line, and must find it.
        self.future = new_future(self.loop)
        if self.is_woken:
            self.future = None
            self.is_woken = False
            return False
        if LONG_WAIT < seconds < INFINITE and self.shares_timers:
            self.alarm = alarm_of(self.clock, self.loop)
            self.alarm.expect(self, seconds_of(self.now) + seconds if when == INFINITE else when)
        elif seconds != INFINITE:
            self.timer = self.clock.call_later(self.loop, seconds, self._rouse)
        self.future._asyncio_future_blocking = True  # as its own __await__ says that it is not just yielded
        return True

    def get_up(self) -> cython.bint:
        """Parked no more, however that came."""
        self.future = None
        self.is_woken = False
        if self.alarm is not None:
            self.alarm.parked.pop(self, None)
            self.alarm = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return True


def new_future(loop: Any) -> Any:
    """`loop.create_future()`, without the frame that this costs where a loop says what all of asyncio's say."""
    global _plain_loop  # noqa: PLW0603 - one for all loops is meant
    if WITHOUT_GIL:  # see alarm_of
        return loop.create_future()
    kind: Any = type(loop)
    if kind is not _plain_loop:
        if kind.create_future is not asyncio.BaseEventLoop.create_future:
            return loop.create_future()
        _plain_loop = kind
    return asyncio_future(loop=loop)


def task_of(loop: Any) -> Any:
    """The task of this loop whose code runs here. None: a callback, or another's code while the loop runs in this thread."""
    task: Any = task_running_in(loop)
    if task is not None:
        modules: dict[str, Any] = loaded_modules
        if "sniffio" in modules and modules["sniffio"].thread_local.name == "trio":
            return None  # a run of trio inside this very task
        # As greenlets.are_loaded, without a call.
        if ("gevent" in modules or "eventlet" in modules) and not greenlets.is_on_this_stack(task.get_coro()):
            return None  # another greenlet, which gave way in the middle of a step of this task
    return task


@cython.final
@cython.cclass
class Obtaining(Routine):
    """What a task awaits to be served: its ticket is filled then, and checked out. Returns nothing."""

    pool: Any
    ticket: Any
    timeout: Any
    queueing: Any  # see Wait
    place: AsyncioParker  # this and the next are None where it need not wait
    wait: Wait

    def _go_on(self, sent: Any) -> Any:
        if self.inner is not None:
            return go_on_inside(self.inner, sent)
        if self.wait is not None:
            self.place.get_up()
        elif self.is_done_at_once():
            return FINISHED
        elif self.wait is None:
            return self._begin_inside(self.pool._obtain_elsewhere(self.ticket, self.timeout))
        while True:
            seconds: cython.double = self.wait.step()
            if seconds == HAS_SETTLED:
                break
            if self.place.lie_down(seconds, self.wait.until):
                return self.place.future
        self.wait.end()
        self.wait = None  # type: ignore[assignment]  # as it was
        self.check_out()
        return FINISHED

    def check_out(self) -> cython.bint:
        if self.queueing is not None:
            Queueing.check_out(self.queueing, cython.cast(Ticket, self.ticket))
        elif self.pool._quick is None or not self.pool._quick.check_out(self.ticket):
            self.pool._engine.check_out(self.ticket)
        return True

    def is_done_at_once(self) -> cython.bint:
        """Whether there was no need to wait; else there is a wait from now on, unless this is no task of asyncio's."""
        loop: Any = loop_here() if not kinds and not self.pool._offload else None
        task: Any = None if loop is None else task_of(loop)
        if task is None:
            return False
        engine: Any = self.pool._engine
        clock: Any
        if isinstance(engine, Queueing):
            self.queueing = engine
            clock = self.queueing._clock
        else:
            clock = engine.clock
        place: AsyncioParker = AsyncioParker.__new__(AsyncioParker)
        place.prepare(clock, loop)
        if self.queueing is None:
            place.task = weakref.ref(task)
            task = None  # else the wait is told, which costs less
        deadline: cython.double = INFINITE
        if (self.timeout is not DEFAULT and self.timeout != DEFAULT) or self.pool._timeout is not None:
            deadline = self.pool._deadline(self.timeout, place.now)
        is_served: cython.bint
        if self.queueing is not None:
            is_served = Queueing.try_take(self.queueing, cython.cast(Ticket, self.ticket), True, True)
        else:
            is_served = engine.try_take(self.ticket, ask_source=True, may_wait=True)
        if is_served:
            self.check_out()
            return True
        self.place = place
        wait: Wait = Wait.__new__(Wait)
        wait.begin(self.pool, self.queueing, self.ticket, place, task, place.now, deadline, seconds_of(place.now), False)
        self.wait = wait
        return False

    def _cancel(self) -> cython.void:
        if self.place is not None:
            self.place.get_up()
        if self.wait is not None:
            self.wait.end()


def obtain(pool: Any, ticket: Any, timeout: Any) -> Obtaining:
    """To be awaited: fill the ticket and check it out."""
    obtaining: Obtaining = Obtaining.__new__(Obtaining)
    obtaining.pool = pool
    obtaining.ticket = ticket
    obtaining.timeout = timeout
    if not cython.compiled:  # compiled, a new one comes with None
        obtaining.queueing = None
        obtaining.place = obtaining.wait = None  # type: ignore[assignment]  # see there
        Routine.__init__(obtaining)
    return obtaining


quicken(AsyncioParker)
quicken(Obtaining)
