# cython: language_level=3
"""What a call that must wait goes through, and how often the head of the line asks the source. Compiled, without a frame."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from mempool import native
from mempool._core.decisions import HAS_ALL, IN_LINE
from mempool.engine import NEVER

if TYPE_CHECKING:
    from mempool._core import _cython as cython
else:
    try:
        import cython
    except ModuleNotFoundError:
        from mempool._core import _cython as cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.decisions import Decisions
    from mempool._core.transfer import Ticket, Transfer

#: Seconds. The head of the line asks the source by itself after the first, then in doubling steps up to the last
#: (kernel: every 5 s); and, whatever has changed, never sooner than the third after a failure.
ASK_FIRST, ASK_LAST, ASK_SOONEST = 0.05, 5.0, 0.001
_NO_PLACES: list[None] = []


@cython.cclass
class Queueing:
    """The base of LocalEngine, which has the rest. See Engine in engine.py for what is promised of each call."""

    core: Decisions
    tracker: Any

    def __init__(self, core: Decisions, tracker: Any) -> None:
        self.core = core
        self.tracker = tracker

    def try_take(self, ticket: Transfer, *, ask_source: cython.bint, may_wait: cython.bint = False) -> bool:
        """See Engine."""
        if may_wait and self.core.must_enqueue(ticket):
            return False
        step: Any = self
        return bool(step._take_or_ask(ticket, ask_source, may_wait))

    def check_out(self, ticket: Transfer) -> None:
        """See Engine."""
        if self.core.fast_alloc:  # nobody needs to be told
            self.core.check_out(ticket)
        else:
            step: Any = self
            step._check_out_slowly(ticket)

    def enqueue(self, ticket: Ticket, waker: Any) -> None:
        """See Engine."""
        step: Any = self
        ticket.set_waiter(waker.wake, waker.owner, native.get_ident(), waker.may_be_gone)
        if not self.core.fast_alloc:
            step.notice_lost()
        places: list[None] = [None] * ticket.wanted if ticket.wanted > self.core.capacity() else _NO_PLACES
        answer: cython.Py_ssize_t = self.core.join(ticket, places)
        if answer not in (IN_LINE, HAS_ALL):
            raise step._refused(ticket, answer)

    def poll(self, ticket: Ticket, now: cython.double, begin: Any = None) -> float:
        """See Engine."""
        if not self.core.is_first(ticket):
            return NEVER
        if ticket.ask_at == 0:
            ticket.ask_after = ASK_FIRST
            ticket.ask_at = now + ASK_FIRST
            ticket.rest_until = now
        step: Any = self
        due: cython.double = ticket.ask_at
        if ticket.retry_now:
            # News: a question between the others, which does not change when those are due.
            after_failure: cython.double = now + max(0.0, step._seconds_after_failure(ASK_SOONEST))
            due = min(due, max(ticket.rest_until, after_failure))
        if now < due:
            return due
        if now >= ticket.ask_at:
            ticket.ask_after = min(2 * ticket.ask_after, ASK_LAST)
            ticket.ask_at = now + ticket.ask_after
        else:
            ticket.take_retry()
        ask: Any = functools.partial(step._ask_for_head, ticket, now)
        if begin is None:
            ask()
        else:
            begin(ask)
        return now

    def dequeue(self, ticket: Ticket, waker: Any, outcome: int | None, seconds: cython.double) -> None:
        """See Engine."""
        self.core.cancel(ticket)
        ticket.forget_owner()
        waker.on_gone = None
        if outcome is not None:
            self.core.count_wait(outcome, seconds)
