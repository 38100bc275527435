# cython: language_level=3
"""What a call owns, and where it stands: Transfer and Ticket. Plain records: the decisions are in decisions.py.

An element that is neither a spare nor with its user is in somebody's transfer, and in nobody else's. A transfer is filled
and emptied in the same step that changes the state, so an exception that is raised at any line finds every element either in
the state or in exactly one transfer, and whoever catches it knows what to give back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mempool import _cython as cython

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.mutex import WITHOUT_GIL, atomic_int, atomic_ssize

WAITING = 0  #: stands in the line, or never joined it
SERVED = 1  #: has all it asked for
CLOSED = 2  #: the pool was closed; it gets nothing
WITHDRAWN = 3  #: left by itself; it refuses what is offered
#: (4 is TIMED_OUT, in engine.py.)
IMPOSSIBLE = 5  #: wants more than the limit allows, since it was lowered


class Transfer:
    """The elements and permits that one call owns: `elements[first:count]`, and `permits` permissions to ask the source."""

    wanted: cython.Py_ssize_t
    elements: list[Any]
    first: cython.Py_ssize_t
    count: cython.Py_ssize_t
    permits: cython.Py_ssize_t
    filling: cython.bint
    is_surplus: cython.bint
    proven: cython.bint
    refused: cython.bint
    asks_for: Ticket | None
    joined: cython.Py_ssize_t
    checked: cython.bint
    lingering: cython.Py_ssize_t
    removed: list[bool]  # uncompiled only
    made: list[Any]
    twice: Any
    free_called: list[Any]
    successors: list[Any] | None

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.elements = [None] * wanted  # the places are made here, because the state may not allocate
        self.first = 0
        self.count = 0
        self.permits = 0  # how many elements this call may ask the source for
        self.filling = False  # the permits are a resize's, which fills the reserve; or these stand for a whole fill
        self.is_surplus = False  # what this transfer holds is surplus, counted as being disposed of
        self.refused = False  # this transfer has not asked the source: there was no room, or others came first
        self.joined = 0  # how many had joined the line when this transfer asked
        self.asks_for = None  # the head of the line, on whose behalf this transfer asks the source
        self.checked = False  # the source's check has had what this transfer holds, and may have changed it
        self.lingering = 0  # how many of what this transfer holds the state counts as lingering, until it is back
        self.proven = False  # the table of outstanding elements let go of what this transfer holds (compiled)
        # What the source has made and the state does not know yet; an element that is None is not made. Of a new_ticket,
        # which most often is served by others, this list is None at first, and so is `free_called`.
        self.made = []
        self.twice = None  # what the source has returned although it is in the pool already
        self.free_called = []  # not empty: the source's free has been entered for the first element
        self.successors = None  # compiled, without the GIL: the next handle of each buffer, see buffer.prepare
        if not cython.compiled:
            self.removed = []  # the same, see Outstanding.check_in

    def places_to_make(self) -> list[Any]:
        """Where to put what the source makes: one place for each permit, behind what it has made."""
        if self.made is None:
            self.made = []
        self.made.extend([None] * self.permits)
        return self.made

    def make_place_to_free(self) -> None:
        """Where to note that the source's free has been entered, as far as it is not there."""
        if self.free_called is None:
            self.free_called = []

    def held(self) -> list[Any]:
        """The elements in this transfer, in the order in which they came."""
        return self.elements[self.first : self.count]

    def are_owners(self) -> bool:
        """Whether the table of outstanding elements let go of the element, so that nobody else owns it."""
        if cython.compiled:
            return self.proven
        return self.proven or (len(self.removed) >= self.count > 0 and all(self.removed))

    def disown(self) -> None:
        """The table of outstanding elements has what this transfer holds again."""
        self.proven = False
        if not cython.compiled:
            self.removed.clear()

    def missing(self) -> int:
        return self.wanted - (self.count - self.first)

    def ask_for(self, head: Ticket) -> None:
        """This transfer asks the source because this ticket waits."""
        self.asks_for = head

    def defer(self) -> None:
        """This transfer does not ask the source, because others wait."""
        self.refused = True  # a hint, so it needs no place in a draft; see Decisions.join

    def hold(self, element: Any) -> None:
        """Put in an element that the caller owns already."""
        self.add(element)

    def let_go(self) -> None:
        """Drop what has left this transfer for the views that keep it. Not in a decision: a finalizer may run."""
        i: cython.Py_ssize_t
        for i in range(self.first):
            self.elements[i] = None

    def add(self, element: Any) -> cython.void:
        self.elements[self.count] = element
        self.count += 1


class Ticket(Transfer):
    """One caller's place in the line. `wake` is called, outside every decision, when there is something to look at.

    `wake` never blocks and may be called more than once: a wake-up is a hint, the state is the truth.
    """

    state: atomic_ssize
    retry_now: atomic_int
    wake: Callable[[], object] | None
    owner: object
    thread: object
    ahead: Ticket | None
    behind: Ticket | None
    next_to_wake: Ticket | None
    in_line: cython.bint
    in_wake_queue: cython.bint
    may_be_gone: cython.bint
    ask_after: cython.double
    ask_at: cython.double
    rest_until: cython.double

    def __init__(self, wanted: int) -> None:
        Transfer.__init__(self, wanted)
        self.state = WAITING
        self.retry_now = False  # as head of the line, ask the source at once
        self.wake = None  # set before it joins the line, see set_waiter
        self.owner = None  # who waits, a thread or a task: for the report of a deadlock
        self.thread = None  # in which thread: after a fork only one of them lives
        self.ahead = None  # compiled: neighbours in the line
        self.behind = None
        self.next_to_wake = None  # compiled: next one in the wake queue
        self.in_line = False
        self.in_wake_queue = False
        self.may_be_gone = False
        # As head of the line, see Queueing.poll: seconds between two questions, the next one, and none before. 0: not yet.
        self.ask_after = self.ask_at = self.rest_until = 0.0

    def set_waiter(self, wake: Any, owner: object, thread: object, may_be_gone: cython.bint = False) -> None:
        """Say how to wake the one who waits, who it is, and the ident of its thread.

        may_be_gone: `wake` may find nobody there, and gives up the place then.
        """
        self.may_be_gone = may_be_gone
        self.wake = wake
        self.owner = owner
        self.thread = thread

    def forget_owner(self) -> None:
        """It has left the line. A task keeps the error that ends its wait, and so what the error's traceback refers to."""
        if WITHOUT_GIL:
            self._drop_owner()
        else:
            self.owner = None

    @cython.critical_section
    def _drop_owner(self) -> Any:
        """Another thread may look at it, to tell who waits: it shall not die in between."""
        owner: object = self.owner
        self.owner = None
        return owner

    def is_settled(self) -> bool:
        """No longer waiting: look at `state`."""
        return self.state != WAITING

    def take_retry(self) -> bool:
        """Whether to ask the source at once. Once told, it is False again."""
        retry_now: bool = bool(self.retry_now)
        self.retry_now = False
        return retry_now


def new_ticket(wanted: cython.Py_ssize_t) -> Ticket:
    """The way to make one: without the cost of a call to `Ticket`, whose `__init__` says the same."""
    if not cython.compiled:
        return Ticket(wanted)
    ticket: Ticket = Ticket.__new__(Ticket)  # all else is 0, False or None then, also `made` and `free_called`
    ticket.wanted = wanted
    ticket.elements = [None] * wanted
    return ticket
