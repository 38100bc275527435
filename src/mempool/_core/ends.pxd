from mempool._core.transfer cimport Transfer
from mempool._core.decisions cimport Decisions

cdef class Ends:
    cdef object __weakref__
    cdef readonly Decisions core
    cdef readonly dict fills
