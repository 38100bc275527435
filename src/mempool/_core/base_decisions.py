# cython: language_level=3
"""The base of the decisions: how the state is read, and how those who wait are woken. Read state.py first."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mempool import _cython as cython
from mempool._core.transfer import SERVED

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.deciding import new_lock, new_queue, refusal, settle
    from mempool._core.mirror import Mirror
    from mempool._core.mutex import (
        WITHOUT_GIL,
        Link,
        hold,
        hold_links,
        link_in,
        link_out,
        release,
        release_links,
        renew_links,
        renew_lock,
    )
    from mempool._core.outstanding import Outstanding
    from mempool._core.state import State
    from mempool._core.transfer import Ticket, Transfer

    #: The same as WAIT_BUCKETS in engine.py.
    BOUNDS = (*(step * 10**power / 1e5 for power in range(7) for step in (1, 2, 5)), 100.0)


# The same in C, see waiting.py.
HAS_BEEN_SERVED: cython.Py_ssize_t = SERVED


class BaseDecisions:
    """The state and the table of outstanding elements of one pool."""

    __slots__ = ("__dict__", "__weakref__", "lock")  # uncompiled; the lock where eventlet does not look: native.RLock

    state: State
    outstanding: Outstanding
    tracks: cython.bint
    fast_alloc: cython.bint
    fast_free: cython.bint
    owner: Any
    link: Link  # compiled, without the GIL: the mutex that is held while anything is decided; see mutex.pxd
    lock: Any  # uncompiled: see deciding.py
    later: Any
    process: Any

    def __cinit__(self, *_arguments: object, **_options: object) -> None:
        link_in(self)

    def __dealloc__(self) -> None:
        link_out(self)

    def __init__(self, tracks: bool, fast_alloc: bool, fast_free: bool, owner: object = None) -> None:
        """tracks: keep a table of the elements that are out.

        fast_alloc, fast_free: nobody needs to be told of each element that goes out, or is returned.
        owner: what a Buffer of this pool is told about where it belongs.
        """
        self.owner = owner
        if not cython.compiled:
            self.lock = new_lock()
            self.later = new_queue()
            self.process = os.getpid()
        self.state = State()
        self.outstanding = Outstanding()
        self.tracks = tracks
        self.fast_alloc = fast_alloc
        self.fast_free = fast_free

    # -- the end of a decision

    def commit(self, state: State) -> cython.void:
        """The last step of every decision. (Uncompiled, this call is also what makes a method a decision: deciding.py.)"""
        if cython.compiled:
            state.set_gates(self.fast_alloc, self.fast_free)

    def is_deciding(self) -> bool:
        """Uncompiled: whether a finalizer, a signal handler or a tracer calls this in the middle of a decision."""
        return not cython.compiled and bool(self.lock._is_owned())

    def lock_belongs_here(self) -> None:
        """Uncompiled: the lock is this process's, and none that a fork has left behind."""
        if not cython.compiled:
            self.process = os.getpid()

    def expect_reserve(self) -> None:
        """Let the table of outstanding elements grow now for all that the reserve will need, and not step by step, each time
        moving what is on it.

        What does not work now may do so later: whoever asks the source makes room for as much as it asks for.
        """
        if cython.compiled and self.tracks:  # uncompiled, a dict grows when it must
            try:
                hold(self)
                try:
                    state: State = self.state
                    self.outstanding.make_room(state.made - state.disposed + state.reserve)
                finally:
                    release(self)
            except MemoryError:
                pass

    def rest(self, seconds: cython.double) -> None:
        """Let the fast path take of the reserve without asking the source for so long; 0: no longer."""
        if cython.compiled:
            until: cython.longlong = 0 if seconds == 0 else mempool_moment(seconds)  # type: ignore[name-defined]
            hold(self)
            self.state.rests_until = until
            release(self)

    def wake_pending(self) -> None:
        """Wake those whom a decision concerned. (Uncompiled, what surrounds the decision does it.)"""
        if cython.compiled:
            ticket: Ticket | None
            while True:
                # Here, and not within the decision: it may die, and what it got with it, whose finalizer may run anything.
                ticket = None
                hold(self)
                ticket = self.state.first_to_wake
                if ticket is not None:
                    self.state.first_to_wake = ticket.next_to_wake
                    ticket.next_to_wake = None
                    ticket.in_wake_queue = False
                release(self)
                if ticket is None:
                    return
                done: cython.bint = False
                try:
                    ticket.wake()
                    done = True
                finally:
                    if not done:  # `except` would cost something each time, see `advanced` in waiting.pxd
                        try:
                            ticket.wake()  # it may be done twice, and must not be lost
                        finally:
                            self.wake_pending()  # the others must hear of it whatever befell this one

    def serve_line(self, state: State) -> cython.void:
        """Serve those in the line, first to last, as long as the spares suffice. A head inside the source is passed over."""
        served: cython.bint = False
        ticket: Ticket | None = state.next_to_serve()
        while ticket is not None:
            if state.spare - state.held_back() < ticket.wanted:
                if state.asked == 0 or state.spare < state.capacity:
                    break
                # The free list has no place for what the head holds back and what the next one gathers. A full free list is
                # enough for any one of them, and the first is the first.
                ticket = state.head
                if ticket is None:
                    break
            served = served or ticket is state.head
            state.dequeue(ticket)
            while ticket.count < ticket.wanted:
                state.pop_spare(ticket)
                state.from_line += 1
            settle(state, ticket, HAS_BEEN_SERVED)
            state.wake_later(ticket)
            ticket = state.next_to_serve()
        if ticket is not None and ticket.may_be_gone and state.spare > state.held_back():
            state.wake_later(ticket)  # it gathers: if nobody is there any more, those behind must not wait for it
        if served:
            state.retry_head_now()

    def wake_drainers(self, state: State) -> cython.void:
        if state.drainers and state.out() == 0:
            for ticket in state.drainers:
                state.wake_later(ticket)

    def count_failure(self) -> None:
        """For the statistics: the source has run out of memory."""
        hold(self)
        try:
            state: State = self.state
            state.source_failures += 1
            self.commit(state)
        finally:
            release(self)

    def failures(self) -> int:
        """How often the source ran out of memory."""
        hold(self)
        failures: cython.Py_ssize_t = self.state.source_failures
        release(self)
        return failures

    def mirror_to(self, slot: Any) -> None:
        """From now on mirror all figures into this slot of a page: see watch/page.py. None: no longer."""
        mapping: Any = None if slot is None else slot.mapping
        at: cython.Py_ssize_t = 0 if slot is None else slot.at
        before: Any = self.slot()  # which goes when this is done: that may run Python code
        self.mirror_into(slot, mapping, at)
        del before

    def mirror_into(self, slot: Any, mapping: Any, at: cython.Py_ssize_t) -> None:
        """The step of `mirror_to`."""
        hold(self)
        try:
            state: State = self.state
            if cython.compiled:
                state.mirror = mirrored(mapping, at)  # type: ignore[name-defined]
                state.slot = slot
            else:
                state.slot = slot
                state.mirror = None if slot is None else Mirror(mapping, at)
            self.commit(state)
        finally:
            release(self)

    def slot(self) -> Any:
        """Where the figures are mirrored; None: nowhere."""
        hold(self)
        slot: Any = self.state.slot
        release(self)
        return slot

    def count_wait(self, outcome: cython.Py_ssize_t, seconds: cython.double) -> None:
        """For the statistics: somebody has waited so long. outcome: SERVED, CLOSED or WITHDRAWN, or TIMED_OUT."""
        hold(self)
        try:
            bucket: cython.Py_ssize_t = 0
            while bucket < 22 and seconds > BOUNDS[bucket]:
                bucket += 1
            state: State = self.state
            if not cython.compiled:
                state.waits = list(state.waits)  # the old ones stay as they are, should this be taken back
                state.wait_histogram = list(state.wait_histogram)
            state.waits[outcome] += 1
            state.wait_histogram[bucket] += 1
            state.wait_seconds_total += seconds
            state.wait_seconds_max = max(state.wait_seconds_max, seconds)
            self.commit(state)
        finally:
            release(self)

    # -- looking

    def is_closed(self) -> bool:
        hold(self)
        closed: cython.bint = self.state.closed
        release(self)
        return closed

    def is_dismissed(self) -> bool:
        """Whether nobody may wait any more."""
        hold(self)
        dismissed: cython.bint = self.state.dismissed
        release(self)
        return bool(dismissed)

    def waiting(self) -> int:
        """How many stand in the line."""
        hold(self)
        waiting: cython.Py_ssize_t = self.state.waiting
        release(self)
        return waiting

    def must_enqueue(self, transfer: Transfer) -> bool:
        """Whether there is nothing to be had, and nobody to be asked: others wait, or all that the limit allows is out.

        This transfer has not asked the source, then; see Decisions.join.
        """
        hold(self)
        try:
            state: State = self.state
            if state.closed or transfer.wanted == transfer.count:
                return False
            is_full: cython.bint = state.made - state.disposed + state.permits >= state.limit
            if state.head is None and (state.spare > 0 or not is_full):
                return False
            transfer.defer()
            return True
        finally:
            release(self)

    def is_first(self, ticket: Ticket) -> bool:
        hold(self)
        is_first: cython.bint = self.state.head is ticket
        release(self)
        return bool(is_first)

    def tickets(self, state: State) -> list[Ticket]:
        tickets: list[Ticket] = []
        ticket: Ticket | None = state.head
        while ticket is not None:
            tickets.append(ticket)
            ticket = ticket.behind
        return tickets

    def queue(self) -> list[Ticket]:
        """The tickets in the line, first to last."""
        hold(self)
        try:
            return self.tickets(self.state)
        finally:
            release(self)

    def tracks_elements(self) -> bool:
        """Whether outstanding elements are listed."""
        return self.tracks

    def check_outs(self) -> int:
        """How often elements were checked out that are listed."""
        hold(self)
        try:
            return self.outstanding.check_outs if self.tracks else 0
        finally:
            release(self)

    def remove_address(self, transfer: Transfer, address: int, check_outs: int) -> bool:
        """Take the address of an element that is out from the outstanding ones. False: it was not there.

        Nobody has it at hand: this transfer holds something in its place. They are owners in the very step that strikes it.
        check_outs: `check_outs()` from before it was seen that the address is that element's. False if there are more now.
        """
        hold(self)
        try:
            if not cython.compiled and self.is_deciding():
                raise refusal(self)
            return self.tracks and self.outstanding.remove_address(transfer, address, check_outs)
        finally:
            release(self)

    def is_out(self, element: Any) -> bool:
        hold(self)
        try:
            return self.tracks and self.outstanding.contains(element)
        finally:
            release(self)

    def is_spare(self, element: Any) -> bool:
        """A search through all spares: for error messages."""
        hold(self)
        try:
            return self.state.has_spare(element)
        finally:
            release(self)

    def capacity(self) -> int:
        hold(self)
        capacity: cython.Py_ssize_t = self.state.capacity
        release(self)
        return capacity

    def snapshot(self) -> dict[str, Any]:
        """All numbers of the state at one moment."""
        hold(self)
        try:
            state: State = self.state
            return {
                "reserve": state.reserve,
                "keep": state.keep,
                "limit": state.limit,
                "waiting_max": state.waiting_max,
                "closed": bool(state.closed),
                "spare": state.spare,
                "out": state.out(),
                "made": state.made,
                "disposed": state.disposed,
                "disposing": state.disposing,
                "written_off": state.written_off,
                "replaced": state.replaced,
                "permits": state.permits,
                "filling": state.filling,
                "fills": state.fills,
                "starved": bool(state.starved),
                "lingering": state.lingering,
                "waiting": state.waiting,
                "asked": state.asked,
                "from_spare": state.from_spare,
                "from_source": state.from_source,
                "from_reserve": state.from_reserve,
                "from_line": state.from_line,
                "resizes": state.resizes,
                "source_failures": state.source_failures,
                "waits": list(state.waits),
                "wait_histogram": list(state.wait_histogram),
                "wait_seconds_total": state.wait_seconds_total,
                "wait_seconds_max": state.wait_seconds_max,
            }
        finally:
            release(self)


def hold_all() -> None:
    """Before a fork: no thread is in the middle of a decision of any pool, which nobody would go on with in the child."""
    hold_links()


def release_all() -> None:
    """In the parent, after it."""
    release_links()


def renew_all() -> None:
    """In the child: whoever waits for one of these mutexes does not live here."""
    renew_links()


def renew_locks(*things: object) -> None:
    """In the child of a fork, without the GIL: nobody holds CPython's own locks of these objects.

    CPython stops all threads before it forks, and one that is stopped holds no object's lock. But one that has waited for it
    for a millisecond is handed it, and may be stopped before it takes note: in the child that lock would stay locked for
    ever. Only for what this thread is not in the middle of a method of: no method of these runs Python code.
    """
    if WITHOUT_GIL:
        for thing in things:
            renew_lock(thing)


# Registered before all other hooks of this package: they find no mutex held. Those of others that were there before do, and
# may use a pool, in this thread: mutex.pxd, MEMPOOL_FORKS.
if WITHOUT_GIL and hasattr(os, "register_at_fork"):
    os.register_at_fork(before=hold_all, after_in_parent=release_all, after_in_child=renew_all)
