from mempool._core.transfer cimport Transfer, Ticket
from mempool.buffer cimport Buffer

cdef extern from *:
    """
    #include <limits.h>
    #include <time.h>
    #ifdef CLOCK_MONOTONIC
    static inline long long mempool_time(clockid_t clock) {
        struct timespec now;
        if (clock_gettime(clock, &now) != 0)
            return LLONG_MAX;
        return (long long)now.tv_sec * 1000000000LL + now.tv_nsec;
    }
    /* So many seconds from now, in nanoseconds. */
    static inline long long mempool_moment(double seconds) {
        return mempool_time(CLOCK_MONOTONIC) + (long long)(seconds * 1e9);
    }
    /* Whether this moment is still to come. */
    static inline int mempool_is_before(long long moment) {
    #ifdef CLOCK_MONOTONIC_COARSE
        /* A fifth of the cost, and late by a tick of the kernel: 10 ms at most, or 4, or 1. */
        if (mempool_time(CLOCK_MONOTONIC_COARSE) < moment - 10000000LL)
            return 1;
    #endif
        return mempool_time(CLOCK_MONOTONIC) < moment;
    }
    #else /* every rest is over at once: go the slow way, where the pool's own clock is */
    static inline long long mempool_moment(double seconds) { return 0; }
    static inline int mempool_is_before(long long moment) { return 0; }
    #endif
    """
    long long mempool_moment(double seconds) noexcept
    bint mempool_is_before(long long moment) noexcept

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    MIRRORED_SPARE = 6
    MIRRORED_FROM_SPARE = 16
    MIRRORED_FROM_RESERVE = 18

cdef Py_ssize_t CLOSED_GATE

cdef class State:
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
    cdef Py_ssize_t replaced
    cdef Py_ssize_t strays
    cdef Py_ssize_t permits
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
    cdef Py_ssize_t source_failures
    cdef Py_ssize_t waits[8]
    cdef Py_ssize_t wait_histogram[23]
    cdef double wait_seconds_total
    cdef double wait_seconds_max
    cdef Py_ssize_t fast_alloc_above
    cdef Py_ssize_t fast_free_below
    cdef bint full
    cdef long long rests_until
    cdef Py_ssize_t capacity
    cdef list slots
    cdef Ticket head
    cdef Ticket tail
    cdef Ticket first_to_wake
    cdef tuple drainers
    cdef long long *mirror
    cdef object slot
    cdef list undo
    cdef tuple ends
    cdef Py_ssize_t out(self) noexcept
    cdef Py_ssize_t excess(self) noexcept
    cdef void set_gates(self, bint fast_alloc, bint fast_free) noexcept
    cdef void push_spare(self, element)
    cdef void pop_spare(self, Transfer transfer)
    cdef void pop_lost(self, Transfer transfer)
    cdef bint has_spare(self, element)
    cdef bint has_near_top(self, element, Py_ssize_t most)
    cdef void install(self, list slots)
    cdef Ticket next_to_serve(self)
    cdef Py_ssize_t held_back(self) noexcept
    cdef bint has_use_for_another(self) noexcept
    cdef Py_ssize_t kept_for_line(self) noexcept
    cdef void enqueue(self, Ticket ticket)
    cdef void dequeue(self, Ticket ticket)
    cdef void wake_later(self, Ticket ticket)
    cdef void retry_head_now(self)


# Compiled, nothing is raised in the middle of a decision, and nobody looks meanwhile.

cdef inline void note(State state, Transfer transfer) noexcept:
    pass


cdef inline void settle(State state, Ticket ticket, Py_ssize_t outcome) noexcept:
    ticket.state = outcome


cdef extern from *:
    """
    #if defined(__GNUC__)
    #define MEMPOOL_FENCE() __atomic_thread_fence(__ATOMIC_RELEASE)
    #else
    #define MEMPOOL_FENCE()
    #endif
    """
    void MEMPOOL_FENCE() noexcept


cdef inline void mirror_state(State state) noexcept:
    """All figures into the slot of a page, if there is one, between an odd and an even sequence number.

    The words are in the order of FIGURES in watch/layout.py; `figures_of` in mirror.py is the same.
    """
    cdef long long *words = state.mirror
    cdef Py_ssize_t i
    if words == NULL:
        return
    words[0] |= 1
    MEMPOOL_FENCE()
    words[2] = state.reserve
    words[3] = state.keep
    words[4] = -1 if state.limit == PY_SSIZE_T_MAX else state.limit
    words[5] = state.closed
    words[MIRRORED_SPARE] = state.spare
    words[7] = state.made
    words[8] = state.disposed
    words[9] = state.disposing
    words[10] = state.written_off
    words[11] = state.permits
    words[12] = state.fills
    words[13] = state.starved
    words[14] = state.lingering
    words[15] = state.waiting
    words[MIRRORED_FROM_SPARE] = state.from_spare
    words[17] = state.from_source
    words[MIRRORED_FROM_RESERVE] = state.from_reserve
    words[19] = state.from_line
    words[20] = state.resizes
    words[21] = state.source_failures
    for i in range(5):
        words[22 + i] = state.waits[i]
    for i in range(23):
        words[27 + i] = state.wait_histogram[i]
    (<double *>words)[50] = state.wait_seconds_total
    (<double *>words)[51] = state.wait_seconds_max
    MEMPOOL_FENCE()
    words[0] += 1


cdef inline void mirror_spare(long long *mirror, Py_ssize_t spare, Py_ssize_t from_spare) noexcept:
    """The figures that the fast path changes. Handed over one by one: a state would be counted, there and back."""
    if mirror != NULL:
        mirror[MIRRORED_SPARE] = spare
        mirror[MIRRORED_FROM_SPARE] = from_spare
