from mempool._core.books cimport Books, mempool_moment, note, settle
from mempool._core.line cimport Hands, Ticket
from mempool._core.roll cimport Roll

cdef class Ledger:
    cdef Books books
    cdef Roll roll
    cdef bint tracks
    cdef bint quick_alloc
    cdef bint quick_free
    cdef readonly object home
    cdef object lock
    cdef readonly object later
    cdef object process
    cdef void shut(self, Books books) noexcept
    cpdef bint must_line_up(self, Hands hands) except -1
    cpdef bint is_first(self, Ticket ticket) except -1
    cpdef bint is_closed(self) except -1
    cpdef Py_ssize_t capacity(self) except -1
    cpdef count_wait(self, Py_ssize_t outcome, double seconds)
    cpdef spread_news(self)
    cdef void serve_line(self, Books books)
    cdef void tell_drainers(self, Books books)
