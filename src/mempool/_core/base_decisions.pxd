from mempool._core.state cimport State, mempool_moment, note, settle
from mempool._core.transfer cimport Transfer, Ticket
from mempool._core.mirror cimport Mapping
from mempool._core.outstanding cimport Outstanding

cdef extern from *:
    """
    static const double mempool_steps[3] = {1.0, 2.0, 5.0};
    """
    const double STEPS "mempool_steps"[3]


cdef inline long long *mirrored(Mapping mapping, Py_ssize_t at) except? NULL:
    """Where the words of this slot lie. Aligned: a reader sees each of them whole. NULL where there is no mapping."""
    if mapping is None:
        return NULL
    if at < 0 or at % 8 != 0 or at + 440 > mapping.size:
        raise IndexError("no slot of this page")
    return <long long *>(<char *>mapping.base + at)


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
