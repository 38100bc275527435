"""The pools of this process by name: what `mempool.get` looks in. Keeps no pool alive, and decides nothing about one.

A name is looked up in two steps. First each resolver is asked, the latest first: where code runs in a context that has
pools of its own (a worker of Dask, of which one process may run several), the resolver of that context answers. Then the
pools of the process are looked through.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mempool.errors import PoolError

if TYPE_CHECKING:
    from mempool.base_pool import BasePool

__all__ = ["get", "pools", "register", "register_resolver"]

# A dict of weak references, because each change of it is one step, whoever interrupts it.
_pools: dict[int, weakref.ref[BasePool[Any]]] = {}
_resolvers: list[Callable[[str], BasePool[Any] | None]] = []


def get(name: str) -> BasePool[Any]:
    """The pool of this name, from wherever code has no reference to it: in a task, a request handler, a plugin.

        frames = Pool(Buffers("1 MiB"), reserve=16, name="frames")  # somewhere, and kept there
        with mempool.get("frames").lease() as buf:                  # elsewhere
            ...

    The name that a pool was made with, or `pool-1` and so on where it was made without. A pool that is closed, or that
    nobody refers to any more, is not found. Raises LookupError where there is no such pool, or more than one; it names the
    pools that there are.
    """
    if not isinstance(name, str):
        raise TypeError(f"mempool.get: the name of a pool is a str, not {name!r}")
    for resolve in _resolvers.copy():
        resolved = resolve(name)
        if resolved is not None:
            return resolved
    living = pools()
    named = [pool for pool in living if pool.name == name]
    opened = [pool for pool in named if _may_be_open(pool)]
    if len(opened) == 1:
        return opened[0]
    raise LookupError(_why_not(name, living, named, opened))


def _why_not(name: str, living: list[BasePool[Any]], named: list[BasePool[Any]], opened: list[BasePool[Any]]) -> str:
    if opened:
        return (
            f"{len(opened)} pools of this process are called {name!r}; give each a name of its own, or hand the pool itself "
            "to the code that needs it"
        )
    if named:
        return f"pool {name!r} is closed; make another of that name before you ask for it"
    others = sorted({pool.name for pool in living if _may_be_open(pool)})
    there_are = f"there are {', '.join(map(repr, others))}" if others else "there are none"
    return (
        f"no pool of this process is called {name!r}; {there_are}. Make it with Pool(..., name={name!r}) in this process, "
        "before it is asked for, and keep a reference to it"
    )


def _may_be_open(pool: BasePool[Any]) -> bool:
    """A shared pool attaches anew in a child of a fork, before it answers. Where it cannot, whoever uses it is told why."""
    try:
        return not pool.closed
    except (PoolError, OSError):
        return True


def pools() -> list[BasePool[Any]]:
    """The pools of this process that somebody refers to, in the order in which they were made; closed ones, too."""
    living = [reference() for reference in list(_pools.values())]
    return [pool for pool in living if pool is not None]


def tables() -> tuple[object, ...]:
    """Where all this is kept: without the GIL, what has a lock of CPython's own."""
    return _pools, _resolvers


def register(pool: BasePool[Any]) -> None:
    """Let `get` find this pool as long as it lives. Each kind of pool calls it last in its constructor, as `Pool` does."""
    key = id(pool)
    _pools[key] = weakref.ref(pool, lambda reference: _forget(key, reference))


def _forget(key: int, reference: weakref.ref[BasePool[Any]]) -> None:
    if _pools.get(key) is reference:
        _pools.pop(key, None)


def register_resolver(resolve: Callable[[str], BasePool[Any] | None]) -> Callable[[], None]:
    """Let a function say which pool a name means where it is asked for. Returns a function that takes it back.

    resolve: called by `get` with the name, in the thread, task and context of its caller, before the pools of the process
        are looked through; the resolver that was registered last is asked first. It returns the pool; or None, where the
        caller is in none of its contexts, so that the next is asked. Where the caller is in one of its contexts and there is
        no such pool, it raises LookupError: another context's pool of that name must not be found.

        def resolve(name):
            worker = worker_of_this_thread()        # yours; None outside of a worker
            if worker is None:
                return None
            if name not in worker.pools:
                raise LookupError(f"worker {worker.name} has no pool {name!r}; create it with ...")
            return worker.pools[name]

        remove = register_resolver(resolve)
    """

    def remove() -> None:
        for place, other in enumerate(_resolvers):
            if other is resolve:
                del _resolvers[place]
                return

    # Last, so that whoever finds no memory for `remove` has registered nothing.
    _resolvers.insert(0, resolve)
    return remove
