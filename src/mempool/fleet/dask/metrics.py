"""The pools of a fleet on `/metrics` of workers and of the scheduler, where prometheus_client is installed.

Dask serves the process's registry there, so a collector in it is all that is needed. One for each process, whatever number
of workers it runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mempool.fleet.node import Node
from mempool.fleet.values import Outcome

#: What the scheduler knows: (worker's name, pool's name, standing).
Row = tuple[str, str, Any]

# By identity, and not WeakSets: those are run over in Python, and fail where another loop's thread adds one meanwhile: each
# loop serves `/metrics` of the whole process. See test_metrics_are_collected_while_another_one_begins.
_nodes: weakref.WeakValueDictionary[int, Node] = weakref.WeakValueDictionary()
_fleets: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_registered: dict[str, Any] = {}


def add_node(node: Node) -> None:
    """Show the pools of a worker."""
    _nodes[id(node)] = node
    _register()


def forget_node(node: Node) -> None:
    """The worker has ended."""
    _nodes.pop(id(node), None)


def add_fleet(fleet: Any) -> None:
    """Show what a scheduler knows: `fleet.revisions()` is what is wanted, `fleet.rows(revisions)` are Rows of that."""
    _fleets[id(fleet)] = fleet
    _register()


def forget_fleet(fleet: Any) -> None:
    """The scheduler has ended."""
    _fleets.pop(id(fleet), None)


def _register() -> None:
    if _registered:
        return
    try:
        import prometheus_client
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    except ImportError:
        return  # Dask's own page says so

    class Collector:
        def collect(self) -> Iterator[Any]:
            yield from _of_nodes(_living(_nodes), GaugeMetricFamily, CounterMetricFamily)
            yield from _of_fleets(_living(_fleets), GaugeMetricFamily)

    # In one step, as a second one raises ValueError. See test_two_that_begin_at_once_are_shown_by_one_collector.
    collector = Collector()
    if _registered.setdefault("collector", collector) is collector:
        prometheus_client.REGISTRY.register(collector)


def _living(noted: weakref.WeakValueDictionary[int, Any]) -> list[Any]:
    return [thing for reference in noted.valuerefs() if (thing := reference()) is not None]


def _of_nodes(nodes: Iterable[Node], gauge: Callable[..., Any], counter: Callable[..., Any]) -> Iterator[Any]:
    labels = ["pool", "worker"]
    elements = gauge("mempool_elements", "Elements of the pool, by where they are", labels=[*labels, "state"])
    gauges = {
        "reserve": gauge("mempool_reserve_elements", "How many elements the pool promises", labels=labels),
        "keep": gauge("mempool_keep_elements", "How many spares stay warm", labels=labels),
        "limit": gauge("mempool_limit_elements", "How many may exist at once; absent: no limit", labels=labels),
        "waiting": gauge("mempool_waiting", "Callers in the line", labels=labels),
    }
    unfunded = gauge("mempool_unfunded_elements", "The part of the reserve that memory lacks for", labels=labels)
    revision = gauge("mempool_fleet_revision", "The latest revision of the fleet that the pool has", labels=labels)
    counters = {
        "made": counter("mempool_made", "Elements made by the source", labels=labels),
        "disposed": counter("mempool_disposed", "Elements given to the source's free, or written off", labels=labels),
        "resizes": counter("mempool_resizes", "Resizes that reached their moment", labels=labels),
        "source_failures": counter("mempool_source_failures", "How often the source ran out of memory", labels=labels),
        "waits_timed_out": counter("mempool_waits_timed_out", "Waits that ended with PoolTimeout", labels=labels),
    }
    for node in nodes:
        for name, member in list(node.members.items()):
            key = [name, node.name]
            revision.add_metric(key, member.revision)
            if not member.is_first():
                continue  # another worker of the machine counts the pool that they share
            stats = member.pool.stats()
            for state in ("spare", "out", "disposing"):
                elements.add_metric([*key, state], getattr(stats, state))
            for field, family in (gauges | counters).items():
                value = getattr(stats, field)
                if value is not None:
                    family.add_metric(key, value)
            unfunded.add_metric(key, member.pool.guarantee().unfunded)
    yield from (elements, *gauges.values(), unfunded, revision, *counters.values())


def _of_fleets(fleets: Iterable[Any], gauge: Callable[..., Any]) -> Iterator[Any]:
    workers = gauge("mempool_fleet_workers", "Workers, by what became of the latest revision", labels=["pool", "outcome"])
    wanted = gauge("mempool_fleet_wanted_revision", "The latest revision that was ordered", labels=["pool"])
    figures = {
        field: gauge(
            f"mempool_fleet_{field}", f"As the last heartbeats of the workers said: {said}", labels=["pool", "worker"]
        )
        for field, said in (
            ("reserve", "elements promised"),
            ("spare", "elements in the pool's hands"),
            ("out", "elements in users' hands"),
            ("waiting", "callers in the line"),
            ("unfunded", "the part of the reserve that memory lacks for"),
        )
    }
    for fleet in fleets:
        revisions = fleet.revisions()
        counts = {(pool, outcome): 0 for pool in revisions for outcome in Outcome}
        for worker, pool, standing in fleet.rows(revisions):
            counts[pool, standing.outcome] += 1
            if standing.report is not None:
                for field, family in figures.items():
                    family.add_metric([pool, worker], getattr(standing.report, field))
        for (pool, outcome), count in counts.items():
            workers.add_metric([pool, str(outcome)], count)
        for pool, revision in revisions.items():
            wanted.add_metric([pool], revision)
    yield from (workers, wanted, *figures.values())
