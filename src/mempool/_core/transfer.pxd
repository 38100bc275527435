from mempool._core.mutex cimport WITHOUT_GIL, atomic_int, atomic_ssize

cdef class Ticket

cdef class Transfer:
    cdef readonly Py_ssize_t wanted
    cdef readonly list elements
    cdef readonly Py_ssize_t first
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t permits
    cdef readonly bint filling
    cdef readonly bint is_surplus
    cdef bint proven
    cdef bint refused
    cdef Ticket asks_for
    cdef Py_ssize_t joined
    cdef public bint checked
    cdef public Py_ssize_t lingering
    cdef readonly list made
    cdef readonly object twice
    cdef readonly list free_called
    cdef readonly list removed
    cdef public list successors
    cdef void add(self, element)
    cpdef defer(self)

cdef class Ticket(Transfer):
    cdef readonly atomic_ssize state
    cdef readonly atomic_int retry_now
    cdef object wake
    cdef readonly object owner
    cdef readonly object thread
    cdef Ticket ahead
    cdef Ticket behind
    cdef Ticket next_to_wake
    cdef readonly bint in_line
    cdef bint in_wake_queue
    cdef readonly bint may_be_gone
    cdef public double ask_after
    cdef public double ask_at
    cdef public double rest_until
    cpdef set_waiter(self, wake, owner, thread, bint may_be_gone=*)
    cpdef bint take_retry(self) except -1
    cpdef forget_owner(self)
    cdef object _drop_owner(self)

cpdef Ticket new_ticket(Py_ssize_t wanted)
