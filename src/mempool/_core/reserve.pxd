from mempool._core.books cimport Books, note, settle
from mempool._core.ledger cimport Ledger
from mempool._core.line cimport Hands, Ticket
from mempool.buffer cimport Buffer

cdef extern from "Python.h":
    ctypedef struct PyObject
    PyObject *PyList_GET_ITEM(object, Py_ssize_t)
    Py_ssize_t Py_REFCNT(PyObject *)

cdef inline bint is_nobodys(list arrivals, Py_ssize_t arrival) noexcept:
    """Whether nobody but this list refers to what lies in it at that place."""
    return Py_REFCNT(PyList_GET_ITEM(arrivals, arrival)) == 1

cdef class Reserve(Ledger):
    cpdef bint take(self, Hands hands, bint from_reserve) except -1
    cpdef Py_ssize_t join(self, Ticket ticket, list places) except -1
    cpdef bint withdraw(self, Ticket ticket) except -1
    cpdef leave(self, Hands ticket)
    cpdef sign_out(self, Hands hands)
    cpdef bint sign_in_unknown(self, Hands hands) except -1
    cdef bint is_here(self, Books books, Hands own, Py_ssize_t arrival)
    cdef void empty_line(self, Books books)
    cdef void write_off(self, Books books, Py_ssize_t elements)
    cdef void find_again(self, Books books, Py_ssize_t elements)
    cdef void count_fill(self, Books books, Hands fill)
    cdef void discount_fill(self, Books books, Hands fill)
