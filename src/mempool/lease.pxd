"""The C side of Lease: what `with` and `async with` call, and free lists.

A type's slots are set here by hand, where what Cython puts there would make a tuple, a bound method or a finalizer's call for
each block. Nothing of it changes what happens: each slot does the short case, and hands all others to what Cython made.
"""

from mempool._core.transfer cimport Transfer, new_ticket
from mempool._core.queueing cimport Queueing
from mempool._core.mutex cimport WITHOUT_GIL, atomic_int, swap
from mempool._core.fast_path cimport DEFAULT, FastPath, QuickMethod, hand_on, obtain_for, put_warm, shorten_method, take_top
from mempool._core.fast_path cimport take_warm, ticket_for_one
from mempool.waiting cimport FINISHED, Routine, go_on_inside, handed_out, obtain, own, quicken

cdef extern from "Python.h":
    ctypedef struct PyObject
    Py_ssize_t PyVectorcall_NARGS(size_t count) noexcept

cdef enum:
    NEW = 0
    WAITING = 1
    HELD = 2
    RELEASING = 3
    RELEASED = 4
    DISCARDED = 5

cdef class Lease:
    cdef void *vectorcall
    cdef FastPath pool
    cdef object timeout
    cdef object thing
    cdef object transfer
    cdef atomic_int state
    cdef bint linger
    cdef object _enter(self)
    cdef object _call(self, tuple outcome)
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
    cdef void _keep(self, transfer)
    cdef bint _release_quickly(self) except? -1
    cdef bint _hand_on(self) except? -1
    cdef object _returning_transfer(self)

cdef class Leasing(FastPath):
    pass

cdef class Entering(Routine):
    cdef void *vectorcall
    cdef Lease lease
    cdef atomic_int was_called
    cdef bint is_mine

cdef class Leaving(Routine):
    cdef void *vectorcall
    cdef Lease lease
    cdef atomic_int was_called
    cdef object error

cdef class Shortcut:
    cdef object method

cdef class ShortcutInTask:
    cdef object method
    cdef bint leaves

cdef extern from *:
    """
    static inline int mempool_put_into_type(PyObject *type, PyObject *name, PyObject *value) {
        int status = PyDict_SetItem(((PyTypeObject *)type)->tp_dict, name, value);
        PyType_Modified((PyTypeObject *)type);
        return status;
    }
    static inline void mempool_set_descriptor(PyObject *type, void *get) {
        ((PyTypeObject *)type)->tp_descr_get = (descrgetfunc)get;
        PyType_Modified((PyTypeObject *)type);
    }
    /* Its objects are called by the function to which each of them points at this place: without a tuple of the arguments. */
    static inline void mempool_set_vectorcall(PyObject *type, PyObject *object, void **place) {
        ((PyTypeObject *)type)->tp_vectorcall_offset = (char *)place - (char *)object;
        ((PyTypeObject *)type)->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        PyType_Modified((PyTypeObject *)type);
    }
    /* Objects of one type that were used and are used again. That of Cython comes after the finalizer, which costs more than
       all the rest, and a type that the collector knows, or one with a base, has none. */
    #define MEMPOOL_FREE_MAX 16
    typedef struct {
        destructor dealloc;
        int count;
        PyObject *objects[MEMPOOL_FREE_MAX];
    } mempool_free_list;
    static mempool_quick_method mempool_quick_lease;
    static mempool_free_list mempool_free_leases, mempool_free_enterings, mempool_free_leavings;
    static inline void mempool_set_dealloc(PyObject *type, mempool_free_list *list, void (*dealloc)(PyObject *)) {
        list->dealloc = ((PyTypeObject *)type)->tp_dealloc;
        ((PyTypeObject *)type)->tp_dealloc = dealloc;
    }
    static inline PyObject *mempool_reuse(mempool_free_list *list) {
        PyObject *object = list->objects[--list->count];
        _Py_NewReference(object);
        return object;
    }
    static inline void mempool_untrack(PyObject *object) {
        if (PyObject_GC_IsTracked(object))
            PyObject_GC_UnTrack(object);
    }
    static inline void mempool_track(void *tracked) {
        PyObject *object = (PyObject *)tracked;
        if (!PyObject_GC_IsTracked(object))
            PyObject_GC_Track(object);
    }
    /* An object whose finalizer has run is marked, and would have none in its next life. */
    static inline int mempool_has_room(mempool_free_list *list, PyObject *object) {
        return list->count < MEMPOOL_FREE_MAX && !(PyType_IS_GC(Py_TYPE(object)) && PyObject_GC_IsFinalized(object));
    }
    /* The end of an object's life: on the free list; or as Cython ends it, whose tp_dealloc calls the finalizer only if it is
       itself in its type's slot. */
    static inline void mempool_put_on(mempool_free_list *list, PyObject *object) {
        if (list->count < MEMPOOL_FREE_MAX)
            list->objects[list->count++] = object;
        else
            list->dealloc(object);
    }
    static inline void mempool_finalize(mempool_free_list *list, PyObject *object) {
        if (PyObject_CallFinalizerFromDealloc(object) == 0)
            list->dealloc(object);
    }
    """
    int mempool_put_into_type(object type, object name, object value) except -1
    void set_descriptor "mempool_set_descriptor"(object type, void *get) noexcept
    void set_vectorcall "mempool_set_vectorcall"(object type, object object, void **place) noexcept
    QuickMethod quick_lease "mempool_quick_lease"
    const int FREE_MAX "MEMPOOL_FREE_MAX"
    ctypedef struct FreeList "mempool_free_list":
        int count
    FreeList free_leases "mempool_free_leases"
    FreeList free_enterings "mempool_free_enterings"
    FreeList free_leavings "mempool_free_leavings"
    void set_dealloc "mempool_set_dealloc"(object type, FreeList *list, void (*dealloc)(PyObject *) noexcept) noexcept
    PyObject *reuse "mempool_reuse"(FreeList *list) noexcept
    void untrack "mempool_untrack"(PyObject *object) noexcept
    void track "mempool_track"(void *object) noexcept
    bint has_room "mempool_has_room"(FreeList *list, PyObject *object) noexcept
    void put_on "mempool_put_on"(FreeList *list, PyObject *object) noexcept
    void finalize "mempool_finalize"(FreeList *list, PyObject *object) noexcept


