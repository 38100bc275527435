"""Where elements come from: ready-made sources, each an object with `alloc()` and `free(element)`.

Objects, Buffers        any object; memory that is really there
Limited                 no more than so many at once
Logged, replay          a file of what was asked; the same asked again
Faulty                  fails on purpose
OnFailure               asks a function to find memory, and tries again
Translated              other exceptions that mean that there is no memory
Fallback                another source where the first fails
Room                    how many more a source could make
Memory, Region          where the bytes of Buffers live
Provider, RegionLike    where else they may live: what Buffers(memory=...) needs
BufferRegion            a region made of any writable buffer
"""

from mempool.sources.adaptors import Fallback, Faulty, Limited, OnFailure, Translated
from mempool.sources.buffers import Buffers
from mempool.sources.logged import Logged, Replay, replay
from mempool.sources.memory import Memory, Region
from mempool.sources.objects import Objects
from mempool.sources.protocol import Room
from mempool.sources.provider import BufferRegion, Provider, RegionLike

__all__ = [
    "BufferRegion",
    "Buffers",
    "Fallback",
    "Faulty",
    "Limited",
    "Logged",
    "Memory",
    "Objects",
    "OnFailure",
    "Provider",
    "Region",
    "RegionLike",
    "Replay",
    "Room",
    "Translated",
    "replay",
]
