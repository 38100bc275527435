"""Ticket: what one call wants, what it has, and where it stands in the line. Included by _engine.pyx.

An element that is leased and in nobody's Buffer yet is in a ticket. Each step that takes or returns elements writes both the
shared words and the ticket before any Python code can run, so an interrupt finds each element in exactly one of them; and a
ticket that is dropped returns what it has. Where a process is killed, the shared words alone count: what they say is leased
by it is reclaimed.
"""


cdef class QuickTicket:
    """What a ticket has for the face of every pool. In C: a caller who was woken finds its caches cold, and each look-up of a
    name, and each dict that ends with a ticket, is a part of how long it takes until it goes on."""

    def __cinit__(self, *_arguments):
        self.elements = []
        self.stood = -1


@cython.no_gc_clear  # its end needs its transaction
cdef class Ticket(QuickTicket):
    """The base of the tickets of pool_engine.py."""

    cdef readonly Transaction tx
    cdef readonly list handles  # as many as are wanted; one whose lease is 0 is still lacking
    cdef readonly int status  # as in mempool/engine.py, without a look
    cdef public bint is_dismissed  # this process takes no more, so it is closed for this ticket, whatever the line says
    cdef int64_t standing  # the place in the line, or -1
    cdef uint32_t heard  # how much news there was for it at the last look
    cdef uint64_t client, epoch  # whose it is: a child of a fork has other ones
    cdef readonly uint64_t wanted

    def __cinit__(self, Transaction tx not None, wanted):
        self.tx = tx
        self.wanted = wanted
        self.standing = -1
        self.client = tx.me
        self.epoch = tx.epoch
        self.handles = tx.handles(wanted)

    @property
    def place(self):
        """Where it stands in the line; -1: it does not."""
        return self.standing

    @property
    def state(self):
        """See Ticket in mempool/engine.py. Who looks and is served has left the line by that."""
        return self.state_now()

    cdef int state_now(self) except -1:
        return TICKET_CLOSED if self.is_dismissed else self.look_now()

    def is_settled(self):
        """No longer waiting."""
        return self.is_dismissed or self.look_now() != TICKET_WAITING

    def bell(self):
        """Where the caller's thread is to park from now on: who serves this ticket wakes it, with nobody in between.

        None: it stands in the line no more.
        """
        return bell_of(self.tx, self.standing, self.heard) if self.stand_at(MP_SLEEPS) else None

    def has_news(self):
        """Whether there is news since the last look: another process has seen a reason for it to ask for memory."""
        if self.standing < 0:
            return False
        cdef uint32_t heard = self.heard
        self.heard = MP_LOAD(&self.tx.store.bells[self.standing].rings) // MP_NEWS
        return self.heard != heard

    def stand_at(self, uint32_t door):
        """Who serves this ticket tells the loop that reads this door. Then it must be looked at: it may be served already.

        False: it stands in the line no more. Between two steps of whoever lines up, another thread of this process may have
        looked at it, and who is served leaves the line by that.
        """
        if self.standing < 0:
            return False
        MP_STORE(&self.tx.store.bells[self.standing].door, door)
        return True

    def lacking(self):
        """How many it has not got yet."""
        cdef Handle handle
        cdef uint64_t lacking = 0
        for handle in self.handles:
            lacking += handle.lease == 0
        return lacking

    cdef int take_one(self, Handle handle, int how) except -1:
        """Whether it got one. how: 0: a spare; 1: a spare or new memory; 2: new memory only, though others wait."""
        cdef Transaction tx = self.tx
        cdef uint64_t outcome
        if how == 0:
            outcome = run_take_spare(tx)
        elif how == 1:
            outcome = run_take(tx)
        else:
            outcome = run_fetch(tx)
        if outcome == GOT:
            handle.slot = tx.slot
            handle.lease = tx.version
            tx.count_one(<int>tx.count if tx.count <= FROM_SOURCE else FROM_SPARES, 1)
            return True
        if outcome == NOTHING:
            return False
        raise tx.refused(outcome)

    def take(self, int how):
        """What it lacks, as far as it can be had without waiting. Whether it has all. See take_one. Raises PoolClosed."""
        cdef Handle handle
        cdef uint64_t failures = self.tx.failures
        self.renew()
        for handle in self.handles:
            if how == 1 and self.tx.failures != failures:
                how = 0  # there is no memory: once is enough to know it
            if handle.lease == 0 and not self.take_one(handle, how):
                return False
        self.status = TICKET_SERVED
        return True

    cdef int renew(self) except -1:
        """A ticket that was made before a fork and is used after it is the child's."""
        self.tx.ready()
        cdef Handle handle
        if self.client != self.tx.me or self.epoch != self.tx.epoch:
            for handle in self.handles:
                handle.lease = 0
            self.standing = -1
            self.client = self.tx.me
            self.epoch = self.tx.epoch
        return 0

    def join(self):
        """Stand in line for what it lacks. GOT, FULL, CLOSED or TOO_MANY."""
        self.renew()
        cdef uint64_t lacking = self.lacking()
        if lacking == 0:
            self.status = TICKET_SERVED
            return GOT
        cdef uint64_t outcome = run_join(self.tx, lacking)
        if outcome == GONE:
            raise self.tx.gone()
        if outcome == GOT:
            self.standing = self.tx.place
            self.heard = MP_LOAD(&self.tx.store.bells[self.standing].rings) // MP_NEWS
            MP_STORE(&self.tx.store.bells[self.standing].door, MP_LISTENS)  # until it says otherwise
            run_pump(self.tx)
        return outcome

    def is_first(self):
        """Whether it is the first in line."""
        cdef uint64_t head
        if self.standing < 0:
            return False
        while True:
            self.tx.begin()
            head = head_of(self.tx.read(LINE))
            if self.tx.finish():
                return head == <uint64_t>self.standing

    def look(self):
        """Its state now. Who was served, or waits in vain, has left the line by that, with all that it was granted."""
        return self.look_now()

    cdef int look_now(self) except -1:
        cdef uint64_t outcome
        if self.standing < 0:
            return self.status
        if self.client != self.tx.me or self.epoch != self.tx.epoch:
            self.standing = -1
            self.status = TICKET_WITHDRAWN
            return self.status
        outcome = run_look_at_place(self.tx, self.standing)
        if outcome == NOTHING:
            return TICKET_WAITING
        if outcome == GONE:
            self.standing = -1
            self.status = TICKET_WITHDRAWN
            raise self.tx.gone()
        if outcome == NOT_YOURS:
            self.standing = -1
            self.status = TICKET_WITHDRAWN
        elif outcome == GOT:
            self.vacate(TICKET_SERVED)
        else:
            self.vacate(TICKET_CLOSED if outcome == CLOSED else TICKET_IMPOSSIBLE)
        return self.status

    def leave(self):
        """Wait no longer. What it was granted until now, it has."""
        if self.look_now() == TICKET_WAITING and self.standing >= 0:
            self.vacate(TICKET_WITHDRAWN)
        elif self.status == TICKET_WAITING:
            self.status = TICKET_WITHDRAWN

    cdef int vacate(self, int status) except -1:
        """Leave the line with all that was granted. Nothing in here lets another thread run."""
        cdef uint64_t outcome = run_leave(self.tx, self.standing)
        cdef uint64_t slot = self.tx.slot, count = self.tx.count
        cdef Handle handle
        self.standing = -1
        self.status = status
        if outcome == GONE:
            raise self.tx.gone()
        if outcome == NOT_YOURS:
            return 0
        for handle in self.handles:
            if count == 0:
                return 0
            if handle.lease == 0:
                if run_look_at_slot(self.tx, slot) != GOT:
                    raise self.tx.corrupt()
                handle.slot = slot
                handle.lease = self.tx.value
                self.tx.count_one(FROM_LINE, 1)
                slot = self.tx.slot
                count -= 1
        if count > 0:
            raise self.tx.corrupt()
        return 0

    def take_over(self, Region region not None):
        """What a buffer had that is dead now is this ticket's, in its last handle, which is blank. Needs no memory."""
        cdef Handle handle = self.handles[-1]
        handle.slot = region.slot
        handle.lease = region.lease

    def offer(self, Handle handle not None, uint64_t receiver, uint64_t epoch):
        """Offer what this handle has, to a client in this epoch or to ANYBODY. The number of the offer.

        0: it is not this client's any more. None: there is no such receiver; then the handle has it still.
        """
        if receiver >= self.tx.clients and receiver != ANYBODY:
            raise ValueError(f"there are {self.tx.clients} clients, from 0 on; this is {receiver}")
        cdef uint64_t outcome = run_offer(self.tx, handle.slot, handle.lease, receiver, epoch)
        if outcome == GONE:
            raise self.tx.gone()
        if outcome == NOTHING:
            return None
        handle.lease = 0
        return self.tx.version if outcome == GOT else 0

    def end_offer(self, uint64_t slot, uint64_t number, bint recalls):
        """Adopt what was offered under this number, or recall it: it is this ticket's. False: it is not to be had any more."""
        self.renew()
        if slot >= self.tx.slots:
            return False
        cdef Handle handle = self.handles[0]
        cdef uint64_t outcome = run_end_offer(self.tx, slot, number, recalls)
        if outcome == GONE:
            raise self.tx.gone()
        if outcome == NOT_YOURS:
            return False
        handle.slot = slot
        handle.lease = self.tx.version
        self.status = TICKET_SERVED
        return True

    def let_go(self):
        """What it has is somebody else's from now on, who has the handles."""
        self.handles = []

    def give_back(self):
        """Return all it has, and leave the line. May be done again. How many were laid bare, so that there is room."""
        cdef Handle handle
        cdef uint64_t bared = 0
        if self.standing >= 0:
            self.leave()
        failure = None
        for handle in self.handles:
            try:
                bared += give_quietly(self.tx, handle) == TO_PUNCH
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return bared

    def __dealloc__(self):
        cdef Handle handle
        cdef bint has_any = self.standing >= 0
        if self.handles is not None and self.tx is not None:
            for handle in self.handles:
                has_any = has_any or handle.lease != 0
            if has_any and self.tx.mark[0] != 0 and self.client == self.tx.me and self.epoch == self.tx.epoch:
                try:
                    self.give_back()
                except (ClientGone, PoolCorrupt):
                    pass  # then it has nothing


cdef uint64_t give_quietly(Transaction tx, Handle handle) except 0xFFFF:
    """Return what this handle has, if it has anything that is still this client's. The outcome, NOT_YOURS for nothing."""
    cdef uint64_t lease = handle.lease
    if lease == 0:
        return NOT_YOURS
    handle.lease = 0  # before: a second one who gives it back finds nothing to give
    return run_give(tx, handle.slot, lease)
