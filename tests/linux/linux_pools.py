"""What the tests of mempool.linux share: a pool on the model's memory, and a clock for one that is alone."""

from __future__ import annotations

from typing import Any

from kernel_model import Memory

from mempool import linux
from mempool.linux import GFP_NOWAIT, Mempool, mempool_alloc, mempool_alloc_preallocated, mempool_create
from mempool.testing import Element

IO = linux.__GFP_IO
DIRECT_RECLAIM = linux.__GFP_DIRECT_RECLAIM
#: What alloc_fn sees in each mempool_alloc, whatever the caller says.
ALWAYS = linux.__GFP_NOMEMALLOC | linux.__GFP_NORETRY | linux.__GFP_NOWARN


def create(min_nr: int, memory: Memory | None = None) -> Mempool[Element]:
    """A pool that was made, for tests that want no more than that."""
    memory = memory or Memory()
    pool = mempool_create(min_nr, memory.alloc, memory.free, None)
    assert pool is not None
    return pool


def take(pool: Mempool[Element], gfp_mask: int = GFP_NOWAIT) -> Element:
    element = mempool_alloc(pool, gfp_mask)
    assert element is not None
    return element


def drain(pool: Mempool[Any]) -> list[Any]:
    """All spares, top first."""
    return list(iter(lambda: mempool_alloc_preallocated(pool), None))
