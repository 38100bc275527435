# cython: language_level=3, freethreading_compatible=False, binding=False, embedsignature=False
"""The compiled engine: words.py, decisions.py and operations.py over protocol.h, and the memory of the slots.

A transaction runs from `begin` to `finish` without letting go of the GIL and without calling Python code, so the threads
of a process are one client. Without the GIL that would not hold. Importing this module brings it back; where PYTHON_GIL=0
keeps it off, this refuses to be imported.
"""

import sys

import cython

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from time import monotonic

from mempool.errors import DoubleFree, ForeignElement, PoolClosed
from mempool.shared.errors import ClientGone, PoolCorrupt

if not getattr(sys, "_is_gil_enabled", lambda: True)():
    # test_a_shared_pool_is_refused_where_the_gil_is_kept_off
    raise ImportError(
        "mempool.shared: the threads of a process are one client of a SharedPool because of the GIL, and it is kept off: "
        "start Python without PYTHON_GIL=0 and without -X gil=0, and importing this brings the GIL back"
    )

cdef extern from "protocol.h":
    ctypedef struct mp_word:
        uint64_t value, sequence
    ctypedef struct mp_bell:
        uint32_t rings, door
    ctypedef struct mp_client:
        uint64_t pid, started, pid_namespace
        uint32_t bell, listens
        uint64_t nanoseconds[4]
        uint64_t counts[52]
    ctypedef struct mp_store:
        mp_word *root
        mp_word *words
        mp_client *clients
        mp_bell *bells
        uint64_t word_count, client_count, bell_count, me, finished, left_word, lost, polite, retries, helped
    ctypedef struct mp_transaction:
        uint64_t root, gate, count, broken
    const uint64_t MP_NOWHERE
    uint64_t mp_version(uint64_t root) noexcept nogil
    int mp_begin(mp_store *store, mp_transaction *t) noexcept nogil
    int mp_commit(mp_store *store, mp_transaction *t, uint64_t gate) noexcept nogil
    int mp_is_current(mp_store *store, mp_transaction *t) noexcept nogil
    void mp_was_overtaken(mp_store *store) noexcept nogil
    uint64_t mp_read(mp_store *store, mp_transaction *t, uint64_t word) noexcept nogil
    uint64_t mp_sequence(mp_store *store, mp_transaction *t, uint64_t word) noexcept nogil
    void mp_write(mp_store *store, mp_transaction *t, uint64_t word, uint64_t value) noexcept nogil
    uint32_t MP_LOAD(uint32_t *where) noexcept nogil
    void MP_STORE(uint32_t *where, uint32_t value) noexcept nogil

cdef extern from "system.h":
    ctypedef struct mp_descriptor:
        int number
    mp_descriptor mp_know(int number) noexcept nogil
    int mp_populate(const mp_descriptor *file, char *address, uint64_t offset, uint64_t size) noexcept nogil
    void mp_punch(const mp_descriptor *file, char *address, uint64_t offset, uint64_t size) noexcept nogil
    void mp_sleep(uint32_t *bell, uint32_t said, int64_t nanoseconds) noexcept nogil
    void mp_ring(uint32_t *bell) noexcept nogil
    void mp_ring_by(uint32_t *bell, uint32_t by) noexcept nogil
    const uint32_t MP_LISTENS, MP_SLEEPS, MP_FIRST_DOOR, MP_NEWS
    int mp_open_door(const char *file, uint64_t client, uint64_t epoch, uint32_t door) noexcept nogil
    int mp_knock(const char *file, uint64_t client, uint64_t epoch, uint32_t door, uint32_t place) noexcept nogil
    int64_t mp_answer(int fd) noexcept nogil
    const int MP_SETTLED, MP_ATTACHING, MP_BEGUN, MP_LOCKED
    volatile char *mp_make_mark() noexcept
    void mp_drop_mark(volatile char *page) noexcept
    void *mp_map(int file, uint64_t size) noexcept
    int mp_open_again(int file) noexcept
    int mp_close "close"(int file) noexcept
    void mp_unmap(void *memory, uint64_t size) noexcept

cdef enum:  # words.py says the same
    NO_SLOT = 0xFFFFFF
    NO_PLACE = 0xFFFF
    TARGETS = 0
    BARE_LIST = 1
    LINE = 2
    OFFERS = 3
    FIRST_SLOT = 4
    BARE = 0
    POPULATING = 1
    SPARE = 2
    LEASED = 3
    PUNCHING = 4
    OFFERED = 5
    ADDRESSED = 6
    QUARANTINED = 7
    FILLING = 8
    OFFERED_AT = 0
    QUARANTINED_AT = 24
    FILLING_AT = 48
    FILLING_MAX = 0xFFFF
    ANYBODY = 0xFFFF
    EMPTY = 0
    WAITING = 1
    SERVED = 2
    SHUT = 3
    ABSENT = 0
    LIVE = 1
    DEAD = 2
    UNSETTLED = 3

cdef enum:  # decisions.py says the same
    GOT = 1
    NOTHING = 2
    TO_POPULATE = 3
    TO_PUNCH = 4
    KEPT = 5
    GRANTED = 6
    NOT_YOURS = 7
    FULL = 8
    CLOSED = 9
    TOO_MANY = 10
    GONE = 11
    GRANTS_MAX = 6
    FROM_SPARES = 0
    FROM_RESERVE = 1
    FROM_SOURCE = 2
    FOR_LINE = 0
    FOR_RESERVE = 1
    BEYOND_OUT = 2
    ALONE = 3

