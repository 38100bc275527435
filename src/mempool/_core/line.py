# cython: language_level=3
"""What a call owns, and where it stands: Hands and Ticket. Plain records: the decisions are in reserve.py.

An element that is neither a spare nor with its user is in somebody's hands, and in nobody else's. Hands are filled and
emptied in the same step that changes the books, so an exception that flies at any line finds every element either in
the books or in exactly one pair of hands, and whoever catches it knows what to give back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mempool._core import _cython as cython
else:
    try:
        import cython
    except ModuleNotFoundError:
        from mempool._core import _cython as cython

WAITING = 0  #: stands in the line, or never joined it
SERVED = 1  #: has all it asked for
CLOSED = 2  #: the pool was closed; it gets nothing
WITHDRAWN = 3  #: left by itself; it refuses what is offered
#: (4 is TIMED_OUT, in reserve.py.)
IMPOSSIBLE = 5  #: wants more than the limit allows, since it was lowered


@cython.cclass
class Hands:
    """The elements and claims that one call owns: `elements[first:count]`, and `claims` permissions to ask the source."""

    wanted: cython.Py_ssize_t
    elements: list[Any]
    first: cython.Py_ssize_t
    count: cython.Py_ssize_t
    claims: cython.Py_ssize_t
    filling: cython.bint
    condemned: cython.bint
    proven: cython.bint
    refused: cython.bint
    asks_for: Ticket | None
    joined: cython.Py_ssize_t
    checked: cython.bint
    lingering: cython.Py_ssize_t
    struck: list[bool]
    arrivals: list[Any]
    twice: Any
    entered: list[Any]

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.elements = [None] * wanted  # the places are made here, because the books may not allocate
        self.first = 0
        self.count = 0
        self.claims = 0  # how many elements this call may ask the source for
        self.filling = False  # the claims are a resize's, which fills the reserve; or these stand for a whole fill
        self.condemned = False  # what these hands hold is surplus, counted as being disposed of
        self.refused = False  # these hands have not asked the source: there was no room, or others came first
        self.joined = 0  # how many had joined the line when these hands asked
        self.asks_for = None  # the head of the line, on whose behalf these hands ask the source
        self.checked = False  # the source's check has had what these hands hold, and may have changed it
        self.lingering = 0  # how many of what these hands hold the books count as lingering, until it is home
        self.proven = False  # the roll let go of what these hands hold (compiled)
        self.arrivals = []  # what the source has made and the books do not know yet; None: not made
        self.twice = None  # what the source has returned although it is in the pool already
        self.entered = []  # not empty: the source's free has been entered for the first element
        self.struck = []  # the same (uncompiled), see Roll.sign_in

    def held(self) -> list[Any]:
        """The elements in these hands, in the order in which they came."""
        return self.elements[self.first : self.count]

    def are_owners(self) -> bool:
        """Whether the roll let go of the element, so that nobody else owns it."""
        return self.proven or (len(self.struck) >= self.count > 0 and all(self.struck))

    def disown(self) -> None:
        """The roll has what these hands hold again."""
        self.proven = False
        self.struck.clear()

    def missing(self) -> int:
        return self.wanted - (self.count - self.first)

    def ask_for(self, head: Ticket) -> None:
        """These hands ask the source because this ticket waits."""
        self.asks_for = head

    def defer(self) -> None:
        """These hands do not ask the source, because others wait."""
        self.refused = True  # a hint, so it needs no place in a draft; see Reserve.join

    def hold(self, element: Any) -> None:
        """Put in an element that the caller owns already."""
        self.add(element)

    def let_go(self) -> None:
        """Drop what has left these hands for the views that keep it. Not in a decision: a finalizer may run."""
        i: cython.Py_ssize_t
        for i in range(self.first):
            self.elements[i] = None

    @cython.cfunc
    def add(self, element: Any) -> cython.void:
        self.elements[self.count] = element
        self.count += 1


@cython.cclass
class Ticket(Hands):
    """One caller's place in the line. `wake` is called, outside every decision, when there is something to look at.

    `wake` never blocks and may be called more than once: a wake-up is a hint, the state is the truth.
    """

    state: cython.Py_ssize_t
    prodded: cython.bint
    wake: Callable[[], object] | None
    owner: object
    thread: object
    ahead: Ticket | None
    behind: Ticket | None
    told: Ticket | None
    in_line: cython.bint
    in_news: cython.bint
    can_be_lost: cython.bint
    ask_after: cython.double
    ask_at: cython.double
    rest_until: cython.double

    def __init__(self, wanted: int) -> None:
        Hands.__init__(self, wanted)
        self.state = WAITING
        self.prodded = False  # there is news: as head of the line, ask the source now
        self.wake = None  # set before it joins the line, see set_waiter
        self.owner = None  # who waits, a thread or a task: for the report of a deadlock
        self.thread = None  # in which thread: after a fork only one of them lives
        self.ahead = None  # compiled: neighbours in the line
        self.behind = None
        self.told = None  # compiled: next one in the news
        self.in_line = False
        self.in_news = False
        self.can_be_lost = False
        # As head of the line, see Queueing.poll: seconds between two questions, the next one, and none before. 0: not yet.
        self.ask_after = self.ask_at = self.rest_until = 0.0

    def set_waiter(self, wake: Any, owner: object, thread: object, can_be_lost: cython.bint = False) -> None:
        """Say how to wake the one who waits, who it is, and the ident of its thread.

        can_be_lost: `wake` may find nobody there, and gives up the place then.
        """
        self.can_be_lost = can_be_lost
        self.wake = wake
        self.owner = owner
        self.thread = thread

    def is_settled(self) -> bool:
        """No longer waiting: look at `state`."""
        return self.state != WAITING

    def take_prod(self) -> bool:
        """Whether there was news since the last look."""
        prodded: bool = self.prodded
        self.prodded = False
        return prodded
