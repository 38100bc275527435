"""Uncompiled: what makes a decision one step, though a thread, a finalizer, a tracer or an exception may come in between.

A decision (decisions.py) edits the state, and the transfer and tickets that it concerns, in place, with a lock per pool
held. Three things may strike in its middle, and each has a remedy:

An exception (an interrupt, MemoryError, a tracer's own). Before it changes a thing, a decision notes how that was, in
`state.undo`; the notes are carried out last first, by one call into C. Whoever takes the lock does so if its last holder
did not come to it: a thread that a fork left behind, or that the end of the interpreter has stopped.

Other threads wait for the lock, or, where they look without it, see what is there. A ticket's state is the one thing by
which others act without the lock; so it changes at the very end, in the call into C after which nothing is taken back.

The same thread again: a finalizer, a signal handler or a tracer calls the pool. It must not wait, as it would for ever,
nor edit what is half done. What it frees is queued, and is returned before the outer call returns; the figures it sees are
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
State: TypeAlias = Any
BaseDecisions: TypeAlias = Any
Transfer: TypeAlias = Any
Ticket: TypeAlias = Any

ALL = slice(None)
#: When these find nothing to do, or nothing to be had, and so need nothing of the state.
IDLE: dict[str, Callable[..., bool]] = {
    "_put_in": lambda _element: True,
    "_take_out": lambda _transfer: True,
    "complete": lambda transfer, *_: transfer.permits == 0 and not transfer.made,
    "permit": lambda transfer, _elements: True,
    "mark_surplus": lambda transfer: transfer.is_surplus or transfer.first >= transfer.count,
    "disposed_one": lambda transfer, *_: transfer.first >= transfer.count,
    "end_fill": lambda fill: not fill.filling,
    "must_enqueue": lambda _transfer: True,
    "held_by": lambda _transfer: True,
    "take_back": lambda transfer: transfer.is_surplus or transfer.first >= transfer.count,
    "evict": lambda transfer, *_: True,
    "take_spares": lambda transfer, _from_reserve: True,
    "withdraw": lambda ticket: not ticket.in_line,
}
#: What nobody needs an answer of.
POSTPONED = ("after_fork", "count_failure", "count_wait")
#: What only looks.
LOOKS = ("snapshot", "held_by", "must_enqueue", "check_in_unknown")

new_queue = deque


#: A lock that knows its holder; of native threads, whatever library of greenlets has put its own in their place.
new_lock = RLock


def note(state: State, transfer: Transfer) -> None:
    """Note how this transfer is, before it is changed, so that the change can be undone."""
    undo: list[Any] = state.undo
    undo.append((dict.update, transfer.__dict__, transfer.__dict__.copy()))
    undo.append((setitem, transfer.elements, ALL, transfer.elements[:]))


def note_slot(state: State, place: int) -> None:
    """Note what is in one place of the free list, before it is changed."""
    state.undo.append((setitem, state.slots, place, state.slots[place]))


def note_dict(state: State, values: dict[Any, Any]) -> None:
    """Note what is in a dict, before something is taken from it."""
    state.undo.append((dict.update, values, values.copy()))


def note_address(state: State, addresses: dict[int, bool], address: int) -> None:
    """Note that this element is outstanding, before it is taken from the table."""
    state.undo.append((setitem, addresses, address, True))


def settle(state: State, ticket: Ticket, outcome: int) -> None:
    """Set this ticket's state, at the moment when the decision is made."""
    state.ends += (functools.partial(setattr, ticket, "state", outcome),)


def end(state: State) -> None:
    """Make the decision: from here on nothing of it is undone."""
    if state.ends:
        # One call into C: either it is made and all tickets say so, or neither.
        deque(map(call, (*state.ends, functools.partial(state.__dict__.update, undo=None, ends=()))), 0)
    else:
        state.undo = None


def roll_back(state: State) -> None:
    """Undo the decision: all is as it was. The first note, carried out last, clears the record."""
    deque(starmap(call, reversed(state.undo)), 0)


def acquire(decisions: BaseDecisions) -> None:
    """Wait for the lock and take it. If its holder can never run again (fork, end of the interpreter), make a new one."""
    if sys.is_finalizing() or decisions.process != os.getpid():
        decisions.lock = new_lock()
    decisions.lock.acquire()
    decisions.process = os.getpid()


def decision(decide: Callable[..., Any], may_wake: bool = True) -> Callable[..., Any]:
    """Make this method one step: under the lock of its pool, with a record by which it is undone if anything is raised."""

    @functools.wraps(decide)
    def decide_alone(self: BaseDecisions, *arguments: Any) -> Any:
        if self.lock._is_owned():
            return in_the_middle(self, decide, arguments)
        state = self.state
        # An exception may be raised at any bytecode, so two blocks: what cuts the inner handler short meets the outer one.
        try:
            try:
                if not self.lock.acquire(False):
                    acquire(self)
                if state.undo is not None:
                    roll_back(state)
                # Held here to the end: what it refers to may run a finalizer as it dies, which shall not find the lock held.
                undo = state.undo = [(setattr, state, "undo", None)]
                noted = state.__dict__.copy()
                noted["undo"] = None  # else a cycle
                undo.append((dict.update, state.__dict__, noted))
                answer = decide(self, *arguments)
                if state.ends:
                    end(state)
                else:
                    state.undo = None
                if state.mirror is not None:
                    state.mirror.store(state)
                is_behind = may_wake and (state.first_to_wake is not None or self.later)
                self.lock.release()
            except BaseException:
                if state.undo is not None and self.lock._is_owned():
                    roll_back(state)
                raise
            del undo, noted
            if is_behind:
                catch_up(self)
            return answer
        except BaseException:
            if self.lock._is_owned():
                self.lock.release()
            if may_wake and (state.first_to_wake is not None or self.later):
                catch_up(self)
            raise

    return decide_alone


