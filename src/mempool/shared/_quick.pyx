# cython: language_level=3, freethreading_compatible=False, binding=False, embedsignature=False
"""SharedQuick: `alloc` and `free` of a SharedPool where nobody has to wait, and no memory to be fetched or given back.

The decisions are those of the slow way (decisions.py), and so is what is left if the process is killed in here: what it had
leased is reclaimed. A buffer is alive only after its slot is leased, and dead only after it is not; nothing in between runs
Python code, so no thread and no finalizer sees it otherwise.
"""

from mempool._core.fast_path cimport Quick
from mempool.buffer cimport DEAD, LIVE, Block, Buffer, blank_handle, owned_handle
from mempool.blocking cimport LockParker
from mempool.shared._engine cimport Py_DECREF, Py_INCREF, PyObject, QuickClient, QuickTicket, Region

from libc.stdint cimport int64_t

from mempool.engine import SERVED, WAIT_BUCKETS

import cython

cdef enum:
    BUCKETS = 22


cpdef bint check_out(QuickClient tx, ticket, keeps) except? -1:
    """What this ticket has is in living buffers, which are in its `elements`. False: go the slow way, nothing has happened.

    keeps: what must live while anything is out.
    """
    cdef list buffers
    cdef Buffer buffer
    cdef int64_t slot = tx.slot_of(ticket, 0)
    cdef Py_ssize_t i = 0
    if slot < 0:
        return False  # it has none
    buffers = (<QuickTicket>ticket).elements  # a Ticket, as slot_of has seen
    # First buffers that are not alive: if there is no memory for one, the ticket has all elements still, in its handles.
    while slot >= 0:
        if tx.blocks[slot] == NULL:
            return False
        buffer = blank_handle()
        buffer.block = <Block>tx.blocks[slot]
        buffers.append(buffer)
        i += 1
        slot = tx.slot_of(ticket, i)
    for i in range(len(buffers)):
        buffer = <Buffer>buffers[i]
        tx.lend_of(ticket, i, buffer.block.region, keeps)
        buffer.state = LIVE
    tx.let_go_of(ticket)
    return True


@cython.final
cdef class SharedQuick(Quick):
    cdef QuickClient tx
    cdef object engine, owner
    cdef double buckets[BUCKETS]
    cdef int served

    def __init__(self, engine, QuickClient tx not None, owner not None):
        """engine: kept alive while anything is out. owner: whose the buffers are."""
        self.engine = engine
        self.tx = tx
        self.owner = owner
        self.served = SERVED
        for number in range(BUCKETS):
            self.buckets[number] = WAIT_BUCKETS[number]

    # No name for what is only read, and no function that is given an object: each would cost a pair of reference counts.

    cdef void *take(self, bint at_last) except? NULL:
        # Made first: if there is no memory for it, nothing has been taken.
        cdef PyObject *made = owned_handle()
        cdef void *block = self.tx.take_quickly(not at_last)
        if block == NULL:
            Py_DECREF(made)
            return NULL
        (<Buffer>made).block = <Block>block
        if (<Region>(<Block>block).region).lease == 0:  # as go_out
            if self.tx.keeps == NULL:
                self.tx.keeps = <PyObject *>self.engine
                Py_INCREF(self.tx.keeps)
            self.tx.out += 1
        (<Region>(<Block>block).region).lease = self.tx.got_lease
        (<Buffer>made).state = LIVE
        return <void *>made

    cdef bint put(self, element) except? -1:
        if type(element) is not Buffer:
            return False
        if (<Buffer>element).state != LIVE or (<Buffer>element).exporter != NULL or (<Buffer>element).fills > 0:
            return False
        if (<Buffer>element).block.owner is not self.owner or (<Buffer>element).block.is_lost:
            return False
        if not self.tx.give_quickly(
            (<Region>(<Buffer>element).block.region).slot, (<Region>(<Buffer>element).block.region).lease
        ):
            return False
        (<Buffer>element).state = DEAD
        (<Region>(<Buffer>element).block.region).lease = 0  # as come_back
        self.tx.out -= 1
        if self.tx.out == 0 and self.tx.keeps != NULL:
            Py_DECREF(self.tx.keeps)  # not the last: this object has one
            self.tx.keeps = NULL
        return True

    cdef Py_ssize_t state(self, ticket) except? -1:
        return self.tx.state_of(ticket)

    cdef bint sleep(self, wakes, double seconds) except? -1:
        self.tx.sleep_on(wakes, seconds)
        return True

    cdef bint check_out(self, ticket) except? -1:
        return check_out(self.tx, ticket, self.engine)

    cdef bint leave(self, ticket, place, Py_ssize_t outcome, double seconds) except? -1:
        # As PoolEngine.dequeue.
        cdef int bucket = 0
        if outcome != self.served or not self.tx.has_served(ticket):
            return False
        cdef QuickTicket own = <QuickTicket>ticket
        own.owner = None
        if not isinstance(place, LockParker) or (<LockParker>place).on_gone is not None:
            place.on_gone = None
        if own.door is not None:
            own.door.forget(ticket)
        cdef dict waiting = self.engine._waiting
        if waiting.pop(ticket, self) is not None:
            return True  # it was dequeued before
        while bucket < BUCKETS and seconds > self.buckets[bucket]:
            bucket += 1
        self.tx.count_wait(self.served, bucket, seconds)
        if waiting:
            self.engine._have_head_retry()
        if not self.tx.may_take and self.engine.is_closed_here():
            self.engine._after_return()
        return True
