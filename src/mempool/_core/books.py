# cython: language_level=3
"""The pool's books: what is promised, what there is, and who waits, as one value. Decides nothing by itself.

A decision (reserve.py) edits them in place, and so it does the Hands and Tickets that it concerns.

Compiled, it calls nothing that could run Python code, so under the GIL, or inside the critical section of a free-threaded
build, nobody sees it half done.

Uncompiled, every bytecode may be followed by a thread switch, a signal handler, a finalizer or an exception. There, each
decision holds the lock of its pool and keeps a record of what it changes, by which it is taken back if anything is raised
in its middle: see deciding.py.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mempool._core import _cython as cython
else:
    try:
        import cython
    except ModuleNotFoundError:
        from mempool._core import _cython as cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.deciding import note, note_place
    from mempool._core.line import Hands, Ticket
    from mempool.buffer import Buffer

UNLIMITED = sys.maxsize


@cython.final
@cython.cclass
class Books:
    """Numbers are elements unless their name says otherwise.

    Invariants, true whenever the books are closed:
        made - disposed == spare + disposing + (out, or in somebody's hands)
        made - disposed + claimed <= limit, unless the limit was lowered below what exists
        spare - held_back < what the next to serve wants, where there is one: nobody waits while a spare could serve
        asked == 0, or the head of the line is inside the source
        closed: the line is empty
    """

    # The promise.
    reserve: cython.Py_ssize_t
    keep: cython.Py_ssize_t
    limit: cython.Py_ssize_t
    waiting_max: cython.Py_ssize_t
    keep_given: cython.Py_ssize_t  # -1: never given, keep follows the reserve
    closed: cython.bint
    dismissed: cython.bint  # nobody may wait any more
    # What there is.
    spare: cython.Py_ssize_t
    made: cython.Py_ssize_t
    disposed: cython.Py_ssize_t
    disposing: cython.Py_ssize_t  # decided, but the source's free has not come back yet
    written_off: cython.Py_ssize_t  # the part of `disposed` that never reached the source's free: lost with its holder
    strays: cython.Py_ssize_t  # after a fork: out, and on no roll, because a thread that does not live here was moving it
    claimed: cython.Py_ssize_t  # permissions to ask the source that are in somebody's hands
    filling: cython.Py_ssize_t  # the part of `claimed` that belongs to resizes and refills
    fills: cython.Py_ssize_t  # resizes and refills that go on until nothing is lacking, or the source fails
    starved: cython.bint  # a fill ended early, because others' claims or disposals took the room under the limit
    lingering: cython.Py_ssize_t  # the part of what is out that its users have freed, and views still keep
    waiting: cython.Py_ssize_t  # tickets in the line
    joined: cython.Py_ssize_t  # how many have ever lined up
    asked: cython.Py_ssize_t  # the part of `claimed` that the head of the line asks the source for, right now
    # What was done, for the statistics.
    from_spare: cython.Py_ssize_t
    from_source: cython.Py_ssize_t
    from_reserve: cython.Py_ssize_t
    from_line: cython.Py_ssize_t
    resizes: cython.Py_ssize_t
    waits: Any  # by outcome: see Ledger.count_wait
    wait_histogram: Any  # by duration: see WAIT_BUCKETS
    wait_seconds_total: cython.double
    wait_seconds_max: cython.double
    # The gates of the quick path: alloc may take a spare at once while spare > floor, free may keep one while spare < room.
    # And `full`, which lets alloc go on into the reserve: the limit is reached, so there is nobody to be asked before.
    floor: cython.Py_ssize_t
    room: cython.Py_ssize_t
    full: cython.bint
    rests_until: cython.longlong  # compiled: in nanoseconds by a clock of its own; 0: the source does not rest
    # The shelf, the line, and who must be woken.
    capacity: cython.Py_ssize_t
    places: list[Any]
    head: Ticket | None
    tail: Ticket | None
    news: Ticket | None
    drainers: tuple[Ticket, ...]  # who waits for the last element to come home
    # Uncompiled: see deciding.py.
    undo: list[Any] | None  # what takes back the decision that is being made; None: none is
    ends: tuple[Any, ...]  # what others may see of it only when it is made

    def __init__(self) -> None:
        self.reserve = self.keep = 0
        self.limit = self.waiting_max = UNLIMITED
        self.keep_given = -1
        self.closed = self.dismissed = False
        self.spare = self.made = self.disposed = self.disposing = self.claimed = self.filling = 0
        self.fills = self.written_off = self.strays = 0
        self.starved = False
        self.lingering = self.waiting = self.joined = self.asked = 0
        self.from_spare = self.from_source = self.from_reserve = self.from_line = 0
        self.resizes = -1  # the first retarget is the constructor's
        if not cython.compiled:  # compiled, arrays that begin as zeros, like all of a new object
            self.waits = [0] * 8
            self.wait_histogram = [0] * 8
        self.wait_seconds_total = self.wait_seconds_max = 0.0
        self.floor = UNLIMITED
        self.room = 0
        self.full = False
        self.rests_until = 0
        self.capacity = 0
        self.places = []
        self.head = self.tail = self.news = None
        self.drainers = ()
        self.undo = None
        self.ends = ()

    @cython.cfunc
    @cython.exceptval(check=False)
    def out(self) -> cython.Py_ssize_t:
        """In users' hands, or on the way there or back."""
        return self.made - self.disposed - self.disposing - self.spare

    @cython.cfunc
    @cython.exceptval(check=False)
    def excess(self) -> cython.Py_ssize_t:
        """How many more exist than the limit allows, since it was lowered."""
        return self.made - self.disposed - self.disposing - self.limit

    @cython.cfunc
    @cython.exceptval(check=False)
    def tune(self, quick_alloc: cython.bint, quick_free: cython.bint) -> cython.void:
        """Set the gates of the quick path, after everything else: a line closes both, a drainer that of free."""
        is_open: cython.bint = not self.closed and self.first_in_line() is None
        self.floor = self.reserve if is_open and quick_alloc else UNLIMITED
        self.room = self.keep if is_open and quick_free and not self.drainers and self.excess() <= 0 else 0
        self.full = self.made - self.disposed + self.claimed >= self.limit

    # -- the shelf: spares, last in, first out, so that warm memory is used again

    @cython.cfunc
    def shelve(self, element: Any) -> cython.void:
        if not cython.compiled:
            note_place(self, self.spare)
        self.places[self.spare] = element
        self.spare += 1

    @cython.cfunc
    def unshelve(self, hands: Hands) -> cython.void:
        """Move the top spare into these hands."""
        if not cython.compiled:
            note_place(self, self.spare - 1)
        self.spare -= 1
        hands.add(self.places[self.spare])
        self.places[self.spare] = None

    @cython.cfunc
    def take_lost(self, hands: Hands) -> cython.void:
        """Move the buffers whose memory stayed with the parent of a fork from the shelf into these hands."""
        buffer: Buffer
        i: cython.Py_ssize_t
        kept: cython.Py_ssize_t = 0
        if not cython.compiled:
            self.places = list(self.places)  # rather than a note of each place
        for i in range(self.spare):
            element: object = self.places[i]
            self.places[i] = None
            if type(element) is Buffer:
                buffer = element
                if buffer.block.is_lost:
                    hands.add(element)
                    continue
            self.places[kept] = element
            kept += 1
        self.spare = kept

    @cython.cfunc
    def has_on_shelf(self, element: Any) -> cython.bint:
        """A search through all spares: for error messages."""
        return self.has_near_top(element, self.spare)

    @cython.cfunc
    def has_near_top(self, element: Any, most: cython.Py_ssize_t) -> cython.bint:
        """Whether this element is among so many spares, the last to come home."""
        i: cython.Py_ssize_t
        for i in range(max(0, self.spare - most), self.spare):
            if self.places[i] is element:
                return True
        return False

    @cython.cfunc
    def install(self, places: list[Any]) -> cython.void:
        """Use this list of places from now on, if it is the longer one."""
        if len(places) <= self.capacity:
            return
        i: cython.Py_ssize_t
        for i in range(self.spare):
            places[i] = self.places[i]
        self.places = places
        self.capacity = len(places)

    # -- the line: tickets, first come, first served

    @cython.cfunc
    def first_in_line(self) -> Ticket | None:
        return self.head

    # The head of the line may be inside the source, and cannot take what comes home until it is out again. It is passed
    # over, so that those behind it do not sleep beside what they could have. What it has not asked the source for is
    # held back for it: what a big request had gathered. Where nobody else can use it, it is laid by for the head, too.

    @cython.cfunc
    def next_to_serve(self) -> Ticket | None:
        """The first in line who is not inside the source."""
        if self.asked == 0:
            return self.first_in_line()
        return self.head.behind  # type: ignore[union-attr]  # somebody, who asks

    @cython.cfunc
    @cython.exceptval(check=False)
    def held_back(self) -> cython.Py_ssize_t:
        """How many spares are not for those behind the head."""
        if self.asked == 0:
            return 0
        head: Ticket = self.first_in_line()  # type: ignore[assignment]  # somebody, who asks
        return head.wanted - self.asked

    @cython.cfunc
    @cython.exceptval(check=False)
    def kept_for_line(self) -> cython.Py_ssize_t:
        """How many spares a head wants that is inside the source, with nobody behind it."""
        if self.asked == 0:
            return 0
        head: Ticket = self.first_in_line()  # type: ignore[assignment]  # as above
        return head.wanted

    @cython.cfunc
    @cython.exceptval(check=False)
    def has_use_for_another(self) -> cython.bint:
        """Whether somebody in the line could use one more spare, were there no more than there are."""
        return self.next_to_serve() is not None or self.spare < self.kept_for_line()

    @cython.cfunc
    def line_up(self, ticket: Ticket) -> cython.void:
        note(self, ticket)
        ticket.ahead = self.tail
        if self.tail is None:
            self.head = ticket
        else:
            note(self, self.tail)
            self.tail.behind = ticket
        self.tail = ticket
        ticket.in_line = True
        self.waiting += 1
        self.joined += 1

    @cython.cfunc
    def step_out(self, ticket: Ticket) -> cython.void:
        """Take a ticket that stands in the line out of it."""
        if self.first_in_line() is ticket:
            self.asked = 0  # what its question brings is for whoever stands in the line then
        note(self, ticket)
        ahead: Ticket | None = ticket.ahead
        behind: Ticket | None = ticket.behind
        if ahead is None:
            self.head = behind
        else:
            note(self, ahead)
            ahead.behind = behind
        if behind is None:
            self.tail = ahead
        else:
            note(self, behind)
            behind.ahead = ahead
        ticket.ahead = ticket.behind = None
        ticket.in_line = False
        self.waiting -= 1

    # -- the news: who must be woken when the books are closed

    @cython.cfunc
    def tell(self, ticket: Ticket) -> cython.void:
        if not ticket.in_news:
            note(self, ticket)
            ticket.in_news = True
            ticket.told = self.news
            self.news = ticket

    @cython.cfunc
    def prod_head(self) -> cython.void:
        """There is news for the head of the line: it may ask the source now."""
        head: Ticket | None = self.first_in_line()
        if head is None or self.made - self.disposed + self.claimed >= self.limit:
            return
        head.prodded = True
        self.tell(head)
