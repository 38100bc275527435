from mempool._core.line cimport Hands
from mempool._core.reserve cimport Reserve

cdef class Lease:
    cdef Reserve core
    cdef object pool
    cdef object timeout
    cdef object thing
    cdef Hands hands
    cdef int state
    cdef void _use(self) except *
    cdef Hands _returning_hands(self)

cpdef Lease new_lease(object pool, Reserve core, object timeout)
