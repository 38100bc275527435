from mempool._core.reserve cimport Reserve

from mempool.lease cimport Lease, new_lease

cdef class Quick:
    cdef readonly Reserve core
