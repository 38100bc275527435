from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from libc.string cimport memset
from mempool._core.transfer cimport Transfer
from mempool._core.mutex cimport WITHOUT_GIL, add, atomic_int, atomic_ssize, store, store_size, swap_size

cdef extern from "Python.h":
    ctypedef struct PyObject
    void Py_INCREF(PyObject *thing) noexcept
    void *type_of "Py_TYPE"(void *thing) noexcept

cdef class Block:
    cdef readonly object region
    cdef readonly object source
    cdef public object owner
    cdef readonly Py_ssize_t size
    cdef char *pointer
    cdef readonly bint is_lost
    cdef readonly list mark

cdef enum:
    UNUSED = 0
    LIVE = 1
    DEAD = 2

cdef class Buffer

cdef class Exporter:
    cdef Buffer buffer

cdef class Buffer:
    cdef object __weakref__
    cdef readonly Block block
    cdef Buffer next_handle
    cdef atomic_int state
    cdef public bint lingers
    cdef void *exporter
    cdef int fills
    cdef atomic_ssize watch
    cdef object view
    cdef object lent

cdef extern from *:
    """
    static destructor mempool_dealloc_of_buffers, mempool_dealloc_of_exporters;
    static inline void mempool_set_end_of_exporters(PyObject *type, void (*end)(PyObject *)) {
        mempool_dealloc_of_exporters = ((PyTypeObject *)type)->tp_dealloc;
        ((PyTypeObject *)type)->tp_dealloc = end;
    }
    static inline void mempool_dealloc_exporter(PyObject *exporter) {
        mempool_dealloc_of_exporters(exporter);
    }
    static inline void mempool_set_end_of_buffers(PyObject *type, void (*end)(PyObject *)) {
        mempool_dealloc_of_buffers = ((PyTypeObject *)type)->tp_dealloc;
        ((PyTypeObject *)type)->tp_dealloc = end;
    }
    /* As Cython ends it, whose tp_dealloc calls the finalizer only if it is itself in its type's slot. */
    static inline void mempool_dealloc_buffer(PyObject *buffer) {
        mempool_dealloc_of_buffers(buffer);
    }
    static inline void mempool_finalize_buffer(PyObject *buffer) {
        if (PyObject_CallFinalizerFromDealloc(buffer) == 0)
            mempool_dealloc_of_buffers(buffer);
    }
    static inline int mempool_has_weak_references(PyObject *self) {
        return *(PyObject **)((char *)self + Py_TYPE(self)->tp_weaklistoffset) != NULL;
    }
    /* One that has ended begins anew, with a reference that is the receiver's. */
    static inline PyObject *mempool_begin_anew(PyObject *ended) {
        _Py_NewReference(ended);
        return ended;
    }
    """
    void set_end_of_exporters "mempool_set_end_of_exporters"(object type, void (*end)(PyObject *) noexcept) noexcept
    void dealloc_exporter "mempool_dealloc_exporter"(PyObject *exporter) noexcept
    void set_end_of_buffers "mempool_set_end_of_buffers"(object type, void (*end)(PyObject *) noexcept) noexcept
    void dealloc_buffer "mempool_dealloc_buffer"(PyObject *buffer) noexcept
    void finalize_buffer "mempool_finalize_buffer"(PyObject *buffer) noexcept
    bint has_weak_references "mempool_has_weak_references"(PyObject *self) noexcept
    object begin_anew "mempool_begin_anew"(PyObject *ended)
    PyObject *begin_owned "mempool_begin_anew"(PyObject *ended)


# Handles that have ended and are as new, to be used again. Cython's own list of them (`freelist`) empties each and fills it
# anew, a fifth of a pair of calls. Without the GIL it stays empty: two threads could take the same one.

cdef enum:
    ENDED_MAX = 64

cdef struct Ended:
    Py_ssize_t count
    PyObject *handles[ENDED_MAX]

cdef Ended ended


cdef inline bint is_as_new(PyObject *self) noexcept:
    """Whether a handle that ends has nothing but its block that a new one has not."""
    if has_weak_references(self) or (<Buffer>self).exporter != NULL or (<Buffer>self).fills != 0:
        return False
    return (<Buffer>self).next_handle is None and (<Buffer>self).view is None and (<Buffer>self).lent is None


