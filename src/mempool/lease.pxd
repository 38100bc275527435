from mempool._core.transfer cimport Transfer, new_ticket
from mempool._core.queueing cimport Queueing
from mempool._core.mutex cimport WITHOUT_GIL, atomic_int, swap
from mempool._core.fast_path cimport DEFAULT, FastPath, hand_on, put_warm, take_warm
from mempool.waiting cimport FINISHED, Routine, go_on_inside, obtain, quicken

cdef enum:
    NEW = 0
    WAITING = 1
    HELD = 2
    RELEASING = 3
    RELEASED = 4
    DISCARDED = 5

cdef class Lease:
    cdef FastPath pool
    cdef object timeout
    cdef object thing
    cdef object transfer
    cdef atomic_int state
    cdef bint linger
    cdef object _enter(self)
    cdef object _warm(self)
    cpdef bint _use_warm(self) except -1
    cpdef _make_ticket(self)
    cpdef _cancel(self)
    cdef bint _exit(self, exc) except? -1
    cdef bint _use(self) except? -1
    cdef bint _release(self, bint lingering) except? -1
    cdef bint _release_shared(self, bint lingering) except? -1
    cdef object _held(self)
    cdef object _drop_thing(self)
    cdef bint _release_quickly(self) except? -1
    cdef bint _hand_on(self) except? -1
    cdef object _returning_transfer(self)

cdef class Leasing(FastPath):
    pass

cdef class Entering(Routine):
    cdef Lease lease
    cdef bint is_mine

cdef class Leaving(Routine):
    cdef Lease lease
    cdef object error

cdef class Shortcut:
    cdef object method

cdef extern from *:
    """
    static inline int mempool_put_into_type(PyObject *type, PyObject *name, PyObject *value) {
        int status = PyDict_SetItem(((PyTypeObject *)type)->tp_dict, name, value);
        PyType_Modified((PyTypeObject *)type);
        return status;
    }
    """
    int mempool_put_into_type(object type, object name, object value) except -1


cdef inline bint begin(Lease self, int state, int step) noexcept:
    """Whether this caller is the one that goes on from here."""
    return swap(&self.state, state, step)

cpdef Lease new_lease(FastPath pool, object timeout, bint linger)
