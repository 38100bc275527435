from mempool._core.books cimport Books
from mempool._core.ledger cimport Ledger
from mempool._core.line cimport Hands, Ticket
from mempool.buffer cimport Buffer

cdef class Reserve(Ledger):
    cdef void empty_line(self, Books books)
