# cython: language_level=3
"""The C side of FastPath, and the fast path, which is inlined where alloc, free and leases come in.

The fast path: one spare out of many, nobody in line; or one of the reserve, where the source cannot be asked, or rests
because it has just failed. The slow path comes to the same. No critical section here, and no
name for what is only read: each would cost a pair of reference counts, a tenth of the whole. The GIL keeps these few
lines whole; without it the same is done under the pool's mutex (`take_held`, `put_held`). Where there is a GIL, nothing of
that is compiled: `python -m verification.same_code`.
"""

from mempool._core.state cimport MIRRORED_FROM_RESERVE, State, mempool_is_before, mirror_spare
from mempool._core.transfer cimport Transfer, new_ticket
from mempool._core.decisions cimport Decisions
from mempool._core.outstanding cimport Outstanding
from mempool._core.queueing cimport Queueing
from mempool._core.mutex cimport WITHOUT_GIL, hold_mutex, release_mutex
from mempool.buffer cimport DEAD, LIVE, Buffer, adopt_block, enforce, is_buffer, new_handle, owned_handle, revoke_unnamed, successor_of

cdef extern from "Python.h":
    ctypedef struct PyObject
    void Py_DECREF(PyObject *thing) noexcept

cdef str DEFAULT

cdef class Quick:
    cdef void *take(self, bint at_last) except? NULL
    cdef bint put(self, element) except? -1
    cdef Py_ssize_t state(self, ticket) except? -1
    cdef bint sleep(self, wakes, double seconds) except? -1
    cdef bint check_out(self, ticket) except? -1
    cdef bint leave(self, ticket, place, Py_ssize_t outcome, double seconds) except? -1

cdef class FastPath:
    cdef object __weakref__
    cdef readonly Decisions core
    cdef State state
    cdef Outstanding outstanding
    cdef bint tracks
    cdef readonly Quick _quick
    cdef public object _engine
    cdef public object _timeout
    cdef public object _patience
    cdef public object _offload

# How a thread's ticket is filled without a Python frame: blocking.py. False: go the long way, nothing has happened.
ctypedef bint (*Obtain)(FastPath pool, object ticket, object timeout) except? -1
cdef Obtain obtain_quickly

cdef extern from *:
    """
    /* The list of slots comes as a bare pointer: as an object it would be counted, there and back. */
    static inline void *mempool_lying(void *slots, Py_ssize_t i) {
        return PyList_GET_ITEM((PyObject *)slots, i);
    }
    /* Take what lies in a place and leave None: the reference moves, and no count changes but None's. */
    static inline PyObject *mempool_pick(void *slots, Py_ssize_t i) {
        PyObject *element = PyList_GET_ITEM((PyObject *)slots, i);
        Py_INCREF(Py_None);
        PyList_SET_ITEM((PyObject *)slots, i, Py_None);
        return element;
    }
    /* Put an element into a place that holds None. */
    static inline void mempool_place(void *slots, Py_ssize_t i, void *element) {
        Py_DECREF(Py_None);
        Py_INCREF(element);
        PyList_SET_ITEM((PyObject *)slots, i, (PyObject *)element);
    }
    /* The same of a bare pointer that owns it. */
    static inline void mempool_place_owned(void *slots, Py_ssize_t i, void *element) {
        Py_DECREF(Py_None);
        PyList_SET_ITEM((PyObject *)slots, i, (PyObject *)element);
    }
    /* What a bare pointer owns, as an object that owns it. */
    static inline PyObject *mempool_owned(void *element) {
        return (PyObject *)element;
    }
    static inquiry mempool_clear_of_pools;
    static inline void mempool_set_clear_of_pools(PyObject *type, int (*clear)(PyObject *)) {
        mempool_clear_of_pools = ((PyTypeObject *)type)->tp_clear;
        ((PyTypeObject *)type)->tp_clear = clear;
    }
    static inline int mempool_clear_pool(PyObject *pool) {
        return mempool_clear_of_pools(pool);
    }
    /* The same method as one of this very type: CPython calls it faster than an inherited one. */
    static inline PyObject *mempool_own_method(PyObject *type, PyObject *method) {
        return PyDescr_NewMethod((PyTypeObject *)type, ((PyMethodDescrObject *)method)->d_method);
    }
    /* The same, and first a function of our own, which sees to the usual case before any arguments are looked through. */
    typedef PyObject *(*mempool_call)(PyObject *, PyObject **, Py_ssize_t, PyObject *);
    typedef struct {
        PyMethodDef definition;
        mempool_call rest;
    } mempool_quick_method;
    static mempool_quick_method mempool_quick_alloc, mempool_quick_free;
    static inline PyObject *mempool_shorten_method(
        PyObject *type, PyObject *method, mempool_quick_method *quick, mempool_call usual
    ) {
        PyMethodDef *whole = ((PyMethodDescrObject *)method)->d_method;
        if (whole->ml_flags != (METH_FASTCALL | METH_KEYWORDS))
            return PyDescr_NewMethod((PyTypeObject *)type, whole);
        quick->rest = (mempool_call)(void (*)(void))whole->ml_meth;
        quick->definition = *whole;
        quick->definition.ml_meth = (PyCFunction)(void (*)(void))usual;
        return PyDescr_NewMethod((PyTypeObject *)type, &quick->definition);
    }
    """
    object mempool_own_method(object type, object method)
    void set_clear_of_pools "mempool_set_clear_of_pools"(object type, int (*clear)(PyObject *) noexcept) noexcept
    int clear_as_ever "mempool_clear_pool"(PyObject *pool) noexcept
    ctypedef object (*Call "mempool_call")(object, PyObject **, Py_ssize_t, PyObject *)
    ctypedef struct QuickMethod "mempool_quick_method":
        Call rest
    QuickMethod quick_alloc "mempool_quick_alloc"
    QuickMethod quick_free "mempool_quick_free"
    object shorten_method "mempool_shorten_method"(object type, object method, QuickMethod *quick, Call usual)
    object mempool_pick(void *slots, Py_ssize_t i)
    void *mempool_pick_bare "mempool_pick"(void *slots, Py_ssize_t i) noexcept
    void *mempool_lying(void *slots, Py_ssize_t i) noexcept
    void mempool_place(void *slots, Py_ssize_t i, object element) noexcept
    void mempool_place_bare "mempool_place"(void *slots, Py_ssize_t i, void *element) noexcept
    void mempool_place_owned(void *slots, Py_ssize_t i, void *element) noexcept
    object mempool_owned(void *element)


