from mempool._core.books cimport Books
from mempool._core.line cimport Hands, Ticket
from mempool._core.roll cimport Roll

cdef class Ledger:
    cdef Books books
    cdef Roll roll
    cdef bint tracks
    cdef bint quick_alloc
    cdef bint quick_free
    cdef readonly object home
    cdef Books open(self)
    cdef bint shut(self, Books books) except? -1
    cdef void serve_line(self, Books books)
    cdef void tell_drainers(self, Books books)
