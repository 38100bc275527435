"""Threads as the operating system knows them, whatever a library of greenlets has put into the place of Python's.

gevent and eventlet replace `_thread.get_ident` and `_thread._local` by their own, which tell the greenlets of one thread
apart. Here the thread is meant: after a fork all greenlets of the forking thread live on, and nobody else.
"""

from __future__ import annotations

import _thread
import select
import sys
import sysconfig
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

#: Whether this Python was built to run without the GIL.
WITHOUT_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


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
    get_ident: Callable[[], int] = threading.get_ident
    local = threading.local
    RLock: Callable[[], Any] = threading.RLock
    start_new_thread: Callable[[Callable[[], object], tuple[()]], int] = threading._start_new_thread  # type: ignore[attr-defined]
    Lock: Callable[[], Any] = threading.Lock
else:
    get_ident = _unpatched("get_ident")
    local = _unpatched("_local")
    RLock = _unpatched("RLock")
    start_new_thread = _unpatched("start_new_thread")
    Lock = _unpatched("allocate_lock")


def poll() -> Any:
    """`select.poll()` of the system, which stops this thread and no greenlet."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("select"):
        return gevent.get_original("select", "poll")()
    if eventlet is not None and eventlet.is_monkey_patched("select"):
        return eventlet.original("select").poll()
    return select.poll()


def start_thread(run: Callable[[], object], name: str) -> None:
    """Begin a daemon thread of the system's. Raises RuntimeError where none can be had."""
    if _thread.start_new_thread is start_new_thread:
        threading.Thread(target=run, name=name, daemon=True).start()
    else:  # of a patched `threading`, a Thread would be a greenlet
        start_new_thread(run, ())