cdef Decisions SHUT

cdef inline int clear_pool(PyObject *pool) noexcept:
    """The slot tp_clear: a pool that the collector takes apart has its gates shut, as before it was made.

    Cython leaves None in the place of the state, whose numbers the fast path would read, and write, behind None. Whoever has
    a weak reference that a finalizer of the same garbage has made still reaches the pool, from another finalizer or thread.
    `test_who_reaches_a_pool_that_is_taken_apart_finds_its_gates_shut`
    """
    cdef int outcome = clear_as_ever(pool)
    (<FastPath>pool).core = SHUT
    (<FastPath>pool).state = SHUT.state
    return outcome


cdef inline object have_gates_shut_at_last():
    set_clear_of_pools(FastPath, clear_pool)


cdef inline object ticket_for_one(FastPath self):
    """A new ticket of the engine."""
    return new_ticket(1) if isinstance(self._engine, Queueing) else self._engine.ticket(1)  # the former is what that does


cdef inline bint obtain_for(FastPath self, ticket, timeout) except -1:
    """Fill this ticket and check it out: `_obtain`."""
    if WITHOUT_GIL or obtain_quickly == NULL or not obtain_quickly(self, ticket, timeout):
        self._obtain(ticket, timeout)
    return True


cdef inline object take_top(FastPath self):
    """The top spare, checked out."""
    self.state.spare -= 1
    mirror_spare(self.state.mirror, self.state.spare, self.state.from_spare)
    if self.tracks:
        self.outstanding.add_pointer(mempool_lying(<void*>self.state.slots, self.state.spare))
    return mempool_pick(<void*>self.state.slots, self.state.spare)


# Without the GIL the same happens under the pool's mutex.

cdef inline void *take_top_bare(FastPath self) noexcept:
    """`take_top`, as a bare pointer, which owns what it points to."""
    cdef void *element
    self.state.spare -= 1
    mirror_spare(self.state.mirror, self.state.spare, self.state.from_spare)
    element = mempool_pick_bare(<void*>self.state.slots, self.state.spare)
    if self.tracks:
        self.outstanding.add_pointer(element)
    if is_buffer(element):
        adopt_block(element)
    return element


cdef inline void *take_held(FastPath self, bint at_last) noexcept:
    """`take_warm`, or `take_at_last`, as a bare pointer; NULL for None. Each time that an object gets another name here is
    a pair of atomic instructions, unless the very thread that made the element runs."""
    cdef void *element = NULL
    hold_mutex(&self.core.link.mutex)
    if self.state.fast_alloc_above != PY_SSIZE_T_MAX and self.state.spare > 0:
        if self.state.spare > self.state.fast_alloc_above:
            self.state.from_spare += 1
            element = take_top_bare(self)
        elif at_last or self.state.full or (self.state.rests_until != 0 and mempool_is_before(self.state.rests_until)):
            self.state.from_reserve += 1
            if self.state.mirror != NULL:
                self.state.mirror[MIRRORED_FROM_RESERVE] = self.state.from_reserve
            element = take_top_bare(self)
    release_mutex(&self.core.link.mutex)
    return element