cdef inline void end_buffer(PyObject *self) noexcept:
    """The slot tp_dealloc: most handles have been freed, and `__del__`, which would find that out, costs more than all the rest.

    A handle that ends has no reference to it any more, so it has no name here, which would be counted.
    """
    if (<Buffer>self).state == LIVE:  # as `__del__` asks
        finalize_buffer(self)
        return
    if not WITHOUT_GIL and is_as_new(self):
        (<Buffer>self).block = None  # this may run anything, and other handles may end in it; so the room is looked at after it
        if ended.count < ENDED_MAX:
            (<Buffer>self).state = UNUSED
            (<Buffer>self).lingers = False
            ended.handles[ended.count] = self
            ended.count += 1
            return
    dealloc_buffer(self)


cdef inline object have_handles_end_quickly():
    set_end_of_buffers(Buffer, end_buffer)


cdef inline Buffer blank_handle():
    """A handle as `Buffer.__new__` makes it: of no block, and not in force."""
    if ended.count == 0:
        return Buffer.__new__(Buffer)
    ended.count -= 1
    return <Buffer>begin_anew(ended.handles[ended.count])


cdef inline PyObject *owned_handle() except NULL:
    """`blank_handle`, as a bare pointer, which owns it.

    A name and its return count two references more. CPython 3.12 and later write half of a count and then read all of it,
    for which the processor waits each time.
    """
    cdef Buffer made
    if ended.count == 0:
        made = Buffer.__new__(Buffer)
        Py_INCREF(<PyObject *>made)
        return <PyObject *>made
    ended.count -= 1
    return begin_owned(ended.handles[ended.count])


cdef inline Buffer new_handle(Block block):
    """A handle that is not in force yet: nobody can look through it."""
    cdef Buffer buffer = blank_handle()
    buffer.block = block
    if WITHOUT_GIL:
        store_size(&buffer.watch, GONE)
    return buffer


cdef inline bint is_buffer(void *element) noexcept:
    return type_of(element) == <void*>Buffer


cdef inline Buffer successor_of(void *old):
    """The same for the memory of this handle. The block is counted once, which is an atomic instruction without the GIL."""
    cdef Buffer buffer = blank_handle()
    buffer.block = (<Buffer>old).block
    if WITHOUT_GIL:
        store_size(&buffer.watch, GONE)
    return buffer


# Without the GIL, who looks at the memory and whether the handle is in force is one number, so that of who begins to look and
# who frees it one comes first. Views have an exporter each: one that several threads share could die under them.

cdef extern from *:
    """
    #define MEMPOOL_VIEW ((Py_ssize_t)1 << 16)
    #define MEMPOOL_GONE (PY_SSIZE_T_MAX / 2 + 1)
    #define MEMPOOL_CLAIMED (MEMPOOL_GONE / 2)
    """
    const Py_ssize_t VIEW "MEMPOOL_VIEW"
    const Py_ssize_t GONE "MEMPOOL_GONE"
    const Py_ssize_t CLAIMED "MEMPOOL_CLAIMED"  # somebody is about to free it with its views

cdef enum:
    FILL = 1
    FILLS = 0xFFFF


cdef inline bint begin_look(Buffer self, Py_ssize_t look) noexcept:
    """A view or a fill begins. False: the handle is not in force."""
    cdef Py_ssize_t watch
    while True:
        watch = self.watch
        if watch & GONE:
            return False
        if swap_size(&self.watch, watch, watch + look):
            return True


