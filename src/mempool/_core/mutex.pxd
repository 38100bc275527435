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
    typedef struct {
        _Atomic(unsigned char) bits; /* those of a PyMutex: 1 it is held, 2 threads are parked; and MEMPOOL_FORKS */
        _Atomic(int) away; /* for how long who finds it taken looks away, in nanoseconds */
        unsigned int uses, uses_then; /* how often it was taken, and when somebody had found it taken before; its holder's */
        long long then;
        _Atomic(uintptr_t) forker; /* the thread that holds it for a fork */
    } mempool_mutex;
    #ifdef MEMPOOL_WITHOUT_MUTEX /* a bug, planted to see that it is told: verification/races.py */
    #define mempool_hold(mutex) ((void)(mutex))
    #define mempool_release(mutex) ((void)(mutex))
    #define mempool_hold_for_fork(mutex) ((void)(mutex))
    #define mempool_release_after_fork(mutex) ((void)(mutex))
    #else
    /* It is held for a fork. Meanwhile CPython runs the hooks of others in the thread that forks, and in the child it ends what
       the other threads had: signal handlers and finalizers, which free elements, and would wait for their own thread. So
       that one comes in again: it is in the middle of no decision. */
    #define MEMPOOL_FORKS 4
    /* Whether this thread may come in though it is taken. At the end of the interpreter, too: no other thread runs any more,
       but one that was parked may have been handed the mutex just as it was stopped for ever. */
    static inline int mempool_is_mine(mempool_mutex *mutex, unsigned char bits) {
        if (bits & MEMPOOL_FORKS)
            return mutex->forker == _Py_ThreadId();
        if (!(bits & 1) || !Py_IsFinalizing())
            return 0;
        atomic_store(&mutex->bits, 1);
        return 1;
    }
    /* Two processors that want one mutex all the time pass it, and all that it guards, to and fro at each call, which takes
       several times as long as the calls. So who finds it taken looks away, and touches nothing that others have in their
       caches, while who has it does hundreds of calls at full speed: longer and longer, but only where calls are that dense.
       A thread that collides once waits no longer than for the sched_yield of PyMutex_Lock, which comes last, and parks. */
    #include <time.h>
    #if defined(__GNUC__) && defined(CLOCK_MONOTONIC)
    #define MEMPOOL_AWAY_MIN 200 /* nanoseconds, as all of these */
    #define MEMPOOL_AWAY_MAX 51200
    #define MEMPOOL_AWAY_ALL 105000 /* a thread that does this is not parked: who stops the world waits for it */
    #define MEMPOOL_IS_LONG 2000
    /* Between two uses on the average. Dense: as long as two processors need that fetch all from each other. Stays dense: as
       long as one does alone; where its work between two calls takes longer, two at once do more. */
    #define MEMPOOL_DENSE 400
    #define MEMPOOL_STAYS_DENSE 150
    #if defined(__x86_64__) || defined(__i386__)
    #define mempool_pause() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define mempool_pause() __asm__ volatile("yield")
    #else
    #define mempool_pause() ((void)0)
    #endif
    static inline long long mempool_nanoseconds(void) {
        struct timespec now = {0, 0};
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (long long)now.tv_sec * 1000000000LL + now.tv_nsec;
    }
    static inline int mempool_try(mempool_mutex *mutex) {
        unsigned char bits = atomic_load_explicit(&mutex->bits, memory_order_relaxed);
        return !(bits & 1) && atomic_compare_exchange_strong(&mutex->bits, &bits, bits | 1);
    }
    static inline int mempool_doubled(int away) {
        return away < MEMPOOL_AWAY_MIN ? MEMPOOL_AWAY_MIN : away < MEMPOOL_AWAY_MAX ? 2 * away : away;
    }
    /* Counted as well, should the clock stand still. */
    static inline long long mempool_look_away(long long now, int away) {
        long long until = now + away;
        for (int i = 0; now < until && i < MEMPOOL_AWAY_MAX; i++) {
            mempool_pause();
            now = mempool_nanoseconds();
        }
        return now;
    }
    static __attribute__((noinline, cold, unused)) void mempool_hold_taken(mempool_mutex *mutex, unsigned char bits) {
        long long began = mempool_nanoseconds(), now = began;
        int away = atomic_load_explicit(&mutex->away, memory_order_relaxed), before = away, visits, looks, is_held;
        if (mempool_is_mine(mutex, bits))
            return;
        /* Free, and it was taken a moment ago: whoever takes it now, where calls are dense, takes it to and fro. */
        is_held = (!(bits & 1) || away <= MEMPOOL_IS_LONG) && mempool_try(mutex);
        for (visits = 0; !is_held && visits < 12 && now - began + away <= MEMPOOL_AWAY_ALL; visits++) {
            now = mempool_look_away(now, away < MEMPOOL_AWAY_MIN ? MEMPOOL_AWAY_MIN : away);
            for (looks = 0; !is_held && looks < 4; looks++) {
                is_held = mempool_try(mutex);
                mempool_pause();
            }
            away = mempool_doubled(away);
        }
        if (!is_held) {
            PyMutex_Lock((PyMutex *)&mutex->bits);
            now = mempool_nanoseconds();
        }
        /* Now this thread has it. */
        if (now - mutex->then > (long long)(mutex->uses - mutex->uses_then)
                                    * (before > MEMPOOL_IS_LONG ? MEMPOOL_STAYS_DENSE : MEMPOOL_DENSE))
            before = 0;
        atomic_store_explicit(&mutex->away, mempool_doubled(before), memory_order_relaxed);
        mutex->uses_then = mutex->uses;
        mutex->then = now;
    }
    static inline void mempool_hold(mempool_mutex *mutex) {
        unsigned char bits = 0;
        if (!atomic_compare_exchange_strong(&mutex->bits, &bits, 1))
            mempool_hold_taken(mutex, bits);
        mutex->uses++;
    }
    #else
    static inline void mempool_hold(mempool_mutex *mutex) {
        unsigned char bits = 0;
        if (!atomic_compare_exchange_strong(&mutex->bits, &bits, 1) && !mempool_is_mine(mutex, bits))
            PyMutex_Lock((PyMutex *)&mutex->bits);
    }
    #endif
    static inline void mempool_release(mempool_mutex *mutex) {
        unsigned char bits = 1;
        if (!atomic_compare_exchange_strong(&mutex->bits, &bits, 0) && !(bits & MEMPOOL_FORKS))
            PyMutex_Unlock((PyMutex *)&mutex->bits);
    }
    static inline void mempool_hold_for_fork(mempool_mutex *mutex) {
        mempool_hold(mutex);
        mutex->forker = _Py_ThreadId();
        atomic_fetch_or(&mutex->bits, MEMPOOL_FORKS);
    }
    /* One that was made since is not held. */
    static inline void mempool_release_after_fork(mempool_mutex *mutex) {
        if (atomic_load(&mutex->bits) & MEMPOOL_FORKS) {
            atomic_fetch_and(&mutex->bits, ~MEMPOOL_FORKS);
            PyMutex_Unlock((PyMutex *)&mutex->bits);
        }
    }
    #endif
    #define mempool_swap(place, before, after) \\
        atomic_compare_exchange_strong((place), &(int){(before)}, (after))
    #define mempool_add(place, number) (atomic_fetch_add((place), (number)) + (number))
    #define mempool_store(place, value) atomic_store_explicit((place), (value), memory_order_release)
    #define mempool_renew_mutex(mutex) atomic_store(&(mutex)->bits, 0)
    #define mempool_renew_lock(object) (((PyObject *)(object))->ob_mutex = (PyMutex){0})
    #define mempool_swap_size(place, before, after) \\
        atomic_compare_exchange_strong((place), &(Py_ssize_t){(before)}, (after))
    _Static_assert(sizeof(PyMutex) == 1, "a mutex is kept in an unsigned char");
    #else
    #define MEMPOOL_WITHOUT_GIL 0
    typedef int mempool_atomic_int;
    typedef Py_ssize_t mempool_atomic_ssize;
    typedef unsigned char mempool_mutex;
    #define mempool_hold(mutex) ((void)0)
    #define mempool_release(mutex) ((void)0)
    #define mempool_hold_for_fork(mutex) ((void)0)
    #define mempool_release_after_fork(mutex) ((void)0)
    #define mempool_swap(place, before, after) (*(place) == (before) ? (*(place) = (after), 1) : 0)
    #define mempool_swap_size(place, before, after) mempool_swap(place, before, after)
    #define mempool_add(place, number) (*(place) += (number))
    #define mempool_store(place, value) ((void)(*(place) = (value)))
    #define mempool_renew_mutex(mutex) ((void)(*(mutex) = 0))
    #define mempool_renew_lock(object) ((void)(object))
    #endif
    """
    const bint WITHOUT_GIL "MEMPOOL_WITHOUT_GIL"
    ctypedef int atomic_int "mempool_atomic_int"
    ctypedef Py_ssize_t atomic_ssize "mempool_atomic_ssize"
    ctypedef struct Mutex "mempool_mutex":
        pass
    void hold_mutex "mempool_hold"(Mutex *mutex) noexcept
    void release_mutex "mempool_release"(Mutex *mutex) noexcept
    void hold_for_fork "mempool_hold_for_fork"(Mutex *mutex) noexcept
    void release_after_fork "mempool_release_after_fork"(Mutex *mutex) noexcept
    void renew_mutex "mempool_renew_mutex"(Mutex *mutex) noexcept
    bint swap "mempool_swap"(atomic_int *place, int before, int after) noexcept
    bint swap_size "mempool_swap_size"(atomic_ssize *place, Py_ssize_t before, Py_ssize_t after) noexcept
    Py_ssize_t add "mempool_add"(atomic_ssize *place, Py_ssize_t number) noexcept
    void store "mempool_store"(atomic_int *place, int value) noexcept
    void store_size "mempool_store"(atomic_ssize *place, Py_ssize_t value) noexcept
    void renew_lock "mempool_renew_lock"(object thing) noexcept

cdef struct Link:
    # The mutex of one pool, in a list of all: for a fork.
    Mutex mutex
    Link *behind
    Link *ahead
