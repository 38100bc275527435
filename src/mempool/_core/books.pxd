from mempool._core.line cimport Hands, Ticket
from mempool.buffer cimport Buffer

cdef class Books:
    cdef Py_ssize_t reserve
    cdef Py_ssize_t keep
    cdef Py_ssize_t limit
    cdef Py_ssize_t waiting_max
    cdef Py_ssize_t keep_given
    cdef bint closed
    cdef bint dismissed
    cdef Py_ssize_t spare
    cdef Py_ssize_t made
    cdef Py_ssize_t disposed
    cdef Py_ssize_t disposing
    cdef Py_ssize_t written_off
    cdef Py_ssize_t strays
    cdef Py_ssize_t claimed
    cdef Py_ssize_t filling
    cdef Py_ssize_t fills
    cdef bint starved
    cdef Py_ssize_t lingering
    cdef Py_ssize_t waiting
    cdef Py_ssize_t joined
    cdef Py_ssize_t asked
    cdef Py_ssize_t from_spare
    cdef Py_ssize_t from_source
    cdef Py_ssize_t from_reserve
    cdef Py_ssize_t from_line
    cdef Py_ssize_t resizes
    cdef Py_ssize_t waits[8]
    cdef Py_ssize_t wait_histogram[8]
    cdef double wait_seconds_total
    cdef double wait_seconds_max
    cdef Py_ssize_t floor
    cdef Py_ssize_t room
    cdef bint full
    cdef Py_ssize_t capacity
    cdef list places
    cdef Ticket head
    cdef Ticket tail
    cdef Ticket news
    cdef tuple drainers
    cdef object shelf
    cdef tuple line
    cdef dict lenders
    cdef dict lent
    cdef tuple told
    cdef dict heirs
    cdef Books ancestor
    cdef Py_ssize_t out(self) noexcept
    cdef Py_ssize_t excess(self) noexcept
    cdef void tune(self, bint quick_alloc, bint quick_free) noexcept
    cdef void shelve(self, element)
    cdef void unshelve(self, Hands hands)
    cdef void take_lost(self, Hands hands)
    cdef bint has_on_shelf(self, element)
    cdef bint has_near_top(self, element, Py_ssize_t most)
    cdef void install(self, list places)
    cdef Ticket first_in_line(self)
    cdef Ticket next_to_serve(self)
    cdef Py_ssize_t held_back(self) noexcept
    cdef bint has_use_for_another(self) noexcept
    cdef Py_ssize_t kept_for_line(self) noexcept
    cdef bint stands_in_line(self, Ticket ticket)
    cdef void line_up(self, Ticket ticket)
    cdef void step_out(self, Ticket ticket)
    cdef void tell(self, Ticket ticket)
    cdef void prod_head(self)
    cdef Hands lend(self, Hands hands)