#: For the test that compares them.
CONSTANTS = {
    "NO_SLOT": NO_SLOT, "NO_PLACE": NO_PLACE, "TARGETS": TARGETS, "BARE_LIST": BARE_LIST, "LINE": LINE,
    "FIRST_SLOT": FIRST_SLOT, "BARE": BARE, "POPULATING": POPULATING, "SPARE": SPARE, "LEASED": LEASED,
    "PUNCHING": PUNCHING, "EMPTY": EMPTY, "WAITING": WAITING, "SERVED": SERVED, "SHUT": SHUT, "ABSENT": ABSENT,
    "LIVE": LIVE, "DEAD": DEAD,
    "UNSETTLED": UNSETTLED, "OFFERS": OFFERS, "OFFERED": OFFERED, "ADDRESSED": ADDRESSED, "QUARANTINED": QUARANTINED, "FILLING": FILLING,
    "OFFERED_AT": OFFERED_AT, "QUARANTINED_AT": QUARANTINED_AT, "FILLING_AT": FILLING_AT, "FILLING_MAX": FILLING_MAX,
    "ANYBODY": ANYBODY, "GOT": GOT, "NOTHING": NOTHING, "TO_POPULATE": TO_POPULATE, "TO_PUNCH": TO_PUNCH,
    "KEPT": KEPT, "GRANTED": GRANTED, "NOT_YOURS": NOT_YOURS, "FULL": FULL, "CLOSED": CLOSED, "TOO_MANY": TOO_MANY,
    "GONE": GONE, "GRANTS_MAX": GRANTS_MAX,
    "FROM_SPARES": FROM_SPARES, "FROM_RESERVE": FROM_RESERVE, "FROM_SOURCE": FROM_SOURCE,
    "FOR_LINE": FOR_LINE, "FOR_RESERVE": FOR_RESERVE, "BEYOND_OUT": BEYOND_OUT, "ALONE": ALONE,
}

cdef enum:  # where in `counts` a process counts what: the first three as FROM_SPARES ...
    FROM_LINE = 3
    MADE = 4
    RESIZES = 5
    OUTCOMES = 6  # how waits ended, by the states of a ticket from TICKET_SERVED on
    HISTOGRAM = 12
    BUCKETS = 23
    COUNTS = 35

cdef enum:  # mempool/engine.py says the same of tickets
    TICKET_WAITING = 0
    TICKET_SERVED = 1
    TICKET_CLOSED = 2
    TICKET_WITHDRAWN = 3
    TICKET_IMPOSSIBLE = 5

cdef double NEVER = float("inf")

cdef enum:
    SERVES_MAX = 8
    OVERTAKEN_MAX = 1 << 22  # as MP_ATTEMPTS


@cython.final
@cython.freelist(64)
@cython.no_gc
cdef class Handle:
    """One lease of one slot. Made before the slot is taken, so that a lack of memory loses nothing."""

    cdef Transaction tx
    cdef readonly uint64_t slot
    cdef readonly uint64_t lease  # the number of the transaction that leased it; 0: of none

    def __init__(self):
        raise TypeError("a handle is made by take")

    @property
    def address(self):
        """Where its memory begins, in this process."""
        return <size_t>self.tx.memory_of(self.slot)

    @property
    def size(self):
        """Bytes."""
        return self.tx.size

    @property
    def view(self):
        """Its memory. Whoever looks at it after the slot was given back sees another's."""
        cdef uint64_t begin = self.tx.data + self.slot * self.tx.stride
        return memoryview(self.tx.mapping)[begin : begin + self.tx.size]

    def __repr__(self):
        return f"<Handle of slot {self.slot}, lease {self.lease}>"


cdef inline Handle blank_handle(Transaction tx):
    cdef Handle handle = Handle.__new__(Handle)
    handle.tx = tx
    return handle


@cython.final
@cython.no_gc  # it is reached from buffers, which the collector does not know either
cdef class Mapping:
    """The first bytes of a file, mapped until nobody looks at them any more. Raises OSError."""

    cdef void *memory
    cdef uint64_t size

    def __cinit__(self, int file, uint64_t size):
        self.memory = mp_map(file, size)
        self.size = size
        if self.memory == NULL:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        if self.memory != NULL:
            mp_unmap(self.memory, self.size)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.memory, <Py_ssize_t>self.size, 0, flags)

    @property
    def address(self):
        return <size_t>self.memory


def open_lock(engine, int file):
    """Another open file of this one: `engine._lock` from then on. Raises OSError.

    With the GIL from the opening to the noting: of a fork by another thread in between, the child would not know what it had
    inherited. The lock would be the child's as well, and this process' death be seen by nobody as long as that one lives.
    See test_a_child_forked_while_another_thread_attaches_keeps_no_lock.
    """
    cdef int number = mp_open_again(file)
    if number < 0:
        PyErr_SetFromErrno(OSError)
    try:
        engine._lock = number
    except BaseException:
        mp_close(number)
        raise


@cython.final
@cython.no_gc  # it is reached from buffers, which the collector does not know either
cdef class Region:
    """The memory of one slot in this process, and under which lease a user of this process has it."""

    def __init__(self, Transaction tx not None, uint64_t slot):
        if slot >= tx.slots:
            raise tx.corrupt()
        cdef uint64_t begin = tx.data + slot * tx.stride
        self.tx = tx
        self.slot = slot
        self.address = <size_t>tx.memory_of(slot)
        self.size = tx.size
        self.view = memoryview(tx.mapping)[begin : begin + tx.size]

    @property
    def handle(self):
        """Its lease, as a ticket has it; of none, while no user of this process has it."""
        cdef Handle handle = blank_handle(<Transaction>self.tx)
        handle.slot = self.slot
        handle.lease = self.lease
        return handle


