# cython: language_level=3
"""What a call that must wait goes through, and how often the head of the line asks the source. Compiled, without a frame."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from mempool import _cython as cython
from mempool._core.decisions import HAS_ALL, IN_LINE
from mempool.engine import NEVER
from mempool.native import get_ident

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.decisions import Decisions
    from mempool._core.transfer import Ticket, Transfer, new_ticket

#: The outcome of a wait that never began.
NOT_COUNTED: cython.Py_ssize_t = -1
#: Seconds. The head of the line asks the source by itself after the first, then in doubling steps up to the last
#: (kernel: every 5 s); and, whatever has changed, never sooner than the third after a failure.
ASK_FIRST, ASK_LAST, ASK_SOONEST = 0.05, 5.0, 0.001
NO_PLACES: list[Any] = []

# The same in C, see waiting.py.
STANDS_IN_LINE: cython.Py_ssize_t = IN_LINE
NEEDS_NO_PLACE: cython.Py_ssize_t = HAS_ALL
INFINITE: cython.double = NEVER


class Queueing:
    """The base of LocalEngine, which has the rest. See Engine in engine.py for what is promised of each call."""

    core: Decisions
    tracker: Any
    knows_holders: cython.bint  # what the tracker says of itself, at hand
    _clock: Any

    def __init__(self, core: Decisions, tracker: Any, clock: Any) -> None:
        self.core = core
        self._clock = clock
        self.tracker = tracker
        self.knows_holders = tracker.knows_holders

    def track_by(self, tracker: Any) -> None:
        """Record what is out in another way, while nothing is."""
        self.tracker = tracker
        self.knows_holders = tracker.knows_holders

    def ticket(self, wanted: cython.Py_ssize_t) -> Ticket:
        """See Engine."""
        return new_ticket(wanted)

    def try_take(self, ticket: Transfer, ask_source: cython.bint, may_wait: cython.bint = False) -> bool:
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
        ticket.set_waiter(waker.wake, waker.owner, get_ident(), waker.may_be_gone)
        self.join(ticket)

    def join(self, ticket: Ticket) -> None:
        """Enqueue a ticket that knows its waiter."""
        step: Any = self
        if not self.core.fast_alloc:
            step.notice_lost()
        places: list[None] = [None] * ticket.wanted if ticket.wanted > self.core.capacity() else NO_PLACES
        answer: cython.Py_ssize_t = self.core.join(ticket, places)
        if answer != STANDS_IN_LINE and answer != NEEDS_NO_PLACE:  # noqa: PLR1714 - of a tuple these would be objects
            raise step._refused(ticket, answer)

    def poll(self, ticket: Ticket, now: cython.double, begin: Any = None) -> float:
        """See Engine."""
        if not self.core.is_first(ticket):
            return INFINITE
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

    def dequeue(self, ticket: Ticket, waker: Any, outcome: Any, seconds: cython.double) -> None:
        """See Engine."""
        self.leave(ticket, NOT_COUNTED if outcome is None else outcome, seconds)
        waker.on_gone = None

    def leave(self, ticket: Ticket, outcome: cython.Py_ssize_t, seconds: cython.double) -> None:
        """Dequeue a ticket whose waiter knows nothing of it."""
        self.core.cancel(ticket)
        ticket.forget_owner()
        if outcome != NOT_COUNTED:
            self.core.count_wait(outcome, seconds)
