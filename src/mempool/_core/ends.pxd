from mempool._core.line cimport Hands
from mempool._core.reserve cimport Reserve

cdef class Ends:
    cdef object __weakref__
    cdef readonly Reserve core
    cdef readonly dict fills
