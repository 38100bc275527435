# cython: language_level=3
"""The C side of Quick, and the quick path, which is inlined where alloc, free and leases come in.

The quick path: one spare out of many, nobody in line. The slow path comes to the same. No critical section here, and no
name for what is only read: each would cost a pair of reference counts, a tenth of the whole. The GIL keeps these few
lines whole; on a build without one, the gates `floor` and `room` are never open.
"""

from cpython.list cimport PyList_GET_ITEM
from mempool._core.books cimport Books
from mempool._core.reserve cimport Reserve
from mempool._core.roll cimport Roll
from mempool.buffer cimport DEAD, LIVE, Buffer, blank

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


cdef inline object take_warm(Quick self):
    """A spare beyond the reserve, signed out; or None: go the slow way."""
    if self.books.spare <= self.books.floor:
        return None
    self.books.from_spare += 1
    return take_top(self)


cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX


cdef inline object take_at_last(Quick self):
    """As take_warm, but of the reserve, too."""
    if self.books.floor == PY_SSIZE_T_MAX or self.books.spare <= 0:  # the gate is closed
        return None
    self.books.from_reserve += 1
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


cdef inline bint put_buffer(Quick self, Buffer buffer) except? -1:
    """The same for a buffer: this handle dies, another one of the same memory goes to the shelf."""
    if buffer.state != LIVE or buffer.exporter != NULL or buffer.fills > 0 or buffer.block.home is not self.core.home:
        return False
    cdef Buffer heir = blank(buffer.block)
    if self.tracks and not self.roll.strike(<void*>buffer):
        return False
    buffer.state = DEAD
    heir.state = LIVE
    mempool_place(self.books.places, self.books.spare, heir)
    self.books.spare += 1
    return True
