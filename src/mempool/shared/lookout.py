"""A thread that looks around for all who wait in this process: who was served, who is first in line now, who has died.

Whoever serves a caller wakes it directly where that can be (ticket.pxi: bell; doors.py). This thread wakes the others, and
is there for what a killed process has left undone: to wake whom it had served, to move on what it had returned.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

from mempool.shared import watcher
from mempool.shared.engine import SLICE
from mempool.shared.errors import ClientGone, PoolCorrupt

# The engine is Any: this module is below pool_engine.py, which imports it.

#: After so many seconds of waiting, the kernel tells of the end of other processes: a thread more, spared by short waits.
WATCH_AFTER = 0.01


def begin(engine: Any) -> None:
    """Look around until nobody waits any more."""
    thread = threading.Thread(target=_look_around, args=(weakref.ref(engine),), name=f"mempool-{engine.name}", daemon=True)
    engine._listener = thread  # first: it looks there whether it is still needed
    try:
        thread.start()
    except BaseException:
        engine._listener = None
        raise


def _look_around(reference: weakref.ref[Any]) -> None:
    said, seconds = 0, WATCH_AFTER
    me = threading.current_thread()
    while True:
        engine = reference()
        if engine is None or engine._listener is not me:
            return
        try:
            engine.look_around()
        except (PoolCorrupt, ClientGone):
            for ticket in engine.queue():
                ticket.wake()  # it meets the same by itself
        if not engine.is_awaited():
            engine._listener = None
            if not engine.is_awaited() or engine._listener is not None:
                return
            engine._listener = me
        tx = engine._tx
        del engine
        said = tx.wait_for_bell(said, seconds)
        if seconds == WATCH_AFTER:
            watcher.begin(reference, me)
            seconds = SLICE
