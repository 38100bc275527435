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
import time
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

#: Whether this Python was built to run without the GIL.
WITHOUT_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def _unpatched(module: ModuleType, name: str) -> Any:
    """`module.name` as CPython made it, even when this module is imported after the patching; None where it has none."""
    found = [getattr(module, name, None)]
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    # Another thread may be in the midst of importing these: they lack then what comes later in them, and patched nothing.
    if gevent is not None and hasattr(gevent, "get_original") and found[0] is not None:
        found.append(gevent.get_original(module.__name__, name))
    if eventlet is not None and hasattr(eventlet, "original"):
        found.append(getattr(eventlet.original(module.__name__), name, None))
    return next((thing for thing in found if getattr(thing, "__module__", None) == module.__name__), found[0])


if TYPE_CHECKING:
    get_ident: Callable[[], int] = threading.get_ident
    local = threading.local
    RLock: Callable[[], Any] = threading.RLock
    start_new_thread: Callable[[Callable[[], object], tuple[()]], int] = threading._start_new_thread  # type: ignore[attr-defined]
    Lock: Callable[[], Any] = threading.Lock
    sleep: Callable[[float], None] = time.sleep
else:
    get_ident = _unpatched(_thread, "get_ident")
    local = _unpatched(_thread, "_local")
    #: Keep one in a slot. eventlet, when it patches, replaces every RLock that it finds in a dict, a list or the `vars` of
    #: an object by one that stops a greenlet, and a thread of the system's that waits for that one hangs for good. It looks
    #: into no slot. See test_what_was_made_before_the_patching_goes_on_after_it.
    RLock = _unpatched(_thread, "RLock")
    start_new_thread = _unpatched(_thread, "start_new_thread")
    Lock = _unpatched(_thread, "allocate_lock")
    sleep = _unpatched(time, "sleep")

#: `select.poll` of the system, which stops this thread and no greenlet; None where there is none.
poll: Callable[[], Any] | None = _unpatched(select, "poll")


class _Thread(threading.Thread):
    """One that ends without a word, even where gevent or eventlet have patched since it began."""

    def _delete(self) -> None:
        # `threading` looks for the ident of a greenlet then, finds none, and says so on stderr; who writes there while the
        # interpreter ends may abort the process. See test_a_thread_that_began_before_the_patching_ends_without_a_word.
        threading._active.pop(self.ident, None)  # type: ignore[attr-defined]


def thread(run: Callable[..., object], name: str, *arguments: object) -> threading.Thread:
    """A daemon thread, not begun. Under a library that has patched `threading` it is a greenlet."""
    # gevent has a class of its own, for which the end of the greenlet is the end of the thread: else `join` waits for ever.
    # See test_a_watched_process_that_was_patched_before_is_watched_no_more.
    kind = _Thread if threading.Thread is _Thread.__base__ else threading.Thread
    return kind(target=run, args=arguments, name=name, daemon=True)


#: Threads that run nothing of the user's any more: the main one, when all that it does is to join the others.
at_rest: list[threading.Thread] = []


def has_other_threads() -> bool:
    """Whether there are threads besides this one, and besides those of the library."""
    mine = (threading.current_thread(), *at_rest)
    return any(thread not in mine and not thread.name.startswith("mempool") for thread in threading.enumerate())


def start_thread(run: Callable[[], object], name: str) -> None:
    """Begin a daemon thread of the system's. Raises RuntimeError where none can be had."""
    if _thread.start_new_thread is start_new_thread:
        thread(run, name).start()
    else:  # of a patched `threading`, a Thread would be a greenlet
        start_new_thread(run, ())
