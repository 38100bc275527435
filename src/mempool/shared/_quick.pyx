# cython: language_level=3, freethreading_compatible=False, binding=False, embedsignature=False
"""SharedQuick: `alloc` and `free` of a SharedPool where nobody has to wait, and no memory to be fetched or given back.

The decisions are those of the slow way (decisions.py), and so is what is left if the process is killed in here: what it had
leased is reclaimed. A buffer is alive only after its slot is leased, and dead only after it is not; nothing in between runs
Python code, so no thread and no finalizer sees it otherwise.
"""

from mempool._core.fast_path cimport Quick
from mempool.buffer cimport DEAD, LIVE, Block, Buffer
from mempool.shared._engine cimport QuickClient, Region

import cython


def check_out(QuickClient tx not None, ticket, keeps):
    """What this ticket has is in living buffers, which are in its `elements`. False: go the slow way, nothing has happened.

    keeps: what must live while anything is out.
    """
    cdef list handles = ticket.handles, buffers = []
    cdef Buffer buffer
    cdef size_t slot
    # First buffers that are not alive: if there is no memory for one, the ticket has all elements still.
    for handle in handles:
        slot = handle.slot
        if tx.blocks[slot] == NULL:
            return False
        buffer = Buffer.__new__(Buffer)
        buffer.block = <Block>tx.blocks[slot]
        buffers.append(buffer)
    ticket.elements = buffers
    for buffer, handle in zip(buffers, handles):
        tx.lend(buffer.block.region, handle, keeps)
        buffer.state = LIVE
    ticket.let_go()
    return True


@cython.final
cdef class SharedQuick(Quick):
    cdef QuickClient tx
    cdef object engine, owner

    def __init__(self, engine, QuickClient tx not None, owner not None):
        """engine: kept alive while anything is out. owner: whose the buffers are."""
        self.engine = engine
        self.tx = tx
        self.owner = owner

    # No name for what is only read, and no function that is given an object: each would cost a pair of reference counts.

    cdef object take(self, bint at_last):
        # Made first: if there is no memory for it, nothing has been taken.
        cdef Buffer buffer = Buffer.__new__(Buffer)
        if not self.tx.take_quickly(not at_last):
            return None
        buffer.block = <Block>self.tx.blocks[self.tx.got_slot]
        if (<Region>buffer.block.region).lease == 0:  # as go_out
            if self.tx.out == 0:
                self.tx.keeps = self.engine
            self.tx.out += 1
        (<Region>buffer.block.region).lease = self.tx.got_lease
        buffer.state = LIVE
        return buffer

    cdef bint put(self, element) except? -1:
        if type(element) is not Buffer:
            return False
        if (<Buffer>element).state != LIVE or (<Buffer>element).exporter != NULL or (<Buffer>element).fills > 0:
            return False
        if (<Buffer>element).block.owner is not self.owner or (<Buffer>element).block.is_lost:
            return False
        if not self.tx.give_quickly(
            (<Region>(<Buffer>element).block.region).slot, (<Region>(<Buffer>element).block.region).lease
        ):
            return False
        (<Buffer>element).state = DEAD
        (<Region>(<Buffer>element).block.region).lease = 0  # as come_back
        self.tx.out -= 1
        if self.tx.out == 0:
            self.tx.keeps = None
        return True
