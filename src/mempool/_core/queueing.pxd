from mempool._core.transfer cimport Transfer, Ticket
from mempool._core.decisions cimport Decisions

cdef class Queueing:
    cdef object __weakref__
    cdef readonly Decisions core
    cdef public object tracker
