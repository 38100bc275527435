# cython: language_level=3
"""The C side of Quick, and the quick path, which is inlined where alloc, free and leases come in.

The quick path: one spare out of many, nobody in line; or one of the reserve, where the source cannot be asked, or rests
because it has just failed. The slow path comes to the same. No critical section here, and no
name for what is only read: each would cost a pair of reference counts, a tenth of the whole. The GIL keeps these few
lines whole; on a build without one, the gates `floor` and `room` are never open.
"""

from cpython.list cimport PyList_GET_ITEM
from mempool._core.books cimport Books, mempool_is_before
from mempool._core.line cimport Hands
from mempool._core.reserve cimport Reserve
from mempool._core.roll cimport Roll
from mempool.buffer cimport DEAD, LIVE, Buffer, blank

cdef str DEFAULT

cdef class Quick:
    cdef object __weakref__
    cdef readonly Reserve core
    cdef Books books
    cdef Roll roll
    cdef bint tracks

cdef extern from *:
    """
    /* Take what lies in a place and leave None: the reference moves, and no count changes but None's. */
    static inline PyObject *mempool_pick(PyObject *places, Py_ssize_t i) {
        PyObject *element = PyList_GET_ITEM(places, i);
        Py_INCREF(Py_None);
        PyList_SET_ITEM(places, i, Py_None);
        return element;
    }
    /* Put an element into a place that holds None. */
    static inline void mempool_place(PyObject *places, Py_ssize_t i, PyObject *element) {
        Py_DECREF(Py_None);
        Py_INCREF(element);
        PyList_SET_ITEM(places, i, element);
    }
    /* The same method as one of this very type: CPython calls it faster than an inherited one. */
    static inline PyObject *mempool_own_method(PyObject *type, PyObject *method) {
        return PyDescr_NewMethod((PyTypeObject *)type, ((PyMethodDescrObject *)method)->d_method);
    }
    """
    object mempool_own_method(object type, object method)
    object mempool_pick(list places, Py_ssize_t i)
    void mempool_place(list places, Py_ssize_t i, object element)


cdef inline object take_top(Quick self):
    """The top spare, signed out."""
    self.books.spare -= 1
    if self.tracks:
        self.roll.enter(<void*>PyList_GET_ITEM(self.books.places, self.books.spare))
    return mempool_pick(self.books.places, self.books.spare)


cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX


cdef inline object take_at_last(Quick self):
    """A spare, whether of the reserve or beyond it."""
    if self.books.floor == PY_SSIZE_T_MAX or self.books.spare <= 0:  # the gate is closed
        return None
    if self.books.spare > self.books.floor:
        self.books.from_spare += 1
    else:
        self.books.from_reserve += 1
    return take_top(self)


cdef inline object take_unasked(Quick self):
    """One of the reserve, if there is no source to be asked before; see Supply._rest."""
    if not self.books.full and (self.books.rests_until == 0 or not mempool_is_before(self.books.rests_until)):
        return None
    return take_at_last(self)


cdef inline object take_warm(Quick self):
    """A spare that may be had without asking the source, signed out; or None: go the slow way."""
    if self.books.spare <= self.books.floor:
        return take_unasked(self)
    self.books.from_spare += 1
    return take_top(self)


cdef inline bint put_warm(Quick self, element) except? -1:
    """Take back an element that is out while there is room and nobody waits. False: go the slow way."""
    if self.books.spare >= self.books.room:
        return False
    if type(element) is Buffer:
        return put_buffer(self, <Buffer>element)
    if self.tracks:
        if not self.roll.strike(<void*>element):
            return False
    elif element is None or self.books.made - self.books.disposed - self.books.disposing <= self.books.spare:
        return False  # nothing, or nothing is out
    mempool_place(self.books.places, self.books.spare, element)
    self.books.spare += 1
    return True


cdef inline bint is_free_to_go(Quick self, Buffer buffer) noexcept:
    """Whether it is this pool's, is out, and nobody looks at its memory."""
    if buffer.state != LIVE or buffer.exporter != NULL or buffer.fills > 0:
        return False
    return buffer.block.home is self.core.home and not buffer.block.is_lost


cdef inline bint hand_on(Quick self, element) except? -1:
    """Give an element that is out to whoever waits, as Reserve.sign_in and give do, without hands. False: go the slow way.

    The caller then spreads the news, when it has noted that the element is no longer its own: a wake may raise.
    """
    cdef Buffer heir = None
    cdef Books books = self.books
    if not self.core.quick_free or books.closed or books.head is None or not books.has_use_for_another():
        return False
    if books.spare >= books.capacity or books.out() <= 0:
        return False
    if type(element) is Buffer:
        if not is_free_to_go(self, <Buffer>element):
            return False
        heir = blank((<Buffer>element).block)
    if self.tracks:
        if not self.roll.strike(<void*>element):
            return False
    elif element is None:
        return False
    if heir is None:
        books.shelve(element)
    else:
        (<Buffer>element).state = DEAD
        heir.state = LIVE
        books.shelve(heir)
    self.core.serve_line(books)
    self.core.tell_drainers(books)
    self.core.shut(books)
    return True


cdef inline bint put_buffer(Quick self, Buffer buffer) except? -1:
    """The same for a buffer: this handle dies, another one of the same memory goes to the shelf."""
    if not is_free_to_go(self, buffer):
        return False
    if not self.tracks and self.books.made - self.books.disposed - self.books.disposing <= self.books.spare:
        return False  # nothing is out: it was written off
    cdef Buffer heir = blank(buffer.block)
    if self.tracks and not self.roll.strike(<void*>buffer):
        return False
    buffer.state = DEAD
    heir.state = LIVE
    mempool_place(self.books.places, self.books.spare, heir)
    self.books.spare += 1
    return True
