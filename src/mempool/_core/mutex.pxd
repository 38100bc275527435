# cython: language_level=3
"""What takes the place of the GIL where there is none: a mutex per pool, and integers that threads share without it.

A critical section would not do: it is let go whenever its thread blocks inside, be it for another object's lock or in a decref
of what another thread has made. A mutex stays held. It is not recursive, and whoever waits for it waits in C: under it nothing
may run Python code, so nothing drops the last reference to what is not our own. In a forked child it is new.

With the GIL all of this is nothing: no instruction, and integers as they are.
"""

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #include <stdatomic.h>
    #define MEMPOOL_WITHOUT_GIL 1
    typedef _Atomic(int) mempool_atomic_int;
    typedef _Atomic(Py_ssize_t) mempool_atomic_ssize;
    #ifdef MEMPOOL_WITHOUT_MUTEX /* a bug, planted to see that it is told: verification/races.py */
    #define mempool_hold(mutex) ((void)(mutex))
    #define mempool_release(mutex) ((void)(mutex))
    #else
    #define mempool_hold(mutex) PyMutex_Lock((PyMutex *)(mutex))
    #define mempool_release(mutex) PyMutex_Unlock((PyMutex *)(mutex))
    #endif
    #define mempool_swap(place, before, after) \\
        atomic_compare_exchange_strong((place), &(int){(before)}, (after))
    #define mempool_add(place, number) (atomic_fetch_add((place), (number)) + (number))
    #define mempool_renew_lock(object) (((PyObject *)(object))->ob_mutex = (PyMutex){0})
    #define mempool_swap_size(place, before, after) \\
        atomic_compare_exchange_strong((place), &(Py_ssize_t){(before)}, (after))
    _Static_assert(sizeof(PyMutex) == 1, "a mutex is kept in an unsigned char");
    #else
    #define MEMPOOL_WITHOUT_GIL 0
    typedef int mempool_atomic_int;
    typedef Py_ssize_t mempool_atomic_ssize;
    #define mempool_hold(mutex) ((void)0)
    #define mempool_release(mutex) ((void)0)
    #define mempool_swap(place, before, after) (*(place) == (before) ? (*(place) = (after), 1) : 0)
    #define mempool_swap_size(place, before, after) mempool_swap(place, before, after)
    #define mempool_add(place, number) (*(place) += (number))
    #define mempool_renew_lock(object) ((void)(object))
    #endif
    """
    const bint WITHOUT_GIL "MEMPOOL_WITHOUT_GIL"
    ctypedef int atomic_int "mempool_atomic_int"
    ctypedef Py_ssize_t atomic_ssize "mempool_atomic_ssize"
    void hold_mutex "mempool_hold"(unsigned char *mutex) noexcept
    void release_mutex "mempool_release"(unsigned char *mutex) noexcept
    bint swap "mempool_swap"(atomic_int *place, int before, int after) noexcept
    bint swap_size "mempool_swap_size"(atomic_ssize *place, Py_ssize_t before, Py_ssize_t after) noexcept
    Py_ssize_t add "mempool_add"(atomic_ssize *place, Py_ssize_t number) noexcept
    void renew_lock "mempool_renew_lock"(object thing) noexcept

cdef struct Link:
    # The mutex of one pool, in a list of all: for a fork.
    unsigned char mutex
    Link *behind
    Link *ahead