def in_the_middle(decisions: BaseDecisions, decide: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Answer a call that a thread makes in the middle of its own decision: a finalizer, a signal handler or a tracer."""
    name = decide.__name__
    if name == "snapshot":
        return decide(before(decisions))
    if name in IDLE and IDLE[name](*arguments):
        return 0
    if name in POSTPONED:
        decisions.later.append(functools.partial(getattr(decisions, name), *arguments))
        return None
    raise refusal(decisions)


def refusal(decisions: BaseDecisions) -> RuntimeError:
    """Say what cannot be had in the middle of a decision."""
    name = getattr(decisions.owner, "name", "")
    return RuntimeError(
        f"pool {name!r}: a finalizer, a signal handler or a tracer called it in the middle of "
        "one of its own steps, where it can free, look at figures and `try_alloc`, and nothing else; do this elsewhere. "
        "(That is so only where mempool is not compiled: install it with a C compiler.)"
    )


def before(decisions: BaseDecisions) -> BaseDecisions:
    """Return the state as it was before the decision under way, to be read."""
    then: BaseDecisions = object.__new__(type(decisions))
    then.state = object.__new__(type(decisions.state))
    noted = decisions.state.undo[1:2] if decisions.state.undo is not None else ()
    then.state.__dict__.update(noted[0][2] if noted else decisions.state.__dict__)
    return then


def catch_up(decisions: BaseDecisions) -> None:
    """Do what was queued in the middle of the decision, then the wake-ups. Nothing is done twice that must not be."""
    while decisions.later:
        mine: deque[Callable[[], object]] = deque()
        try:
            # One call into C: an interrupt finds it in one of the two.
            mine.extend(islice(iter(decisions.later.popleft, None), 1))
            mine[0]()
        except IndexError:
            if mine:
                raise  # else another thread was faster
        except BaseException:
            if mine:
                mine[0]()
            raise
    wake_pending(decisions)


def wake_pending(decisions: BaseDecisions) -> None:
    """Wake the callers in the wake queue, all of them, whatever a wake raises. Then raises the first of these errors."""
    to_wake: list[Ticket] = []
    # The list is here and the loop in another frame: CPython's handlers do not cover each bytecode of a loop.
    try:
        wake_all(decisions, to_wake)
    except BaseException:
        wake_all(decisions, to_wake)
        raise


def wake_all(decisions: BaseDecisions, to_wake: list[Ticket]) -> None:
    errors: list[Exception] = []
    while to_wake or decisions.state.first_to_wake is not None:
        if not to_wake:
            take_wake_queue(decisions, to_wake)
            continue
        # Again if it raises: it may be done twice, and must not be lost.
        if not has_woken(to_wake[-1], errors):
            has_woken(to_wake[-1], errors)
        to_wake.pop()
    if errors:
        raise errors[0]


def has_woken(ticket: Ticket, errors: list[Exception]) -> bool:
    try:
        ticket.wake()
    except Exception as error:  # noqa: BLE001 - raised by the caller, when all are woken
        errors.append(error)
        return False
    return True


def _take_wake_queue(decisions: BaseDecisions, to_wake: list[Ticket]) -> None:
    """Move the wake queue into this list. A ticket is in both for a moment: to wake it twice is better than never."""
    state = decisions.state
    while state.first_to_wake is not None:
        ticket = state.first_to_wake
        note(state, ticket)
        to_wake.append(ticket)
        state.first_to_wake = ticket.next_to_wake
        ticket.next_to_wake = None
        ticket.in_wake_queue = False


take_wake_queue = decision(_take_wake_queue, may_wake=False)


# The fast path of alloc and free, each one decision: fast_path.pxd has the same for the compiled core.


def _take_out(self: BaseDecisions, transfer: Transfer) -> bool:
    """Move a spare beyond the reserve into this transfer, and check it out. False: go the slow way."""
    state = self.state
    if state.closed or state.head is not None or state.spare <= state.reserve:
        return False
    note(state, transfer)
    state.from_spare += 1
    state.pop_spare(transfer)
    if self.tracks:
        address, addresses = id(transfer.elements[transfer.first]), self.outstanding.addresses
        state.undo.append((addresses.pop, address, None))
        addresses[address] = True
    return True


def _put_in(self: BaseDecisions, element: Any) -> bool:
    """Take back an element that is out while there is room and nobody waits. False: go the slow way."""
    state = self.state
    if state.closed or state.head is not None or state.drainers or state.spare >= state.keep or state.excess() > 0:
        return False
    if type(element) is Buffer:
        return False
    if self.tracks:
        address, addresses = id(element), self.outstanding.addresses
        if address not in addresses:
            return False
        note_address(state, addresses, address)
        if addresses.pop(address, None) is None:
            return False
    elif element is None or state.out() <= 0:
        return False
    state.push_spare(element)
    return True


take_out = decision(_take_out, may_wake=False)
put_in = decision(_put_in, may_wake=False)


DECISIONS: list[str] = []


def make_decisions(cls: type) -> None:
    """Make each method of this class and its bases that commits the state a decision, and those that read many numbers."""
    for owner in cls.__mro__:
        for name, method in list(vars(owner).items()):
            if isinstance(method, FunctionType) and ("commit" in method.__code__.co_names or name in LOOKS):
                setattr(owner, name, decision(method))
                DECISIONS.append(name)
