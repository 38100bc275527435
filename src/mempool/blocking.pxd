# cython: language_level=3

from mempool._core cimport fast_path
from mempool._core.fast_path cimport DEFAULT, FastPath, Quick
from mempool._core.mutex cimport WITHOUT_GIL
from mempool._core.queueing cimport Queueing
from mempool._core.transfer cimport Ticket
from mempool.waiting cimport HAS_SETTLED, INFINITE, Wait, kinds as task_kinds, loaded_modules, loop_here, seconds_of, usual_clock, usual_now

cdef class LockParker

cdef extern from "pythread.h":
    """
    /* A lock that is locked, or NULL. */
    static inline void *mempool_new_lock(void) {
        PyThread_type_lock lock = PyThread_allocate_lock();
        if (lock != NULL)
            PyThread_acquire_lock(lock, WAIT_LOCK);
        return lock;
    }
    static inline void mempool_unlock(void *lock) { PyThread_release_lock((PyThread_type_lock)lock); }
    static inline void mempool_end_lock(void *lock, int is_unlocked) {
        if (!is_unlocked)
            PyThread_release_lock((PyThread_type_lock)lock);
        PyThread_free_lock((PyThread_type_lock)lock);
    }
    /* Lock it, in so much time; below 0: without end. 1: done; 0: not in time; -1: a signal came before. */
    static inline int mempool_lock(void *lock, long long microseconds) {
        PyLockStatus status = PyThread_acquire_lock_timed((PyThread_type_lock)lock, 0, 0);
        if (status == PY_LOCK_FAILURE && microseconds != 0) {
            Py_BEGIN_ALLOW_THREADS
            status = PyThread_acquire_lock_timed((PyThread_type_lock)lock, microseconds, 1);
            Py_END_ALLOW_THREADS
        }
        return status == PY_LOCK_ACQUIRED ? 1 : status == PY_LOCK_FAILURE ? 0 : -1;
    }
    /* That of each thread, which is kept in parking.py as long as Python's state of the thread. A thread of C's own has one
       state for each call of Python, and so does not find the parker of its last call, which may be gone. */
    #ifdef _MSC_VER
    #define MEMPOOL_OF_THREAD static __declspec(thread)
    #else
    #define MEMPOOL_OF_THREAD static __thread
    #endif
    MEMPOOL_OF_THREAD PyObject *mempool_parker = NULL;
    MEMPOOL_OF_THREAD uint64_t mempool_state_of_parker = 0;
    static inline PyObject *mempool_parker_here(void) {
        int is_kept = mempool_parker != NULL && mempool_state_of_parker == PyThreadState_GetID(PyThreadState_Get());
        PyObject *parker = is_kept ? mempool_parker : Py_None;
        Py_INCREF(parker);
        return parker;
    }
    static inline void mempool_keep_here(PyObject *parker) {
        mempool_state_of_parker = PyThreadState_GetID(PyThreadState_Get());
        mempool_parker = parker;
    }
    static inline void mempool_forget(void *parker) {
        if ((void *)mempool_parker == parker)
            mempool_parker = NULL;
    }
    """
    LockParker parker_here "mempool_parker_here"()
    void keep_here "mempool_keep_here"(object parker) noexcept
    void mempool_forget(void *parker) noexcept
    void *mempool_new_lock() noexcept
    void mempool_unlock(void *lock) noexcept
    void mempool_end_lock(void *lock, bint is_unlocked) noexcept
    int mempool_lock(void *lock, long long microseconds) noexcept

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef extern from *:
    """
    /* A number that every change of a dict changes, and no other dict has (PEP 509); 0: there is none, as from CPython 3.14 on.
       To look three names up in sys.modules is some 350 instructions of each wait. */
    #if defined(Py_GIL_DISABLED) || PY_VERSION_HEX >= 0x030E0000
    static inline unsigned long long mempool_version(PyObject *dict) { (void)dict; return 0; }
    #else
    #ifdef __GNUC__
    #pragma GCC diagnostic push
    #pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    #endif
    static inline unsigned long long mempool_version(PyObject *dict) { return ((PyDictObject *)dict)->ma_version_tag; }
    #ifdef __GNUC__
    #pragma GCC diagnostic pop
    #endif
    #endif
    /* Whether no loop ever ran in this thread, without a call of Python's in each wait. (From CPython 3.13 on its dict does
       not say.) */
    #if defined(Py_GIL_DISABLED) || PY_VERSION_HEX >= 0x030D0000
    static inline int mempool_had_no_loop(PyObject *name) { (void)name; return 0; }
    #else
    static inline int mempool_had_no_loop(PyObject *name) {
        PyObject *of_thread = name == Py_None ? NULL : PyThreadState_GetDict();
        return of_thread != NULL && PyDict_Contains(of_thread, name) == 0;
    }
    #endif
    """
    unsigned long long mempool_version(object dict) noexcept
    bint mempool_had_no_loop(object name) noexcept

cdef class LockParker:
    cdef void *lock
    cdef bint is_woken
    cdef bint is_in_use
    cdef readonly object thread
    cdef public object owner
    cdef public object on_gone
    cdef public object parkers
    cdef public object _clock
    cdef public object _wakes
    cdef void unlock(self) noexcept
    cdef bint sleep(self, double seconds) except? -1

cdef list kinds
cdef unsigned long long _version_of_modules
cdef object _name_of_loop
cdef bint is_thread_alone() except? -1
cdef bint obtained(FastPath pool, object ticket, object timeout) except? -1
cdef LockParker parker_of_this_thread()
cdef double deadline_of(FastPath pool, object timeout) except? -1
cdef bint obtained_elsewhere(FastPath pool, Quick quick, object ticket, object timeout) except? -1
cdef bint stand_elsewhere(pool, Quick quick, ticket, LockParker parker, double deadline) except? -1
cdef bint stand(pool, Queueing queueing, Ticket ticket, LockParker parker, double deadline) except? -1


cdef inline bint sleep_on(void *lock, double seconds) except? -1:
    """Lock it, in so much time. False: it is late, or a signal was handled."""
    cdef long long microseconds = -1
    if seconds <= 0:
        microseconds = 0
    elif seconds != INFINITE:
        # Who wakes early looks again. So a day is as good as longer; but a part of a microsecond is one, or he would look often.
        microseconds = <long long>(min(seconds, 86400.0) * 1e6) + 1
    cdef int done = mempool_lock(lock, microseconds)
    if done < 0:
        PyErr_CheckSignals()
    return done > 0


cdef inline object go_quickly():
    """From now on `alloc` and `lease` come here without a Python frame."""
    fast_path.obtain_quickly = obtained
