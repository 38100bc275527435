"""What is said to a person about a call that waits: why the pool is empty, a loop that stands still, a deadlock."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from mempool import deadlock, lifecycle, messages, parking
from mempool.engine import IMPOSSIBLE, Engine, UnderWay
from mempool.errands import outside_this_package
from mempool.errors import DeadlockError, DeadlockTimeout
from mempool.native import get_ident
from mempool.tracking import name_of

log: logging.Logger = logging.getLogger("mempool")


def unserved(engine: Engine, ticket: Any) -> Exception:
    """Why this ticket, which has left the line, was not served."""
    if ticket.state == IMPOSSIBLE:
        return messages.too_many(engine.called, ticket.wanted, "the limit was lowered while this caller waited")
    return messages.closed(engine.called) if engine.snapshot().closed else messages.ending(engine.called)


def raise_deadlock(engine: Engine, ticket: Any, has_deadline: bool) -> None:
    """Raise DeadlockError if it is certain that nobody can ever serve this ticket, which waits in the line."""
    # Only now, in the line: of two who close a circle at the same moment, the later to come sees the other.
    found = deadlock.find_deadlock(engine, ticket.owner, lifecycle.engines())
    if found is not None and found.is_certain and not ticket.is_settled():
        kind = DeadlockTimeout if has_deadline else DeadlockError
        raise kind(messages.deadlock(engine.called, found.lines))


def raise_undrainable(engine: Engine, has_deadline: bool) -> None:
    """Raise DeadlockError if the caller, who drains, holds an element itself, or stops the loop of a task that does."""
    if not engine.tracker.knows_holders:
        return
    lines = deadlock.hold_up_drain(engine, parking.current_owner(), parking.stopped_here())
    if lines:
        kind = DeadlockTimeout if has_deadline else DeadlockError
        raise kind(messages.undrainable(engine.called, lines))


def why_empty(engine: Engine) -> str:
    """One paragraph a person can act on."""
    remarks = engine.remarks() + [call.what for call in list(engine.under_way.values())]
    holders: tuple[object, ...] | None = None
    deadlocks: list[str] = []
    if engine.tracker.knows_holders:
        holders = engine.tracker.holders(engine.clock.now())
        deadlocks = _deadlocks(engine)
    return messages.why_empty(engine.called, engine.snapshot(), remarks, holders, deadlocks)


def _deadlocks(engine: Engine) -> list[str]:
    """A sentence, where all that could serve the first in line was taken by callers that wait themselves."""
    first = next((owner for ticket in engine.queue() if (owner := ticket.owner) is not None), None)
    found = None if first is None else deadlock.find_deadlock(engine, first, lifecycle.engines())
    if found is None:
        return []
    if found.is_certain:
        return ["it is a deadlock: all that is out is held by callers that wait, or whose loop one of them stops"]
    only_looks = (
        "all that is out was taken by callers that wait themselves, or whose loop one of them stops, and is returned only "
        "if somebody else returns it"
    )
    return [f"it looks like a deadlock: {only_looks}"]


def note_standstill(engine: Engine, instead: str) -> tuple[int, object] | None:
    """Warn that this call stops an event loop, if it is made where one runs. Returns the key of a note, or None."""
    stopped = parking.stopped_here()
    if not stopped:
        return None
    key, task = (get_ident(), object()), parking.task_here()
    who = "a callback" if task is None else name_of(task)
    what = f"{who} waits in a call that stops its event loop; use {instead} {'in a task' if task is None else 'there'}"
    said = f"{engine.called}: {what}"
    log.warning(said)
    warnings.warn(said, RuntimeWarning, stacklevel=outside_this_package())
    engine.under_way[key] = UnderWay(what, parking.current_owner(), tuple(stopped))
    return key
