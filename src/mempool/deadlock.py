"""Who waits for whom: callers that can never be served, across all pools with `track="holders"`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mempool.engine import Engine, Ticket
from mempool.parking import runner_of
from mempool.tracking import is_over, name_of


@dataclass(frozen=True, slots=True)
class Deadlock:
    """Callers that wait for each other."""

    is_certain: bool
    """Nobody else can return what they hold, and there is no room under the limit."""
    lines: tuple[str, ...]
    """Who holds what, and who waits where."""


def find_deadlock(engine: Engine, owner: object, engines: Iterable[Engine]) -> Deadlock | None:
    """Whether nobody but those who wait themselves could serve `owner`, who waits there. None: somebody may.

    Certain, where only they can return what they hold, or tasks of a loop that one of them stops: there is no way out,
    but that somebody's time runs out. Else it may only look like one: what a thread took, another may return.
    """
    tracked = [candidate for candidate in engines if candidate.tracker.knows_holders]
    for is_certain in (True, False):
        found = _find(engine, owner, tracked, is_certain)
        if found is not None:
            return Deadlock(is_certain, tuple(found))
    return None


def _find(engine: Engine, owner: object, tracked: list[Engine], is_certain: bool) -> list[str] | None:
    """Everybody who waits is taken for stuck, until it turns out that something he waits for is held by somebody who is
    not, or is on its way. Who is left, when nobody is let off any more, waits for ever.
    """
    while True:
        tickets: list[tuple[object, Ticket]] = []
        waits: dict[object, list[Engine]] = {owner: [engine]}
        for candidate in tracked:
            for ticket in candidate.queue():
                waiter = ticket.owner  # once: it is forgotten when the ticket leaves the line
                if waiter != owner and waiter is not None:
                    waits.setdefault(waiter, []).append(candidate)
                    tickets.append((waiter, ticket))
        standstills = [call for candidate in tracked for call in list(candidate.under_way.values()) if call.stopped]
        stuck = set(waits)
        changed = True
        while changed:
            changed = False
            stopped = {runner for standstill in standstills if standstill.owner in stuck for runner in standstill.stopped}
            for waiter in list(stuck):
                if not all(_is_dry(place, stuck, stopped, is_certain) for place in waits[waiter]):
                    stuck.discard(waiter)
                    changed = True
        if owner not in stuck:
            return None
        if not any(ticket.is_settled() for waiter, ticket in tickets if waiter in stuck):
            break
        # Somebody was served between the look at the line and that at the holders: he waits no more, and holds something.
    lines = []
    for candidate in tracked:
        now = candidate.clock.now()
        owners = candidate.tracker.owners()
        if any(_cannot_run(holder, stuck, stopped) for holder, _ in owners):
            lines += [f"{candidate.called}: {holder}" for holder in candidate.tracker.holders(now)]
    for waiter in stuck:
        stops = any(standstill.owner == waiter for standstill in standstills)
        how = " and stops its event loop, which `await pool.alloc_async()` would not" if stops else ""
        lines.append(f"{name_of(waiter)} waits in {', '.join(place.called for place in waits[waiter])}{how}")
    return lines


def hold_up_drain(engine: Engine, owner: object, stopped: Iterable[object]) -> list[str]:
    """What nobody can return while `owner` waits until all is, and keeps these from running; empty: nothing for certain."""
    stuck, standing = {owner}, set(stopped)
    owners = engine.tracker.owners()
    if not any(is_bound and _cannot_run(holder, stuck, standing) for holder, is_bound in owners):
        return []
    how = " and stops its event loop, which `await pool.drain_async()` would not" if standing else ""
    lines = [f"{engine.called}: {holder}" for holder in engine.tracker.holders(engine.clock.now())]
    return [*lines, f"{name_of(owner)} drains {engine.called}{how}"]


def _cannot_run(holder: object, stuck: set[object], stopped: set[object]) -> bool:
    """Whether this holder waits for ever, or is a task of a loop that stands still because somebody does."""
    return holder in stuck or (bool(stopped) and runner_of(holder) in stopped and not is_over(holder))


def _is_dry(engine: Engine, stuck: set[object], stopped: set[object], is_certain: bool) -> bool:
    """Whether all that is out there is held by somebody who is stuck or stopped, and nothing is on its way.

    is_certain: whether nobody else can return it, and the source cannot help because the limit is reached.
    """
    now = engine.snapshot()
    owners = engine.tracker.owners()
    has_room = now.limit is None or now.made - now.disposed < now.limit
    if is_certain and (has_room or not all(bound for _, bound in owners)):
        return False
    return (
        bool(owners)
        and len(owners) == now.out
        and not now.being_made
        and not now.disposing
        and all(_cannot_run(holder, stuck, stopped) for holder, _ in owners)
    )