cdef inline object owned(void *element):
    """As an object; NULL is None."""
    return None if element == NULL else mempool_owned(element)


cdef inline Buffer next_handle_of(FastPath self, void *element):
    """The next handle of a buffer, made before anything is held; None: it is none, or cannot be freed like this."""
    if not is_buffer(element) or (<Buffer>element).state != LIVE:
        return None
    if (<Buffer>element).block.owner is not self.core.owner or (<Buffer>element).block.is_lost:
        return None
    return successor_of(element)


cdef inline bint leave_user(FastPath self, void *element, Buffer next_handle) noexcept:
    """Under the mutex: what was out is its user's no more, and the next handle of a buffer is in force. False: nothing has changed."""
    if self.tracks:
        if not self.outstanding.remove_pointer(element):
            return False
    elif self.state.made - self.state.disposed - self.state.disposing <= self.state.spare:
        return False  # nothing is out
    if next_handle is not None:
        if not revoke_unnamed(element):
            if self.tracks:
                self.outstanding.add_pointer(element)
            return False
        enforce(next_handle)
    return True


cdef inline bint put_held(FastPath self, void *element) except? -1:
    """`put_warm`. A bare pointer: as an object it would be counted, there and back."""
    cdef bint done = False
    cdef Buffer next_handle = next_handle_of(self, element)
    if element == <void*>None or (next_handle is None and is_buffer(element)):
        return False
    hold_mutex(&self.core.link.mutex)
    if self.state.spare < self.state.fast_free_below and leave_user(self, element, next_handle):
        if next_handle is None:
            mempool_place_bare(<void*>self.state.slots, self.state.spare, element)
        else:
            mempool_place(<void*>self.state.slots, self.state.spare, next_handle)
        self.state.spare += 1
        mirror_spare(self.state.mirror, self.state.spare, self.state.from_spare)
        done = True
    release_mutex(&self.core.link.mutex)
    return done


cdef inline bint hand_on_held(FastPath self, element) except? -1:
    """`hand_on`."""
    cdef State state = self.state
    cdef Buffer next_handle = next_handle_of(self, <void*>element)
    if element is None or not self.core.fast_free or (next_handle is None and type(element) is Buffer):
        return False
    hold_mutex(&self.core.link.mutex)
    try:
        if state.closed or state.head is None or not state.has_use_for_another() or state.spare >= state.capacity:
            return False
        if not leave_user(self, <void*>element, next_handle):
            return False
        state.push_spare(element if next_handle is None else next_handle)
        self.core.serve_line(state)
        self.core.wake_drainers(state)
        self.core.commit(state)
        return True
    finally:
        release_mutex(&self.core.link.mutex)


cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX


cdef inline object take_at_last(FastPath self):
    """A spare, whether of the reserve or beyond it."""
    if WITHOUT_GIL:
        return owned(take_held(self, True))
    if self.state.fast_alloc_above == PY_SSIZE_T_MAX or self.state.spare <= 0:  # the gate is closed
        return None if self._quick is None else owned(self._quick.take(True))
    if self.state.spare > self.state.fast_alloc_above:
        self.state.from_spare += 1
    else:
        self.state.from_reserve += 1
        if self.state.mirror != NULL:
            self.state.mirror[MIRRORED_FROM_RESERVE] = self.state.from_reserve
    return take_top(self)


cdef inline object take_unasked(FastPath self):
    """One of the reserve, if there is no source to be asked before; see Supply._rest."""
    if not self.state.full and (self.state.rests_until == 0 or not mempool_is_before(self.state.rests_until)):
        return None if self._quick is None else owned(self._quick.take(False))
    return take_at_last(self)


cdef inline object take_warm(FastPath self):
    """A spare that may be had without asking the source, checked out; or None: go the slow way."""
    if WITHOUT_GIL:
        return owned(take_held(self, False))
    if self.state.spare <= self.state.fast_alloc_above:
        return take_unasked(self)
    self.state.from_spare += 1
    return take_top(self)


cdef inline bint put_warm(FastPath self, element) except? -1:
    """Take back an element that is out while there is room and nobody waits. False: go the slow way."""
    if WITHOUT_GIL:
        return put_held(self, <void*>element)
    if self.state.spare >= self.state.fast_free_below:
        return self._quick is not None and self._quick.put(element)
    return put_here(self, element)


