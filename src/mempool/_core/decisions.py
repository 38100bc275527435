# cython: language_level=3
"""The decisions of a pool: who gets an element, and what becomes of it. None of them waits, or calls a source or user code.

Every method below that edits the state is one decision: it happens at one moment or not at all. What it decides for its
caller lies in the caller's transfer (transfer.py) when it returns; what it decides for others, in their Tickets, which are
then woken. A transfer is edited in place, like the state, after a `note` of what it held. Read state.py first.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from mempool import _cython as cython
from mempool._core.transfer import CLOSED, IMPOSSIBLE, SERVED, WAITING, WITHDRAWN

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.base_decisions import BaseDecisions
    from mempool._core.deciding import make_decisions, note, note_address, note_dict, refusal, settle
    from mempool._core.mutex import hold, release
    from mempool._core.state import State
    from mempool._core.transfer import Ticket, Transfer
    from mempool.buffer import Buffer

    _A_LIST = [object()]  # which lives on: a temporary one is gone before its element is counted
    _REFERENCES_OF_A_LIST = sys.getrefcount(_A_LIST[0])

    def is_nobodys(made: list[Any], index: int) -> bool:
        """Whether nobody but this list refers to what lies in it at that place."""
        return sys.getrefcount(made[index]) <= _REFERENCES_OF_A_LIST


#: What `join` answers.
IN_LINE, HAS_ALL, IS_CLOSED, IS_FULL, IS_TOO_MANY = range(5)
STILL_WAITING: cython.Py_ssize_t = WAITING  # the same in C, see waiting.py
#: So many spares are looked at for an element that the source may have returned before; see is_here.
SEARCHED = 1024
#: For `retarget`, and what it answers beside IS_CLOSED.
UNCHANGED = -1
CHANGED, GROWN, KEEP_TOO_LOW, LIMIT_TOO_LOW, UNEXPECTED = range(10, 15)


class Decisions(BaseDecisions):
    """The decisions about one pool."""

    # -- allocating

    def take_spares(self, transfer: Transfer, from_reserve: bool) -> bool:
        """Move spares into a transfer: what there is beyond the reserve; or, from the reserve, all that is missing or
        nothing.

        Nothing while anybody stands in the line. Returns whether the transfer has all it wants.
        """
        hold(self)
        try:
            state: State = self.state
            note(state, transfer)
            missing: cython.Py_ssize_t = transfer.wanted - transfer.count
            at_hand: cython.Py_ssize_t = state.spare if from_reserve else state.spare - state.reserve
            if state.head is not None or at_hand <= 0 or (from_reserve and at_hand < missing):
                return missing == 0
            while transfer.count < transfer.wanted and at_hand > 0:
                if state.spare > state.reserve:
                    state.from_spare += 1
                else:
                    state.from_reserve += 1
                state.pop_spare(transfer)
                at_hand -= 1
            self.commit(state)
            return transfer.count == transfer.wanted
        finally:
            release(self)

    def permit(self, transfer: Transfer, elements: cython.Py_ssize_t) -> int:
        """Permission to ask the source for up to so many elements, as far as the limit allows; -1: closed.

        On behalf of the head of the line: for what it lacks now, and nothing when it is the head no more. Until `complete`
        it is inside the source, and is passed over.

        Raises MemoryError when not even the table of outstanding elements has room for more; nothing has changed then.
        """
        hold(self)
        try:
            state: State = self.state
            note(state, transfer)
            existing: cython.Py_ssize_t = state.made - state.disposed + state.permits
            if state.closed:
                return -1
            head: Ticket | None = transfer.asks_for
            if head is not None:
                if state.head is not head:
                    return 0  # it has been served, and shall not be held up
                elements = min(elements, head.wanted - state.spare)
            if elements > state.limit - existing:
                elements = state.limit - existing
            if elements <= 0:
                transfer.refused = True  # for `join`
                return 0
            if self.tracks:
                self.outstanding.make_room(existing + elements)
            state.permits += elements
            transfer.permits += elements
            transfer.joined = state.joined
            transfer.refused = False
            if head is not None:
                state.asked += elements
            self.commit(state)
            return elements
        finally:
            release(self)

    def begin_fill(self, fill: Transfer) -> None:
        """From now on what is lacking counts as being made, until the end of this fill. May be done again.

        fill: an empty transfer that stands for a whole resize or refill, however often it asks the source.
        """
        hold(self)
        state: State = self.state
        note(state, fill)
        self.count_fill(state, fill)
        self.commit(state)
        release(self)

    def count_fill(self, state: State, fill: Transfer) -> cython.void:
        if not fill.filling and not state.closed:
            fill.filling = True
            state.fills += 1
            state.starved = False

    def end_fill(self, fill: Transfer) -> None:
        """It has made all it could. May be done again."""
        hold(self)
        try:
            state: State = self.state
            note(state, fill)
            if not fill.filling:
                return
            self.discount_fill(state, fill)
            self.commit(state)
        finally:
            release(self)

    def discount_fill(self, state: State, fill: Transfer) -> cython.void:
        if fill.filling:
            fill.filling = False
            state.fills = max(0, state.fills - 1)

    def permit_fill(self, transfer: Transfer, beyond_out: bool, fill: Transfer | None = None) -> int:
        """Permission to make elements for the reserve, at most as many as the transfer wants. 0: the fill has ended by that.

        beyond_out: only what not even the return of every element out would fill.
        """
        hold(self)
        try:
            state: State = self.state
            note(state, transfer)
            elements: cython.Py_ssize_t = state.reserve - state.spare - state.filling
            if beyond_out:
                elements -= state.out()
            existing: cython.Py_ssize_t = state.made - state.disposed + state.permits
            room: cython.Py_ssize_t = state.limit - existing
            if state.closed or elements <= 0 or room <= 0:
                # Room that a disposal takes comes back, after this fill has gone: who disposes goes on with it then.
                state.starved = not state.closed and elements > 0 and (state.starved or state.permits + state.disposing > 0)
                if fill is not None:
                    note(state, fill)
                    self.discount_fill(state, fill)
                self.commit(state)
                return 0
            elements = min(elements, transfer.wanted, room)
            if self.tracks:
                self.outstanding.make_room(existing + elements)
            state.permits += elements
            state.filling += elements
            transfer.permits += elements
            transfer.filling = True
            self.commit(state)
            return elements
        finally:
            release(self)

    def complete(self, transfer: Transfer, for_caller: bool) -> None:
        """The source has answered: what it made is in this transfer, and the permits are used up.

        for_caller: the elements go to the caller, and not to the free list or the line (for the statistics).
        """
        hold(self)
        try:
            state: State = self.state
            note(state, transfer)
            made: cython.Py_ssize_t = 0
            replaced: cython.Py_ssize_t = 0
            was_full: cython.bint = state.made - state.disposed + state.permits >= state.limit
            if transfer.permits == 0 and not transfer.made:
                return
            i: cython.Py_ssize_t
            for i in range(0 if transfer.made is None else len(transfer.made)):
                if transfer.made[i] is None:  # not made
                    continue
                if self.tracks:
                    if is_nobodys(transfer.made, i):
                        # It is new. What the table of outstanding elements says to be out at this address is no more: its
                        # user has lost it.
                        if self.outstanding.contains(transfer.made[i]):
                            replaced += 1
                            if not cython.compiled:
                                note_address(state, self.outstanding.addresses, id(transfer.made[i]))
                            self.outstanding.forget(transfer.made[i])
                    elif self.is_here(state, transfer, i):
                        transfer.twice = transfer.made[i]
                        continue
                transfer.add(transfer.made[i])
                made += 1
                if type(transfer.made[i]) is Buffer:
                    buffer: Buffer = transfer.made[i]
                    buffer.block.owner = self.owner
            if not cython.compiled:
                transfer.made = []
            elif transfer.made is not None:
                del transfer.made[:]
            state.made += made
            state.permits = max(0, state.permits - transfer.permits)
            if transfer.filling:
                state.filling = max(0, state.filling - transfer.permits)
            if for_caller:
                state.from_source += made
            head: Ticket | None = state.head
            if state.asked > 0 and head is transfer.asks_for and transfer.permits > 0:
                state.asked = 0
                self.serve_line(state)  # from what has been returned meanwhile and nobody behind it could use
                head = state.head
            # Where there is room under the limit again, the head of the line may ask the source at once: unless it took that
            # room itself, and nobody has joined the line since.
            is_worth_a_retry: cython.bint = head is not transfer.asks_for or transfer.joined != state.joined
            if made < transfer.permits:
                state.starved = False  # it is the source that gives nothing now
            if made < transfer.permits and was_full and head is not transfer and is_worth_a_retry:
                state.retry_head_now()
            transfer.permits = 0
            transfer.filling = False
            if replaced > 0:
                replaced = min(replaced, state.out())
                state.replaced += replaced
                self.count_written_off(state, replaced)
            self.commit(state)
        finally:
            release(self)
        self.wake_pending()

    def is_here(self, state: State, own: Transfer, index: cython.Py_ssize_t) -> cython.bint:
        """Whether what the source has returned is in this pool already, as far as that can be known: it made nothing new.

        Somebody refers to it, if only its source's own notes; whether it is out, the table does not say for sure then.
        """
        i: cython.Py_ssize_t
        for i in range(own.first, own.count):
            if own.elements[i] is own.made[index]:
                return True
        return state.has_near_top(own.made[index], SEARCHED)

    def pass_on(self, transfer: Transfer, receiver: Transfer) -> None:
        """What this transfer holds is the receiver's, as far as it wants it; surplus or checked still, where it was."""
        hold(self)
        state: State = self.state
        note(state, transfer)
        note(state, receiver)
        while transfer.first < transfer.count and receiver.count < receiver.wanted:
            receiver.add(transfer.elements[transfer.first])
            transfer.elements[transfer.first] = None
            transfer.first += 1
        receiver.refused = transfer.refused
        if transfer.is_surplus:
            receiver.is_surplus = True
        if transfer.checked:
            receiver.checked = True
        state.lingering = max(0, state.lingering - transfer.lingering)  # nobody looks at it any more
        transfer.lingering = 0
        self.commit(state)
        release(self)

    def held_by(self, transfer: Transfer) -> int:
        """How many elements this transfer holds, at a moment at which none is being moved."""
        hold(self)
        try:
            return transfer.count - transfer.first
        finally:
            release(self)

    def check_out(self, transfer: Transfer) -> None:
        """From now on the elements in this transfer are the user's."""
        hold(self)
        try:
            if self.tracks:
                self.outstanding.check_out(transfer)
        finally:
            release(self)

    def retract(self, transfer: Transfer) -> None:
        """The elements in this transfer are not the user's after all, whether they were checked out already or not."""
        hold(self)
        try:
            if self.tracks:
                self.outstanding.discard(transfer)
        finally:
            release(self)

    # -- freeing

    def check_in(self, transfer: Transfer) -> bool:
        """What this transfer holds is no longer its user's. False: not all of it is out, and nothing has changed."""
        hold(self)
        try:
            if not cython.compiled and self.is_deciding():
                raise refusal(self)
            if self.tracks:
                return self.outstanding.check_in(transfer)
            return self.check_in_unknown(transfer)
        finally:
            release(self)

    def check_in_unknown(self, transfer: Transfer) -> bool:
        """The same where there is no table of outstanding elements: all that can be said is how many are out."""
        if self.state.out() < transfer.count - transfer.first:
            return False  # more would be returned than went out
        i: cython.Py_ssize_t
        for i in range(transfer.first, transfer.count):
            if transfer.elements[i] is None:
                return False  # which no pool gives out: nobody shall get it from here
        transfer.proven = True
        return True

    def undo_partial_check_in(self, transfer: Transfer) -> None:
        """A check_in that was cut short half-way has not happened."""
        hold(self)
        try:
            if self.tracks:
                self.outstanding.undo_partial_check_in(transfer)
        finally:
            release(self)

    def undo_check_in(self, transfer: Transfer) -> None:
        """What this transfer holds is its user's again: the opposite of check_in."""
        self.check_out(transfer)
        transfer.disown()

    def take_back(self, transfer: Transfer) -> None:
        """What this transfer holds is returned: to the first in line, else to the free list while spare < keep.

        What remains in the transfer is surplus, for the caller to dispose of.
        """
        hold(self)
        try:
            state: State = self.state
            note(state, transfer)
            if transfer.is_surplus or transfer.first >= transfer.count:
                return
            if state.written_off > 0:
                self.find_again(state, transfer.count - transfer.first)
            while transfer.first < transfer.count:
                if state.closed or (
                    (state.head is None or not state.has_use_for_another())
                    and (
                        state.spare >= state.keep
                        or (state.spare >= state.reserve and state.excess() >= transfer.count - transfer.first)
                    )
                ):
                    break
                state.push_spare(transfer.elements[transfer.first])
                transfer.elements[transfer.first] = None
                transfer.first += 1
                if state.head is not None:
                    self.serve_line(state)
            state.disposing += transfer.count - transfer.first
            transfer.is_surplus = True
            if transfer.lingering > 0:
                state.lingering = max(0, state.lingering - transfer.lingering)
                transfer.lingering = 0
            if state.drainers:
                self.wake_drainers(state)
            self.commit(state)
        finally:
            release(self)
        self.wake_pending()

    def linger(self, transfer: Transfer) -> None:
        """What lingers in this transfer goes out again, under the handle that only its views keep; see buffer.revoke.

        It lies in the places before `first` then, until the transfer `let_go`: its last reference may not go in here.
        """
        hold(self)
        try:
            state: State = self.state
            note(state, transfer)
            i: cython.Py_ssize_t
            for i in range(transfer.first, transfer.count):
                if type(transfer.elements[i]) is not Buffer:
                    continue
                buffer: Buffer = transfer.elements[i]
                if buffer.lingers:
                    if self.tracks:
                        self.outstanding.check_out_again(buffer)
                    transfer.elements[i] = transfer.elements[transfer.first]
                    transfer.elements[transfer.first] = buffer
                    transfer.first += 1
                    state.lingering += 1
            self.commit(state)
        finally:
            release(self)

    def mark_surplus(self, transfer: Transfer) -> None:
        """What this transfer holds is of no more use: it is for the caller to dispose of."""
        hold(self)
        try:
            state: State = self.state
            note(state, transfer)
            if transfer.is_surplus:
                return
            self.find_again(state, transfer.count - transfer.first)
            state.disposing += transfer.count - transfer.first
            transfer.is_surplus = True
            state.lingering = max(0, state.lingering - transfer.lingering)
            transfer.lingering = 0
            self.wake_drainers(state)
            self.commit(state)
        finally:
            release(self)
        self.wake_pending()

    def evict(self, transfer: Transfer, is_idle: bool = False) -> int:
        """Move spares beyond `keep` (all, when the pool is closed) into this transfer, for the caller to dispose of.

        is_idle: those beyond the reserve, too.
        """
        hold(self)
        try:
            state: State = self.state
            note(state, transfer)
            keep: cython.Py_ssize_t = 0 if state.closed else max(state.keep, state.kept_for_line())
            reserve: cython.Py_ssize_t = max(state.reserve, state.kept_for_line())
            if is_idle:
                keep = min(keep, reserve)
            if state.next_to_serve() is None:
                while transfer.count < transfer.wanted and (
                    state.spare > keep or (state.spare > reserve and state.excess() > 0)
                ):
                    state.pop_spare(transfer)
                    state.disposing += 1
                    transfer.is_surplus = True
            self.commit(state)
            return transfer.count - transfer.first
        finally:
            release(self)

    # -- what is lost

    def write_off_transfer(self, transfer: Transfer) -> None:
        """What this transfer holds, checked in, is lost with its holder: counted out, and not for the source's free."""
        hold(self)
        state: State = self.state
        note(state, transfer)
        self.count_written_off(state, transfer.count - transfer.first)
        transfer.first = transfer.count
        self.commit(state)
        release(self)
        self.wake_pending()

    def write_off_all_out(self) -> int:
        """The same for all that is out: all among the outstanding ones, and, after a fork, what threads of the parent were
        moving.

        Without a table of outstanding elements, what other calls are moving is among it.
        """
        hold(self)
        try:
            state: State = self.state
            lost: cython.Py_ssize_t = state.out()
            if self.tracks:
                lost = min(lost, self.outstanding.count() + state.strays)
            state.strays = 0
            state.lingering = 0
            self.count_written_off(state, lost)
            self.commit(state)
            if self.tracks:
                if not cython.compiled:
                    note_dict(state, self.outstanding.addresses)
                self.outstanding.clear()
        finally:
            release(self)
        self.wake_pending()
        return lost

    def count_written_off(self, state: State, elements: cython.Py_ssize_t) -> cython.void:
        state.disposed += elements
        state.written_off += elements
        self.wake_drainers(state)
        state.retry_head_now()  # there may be room under the limit

    def find_again(self, state: State, elements: cython.Py_ssize_t) -> cython.void:
        """What is returned was written off while it was on its way: it is not lost after all."""
        found: cython.Py_ssize_t = elements - state.out()
        if 0 < found <= state.written_off:
            state.disposed -= found
            state.written_off -= found

    def disposed_one(self, transfer: Transfer, fill: Transfer | None = None, is_lost: cython.bint = False) -> None:
        """The source's free has come back for the first element in this transfer: it is gone.

        fill: begins by this, if another ended for want of the room that is there now. is_lost: it could not be called.
        """
        hold(self)
        try:
            state: State = self.state
            note(state, transfer)
            if transfer.first >= transfer.count:
                return
            element = transfer.elements[transfer.first]  # its last reference goes when this method returns
            transfer.elements[transfer.first] = None
            transfer.first += 1
            if not cython.compiled:
                transfer.free_called = []
            elif transfer.free_called is not None:
                del transfer.free_called[:]
            if state.disposing > 0:  # else a fork has counted it already
                state.disposing -= 1
                state.disposed += 1
                if is_lost:
                    state.written_off += 1
            if fill is not None and state.starved:
                note(state, fill)
                self.count_fill(state, fill)
            state.retry_head_now()  # there may be room under the limit
            self.commit(state)
        finally:
            release(self)
        del element
        self.wake_pending()

    # -- the line

    def join(self, ticket: Ticket, slots: list[Any]) -> int:
        """Line up, unless all is to be had at once. Elements held already go to the free list, so that nobody waits holding.

        slots: a list as long as what is wanted, from which a gathering head of the line is served.
        """
        hold(self)
        try:
            state: State = self.state
            note(state, ticket)
            if state.closed:
                return IS_CLOSED
            answer: cython.Py_ssize_t = IN_LINE
            missing: cython.Py_ssize_t = ticket.wanted - ticket.count
            if state.next_to_serve() is None and state.spare - state.held_back() >= missing:
                while ticket.count < ticket.wanted:
                    state.from_line += 1
                    state.pop_spare(ticket)
                settle(state, ticket, SERVED)
                answer = HAS_ALL
            else:
                if state.dismissed:
                    return IS_CLOSED
                if ticket.wanted > max(1, state.limit):
                    return IS_TOO_MANY
                if state.waiting >= state.waiting_max:
                    return IS_FULL
                state.install(slots)
                is_first: cython.bint = state.head is None
                state.enqueue(ticket)
                if state.asked > 0:
                    self.serve_line(state)  # the free list may be full of what is laid by for the head
                while ticket.count > 0:
                    ticket.count -= 1
                    state.push_spare(ticket.elements[ticket.count])
                    ticket.elements[ticket.count] = None
                    self.serve_line(state)  # after each: the free list has no more places than the head wants
                self.wake_drainers(state)
                if not is_first:
                    state.retry_head_now()  # a newcomer is a reason to ask the source at once
                elif ticket.refused and state.made - state.disposed + state.permits < state.limit:
                    ticket.retry_now = True  # the room that it was refused came before it lined up, or the others left
            self.commit(state)
        finally:
            release(self)
        self.wake_pending()
        return answer

    def withdraw(self, ticket: Ticket) -> bool:
        """Leave the line. False: not in it (any more): look at the ticket's state."""
        hold(self)
        try:
            state: State = self.state
            if not ticket.in_line:
                return False
            note(state, ticket)
            was_first: cython.bint = state.head is ticket
            was_next: cython.bint = state.next_to_serve() is ticket
            state.dequeue(ticket)
            settle(state, ticket, WITHDRAWN)
            if was_first or was_next:
                self.serve_line(state)  # what was gathered goes to those behind, in one step
            if was_first:
                state.retry_head_now()
            self.commit(state)
        finally:
            release(self)
        self.wake_pending()
        return True

    def cancel(self, ticket: Transfer) -> None:
        """`withdraw`, for whoever gives up, whether it ever joined or not."""
        if isinstance(ticket, Ticket) and cython.cast(Ticket, ticket).state == STILL_WAITING:
            self.withdraw(ticket)

    def set_waiting_max(self, tickets: cython.Py_ssize_t) -> None:
        """Let no more than so many stand in the line from now on."""
        hold(self)
        state: State = self.state
        state.waiting_max = tickets
        self.commit(state)
        release(self)

    # -- resizing and closing

    def retarget(  # noqa: PLR0917 - what runs a decision uncompiled passes no keywords
        self,
        reserve: cython.Py_ssize_t,
        keep: cython.Py_ssize_t,
        limit: cython.Py_ssize_t,
        slots: list[Any],
        fill: Transfer | None = None,
        expected: cython.Py_ssize_t = UNCHANGED,
    ) -> int:
        """All targets change at this one moment, or none does. Answers GROWN, CHANGED, or why nothing changed.

        UNCHANGED leaves a target as it is at the moment itself, so that two resizes of different targets both count.
        keep UNCHANGED: twice the reserve until it is given once; then it stays, but never below the reserve.
        slots: at least as long as the new keep, unless there are so many already; else ValueError.
        fill: begins at this very moment if the reserve grows: what it is about to make is never unfunded.
        expected: the reserve that there must be at this moment, for UNEXPECTED else; UNCHANGED: any.

        Who stands in the line for many, and for more than the limit allows now, has left it: IMPOSSIBLE.
        """
        hold(self)
        try:
            state: State = self.state
            line: list[Ticket] = self.tickets(state)  # first of all: a new list may run the collector, and that anything
            if state.closed:
                return IS_CLOSED
            if expected != UNCHANGED and expected != state.reserve:  # noqa: PLR1714 - a tuple would be made
                return UNEXPECTED  # compared here, because what was read before the moment may be another's past
            # Worked out here and nowhere else: a target read before the moment may be another resize's past.
            new_reserve: cython.Py_ssize_t = state.reserve if reserve == UNCHANGED else reserve
            new_limit: cython.Py_ssize_t = state.limit if limit == UNCHANGED else limit
            given: cython.Py_ssize_t = state.keep_given if keep == UNCHANGED else keep
            new_keep: cython.Py_ssize_t = 2 * new_reserve if given == UNCHANGED else max(given, new_reserve)
            if keep != UNCHANGED and keep < new_reserve:
                return KEEP_TOO_LOW
            if new_limit < new_reserve:
                return LIMIT_TOO_LOW
            if new_keep > state.capacity and new_keep > len(slots):
                raise ValueError("fewer places than spares to be kept")
            grew: cython.bint = new_reserve > state.reserve
            raised: cython.bint = new_limit > state.limit
            state.install(slots)
            state.reserve = new_reserve
            state.keep = new_keep
            state.keep_given = given
            state.limit = new_limit
            state.resizes += 1
            if grew and fill is not None:
                note(state, fill)
                self.count_fill(state, fill)
            head: Ticket | None = state.head
            following: Ticket | None = state.next_to_serve()
            for ticket in line:
                if ticket.wanted > max(1, new_limit):
                    state.dequeue(ticket)
                    settle(state, ticket, IMPOSSIBLE)
                    state.wake_later(ticket)
            if state.head is not head or state.next_to_serve() is not following:
                self.serve_line(state)
            if state.head is not head or raised:
                state.retry_head_now()
            self.commit(state)
        finally:
            release(self)
        self.wake_pending()
        return GROWN if grew else CHANGED

    def close(self) -> None:
        """No more allocs; everybody in the line is told."""
        hold(self)
        state: State = self.state
        state.closed = True
        self.empty_line(state)
        self.commit(state)
        release(self)
        self.wake_pending()

    def dismiss(self) -> None:
        """Nobody waits here any more: everybody in the line is told, and nobody joins. The rest goes on."""
        hold(self)
        try:
            state: State = self.state
            state.dismissed = True
            self.empty_line(state)
            for ticket in state.drainers:
                state.wake_later(ticket)
            self.commit(state)
        finally:
            release(self)
        self.wake_pending()

    def empty_line(self, state: State) -> cython.void:
        head: Ticket | None = state.head
        while head is not None:
            state.dequeue(head)
            settle(state, head, CLOSED)
            state.wake_later(head)
            head = state.head

    def watch_drain(self, ticket: Ticket, watch: bool) -> bool:
        """Wake this ticket when the last element is returned (watch=False: do not). Returns whether all are returned now."""
        hold(self)
        try:
            state: State = self.state
            before: tuple[Ticket, ...] | None = None
            drainers: tuple[Ticket, ...] = ()
            while state.drainers is not before:  # a new list may run the collector, and that another's drain
                before = state.drainers
                drainers = tuple([other for other in before if other is not ticket] + [ticket] * watch)
            state.drainers = drainers
            self.commit(state)
            return state.out() == 0
        finally:
            release(self)

    def evict_lost(self, transfer: Transfer) -> int:
        """In a child of a fork: spares whose memory stayed with the parent go into this transfer, to be disposed of."""
        hold(self)
        try:
            state: State = self.state
            note(state, transfer)
            spares: cython.Py_ssize_t = state.spare
            state.pop_lost(transfer)
            if state.spare < spares:
                state.disposing += spares - state.spare
                transfer.is_surplus = True
            self.commit(state)
            return transfer.count - transfer.first
        finally:
            release(self)

    def after_fork(self, survivor: object, fills: cython.Py_ssize_t = 0) -> None:
        """In the child only the thread `survivor` lives on: the others' tickets and permits are void, their elements out.

        fills: how many of the fills under way are the survivor's.
        """
        hold(self)
        try:
            state: State = self.state
            drainers: tuple[Ticket, ...] = tuple([drainer for drainer in state.drainers if drainer.thread == survivor])
            ticket: Ticket | None
            for ticket in self.tickets(state):
                if ticket.thread != survivor:
                    state.dequeue(ticket)
                    settle(state, ticket, WITHDRAWN)
            state.drainers = drainers
            self.lock_belongs_here()
            state.disposed += state.disposing
            state.permits = state.filling = state.disposing = state.asked = 0
            state.fills = fills
            state.starved = False
            if self.tracks:
                state.strays = max(0, state.out() - self.outstanding.count())
            self.serve_line(state)
            state.retry_head_now()  # another head, or room that the others' permits took
            self.commit(state)
        finally:
            release(self)
        self.wake_pending()


if not cython.compiled:
    make_decisions(Decisions)
