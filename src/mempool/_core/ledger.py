# cython: language_level=3
"""The ledger: how the books are read, and how news spreads. Read books.py first."""

from __future__ import annotations

import os
import sysconfig
from typing import TYPE_CHECKING, Any

from mempool._core.line import SERVED

if TYPE_CHECKING:
    from mempool._core import _cython as cython
else:
    try:
        import cython
    except ModuleNotFoundError:
        from mempool._core import _cython as cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core import _cython as cython
    from mempool._core.books import Books
    from mempool._core.deciding import new_lock, new_queue, refusal, settle
    from mempool._core.line import Hands, Ticket
    from mempool._core.roll import Roll

HAS_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")


@cython.cclass
class Ledger:
    """The books and the roll of one pool."""

    books: Books
    roll: Roll
    tracks: cython.bint
    quick_alloc: cython.bint
    quick_free: cython.bint
    home: Any
    lock: Any  # uncompiled: see deciding.py
    later: Any
    process: Any

    def __init__(self, tracks: bool, quick_alloc: bool, quick_free: bool, home: object = None) -> None:
        """tracks: keep a roll of the elements that are out.

        quick_alloc, quick_free: nobody needs to be told of each element that goes out, or comes home.
        home: what a Buffer of this pool is told about where it belongs.
        """
        self.home = home
        if not cython.compiled:
            self.lock = new_lock()
            self.later = new_queue()
            self.process = os.getpid()
        self.books = Books()
        self.roll = Roll()
        self.tracks = tracks
        self.quick_alloc = quick_alloc and HAS_GIL
        self.quick_free = quick_free and HAS_GIL

    # -- the end of a decision

    @cython.cfunc
    @cython.exceptval(check=False)
    def shut(self, books: Books) -> cython.void:
        """The last step of every decision. (Uncompiled, this call is also what makes a method a decision: deciding.py.)"""
        if cython.compiled:
            books.tune(self.quick_alloc, self.quick_free)

    def is_deciding(self) -> bool:
        """Uncompiled: whether a finalizer, a signal handler or a tracer calls this in the middle of a decision."""
        return not cython.compiled and bool(self.lock._is_owned())

    def lock_belongs_here(self) -> None:
        """Uncompiled: the lock is this process's, and none that a fork has left behind."""
        if not cython.compiled:
            self.process = os.getpid()

    def expect_reserve(self) -> None:
        """Let the roll grow now for all that the reserve will need, and not step by step, each time moving what is on it.

        What does not work now may do so later: whoever asks the source makes room for as much as it asks for.
        """
        if cython.compiled and self.tracks:  # uncompiled, a dict grows when it must
            try:
                with cython.critical_section(self):  # type: ignore[type-var]  # compiled only
                    books: Books = self.books
                    self.roll.make_room(books.made - books.disposed + books.reserve)
            except MemoryError:
                pass

    def rest(self, seconds: cython.double) -> None:
        """Let the quick path take of the reserve without asking the source for so long; 0: no longer."""
        if cython.compiled:
            self.books.rests_until = 0 if seconds == 0 else mempool_moment(seconds)  # type: ignore[name-defined]

    def spread_news(self) -> None:
        """Wake those whom a decision concerned. (Uncompiled, what surrounds the decision does it.)"""
        if cython.compiled:
            ticket: Ticket | None
            while True:
                # Here, and not within the decision: it may die, and what it got with it, whose finalizer may run anything.
                ticket = None
                with cython.critical_section(self):  # type: ignore[type-var]  # compiled only
                    ticket = self.books.news
                    if ticket is None:
                        return
                    self.books.news = ticket.told
                    ticket.told = None
                    ticket.in_news = False
                try:
                    ticket.wake()
                except BaseException:
                    try:
                        ticket.wake()  # it may be done twice, and must not be lost
                    finally:
                        self.spread_news()  # the others must hear of it whatever befell this one
                    raise

    @cython.cfunc
    def serve_line(self, books: Books) -> cython.void:
        """Serve those in the line, first to last, as long as the spares suffice. A head inside the source is passed over."""
        served: cython.bint = False
        ticket: Ticket | None = books.next_to_serve()
        while ticket is not None:
            if books.spare - books.held_back() < ticket.wanted:
                if books.asked == 0 or books.spare < books.capacity:
                    break
                # The shelf has no place for what the head holds back and what the next one gathers. A full shelf is
                # enough for any one of them, and the first is the first.
                ticket = books.first_in_line()
                if ticket is None:
                    break
            served = served or ticket is books.first_in_line()
            books.step_out(ticket)
            while ticket.count < ticket.wanted:
                books.unshelve(ticket)
                books.from_line += 1
            settle(books, ticket, SERVED)
            books.tell(ticket)
            ticket = books.next_to_serve()
        if ticket is not None and ticket.can_be_lost and books.spare > books.held_back():
            books.tell(ticket)  # it gathers: if nobody is there any more, those behind must not wait for it
        if served:
            books.prod_head()

    @cython.cfunc
    def tell_drainers(self, books: Books) -> cython.void:
        if books.drainers and books.out() == 0:
            for ticket in books.drainers:
                books.tell(ticket)

    @cython.critical_section
    def count_wait(self, outcome: cython.Py_ssize_t, seconds: cython.double) -> None:
        """For the statistics: somebody has waited so long. outcome: SERVED, CLOSED or WITHDRAWN, or TIMED_OUT."""
        bucket: cython.Py_ssize_t = 0
        bound: cython.double = 0.0001  # WAIT_BUCKETS[0]; each of the others is ten times the one before
        while bucket < 7 and seconds > bound:
            bucket += 1
            bound *= 10
        books: Books = self.books
        if not cython.compiled:
            books.waits = list(books.waits)  # the old ones stay as they are, should this be taken back
            books.wait_histogram = list(books.wait_histogram)
        books.waits[outcome] += 1
        books.wait_histogram[bucket] += 1
        books.wait_seconds_total += seconds
        books.wait_seconds_max = max(books.wait_seconds_max, seconds)
        self.shut(books)

    # -- looking

    def is_closed(self) -> bool:
        return self.books.closed

    def is_dismissed(self) -> bool:
        """Whether nobody may wait any more."""
        return self.books.dismissed

    def waiting(self) -> int:
        """How many stand in the line."""
        return self.books.waiting

    @cython.critical_section
    def must_line_up(self, hands: Hands) -> bool:
        """Whether there is nothing to be had, and nobody to be asked: others wait, or all that the limit allows is out.

        These hands have not asked the source, then; see Reserve.join.
        """
        books: Books = self.books
        if books.closed or hands.wanted == hands.count:
            return False
        is_full: cython.bint = books.made - books.disposed + books.claimed >= books.limit
        if books.first_in_line() is None and (books.spare > 0 or not is_full):
            return False
        hands.defer()
        return True

    def is_first(self, ticket: Ticket) -> bool:
        return self.books.first_in_line() is ticket

    def tickets(self, books: Books) -> list[Ticket]:
        tickets: list[Ticket] = []
        ticket: Ticket | None = books.head
        while ticket is not None:
            tickets.append(ticket)
            ticket = ticket.behind
        return tickets

    @cython.critical_section
    def queue(self) -> list[Ticket]:
        """The tickets in the line, first to last."""
        return self.tickets(self.books)

    def tracks_elements(self) -> bool:
        """Whether there is a roll."""
        return self.tracks

    @cython.critical_section
    def strike(self, hands: Hands, address: int) -> bool:
        """Take the address of an element that is out off the roll. False: it was not there.

        Nobody has it at hand: these hands hold something in its place. They are owners in the very step that strikes it.
        """
        if not cython.compiled and self.is_deciding():
            raise refusal(self)
        return self.tracks and self.roll.strike_address(hands, address)

    @cython.critical_section
    def is_out(self, element: Any) -> bool:
        return self.tracks and self.roll.lists(element)

    @cython.critical_section
    def is_spare(self, element: Any) -> bool:
        """A search through all spares: for error messages."""
        return self.books.has_on_shelf(element)

    def capacity(self) -> int:
        return self.books.capacity

    @cython.critical_section
    def figures(self) -> dict[str, Any]:
        """All numbers of the books at one moment."""
        books: Books = self.books
        return {
            "reserve": books.reserve,
            "keep": books.keep,
            "limit": books.limit,
            "waiting_max": books.waiting_max,
            "closed": bool(books.closed),
            "spare": books.spare,
            "out": books.out(),
            "made": books.made,
            "disposed": books.disposed,
            "disposing": books.disposing,
            "written_off": books.written_off,
            "claimed": books.claimed,
            "filling": books.filling,
            "fills": books.fills,
            "starved": bool(books.starved),
            "lingering": books.lingering,
            "waiting": books.waiting,
            "asked": books.asked,
            "from_spare": books.from_spare,
            "from_source": books.from_source,
            "from_reserve": books.from_reserve,
            "from_line": books.from_line,
            "resizes": books.resizes,
            "waits": list(books.waits),
            "wait_histogram": list(books.wait_histogram),
            "wait_seconds_total": books.wait_seconds_total,
            "wait_seconds_max": books.wait_seconds_max,
        }
