"""The half on a worker: a Node and its pools, handlers for orders, a metric for heartbeats. Nothing here blocks the loop."""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distributed import get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from mempool import registry
from mempool.base_pool import BasePool
from mempool.fleet.dask import internals, metrics
from mempool.fleet.node import Node
from mempool.fleet.threads import call, in_thread, in_thread_within
from mempool.fleet.values import Order, Outcome, Standing

#: Of the plugins, the metric and the handlers.
NAME = "mempool-fleet"
#: Seconds for which a new worker waits for its pools before it takes tasks. After that they go on growing beside them.
SETUP_SECONDS = 60.0

# By worker, because one process may run several; and not by plugin, because a plugin that is registered again is another.
_nodes: weakref.WeakKeyDictionary[Any, Node] = weakref.WeakKeyDictionary()


def _nodes_here() -> list[Node]:
    """Those of all workers of this process, whatever begins or ends in their loops meanwhile.

    Not `values()`: that is run over in Python, and fails then. See test_a_task_gets_its_pool_while_another_worker_begins.
    """
    workers = [worker for reference in _nodes.keyrefs() if (worker := reference()) is not None]
    return [node for worker in workers if (node := _nodes.get(worker)) is not None]


class FleetWorkerPlugin(WorkerPlugin):  # type: ignore[misc]  # distributed has no types
    """Makes the pools of a worker. Registered again, it finds those that are there, whoever holds elements of them.

    orders: as they travel; only a worker loads the sources in them.
    """

    name: str = NAME

    def __init__(self, orders: Sequence[Mapping[str, Any]]) -> None:
        self.orders: list[Mapping[str, Any]] = list(orders)

    async def setup(self, worker: Any) -> None:
        """Make the pools, or as much of them as there is memory for. Does not raise for what a source does."""
        node = _node_of(worker)
        work = [
            asyncio.ensure_future(in_thread(functools.partial(node.apply, Order.from_wire(order)))) for order in self.orders
        ]
        if work:
            await asyncio.wait(work, timeout=SETUP_SECONDS)

    async def teardown(self, worker: Any) -> None:
        """Close the pools if the worker closes, and only then: a plugin that is registered again is torn down first."""
        if internals.is_closing(worker):
            node = _nodes.pop(worker, None)
            if node is not None:
                metrics.forget_node(node)
                await in_thread(node.close)


def _node_of(worker: Any) -> Node:
    node = _nodes.get(worker)
    if node is None:
        internals.check(worker, "Worker")
        node = _nodes[worker] = Node(str(worker.name))
        internals.add_worker_handlers(worker, _handlers(node))
        internals.add_metric(worker, NAME, functools.partial(_report, node))
        metrics.add_node(node)
    return node


def _report(node: Node, _worker: Any) -> dict[str, Any]:
    """What the heartbeat carries. A fault is a field of it, because distributed would swallow the exception."""
    try:
        report = node.report()
        for member in node.due():
            call(member.reconcile)
    except Exception as error:  # noqa: BLE001 - passed on
        return {"": f"{type(error).__name__}: {error}"}
    return report


def _handlers(node: Node) -> dict[str, Any]:
    async def mempool_apply(order: bytes, within: float) -> bytes:
        return await _answer(functools.partial(node.apply, Order.from_wire(internals.unpacked(order))), within)

    async def mempool_refill(pool: str, within: float) -> bytes:
        return await _answer(functools.partial(node.refill, pool), within)

    return {"mempool_apply": mempool_apply, "mempool_refill": mempool_refill}


#: What is said of work that goes on.
_UNDER_WAY = Standing(Outcome.PENDING, "it is making or disposing of elements")


async def _answer(work: Callable[[], Standing], within: float) -> bytes:
    """What has become of it after so many seconds, at most."""
    standing: Standing = await in_thread_within(within, work, _UNDER_WAY)
    return internals.packed(standing.as_wire())


def _resolve(name: str) -> BasePool[Any] | None:
    """Which pool a name means in a task: that of the worker which runs it. Outside of tasks: that of the one worker."""
    try:
        node = _nodes.get(get_worker())
    except ValueError:  # outside of a task
        node = None
    if node is not None and (found := node.get(name)) is not None:
        return found
    elsewhere = [pool for other in _nodes_here() if (pool := other.get(name)) is not None]
    if node is not None and elsewhere:
        raise LookupError(
            f"worker {node.name!r} has no pool {name!r}, though another worker of this process has; Fleet(client).create "
            "makes one on each worker, and `print(fleet.stats())` says which worker could not"
        )
    if node is not None and not any(pool.name == name and not pool.closed for pool in registry.pools()):
        why = node.why(name)
        raise LookupError(
            f"worker {node.name!r} has no pool {name!r}{f', because of {why}' if why else ''}; make it on each worker "
            f"with Fleet(client).create({name!r}, ...) before tasks ask for it"
        )
    if len(elsewhere) > 1:
        raise LookupError(
            f"{len(elsewhere)} workers of this process have a pool {name!r} each; ask for it in a task, which finds "
            "its worker's"
        )
    return elsewhere[0] if elsewhere else None


registry.register_resolver(_resolve)
