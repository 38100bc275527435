"""Our core, broken on purpose: each must be caught by the scenario beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mempool._core.books import Books
from mempool._core.line import Hands, Ticket
from mempool._core.reserve import Reserve
from verification.schedules import scenarios


def _without_swap(self: Reserve, books: Books) -> bool:
    """The last one to write wins, whoever wrote meanwhile."""
    books.ancestor = None
    self.books = books
    books.settle()
    return True


def _nobody_is_served(_self: Reserve, _books: Books) -> None:
    """What comes home stays on the shelf, whoever waits."""


def _nobody_is_woken(_self: Books, _ticket: Ticket) -> None:
    """Who is served finds out by itself or not at all."""


def _nobody_leaves(_self: Reserve, _ticket: Hands) -> None:
    """Who gives up keeps its place in the line."""


@contextmanager
def planted(owner: type, name: str, bug: Callable[..., Any]) -> Iterator[None]:
    sound = vars(owner).get(name)  # None: inherited
    setattr(owner, name, bug)
    try:
        yield
    finally:
        if sound is None:
            delattr(owner, name)
        else:
            setattr(owner, name, sound)


#: Where, what instead, and the scenario that must see it.
PLANTED: dict[str, tuple[type, str, Callable[..., Any], Callable[[], None]]] = {
    "planted: no compare-and-swap": (Reserve, "shut", _without_swap, scenarios.shrink_and_free),
    "planted: nobody is served": (Reserve, "serve_line", _nobody_is_served, scenarios.grow_serves_the_line),
    "planted: nobody is woken": (Books, "tell", _nobody_is_woken, scenarios.grow_serves_the_line),
    "planted: nobody leaves the line": (Reserve, "leave", _nobody_leaves, scenarios.timeout_and_hand_off),
}
