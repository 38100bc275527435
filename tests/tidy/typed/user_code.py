"""What a user writes, as the type checkers see it. `# T: ...` says what they must reveal; test_typing.py compares."""

from __future__ import annotations

import asyncio
import io
from typing import Any, reveal_type

import mempool
from mempool import Buffer, Buffers, Chunk, Guarantee, Lease, Leases, Objects, Pool, PoolStats

frames = Pool(Buffers("64 KiB"), reserve=4, limit=8)
lists = Pool(Objects(list[int]), reserve=1)

reveal_type(frames)  # T: Pool[Buffer]
reveal_type(lists)  # T: Pool[list[int]]
reveal_type(frames.alloc())  # T: Buffer
reveal_type(frames.alloc(timeout=1.0))  # T: Buffer
reveal_type(frames.try_alloc())  # T: Buffer | None
reveal_type(frames.alloc_reserved())  # T: Buffer | None
reveal_type(lists.alloc_many(2))  # T: list[list[int]]
reveal_type(frames.lease())  # T: Lease[Buffer]
reveal_type(frames.lease_many(2))  # T: Leases[Buffer]
reveal_type(frames.lease_many(2, timeout=1.0, linger=True).elements)  # T: list[Buffer]
reveal_type(lists.lease().element)  # T: list[int]
reveal_type(frames.guarantee())  # T: Guarantee
reveal_type(frames.resize(8, keep=9, limit=None))  # T: Guarantee
reveal_type(frames.stats())  # T: PoolStats
reveal_type(frames.stats().as_dict())  # T: dict[str, Any]
reveal_type(frames.limit)  # T: int | None
reveal_type(frames.reserve)  # T: int

with frames.lease() as buf:
    reveal_type(buf)  # T: Buffer
    reveal_type(buf[0])  # T: int
    reveal_type(buf[:10])  # T: memoryview[int]
    io.BytesIO(b"abc").readinto(buf)
    reveal_type(bytes(buf))  # T: bytes

with frames.lease_many(2) as both:
    reveal_type(both)  # T: list[Buffer]

for chunk in frames.read(io.BytesIO(b"abc")):
    reveal_type(chunk)  # T: Chunk
    with chunk as view:
        reveal_type(view)  # T: memoryview[int]


def length(element: Buffer, item: str) -> int:
    return len(element) + len(item)


reveal_type(list(frames.map(length, ["a"])))  # T: list[int]


def holds(lease: Lease[Buffer], leases: Leases[Buffer], chunk: Chunk, guarantee: Guarantee, stats: PoolStats) -> Any:
    return lease.element, leases.elements, chunk.size, guarantee.held, stats.out


async def in_a_loop() -> None:
    reveal_type(await frames.alloc_async())  # T: Buffer
    reveal_type(await lists.alloc_many_async(2))  # T: list[list[int]]
    async with frames.lease() as buf:
        reveal_type(buf)  # T: Buffer
    async with lists.lease() as items:
        reveal_type(items)  # T: list[int]
    async with lists.lease_many(2) as several:
        reveal_type(several)  # T: list[list[int]]
    reveal_type(await frames.lease_many(2))  # T: Leases[Buffer]


with Pool(Objects(bytearray), 1) as pool:
    reveal_type(pool)  # T: Pool[bytearray]

asyncio.run(in_a_loop())
mempool.rescue("1 MiB")
