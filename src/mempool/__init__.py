"""mempool: a reserve of elements that can always be had, even when making new ones fails.

Pool                    the pool: alloc, free, lease, resize
Objects, Buffers        where elements come from
Limited, Logged, Faulty, OnFailure, Translated, Fallback    adaptors: a source around a source
SharedPool              a pool of buffers that several processes share, exact after kill -9; Linux on x86-64
Token                   an element of a SharedPool on its way to another process
Guarantee, PoolStats    what a pool promises; what it has done
Lease, Leases           holds an element and returns it at the end; several together
Chunk                   what `pool.read(file)` yields: a buffer with bytes in it
Buffer                  an element of Buffers: memory in your hands, until you free it
get                     the pool of a name
upkeep                  refills, trims and warns in the background
rescue                  a ballast that is thrown off when memory runs out
PoolError ...           what can go wrong
mempool.pressure        pools that follow the memory pressure of the machine
mempool.linux           the kernel's own names
"""

import os

from mempool._core import IMPLEMENTATION
from mempool.buffer import Buffer
from mempool.errors import (
    DeadlockError,
    DeadlockTimeout,
    DoubleFree,
    ForeignElement,
    LineFull,
    PoisonError,
    PoolClosed,
    PoolError,
    PoolTimeout,
    StaleToken,
    UseAfterFree,
)
from mempool.lease import Lease
from mempool.leases import Leases
from mempool.maintenance import upkeep
from mempool.pool import Pool
from mempool.reading import Chunk
from mempool.registry import get
from mempool.rescue import rescue
from mempool.shared.pool import SharedPool, Token
from mempool.sources import Buffers, Fallback, Faulty, Limited, Logged, Objects, OnFailure, Translated
from mempool.sources.source import Source
from mempool.stats import Guarantee, PoolStats
from mempool.tracking import Holder

__version__ = "0.1.0"

if os.environ.get("MEMPOOL_WATCH"):
    from mempool.watch.publishing import begin_from_environment

    begin_from_environment()

__all__ = [
    "IMPLEMENTATION",
    "Buffer",
    "Buffers",
    "Chunk",
    "DeadlockError",
    "DeadlockTimeout",
    "DoubleFree",
    "Fallback",
    "Faulty",
    "ForeignElement",
    "Guarantee",
    "Holder",
    "Lease",
    "Leases",
    "Limited",
    "LineFull",
    "Logged",
    "Objects",
    "OnFailure",
    "PoisonError",
    "Pool",
    "PoolClosed",
    "PoolError",
    "PoolStats",
    "PoolTimeout",
    "SharedPool",
    "Source",
    "StaleToken",
    "Token",
    "Translated",
    "UseAfterFree",
    "get",
    "rescue",
    "upkeep",
]
