# cython: language_level=3
"""The pool's books: what is promised, what there is, and who waits, as one value. Decides nothing by itself.

A decision (reserve.py) opens the books, edits them and closes them:

    while True:
        with cython.critical_section(self):
            books = self.open()
            ...
            if self.shut(books): return

The two lives of this file differ in what "open" means, and in nothing that a decision can see.

Compiled, `open` gives the one Books there is and it is edited in place: a decision calls nothing that could run Python
code, so under the GIL, or inside the critical section of a free-threaded build, nobody sees it half done.

Uncompiled, every bytecode may be followed by a thread switch, a signal handler, a finalizer or an exception. There,
`open` gives a private copy, and closing replaces the old value by the new one in one compare-and-swap, or fails and the
decision is taken again. Nothing is ever half done, no lock is held that a finalizer could run into or a fork could leave
locked, and an exception before the swap leaves no trace. The containers are values too: the shelf is a chain of pairs,
the line a tuple.
"""

from __future__ import annotations

import sys
from itertools import starmap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mempool._core import _cython as cython
else:
    try:
        import cython
    except ModuleNotFoundError:
        from mempool._core import _cython as cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
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
    # Compiled.
    capacity: cython.Py_ssize_t
    places: list[Any]
    head: Ticket | None
    tail: Ticket | None
    news: Ticket | None
    # Both.
    drainers: tuple[Ticket, ...]  # who waits for the last element to come home
    # Uncompiled.
    shelf: Any  # None or (element, the shelf below)
    line: tuple[Ticket, ...]
    lenders: dict[int, tuple[Hands, Hands]]  # hands that change with these books
    lent: dict[int, tuple[dict[str, Any]]]  # what they shall hold; whoever takes it out gives it to them
    told: tuple[Ticket, ...]
    heirs: dict[int, Books]
    ancestor: Books | None

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
        self.shelf = None
        self.line = ()
        self.lenders = {}
        self.lent = {}
        self.told = ()
        self.heirs = {}
        self.ancestor = None

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
        if cython.compiled:
            self.places[self.spare] = element
        else:
            self.shelf = (element, self.shelf)
        self.spare += 1

    @cython.cfunc
    def unshelve(self, hands: Hands) -> cython.void:
        """Move the top spare into these hands."""
        self.spare -= 1
        if cython.compiled:
            hands.add(self.places[self.spare])
            self.places[self.spare] = None
        else:
            element, self.shelf = self.shelf
            hands.add(element)

    @cython.cfunc
    def take_lost(self, hands: Hands) -> cython.void:
        """Move the buffers whose memory stayed with the parent of a fork from the shelf into these hands."""
        buffer: Buffer
        if cython.compiled:
            i: cython.Py_ssize_t
            kept: cython.Py_ssize_t = 0
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
            return
        kept_ones = []
        while self.shelf is not None:
            element, self.shelf = self.shelf
            if type(element) is Buffer and element.block.is_lost:
                hands.add(element)
                self.spare -= 1
            else:
                kept_ones.append(element)
        while kept_ones:
            self.shelf = (kept_ones.pop(), self.shelf)

    @cython.cfunc
    def has_on_shelf(self, element: Any) -> cython.bint:
        """A search through all spares: for error messages."""
        if cython.compiled:
            i: cython.Py_ssize_t
            for i in range(self.spare):
                if self.places[i] is element:
                    return True
            return False
        shelf = self.shelf
        while shelf is not None:
            if shelf[0] is element:
                return True
            shelf = shelf[1]
        return False

    @cython.cfunc
    def has_near_top(self, element: Any, most: cython.Py_ssize_t) -> cython.bint:
        """Whether this element is among so many spares, the last to come home."""
        if cython.compiled:
            i: cython.Py_ssize_t
            for i in range(max(0, self.spare - most), self.spare):
                if self.places[i] is element:
                    return True
            return False
        shelf = self.shelf
        while shelf is not None and most > 0:
            if shelf[0] is element:
                return True
            shelf = shelf[1]
            most -= 1
        return False

    @cython.cfunc
    def install(self, places: list[Any]) -> cython.void:
        """Use this list of places from now on, if it is the longer one."""
        if len(places) <= self.capacity:
            return
        if cython.compiled:
            i: cython.Py_ssize_t
            for i in range(self.spare):
                places[i] = self.places[i]
            self.places = places
        self.capacity = len(places)

    # -- the line: tickets, first come, first served

    @cython.cfunc
    def first_in_line(self) -> Ticket | None:
        if cython.compiled:
            return self.head
        return self.line[0] if self.line else None

    # The head of the line may be inside the source, and cannot take what comes home until it is out again. It is passed
    # over, so that those behind it do not sleep beside what they could have. What it has not asked the source for is
    # held back for it: what a big request had gathered. Where nobody else can use it, it is laid by for the head, too.

    @cython.cfunc
    def next_to_serve(self) -> Ticket | None:
        """The first in line who is not inside the source."""
        if self.asked == 0:
            return self.first_in_line()
        if cython.compiled:
            return self.head.behind
        return self.line[1] if len(self.line) > 1 else None

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
    def stands_in_line(self, ticket: Ticket) -> cython.bint:
        if cython.compiled:
            return ticket.in_line
        return ticket in self.line

    @cython.cfunc
    def line_up(self, ticket: Ticket) -> cython.void:
        if cython.compiled:
            ticket.ahead = self.tail
            if self.tail is None:
                self.head = ticket
            else:
                self.tail.behind = ticket
            self.tail = ticket
            ticket.in_line = True
        else:
            self.line = (*self.line, ticket)
        self.waiting += 1
        self.joined += 1

    @cython.cfunc
    def step_out(self, ticket: Ticket) -> cython.void:
        """Take a ticket that stands in the line out of it."""
        if self.first_in_line() is ticket:
            self.asked = 0  # what its question brings is for whoever stands in the line then
        if cython.compiled:
            ahead: Ticket | None = ticket.ahead
            behind: Ticket | None = ticket.behind
            if ahead is None:
                self.head = behind
            else:
                ahead.behind = behind
            if behind is None:
                self.tail = ahead
            else:
                behind.ahead = ahead
            ticket.ahead = ticket.behind = None
            ticket.in_line = False
        else:
            self.line = tuple([other for other in self.line if other is not ticket])
        self.waiting -= 1

    # -- the news: who must be woken when the books are closed

    @cython.cfunc
    def tell(self, ticket: Ticket) -> cython.void:
        if cython.compiled:
            if not ticket.in_news:
                ticket.in_news = True
                ticket.told = self.news
                self.news = ticket
        else:
            self.told = (*self.told, ticket)

    @cython.cfunc
    def prod_head(self) -> cython.void:
        """There is news for the head of the line: it may ask the source now."""
        head: Ticket | None = self.first_in_line()
        if head is None or self.made - self.disposed + self.claimed >= self.limit:
            return
        if cython.compiled:
            head.prodded = True
        self.tell(head)  # uncompiled, `settle` prods: before the swap, the head would look and find the old books

    # -- uncompiled: copies, and the swap

    def draft(self) -> Books:
        """A private copy to be edited."""
        draft = Books.__new__(Books)
        draft.__dict__.update(self.__dict__)
        draft.waits = list(self.waits)
        draft.wait_histogram = list(self.wait_histogram)
        draft.lenders = {}
        draft.lent = {}
        draft.told = ()
        draft.heirs = {}
        draft.ancestor = self
        return draft

    @cython.cfunc
    def lend(self, hands: Hands) -> Hands:
        """These hands, to be filled or emptied together with the books."""
        if cython.compiled:
            return hands
        copy = type(hands).__new__(type(hands))
        copy.__dict__.update(hands.__dict__)
        copy.elements = list(hands.elements)
        self.lenders[id(hands)] = (hands, copy)  # the copy, too: a dict whose object dies may be moved, or lost
        self.lent[id(hands)] = (copy.__dict__,)
        return copy

    def is_in_force(self) -> bool:
        """Whether this draft has won the swap."""
        return self.ancestor is None or self.ancestor.heirs.get(0) is self

    def settle(self) -> None:
        """Fill the hands and wake whom it concerns: for the winner of the swap, again if it was cut short.

        Goes on to the last whatever a wake raises (what a lost task had is disposed of there); then raises the first.
        """
        self.fill_hands()
        errors: list[Exception] = []
        while self.told:
            ticket = self.told[0]
            ticket.prodded = True  # a hint: one too many makes the head look once too often
            try:
                if ticket.wake is not None:
                    ticket.wake()
            except Exception as error:  # noqa: BLE001 - raised below, when all are woken
                errors.append(error)
                try:
                    ticket.wake()  # type: ignore[misc]  # it may be done twice, and must not be lost
                except Exception as again:  # noqa: BLE001 - as above
                    errors.append(again)
            self.told = self.told[1:]
        self.ancestor = None
        if errors:
            raise errors[0]

    def fill_hands(self) -> None:
        """Whoever opens these books does it, too, in case the winner has not come to it: so only the newest can be open."""
        for key, (hands, _copy) in list(self.lenders.items()):
            # Out of `lent` and into the hands by one call into C, which makes no object on the way (hence the tuples):
            # it happens once, and never half.
            list(starmap(hands.__dict__.update, map(self.lent.pop, (key,), ((),))))
        self.lenders = {}  # these books may be in force for long: hold nobody's hands
