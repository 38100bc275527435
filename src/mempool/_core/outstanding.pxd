from libc.stdlib cimport calloc, free
from mempool._core.transfer cimport Transfer

cdef class Outstanding:
    cdef void** table
    cdef size_t mask
    cdef readonly Py_ssize_t capacity
    cdef readonly Py_ssize_t check_outs
    cdef dict addresses
    cpdef void make_room(self, Py_ssize_t elements) except *
    cdef size_t first_slot(self, void* address) noexcept
    cdef void add_pointer(self, void* address) noexcept
    cdef bint remove_pointer(self, void* address) noexcept
    cpdef check_out(self, Transfer transfer)
    cpdef void check_out_again(self, element) noexcept
    cpdef bint check_in(self, Transfer transfer) except -1
    cpdef undo_partial_check_in(self, Transfer transfer)
    cpdef discard(self, Transfer transfer)
    cpdef void forget(self, element) noexcept
    cpdef bint remove_address(self, Transfer transfer, size_t address, Py_ssize_t check_outs) except -1
    cpdef Py_ssize_t count(self) except -1
    cpdef clear(self)
    cpdef bint contains(self, element) except -1
