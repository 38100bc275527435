from libc.stdlib cimport calloc, free
from mempool._core.line cimport Hands

cdef class Roll:
    cdef void** places
    cdef size_t mask
    cdef readonly Py_ssize_t capacity
    cdef dict marks
    cpdef void make_room(self, Py_ssize_t elements) except *
    cdef size_t home_of(self, void* address) noexcept
    cdef void enter(self, void* address) noexcept
    cdef bint strike(self, void* address) noexcept
    cpdef sign_out(self, Hands hands)
    cpdef void sign_out_again(self, element) noexcept
    cpdef bint sign_in(self, Hands hands) except -1
    cpdef undo_sign_in(self, Hands hands)
    cpdef discard(self, Hands hands)
    cpdef void forget(self, element) noexcept
    cpdef bint strike_address(self, Hands hands, size_t address) except -1
    cpdef Py_ssize_t count(self) except -1
    cpdef clear(self)
    cpdef bint lists(self, element) except -1
