from mempool._core.line cimport Hands
from mempool._core.quick cimport Quick, put_warm, take_warm

cdef class Lease:
    cdef Quick pool
    cdef object timeout
    cdef object thing
    cdef Hands hands
    cdef int state
    cdef void _use(self) except *
    cdef Hands _returning_hands(self)

cpdef Lease new_lease(Quick pool, object timeout)
