# cython: language_level=3
"""What the quick way (_quick.pyx) knows of the engine: a client that takes and gives in one decision each, and what it has out."""

from libc.stdint cimport int64_t, uint64_t

cdef extern from "Python.h":
    ctypedef struct PyObject
    void Py_INCREF(PyObject *thing) noexcept
    void Py_DECREF(PyObject *thing) noexcept


cdef class Region

cdef class QuickClient:
    cdef void **blocks  # by slot: its Block, not owned; NULL: not leased here yet
    # The engine, owned, while anything is out; else NULL, or no collector could tell that a cycle through a pool is garbage:
    # the finalizer of its file refers to this client. No object, as the quick way would count references to None as well.
    cdef PyObject *keeps
    cdef readonly int64_t out  # how many slots users of this process have
    cdef public bint may_take, may_give  # the quick way is open
    cdef uint64_t got_lease  # of what `take_quickly` got
    cdef void *take_quickly(self, bint may_populate) noexcept
    cdef bint give_quickly(self, uint64_t slot, uint64_t lease) noexcept
    cdef Py_ssize_t state_of(self, ticket) except? -1
    cdef int sleep_on(self, bell, double seconds) except -1
    cdef bint has_served(self, ticket)
    cdef int64_t slot_of(self, ticket, Py_ssize_t number) except -2
    cdef int lend_of(self, ticket, Py_ssize_t number, Region region, keeps) except -1
    cdef int let_go_of(self, ticket) except -1
    cdef void count_wait(self, int outcome, int bucket, double seconds) noexcept


cdef class QuickTicket:
    cdef public list elements
    cdef public object waker  # who is told when it is served
    cdef public object owner
    cdef public object door  # a Door: where its loop is told,
    cdef public int64_t stood  # and of which place
    cdef public bint refused, retry_now
    cdef public double ask_after, rest_until  # seconds; a time
    cdef public object ask_at  # a time; None: it has not been the first yet


cdef class Region:
    cdef readonly QuickClient tx
    cdef readonly uint64_t slot
    cdef readonly uint64_t lease  # under which number a user of this process has it; 0: none has
    cdef readonly size_t address
    cdef readonly uint64_t size
    cdef readonly object view


cdef inline void go_out(QuickClient self, Region region, uint64_t lease, PyObject *keeps):
    """A user has this slot from now on. keeps: what must live until it is back."""
    if region.lease == 0:
        if self.keeps == NULL:
            Py_INCREF(keeps)
            self.keeps = keeps
        self.out += 1
    region.lease = lease


cdef inline void come_back(QuickClient self, Region region):
    """A user has this slot no more. May be done again."""
    if region.lease != 0:
        region.lease = 0
        self.out -= 1
        if self.out == 0:
            let_go(self)


cdef inline void let_go(QuickClient self):
    """Nothing is out."""
    cdef PyObject *keeps = self.keeps
    if keeps != NULL:
        self.keeps = NULL
        Py_DECREF(keeps)
