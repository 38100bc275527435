"""What a pool costs in memory, each figure from a child process of its own: the resident size, read before and after.

    python -m mempool.benchmarks.resident bookkeeping KIND ELEMENTS
    python -m mempool.benchmarks.resident burst KIND SIZE COUNT

Prints one JSON object. A child, because what was resident once is not always given back, and would be counted for the next.
"""

from __future__ import annotations

import collections
import gc
import json
import queue
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mempool.benchmarks import peers

from mempool import Buffers, Objects, Pool

#: Warm buffers that a pool keeps after a burst.
KEPT = 16
#: After the burst, one buffer in so many is still in use.
SURVIVORS_EVERY = 64


def resident() -> int:
    """Bytes of this process that are in memory now. Source: proc(5), statm."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


# -- bookkeeping


def shelf_of_pool(things: list[object], track: str) -> tuple[int, int]:
    """Bytes of a pool with all of these spare, and with all of them out."""
    ready = iter(things)

    def make() -> object:
        thing = next(ready, None)
        if thing is None:
            raise MemoryError
        return thing

    before = resident()
    pool = Pool(Objects(make), len(things), keep=len(things), limit=len(things), track=track)
    spare = resident() - before
    taken = pool.alloc_many(len(things))
    out = resident() - before - sys.getsizeof(taken)
    assert len(taken) == pool.stats().out == len(things)
    return spare, out


def bookkeeping(kind: str, elements: int) -> dict[str, float]:
    """Bytes per element beside the elements themselves."""
    things = [object() for _ in range(elements)]
    if kind.startswith("pool"):
        spare, out = shelf_of_pool(things, kind.removeprefix("pool, track="))
        return {"spare": spare / elements, "out": out / elements}
    before = resident()
    shelf: Any
    if kind == "collections.deque":
        shelf = collections.deque()
        keep = shelf.append
    elif kind == "queue.LifoQueue":
        shelf = queue.LifoQueue()
        keep = shelf.put
    else:
        shelf = {}

        def keep(thing: object) -> None:
            shelf[id(thing)] = thing

    for thing in things:
        keep(thing)
    return {"spare": (resident() - before) / elements}


# -- a burst


def of_pool(size: int) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    pool = Pool(Buffers(size), 0, keep=KEPT)
    return pool.alloc, pool.free


def of_numpy(size: int) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    import numpy as np

    return lambda: np.empty(size, np.uint8), lambda _array: None


def of_arrow(name: str, size: int) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    import pyarrow as pa

    pool = peers.arrow_pool(name)
    return lambda: pa.allocate_buffer(size, memory_pool=pool), lambda _buffer: None


def burst(kind: str, size: int, count: int) -> dict[str, float]:
    """Bytes resident beyond the beginning: when all are in use, when one in 64 still is, and when none is."""
    if kind == "pool":
        take, give = of_pool(size)
    elif kind == "numpy":
        take, give = of_numpy(size)
    else:
        take, give = of_arrow(kind.removeprefix("pyarrow, "), size)
    line = b"\1" * size
    base = resident()
    buffers: list[Any] = []
    for _ in range(count):
        buffer = take()
        memoryview(buffer).cast("B")[:] = line
        buffers.append(buffer)
    del buffer
    most = resident() - base
    for place in range(count):
        if place % SURVIVORS_EVERY:
            give(buffers[place])
            buffers[place] = None
    some = resident() - base - size * len(range(0, count, SURVIVORS_EVERY))
    for place in range(0, count, SURVIVORS_EVERY):
        give(buffers[place])
        buffers[place] = None
    return {"most": most, "some": some, "none": resident() - base}


def in_a_child(*arguments: object) -> dict[str, float]:
    """Run one of these and return what it printed. Raises ImportError for a peer that is missing."""
    command = [sys.executable, "-m", "mempool.benchmarks.resident", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    answer = json.loads(done.stdout)
    if "missing" in answer:
        raise ImportError(name=answer["missing"])
    figures: dict[str, float] = answer
    return figures


def _main(what: str, kind: str, *numbers: str) -> None:
    try:
        answer: dict[str, Any] = {"bookkeeping": bookkeeping, "burst": burst}[what](kind, *map(int, numbers))
    except ImportError as error:
        answer = {"missing": error.name}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main(*sys.argv[1:])
