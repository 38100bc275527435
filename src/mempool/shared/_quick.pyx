# cython: language_level=3, freethreading_compatible=False, binding=False, embedsignature=False
"""SharedQuick: `alloc` and `free` of a SharedPool where nobody has to wait, and no memory to be fetched or given back.

The decisions are those of the slow way (decisions.py), and so is what is left if the process is killed in here: what it had
leased is reclaimed. A buffer is alive only after its slot is leased, and dead only after it is not; nothing in between runs
Python code, so no thread and no finalizer sees it otherwise.
"""

from mempool._core.fast_path cimport Quick
from mempool.buffer cimport DEAD, LIVE, Block, Buffer
from mempool.shared._engine cimport QuickClient, Region, come_back, go_out

import cython


@cython.final
cdef class SharedQuick(Quick):
    cdef QuickClient tx
    cdef object engine, owner

    def __init__(self, engine, QuickClient tx not None, owner not None):
        """engine: kept alive while anything is out. owner: whose the buffers are."""
        self.engine = engine
        self.tx = tx
        self.owner = owner

    cdef object take(self, bint at_last):
        # Made first: if there is no memory for it, nothing has been taken.
        cdef Buffer buffer = Buffer.__new__(Buffer)
        if not self.tx.take_quickly(not at_last):
            return None
        buffer.block = <Block>self.tx.blocks[self.tx.got_slot]
        go_out(self.tx, <Region>buffer.block.region, self.tx.got_lease, self.engine)
        buffer.state = LIVE
        return buffer

    cdef bint put(self, element) except? -1:
        cdef Buffer buffer
        cdef Region region
        if type(element) is not Buffer:
            return False
        buffer = <Buffer>element
        if buffer.state != LIVE or buffer.exporter != NULL or buffer.fills > 0:
            return False
        if buffer.block.owner is not self.owner or buffer.block.is_lost:
            return False
        region = <Region>buffer.block.region
        if not self.tx.give_quickly(region.slot, region.lease):
            return False
        buffer.state = DEAD
        come_back(self.tx, region)
        return True
