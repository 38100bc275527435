"""Uncompiled: what makes a decision one step, though a thread, a finalizer, a tracer or an exception may come in between.

A decision (reserve.py) edits the books, and the hands and tickets that it concerns, in place, with a lock per pool held.
Three things may strike in its middle, and each has a remedy:

An exception (an interrupt, MemoryError, a tracer's own). Before it changes a thing, a decision notes how that was, in
`books.undo`; the notes are carried out last first, by one call into C. Whoever takes the lock does so if its last holder
did not come to it: a thread that a fork left behind, or that the end of the interpreter has stopped.

Other threads wait for the lock, or, where they look without it, see what is there. A ticket's state is the one thing by
which others act without the lock; so it changes at the very end, in the call into C after which nothing is taken back.

The same thread again: a finalizer, a signal handler or a tracer calls the pool. It must not wait, as it would for ever,
nor edit what is half done. What it frees is queued, and comes home before the outer call returns; the figures it sees are
those before the decision; all else raises RuntimeError. (Compiled, nothing strikes there, and all is as anywhere else.)
"""

from __future__ import annotations

import functools
import os
import sys
from collections import deque
from collections.abc import Callable
from itertools import islice, starmap
from operator import call, setitem
from types import FunctionType
from typing import Any, TypeAlias

from mempool.buffer import Buffer
from mempool.native import RLock

# Not imported, because they import this.
Books: TypeAlias = Any
Ledger: TypeAlias = Any
Hands: TypeAlias = Any
Ticket: TypeAlias = Any

ALL = slice(None)
#: When these find nothing to do, or nothing to be had, and so need nothing of the books.
IDLE: dict[str, Callable[..., bool]] = {
    "_put_in": lambda _element: True,
    "_take_out": lambda _hands: True,
    "arrive": lambda hands, *_: hands.claims == 0 and not hands.arrivals,
    "claim": lambda hands, _elements: True,
    "condemn": lambda hands: hands.condemned or hands.first >= hands.count,
    "dispose_of": lambda hands, *_: hands.first >= hands.count,
    "end_fill": lambda fill: not fill.filling,
    "must_line_up": lambda _hands: True,
    "held_by": lambda _hands: True,
    "give": lambda hands: hands.condemned or hands.first >= hands.count,
    "surplus": lambda hands: True,
    "take": lambda hands, _from_reserve: True,
    "withdraw": lambda ticket: not ticket.in_line,
}
#: What nobody needs an answer of.
POSTPONED = ("after_fork", "count_wait")
#: What only looks.
LOOKS = ("figures", "held_by", "must_line_up", "sign_in_unknown")

new_queue = deque


#: A lock that knows its holder; of native threads, whatever library of greenlets has put its own in their place.
new_lock = RLock


def note(books: Books, hands: Hands) -> None:
    """Before these are changed: how they are, should the decision be taken back."""
    undo: list[Any] = books.undo
    undo.append((dict.update, hands.__dict__, hands.__dict__.copy()))
    undo.append((setitem, hands.elements, ALL, hands.elements[:]))


def note_place(books: Books, place: int) -> None:
    """The same for one place of the shelf."""
    books.undo.append((setitem, books.places, place, books.places[place]))


def note_dict(books: Books, values: dict[Any, Any]) -> None:
    """The same for a dict from which something is about to be taken."""
    books.undo.append((dict.update, values, values.copy()))


def note_mark(books: Books, marks: dict[int, bool], address: int) -> None:
    """The same for an element that is about to be taken off the roll."""
    books.undo.append((setitem, marks, address, True))


def settle(books: Books, ticket: Ticket, state: int) -> None:
    """The ticket's state, from the moment on when the decision is made."""
    books.ends += (functools.partial(setattr, ticket, "state", state),)


def end(books: Books) -> None:
    """The decision is made."""
    if books.ends:
        # One call into C: either it is made and all tickets say so, or neither.
        deque(map(call, (*books.ends, functools.partial(books.__dict__.update, undo=None, ends=()))), 0)
    else:
        books.undo = None


def take_back(books: Books) -> None:
    """The decision is not made: all is as it was. The first note, and so the last to be carried out, says that none is."""
    deque(starmap(call, reversed(books.undo)), 0)


def acquire(ledger: Ledger) -> None:
    """Wait for the lock. Its holder may be a thread that never runs again."""
    if sys.is_finalizing() or ledger.process != os.getpid():
        ledger.lock = new_lock()
    ledger.lock.acquire()
    ledger.process = os.getpid()


def decision(decide: Callable[..., Any], has_news: bool = True) -> Callable[..., Any]:
    """The same method, as one step."""

    @functools.wraps(decide)
    def decide_alone(self: Ledger, *arguments: Any) -> Any:
        if self.lock._is_owned():
            return in_the_middle(self, decide, arguments)
        books = self.books
        # An exception may fly at any bytecode, so two blocks: what cuts the inner handler short meets the outer one.
        try:
            try:
                if not self.lock.acquire(False):
                    acquire(self)
                if books.undo is not None:
                    take_back(books)
                # Held here to the end: what it refers to may run a finalizer as it dies, which shall not find the lock held.
                undo = books.undo = [(setattr, books, "undo", None)]
                noted = books.__dict__.copy()
                noted["undo"] = None  # else a cycle
                undo.append((dict.update, books.__dict__, noted))
                answer = decide(self, *arguments)
                if books.ends:
                    end(books)
                else:
                    books.undo = None
                is_behind = has_news and (books.news is not None or self.later)
                self.lock.release()
            except BaseException:
                if books.undo is not None and self.lock._is_owned():
                    take_back(books)
                raise
            del undo, noted
            if is_behind:
                catch_up(self)
            return answer
        except BaseException:
            if self.lock._is_owned():
                self.lock.release()
            if has_news and (books.news is not None or self.later):
                catch_up(self)
            raise

    return decide_alone


