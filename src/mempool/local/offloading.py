"""Offload: calls of the source that would stop an event loop, made by a thread of the engine's own.

What is handed over is recorded before it is moved, and forgotten when it is done. So whatever is raised in between, and
whichever loop ends, somebody finds it: the thread, the next call that hands something over, or the end of the interpreter.
"""

from __future__ import annotations

import contextvars
import logging
from _queue import Empty, SimpleQueue
from collections import deque
from collections.abc import Callable

from mempool import lifecycle, parking
from mempool._core import Decisions, Transfer
from mempool._core.base_decisions import renew_locks
from mempool.native import get_ident, start_new_thread
from mempool.sources.moves import move

log: logging.Logger = logging.getLogger("mempool")


class _Job:
    __slots__ = ("context", "is_fill", "work")

    def __init__(self, work: Callable[[Transfer], object], context: contextvars.Context, is_fill: bool) -> None:
        self.work = work
        self.context = context
        self.is_fill = is_fill


class Offload:
    """What a thread does for one engine. No lock: a finalizer may come here from within any of these calls.

    The thread is not one of `threading`, whose start takes a lock and waits. It ends when there is nothing left to do.
    """

    __slots__ = ("_at", "_core", "_jobs", "_runner", "_token", "_waiting", "called", "fills")

    def __init__(self, core: Decisions, called: str, fills: dict[Transfer, int]) -> None:
        self.called: str = called
        self.fills: dict[Transfer, int] = fills  # of Ends
        self._core = core
        self._jobs: dict[Transfer, _Job] = {}
        self._token: deque[int] = deque([0])  # whoever has it does the jobs, and looks again when it has put it back
        self._runner: int | None = None  # the ident of that thread
        self._at: Transfer | None = None  # whose job it is at
        self._waiting: list[SimpleQueue[None]] = []

    # -- handing over

    def hand_over(self, transfer: Transfer, work: Callable[[Transfer], object]) -> bool:
        """Have `work` see to what this transfer holds: dispose of it, or reset it and take it back. It may be called again.

        False: the caller is to do it.
        """
        receiver = self._new_job(transfer.count - transfer.first, work)
        if receiver is None:
            return False
        try:
            self._core.pass_on(transfer, receiver)
        finally:
            if receiver.count:
                self._begin()
            else:
                self._jobs.pop(receiver, None)
        return bool(receiver.count)

    def fill(self, fill: Transfer, work: Callable[[Transfer], object]) -> bool:
        """Have `work` go on with this fill and end it. False: the caller is to do it."""
        try:
            return self._new_job(0, work, fill) is not None
        finally:
            if fill in self._jobs:
                self._begin()

    def has(self, transfer: Transfer) -> bool:
        """Whether this fill was handed over and has not ended; or whether this transfer is that of a job."""
        return transfer in self._jobs

    def resume(self) -> None:
        """Go on with what an exception has kept from its thread. For a caller that waits for the room this takes."""
        if self._jobs:
            self._begin()

    def _new_job(self, elements: int, work: Callable[[Transfer], object], fill: Transfer | None = None) -> Transfer | None:
        try:
            if lifecycle.is_ending() or not parking.stopped_here():
                return None
            transfer = Transfer(elements) if fill is None else fill
            job = _Job(work, contextvars.copy_context(), fill is not None)
            lifecycle.unfinished[self] = None
            self._jobs[transfer] = job
        except MemoryError:
            return None
        return transfer

    def _begin(self) -> None:
        lifecycle.unfinished[self] = None
        if lifecycle.is_ending():  # since it was asked: this may be too late for the one who finishes everything
            self._run()
        elif self._token:
            try:
                start_new_thread(self._run, ())
            except (RuntimeError, MemoryError):
                self._run()

    # -- doing it

    def _next(self) -> Transfer | None:
        """What is to be done next."""
        for transfer, job in list(self._jobs.items()):
            # While its elements are being moved, this is no job yet. Uncompiled, a transfer that is read without the lock
            # shows some of them; those moved after these were disposed of would be forgotten. Hence `held_by`.
            if job.is_fill or self._core.held_by(transfer):
                return transfer
        return None

    def _run(self) -> None:
        """Do all there is, unless somebody is at it. Logs what fails; raises what interrupts, when all is done."""
        interrupts: list[BaseException] = []
        while True:
            lifecycle.unfinished.pop(self, None)
            if self._next() is None:
                break
            lifecycle.unfinished[self] = None
            token: deque[int] = deque()
            try:
                move(self._token, token)
                if not token:
                    break
                self._runner = get_ident()
                while (transfer := self._next()) is not None:
                    self._do(transfer, interrupts)
            finally:
                if token:
                    self._runner = self._at = None
                    move(token, self._token)
                    for waiting in list(self._waiting):
                        waiting.put(None)
        if interrupts:
            raise interrupts[0]

    def _do(self, transfer: Transfer, interrupts: list[BaseException]) -> None:
        job = self._jobs[transfer]
        self._at = transfer
        try:
            job.context.run(job.work, transfer)
        except Exception:
            log.exception("%s: the source failed in a thread; whoever gave it this to do has gone on", self.called)
        except BaseException as error:  # noqa: BLE001 - raised when all is done
            interrupts.append(error)
        if job.is_fill or transfer.first >= transfer.count:
            self._jobs.pop(transfer, None)
        self._at = None

    # -- the end

    def finish(self, patience: float | None = None) -> None:
        """Do what there is to do, and wait for the thread that is at it. Returns at once where that is the caller.

        patience: seconds after which a thread that gets nothing done is left to itself, which is logged; None: never.
        """
        while True:
            self._run()
            if self._runner == get_ident():
                return
            waiting: SimpleQueue[None] = SimpleQueue()
            self._waiting.append(waiting)
            try:
                if not self._token:
                    before = self._progress()
                    try:
                        waiting.get(timeout=patience)
                    except Empty:
                        if self._progress() == before:
                            self._log_unfinished(patience)
                            return
                elif self._next() is None:
                    return
            finally:
                self._waiting.remove(waiting)

    def being_reset(self) -> int:
        """How many elements a thread has still to reset, or is at."""
        return sum(self._core.held_by(transfer) for transfer in list(self._jobs) if not transfer.is_surplus)

    def _progress(self) -> tuple[int, ...]:
        figures = self._core.snapshot()
        return figures["made"], figures["disposed"], self.being_reset()

    def _log_unfinished(self, seconds: float | None) -> None:
        disposing, resetting = self._core.snapshot()["disposing"], self.being_reset()
        log.warning(
            "%s: the source has done nothing for %g seconds in a thread that %s; nobody waits any longer",
            self.called,
            seconds,
            f"disposes of {disposing} elements" if not resetting else f"resets {resetting} elements",
        )

    def after_fork(self, survivor: int) -> Callable[[], object] | None:
        """The thread does not live here. Returns what sees to this process's copies. Fills are void, as all others'.

        What the thread was just resetting is out, as all that threads of the parent had under way: here, it may be in the
        midst of a `fill`, which makes its handle one that is looked at for ever.
        """
        renew_locks(self)
        if self._runner == survivor:
            return None  # the source's code has forked: that thread is here, and goes on
        if self._at is not None and not self._at.is_surplus:
            self._jobs.pop(self._at, None)
        self._token, self._runner, self._at = deque([0]), None, None
        renew_locks(self._jobs, self._waiting)
        self._waiting.clear()
        for transfer, job in list(self._jobs.items()):
            if job.is_fill:
                self._jobs.pop(transfer, None)
                self.fills.pop(transfer, None)
            else:
                job.context = job.context.copy()  # the parent's thread may be in the other one
        # In a thread: the source may need a lock that the parent's thread had, and `os.fork` must return nevertheless.
        return self.resume
