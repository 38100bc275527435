"""What else a user could pick, each called as its own documentation calls it, warm, and with no option that slows it down.

A peer is a statement that takes an element and gives it back, and the names in it. `Missing` stands for one that is not
installed.
"""

from __future__ import annotations

import collections
import importlib
import queue
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

ELEMENTS = 16


@dataclass(frozen=True, slots=True)
class Peer:
    """One contestant: `statement` is executed with `names` as local variables."""

    statement: str
    names: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Missing:
    """A peer that cannot take part."""

    why: str

    @classmethod
    def by(cls, error: ImportError) -> Missing:
        return cls(f"not installed here ({error.name}); in a clone, pip install '.[bench]'")


def bound(take: Callable[[], Any], give: Callable[[Any], Any]) -> Peer:
    """Two bound methods, as code that cares about time would keep them."""
    return Peer("give(take())", {"take": take, "give": give})


def of_deque() -> Peer:
    shelf = collections.deque(object() for _ in range(ELEMENTS))
    return bound(shelf.pop, shelf.append)


def of_queue(make: Callable[[], Any]) -> Peer:
    shelf = make()
    for _ in range(ELEMENTS):
        shelf.put(object())
    return bound(shelf.get, shelf.put)


def of_object_pool() -> Peer:
    pool = importlib.import_module("object_pool").ObjectPool(object, max_size=ELEMENTS)
    return bound(pool.get, pool.put)


def of_generic_pool() -> Peer:
    generic_pool = importlib.import_module("generic_pool.pool")
    factory = importlib.import_module("generic_pool.factory").Factory
    made = type("Made", (factory,), {"create": lambda _self: object()})
    pool = generic_pool.Pool(made(), maxsize=ELEMENTS, eager=True)
    return bound(pool.acquire, pool.release)


def of_anopool() -> Peer:
    anopool = importlib.import_module("anopool")
    made = type("Made", (anopool.Manager,), {"create": lambda _self: object()})
    pool = anopool.Pool(made(), max_size=ELEMENTS)
    pool.open()
    return Peer("with acquire(): pass", {"acquire": pool.acquire})  # the only way it has


def of_fastalloc() -> Peer:
    pool = importlib.import_module("fastalloc").ThreadSafePool(bytearray, ELEMENTS, pre_initialize=True)
    return bound(pool.get, pool.release)


def of_pondpond() -> Peer:
    pond = importlib.import_module("pond")

    class Factory(pond.PooledObjectFactory):
        def createInstance(self) -> Any:  # noqa: N802 - its name
            return pond.PooledObject(object())

        def destroy(self, pooled_object: Any) -> None: ...

        def reset(self, pooled_object: Any, **_options: Any) -> Any:
            return pooled_object

        def validate(self, pooled_object: Any) -> bool:
            return pooled_object is not None

    factory = Factory(pooled_maxsize=ELEMENTS)
    # No thread that evicts: its counting would be measured as well.
    shelf = pond.Pond(borrowed_timeout=60, time_between_eviction_runs=-1, thread_daemon=True, eviction_weight=0.8)
    shelf.register(factory)
    names = {"borrow": shelf.borrow, "recycle": shelf.recycle, "factory": factory}
    return Peer("recycle(borrow(factory), factory)", names)


class Connection:
    """What SQLAlchemy's pool takes for a connection."""

    def rollback(self) -> None: ...

    def close(self) -> None: ...


def of_sqlalchemy() -> Peer:
    pool = importlib.import_module("sqlalchemy.pool").QueuePool(Connection, pool_size=ELEMENTS, reset_on_return=None)
    return Peer("connect().close()", {"connect": pool.connect})


#: Those of the target "at least 8 times faster than each".
POOLS: dict[str, Callable[[], Peer]] = {
    "queue.LifoQueue": lambda: of_queue(queue.LifoQueue),
    "object-pool": of_object_pool,
    "generic-pool": of_generic_pool,
    "anopool": of_anopool,
    "fastalloc": of_fastalloc,
    "pondpond": of_pondpond,
    "SQLAlchemy QueuePool": of_sqlalchemy,
}


def of_numpy() -> Peer:
    return Peer("empty(4096, 'u1')", {"empty": importlib.import_module("numpy").empty})


#: Allocators of pyarrow; one that its build lacks is missing.
ARROW_POOLS = ("mimalloc", "jemalloc", "system")


def arrow_pool(name: str) -> Any:
    pyarrow = importlib.import_module("pyarrow")
    try:
        return getattr(pyarrow, f"{name}_memory_pool")()
    except (AttributeError, NotImplementedError) as error:
        raise ImportError(str(error), name=f"pyarrow with {name}") from error


def of_arrow(name: str) -> Peer:
    allocate = importlib.import_module("pyarrow").allocate_buffer
    return Peer("allocate(4096, memory_pool=pool)", {"allocate": allocate, "pool": arrow_pool(name)})


#: For comparison, without a target: no pool, or no pool that waits.
OTHERS: dict[str, Callable[[], Peer]] = {
    "queue.SimpleQueue": lambda: of_queue(queue.SimpleQueue),
    "fresh bytearray(4096)": lambda: Peer("bytearray(4096)"),
    "fresh numpy.empty(4096)": of_numpy,
} | {f"fresh pyarrow buffer, {name}": partial(of_arrow, name) for name in ARROW_POOLS}


def find(make: Callable[[], Peer]) -> Peer | Missing:
    try:
        return make()
    except ImportError as error:
        return Missing.by(error)
