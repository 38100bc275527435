"""Memory is out, or the limit is reached: what the reserve costs then, beside what a warm element costs.

One thread. The source fails whenever it is asked; the pool asks it now and then. The last rows are a job and not a pair of
calls: a file is read in chunks, each into a buffer of its own, and hashed, while nobody can make another buffer. Beside it
the same with a SimpleQueue that was filled with bytearrays before: what somebody would write who needs no more than that.
"""

from __future__ import annotations

import hashlib
import operator
import queue
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

from mempool.benchmarks import peers
from mempool.benchmarks.measure import (
    ROUNDS,
    ROUNDS_QUICK,
    SLICES,
    SLICES_QUICK,
    Row,
    Target,
    in_rounds,
    in_words,
    ratios,
    row_of,
    slices_of,
)
from mempool.benchmarks.uncontended import LEASE, POOL, dry, limited, warm

from mempool import Buffers, Pool

GROUP = "running_out"
CHUNK, CHUNKS, CHUNKS_QUICK, BUFFERS = 65536, 256, 32, 4
#: A job as fast as another one: as near as two runs of the same come.
AS_FAST = Target(1.05)


def calls(*, quick: bool) -> Iterator[Row]:
    """Pairs of calls."""
    failing, full, at_hand = dry("identity"), limited("identity"), warm("identity")
    ways: dict[str, tuple[peers.Peer, str, Target | None]] = {
        f"{POOL}, the source fails always": (peers.bound(failing.alloc, failing.free), POOL, Target(2.0)),
        f"{POOL}, the limit is reached": (peers.bound(full.alloc, full.free), POOL, Target(2.0)),
        "alloc_reserved + free": (peers.bound(full.alloc_reserved, full.free), POOL, Target(1.5)),
        "try_alloc + free, the source fails always": (peers.bound(failing.try_alloc, failing.free), POOL, None),
        f"{LEASE}, the source fails always": (lease(failing), LEASE, None),
        f"{LEASE}, the limit is reached": (lease(full), LEASE, None),
    }
    contestants = {name: way for name, (way, _beside, _target) in ways.items()}
    contestants |= {POOL: peers.bound(at_hand.alloc, at_hand.free), LEASE: lease(at_hand)}
    seconds = in_rounds(
        {name: slices_of(peer.statement, quick=quick, **peer.names) for name, peer in contestants.items()},
        ROUNDS_QUICK if quick else ROUNDS,
    )
    for name, (_peer, beside, target) in ways.items():
        note = f"{in_words(min(seconds[name]))} : {in_words(min(seconds[beside]))}"
        yield row_of(GROUP, name, f"{beside}, warm", ratios(seconds, name, beside), target=target, note=note)


def lease(pool: Pool[object]) -> peers.Peer:
    return peers.Peer("with lease(): pass", {"lease": pool.lease})


def hashed(file: Path, take: Callable[[], Any], give: Callable[[Any], object], look: Callable[[Any], memoryview]) -> float:
    """Seconds for the whole file. look: what makes a view of a buffer."""
    began = perf_counter()
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as opened:
        while True:
            buffer = take()
            with look(buffer) as view:
                count = opened.readinto(view)
                digest.update(view[:count])
            give(buffer)
            if not count:
                break
    assert digest.digest()
    return perf_counter() - began


def no_memory() -> Any:
    raise MemoryError


def jobs(*, quick: bool) -> Iterator[Row]:
    """A file, hashed."""
    source = Buffers(CHUNK)
    pool = Pool(source, BUFFERS)
    source.alloc = no_memory  # type: ignore[method-assign]
    shelf: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
    for _ in range(BUFFERS):
        shelf.put(bytearray(CHUNK))
    slices = SLICES_QUICK if quick else SLICES
    whole = operator.itemgetter(slice(None))  # of a Buffer that is a view, on every Python; of a bytearray a copy
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "file")
        file.write_bytes(bytes(CHUNK) * (CHUNKS_QUICK if quick else CHUNKS))
        seconds = in_rounds(
            {
                "pool": lambda: min(hashed(file, pool.alloc, pool.free, whole) for _ in range(slices)),
                "SimpleQueue": lambda: min(hashed(file, shelf.get, shelf.put, memoryview) for _ in range(slices)),
            },
            ROUNDS_QUICK if quick else ROUNDS,
        )
    note = f"{in_words(statistics.median(seconds['pool']))} : {in_words(statistics.median(seconds['SimpleQueue']))}"
    note += f"; {pool.stats().source_failures} failures of the source"
    yield row_of(
        GROUP,
        f"hash a file in chunks of {CHUNK >> 10} KiB, memory out",
        "SimpleQueue of bytearrays",
        ratios(seconds, "pool", "SimpleQueue"),
        target=AS_FAST,
        note=note,
    )


def run(*, quick: bool) -> Iterator[Row]:
    yield from calls(quick=quick)
    yield from jobs(quick=quick)