cdef inline bint begin(Lease self, int state, int step) noexcept:
    """Whether this caller is the one that goes on from here."""
    return swap(&self.state, state, step)


cpdef Lease new_lease(FastPath pool, object timeout, bint linger)


# What is used again is a bare pointer from its list to its receiver. A name would be counted twice in a row, and CPython 3.12
# and 3.13 write half a count and then read the whole one, for which the processor waits: a tenth of a block each time.

# -- what `with` calls

cdef inline tuple in_tuple(PyObject **arguments, Py_ssize_t count):
    return tuple([<object>arguments[i] for i in range(count)])


cdef inline object called(Lease self, PyObject **arguments, size_t offset_and_count, PyObject *names):
    """The vectorcall of a lease; see Shortcut."""
    cdef Py_ssize_t count = PyVectorcall_NARGS(offset_and_count)
    if names != NULL:
        raise TypeError("the end of a lease takes no keyword arguments")
    if count == 0:
        if not WITHOUT_GIL and self.state == NEW and self.pool.core.fast_free:  # as _enter, where there is a warm spare
            if self.pool.state.spare > self.pool.state.fast_alloc_above:
                self.pool.state.from_spare += 1
                self.thing = take_top(self.pool)
                self.state = HELD
                return self.thing
        return self._enter()
    if count == 3:
        if not WITHOUT_GIL and self.state == HELD and self.transfer is None:  # as _exit, where there is room for a spare
            if self.pool.state.spare < self.pool.state.fast_free_below and put_warm(self.pool, self.thing):
                self.thing = None
                self.state = RELEASED
                return None
        self._exit(<object>arguments[1])
        return None
    return self._call(in_tuple(arguments, count))


cdef inline object itself(Shortcut self, PyObject *lease, PyObject *_type):
    """The slot tp_descr_get of a Shortcut."""
    return self.method if lease == NULL else <object>lease


cdef inline object lease_of(FastPath pool, timeout, bint linger):
    """A new one, which comes with None."""
    cdef PyObject *lease
    if not WITHOUT_GIL and free_leases.count > 0:
        lease = reuse(&free_leases)
        (<Lease>lease).state = NEW
    else:
        lease = handed_out(Lease.__new__(Lease))
    (<Lease>lease).vectorcall = <void*>called
    (<Lease>lease).pool = pool
    if (<Lease>lease).timeout is not timeout:
        (<Lease>lease).timeout = timeout
    (<Lease>lease).linger = linger
    return own(lease)


cdef inline object usual_lease(object pool, PyObject **arguments, Py_ssize_t count, PyObject *names):
    """`lease()`, before any arguments are looked through."""
    if count == 0 and names == NULL:
        return lease_of(<FastPath>pool, DEFAULT, False)
    return quick_lease.rest(pool, arguments, count, names)


# -- what `async with` calls

