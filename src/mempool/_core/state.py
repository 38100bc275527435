# cython: language_level=3
"""The state of a pool: what is promised, what there is, and who waits, as one value. Decides nothing by itself.

A decision (decisions.py) edits it in place, and the Transfer and Tickets that it concerns.

Compiled, it calls nothing that could run Python code, so under the GIL, or the pool's mutex where there is none
(mutex.pxd), nobody sees it half done.

Uncompiled, every bytecode may be followed by a thread switch, a signal handler, a finalizer or an exception. There, each
decision holds the lock of its pool and keeps a record of what it changes, by which it is taken back if anything is raised
in its middle: see deciding.py.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from mempool import _cython as cython

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.deciding import note, note_slot
    from mempool._core.transfer import Ticket, Transfer
    from mempool.buffer import Buffer

UNLIMITED = sys.maxsize
CLOSED_GATE: cython.Py_ssize_t = UNLIMITED  # the same in C, see waiting.py


@cython.final
@cython.cclass
class State:
    """Numbers are elements unless their name says otherwise.

    Invariants, true whenever a decision has been committed:
        made - disposed == spare + disposing + (out, or in somebody's transfer)
        made - disposed + permits <= limit, unless the limit was lowered below what exists
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
    replaced: cython.Py_ssize_t  # the part of those that were found lost only when the source made another at their address
    strays: (
        cython.Py_ssize_t
    )  # after a fork: out, and not among the outstanding ones, because a thread that does not live here was moving it
    permits: cython.Py_ssize_t  # permissions to ask the source that are in somebody's transfer
    filling: cython.Py_ssize_t  # the part of `permits` that belongs to resizes and refills
    fills: cython.Py_ssize_t  # resizes and refills that go on until nothing is lacking, or the source fails
    starved: cython.bint  # a fill ended early, because others' permits or disposals took the room under the limit
    lingering: cython.Py_ssize_t  # the part of what is out that its users have freed, and views still keep
    waiting: cython.Py_ssize_t  # tickets in the line
    joined: cython.Py_ssize_t  # how many have ever lined up
    asked: cython.Py_ssize_t  # the part of `permits` that the head of the line asks the source for, right now
    # What was done, for the statistics.
    from_spare: cython.Py_ssize_t
    from_source: cython.Py_ssize_t
    from_reserve: cython.Py_ssize_t
    from_line: cython.Py_ssize_t
    resizes: cython.Py_ssize_t
    source_failures: cython.Py_ssize_t
    waits: Any  # by outcome: see BaseDecisions.count_wait
    wait_histogram: Any  # by duration: see WAIT_BUCKETS
    wait_seconds_total: cython.double
    wait_seconds_max: cython.double
    # The gates of the fast path: alloc may take a spare at once while spare > floor, free may keep one while spare < room.
    # And `full`, which lets alloc go on into the reserve: the limit is reached, so there is nobody to be asked before.
    fast_alloc_above: cython.Py_ssize_t
    fast_free_below: cython.Py_ssize_t
    full: cython.bint
    rests_until: cython.longlong  # compiled: in nanoseconds by a clock of its own; 0: the source does not rest
    # The free list, the line, and who must be woken.
    capacity: cython.Py_ssize_t
    slots: list[Any]
    head: Ticket | None
    tail: Ticket | None
    first_to_wake: Ticket | None
    drainers: tuple[Ticket, ...]  # who waits for the last element to be returned
    # Where all of this can be read from outside: see mirror.py. What is mirrored into a page's slot keeps it.
    mirror: Any
    slot: Any
    # Uncompiled: see deciding.py.
    undo: list[Any] | None  # what takes back the decision that is being made; None: none is
    ends: tuple[Any, ...]  # what others may see of it only when it is made

    def __init__(self) -> None:
        self.reserve = self.keep = 0
        self.limit = self.waiting_max = UNLIMITED
        self.keep_given = -1
        self.closed = self.dismissed = False
        self.spare = self.made = self.disposed = self.disposing = self.permits = self.filling = 0
        self.fills = self.written_off = self.replaced = self.strays = 0
        self.starved = False
        self.lingering = self.waiting = self.joined = self.asked = 0
        self.from_spare = self.from_source = self.from_reserve = self.from_line = 0
        self.source_failures = 0
        self.resizes = -1  # the first retarget is the constructor's
        if not cython.compiled:  # compiled, arrays that begin as zeros, like all of a new object
            self.waits = [0] * 8
            self.wait_histogram = [0] * 23
            self.mirror = None
        self.wait_seconds_total = self.wait_seconds_max = 0.0
        self.fast_alloc_above = CLOSED_GATE
        self.fast_free_below = 0
        self.full = False
        self.rests_until = 0
        self.capacity = 0
        self.slots = []
        self.head = self.tail = self.first_to_wake = None
        self.drainers = ()
        self.slot = None
        self.undo = None
        self.ends = ()

    def out(self) -> cython.Py_ssize_t:
        """In users' hands, or on the way there or back."""
        return self.made - self.disposed - self.disposing - self.spare

    def excess(self) -> cython.Py_ssize_t:
        """How many more exist than the limit allows, since it was lowered."""
        return self.made - self.disposed - self.disposing - self.limit

    def set_gates(self, fast_alloc: cython.bint, fast_free: cython.bint) -> cython.void:
        """Set the gates of the fast path, after everything else: a line closes both, a drainer that of free."""
        is_open: cython.bint = not self.closed and self.head is None
        self.fast_alloc_above = self.reserve if is_open and fast_alloc else CLOSED_GATE
        self.fast_free_below = self.keep if is_open and fast_free and not self.drainers and self.excess() <= 0 else 0
        self.full = self.made - self.disposed + self.permits >= self.limit
        if cython.compiled:  # uncompiled, what surrounds the decision does it
            mirror_state(self)  # type: ignore[name-defined]

    # -- the free list: spares, last in, first out, so that warm memory is used again

    def push_spare(self, element: Any) -> cython.void:
        if not cython.compiled:
            note_slot(self, self.spare)
        self.slots[self.spare] = element
        self.spare += 1

    def pop_spare(self, transfer: Transfer) -> cython.void:
        """Move the top spare into this transfer."""
        if not cython.compiled:
            note_slot(self, self.spare - 1)
        self.spare -= 1
        transfer.add(self.slots[self.spare])
        self.slots[self.spare] = None

    def pop_lost(self, transfer: Transfer) -> cython.void:
        """Move the buffers whose memory stayed with the parent of a fork from the free list into this transfer."""
        buffer: Buffer
        i: cython.Py_ssize_t
        kept: cython.Py_ssize_t = 0
        if not cython.compiled:
            self.slots = list(self.slots)  # rather than a note of each place
        for i in range(self.spare):
            element: object = self.slots[i]
            self.slots[i] = None
            if type(element) is Buffer:
                buffer = element
                if buffer.block.is_lost:
                    transfer.add(element)
                    continue
            self.slots[kept] = element
            kept += 1
        self.spare = kept

    def has_spare(self, element: Any) -> cython.bint:
        """A search through all spares: for error messages."""
        return self.has_near_top(element, self.spare)

    def has_near_top(self, element: Any, most: cython.Py_ssize_t) -> cython.bint:
        """Whether this element is among so many spares, the last to be returned."""
        i: cython.Py_ssize_t
        for i in range(max(0, self.spare - most), self.spare):
            if self.slots[i] is element:
                return True
        return False

    def install(self, slots: list[Any]) -> cython.void:
        """Use this list of places from now on, if it is the longer one."""
        if len(slots) <= self.capacity:
            return
        i: cython.Py_ssize_t
        for i in range(self.spare):
            slots[i] = self.slots[i]
        self.slots = slots
        self.capacity = len(slots)

    # -- the line: tickets, first come, first served

    # The head of the line may be inside the source, and cannot take what is returned until it is out again. It is passed
    # over, so that those behind it do not sleep beside what they could have. What it has not asked the source for is
    # held back for it: what a big request had gathered. Where nobody else can use it, it is laid by for the head, too.

    def next_to_serve(self) -> Ticket | None:
        """The first in line who is not inside the source."""
        if self.asked == 0:
            return self.head
        return self.head.behind  # type: ignore[union-attr]  # somebody, who asks

    def held_back(self) -> cython.Py_ssize_t:
        """How many spares are not for those behind the head."""
        if self.asked == 0:
            return 0
        head: Ticket = self.head  # type: ignore[assignment]  # somebody, who asks
        return head.wanted - self.asked

    def kept_for_line(self) -> cython.Py_ssize_t:
        """How many spares a head wants that is inside the source, with nobody behind it."""
        if self.asked == 0:
            return 0
        head: Ticket = self.head  # type: ignore[assignment]  # as above
        return head.wanted

    def has_use_for_another(self) -> cython.bint:
        """Whether somebody in the line could use one more spare, were there no more than there are."""
        return self.next_to_serve() is not None or self.spare < self.kept_for_line()

    def enqueue(self, ticket: Ticket) -> cython.void:
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

    def dequeue(self, ticket: Ticket) -> cython.void:
        """Take a ticket that stands in the line out of it."""
        if self.head is ticket:
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

    # -- the wake queue: who must be woken when a decision has been committed

    def wake_later(self, ticket: Ticket) -> cython.void:
        if not ticket.in_wake_queue:
            note(self, ticket)
            ticket.in_wake_queue = True
            ticket.next_to_wake = self.first_to_wake
            self.first_to_wake = ticket

    def retry_head_now(self) -> cython.void:
        """Have the head of the line ask the source at once, and wake it."""
        head: Ticket | None = self.head
        if head is None or self.made - self.disposed + self.permits >= self.limit:
            return
        head.retry_now = True
        self.wake_later(head)