@cython.final
cdef class Bell:
    """On what a thread that stands in the line parks: whoever serves its place rings it, in whatever process.

    It takes the place of a queue of wakes, see `Wakes` in clock.py: `put` wakes as well.
    """

    cdef Transaction tx
    cdef uint64_t place
    cdef uint32_t heard  # how much news there was at its last return, or when it was made
    cdef bint is_rung  # by `put`, and not heard yet
    cdef public object engine  # a PoolEngine, which is to look around for who waits longer than this; None: it is told no more
    cdef public double long  # seconds

    def __init__(self):
        raise TypeError("a bell is made by Ticket.bell")

    def put(self, wake):
        """End the `get` that is under way, or else the next one."""
        self.is_rung = True
        mp_ring(&self.tx.store.bells[self.place].rings)

    def get(self, *, timeout=None):
        """As `Wakes.get`, but that it returns at the end of the time."""
        self.sleep(NEVER if timeout is None else timeout)

    cdef int sleep(self, double seconds) except -1:
        """Sleep until it rings, the place is served, there is news, or so many seconds are over.

        In slices: between two of them it looks by itself, and the main thread runs handlers of signals. (A signal ends a
        slice, but not where it comes between this thread's last look at it and its sleep.) In a child of a fork, and where
        the place is another's by now, it returns, for the ticket to say so.
        """
        cdef uint32_t *bell = &self.tx.store.bells[self.place].rings
        cdef uint32_t said
        cdef double until = NEVER if seconds == NEVER else <double>monotonic() + seconds
        cdef double left = NEVER, slice
        cdef int64_t nanoseconds
        while True:
            PyErr_CheckSignals()  # before the sleep: whoever is woken goes on the sooner, and Python looks when the call returns
            said = MP_LOAD(bell)  # first: what comes later, rings it again
            if self.is_rung or self.tx.mark[0] == 0 or run_look_at_place(self.tx, self.place) != NOTHING:
                break
            if said // MP_NEWS != self.heard:
                self.heard = said // MP_NEWS
                break
            if until != NEVER:
                left = until - <double>monotonic()
                if left <= 0:
                    break
            slice = self.tx.slice if self.engine is None else min(self.long, self.tx.slice)
            nanoseconds = <int64_t>(min(left, slice) * 1e9)
            with nogil:
                mp_sleep(bell, said, nanoseconds)
            if MP_LOAD(bell) != said:
                break  # the ticket looks by itself
            if self.engine is not None:
                engine, self.engine = self.engine, None
                engine._listen(self.long)
        self.is_rung = False
        return 0


cdef inline Bell bell_of(Transaction tx, uint64_t place, uint32_t heard):
    cdef Bell bell = Bell.__new__(Bell)
    bell.tx = tx
    bell.place = place
    bell.heard = heard
    return bell


def answer(reference):
    """Have the task go on whose place this door was told of, see doors.py: a loop calls it, in its thread. No Python frame.

    It goes on in here. By `set_result` alone it would go on in the next turn of the loop, before which the loop asks the system
    once more for what there is to do.
    """
    from asyncio import Future, current_task  # not above: who has no loop pays no memory for it

    door = reference()
    ticket = None if door is None else door.served.get(mp_answer(door._socket.number))
    if ticket is None:
        return
    waker = ticket.waker
    door = ticket = None  # kept by nobody while the task runs
    future = waker.future
    callbacks = future._callbacks if type(future) is Future and not future.done() else None
    if not callbacks or len(callbacks) != 1 or current_task(future.get_loop()) is not None:
        waker._rouse()
        return
    callback, context = callbacks[0]
    future.remove_done_callback(callback)
    future.set_result(None)
    try:
        context.run(callback, future)
    except (MemoryError, RuntimeError):  # it has not begun: what a task raises is in the task
        future.get_loop().call_soon(callback, future, context=context)


cdef class QuickClient:
    """What this process' users have; and to take and to give in one decision, without a Python object for it."""

    def __dealloc__(self):
        free(self.blocks)

    cdef void *take_quickly(self, bint may_populate) noexcept:
        return NULL

    cdef bint give_quickly(self, uint64_t slot, uint64_t lease) noexcept:
        return False

    cdef Py_ssize_t state_of(self, ticket) except? -1:
        raise NotImplementedError

    cdef int sleep_on(self, bell, double seconds) except -1:
        raise NotImplementedError

    cdef bint has_served(self, ticket):
        raise NotImplementedError

    cdef int64_t slot_of(self, ticket, Py_ssize_t number) except -2:
        raise NotImplementedError

    cdef int lend_of(self, ticket, Py_ssize_t number, Region region, keeps) except -1:
        raise NotImplementedError

    cdef int let_go_of(self, ticket) except -1:
        raise NotImplementedError

    cdef void count_wait(self, int outcome, int bucket, double seconds) noexcept:
        pass

    def take_back(self, Region region not None):
        """Its user has it no more. May be done again."""
        come_back(self, region)

    def lose_all(self):
        """In a child of a fork: nothing is out, and no slot is known."""
        cdef uint64_t slot
        self.out = 0
        let_go(self)
        for slot in range((<Transaction>self).slots):
            self.blocks[slot] = NULL

    def know(self, uint64_t slot, block):
        """This is the Block of this slot, which the caller keeps until `lose_all`."""
        if slot < (<Transaction>self).slots:
            self.blocks[slot] = <void *>block


