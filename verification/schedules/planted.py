"""Our core, broken on purpose: each must be caught by the scenario beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mempool._core.books import Books
from mempool._core.line import Hands, Ticket
from mempool._core.reserve import Reserve
from verification.schedules import scenarios
from verification.schedules.searches import ONE, PCT, TWO, Search


def _without_swap(self: Reserve, books: Books) -> bool:
    """The last one to write wins, whoever wrote meanwhile."""
    books.ancestor = None
    self.books = books
    books.settle()
    return True


def _impatient_swap(self: Reserve, books: Books) -> bool:
    """Who was beaten once writes the second time, whoever was faster again: 1 preemption, exhausted, cannot show it."""
    assert books.ancestor is not None
    if books.ancestor.heirs.setdefault(0, books) is not books and threading.get_ident() not in _beaten:
        _beaten.add(threading.get_ident())
        return False
    _beaten.discard(threading.get_ident())
    self.books = books
    books.settle()
    return True


_beaten: set[int] = set()


def _nobody_is_served(_self: Reserve, _books: Books) -> None:
    """What comes home stays on the shelf, whoever waits."""


def _inside_the_source(self: Books) -> Ticket | None:
    """What comes home goes to the first in line, though it is inside the source and cannot take it."""
    return self.first_in_line()


def _nobody_is_woken(_self: Books, _ticket: Ticket) -> None:
    """Who is served finds out by itself or not at all."""


def _nobody_leaves(_self: Reserve, _ticket: Hands) -> None:
    """Who gives up keeps its place in the line."""


@dataclass(frozen=True)
class Plant:
    """What stands in place of a method, the scenario that must see it, and how."""

    owner: type
    method: str
    bug: Callable[..., Any]
    scenario: Callable[[], None]
    says: str  #: in the failure
    searches: tuple[Search, ...] = (PCT, ONE)  #: that must find it


@contextmanager
def planted(plant: Plant) -> Iterator[None]:
    sound = vars(plant.owner).get(plant.method)  # None: inherited
    setattr(plant.owner, plant.method, plant.bug)
    try:
        yield
    finally:
        _beaten.clear()
        if sound is None:
            delattr(plant.owner, plant.method)
        else:
            setattr(plant.owner, plant.method, sound)


WRONG_BOOKS = "are out; users have"
PLANTED = {
    "planted: no compare-and-swap": Plant(Reserve, "shut", _without_swap, scenarios.shrink_and_free, WRONG_BOOKS),
    "planted: an impatient swap": Plant(Reserve, "shut", _impatient_swap, scenarios.shrink_and_free, WRONG_BOOKS, (TWO,)),
    "planted: nobody is served": Plant(Reserve, "serve_line", _nobody_is_served, scenarios.grow_serves_the_line, "deadlock"),
    "planted: nobody is woken": Plant(Books, "tell", _nobody_is_woken, scenarios.grow_serves_the_line, "deadlock"),
    "planted: served in the source": Plant(
        Books, "next_to_serve", _inside_the_source, scenarios.a_slow_source_and_those_behind, "deadlock"
    ),
    "planted: nobody leaves": Plant(Reserve, "leave", _nobody_leaves, scenarios.timeout_and_hand_off, WRONG_BOOKS),
}
