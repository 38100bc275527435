"""What a fleet costs: milliseconds until all workers have a resize, bytes of a beat; how soon a simulated one converges.

Workers in this process show what the scheduler and the workers compute, without a network; over TCP, on one machine's
loopback, in one process all the same, so that fifty of them fit on a few cores. Dask itself keeps about a quarter of a core
busy for fifty workers that do nothing. The simulation is that of the tests, simulated_fleet.py.
"""

from __future__ import annotations

import functools
import logging
import statistics
import warnings
from collections.abc import Iterator
from time import perf_counter, process_time

from mempool.benchmarks.measure import Row, Target, row_of
from mempool.benchmarks.peers import Missing
from mempool.benchmarks.simulated_fleet import simulate

from mempool import Buffers

GROUP = "fleet"
#: Workers, over what, and at most how many milliseconds.
SIZES = (
    (2, "inproc", None),
    (10, "inproc", None),
    (50, "inproc", Target(10)),
    (2, "tcp", None),
    (10, "tcp", None),
    (50, "tcp", Target(60)),
)
ROUNDS, ROUNDS_QUICK = 60, 15
SEEDS, SEEDS_QUICK = 40, 8
#: Bytes of a heartbeat, and the name of the pool that it is about.
BYTES_MAX, NAME = 64, "staging-of-16-ch"
BESIDE = "until each worker has answered"


def nothing() -> None:
    """What Dask has each worker do, for comparison."""


def resizes(workers: int, protocol: str, target: Target | None, rounds: int) -> Iterator[Row]:
    """How long one takes: the median of many, and the least of them, which is one that the machine did not disturb.

    Beside it, in turns with it, Dask's own way to have each worker do something, with nothing to do: no resize is faster.
    """
    import distributed

    from mempool.fleet.dask import Fleet

    over = "of this process" if protocol == "inproc" else "over TCP"
    options = {"host": "127.0.0.1"} if protocol == "tcp" else {}
    with (
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            protocol=protocol,
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            **options,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(workers)
        pool = Fleet(client).create("staging", functools.partial(Buffers, "64 KiB"), reserve=4, limit=8)
        pool.answer().wait(timeout=60)
        took, floor, processor = [], [], []
        for number in range(rounds):
            began = perf_counter()
            client.run(nothing)
            floor.append((perf_counter() - began) * 1000)
            began, used = perf_counter(), process_time()
            answer = pool.resize(reserve=4 + number % 2)
            if not answer.is_applied:  # on a machine that is busy with something else
                answer.wait(timeout=60)
            took.append((perf_counter() - began) * 1000)
            processor.append((process_time() - used) * 1000)
    what = f"{workers} workers {over}"
    ratio = f"{statistics.median(took) / statistics.median(floor):.1f} times the row below"
    yield row_of(GROUP, f"resize, {what}", BESIDE, took, unit="ms", target=target, note=ratio)
    yield row_of(GROUP, f"Client.run of nothing, {what}", BESIDE, floor, unit="ms")
    note = "the idle cluster's own included"
    yield row_of(GROUP, f"resize, {what}: processor", BESIDE, processor, unit="ms", note=note)


def heartbeat() -> Row:
    """What a pool adds to the heartbeat, with figures of five digits."""
    import msgpack

    from mempool.fleet import Outcome, Report
    from mempool.fleet.values import Revisions

    revision = Revisions().following()
    report = Report(revision, Outcome.DEFERRED, 0, 40_000, 60_000, 40_000, 40_000, 10_000, 40_000)
    size = len(msgpack.packb({NAME: report.as_wire()})) - 1  # without the map around all pools
    return row_of(
        GROUP, "a pool in a heartbeat", f"name of {len(NAME)} characters", [size], unit="B", target=Target(BYTES_MAX)
    )


def convergence(seeds: int) -> Iterator[Row]:
    """A thousand nodes, 20 crashes a minute, a tenth of all messages lost."""
    histories = [simulate(seed) for seed in range(seeds)]
    seconds = [history.seconds for history in histories]
    beside = f"1000 nodes, 10 % lost, {seeds} seeds"
    yield row_of(GROUP, "simulated: all have it, median", beside, seconds, unit="s", target=Target(2))
    yield row_of(GROUP, "simulated: all have it, worst", beside, [max(seconds)], unit="s", target=Target(5))
    back = sum(history.steps_back for history in histories)
    yield row_of(GROUP, "simulated: steps back", beside, [back], unit="", target=Target(0))
    orders = statistics.median(history.orders for history in histories)
    yield row_of(GROUP, "simulated: orders sent", beside, [orders], unit="", note="four resizes, and what crashed")


def run(*, quick: bool) -> Iterator[Row]:
    """All rows of the group."""
    warnings.simplefilter("ignore")  # distributed's, about itself
    yield from convergence(SEEDS_QUICK if quick else SEEDS)
    try:
        import distributed  # noqa: F401 - only to see that it is there
    except ImportError as error:
        why = Missing.by(error).why.replace("'.[bench]'", "'.[dask]'")
        yield Row(GROUP, "resize", BESIDE, note=why)
        return
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    yield heartbeat()
    for workers, protocol, target in SIZES:
        yield from resizes(workers, protocol, target, ROUNDS_QUICK if quick else ROUNDS)
