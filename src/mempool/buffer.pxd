from mempool._core.line cimport Hands

cdef class Block:
    cdef readonly object region
    cdef readonly object source
    cdef public object home
    cdef readonly Py_ssize_t size
    cdef char *pointer

cdef enum:
    BLANK = 0
    LIVE = 1
    DEAD = 2

cdef class Buffer:
    cdef object __weakref__
    cdef readonly Block block
    cdef Buffer heir
    cdef int state
    cdef Py_ssize_t exports
    cdef object view

cdef inline Buffer blank(Block block):
    """A handle that is not in force yet: nobody can look through it."""
    cdef Buffer buffer = Buffer.__new__(Buffer)
    buffer.block = block
    return buffer
