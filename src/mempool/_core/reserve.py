# cython: language_level=3
"""The reserve: decides who gets an element and what becomes of it. Never waits, never calls a source or user code.

Every method below that edits the books is one decision: it happens at one moment or not at all. What it decides for its
caller lies in the caller's Hands (line.py) when it returns; what it decides for others, in their Tickets, which are then
woken. Hands are edited in place, like the books, after a `note` of what they held. Read books.py first.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from mempool._core.line import CLOSED, IMPOSSIBLE, SERVED, WITHDRAWN

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
    from mempool._core.deciding import make_decisions, note, note_dict, note_mark, refusal, settle
    from mempool._core.ledger import Ledger
    from mempool._core.line import Hands, Ticket
    from mempool.buffer import Buffer

    _A_LIST = [object()]  # which lives on: a temporary one is gone before its element is counted
    _REFERENCES_OF_A_LIST = sys.getrefcount(_A_LIST[0])

    def is_nobodys(arrivals: list[Any], arrival: int) -> bool:
        """Whether nobody but this list refers to what lies in it at that place."""
        return sys.getrefcount(arrivals[arrival]) <= _REFERENCES_OF_A_LIST


#: Beside the states of a ticket, how a wait can end.
TIMED_OUT = 4
#: Upper bounds, in seconds, of the buckets in which waits are counted; the last bucket has none.
WAIT_BUCKETS = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
#: What `join` answers.
IN_LINE, HAS_ALL, IS_CLOSED, IS_FULL, IS_TOO_MANY = range(5)
#: So many spares are looked at for an element that the source may have returned before; see is_here.
SEARCHED = 1024
#: For `retarget`, and what it answers beside IS_CLOSED.
UNCHANGED = -1
CHANGED, GROWN, KEEP_TOO_LOW, LIMIT_TOO_LOW = range(10, 14)


@cython.cclass
class Reserve(Ledger):
    """The decisions about one pool."""

    # -- allocating

    @cython.critical_section
    def take(self, hands: Hands, from_reserve: bool) -> bool:
        """Move spares into hands: what there is beyond the reserve; or, from the reserve, all that is missing or nothing.

        Nothing while anybody stands in the line. Returns whether the hands have all they want.
        """
        books: Books = self.books
        note(books, hands)
        missing: cython.Py_ssize_t = hands.wanted - hands.count
        at_hand: cython.Py_ssize_t = books.spare if from_reserve else books.spare - books.reserve
        if books.head is not None or at_hand <= 0 or (from_reserve and at_hand < missing):
            return missing == 0
        while hands.count < hands.wanted and at_hand > 0:
            if books.spare > books.reserve:
                books.from_spare += 1
            else:
                books.from_reserve += 1
            books.unshelve(hands)
            at_hand -= 1
        self.shut(books)
        return hands.count == hands.wanted

    @cython.critical_section
    def claim(self, hands: Hands, elements: cython.Py_ssize_t) -> int:
        """Permission to ask the source for up to so many elements, as far as the limit allows; -1: closed.

        On behalf of the head of the line: for what it lacks now, and nothing when it is the head no more. Until `arrive`
        it is inside the source, and is passed over.

        Raises MemoryError when not even the roll has room for more; nothing has changed then.
        """
        books: Books = self.books
        note(books, hands)
        existing: cython.Py_ssize_t = books.made - books.disposed + books.claimed
        if books.closed:
            return -1
        head: Ticket | None = hands.asks_for
        if head is not None:
            if books.first_in_line() is not head:
                return 0  # it has been served, and shall not be held up
            elements = min(elements, head.wanted - books.spare)
        if elements > books.limit - existing:
            elements = books.limit - existing
        if elements <= 0:
            hands.refused = True  # for `join`
            return 0
        if self.tracks:
            self.roll.make_room(existing + elements)
        books.claimed += elements
        hands.claims += elements
        hands.joined = books.joined
        hands.refused = False
        if head is not None:
            books.asked += elements
        self.shut(books)
        return elements

    @cython.critical_section
    def begin_fill(self, fill: Hands) -> None:
        """From now on what is lacking counts as being made, until the end of this fill. May be done again.

        fill: empty hands that stand for a whole resize or refill, however often it asks the source.
        """
        books: Books = self.books
        note(books, fill)
        self.count_fill(books, fill)
        self.shut(books)

    @cython.cfunc
    def count_fill(self, books: Books, fill: Hands) -> cython.void:
        if not fill.filling and not books.closed:
            fill.filling = True
            books.fills += 1
            books.starved = False

    @cython.critical_section
    def end_fill(self, fill: Hands) -> None:
        """It has made all it could. May be done again."""
        books: Books = self.books
        note(books, fill)
        if not fill.filling:
            return
        self.discount_fill(books, fill)
        self.shut(books)

    @cython.cfunc
    def discount_fill(self, books: Books, fill: Hands) -> cython.void:
        if fill.filling:
            fill.filling = False
            books.fills = max(0, books.fills - 1)

    @cython.critical_section
    def claim_to_fill(self, hands: Hands, beyond_out: bool, fill: Hands | None = None) -> int:
        """Permission to make elements for the reserve, at most as many as the hands want. 0: the fill has ended by that.

        beyond_out: only what not even the return of every element out would fill.
        """
        books: Books = self.books
        note(books, hands)
        elements: cython.Py_ssize_t = books.reserve - books.spare - books.filling
        if beyond_out:
            elements -= books.out()
        existing: cython.Py_ssize_t = books.made - books.disposed + books.claimed
        room: cython.Py_ssize_t = books.limit - existing
        if books.closed or elements <= 0 or room <= 0:
            # Room that a disposal takes comes back, after this fill has gone: who disposes goes on with it then.
            books.starved = not books.closed and elements > 0 and (books.starved or books.claimed + books.disposing > 0)
            if fill is not None:
                note(books, fill)
                self.discount_fill(books, fill)
            self.shut(books)
            return 0
        elements = min(elements, hands.wanted, room)
        if self.tracks:
            self.roll.make_room(existing + elements)
        books.claimed += elements
        books.filling += elements
        hands.claims += elements
        hands.filling = True
        self.shut(books)
        return elements

    @cython.critical_section
    def arrive(self, hands: Hands, for_caller: bool) -> None:
        """The source has answered: what it made is in these hands, and the claims are used up.

        for_caller: the elements go to the caller, and not to the shelf or the line (for the statistics).
        """
        books: Books = self.books
        note(books, hands)
        made: cython.Py_ssize_t = 0
        replaced: cython.Py_ssize_t = 0
        was_full: cython.bint = books.made - books.disposed + books.claimed >= books.limit
        if hands.claims == 0 and not hands.arrivals:
            return
        i: cython.Py_ssize_t
        for i in range(len(hands.arrivals)):
            if hands.arrivals[i] is None:  # not made
                continue
            if self.tracks:
                if is_nobodys(hands.arrivals, i):
                    # It is new. What the roll says to be out at this address is no more: its user has lost it.
                    if self.roll.lists(hands.arrivals[i]):
                        replaced += 1
                        if not cython.compiled:
                            note_mark(books, self.roll.marks, id(hands.arrivals[i]))
                        self.roll.forget(hands.arrivals[i])
                elif self.is_here(books, hands, i):
                    hands.twice = hands.arrivals[i]
                    continue
            hands.add(hands.arrivals[i])
            made += 1
            if type(hands.arrivals[i]) is Buffer:
                buffer: Buffer = hands.arrivals[i]
                buffer.block.home = self.home
        if cython.compiled:
            del hands.arrivals[:]
        else:
            hands.arrivals = []
        books.made += made
        books.claimed = max(0, books.claimed - hands.claims)
        if hands.filling:
            books.filling = max(0, books.filling - hands.claims)
        if for_caller:
            books.from_source += made
        head: Ticket | None = books.first_in_line()
        if books.asked > 0 and head is hands.asks_for and hands.claims > 0:
            books.asked = 0
            self.serve_line(books)  # from what has come home meanwhile and nobody behind it could use
            head = books.first_in_line()
        # Room under the limit is news to the head of the line, unless it is the room that it took itself; and then
        # a newcomer is, of whom it was not told because there was none.
        is_news: cython.bint = head is not hands.asks_for or hands.joined != books.joined
        if made < hands.claims:
            books.starved = False  # it is the source that gives nothing now
        if made < hands.claims and was_full and head is not hands and is_news:
            books.prod_head()
        hands.claims = 0
        hands.filling = False
        if replaced > 0:
            self.write_off(books, min(replaced, books.out()))
        self.shut(books)
        self.spread_news()

    @cython.cfunc
    def is_here(self, books: Books, own: Hands, arrival: cython.Py_ssize_t) -> cython.bint:
        """Whether what the source has returned is in this pool already, as far as that can be known: it made nothing new.

        Somebody else refers to it, which may be its source's own notes; that it is out, the roll does not say for sure then.
        """
        i: cython.Py_ssize_t
        for i in range(own.first, own.count):
            if own.elements[i] is own.arrivals[arrival]:
                return True
        return books.has_near_top(own.arrivals[arrival], SEARCHED)

    @cython.critical_section
    def pass_on(self, hands: Hands, receiver: Hands) -> None:
        """What these hands hold is the receiver's, as far as it wants it; condemned, where it is."""
        books: Books = self.books
        note(books, hands)
        note(books, receiver)
        while hands.first < hands.count and receiver.count < receiver.wanted:
            receiver.add(hands.elements[hands.first])
            hands.elements[hands.first] = None
            hands.first += 1
        receiver.refused = hands.refused
        if hands.condemned:
            receiver.condemned = True
        self.shut(books)

    @cython.critical_section
    def held_by(self, hands: Hands) -> int:
        """How many elements these hands hold, at a moment at which none is being moved."""
        return hands.count - hands.first

    @cython.critical_section
    def sign_out(self, hands: Hands) -> None:
        """From now on the elements in these hands are the user's."""
        if self.tracks:
            self.roll.sign_out(hands)

    @cython.critical_section
    def retract(self, hands: Hands) -> None:
        """The elements in these hands are not the user's after all, whether they were signed out already or not."""
        if self.tracks:
            self.roll.discard(hands)

    # -- freeing

    @cython.critical_section
    def sign_in(self, hands: Hands) -> bool:
        """What these hands hold is no longer its user's. False: not all of it is out, and nothing has changed."""
        if not cython.compiled and self.is_deciding():
            raise refusal(self)
        if self.tracks:
            return self.roll.sign_in(hands)
        return self.sign_in_unknown(hands)

    def sign_in_unknown(self, hands: Hands) -> bool:
        """The same where there is no roll: all that can be said is how many are out."""
        if self.books.out() < hands.count - hands.first:
            return False  # more would come home than went out
        i: cython.Py_ssize_t
        for i in range(hands.first, hands.count):
            if hands.elements[i] is None:
                return False  # which no pool gives out: nobody shall get it from here
        hands.proven = True
        return True

    @cython.critical_section
    def undo_sign_in(self, hands: Hands) -> None:
        """A sign_in that was cut short half-way has not happened."""
        if self.tracks:
            self.roll.undo_sign_in(hands)

    def put_out(self, hands: Hands) -> None:
        """What these hands hold is its user's again: the opposite of sign_in."""
        self.sign_out(hands)
        hands.disown()

    @cython.critical_section
    def give(self, hands: Hands) -> None:
        """What these hands hold comes home: to the first in line, else to the shelf while spare < keep.

        What remains in the hands is surplus, for the caller to dispose of.
        """
        books: Books = self.books
        note(books, hands)
        if hands.condemned or hands.first >= hands.count:
            return
        if books.written_off > 0:
            self.find_again(books, hands.count - hands.first)
        while hands.first < hands.count:
            if books.closed or (
                (books.head is None or not books.has_use_for_another())
                and (
                    books.spare >= books.keep
                    or (books.spare >= books.reserve and books.excess() >= hands.count - hands.first)
                )
            ):
                break
            books.shelve(hands.elements[hands.first])
            hands.elements[hands.first] = None
            hands.first += 1
            if books.head is not None:
                self.serve_line(books)
        books.disposing += hands.count - hands.first
        hands.condemned = True
        if hands.lingering > 0:
            books.lingering = max(0, books.lingering - hands.lingering)
            hands.lingering = 0
        if books.drainers:
            self.tell_drainers(books)
        self.shut(books)
        self.spread_news()

    @cython.critical_section
    def linger(self, hands: Hands) -> None:
        """What lingers in these hands goes out again, under the handle that only its views keep; see buffer.renew.

        It lies in the places before `first` then, until the hands `let_go`: its last reference may not go in here.
        """
        books: Books = self.books
        note(books, hands)
        i: cython.Py_ssize_t
        for i in range(hands.first, hands.count):
            if type(hands.elements[i]) is not Buffer:
                continue
            buffer: Buffer = hands.elements[i]
            if buffer.lingers:
                if self.tracks:
                    self.roll.sign_out_again(buffer)
                hands.elements[i] = hands.elements[hands.first]
                hands.elements[hands.first] = buffer
                hands.first += 1
                books.lingering += 1
        self.shut(books)

    @cython.critical_section
    def condemn(self, hands: Hands) -> None:
        """What these hands hold is of no more use: it is for the caller to dispose of."""
        books: Books = self.books
        note(books, hands)
        if hands.condemned:
            return
        self.find_again(books, hands.count - hands.first)
        books.disposing += hands.count - hands.first
        hands.condemned = True
        books.lingering = max(0, books.lingering - hands.lingering)
        hands.lingering = 0
        self.tell_drainers(books)
        self.shut(books)
        self.spread_news()

    @cython.critical_section
    def surplus(self, hands: Hands) -> int:
        """Move spares beyond `keep` (all, when the pool is closed) into these hands, for the caller to dispose of."""
        books: Books = self.books
        note(books, hands)
        keep: cython.Py_ssize_t = 0 if books.closed else max(books.keep, books.kept_for_line())
        reserve: cython.Py_ssize_t = max(books.reserve, books.kept_for_line())
        if books.next_to_serve() is None:
            while hands.count < hands.wanted and (books.spare > keep or (books.spare > reserve and books.excess() > 0)):
                books.unshelve(hands)
                books.disposing += 1
                hands.condemned = True
        self.shut(books)
        return hands.count - hands.first

    # -- what is lost

    @cython.critical_section
    def lose(self, hands: Hands) -> None:
        """What these hands hold, signed in, is lost with its holder: counted out, and not for the source's free."""
        books: Books = self.books
        note(books, hands)
        self.write_off(books, hands.count - hands.first)
        hands.first = hands.count
        self.shut(books)
        self.spread_news()

    @cython.critical_section
    def lose_all(self) -> int:
        """The same for all that is out: all on the roll, and, after a fork, what threads of the parent were moving.

        Without a roll, what other calls are moving is among it.
        """
        books: Books = self.books
        lost: cython.Py_ssize_t = books.out()
        if self.tracks:
            lost = min(lost, self.roll.count() + books.strays)
        books.strays = 0
        books.lingering = 0
        self.write_off(books, lost)
        self.shut(books)
        if self.tracks:
            if not cython.compiled:
                note_dict(books, self.roll.marks)
            self.roll.clear()
        self.spread_news()
        return lost

    @cython.cfunc
    def write_off(self, books: Books, elements: cython.Py_ssize_t) -> cython.void:
        books.disposed += elements
        books.written_off += elements
        self.tell_drainers(books)
        books.prod_head()  # there may be room under the limit

    @cython.cfunc
    def find_again(self, books: Books, elements: cython.Py_ssize_t) -> cython.void:
        """What comes home was written off while it was on its way: it is not lost after all."""
        found: cython.Py_ssize_t = elements - books.out()
        if 0 < found <= books.written_off:
            books.disposed -= found
            books.written_off -= found

    @cython.critical_section
    def dispose_of(self, hands: Hands, fill: Hands | None = None) -> None:
        """The source's free has come back for the first element in these hands: it is gone.

        fill: begins by this, if another ended for want of the room that is there now.
        """
        books: Books = self.books
        note(books, hands)
        if hands.first >= hands.count:
            return
        element = hands.elements[hands.first]  # its last reference goes when this method returns
        hands.elements[hands.first] = None
        hands.first += 1
        if cython.compiled:
            del hands.entered[:]
        else:
            hands.entered = []
        if books.disposing > 0:  # else a fork has counted it already
            books.disposing -= 1
            books.disposed += 1
        if fill is not None and books.starved:
            note(books, fill)
            self.count_fill(books, fill)
        books.prod_head()  # there may be room under the limit
        self.shut(books)
        del element
        self.spread_news()

    # -- the line

    @cython.critical_section
    def join(self, ticket: Ticket, places: list[Any]) -> int:
        """Line up, unless all is to be had at once. Elements held already go to the shelf, so that nobody waits holding.

        places: a list as long as what is wanted, from which a gathering head of the line is served.
        """
        books: Books = self.books
        note(books, ticket)
        if books.closed:
            return IS_CLOSED
        answer: cython.Py_ssize_t = IN_LINE
        missing: cython.Py_ssize_t = ticket.wanted - ticket.count
        if books.next_to_serve() is None and books.spare - books.held_back() >= missing:
            while ticket.count < ticket.wanted:
                books.from_line += 1
                books.unshelve(ticket)
            settle(books, ticket, SERVED)
            answer = HAS_ALL
        else:
            if books.dismissed:
                return IS_CLOSED
            if ticket.wanted > max(1, books.limit):
                return IS_TOO_MANY
            if books.waiting >= books.waiting_max:
                return IS_FULL
            books.install(places)
            is_first: cython.bint = books.first_in_line() is None
            books.line_up(ticket)
            if books.asked > 0:
                self.serve_line(books)  # the shelf may be full of what is laid by for the head
            while ticket.count > 0:
                ticket.count -= 1
                books.shelve(ticket.elements[ticket.count])
                ticket.elements[ticket.count] = None
                self.serve_line(books)  # after each: the shelf has no more places than the head wants
            self.tell_drainers(books)
            if not is_first:
                books.prod_head()  # a newcomer is news
            elif ticket.refused and books.made - books.disposed + books.claimed < books.limit:
                ticket.prodded = True  # the room that it was refused came before it lined up, or the others left
        self.shut(books)
        self.spread_news()
        return answer

    @cython.critical_section
    def withdraw(self, ticket: Ticket) -> bool:
        """Leave the line. False: not in it (any more): look at the ticket's state."""
        books: Books = self.books
        if not ticket.in_line:
            return False
        note(books, ticket)
        was_first: cython.bint = books.first_in_line() is ticket
        was_next: cython.bint = books.next_to_serve() is ticket
        books.step_out(ticket)
        settle(books, ticket, WITHDRAWN)
        if was_first or was_next:
            self.serve_line(books)  # what was gathered goes to those behind, in one step
        if was_first:
            books.prod_head()
        self.shut(books)
        self.spread_news()
        return True

    def leave(self, ticket: Hands) -> None:
        """`withdraw`, for whoever gives up, whether it ever joined or not."""
        if isinstance(ticket, Ticket) and not ticket.is_settled():
            self.withdraw(ticket)

    @cython.critical_section
    def set_waiting_max(self, tickets: cython.Py_ssize_t) -> None:
        """Let no more than so many stand in the line from now on."""
        books: Books = self.books
        books.waiting_max = tickets
        self.shut(books)

    # -- resizing and closing

    @cython.critical_section
    def retarget(
        self,
        reserve: cython.Py_ssize_t,
        keep: cython.Py_ssize_t,
        limit: cython.Py_ssize_t,
        places: list[Any],
        fill: Hands | None = None,
    ) -> int:
        """All targets change at this one moment, or none does. Answers GROWN, CHANGED, or why nothing changed.

        UNCHANGED leaves a target as it is at the moment itself, so that two resizes of different targets both count.
        keep UNCHANGED: twice the reserve until it is given once; then it stays, but never below the reserve.
        places: at least as long as the new keep, unless there are so many already; else ValueError.
        fill: begins at this very moment if the reserve grows: what it is about to make is never unfunded.

        Who stands in the line for many, and for more than the limit allows now, has left it: IMPOSSIBLE.
        """
        books: Books = self.books
        line: list[Ticket] = self.tickets(books)  # first of all: a new list may run the collector, and that anything
        if books.closed:
            return IS_CLOSED
        # Worked out here and nowhere else: a target read before the moment may be another resize's past.
        new_reserve: cython.Py_ssize_t = books.reserve if reserve == UNCHANGED else reserve
        new_limit: cython.Py_ssize_t = books.limit if limit == UNCHANGED else limit
        given: cython.Py_ssize_t = books.keep_given if keep == UNCHANGED else keep
        new_keep: cython.Py_ssize_t = 2 * new_reserve if given == UNCHANGED else max(given, new_reserve)
        if keep != UNCHANGED and keep < new_reserve:
            return KEEP_TOO_LOW
        if new_limit < new_reserve:
            return LIMIT_TOO_LOW
        if new_keep > books.capacity and new_keep > len(places):
            raise ValueError("fewer places than spares to be kept")
        grew: cython.bint = new_reserve > books.reserve
        raised: cython.bint = new_limit > books.limit
        books.install(places)
        books.reserve = new_reserve
        books.keep = new_keep
        books.keep_given = given
        books.limit = new_limit
        books.resizes += 1
        if grew and fill is not None:
            note(books, fill)
            self.count_fill(books, fill)
        head: Ticket | None = books.first_in_line()
        following: Ticket | None = books.next_to_serve()
        for ticket in line:
            if ticket.wanted > max(1, new_limit):
                books.step_out(ticket)
                settle(books, ticket, IMPOSSIBLE)
                books.tell(ticket)
        if books.first_in_line() is not head or books.next_to_serve() is not following:
            self.serve_line(books)
        if books.first_in_line() is not head or raised:
            books.prod_head()
        self.shut(books)
        self.spread_news()
        return GROWN if grew else CHANGED

    @cython.critical_section
    def close(self) -> None:
        """No more allocs; everybody in the line is told."""
        books: Books = self.books
        books.closed = True
        self.empty_line(books)
        self.shut(books)
        self.spread_news()

    @cython.critical_section
    def dismiss(self) -> None:
        """Nobody waits here any more: everybody in the line is told, and nobody joins. The rest goes on."""
        books: Books = self.books
        books.dismissed = True
        self.empty_line(books)
        for ticket in books.drainers:
            books.tell(ticket)
        self.shut(books)
        self.spread_news()

    @cython.cfunc
    def empty_line(self, books: Books) -> cython.void:
        head: Ticket | None = books.first_in_line()
        while head is not None:
            books.step_out(head)
            settle(books, head, CLOSED)
            books.tell(head)
            head = books.first_in_line()

    @cython.critical_section
    def watch_drain(self, ticket: Ticket, watch: bool) -> bool:
        """Tell this ticket when the last element has come home (or stop telling it). Returns whether it has already."""
        books: Books = self.books
        before: tuple[Ticket, ...] | None = None
        drainers: tuple[Ticket, ...] = ()
        while books.drainers is not before:  # a new list may run the collector, and that another's drain
            before = books.drainers
            drainers = tuple([other for other in before if other is not ticket] + [ticket] * watch)
        books.drainers = drainers
        self.shut(books)
        return books.out() == 0

    @cython.critical_section
    def take_lost(self, hands: Hands) -> int:
        """In a child of a fork: spares whose memory stayed with the parent go into these hands, to be disposed of."""
        books: Books = self.books
        note(books, hands)
        spares: cython.Py_ssize_t = books.spare
        books.take_lost(hands)
        if books.spare < spares:
            books.disposing += spares - books.spare
            hands.condemned = True
        self.shut(books)
        return hands.count - hands.first

    @cython.critical_section
    def after_fork(self, survivor: object, fills: cython.Py_ssize_t = 0) -> None:
        """In the child only the thread `survivor` lives on: the others' tickets and claims are void, their elements out.

        fills: how many of the fills under way are the survivor's.
        """
        books: Books = self.books
        drainers: tuple[Ticket, ...] = tuple([drainer for drainer in books.drainers if drainer.thread == survivor])
        ticket: Ticket | None
        for ticket in self.tickets(books):
            if ticket.thread != survivor:
                books.step_out(ticket)
                settle(books, ticket, WITHDRAWN)
        books.drainers = drainers
        self.lock_belongs_here()
        books.disposed += books.disposing
        books.claimed = books.filling = books.disposing = books.asked = 0
        books.fills = fills
        books.starved = False
        if self.tracks:
            books.strays = max(0, books.out() - self.roll.count())
        self.serve_line(books)
        books.prod_head()  # another head, or room that the others' claims took
        self.shut(books)
        self.spread_news()


if not cython.compiled:
    make_decisions(Reserve)