def in_the_middle(ledger: Ledger, decide: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Called in the middle of a decision, by the very thread that makes it."""
    name = decide.__name__
    if name == "figures":
        return decide(before(ledger))
    if name in IDLE and IDLE[name](*arguments):
        return 0
    if name in POSTPONED:
        ledger.later.append(functools.partial(getattr(ledger, name), *arguments))
        return None
    raise refusal(ledger)


def refusal(ledger: Ledger) -> RuntimeError:
    """What is said to whoever asks for more than can be had in the middle of a decision."""
    return RuntimeError(
        f"pool {getattr(ledger.home, 'name', '')!r}: a finalizer, a signal handler or a tracer called it in the middle of "
        "one of its own steps, where it can free, look at figures and `try_alloc`, and nothing else; do this elsewhere. "
        "(That is so only where mempool is not compiled: install it with a C compiler.)"
    )


def before(ledger: Ledger) -> Ledger:
    """The books as they were before the decision that is being made, to look at."""
    then: Ledger = object.__new__(type(ledger))
    then.books = object.__new__(type(ledger.books))
    noted = ledger.books.undo[1:2] if ledger.books.undo is not None else ()
    then.books.__dict__.update(noted[0][2] if noted else ledger.books.__dict__)
    return then


def catch_up(ledger: Ledger) -> None:
    """What was called for in the middle of the decision, and the wake-ups. Does nothing twice that must not be."""
    while ledger.later:
        mine: deque[Callable[[], object]] = deque()
        try:
            # One call into C: an interrupt finds it in one of the two.
            mine.extend(islice(iter(ledger.later.popleft, None), 1))
            mine[0]()
        except IndexError:
            if mine:
                raise  # else another thread was faster
        except BaseException:
            if mine:
                mine[0]()
            raise
    spread_news(ledger)


def spread_news(ledger: Ledger) -> None:
    """Wake those whom decisions concerned. Goes on to the last whatever a wake raises; then raises the first."""
    told: list[Ticket] = []
    # The list is here and the loop in another frame: CPython's handlers do not cover each bytecode of a loop.
    try:
        wake_all(ledger, told)
    except BaseException:
        wake_all(ledger, told)
        raise


def wake_all(ledger: Ledger, told: list[Ticket]) -> None:
    errors: list[Exception] = []
    while told or ledger.books.news is not None:
        if not told:
            take_news(ledger, told)
            continue
        # Again if it raises: it may be done twice, and must not be lost.
        if not has_woken(told[-1], errors):
            has_woken(told[-1], errors)
        told.pop()
    if errors:
        raise errors[0]


def has_woken(ticket: Ticket, errors: list[Exception]) -> bool:
    try:
        ticket.wake()
    except Exception as error:  # noqa: BLE001 - raised by the caller, when all are woken
        errors.append(error)
        return False
    return True


def _take_news(ledger: Ledger, told: list[Ticket]) -> None:
    """Who must be woken, into this list. It is there before it is nowhere else: twice is better than never."""
    books = ledger.books
    while books.news is not None:
        ticket = books.news
        note(books, ticket)
        told.append(ticket)
        books.news = ticket.told
        ticket.told = None
        ticket.in_news = False


take_news = decision(_take_news, has_news=False)


# The quick path of alloc and free, each one decision: quick.pxd has the same for the compiled core.


def _take_out(self: Ledger, hands: Hands) -> bool:
    """Move a spare beyond the reserve into these hands, and sign it out. False: go the slow way."""
    books = self.books
    if books.closed or books.head is not None or books.spare <= books.reserve:
        return False
    note(books, hands)
    books.from_spare += 1
    books.unshelve(hands)
    if self.tracks:
        address, marks = id(hands.elements[hands.first]), self.roll.marks
        books.undo.append((marks.pop, address, None))
        marks[address] = True
    return True


def _put_in(self: Ledger, element: Any) -> bool:
    """Take back an element that is out while there is room and nobody waits. False: go the slow way."""
    books = self.books
    if books.closed or books.head is not None or books.drainers or books.spare >= books.keep or books.excess() > 0:
        return False
    if type(element) is Buffer:
        return False
    if self.tracks:
        address, marks = id(element), self.roll.marks
        if address not in marks:
            return False
        note_mark(books, marks, address)
        if marks.pop(address, None) is None:
            return False
    elif element is None or books.out() <= 0:
        return False
    books.shelve(element)
    return True


take_out = decision(_take_out, has_news=False)
put_in = decision(_put_in, has_news=False)


DECISIONS: list[str] = []


def make_decisions(cls: type) -> None:
    """Each method of this class and its bases that shuts the books is a decision; and some look at one moment."""
    for owner in cls.__mro__:
        for name, method in list(vars(owner).items()):
            if isinstance(method, FunctionType) and ("shut" in method.__code__.co_names or name in LOOKS):
                setattr(owner, name, decision(method))
                DECISIONS.append(name)
