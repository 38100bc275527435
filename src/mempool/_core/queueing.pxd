from mempool._core.line cimport Hands, Ticket
from mempool._core.reserve cimport Reserve

cdef class Queueing:
    cdef object __weakref__
    cdef readonly Reserve core
    cdef public object tracker
