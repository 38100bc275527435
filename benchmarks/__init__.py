"""mempool measured beside everything else there is: `mempool bench [GROUP ...]`, or `make bench`.

measure.py       how: interleaved rounds, ratios taken round by round
peers.py         beside what: the same pair of calls, as each peer writes it
uncontended.py   one thread, elements at hand
asynchronous.py  one event loop, elements at hand
contended.py     more threads than elements
resize.py        the cost of a resize, and what other threads see of it
memory.py        a warm buffer beside fresh memory; bookkeeping; what stays resident
growth.py        the cost of a call as spares, elements out and callers in line grow
failure.py       a source that fails more and more often
report.py        the table
plots.py         the pictures

These files lie beside `src` in the tree and are installed as `mempool.benchmarks`. Nothing is asserted: a target that is
missed is printed as missed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from mempool.benchmarks.measure import Row

#: In the order in which they run.
GROUPS = ("uncontended", "asynchronous", "contended", "resize", "memory", "growth", "failure")


def run(group: str, *, quick: bool) -> Iterator[Row]:
    """Measure one group; yields its rows as they are known."""
    module = importlib.import_module(f"mempool.benchmarks.{group}")
    yield from module.run(quick=quick)
