"""Loops of one process, as two LocalClusters have: what comes to one while another thread looks does not disturb that."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from elements import Weak
from sweeps import struck_before_line

pytest.importorskip("distributed", reason="mempool[dask] is not installed")
prometheus = pytest.importorskip("prometheus_client", reason="mempool[export] is not installed")

from mempool.fleet import Controller, Order, Targets  # noqa: E402 - needs distributed
from mempool.fleet.dask import metrics, worker  # noqa: E402 - as above
from mempool.fleet.dask.scheduler import FleetSchedulerPlugin  # noqa: E402 - as above
from mempool.fleet.node import Node  # noqa: E402 - as above


class Silent:
    """A transport to nodes that never answer."""

    def now(self) -> float:
        return 0.0

    def send(self, node: str, order: Order) -> None:
        """It is lost."""


def order(pool: str) -> Order:
    return Order(pool, 0, Targets(1))


def fleet_of(*nodes: str) -> Any:
    """A scheduler's half with these nodes, and two pools."""
    fleet: Any = FleetSchedulerPlugin()
    fleet.controller = Controller(Silent())
    fleet._scheduler = SimpleNamespace(workers={})
    for node in nodes:
        fleet.controller.joined(node)
    for pool in ("a", "b"):
        fleet.controller.want(order(pool))
    return fleet


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A registry in the place of the process' own, in which nothing is shown yet; the next call puts another one there."""

    def renew() -> Any:
        registry = prometheus.CollectorRegistry(auto_describe=True)
        monkeypatch.setattr(prometheus, "REGISTRY", registry)
        monkeypatch.setattr(metrics, "_registered", type(metrics._registered)())
        return registry

    return renew


def test_a_task_gets_its_pool_while_another_worker_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run in threads, workers begin in their loops. `mempool.get` had raised RuntimeError."""
    for number in itertools.count(1):
        monkeypatch.setattr(worker, "_nodes", weakref.WeakKeyDictionary())
        workers = [Weak() for _ in range(3)]
        for one in workers[:2]:
            worker._nodes[one] = Node("there")

        def begin(one: Weak = workers[2]) -> None:
            worker._nodes[one] = Node("new")

        with struck_before_line(number, begin, "dask/worker.py", "weakref.py"):
            assert worker._resolve("no pool of a fleet") is None
        if len(worker._nodes) == 2:
            break
    assert number > 5


@pytest.mark.parametrize(
    ("make", "add", "forget"),
    [
        pytest.param(lambda: Node("a"), metrics.add_node, metrics.forget_node, id="worker"),
        pytest.param(lambda: fleet_of("a"), metrics.add_fleet, metrics.forget_fleet, id="scheduler"),
    ],
)
def test_metrics_are_collected_while_another_one_begins(
    registry: Callable[[], Any], make: Callable[[], Any], add: Callable[[Any], None], forget: Callable[[Any], None]
) -> None:
    """Each loop serves `/metrics` of the whole process. That had failed with RuntimeError."""
    for number in itertools.count(1):
        shown = registry()
        things = [make() for _ in range(3)]
        begun = []

        def begin(begun: list[Any] = begun, thing: Any = things[2]) -> None:
            add(thing)
            begun.append(thing)

        for thing in things[:2]:
            add(thing)
        with struck_before_line(number, begin, "dask/metrics.py", "weakref.py", "weakrefset.py"):
            assert "mempool_elements" in {family.name for family in shown.collect()}
        for thing in things:
            forget(thing)
        if not begun:
            break
    assert number > 5


def test_two_that_begin_at_once_are_shown_by_one_collector(registry: Callable[[], Any]) -> None:
    """The second one had failed: "Duplicated timeseries in CollectorRegistry"."""
    for number in itertools.count(1):
        shown = registry()
        nodes = [Node("a"), Node("b")]
        begun = []

        def begin(begun: list[Node] = begun, node: Node = nodes[1]) -> None:
            metrics.add_node(node)
            begun.append(node)

        with struck_before_line(number, begin, "dask/metrics.py"):
            metrics.add_node(nodes[0])
        assert [family.name for family in shown.collect()].count("mempool_elements") == 1
        for node in nodes:
            metrics.forget_node(node)
        if not begun:
            break
    assert number > 5


def test_metrics_are_collected_while_a_fleet_changes(registry: Callable[[], Any]) -> None:
    """In another thread than the scheduler's: a node joins and one leaves, a pool is made and one removed."""
    for number in itertools.count(1):
        shown = registry()
        fleet = fleet_of("first", "second")
        changed = []

        def change(controller: Controller = fleet.controller, changed: list[int] = changed) -> None:
            controller.joined("third")
            controller.left("first")
            controller.remove("a")
            changed.append(controller.want(order("c")))

        metrics.add_fleet(fleet)
        with struck_before_line(number, change, "dask/metrics.py", "dask/scheduler.py", "controller.py"):
            assert "mempool_fleet_workers" in {family.name for family in shown.collect()}
        metrics.forget_fleet(fleet)
        if not changed:
            break
    assert number > 5
