"""All engines of this process: for a fork, for the end of the interpreter, and for deadlocks across pools."""

from __future__ import annotations

import _thread
import concurrent.futures.thread  # noqa: F401 - registers its hook before ours, so that ours runs first
import contextlib
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mempool import native, parking
from mempool._core.base_decisions import renew_locks
from mempool.sources import forks  # noqa: F401 - registers its hook before ours, so that ours knows what is lost

if TYPE_CHECKING:
    from mempool.engine import Engine

# A dict of weak references, because each change of it is one step, whoever interrupts it.
_engines: dict[int, weakref.ref[Engine]] = {}
#: Not empty: the interpreter joins its threads.
_ending: list[bool] = []
#: What is called with each new engine: at most one, see `on_register`.
_hooks: list[Callable[[Engine], object]] = []


class Unfinished(Protocol):
    """Work that a daemon thread has, and that must not be lost with it."""

    def finish(self, patience: float | None = None) -> None:
        """Do it, or wait until it is done, or until nothing was done for so many seconds."""

    def after_fork(self, survivor: int) -> Callable[[], object] | None:
        """Only the thread with this ident lives. Returns what remains to be done once all pools are sound."""


#: Seconds for which the end of the interpreter waits for a source that gets nothing done.
END_PATIENCE = 5.0
#: Seconds for which the end of a forked process waits for daemon threads to leave the lines that they stand in.
WAITERS_PATIENCE = 1.0
#: Who has such work now. Held here, because its pool may be dropped before it is done.
unfinished: dict[Unfinished, None] = {}


def register(engine: Engine) -> None:
    """Know this engine as long as it lives."""
    if _ending:
        engine.end_waiting()
    key = id(engine)
    _engines[key] = weakref.ref(engine, lambda reference: _forget(key, reference))
    for hook in tuple(_hooks):  # which may take itself away
        hook(engine)


def on_register(hook: Callable[[Engine], object] | None) -> None:
    """Call this with each engine that is registered from now on, and nothing else any more. None: nothing."""
    _hooks[:] = [] if hook is None else [hook]


def _forget(key: int, reference: weakref.ref[Engine]) -> None:
    if _engines.get(key) is reference:
        _engines.pop(key, None)


def engines() -> list[Engine]:
    """The engines that live now."""
    living = [reference() for reference in list(_engines.values())]
    return [engine for engine in living if engine is not None]


def is_ending() -> bool:
    """Whether the interpreter joins its threads."""
    return bool(_ending)


def ends_at_once() -> bool:
    """Whether this is a process that multiprocessing has forked and that ends.

    It calls `os._exit` next, and then nothing is done that is done where an interpreter ends.
    """
    multiprocessing = sys.modules.get("multiprocessing")
    if not _ending or multiprocessing is None or multiprocessing.parent_process() is None:
        return False
    kind = getattr(multiprocessing.current_process(), "_start_method", None)
    return bool((kind or multiprocessing.get_start_method(allow_none=True)) != "spawn")


def _after_fork_in_child() -> None:
    """The child has working pools: nobody stands in the line but the forking thread."""
    survivor = native.get_ident()
    renew_locks(_engines, unfinished, _hooks)
    remaining = [rest for work in list(unfinished) if (rest := work.after_fork(survivor)) is not None]
    remaining += [rest for engine in engines() if (rest := engine.after_fork()) is not None]
    parking.wake_this_thread()
    errors: list[Exception] = []
    for rest in remaining:
        try:
            rest()
        except Exception as error:  # noqa: BLE001 - a source's; raised below, when all are told
            errors.append(error)
    if errors:
        raise errors[0]


def _at_exit() -> None:
    """Threads that still wait would keep the interpreter from ending: each gets PoolClosed."""
    _ending.append(True)
    for engine in engines():
        engine.end_waiting()
    for work in list(unfinished):
        work.finish(END_PATIENCE)
    # (Patched by a library of greenlets, a Thread would be one; and then threads are not joined by whoever ends.)
    if ends_at_once() and native.has_other_threads() and _thread.start_new_thread is native.start_new_thread:
        ending = threading.current_thread()
        with contextlib.suppress(RuntimeError, MemoryError):  # no thread to be had: as if this process were killed
            # Forked by a daemon thread, as a Pool's next worker is, this one is a daemon, and by itself that would be one.
            threading.Thread(target=_end_after_threads, args=(ending,), name="mempool-end", daemon=False).start()


def _end_after_threads(ending: threading.Thread) -> None:
    """What the end of a process that multiprocessing has forked leaves undone because other threads use it still.

    Those are joined next, and then nothing is called any more. So this is one that is joined, too, and waits for the others.
    See test_what_a_thread_has_that_outlives_the_work_is_returned.
    """
    mine = (ending, threading.current_thread())
    while others := [thread for thread in threading.enumerate() if not thread.daemon and thread not in mine]:
        for thread in others:
            try:
                thread.join()
            except RuntimeError:  # listed, and not begun: a daemon thread is about to start it
                native.sleep(0.001)
    native.at_rest.append(ending)
    until = time.monotonic() + WAITERS_PATIENCE
    while any(engine.queue() for engine in engines()) and time.monotonic() < until:
        native.sleep(0.001)  # daemon threads, which were told to leave the line
    for engine in engines():
        engine.end_waiting()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
# The hook that runs before the interpreter joins its threads. concurrent.futures uses it too; atexit comes too late.
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]
