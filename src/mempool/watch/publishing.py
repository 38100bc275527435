"""publish(): this process's pools can be seen from outside, and, where that is wished for, steered."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

from mempool import lifecycle
from mempool.sources import protocol
from mempool.watch import directory as places
from mempool.watch import layout
from mempool.watch.directory import WatchError
from mempool.watch.page import Page, publishable

log: logging.Logger = logging.getLogger("mempool.watch")

#: True: commands run in a thread of their own. A callable: is called with each of them, from another thread, and runs it.
Steer = bool | Callable[[Callable[[], object]], object]


class _Published:
    """What this process shows. One a process, or none."""

    def __init__(self) -> None:
        self.page: Page | None = None
        self.server: Any = None
        self.steer: Steer = False
        # Of all that changes these, or the slots of the page. Not of a slot's end, which a finalizer brings about.
        self.lock = threading.RLock()

    def is_ours(self) -> bool:
        return self.page is not None and self.page.pid == os.getpid()


_published = _Published()


def publish(*, steer: Steer = False, directory: str | None = None) -> str:
    """Let this user's other processes read the figures of this one's pools, also when it hangs. Returns the page's path.

    No thread is started and one file stays open; a process that is stopped, or never lets go of the GIL, can be read. Pools
    that are made later are shown as well, and so are those of a child of `os.fork`, on a page of its own.
    `MEMPOOL_WATCH=numbers` in the environment does the same at the first pool.

    steer: also take commands (`mempool why`, `resize`) of this user's processes, by a socket, which needs a thread; a
        callable (`loop.call_soon_threadsafe`) is called with each resize and refill, and runs it where it likes. The same
        as `MEMPOOL_WATCH=steer`.
    directory: where the page lies; None: `$MEMPOOL_WATCH_DIR`, else `$XDG_RUNTIME_DIR/mempool`, else
        `/dev/shm/mempool-<uid>`.

    May be called again, to switch `steer`. Raises WatchError where the directory is another user's, has not mode 0700, is
    no tmpfs, or has no room.
    """
    if not hasattr(os, "O_TMPFILE"):
        raise WatchError("mempool.watch: pools can be published on Linux only")
    with _published.lock:
        return _publish(steer, directory)


def _publish(steer: Steer, directory: str | None) -> str:
    state = _published
    if not state.is_ours():
        state.page, state.server = Page(directory or places.directory()), None
        lifecycle.on_register(_show)
        for engine in lifecycle.engines():
            _show(engine)
    state.steer = steer
    page = state.page
    assert page is not None
    if state.server is not None and steer and state.server.lives:
        state.server.steer = steer
    elif state.server is not None:
        state.server.stop()
        state.server = None
    if steer and state.server is None:
        from mempool.watch.server import Server

        state.server = Server(page, steer)  # known before it opens anything: an interrupt leaves nothing open that is lost
        try:
            state.server.start()
        except BaseException:
            state.server.stop()
            state.server = None
            raise
    page.tell_socket(state.server is not None)
    return page.path


def unpublish() -> None:
    """Show and steer nothing any more. What others have read stays with them."""
    with _published.lock:
        _unpublish()


def _unpublish() -> None:
    state = _published
    page, server = state.page, state.server
    if page is None:
        return
    if state.is_ours():
        if server is not None:
            server.stop()
        lifecycle.on_register(None)
        for engine in lifecycle.engines():
            if publishable(engine):
                engine.core.mirror_to(None)  # type: ignore[attr-defined]
        page.close()
    state.page = state.server = None


def is_published() -> bool:
    """Whether this process has a page."""
    return _published.is_ours()


def _show(engine: Any) -> None:
    """Mirror the figures of this engine from now on."""
    with _published.lock:
        page = _published.page
        if page is None or not publishable(engine):
            return
        while (left_out := page.take_left_out()) is not None:  # a pool that had no slot, since another's is free
            _show_on(page, left_out)
        has_slot = _show_on(page, engine)
        if not has_slot:
            page.leave_out(engine)
    if not has_slot:
        log.warning("pool %r is not seen from outside: the page of a process has room for %d", engine.name, layout.SLOTS)


def _show_on(page: Page, engine: Any) -> bool:
    """Whether there is a slot."""
    slot = page.new_slot()
    if slot is None:
        return False
    supply = engine.supply
    size = getattr(_innermost(supply.source), "size", 0)
    element_bytes = size if isinstance(size, int) and 0 < size < 2**60 else 0
    engine.core.mirror_to(slot)
    slot.name(engine.name, element_bytes, supply.level)
    if supply.said:
        slot.say(supply.said)
    return True


def _innermost(source: Any) -> Any:
    """The source that makes elements, whatever goes around it."""
    for _ in range(32):
        inner = protocol.found(source, "source")
        if inner is None:
            break
        source = inner
    return source


def _after_fork_in_child() -> None:
    """A page of the child's own. The parent's is private memory here since the fork, and its file is closed."""
    state = _published
    state.lock = threading.RLock()  # another thread of the parent may have it
    page, steer = state.page, state.steer
    if page is None:
        return
    if state.server is not None:
        state.server.forget()
    page.leave_to_parent()
    state.page = state.server = None
    try:
        publish(steer=steer, directory=page.folder)
    except (OSError, MemoryError, RuntimeError) as error:  # as in `_begin`: else CPython prints a traceback at each fork
        what = "cannot be steered" if is_published() else "are not published"
        log.warning("the pools of this forked process %s: %s", what, error)


def begin_from_environment() -> None:
    """Do what `MEMPOOL_WATCH` says. A directory that is unfit is warned of once, and the program goes on."""
    wish = os.environ.get("MEMPOOL_WATCH", "")
    if wish in {"", "0", "off"}:
        return
    if wish not in {"1", "numbers", "steer"}:
        warnings.warn(f'mempool: MEMPOOL_WATCH is "numbers" or "steer", not {wish!r}', RuntimeWarning, stacklevel=2)
        return
    lifecycle.on_register(functools.partial(_begin, wish == "steer"))


def _begin(steer: bool, _engine: object) -> None:
    """Publish at the first pool: a program that has none needs no page."""
    lifecycle.on_register(None)
    try:
        publish(steer=steer)
    except (OSError, MemoryError, RuntimeError) as error:  # RuntimeError: there is no memory for a thread
        what = "cannot be steered" if is_published() else "are not published"
        warnings.warn(f"mempool: the pools of this process {what}: {error}", RuntimeWarning, stacklevel=2)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(unpublish)
