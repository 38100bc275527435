from mempool._core.transfer cimport Transfer, Ticket, new_ticket
from mempool._core.decisions cimport Decisions

cdef Py_ssize_t NOT_COUNTED
cdef Py_ssize_t STANDS_IN_LINE
cdef Py_ssize_t NEEDS_NO_PLACE
cdef list NO_PLACES
cdef double INFINITE

cdef class Queueing:
    cdef object __weakref__
    cdef readonly Decisions core
    cdef public object tracker
    cdef public object _clock
    cdef readonly bint knows_holders
    cpdef Ticket ticket(self, Py_ssize_t wanted)
    cpdef bint try_take(self, Transfer ticket, bint ask_source, bint may_wait=*) except -1
    cpdef check_out(self, Transfer ticket)
    cpdef enqueue(self, Ticket ticket, waker)
    cpdef join(self, Ticket ticket)
    cpdef double poll(self, Ticket ticket, double now, begin=*) except? -1
    cpdef dequeue(self, Ticket ticket, waker, outcome, double seconds)
    cpdef leave(self, Ticket ticket, Py_ssize_t outcome, double seconds)
    cpdef track_by(self, tracker)