# Without the GIL, the last reference to an object that another thread has made is taken away by that thread, at its next
# bytecode: if it sleeps for an hour, in an hour. What was viewed shall not wait for that, so who has the last reference acts.

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    /* Whether this reference is the only one. Between two equal looks at the shared part nobody has passed one on. */
    static inline int mempool_is_only(void *thing) {
        PyObject *object = (PyObject *)thing;
        Py_ssize_t shared = _Py_atomic_load_ssize(&object->ob_ref_shared);
        Py_ssize_t own = (Py_ssize_t)_Py_atomic_load_uint32(&object->ob_ref_local);
        if (_Py_atomic_load_ssize(&object->ob_ref_shared) != shared)
            return 0;
        return own + Py_ARITHMETIC_RIGHT_SHIFT(Py_ssize_t, shared, _Py_REF_SHARED_SHIFT) == 1;
    }
    /* Who has the only reference, and could have been seen by nobody since, may count it as what this thread has made. */
    static inline int mempool_is_foreign(void *thing) {
        return _Py_atomic_load_uintptr_relaxed(&((PyObject *)thing)->ob_tid) != _Py_ThreadId();
    }
    /* That, and nothing is noted of it, such as that its maker is about to merge its counts, or that it has weak references. */
    static inline int mempool_is_alone(void *thing) {
        PyObject *object = (PyObject *)thing;
        Py_ssize_t shared = _Py_atomic_load_ssize_acquire(&object->ob_ref_shared);
        uint32_t own = _Py_atomic_load_uint32_relaxed(&object->ob_ref_local);
        if (_Py_atomic_load_ssize(&object->ob_ref_shared) != shared)
            return 0;
        return (own == 1 && shared == 0) || (own == 0 && shared == ((1 << _Py_REF_SHARED_SHIFT) | _Py_REF_MERGED));
    }
    static inline void mempool_make_own(void *thing) {
        PyObject *object = (PyObject *)thing;
        _Py_atomic_store_ssize_relaxed(&object->ob_ref_shared, 0);
        _Py_atomic_store_uint32_relaxed(&object->ob_ref_local, 1);
        _Py_atomic_store_uintptr_relaxed(&object->ob_tid, _Py_ThreadId());
    }
    /* A view may be released because of an exception, which is under way then. */
    static inline void *mempool_put_aside(void) { return PyErr_GetRaisedException(); }
    static inline void mempool_raise_again(void *exception) { PyErr_SetRaisedException((PyObject *)exception); }
    #else
    #define mempool_is_only(thing) 0
    #define mempool_is_foreign(thing) 0
    #define mempool_is_alone(thing) 0
    #define mempool_make_own(thing) ((void)(thing))
    #define mempool_put_aside() NULL
    #define mempool_raise_again(exception) ((void)(exception))
    #endif
    static inline void mempool_hear_of_releases(PyObject *type, releasebufferproc released) {
        ((PyTypeObject *)type)->tp_as_buffer->bf_releasebuffer = released;
    }
    """
    bint is_only "mempool_is_only"(void *thing) noexcept
    bint is_foreign "mempool_is_foreign"(void *thing) noexcept
    bint is_alone "mempool_is_alone"(void *thing) noexcept
    void make_own "mempool_make_own"(void *thing) noexcept
    void *put_aside "mempool_put_aside"() noexcept
    void raise_again "mempool_raise_again"(void *exception) noexcept
    void mempool_hear_of_releases(object type, void (*released)(object, Py_buffer *) noexcept) noexcept

cdef inline void adopt_block(void *handle) noexcept:
    """A spare is given out, under the mutex: from now on this thread counts its block without atomic instructions.

    They would cost a seventh of a pair of calls, where two threads share a pool and each has what the other has made. Nobody
    else can count meanwhile: to do so one needs a reference to the block, or to its handle, and no list or dict that others
    read without a lock has either. A weak reference is looked for by itself: once counts are merged, they do not tell of it.
    """
    cdef void *block = <void*>(<Buffer>handle).block
    if is_foreign(block) and is_alone(handle) and is_alone(block) and not has_weak_references(<PyObject*>handle):
        make_own(block)


cdef extern from "Python.h":
    void PyObject_CallFinalizer(object thing) noexcept


cdef inline void finalize_if_last(Buffer buffer) noexcept:
    """The caller is about to let go of this handle; if nobody else has it, it is returned now."""
    if buffer.state == LIVE and is_only(<void*>buffer):
        PyObject_CallFinalizer(buffer)  # which finds nothing to do the next time


cdef inline void end_look(Buffer self, Py_ssize_t look):
    """The last view of a handle that was freed lets go of the next handle, which it kept."""
    cdef Buffer kept = None
    if add(&self.watch, -look) == GONE:
        kept = self.next_handle
        self.next_handle = None
        if kept is not None:
            finalize_if_last(kept)


cdef inline void look_no_more(void *exporter) noexcept:
    """Who looked through it looks no more, without the GIL."""
    cdef Buffer buffer
    cdef void *exception = put_aside()
    buffer = (<Exporter>exporter).buffer
    (<Exporter>exporter).buffer = None
    end_look(buffer, VIEW)
    finalize_if_last(buffer)
    buffer = None
    raise_again(exception)


cdef inline void view_released(object exporter, Py_buffer *_view) noexcept:
    """The slot bf_releasebuffer of an Exporter: if nobody else has it, nobody looks."""
    if is_only(<void*>exporter) and (<Exporter>exporter).buffer is not None:
        look_no_more(<void*>exporter)


cdef inline void end_exporter(PyObject *self) noexcept:
    """The slot tp_dealloc of an Exporter, by hand: Cython would put the thread's exception aside for each view that ends."""
    if (<Exporter>self).buffer is not None:
        if WITHOUT_GIL:
            look_no_more(<void*>self)
        else:
            (<Exporter>self).buffer.exporter = NULL  # before its last reference goes, whose finalizer looks here
    dealloc_exporter(self)


