"""All pools of this process: for a fork, for the end of the interpreter, and for deadlocks across pools."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - registers its hook before ours, so that ours runs first
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from mempool import parking
from mempool.native import get_ident
from mempool.sources import forks  # noqa: F401 - registers its hook before ours, so that ours knows what is lost

if TYPE_CHECKING:
    from mempool.pool import Pool

# A dict of weak references, because each change of it is one step, whoever interrupts it.
_pools: dict[int, weakref.ref[Pool[Any]]] = {}
#: Not empty: the interpreter joins its threads.
_ending: list[bool] = []


def register(pool: Pool[Any]) -> None:
    """Know this pool as long as it lives."""
    if _ending:
        pool.core.dismiss()
    key = id(pool)
    _pools[key] = weakref.ref(pool, lambda reference: _forget(key, reference))


def _forget(key: int, reference: weakref.ref[Pool[Any]]) -> None:
    if _pools.get(key) is reference:
        _pools.pop(key, None)


def pools() -> list[Pool[Any]]:
    """The pools that live now."""
    living = [reference() for reference in list(_pools.values())]
    return [pool for pool in living if pool is not None]


def _after_fork_in_child() -> None:
    """The child has working pools: nobody stands in the line but the forking thread. No lock can be left locked: none is."""
    lost: list[tuple[Pool[Any], Any]] = []
    for pool in pools():
        pool._recovering = deque([0])
        for token in list(pool._resizing):
            if token[0] != get_ident():
                pool._resizing.pop(token, None)
        for fill, thread in list(pool._fills.items()):
            if thread != get_ident():
                pool._fills.pop(fill, None)
        hands = pool._take_lost()
        if hands.count:
            lost.append((pool, hands))
        pool.core.after_fork(get_ident(), sum(fill.filling for fill in pool._fills))
    parking.wake_this_thread()
    errors: list[Exception] = []
    for pool, hands in lost:
        try:
            pool._dispose(hands)
        except Exception as error:  # noqa: BLE001 - a source's; raised below, when all are told
            errors.append(error)
    if errors:
        raise errors[0]


def _at_exit() -> None:
    """Threads that still wait would keep the interpreter from ending: each gets PoolClosed."""
    _ending.append(True)
    for pool in pools():
        pool.core.dismiss()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
# The hook that runs before the interpreter joins its threads. concurrent.futures uses it too; atexit comes too late.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
