"""Where elements come from: ready-made sources, each an object with `alloc()` and `free(element)`."""

from mempool.sources.buffers import Buffers
from mempool.sources.memory import Memory, Region
from mempool.sources.objects import Objects

__all__ = ["Buffers", "Memory", "Objects", "Region"]
