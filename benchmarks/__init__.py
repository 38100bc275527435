"""mempool measured beside everything else there is: `mempool bench [GROUP ...]`, or `make bench`.

measure.py       how: interleaved rounds, ratios taken round by round
peers.py         beside what: the same pair of calls, as each peer writes it
uncontended.py   one thread, elements at hand
running_out.py   memory is out, or the limit is reached
asynchronous.py  one event loop, elements at hand; more tasks than elements
contended.py     more threads than elements
resize.py        the cost of a resize, and what other threads see of it
memory.py        a warm buffer beside fresh memory; bookkeeping; what stays resident
growth.py        the cost of a call as spares, elements out and callers in line grow
failure.py       a source that fails more and more often
shared.py        a pool of several processes; twin.py: its twin behind a lock
watch.py         what it costs to be seen from outside
fleet.py         pools on many workers of Dask; simulated_fleet.py: a thousand of them over a bad network
pressure.py      what it costs to follow memory pressure, and how soon it is met
report.py        the table
plots.py         the pictures

These files lie beside `src` in the tree and are installed as `mempool.benchmarks`. Nothing is asserted: a target that is
missed is printed as missed.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from mempool.benchmarks.measure import Row

#: In the order in which they run.
GROUPS = (
    "uncontended",
    "running_out",
    "asynchronous",
    "contended",
    "resize",
    "memory",
    "growth",
    "failure",
    "shared",
    "watch",
    "fleet",
    "pressure",
)


def run(group: str, *, quick: bool) -> Iterator[Row]:
    """Measure one group, in a process of its own: what malloc does depends on all that was freed before."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as process:
        yield from process.submit(measure_here, group, quick).result()


def measure_here(group: str, quick: bool) -> list[Row]:
    """Measure one group in this process."""
    return list(importlib.import_module(f"mempool.benchmarks.{group}").run(quick=quick))