cdef inline object hear_of_ends():
    """When the module is imported."""
    set_end_of_exporters(Exporter, end_exporter)
    if WITHOUT_GIL:
        mempool_hear_of_releases(Exporter, view_released)


cdef inline void enforce(Buffer self) noexcept:
    """It is in force from now on."""
    if WITHOUT_GIL:
        store_size(&self.watch, 0)
    store(&self.state, LIVE)


cdef inline bint revoke_unseen(Buffer self) noexcept:
    """It is dead from now on. False: it is already, or somebody looks."""
    return revoke_unnamed(<void*>self)


cdef inline bint revoke_unnamed(void *handle) noexcept:
    """The same without a name, which would be counted."""
    if not swap_size(&(<Buffer>handle).watch, 0, GONE):
        return False
    store(&(<Buffer>handle).state, DEAD)
    return True


cdef inline bint revoke_seen(Buffer self, Buffer next_handle):
    """The same whoever views it: its views keep the next handle from now on. False: it is dead already, or being filled.

    next_handle: None: there is none, and the views keep nothing.
    """
    cdef Py_ssize_t watch
    while True:  # of several threads one goes on, for the next handle is kept by this one and without a lock
        watch = self.watch
        if watch & (GONE | CLAIMED) or watch & FILLS:
            return False
        if swap_size(&self.watch, watch, watch | CLAIMED):
            break
    while True:  # views may begin and end meanwhile
        watch = self.watch & ~CLAIMED
        if watch & FILLS:
            self.next_handle = None
            add(&self.watch, -CLAIMED)
            return False
        if next_handle is not None:
            next_handle.lingers = watch > 0
            self.next_handle = next_handle if watch > 0 else None
        if swap_size(&self.watch, watch | CLAIMED, watch | GONE):
            self.state = DEAD
            return True


cdef inline void reinstate(Buffer self):
    """It is in force again: another of those that were freed with it could not be."""
    self.state = LIVE
    add(&self.watch, -GONE)

cdef inline void overwrite(Block block, int byte) noexcept:
    """Needs no memory, and lets other threads run."""
    cdef char *pointer = block.pointer
    cdef size_t size = block.size
    with nogil:
        memset(pointer, byte, size)

cdef extern from *:
    """
    static inline Py_ssize_t mempool_references(void *object) {
        return object == NULL ? 0 : Py_REFCNT((PyObject *)object);
    }
    """
    Py_ssize_t references "mempool_references"(void *object) noexcept

cdef inline int name_exporter(Buffer self, Py_buffer *view) except -1:
    """Whom this view looks through: one for all views of a handle, made for the first. Without a name, which would be counted."""
    if self.exporter != NULL:
        view.obj = <object>self.exporter
        return 0
    view.obj = Exporter.__new__(Exporter)
    (<Exporter><void*>view.obj).buffer = self
    self.exporter = <void*>view.obj
    return 0

cdef inline void pass_on(Buffer old, Buffer next_handle):
    """The views that look through `old` keep `next_handle` from now on. The caller has a reference to each."""
    cdef Exporter exporter = <Exporter>old.exporter
    next_handle.exporter = old.exporter
    next_handle.lingers = True
    old.exporter = NULL
    exporter.buffer = next_handle

cdef inline void expose(void *block, Py_buffer *view, int flags) noexcept:
    """By hand, because PyBuffer_FillInfo would overwrite the None that Cython has put into obj, and leave it behind."""
    view.buf = (<Block>block).pointer
    view.len = (<Block>block).size
    view.readonly = 0
    view.itemsize = 1
    view.ndim = 1
    view.format = NULL
    if flags & PyBUF_FORMAT == PyBUF_FORMAT:
        view.format = b"B"
    view.shape = &view.len if flags & PyBUF_ND == PyBUF_ND else NULL
    view.strides = &view.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
    view.suboffsets = NULL
    view.internal = NULL
