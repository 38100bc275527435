"""One thread per process for what looks after pools by itself: `mempool.upkeep` and `mempool.pressure.follow`.

States of the thread:

    absent  --add-->  running  --the last job is over-->  absent
    running  --fork-->  absent in the child  --there are jobs-->  running there
    running  --the interpreter ends-->  ended: nothing starts it any more

Invariants:

1. At most one thread, however many jobs; none before the first job, and none after the last is over.
2. A job refers to its pool weakly. While it runs it holds the pool, and at no other time.
3. Whatever a job raises is logged, and that job waits a minute; the thread and the other jobs go on.
4. No lock is held while a job runs. `ring`, which finalizers and signal handlers call, takes none and never blocks.
5. The thread is a daemon. The end of the interpreter waits for it at most END_SECONDS, in which a job that runs can end.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
import weakref
from _queue import Empty, SimpleQueue
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import mempool.lifecycle  # noqa: F401 - registers its hooks before ours, so that a child's pools are sound first
from mempool import native
from mempool._core.base_decisions import renew_locks

if TYPE_CHECKING:
    from mempool.base_pool import BasePool

#: Seconds after which a job that has raised is run again.
AFTER_ERROR = 60.0
#: Seconds that the end of the interpreter waits for a job that runs.
END_SECONDS = 1.0
#: Seconds. Jobs that are due so soon after another are run with it: one wake-up for all.
TOGETHER = 0.05
NEVER = float("inf")

log: logging.Logger = logging.getLogger("mempool")


class Job:
    """What the thread does again and again. Subclasses set `next_at` and `fd` in `_run`."""

    def __init__(self) -> None:
        self.next_at: float = 0.0
        """When to run next, in seconds of `time.monotonic`."""
        self.fd: int | None = None
        """A descriptor: when it has one of the events, the job runs at once."""
        self.fd_events: int = 0
        self.call: Callable[[Callable[[], object]], object] | None = None
        """Makes the job run elsewhere: an event loop's `call_soon_threadsafe`. None: in the thread."""
        self.is_over: bool = False
        """Set for good: it is not run again."""

    def _run(self, events: int) -> None:
        """Do what is due. events: what the descriptor had, as `select.poll` says it; 0: the time has come."""
        raise NotImplementedError

    def _end(self) -> None:
        """It is over: close what is open. May be called again, and from any thread."""

    def _after_fork(self) -> None:
        """In the child: locks and descriptors are the parent's."""


class JobOfPool(Job):
    """A job for one pool, which it refers to weakly: over by `close`, at the end of a `with` block, or with its pool."""

    _is_finalizing = staticmethod(sys.is_finalizing)  # here, because at the end this module's `sys` is None already

    def __init__(self, pool: BasePool[Any]) -> None:
        super().__init__()
        self._pool: weakref.ref[BasePool[Any]] = weakref.ref(pool, self._pool_is_gone)
        self._name: str = pool.name

    def close(self) -> None:
        """Do it no longer. The pool stays as it is then. May be called again."""
        self.is_over = True
        if not self._is_finalizing():
            SERVICE.ring()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _pool_is_gone(self, _reference: object) -> None:
        self.close()


