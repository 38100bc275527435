from mempool._core.state cimport State, mempool_moment, note, settle
from mempool._core.transfer cimport Transfer, Ticket
from mempool._core.outstanding cimport Outstanding

cdef class BaseDecisions:
    cdef State state
    cdef Outstanding outstanding
    cdef bint tracks
    cdef bint fast_alloc
    cdef bint fast_free
    cdef readonly object owner
    cdef object lock
    cdef readonly object later
    cdef object process
    cdef void commit(self, State state) noexcept
    cpdef bint must_enqueue(self, Transfer transfer) except -1
    cpdef bint is_first(self, Ticket ticket) except -1
    cpdef bint is_closed(self) except -1
    cpdef Py_ssize_t capacity(self) except -1
    cpdef count_wait(self, Py_ssize_t outcome, double seconds)
    cpdef wake_pending(self)
    cdef void serve_line(self, State state)
    cdef void wake_drainers(self, State state)