cdef inline object to_enter(void *lease):
    cdef PyObject *entering
    if not WITHOUT_GIL and free_enterings.count > 0:
        entering = reuse(&free_enterings)
        (<Entering>entering).is_mine = (<Entering>entering).has_begun = (<Entering>entering).has_ended = False
        (<Entering>entering).was_called = False
    else:
        entering = handed_out(Entering.__new__(Entering))
    (<Entering>entering).vectorcall = <void*>called_to_enter
    (<Entering>entering).lease = <Lease>lease
    return own(entering)


cdef inline object to_leave(void *lease):
    cdef PyObject *leaving
    if not WITHOUT_GIL and free_leavings.count > 0:
        leaving = reuse(&free_leavings)
        (<Leaving>leaving).has_begun = (<Leaving>leaving).has_ended = False
        (<Leaving>leaving).was_called = False
    else:
        leaving = handed_out(Leaving.__new__(Leaving))
    (<Leaving>leaving).vectorcall = <void*>called_to_leave
    (<Leaving>leaving).lease = <Lease>lease
    return own(leaving)


cdef inline object called_to_enter(Entering self, PyObject **arguments, size_t offset_and_count, PyObject *names):
    """The vectorcall of an Entering, which stands for a bound method as well: the first call gives that very object."""
    cdef Py_ssize_t count = PyVectorcall_NARGS(offset_and_count)
    if names != NULL:
        raise TypeError("entering a lease takes no keyword arguments")
    if count == 0 and swap(&self.was_called, False, True):
        return self
    return Entering.__call__(self, *in_tuple(arguments, count))


cdef inline object called_to_leave(Leaving self, PyObject **arguments, size_t offset_and_count, PyObject *names):
    """The same of a Leaving."""
    cdef Py_ssize_t count = PyVectorcall_NARGS(offset_and_count)
    if names != NULL:
        raise TypeError("leaving a lease takes no keyword arguments")
    if count == 3 and swap(&self.was_called, False, True):
        if arguments[1] != <PyObject*>None:
            failed(self, <object>arguments[1])
        return self
    return Leaving.__call__(self, *in_tuple(arguments, count))


cdef inline void failed(Leaving self, error):
    self.error = error
    track(<void*>self)  # from now on it may be part of a cycle


cdef inline object in_task(ShortcutInTask self, PyObject *lease, PyObject *_type):
    """The slot tp_descr_get of a ShortcutInTask."""
    if lease == NULL:
        return self.method
    return to_leave(lease) if self.leaves else to_enter(lease)


# -- the ends of objects. Each has no reference to it any more, so it has no name here, which would be counted.

cdef inline void end_lease(PyObject *self) noexcept:
    if WAITING <= (<Lease>self).state <= RELEASING or free_leases.count >= FREE_MAX:  # as __del__ asks
        finalize(&free_leases, self)
        return
    if (<Lease>self).thing is not None or (<Lease>self).transfer is not None:
        (<Lease>self).thing = (<Lease>self).transfer = None
    if (<Lease>self).timeout is not DEFAULT:  # it may stay, and mostly is that of the next one
        (<Lease>self).timeout = None
    (<Lease>self).pool = None
    put_on(&free_leases, self)


cdef inline void end_entering(PyObject *self) noexcept:
    if ((<Entering>self).has_begun and not (<Entering>self).has_ended) or not has_room(&free_enterings, self):
        finalize(&free_enterings, self)
        return
    untrack(self)
    (<Entering>self).inner = (<Entering>self).lease = None
    put_on(&free_enterings, self)


cdef inline void end_leaving(PyObject *self) noexcept:
    if ((<Leaving>self).has_begun and not (<Leaving>self).has_ended) or not has_room(&free_leavings, self):
        finalize(&free_leavings, self)
        return
    untrack(self)
    (<Leaving>self).error = (<Leaving>self).lease = None
    put_on(&free_leavings, self)


# -- once, when the module is imported

cdef inline object use_free_lists():
    if not WITHOUT_GIL:
        set_dealloc(Lease, &free_leases, end_lease)
        set_dealloc(Entering, &free_enterings, end_entering)
        set_dealloc(Leaving, &free_leavings, end_leaving)


cdef inline object shorten_calls():
    """The slots of the shortcuts, and of what they give."""
    cdef Lease lease = Lease.__new__(Lease)
    cdef Entering entering = Entering.__new__(Entering)
    cdef Leaving leaving = Leaving.__new__(Leaving)
    set_vectorcall(Lease, lease, &lease.vectorcall)
    set_vectorcall(Entering, entering, &entering.vectorcall)
    set_vectorcall(Leaving, leaving, &leaving.vectorcall)
    set_descriptor(Shortcut, <void*>itself)
    set_descriptor(ShortcutInTask, <void*>in_task)