class _Bell:
    """What the thread sleeps on: descriptors, a time, and `ring`."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        for end in (self._reading, self._writing):
            os.set_blocking(end, False)

    def ring(self) -> None:
        """End the `wait` that is under way, or else the next one."""
        try:
            os.write(self._writing, b"\0")
        except OSError:
            pass  # full: it rings already; or closed: nobody waits

    def wait(self, watched: dict[int, int], seconds: float) -> dict[int, int]:
        """Sleep until `ring`, an event or the time. Returns the events by descriptor."""
        assert native.poll is not None
        poll = native.poll()
        poll.register(self._reading, select.POLLIN)
        for fd, events in watched.items():
            poll.register(fd, events)
        found = dict(poll.poll(None if seconds == NEVER else min(seconds, 86_400.0) * 1000 + 1))
        if found.pop(self._reading, 0):
            try:
                while len(os.read(self._reading, 4096)) == 4096:
                    pass
            except BlockingIOError:
                pass
        return found

    def close(self) -> None:
        os.close(self._reading)
        os.close(self._writing)


class _QueueBell(_Bell):
    """The same where there is no `select.poll`: without descriptors."""

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        self._rings.put(None)

    def wait(self, watched: dict[int, int], seconds: float) -> dict[int, int]:
        try:
            self._rings.get(timeout=None if seconds == NEVER else min(seconds, 86_400.0))
            while True:
                self._rings.get_nowait()
        except Empty:
            return {}

    def close(self) -> None:
        pass


def _new_bell() -> _Bell:
    return _QueueBell() if native.poll is None else _Bell()


class Service:
    """The thread, and its jobs."""

    __slots__ = ("__dict__", "__weakref__", "_lock")  # the lock where eventlet does not look: native.RLock

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._lock = native.RLock()
        self._bell: _Bell | None = None
        self._alive: Any = None  # a lock that the thread holds while it lives; None: there is none
        self._is_ending = False

    @property
    def is_running(self) -> bool:
        """Whether the thread lives."""
        return self._alive is not None

    def jobs(self) -> list[Job]:
        """Those that are not over."""
        return [job for job in self._jobs.copy() if not job.is_over]

    def add(self, job: Job) -> None:
        """Run this job from now on. Raises RuntimeError where no thread can be had."""
        with self._lock:
            if self._is_ending:
                job.is_over = True
                return
            self._jobs.append(job)
            try:
                self._begin()
            except BaseException:
                self._jobs.remove(job)
                raise
        self.ring()

    def ring(self) -> None:
        """Have the thread look at its jobs: one is due earlier than it said, or over."""
        bell = self._bell
        if bell is not None:
            bell.ring()

    def _begin(self) -> None:
        if self._alive is None:
            if self._bell is None:
                self._bell = _new_bell()
            self._alive = alive = native.Lock()
            alive.acquire()
            try:
                native.start_thread(lambda: self._run(alive), "mempool upkeep")
            except BaseException:
                self._alive = None
                raise

    def _run(self, alive: Any) -> None:
        events: dict[int, int] = {}
        try:
            while (bell := self._bell) is not None:
                soon = time.monotonic() + TOGETHER
                for job in self._jobs.copy():
                    seen = 0 if job.fd is None else events.get(job.fd, 0)
                    if not job.is_over and (seen or job.next_at <= soon) and not self._is_ending:
                        self._run_job(job, seen)
                if not self._go_on(alive):
                    return
                watched = {job.fd: job.fd_events for job in self._jobs.copy() if job.fd is not None and not job.is_over}
                next_at = min((job.next_at for job in self._jobs.copy()), default=NEVER)
                events = bell.wait(watched, max(0.0, next_at - time.monotonic()))
        finally:
            alive.release()

    def _go_on(self, alive: Any) -> bool:
        """Whether there is anything left to do. In one step with the end of the thread: `add` begins another after it."""
        over = [job for job in self._jobs.copy() if job.is_over]
        for job in over:
            job._end()
        with self._lock:
            for job in over:
                self._jobs.remove(job)
            if (self._jobs or self._alive is not alive) and not self._is_ending:
                return self._alive is alive
            self._alive = None
            return False

    def _run_job(self, job: Job, events: int) -> None:
        try:
            job.next_at = NEVER  # a job that `call` makes says later when it is due; at the latest in a minute
            if job.call is None:
                job._run(events)
            else:
                job.next_at = time.monotonic() + AFTER_ERROR
                fd, job.fd = job.fd, None  # else it would wake the thread again before the job has come to it
                try:
                    job.call(lambda: self._run_called(job, fd, events))
                except RuntimeError as error:
                    job.fd = fd
                    log.warning("%s ends: its event loop takes no more calls (%s)", job, error)
                    job.is_over = True
        except Exception:
            job.next_at = time.monotonic() + AFTER_ERROR
            log.exception("%s has failed, and is tried again in %.0f s", job, AFTER_ERROR)

    def _run_called(self, job: Job, fd: int | None, events: int) -> None:
        """In the event loop of the job's own."""
        if job.is_over:
            return
        job.fd = fd
        try:
            job._run(events)
        except Exception:
            job.next_at = time.monotonic() + AFTER_ERROR
            log.exception("%s has failed, and is tried again in %.0f s", job, AFTER_ERROR)
        self.ring()

    def after_fork(self) -> None:
        """In the child: the thread does not live there. It begins anew where there are jobs."""
        renew_locks(self)
        renew_locks(vars(self), self._jobs)
        self._lock = native.RLock()
        self._alive = None
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()
        self._jobs = self.jobs()
        for job in self._jobs:
            job.next_at = 0.0  # one that ran in the parent's thread would be due when that has run it: never
            job._after_fork()
        try:
            if self._jobs and not self._is_ending:
                self._begin()
        except (RuntimeError, MemoryError, OSError):
            log.exception("in the child of a fork no thread can be had for upkeep and pressure: they do nothing there")

    def stop(self) -> None:
        """The interpreter ends."""
        self._is_ending = True
        alive = self._alive
        self.ring()
        if alive is not None:
            alive.acquire(timeout=END_SECONDS)


SERVICE = Service()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=SERVICE.after_fork)
# Before the interpreter joins its threads, as in lifecycle.py. Hooks run last first: before the pools give up their lines.
threading._register_atexit(SERVICE.stop)  # type: ignore[attr-defined]
