"""Bugs to be planted in the real pool, each a method to be put in the place of another, for the checker of histories."""

from __future__ import annotations

from typing import Any

from mempool import Pool
from mempool._core import Hands
from mempool._core.books import Books
from mempool._core.reserve import Reserve
from mempool.base_pool import BasePool
from mempool.local.engine import LocalEngine
from mempool.local.supply import Supply

fill, attempt = LocalEngine._fill, LocalEngine.try_take


def overtake(engine: LocalEngine, hands: Any, *, ask_source: bool, **_may_wait: bool) -> bool:
    return attempt(engine, hands, ask_source=ask_source)


def fill_nothing(engine: LocalEngine, *, beyond_out: bool, all_or_raise: bool = False, **_under_way: Any) -> None:
    if all_or_raise:  # the constructor, which would not end else
        fill(engine, beyond_out=beyond_out, all_or_raise=True)


def fill_all_that_is_kept(core: Any, hands: Any, _beyond_out: bool, _fill: Any) -> int:
    books = core.books
    elements: int = min(books.keep - books.spare - books.filling, hands.wanted)
    if elements <= 0:
        return 0
    books.claimed += elements
    books.filling += elements
    hands.claims += elements
    hands.filling = True
    return elements


def take_the_reserve_first(engine: LocalEngine, hands: Any, *, ask_source: bool, may_wait: bool = False) -> bool:
    return engine.core.take(hands, True) or attempt(engine, hands, ask_source=ask_source, may_wait=may_wait)


def line_up_in_front(books: Any, ticket: Any) -> None:
    ticket.behind = books.head
    if books.head is None:
        books.tail = ticket
    else:
        books.head.ahead = ticket
    books.head = ticket
    ticket.in_line = True
    books.waiting += 1
    books.joined += 1


def unshelve_the_oldest(books: Any, hands: Any) -> None:
    hands.add(books.places[0])
    books.spare -= 1
    for i in range(books.spare):
        books.places[i] = books.places[i + 1]
    books.places[books.spare] = None


def free_into_nowhere(pool: Any, element: Any, *_lingering: Any) -> None:
    hands = Hands(1)
    hands.hold(element)
    pool.core.sign_in(hands)


Planted = tuple[type, str, Any]

IN_THE_CORE: dict[str, Planted] = {
    "nobody in the line is served": (Reserve, "serve_line", lambda _core, _books: None),
    "nobody leaves the line": (Reserve, "withdraw", lambda _core, _ticket: False),
    "the last in line is served first": (Books, "line_up", line_up_in_front),
    "newcomers do not see the line": (LocalEngine, "try_take", overtake),
    "what is freed vanishes": (BasePool, "_free_slowly", free_into_nowhere),  # compiled, most frees do not come by there
    "a grow fills all that is kept": (Reserve, "claim_to_fill", fill_all_that_is_kept),
    "the oldest spare is handed out": (Books, "unshelve", unshelve_the_oldest),
}
PLANTED: dict[str, Planted] = IN_THE_CORE | {
    "try_alloc never asks the source": (Pool, "try_alloc", Pool.alloc_reserved),
    "the reserve is taken before the source is asked": (LocalEngine, "try_take", take_the_reserve_first),
    "a resize fills nothing": (LocalEngine, "_fill", fill_nothing),
    "a shrink disposes of nothing": (Supply, "dispose_surplus", lambda _supply, *_fill, **_here: None),
    "a free disposes of nothing": (Supply, "dispose", lambda _supply, _hands, *_fill, **_here: None),
}
NOBODY_IS_WOKEN: Planted = (Books, "tell", lambda _books, _ticket: None)
