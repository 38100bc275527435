"""What it costs to be seen: a pool whose figures are mirrored into a page, beside one whose figures are not.

One thread, warm elements. While it is measured, nobody reads the page, and then somebody does a thousand times a second.
Beside them, what many do instead: a counter of prometheus_client, told of each call.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mempool.benchmarks import peers
from mempool.benchmarks.measure import (
    ROUNDS,
    ROUNDS_QUICK,
    Row,
    Target,
    in_rounds,
    in_words,
    ratios,
    row_of,
    slices_of,
)
from mempool.benchmarks.uncontended import POOL, warm

from mempool import watch

GROUP = "watch"
SHOWN, READ = f"{POOL}, shown on a page", f"{POOL}, shown, and read 1,000 times a second"
COUNTED = f"{POOL}, and a counter of prometheus_client"
READER = """
import sys, time
from mempool.watch.reader import Reader
reader = Reader(sys.argv[1])
while True:
    list(reader.pages())
    time.sleep(0.001)
"""


def run(*, quick: bool) -> Iterator[Row]:
    """All rows."""
    home = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=home) as folder:
        try:
            hidden = warm("nothing")
            watch.publish(directory=folder)
        except OSError as error:
            yield Row(GROUP, SHOWN, POOL, note=str(error))
            return
        try:
            yield from _rows(hidden, folder, quick=quick)
        finally:
            watch.unpublish()


def _rows(hidden: Any, folder: str, *, quick: bool) -> Iterator[Row]:
    hidden._engine.core.mirror_to(None)
    shown = warm("nothing")
    ways = {POOL: peers.bound(hidden.alloc, hidden.free), SHOWN: peers.bound(shown.alloc, shown.free)}
    counted = _counted(hidden)
    if counted is not None:
        ways[COUNTED] = counted
    rounds = ROUNDS_QUICK if quick else ROUNDS
    seconds = in_rounds({name: slices_of(p.statement, quick=quick, **p.names) for name, p in ways.items()}, rounds)
    yield _row(seconds, SHOWN, POOL, Target(1.05))
    if counted is None:
        yield Row(GROUP, COUNTED, POOL, note="prometheus_client is missing")
    else:
        yield _row(seconds, COUNTED, POOL, None)
    if (os.cpu_count() or 1) < 2:
        yield Row(GROUP, READ, SHOWN, note="needs a second processor")
        return
    # By turns, and each time with a reader of its own: who reads takes a processor, and its cache.
    alone: dict[str, list[float]] = {SHOWN: [], READ: []}
    contestant = slices_of(ways[SHOWN].statement, quick=quick, **ways[SHOWN].names)
    for _ in range(rounds):
        alone[SHOWN] += in_rounds({SHOWN: contestant}, 1)[SHOWN]
        reader = subprocess.Popen([sys.executable, "-c", READER, folder])
        try:
            alone[READ] += in_rounds({READ: contestant}, 1)[READ]
        finally:
            reader.kill()
            reader.wait()
    yield _row(alone, READ, SHOWN, Target(1.01))


def _counted(pool: Any) -> peers.Peer | None:
    try:
        from prometheus_client import CollectorRegistry, Counter
    except ImportError:
        return None
    counter = Counter("allocs", "Told of each call.", registry=CollectorRegistry())
    return peers.Peer("free(take()); tell()", {"take": pool.alloc, "free": pool.free, "tell": counter.inc})


def _row(seconds: dict[str, list[float]], what: str, beside: str, target: Target | None) -> Row:
    note = f"{in_words(min(seconds[what]))} : {in_words(min(seconds[beside]))}"
    return row_of(GROUP, what, beside, ratios(seconds, what, beside), target=target, note=note)
