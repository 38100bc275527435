from mempool._core.line cimport Hands
from mempool._core.quick cimport Quick, put_warm, take_warm

cdef enum:
    NEW = 0
    HELD = 1
    RELEASED = 2

cdef class Lease:
    cdef Quick pool
    cdef object timeout
    cdef object thing
    cdef Hands hands
    cdef int state
    cdef bint _use(self) except? -1
    cdef bint _release(self) except? -1
    cdef Hands _returning_hands(self)

cpdef Lease new_lease(Quick pool, object timeout)
