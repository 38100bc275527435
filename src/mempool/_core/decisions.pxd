from mempool._core.state cimport State, note, settle
from mempool._core.base_decisions cimport BaseDecisions, hold, release
from mempool._core.transfer cimport Transfer, Ticket
from mempool.buffer cimport Buffer

cdef extern from "Python.h":
    ctypedef struct PyObject
    PyObject *PyList_GET_ITEM(object, Py_ssize_t)
    Py_ssize_t Py_REFCNT(PyObject *)

cdef inline bint is_nobodys(list made, Py_ssize_t index) noexcept:
    """Whether nobody but this list refers to what lies in it at that place."""
    return Py_REFCNT(PyList_GET_ITEM(made, index)) == 1

cdef Py_ssize_t STILL_WAITING

cdef class Decisions(BaseDecisions):
    cpdef bint take_spares(self, Transfer transfer, bint from_reserve) except -1
    cpdef Py_ssize_t join(self, Ticket ticket, list slots) except -1
    cpdef bint withdraw(self, Ticket ticket) except -1
    cpdef cancel(self, Transfer ticket)
    cpdef check_out(self, Transfer transfer)
    cpdef bint check_in_unknown(self, Transfer transfer) except -1
    cdef bint is_here(self, State state, Transfer own, Py_ssize_t index)
    cdef void empty_line(self, State state)
    cdef void count_written_off(self, State state, Py_ssize_t elements)
    cdef void find_again(self, State state, Py_ssize_t elements)
    cdef void count_fill(self, State state, Transfer fill)
    cdef void discount_fill(self, State state, Transfer fill)
