"""Threads as the operating system knows them, whatever a library of greenlets has put into the place of Python's.

gevent and eventlet replace `_thread.get_ident` and `_thread._local` by their own, which tell the greenlets of one thread
apart. Here the thread is meant: after a fork all greenlets of the forking thread live on, and nobody else.
"""

from __future__ import annotations

import _thread
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any


def _unpatched(name: str) -> Any:
    """`_thread.name` as CPython made it, even when this module is imported after the patching."""
    found = [getattr(_thread, name)]
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None:
        found.append(gevent.get_original("_thread", name))
    if eventlet is not None:
        found.append(getattr(eventlet.original("_thread"), name, None))
    return next((thing for thing in found if getattr(thing, "__module__", None) == "_thread"), found[0])


if TYPE_CHECKING:
    import threading

    get_ident: Callable[[], int] = threading.get_ident
    local = threading.local
    RLock: Callable[[], Any] = threading.RLock
    start_new_thread: Callable[[Callable[[], object], tuple[()]], int] = threading._start_new_thread  # type: ignore[attr-defined]
else:
    get_ident = _unpatched("get_ident")
    local = _unpatched("_local")
    RLock = _unpatched("RLock")
    start_new_thread = _unpatched("start_new_thread")
