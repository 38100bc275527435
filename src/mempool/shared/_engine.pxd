# cython: language_level=3
"""What the quick way (_quick.pyx) knows of the engine: a client that takes and gives in one decision each, and what it has out."""

from libc.stdint cimport int64_t, uint64_t


cdef class Region

cdef class QuickClient:
    cdef void **blocks  # by slot: its Block, not owned; NULL: not leased here yet
    cdef object keeps  # the engine, which must live while anything is out, and lives while there is a quick way; or None
    cdef bint has_quick_way
    cdef readonly int64_t out  # how many slots users of this process have
    cdef public bint may_take, may_give  # the quick way is open
    cdef uint64_t got_lease  # of what `take_quickly` got
    cdef void *take_quickly(self, bint may_populate) except? NULL
    cdef bint give_quickly(self, uint64_t slot, uint64_t lease) except -1
    cdef bint has_served(self, ticket)
    cdef int64_t slot_of(self, ticket, Py_ssize_t number) except -2
    cdef int lend_of(self, ticket, Py_ssize_t number, Region region, keeps) except -1
    cdef int let_go_of(self, ticket) except -1
    cdef void count_wait(self, int outcome, int bucket, double seconds) noexcept


cdef class Region:
    cdef readonly QuickClient tx
    cdef readonly uint64_t slot
    cdef readonly uint64_t lease  # under which number a user of this process has it; 0: none has
    cdef readonly size_t address
    cdef readonly uint64_t size
    cdef readonly object view


cdef inline void go_out(QuickClient self, Region region, uint64_t lease, object keeps):
    """A user has this slot from now on. keeps: what must live until it is back."""
    if region.lease == 0:
        if self.out == 0:
            self.keeps = keeps
        self.out += 1
    region.lease = lease


cdef inline void come_back(QuickClient self, Region region):
    """A user has this slot no more. May be done again."""
    if region.lease != 0:
        region.lease = 0
        self.out -= 1
        let_go(self)


cdef inline void let_go(QuickClient self):
    """Nothing must live on where nothing is out. With a quick way that is its pool's affair: it would cost each pair dear."""
    if self.out == 0 and not self.has_quick_way:
        self.keeps = None
