from mempool._core.state cimport State, mempool_moment, note, settle
from mempool._core.transfer cimport Transfer, Ticket
from mempool._core.mirror cimport Mapping
from mempool._core.mutex cimport Link, WITHOUT_GIL, hold_for_fork, hold_mutex, release_after_fork, release_mutex, renew_lock, renew_mutex
from mempool._core.outstanding cimport Outstanding

cdef Link all_links

cdef extern from *:
    """
    static const double mempool_bounds[22] = {
        1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1,
        1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0
    };
    """
    const double BOUNDS "mempool_bounds"[22]


cdef inline long long *mirrored(Mapping mapping, Py_ssize_t at) except? NULL:
    """Where the words of this slot lie. Aligned: a reader sees each of them whole. NULL where there is no mapping."""
    if mapping is None:
        return NULL
    if at < 0 or at % 8 != 0 or at + 440 > mapping.size:
        raise IndexError("no slot of this page")
    return <long long *>(<char *>mapping.base + at)


cdef Py_ssize_t HAS_BEEN_SERVED


cdef class BaseDecisions:
    cdef State state
    cdef Outstanding outstanding
    cdef bint tracks
    cdef bint fast_alloc
    cdef bint fast_free
    cdef readonly object owner
    cdef Link link
    cdef object lock
    cdef readonly object later
    cdef object process
    cdef void commit(self, State state) noexcept
    cpdef bint must_enqueue(self, Transfer transfer) except -1
    cpdef bint is_first(self, Ticket ticket) except -1
    cpdef bint is_closed(self) except -1
    cpdef Py_ssize_t capacity(self) except -1
    cpdef count_wait(self, Py_ssize_t outcome, double seconds)
    cpdef wake_pending(self)
    cdef void serve_line(self, State state)
    cdef void wake_drainers(self, State state)


cdef inline void hold(BaseDecisions self) noexcept:
    """Without the GIL: keep all others out of the state, until `release`."""
    hold_mutex(&self.link.mutex)


cdef inline void release(BaseDecisions self) noexcept:
    release_mutex(&self.link.mutex)


# All mutexes, in a list of their own: a fork holds them.

cdef inline void link_in(BaseDecisions self) noexcept:
    if WITHOUT_GIL:
        hold_mutex(&all_links.mutex)
        self.link.ahead = &all_links
        self.link.behind = all_links.behind
        if all_links.behind != NULL:
            all_links.behind.ahead = &self.link
        all_links.behind = &self.link
        release_mutex(&all_links.mutex)


cdef inline void link_out(BaseDecisions self) noexcept:
    if WITHOUT_GIL:
        hold_mutex(&all_links.mutex)
        self.link.ahead.behind = self.link.behind
        if self.link.behind != NULL:
            self.link.behind.ahead = self.link.ahead
        release_mutex(&all_links.mutex)


cdef inline void hold_links() noexcept:
    cdef Link *link
    hold_for_fork(&all_links.mutex)
    link = all_links.behind
    while link != NULL:
        hold_for_fork(&link.mutex)
        link = link.behind


cdef inline void release_links() noexcept:
    cdef Link *link = all_links.behind
    while link != NULL:
        release_after_fork(&link.mutex)
        link = link.behind
    release_after_fork(&all_links.mutex)


cdef inline void renew_links() noexcept:
    cdef Link *link = all_links.behind
    while link != NULL:
        renew_mutex(&link.mutex)
        link = link.behind
    renew_mutex(&all_links.mutex)
