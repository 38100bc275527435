from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from libc.string cimport memset
from mempool._core.transfer cimport Transfer

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
    cdef int state
    cdef public bint lingers
    cdef void *exporter
    cdef int fills
    cdef object view
    cdef object lent

cdef inline Buffer new_handle(Block block):
    """A handle that is not in force yet: nobody can look through it."""
    cdef Buffer buffer = Buffer.__new__(Buffer)
    buffer.block = block
    return buffer

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

cdef inline Exporter exporter_of(Buffer self):
    """What the views of this handle look through; the first of them makes it."""
    cdef Exporter exporter
    if self.exporter != NULL:
        return <Exporter>self.exporter
    exporter = Exporter.__new__(Exporter)
    exporter.buffer = self
    self.exporter = <void*>exporter
    return exporter

cdef inline void pass_on(Buffer old, Buffer next_handle):
    """The views that look through `old` keep `next_handle` from now on. The caller has a reference to each."""
    cdef Exporter exporter = <Exporter>old.exporter
    next_handle.exporter = old.exporter
    next_handle.lingers = True
    old.exporter = NULL
    exporter.buffer = next_handle

cdef inline void expose(Exporter self, Py_buffer *view, int flags):
    """By hand, because PyBuffer_FillInfo would overwrite the None that Cython has put into obj, and leave it behind."""
    view.obj = self
    view.buf = self.buffer.block.pointer
    view.len = self.buffer.block.size
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