cdef inline bint put_directly(FastPath self, void *element) except? -1:
    """`put_warm` for `free`: an engine of another kind is asked at once, which saves a call."""
    if WITHOUT_GIL:
        return put_held(self, element)
    if self._quick is not None:
        return self._quick.put(<object>element)
    return put_warm(self, <object>element)


cdef inline bint put_here(FastPath self, element) except? -1:
    """`put_warm` while there is room."""
    if type(element) is Buffer:
        return put_buffer(self, <Buffer>element)
    if self.tracks:
        if not self.outstanding.remove_pointer(<void*>element):
            return False
    elif element is None or self.state.made - self.state.disposed - self.state.disposing <= self.state.spare:
        return False  # nothing, or nothing is out
    mempool_place(<void*>self.state.slots, self.state.spare, element)
    self.state.spare += 1
    mirror_spare(self.state.mirror, self.state.spare, self.state.from_spare)
    return True


cdef inline bint is_free_to_go(FastPath self, Buffer buffer) noexcept:
    """Whether it is this pool's, is out, and nobody looks at its memory."""
    if buffer.state != LIVE or buffer.exporter != NULL or buffer.fills > 0:
        return False
    return buffer.block.owner is self.core.owner and not buffer.block.is_lost


cdef inline bint hand_on(FastPath self, element) except? -1:
    """Give an element that is out to whoever waits, as Decisions.check_in and take_back do, without a transfer. False: go the slow way.

    The caller then wakes those who are due, when it has noted that the element is no longer its own: a wake may raise.
    """
    cdef Buffer next_handle = None
    if WITHOUT_GIL:
        return hand_on_held(self, element)
    cdef State state = self.state
    if not self.core.fast_free or state.closed or state.head is None or not state.has_use_for_another():
        return False
    if state.spare >= state.capacity or state.out() <= 0:
        return False
    if type(element) is Buffer:
        if not is_free_to_go(self, <Buffer>element):
            return False
        next_handle = new_handle((<Buffer>element).block)
    if self.tracks:
        if not self.outstanding.remove_pointer(<void*>element):
            return False
    elif element is None:
        return False
    if next_handle is None:
        state.push_spare(element)
    else:
        (<Buffer>element).state = DEAD
        next_handle.state = LIVE
        state.push_spare(next_handle)
    self.core.serve_line(state)
    self.core.wake_drainers(state)
    self.core.commit(state)
    return True


cdef inline bint put_buffer(FastPath self, Buffer buffer) except? -1:
    """The same for a buffer: this handle dies, another one of the same memory goes to the free list."""
    if not is_free_to_go(self, buffer):
        return False
    if not self.tracks and self.state.made - self.state.disposed - self.state.disposing <= self.state.spare:
        return False  # nothing is out: it was written off
    cdef PyObject *next_handle = owned_handle()
    if self.tracks and not self.outstanding.remove_pointer(<void*>buffer):
        Py_DECREF(next_handle)
        return False
    (<Buffer>next_handle).block = buffer.block
    buffer.state = DEAD
    (<Buffer>next_handle).state = LIVE
    mempool_place_owned(<void*>self.state.slots, self.state.spare, next_handle)
    self.state.spare += 1
    mirror_spare(self.state.mirror, self.state.spare, self.state.from_spare)
    return True


# -- as they are called: the usual case, before any arguments are looked through

cdef inline object usual_alloc(object pool, PyObject **arguments, Py_ssize_t count, PyObject *names):
    """`alloc()`."""
    cdef void *bare
    if not WITHOUT_GIL and count == 0 and names == NULL:
        if (<FastPath>pool).state.spare > (<FastPath>pool).state.fast_alloc_above:
            (<FastPath>pool).state.from_spare += 1
            return take_top(<FastPath>pool)
        if (<FastPath>pool)._quick is not None:
            bare = (<FastPath>pool)._quick.take(False)
            if bare != NULL:
                return mempool_owned(bare)
        else:
            element = take_unasked(<FastPath>pool)
            if element is not None:
                return element
    return quick_alloc.rest(pool, arguments, count, names)


cdef inline object usual_free(object pool, PyObject **arguments, Py_ssize_t count, PyObject *names):
    """`free(element)`."""
    if count != 1 or names != NULL:
        return quick_free.rest(pool, arguments, count, names)
    if not put_directly(<FastPath>pool, arguments[0]):
        if hand_on(<FastPath>pool, <object>arguments[0]):
            (<FastPath>pool).core.wake_pending()
        else:
            pool._free_slowly(<object>arguments[0], False)
    return None


cdef inline object own_method(type, name, method):
    """A method as one of this very type."""
    if name == "alloc":
        return shorten_method(type, method, &quick_alloc, usual_alloc)
    if name == "free":
        return shorten_method(type, method, &quick_free, usual_free)
    return mempool_own_method(type, method)
