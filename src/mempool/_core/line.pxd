cdef class Ticket

cdef class Hands:
    cdef readonly Py_ssize_t wanted
    cdef readonly list elements
    cdef readonly Py_ssize_t first
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t claims
    cdef readonly bint filling
    cdef readonly bint condemned
    cdef bint proven
    cdef bint refused
    cdef Ticket asks_for
    cdef Py_ssize_t joined
    cdef public bint checked
    cdef public Py_ssize_t lingering
    cdef readonly list arrivals
    cdef readonly object twice
    cdef readonly list entered
    cdef readonly list struck
    cdef void add(self, element)
    cpdef defer(self)

cdef class Ticket(Hands):
    cdef readonly Py_ssize_t state
    cdef readonly bint prodded
    cdef object wake
    cdef readonly object owner
    cdef readonly object thread
    cdef Ticket ahead
    cdef Ticket behind
    cdef Ticket told
    cdef readonly bint in_line
    cdef bint in_news
    cdef readonly bint can_be_lost
    cdef public double ask_after
    cdef public double ask_at
    cdef public double rest_until
    cpdef set_waiter(self, wake, owner, thread, bint can_be_lost=*)
    cpdef bint take_prod(self) except -1
