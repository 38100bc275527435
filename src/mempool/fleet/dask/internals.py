"""All of `distributed` that its documentation does not promise, in one place: what, why, and what breaks without it.

No other file of this package touches an attribute of these. `check` looks that they are there when a fleet begins, so that a
release of distributed that has dropped one is told of at once, and by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import distributed
import msgpack
from distributed.core import ConnectionPool, Status

#: Of which object, which attribute, why, and what breaks if it goes.
USED: tuple[tuple[str, str, str, str], ...] = (
    (
        "Scheduler", "handlers",
        "a client asks the scheduler for a resize by a name of its own, without sending code that is unpickled there",
        "create, resize, refill and stats of Fleet; Client.run_on_scheduler would be the way, with pickle",
    ),
    (
        "Scheduler", "worker_plugins",
        "what later workers begin with is written there; to register the plugin anew has each worker run its teardown first",
        "later workers begin with the targets of when the first pool was made, until their first heartbeat",
    ),
    (
        "Scheduler", "rpc",
        "an order to one worker has a time limit of its own; Scheduler.broadcast has none: one stopped worker would hang it",
        "orders to workers; heartbeats alone could not carry them",
    ),
    (
        "Worker", "handlers",
        "a worker takes an order without its plugin being registered again",
        "orders to workers",
    ),
    (
        "Worker", "metrics",
        "what a worker says of its pools rides on the heartbeat that is sent anyway",
        "the comparison with each heartbeat, stats, and the scheduler's /metrics: they would need calls of their own",
    ),
    (
        "Worker", "status",
        "teardown runs when a worker closes and when a plugin is registered again; only the first may close pools",
        "pools would have to stay open for as long as the process lives",
    ),
    (
        "Client", "scheduler",
        "the client's connection to the scheduler, for the handlers above",
        "create, resize, refill and stats of Fleet",
    ),
    (
        "Client", "sync",
        "one method serves clients of threads and of event loops",
        "fleets on asynchronous clients",
    ),
)  # fmt: skip

#: Besides: `distributed.core.ConnectionPool`, for connections that no broadcast closes, see Connections. If it goes:
#: `Scheduler.rpc` itself, and after each Client.run the next resize opens a connection to each worker.
#:
#: The worker handler that adds a plugin to one worker. If it goes: workers that ran before the first pool of a fleet was
#: made get none until they are restarted.
PLUGIN_ADD = "plugin-add"


def check(server: Any, kind: str) -> None:
    """Raise RuntimeError, naming what is missing, if this distributed has not all that is used of a kind of object."""
    missing = [attribute for owner, attribute, _, _ in USED if owner == kind and not hasattr(server, attribute)]
    if missing:
        raise RuntimeError(
            f"distributed {distributed.__version__} has no {kind}.{', '.join(missing)}, which mempool.fleet.dask needs; "
            "use a release that it was tested with, see its documentation"
        )


# -- what is sent


def packed(value: Any) -> bytes:
    """Numbers, strings, bytes, lists and dicts as bytes: distributed would look at each, once for each worker."""
    return bytes(msgpack.packb(value))


def unpacked(value: bytes) -> Any:
    """What `packed` was given."""
    return msgpack.unpackb(value, strict_map_key=False)


# -- the scheduler


def add_scheduler_handlers(scheduler: Any, handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Let clients call these."""
    scheduler.handlers.update(handlers)


def set_plugin_of_later_workers(scheduler: Any, name: str, plugin: bytes) -> None:
    """What each worker that registers from now on sets up."""
    scheduler.worker_plugins[name] = plugin


class Connections:
    """Connections of a scheduler to its workers, kept for the next call.

    Not those of `scheduler.rpc`: Scheduler.broadcast, which is behind Client.run, takes one of each worker from there and
    closes it. Whoever resizes next would have to open all of them first.
    """

    def __init__(self, scheduler: Any) -> None:
        like = scheduler.rpc
        self._pool = ConnectionPool(
            limit=like.limit,
            deserialize=like.deserialize,
            serializers=like.serializers,
            deserializers=like.deserializers,
            connection_args=like.connection_args,
            timeout=like.timeout,
            server=scheduler,
        )
        self._calls: dict[str, Any] = {}  # by address

    async def start(self) -> None:
        """Before the first call."""
        await self._pool.start()

    async def call(self, address: str, handler: str, **message: Any) -> Any:
        """Have a worker's handler answer. None: it has no such handler. Raises OSError where it cannot be reached."""
        calls = self._calls.get(address)
        if calls is None:
            calls = self._calls[address] = self._pool(address)
        return await getattr(calls, handler)(**message)

    def forget(self, address: str) -> None:
        """The worker has gone."""
        if self._calls.pop(address, None) is not None:
            self._pool.remove(address)

    async def close(self) -> None:
        """The scheduler ends."""
        await self._pool.close()


# -- a worker


def add_worker_handlers(worker: Any, handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Let the scheduler call these."""
    worker.handlers.update(handlers)


def add_metric(worker: Any, name: str, metric: Callable[[Any], Any]) -> None:
    """Have each heartbeat carry what this returns. It must not raise: distributed would leave it out, and say nothing."""
    worker.metrics[name] = metric


def is_closing(worker: Any) -> bool:
    """Whether the worker ends, and not only its plugin."""
    return worker.status in {Status.closing, Status.closed, Status.failed}


# -- a client


async def call_scheduler(client: Any, handler: str, **message: Any) -> Any:
    """Have a scheduler's handler answer. Raises what it raises."""
    return await getattr(client.scheduler, handler)(**message)


def sync(client: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a coroutine function; for an asynchronous client, what it awaits."""
    return client.sync(function, *args, **kwargs)
