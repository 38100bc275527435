"""Who holds what, since when, from where; and who waits for whom. Kept with `track="holders"` only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mempool.clock import in_words
from mempool.parking import ThreadOwner, current_owner

if TYPE_CHECKING:
    from mempool._core.line import Ticket
    from mempool.traffic import Traffic

_PACKAGE = str(Path(__file__).parent) + os.sep


@dataclass(frozen=True, slots=True)
class Holder:
    """One element that is out, and who took it."""

    element: str
    """What it is: type and address."""
    who: str
    """The thread or task that took it."""
    site: str
    """Where: file:line in function, outside of this package."""
    since: float
    """When, in seconds of the pool's monotonic clock."""
    seconds: float
    """How long it has been held."""

    def __str__(self) -> str:
        return f"{self.who} has held {self.element} for {in_words(self.seconds)}, taken at {self.site}"


@dataclass(slots=True)
class _Entry:
    owner: object
    who: str
    site: str
    since: float
    what: str = field(default="")


class HolderBook:
    """The holders of one pool, by the address of the element. Every change is one dict operation."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}

    def record(self, elements: Iterable[object], now: float) -> None:
        """These elements have just been handed to the caller."""
        owner = current_owner()
        who, site = name_of(owner), call_site()
        for element in elements:
            self._entries[id(element)] = _Entry(owner, who, site, now, describe(element))

    def forget(self, elements: Iterable[object]) -> list[_Entry | None]:
        """These elements have come home. Returns what was known of each, for `restore`."""
        return [self._entries.pop(id(element), None) for element in elements]

    def restore(self, elements: Iterable[object], known: list[_Entry | None]) -> None:
        """They have not come home after all, though the handles of some may be others now."""
        for element, entry in zip(elements, known, strict=False):
            if entry is not None:
                self._entries[id(element)] = entry

    def disown(self, element: object) -> None:
        """Somebody else will free this element."""
        entry = self._entries.get(id(element))
        if entry is not None and entry.owner is not None:
            # In place: the element may have come home meanwhile, and then nobody shall find an entry for it.
            entry.who = f"somebody ({entry.who} handed it over)"
            entry.owner = None

    def site_of(self, element: object) -> str | None:
        """Where this element was taken."""
        entry = self._entries.get(id(element))
        return None if entry is None else entry.site

    def holders(self, now: float) -> tuple[Holder, ...]:
        """All of them, oldest first."""
        entries = sorted(self._entries.values(), key=lambda entry: entry.since)
        return tuple(Holder(e.what, e.who, e.site, e.since, now - e.since) for e in entries)

    def owners(self) -> list[object]:
        """Who holds an element, once per element; None where nobody knows."""
        return [entry.owner for entry in list(self._entries.values())]


def describe(element: object) -> str:
    """An element for messages: its type and address."""
    return f"{type(element).__name__} at {id(element):#x}"


def name_of(owner: object) -> str:
    """A thread or task for messages."""
    if isinstance(owner, ThreadOwner):
        return f"thread {owner.name!r}"
    get_name = getattr(owner, "get_name", None)
    return f"task {get_name() if get_name is not None else getattr(owner, 'name', owner)}"


def call_site() -> str:
    """The innermost line outside of this package: file:line in function."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    # Not a Path: where memory is lacking, CPython says AttributeError of one.
    file = os.path.basename(frame.f_code.co_filename)  # noqa: PTH119
    return f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"


def find_deadlock(pool: Traffic, owner: object, pools: Iterable[Traffic]) -> list[str] | None:
    """Whether nobody can ever serve `owner`, who waits in `pool`. Returns who holds and waits for what; None: no.

    Everybody who waits is taken for stuck, until it turns out that something he waits for is held by somebody who is
    not, or is on its way. Who is left, when nobody is let off any more, waits for ever (unless a source recovers).
    """
    tracked = [candidate for candidate in pools if candidate._book is not None]
    while True:
        tickets: list[Ticket] = []
        waits: dict[object, list[Traffic]] = {owner: [pool]}
        for candidate in tracked:
            for ticket in candidate.core.queue():
                if ticket.owner != owner and ticket.owner is not None:
                    waits.setdefault(ticket.owner, []).append(candidate)
                    tickets.append(ticket)
        stuck = set(waits)
        changed = True
        while changed:
            changed = False
            for waiter in list(stuck):
                if not all(_is_dry(place, stuck) for place in waits[waiter]):
                    stuck.discard(waiter)
                    changed = True
        if owner not in stuck:
            return None
        if not any(ticket.is_settled() for ticket in tickets if ticket.owner in stuck):
            break
        # Somebody was served between the look at the line and that at the holders: he waits no more, and holds something.
    lines = []
    for candidate in tracked:
        now = candidate._clock.now()
        owners = candidate._book.owners() if candidate._book else []
        if any(holder in stuck for holder in owners) and candidate._book is not None:
            lines += [f"{candidate._called()}: {holder}" for holder in candidate._book.holders(now)]
    for waiter in stuck:
        lines.append(f"{name_of(waiter)} waits in {', '.join(place._called() for place in waits[waiter])}")
    return lines


def _is_dry(pool: Traffic, stuck: set[object]) -> bool:
    """Whether all that is out of this pool is held by somebody who is stuck, and nothing is on its way."""
    if pool._book is None:
        return False
    figures = pool.core.figures()
    owners = pool._book.owners()
    return (
        bool(owners)
        and len(owners) == figures["out"]
        and not figures["claimed"]
        and not figures["disposing"]
        and all(holder in stuck for holder in owners)
    )
