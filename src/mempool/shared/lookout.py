"""A thread that looks around for all who wait in this process: who was served, who is first in line now, who has died.

Whoever serves a caller wakes it directly where that can be (ticket.pxi: bell; doors.py). This thread wakes the others, and
is there for what a killed process has left undone: to wake whom it had served, to move on what it had returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import weakref
from typing import TYPE_CHECKING, Any

from mempool import native
from mempool.clock import SYSTEM_CLOCK
from mempool.parking import ThreadParker
from mempool.shared import killed, watcher
from mempool.shared.engine import SLICE
from mempool.shared.errors import ClientGone, PoolCorrupt
from mempool.waiting import AsyncioParker

if TYPE_CHECKING:
    from mempool.shared.ticket import Ticket

# The engine is Any: this module is below pool_engine.py, which imports it.

#: After so many seconds of waiting, the kernel tells of the end of other processes: a thread more, spared by short waits.
WATCH_AFTER = 0.01


def have_woken(engine: Any, ticket: Ticket, waker: Any) -> bool:
    """Whoever serves this ticket wakes its thread or its loop itself. Whether this needs no thread, or has it begun in time.

    A thread that waits for less than WATCH_AFTER has none begun. Other kinds of callers are woken by the one here.
    """
    if ticket.place < 0:
        return True
    kind = type(waker)
    if kind is ThreadParker:
        bell = ticket.bell()
        if bell is None:
            return True
        waker._wakes = bell
        if engine.clock is SYSTEM_CLOCK:
            bell.engine, bell.long = engine, WATCH_AFTER
            return True
    elif kind is AsyncioParker:
        door = engine._doors.of(asyncio.get_running_loop())
        if door is not None:
            door.expect(ticket)
    return False


def begin(engine: Any, waited: float) -> None:
    """Look around until nobody waits any more. waited: for so many seconds somebody has waited already."""
    engine._listener = me = object()  # first: it looks there whether it is still needed
    look = functools.partial(_look_around, weakref.ref(engine), me, max(0.0, WATCH_AFTER - waited))
    try:
        # One of the system's under gevent and eventlet, too: in a greenlet, the sleep at the bell would stop all others, for
        # ever. See test_who_looks_around_for_greenlets_stops_none.
        native.start_thread(look, f"mempool-{engine.name}")
    except BaseException:
        engine._listener = None
        raise


def _look_around(reference: weakref.ref[Any], me: object, watch_after: float) -> None:
    try:
        _look_until_nobody_waits(reference, me, watch_after)
    finally:
        engine = reference()
        if engine is not None and engine._listener is me:
            engine._listener = None  # by what a callback has raised (SystemExit): else nobody would ever look again
            # Nor for those who wait already: see test_a_callback_that_ends_the_thread_leaves_nobody_alone.
            if engine.is_awaited():
                with contextlib.suppress(RuntimeError, MemoryError):  # no thread to be had
                    engine._listen()


def _look_until_nobody_waits(reference: weakref.ref[Any], me: object, watch_after: float) -> None:
    said, seconds, watches, has_failed = 0, watch_after, False, False
    while True:
        engine = reference()
        if engine is None or engine._listener is not me:
            return
        try:
            engine.look_around()
        except (PoolCorrupt, ClientGone):
            for ticket in engine.queue():
                ticket.wake()  # it meets the same by itself
        except Exception:  # noqa: BLE001 - whatever it is, the next turn comes
            # No memory, no descriptor: that may pass, and the next turn tries again. Without this thread, who waits here for
            # what a killed process has would wait for ever. See test_who_looks_around_goes_on_after_a_failure.
            if not has_failed:
                has_failed = True
                killed.log.exception("%s: looking around has failed, and is tried again", engine.called)
        if not engine.is_awaited():
            engine._listener = None
            if not engine.is_awaited() or engine._listener is not None:
                return
            engine._listener = me
        tx = engine._tx
        del engine
        said = tx.wait_for_bell(said, seconds)
        if not watches:
            with contextlib.suppress(RuntimeError, MemoryError):  # no thread to be had: the slices find out
                watcher.begin(reference, me)
            seconds, watches = SLICE, True
