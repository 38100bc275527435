from mempool._core.books cimport Books
from mempool._core.line cimport Hands, Ticket
from mempool._core.roll cimport Roll

cdef class Reserve:
    cdef Books books
    cdef Roll roll
    cdef bint quick
    cdef Books open(self)
    cdef bint shut(self, Books books) except? -1
    cdef object take_warm(self)
    cdef bint put_warm(self, element) except? -1
    cdef void serve_line(self, Books books)
    cdef void tell_drainers(self, Books books)
    cdef list tickets(self, Books books)