@cython.final
cdef class Transaction(QuickClient):
    """A client of one shared file, and its transactions. See transaction.py for what each part means."""

    cdef mp_store store
    cdef mp_transaction t
    cdef Py_buffer buffer
    # What this very process has done; all 0 in a child of a fork. The first, MP_SETTLED: it has attached. MP_ATTACHING: one of
    # its threads does: that one may go on, and the others wait in `revive`. MP_BEGUN: what there is is its own to end, and not
    # its parent's. MP_LOCKED: so is `lock`.
    cdef volatile char *mark
    cdef object lock
    cdef object __weakref__
    cdef readonly object mapping
    cdef readonly str name
    cdef char[33] file  # the number that no other file has, in hexadecimal digits: what names of doors begin with
    cdef public object revive  # called without arguments in a child of a fork, before anything else
    cdef public object memory  # None; or whose `make(slot)` and `drop(slot)` are called instead of the kernel
    cdef mp_descriptor descriptor  # of the file
    cdef uint64_t data, stride, size
    cdef readonly uint64_t me, epoch, slots, places, clients
    cdef uint64_t slot, place, count, value, version, gate, broken
    cdef uint64_t known_targets, known_bare_list  # see transaction.py
    cdef bint is_known
    cdef uint64_t known  # the root of this client's last quick transaction, for which they hold; or MP_NOWHERE
    cdef uint64_t served[SERVES_MAX]
    cdef int serves
    cdef public double slice  # seconds, after which a thread that waits looks by itself
    cdef readonly int being_made, disposing  # slots that threads of this process populate and punch now
    cdef readonly int filling  # those among `being_made` that are for all, and are counted in the shared words, too
    cdef readonly uint64_t made_here, failures  # how often this process has got memory, and how often there was none

    def __cinit__(self):
        self.descriptor.number = -1
        self.slice = 1.0

    def __init__(self, mapping, str name, dict layout, bytes nonce):
        """mapping: of the whole file, writable. layout: offsets and counts, which the caller has compared with the file.

        nonce: the number of the file.
        """
        cdef bytes digits = nonce.hex().encode()
        memcpy(self.file, <char *>digits, min(len(digits), 32))
        PyObject_GetBuffer(mapping, &self.buffer, PyBUF_WRITABLE)
        self.mapping = mapping
        self.name = name
        self.slots = layout["slots"]
        self.places = layout["places"]
        self.clients = layout["clients"]
        self.data = layout["data"]
        self.stride = layout["stride"]
        self.size = layout["size"]
        cdef char *base = <char *>self.buffer.buf
        self.store.root = <mp_word *>(base + <uint64_t>layout["root"])
        self.store.words = <mp_word *>(base + <uint64_t>layout["words"])
        self.store.clients = <mp_client *>(base + <uint64_t>layout["client_records"])
        self.store.bells = <mp_bell *>(base + <uint64_t>layout["bells"])
        self.store.word_count = FIRST_SLOT + self.slots + 2 * self.places + self.clients
        self.store.client_count = self.clients
        self.store.bell_count = self.places
        if <uint64_t>self.buffer.len < self.data + self.slots * self.stride:
            raise PoolCorrupt(f"{name}: the file is shorter than it says; remove it")
        self.blocks = <void **>calloc(self.slots, sizeof(void *))
        if self.blocks == NULL:
            raise MemoryError(f"{name}: no memory for a table of {self.slots} slots")
        self.mark = mp_make_mark()
        if self.mark == NULL:
            raise MemoryError(f"{name}: no page for the mark that tells a fork")
        self.forget()
        self.settle()

    def __dealloc__(self):
        if self.mark != NULL:
            mp_drop_mark(self.mark)
        if self.buffer.buf != NULL:
            PyBuffer_Release(&self.buffer)

    def forget(self):
        """Nothing is known of the shared state: at the beginning, and in a child, all of whose threads wait for `settle`."""
        self.mark[MP_ATTACHING] = self.mark[MP_BEGUN] = 1
        self.me = self.clients
        self.store.me = self.clients
        self.store.finished = 1  # of transaction 0, which writes nothing: whatever else the root may be is looked at
        self.store.left_word = self.known = MP_NOWHERE
        self.store.lost = self.store.polite = self.store.retries = self.store.helped = 0
        self.being_made = self.disposing = self.filling = 0  # by threads of the parent

    def settle(self):
        """Each thread of this process may use it."""
        self.mark[MP_SETTLED] = 1
        self.mark[MP_ATTACHING] = 0

    def orphan(self):
        """A child could not attach: it is the child of a fork as before, and tries again at its next use."""
        self.me = self.store.me = self.clients
        self.mark[MP_ATTACHING] = 0

    def needs_reviving(self):
        """Whether this process is a child of a fork none of whose threads has attached, or is about to."""
        return self.mark[MP_SETTLED] == 0 and self.mark[MP_ATTACHING] == 0

    def is_of_this_process(self):
        """Whether there is anything that this process, and not the parent of a fork, has to end."""
        return self.mark[MP_BEGUN] != 0

    def lock_here(self, lock):
        """This lock, unless this process has one. A child has none: another thread of the parent may hold the parent's."""
        if self.mark[MP_LOCKED] == 0:
            self.mark[MP_LOCKED] = 1
            self.lock = lock
        return self.lock

    def know_file(self, int descriptor):
        """Another open file of it: the one before was closed."""
        self.descriptor = mp_know(descriptor)

    # -- the seam

    cdef char *memory_of(self, uint64_t slot) noexcept nogil:
        return <char *>self.buffer.buf + self.data + slot * self.stride

    cdef int begin(self) except -1:
        if self.mark[MP_SETTLED] == 0 and self.mark[MP_ATTACHING] == 0:
            raise ClientGone(f"{self.name}: this process is a fork of the one that had attached; attach anew")
        if mp_begin(&self.store, &self.t) < 0:
            raise self.corrupt()
        self.gate = self.t.gate
        self.broken = self.serves = 0
        self.is_known = False
        return 0

    cdef bint finish(self) except -1:
        """See transaction.py. Nothing is allocated unless something is raised."""
        cdef int state
        self.t.broken |= self.broken
        if self.t.broken or (self.t.count == 0 and self.gate == self.t.gate):
            if mp_is_current(&self.store, &self.t):
                if self.t.broken:
                    raise self.corrupt()
                return True
            mp_was_overtaken(&self.store)
            state = 0
        else:
            state = mp_commit(&self.store, &self.t, self.gate)
        if state == 0:
            if self.store.lost > OVERTAKEN_MAX:
                raise self.corrupt()
            return False
        if state < 0:
            raise self.corrupt()
        self.version = mp_version(self.t.root) + 1
        if self.serves:
            self.wake_served()
        return True

    cdef object corrupt(self):
        return PoolCorrupt(
            f"{self.name}: the shared bytes say what cannot be, so somebody else has written to the file; "
            "end its users, remove it, and make the pool anew"
        )

    cdef inline uint64_t read(self, uint64_t word) noexcept:
        return mp_read(&self.store, &self.t, word)

    cdef uint64_t sequence(self, uint64_t word) noexcept:
        return mp_sequence(&self.store, &self.t, word)

    cdef inline void write(self, uint64_t word, uint64_t value) noexcept:
        mp_write(&self.store, &self.t, word, value)

    cdef void serve(self, uint64_t place) noexcept:
        if place >= self.places or self.serves >= SERVES_MAX:
            self.broken = 1
            return
        self.served[self.serves] = place
        self.serves += 1

    cdef void wake_served(self) noexcept:
        """A hint: whoever sleeps looks by himself now and then, because this process may die right here."""
        cdef int i
        for i in range(self.serves):
            self.wake_at(self.served[i], 1)

    cdef void wake_at(self, uint64_t place, uint32_t by) noexcept:
        """Wake whoever waits at this place. by: MP_NEWS, or 1: it was served."""
        cdef uint32_t door = MP_LOAD(&self.store.bells[place].door)
        cdef uint64_t client, word
        if door < MP_FIRST_DOOR or by == MP_NEWS:
            mp_ring_by(&self.store.bells[place].rings, by)
        if door == MP_SLEEPS:
            return
        client = client_of(self.store.words[FIRST_SLOT + self.slots + 2 * place].value)
        if client >= self.clients:
            return
        if door >= MP_FIRST_DOOR:
            word = FIRST_SLOT + self.slots + 2 * self.places + client
            if mp_knock(self.file, client, epoch_of(self.store.words[word].value), door, <uint32_t>place):
                return
        if self.store.clients[client].listens:
            mp_ring(&self.store.clients[client].bell)

    def tell_head(self):
        """Have the first in line ask for memory, where it waits in another process and the limit allows it. A hint."""
        if run_look_for_head(self) == GOT and self.value != self.me and self.place < self.places:
            self.wake_at(self.place, MP_NEWS)

    cdef bint populate(self, uint64_t slot) except -1:
        cdef bint is_there = False
        cdef uint64_t state = state_of(self.store.words[slot_word(self, slot)].value)  # the caller's, so nobody else's to change
        self.being_made += 1
        self.filling += state == FILLING
        try:
            is_there = self.populate_here(slot) if self.memory is None else self.memory.make(slot)
        except BaseException:
            put_back_unpopulated(self, slot, FILLING if state == FILLING else POPULATING)
            raise
        finally:
            self.being_made -= 1
            self.filling -= state == FILLING
            if is_there:
                self.made_here += 1
                self.count_one(MADE, 1)
            else:
                self.failures += 1
        return is_there

    cdef int punch(self, uint64_t slot) except -1:
        self.disposing += 1
        try:
            if self.memory is None:
                self.punch_here(slot)
            else:
                self.memory.drop(slot)
        except BaseException:
            lay_down(self, slot)
            raise
        finally:
            self.disposing -= 1
        return 0

    cpdef bint populate_here(self, uint64_t slot) except -1:
        """Memory for this slot from the kernel. Whether there was any."""
        cdef bint is_there
        if slot >= self.slots:
            raise self.corrupt()
        with nogil:
            is_there = mp_populate(&self.descriptor, self.memory_of(slot), self.data + slot * self.stride, self.stride)
        return is_there

    cpdef int punch_here(self, uint64_t slot) except -1:
        """The memory of this slot goes back to the kernel."""
        if slot >= self.slots:
            raise self.corrupt()
        with nogil:
            mp_punch(&self.descriptor, self.memory_of(slot), self.data + slot * self.stride, self.stride)
        return 0

    cdef inline int count_one(self, int what, uint64_t by) noexcept:
        if self.me < self.clients:
            self.store.clients[self.me].counts[what] += by
        return 0

    cdef inline int ready(self) except -1:
        if self.mark[0] == 0 and self.revive is not None:
            self.revive()
        return 0

    # -- what a client does

    def revived(self):
        """In a child of a fork: after this, it has attached."""
        self.ready()

    def attach(self, uint64_t client, int fd, uint64_t pid, uint64_t started, uint64_t pid_namespace, bint quarantines):
        """Become this client, whose lock the caller holds in `fd`. What a dead one left to it is returned first.

        quarantines: if it is killed, what it has is set aside.
        """
        if client >= self.clients:
            raise ValueError(f"there are {self.clients} clients, from 0 on; this is {client}")
        self.know_file(fd)
        self.me = self.store.me = client
        self.store.clients[client].pid = 0  # nobody finds it by its process while its word may be its predecessor's
        self.store.clients[client].started = started
        self.store.clients[client].pid_namespace = pid_namespace
        self.store.clients[client].listens = 0
        self.epoch = <uint64_t>1 << 40  # of nobody, until it is known
        cdef uint64_t outcome = run_attach(self, client, quarantines)
        self.epoch = self.value
        self.store.clients[client].pid = pid
        if outcome == FULL:
            run_inherit(self, quarantines)

    def detach(self):
        """What this process has is returned; then it is no client any more.

        Not while a thread gets or gives back memory, which would strike the slot's next owner: then this process is reaped.
        """
        if self.being_made or self.disposing:
            return
        if self.me < self.clients and run_detach(self) == GONE:
            raise self.gone()

    def scrap(self, Handle handle not None):
        """Give its memory back to the system; the slot is bare then. Whether it was this client's still."""
        self.ready()
        cdef uint64_t lease = handle.lease
        handle.lease = 0
        return lease != 0 and run_scrap(self, handle.slot, lease) == TO_PUNCH

    def give_back(self, Handle handle not None):
        """Return it, if it is still this client's: the outcome. NOT_YOURS: somebody was faster, or it was reclaimed."""
        self.ready()
        return give_quietly(self, handle)

    cdef object gone(self):
        return ClientGone(
            f"{self.name}: this process was taken for dead, or has detached; what it had was returned; attach again"
        )

    cdef object refused(self, uint64_t outcome):
        if outcome == CLOSED:
            return PoolClosed(f"{self.name}: the pool is closed")
        return self.gone()

    def take(self):
        """A handle, or None: nothing is to be had without waiting. Raises PoolClosed, PoolCorrupt, ClientGone."""
        self.ready()
        cdef Handle handle = blank_handle(self)
        cdef uint64_t outcome = run_take(self)
        if outcome == GOT:
            handle.slot = self.slot
            handle.lease = self.version
            return handle
        if outcome == NOTHING:
            return None
        raise self.refused(outcome)

    def take_spare(self):
        """The same of what there is; nothing is populated."""
        self.ready()
        cdef Handle handle = blank_handle(self)
        cdef uint64_t outcome = run_take_spare(self)
        if outcome == GOT:
            handle.slot = self.slot
            handle.lease = self.version
            return handle
        if outcome == NOTHING:
            return None
        raise self.refused(outcome)

    def give(self, Handle handle not None):
        """Return what `take` gave. Raises DoubleFree, ForeignElement, PoolCorrupt, ClientGone."""
        self.ready()
        if handle.tx is not self:
            raise ForeignElement(f"{self.name}: {handle!r} was leased elsewhere; give it back there")
        if handle.lease == 0:
            raise DoubleFree(f"{self.name}: {handle!r} was given back before")
        cdef uint64_t outcome = run_give(self, handle.slot, handle.lease)
        if outcome == GONE:
            raise self.gone()
        if outcome == NOT_YOURS:
            raise self.foreign(handle)
        handle.lease = 0
        return outcome

    def wait_for_bell(self, uint32_t said, double seconds):
        """Sleep until something is granted to this client, whichever place it is for; then what the bell says now."""
        if self.me >= self.clients:  # behind the records of clients lie the words
            raise self.gone()
        cdef mp_client *record = &self.store.clients[self.me]
        cdef int64_t nanoseconds = <int64_t>(min(max(seconds, 0.0), 3600.0) * 1e9)
        record.listens = 1
        with nogil:
            mp_sleep(&record.bell, said, nanoseconds)
        return MP_LOAD(&record.bell)

    def open_door(self, uint32_t number):
        """A socket, as a descriptor, that is told of places whose door this is; see `answer`. -1: there is none to be had."""
        if number < MP_FIRST_DOOR:
            raise ValueError(f"doors are numbered from {MP_FIRST_DOOR} on; this is {number}")
        return mp_open_door(self.file, self.me, self.epoch, number)

    def ring(self):
        """Wake whoever is in `wait_for_bell`."""
        if self.me < self.clients:
            mp_ring(&self.store.clients[self.me].bell)

    @property
    def base(self):
        """Where the file begins, in this process."""
        return <size_t>self.buffer.buf

    def check(self, Handle handle not None):
        """Raise what `give` would raise; nothing is given."""
        self.ready()
        if handle.tx is not self:
            raise ForeignElement(f"{self.name}: {handle!r} was leased elsewhere; give it back there")
        if handle.lease == 0:
            raise DoubleFree(f"{self.name}: {handle!r} was given back before")
        cdef uint64_t outcome = run_look_at_slot(self, handle.slot)
        if outcome == GONE:
            raise self.gone()
        if outcome != GOT or self.value != handle.lease:
            raise self.foreign(handle)

    def lend(self, Region region not None, Handle handle not None, keeps):
        """A user has what this handle has leased. keeps: what must live until it is back.

        Raises ClientGone where it is leased no more: this process has left meanwhile, or is a child of the one that had it.
        """
        self.lend_here(region, handle, keeps)

    cdef int lend_here(self, Region region, Handle handle, keeps) except -1:
        if run_look_at_slot(self, handle.slot) != GOT or self.value != handle.lease:
            raise self.gone()
        go_out(self, region, handle.lease, <PyObject *>keeps)
        return 0

    cdef object foreign(self, Handle handle):
        return ForeignElement(
            f"{self.name}: {handle!r} is not leased by this process (any more): it was leased by the parent of a fork, "
            "or was reclaimed"
        )

    def look_at_offer(self, uint64_t slot):
        """If this process has offered that slot, or it is addressed to it: (number, receiver or None, whether it has)."""
        if slot >= self.slots:
            raise ValueError(f"there are {self.slots} slots, from 0 on; this is {slot}")
        self.ready()
        cdef uint64_t outcome = run_look_at_offer(self, slot)
        if outcome == GONE:
            raise self.gone()
        if outcome == NOT_YOURS:
            return None
        return self.value, None if self.place == ANYBODY else self.place, self.count == 1

    def look_at_quarantined(self, uint64_t slot):
        """Under which number that slot, which is in quarantine, can be adopted; None: it is not."""
        if slot >= self.slots:
            raise ValueError(f"there are {self.slots} slots, from 0 on; this is {slot}")
        self.ready()
        return self.value if run_look_at_quarantined(self, slot) == GOT else None

    def handles(self, Py_ssize_t count):
        """So many that own nothing, for `leave`."""
        return [blank_handle(self) for _ in range(count)]

    def join(self, uint64_t wanted):
        """Stand in line for so many. The outcome and the place: (GOT, place), (FULL, 0), (CLOSED, 0), (TOO_MANY, 0)."""
        self.ready()
        if not 0 < wanted < 1 << 20:
            raise ValueError(f"{self.name}: one to {(1 << 20) - 1} can be waited for, not {wanted}")
        cdef uint64_t outcome = run_join(self, wanted)
        cdef uint64_t place = self.place
        if outcome == GONE:
            raise self.gone()
        if outcome != GOT:
            return outcome, 0
        MP_STORE(&self.store.bells[place].door, MP_LISTENS)
        run_pump(self)
        return outcome, place

    def look_at_place(self, uint64_t place):
        """NOTHING: it is not served yet. GOT, CLOSED, TOO_MANY, NOT_YOURS."""
        cdef uint64_t outcome = run_look_at_place(self, place)
        if outcome == GONE:
            raise self.gone()
        return outcome

    def wait(self, uint64_t place, double seconds):
        """Sleep until this place is served, its bell rings or the time is over; then as `look_at_place`."""
        if place >= self.places:
            raise ValueError(f"there are {self.places} places, from 0 on; this is {place}")
        cdef uint32_t *bell = &self.store.bells[place].rings
        cdef uint32_t said = MP_LOAD(bell)
        cdef uint64_t outcome = self.look_at_place(place)  # after the bell was read: what comes later, rings it again
        cdef int64_t nanoseconds = <int64_t>(min(max(seconds, 0.0), 3600.0) * 1e9)
        if outcome != NOTHING or nanoseconds == 0:
            return outcome
        with nogil:
            mp_sleep(bell, said, nanoseconds)
        return self.look_at_place(place)

    def leave(self, uint64_t place, list handles not None):
        """Leave the line with what was granted, which is in the first of these handles then. Returns how many.

        Raises PoolCorrupt, ClientGone. 0 as well where this process has no such place.
        """
        cdef uint64_t outcome = run_leave(self, place)
        cdef uint64_t slot = self.slot, count = self.count, i
        cdef Handle handle
        if outcome == GONE:
            raise self.gone()
        if outcome == NOT_YOURS:
            return 0
        if count > <uint64_t>len(handles):
            raise self.corrupt()
        for i in range(count):
            handle = handles[i]
            if run_look_at_slot(self, slot) != GOT:
                raise self.corrupt()
            handle.slot = slot
            handle.lease = self.value
            slot = self.slot
        return count

    # -- the quick way: where it gives up, the slow way looks again, and says why

    cdef inline bint open(self) noexcept:
        """`begin`, where the mark was just looked at. False: the slow way raises."""
        if mp_begin(&self.store, &self.t) < 0:
            return False
        self.gate = self.t.gate
        self.broken = self.serves = 0
        self.is_known = self.t.root == self.known
        return True

    cdef inline int commit(self) noexcept:
        """`finish`, where something changes, and what is known does not. 1: in force. 0: overtaken. -1: the slow way raises."""
        cdef int state = -1
        if not self.broken and not self.t.broken:
            state = mp_commit(&self.store, &self.t, self.gate)
        elif not mp_is_current(&self.store, &self.t):
            mp_was_overtaken(&self.store)
            state = 0
        if state <= 0:
            return -1 if self.store.lost > OVERTAKEN_MAX else state
        self.known = self.store.finished
        if self.serves:
            self.wake_served()
        return 1

    cdef void *take_quickly(self, bint may_populate) noexcept:
        """The Block of a spare that it got, as `take` decides, of a slot that was leased here before: under `got_lease`.

        NULL: go the slow way. No Python code runs in here, and nothing of Python's is made.
        """
        cdef int state = 0
        if not self.may_take or self.mark[0] == 0:
            return NULL
        while state == 0:
            if not self.open():
                return NULL
            if take(self, may_populate) != GOT or self.slot >= self.slots or self.blocks[self.slot] == NULL:
                return NULL
            state = self.commit()
        if state < 0:
            return NULL
        self.got_lease = mp_version(self.t.root) + 1
        self.count_one(<int>self.count, 1)
        return self.blocks[self.slot]

    cdef bint give_quickly(self, uint64_t slot, uint64_t lease) noexcept:
        """Whether it is a spare again, or the first in line has it, as `give` decides. False: go the slow way."""
        cdef uint64_t outcome
        cdef int state = 0
        if not self.may_give or self.mark[0] == 0:
            return False
        while state == 0:
            if not self.open():
                return False
            outcome = give(self, slot, lease)
            if outcome != KEPT and outcome != GRANTED:
                return False
            state = self.commit()
        return state > 0

    cdef Py_ssize_t state_of(self, ticket) except? -1:
        """See Ticket.state."""
        return (<Ticket?>ticket).state_now()

    cdef int sleep_on(self, bell, double seconds) except -1:
        """See Bell.sleep."""
        if type(bell) is not Bell:
            raise TypeError(f"{self.name}: a waiting thread sleeps on a bell, and not on {bell!r}")
        return (<Bell>bell).sleep(seconds)

    cdef bint has_served(self, ticket):
        """Whether this ticket was served and has left the line by that. False as well: it is no ticket of this client."""
        if not isinstance(ticket, Ticket) or (<Ticket>ticket).tx is not self:
            return False
        return (<Ticket>ticket).standing < 0 and (<Ticket>ticket).status == TICKET_SERVED

    cdef int64_t slot_of(self, ticket, Py_ssize_t number) except -2:
        """Which slot this ticket's handle of this number has. -1: there are no more."""
        cdef list handles = (<Ticket?>ticket).handles
        return -1 if number >= len(handles) else <int64_t>(<Handle>handles[number]).slot

    cdef int lend_of(self, ticket, Py_ssize_t number, Region region, keeps) except -1:
        """`lend` what this ticket's handle of this number has."""
        cdef list handles = (<Ticket?>ticket).handles
        return self.lend_here(region, <Handle?>handles[number], keeps)

    cdef int let_go_of(self, ticket) except -1:
        """What it had is lent: no handle of its has anything any more."""
        for handle in (<Ticket?>ticket).handles:
            (<Handle?>handle).lease = 0
        return 0

    # -- the promise

    def retarget(self, uint64_t reserve, uint64_t keep, uint64_t limit):
        """All three at one moment. Returns those before. Raises PoolClosed."""
        self.ready()
        cdef uint64_t outcome = run_retarget(self, make_targets(reserve, keep, limit))
        if outcome != GOT:
            raise self.refused(outcome)
        return reserve_of(self.value), keep_of(self.value), limit_of(self.value)

    def targets(self):
        """All targets as they stand in their word, for `exchange`; and the reserve, keep and limit, and whether keep follows."""
        self.ready()
        run_look(self)
        cdef uint64_t word = self.value
        return word, reserve_of(word), keep_of(word), limit_of(word), bool(keep_follows(word))

    def exchange(self, uint64_t expected, uint64_t reserve, uint64_t keep, uint64_t limit, bint follows):
        """New targets, at one moment, if they are still those. Whether they were. Raises PoolClosed."""
        self.ready()
        cdef uint64_t targets = make_targets(reserve, keep, limit) | <uint64_t>follows << 63
        cdef uint64_t outcome = run_exchange(self, expected, targets)
        if outcome == NOTHING:
            return False
        if outcome != GOT:
            raise self.refused(outcome)
        return True

    def trim(self, uint64_t spares):
        """Give the memory of so many spares beyond the reserve back to the system, at most. How many."""
        self.ready()
        cdef uint64_t trimmed = 0, outcome
        while trimmed < spares:
            outcome = shrink_by_one(self, True)
            if outcome == GONE:
                raise self.gone()
            if outcome != TO_PUNCH:
                break
            trimmed += 1
        return trimmed

    def grow_by_one(self, uint64_t goal):
        """One more is populated. True: it was. None: no more is lacking or allowed. False: there is no memory."""
        self.ready()
        cdef uint64_t outcome = grow_by_one(self, goal)
        if outcome == GONE:
            raise self.gone()
        return True if outcome == GOT else None if outcome == NOTHING else False

    def ring_all(self):
        """Wake whoever listens, in all processes: there is something to look at."""
        cdef uint64_t client
        for client in range(self.clients):
            if self.store.clients[client].listens:
                mp_ring(&self.store.clients[client].bell)

    def shrink(self):
        """Give the memory of what is surplus back to the system."""
        self.ready()
        if run_shrink(self) == GONE:
            raise self.gone()

    def grow(self):
        """Populate what the line and the reserve lack, as far as the limit and the memory allow. Whether memory sufficed."""
        self.ready()
        cdef uint64_t outcome = run_grow(self)
        if outcome == GONE:
            raise self.gone()
        return outcome != TO_POPULATE

    def pump(self):
        """Spares go to the line, if a process that was to do that has died or sleeps."""
        self.ready()
        if run_pump(self) == GONE:
            raise self.gone()

    def close(self):
        """Nobody takes any more; whoever waits is told."""
        self.ready()
        if run_close(self) == GONE:
            raise self.gone()
        self.shrink()

    # -- what is so

    def look(self):
        """(reserve, keep, limit, made, spares, waiting, closed, version, gathered, offered, quarantined, filling) of one moment."""
        self.ready()
        run_look(self)
        cdef uint64_t gate = self.gate
        return (
            reserve_of(self.value), keep_of(self.value), limit_of(self.value), self.count, spares(gate), waiting(gate),
            is_closed(gate), mp_version(self.t.root), self.place, offered_of(self.slot), quarantined_of(self.slot),
            filling_of(self.slot),
        )

    def copy(self):
        """(gate, version, the values of all words, 8 bytes each), all of one moment; None: there was no quiet one."""
        self.ready()
        cdef uint64_t i
        cdef int turn
        copied = bytearray(8 * self.store.word_count)
        cdef char *values = copied
        cdef uint64_t value
        for turn in range(64):
            self.begin()
            for i in range(self.store.word_count):
                value = mp_read(&self.store, &self.t, i)
                memcpy(values + 8 * i, &value, 8)
            if self.finish():
                return self.gate, mp_version(self.t.root), bytes(copied)
        return None

    def queue(self):
        """Who stands in line, in order: (client, wanted, granted, place) each, of one moment."""
        self.ready()
        cdef uint64_t head, length, word, found, i
        values = bytearray(32 * self.places)  # before: no Python code may run within a transaction of this client
        cdef uint64_t *rows = <uint64_t *><char *>values
        while True:
            self.begin()
            head = head_of(self.read(LINE))
            length = waiting(self.gate)
            found = 0
            while found < length and found < self.places and not self.broken:
                word = place_word(self, head)
                rows[4 * found] = client_of(self.read(word))
                rows[4 * found + 1] = wanted_of(self.read(word))
                rows[4 * found + 2] = granted_of(self.read(word))
                rows[4 * found + 3] = head
                head = behind_of(self.read(word + 1))
                found += 1
            if self.finish():
                return [(rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]) for i in range(found)]

    # -- figures

    def note(self, int what, uint64_t by=1):
        """Count something that this process has done: see the numbers above."""
        if not 0 <= what < COUNTS:
            raise ValueError(f"there are {COUNTS} counts; not number {what}")
        self.count_one(what, by)

    def note_wait(self, int outcome, int bucket, double seconds):
        """A wait has ended so, and was so long."""
        if not (0 <= outcome < 6 and 0 <= bucket < BUCKETS):
            raise ValueError(f"no such wait: {outcome}, {bucket}")
        self.count_wait(outcome, bucket, seconds)

    cdef void count_wait(self, int outcome, int bucket, double seconds) noexcept:
        cdef uint64_t nanoseconds = <uint64_t>(min(max(seconds, 0.0), 1e9) * 1e9)
        cdef mp_client *record
        if self.me < self.clients:
            record = &self.store.clients[self.me]
            record.counts[OUTCOMES + outcome] += 1
            record.counts[HISTOGRAM + bucket] += 1
            record.nanoseconds[0] += nanoseconds
            record.nanoseconds[1] = max(record.nanoseconds[1], nanoseconds)

    def totals(self):
        """(the counts of all clients together, nanoseconds waited, the longest wait in nanoseconds). They are only figures."""
        cdef uint64_t client
        cdef int i
        counts = [0] * COUNTS
        total = longest = 0
        for client in range(self.clients):
            for i in range(COUNTS):
                counts[i] += self.store.clients[client].counts[i]
            total += self.store.clients[client].nanoseconds[0]
            longest = max(longest, self.store.clients[client].nanoseconds[1])
        return counts, total, longest

    # -- other clients

    def look_at_client(self, uint64_t client):
        """(state, epoch, pid, start time, pid namespace) of a client. What it says of its process is no proof of anything."""
        if client >= self.clients:
            raise ValueError(f"there are {self.clients} clients, from 0 on; this is {client}")
        self.ready()
        cdef uint64_t state = run_look_at_client(self, client)
        cdef mp_client *record = &self.store.clients[client]
        return state, self.value, record.pid, record.started, record.pid_namespace

    def slots_of(self, uint64_t client):
        """The slots that this client has leased, has offered, or that are addressed to it: (slot, state) of each.

        Each is looked at for itself: they are of no one moment, but of a client that is dead.
        """
        self.ready()
        cdef uint64_t slot, value = 0
        found = []
        for slot in range(self.slots):
            while True:
                self.begin()
                value = self.read(slot_word(self, slot))
                if self.finish():
                    break
            if client_of(value) == client and state_of(value) in (LEASED, OFFERED, ADDRESSED):
                found.append((slot, state_of(value)))
        return found

    def reap(self, uint64_t client, uint64_t epoch):
        """This client was proven dead: what it had is returned. Whether this call had to do anything."""
        self.ready()
        cdef uint64_t outcome = run_reap(self, client, epoch)
        if outcome == GONE:
            raise self.gone()
        return outcome == GOT

    def counts(self):
        """(retries, helped): how often this client was overtaken, and how often it finished what another had begun."""
        return self.store.retries, self.store.helped

    def measure(self, uint64_t pairs):
        """So many takes and gives in C alone, for benchmarks. Stops where nothing is to be had. How many it did."""
        cdef uint64_t i
        for i in range(pairs):
            if run_take(self) != GOT:
                return i
            run_give(self, self.slot, self.version)
        return pairs


include "ticket.pxi"
include "words.py"
include "decisions.py"
include "membership.py"
include "offers.py"
include "operations.py"
