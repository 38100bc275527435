"""Bugs to be planted in the real pool, each a method to be put in the place of another, for the checker of histories."""

from __future__ import annotations

from typing import Any

from mempool import Pool
from mempool._core import Transfer
from mempool._core.decisions import Decisions
from mempool._core.state import State
from mempool.base_pool import BasePool
from mempool.local.engine import LocalEngine
from mempool.local.supply import Supply

fill, attempt = LocalEngine._fill, LocalEngine.try_take


def overtake(engine: LocalEngine, transfer: Any, *, ask_source: bool, **_may_wait: bool) -> bool:
    return attempt(engine, transfer, ask_source=ask_source)


def fill_nothing(engine: LocalEngine, *, beyond_out: bool, all_or_raise: bool = False, **_under_way: Any) -> None:
    if all_or_raise:  # the constructor, which would not end else
        fill(engine, beyond_out=beyond_out, all_or_raise=True)


def fill_all_that_is_kept(core: Any, transfer: Any, _beyond_out: bool, _fill: Any) -> int:
    state = core.state
    elements: int = min(state.keep - state.spare - state.filling, transfer.wanted)
    if elements <= 0:
        return 0
    state.permits += elements
    state.filling += elements
    transfer.permits += elements
    transfer.filling = True
    return elements


def take_the_reserve_first(engine: LocalEngine, transfer: Any, *, ask_source: bool, may_wait: bool = False) -> bool:
    return engine.core.take_spares(transfer, True) or attempt(engine, transfer, ask_source=ask_source, may_wait=may_wait)


def enqueue_in_front(state: Any, ticket: Any) -> None:
    ticket.behind = state.head
    if state.head is None:
        state.tail = ticket
    else:
        state.head.ahead = ticket
    state.head = ticket
    ticket.in_line = True
    state.waiting += 1
    state.joined += 1


def pop_the_oldest_spare(state: Any, transfer: Any) -> None:
    transfer.add(state.slots[0])
    state.spare -= 1
    for i in range(state.spare):
        state.slots[i] = state.slots[i + 1]
    state.slots[state.spare] = None


def free_into_nowhere(pool: Any, element: Any, *_lingering: Any) -> None:
    transfer = Transfer(1)
    transfer.hold(element)
    pool.core.check_in(transfer)


Planted = tuple[type, str, Any]

IN_THE_CORE: dict[str, Planted] = {
    "nobody in the line is served": (Decisions, "serve_line", lambda _core, _state: None),
    "nobody leaves the line": (Decisions, "withdraw", lambda _core, _ticket: False),
    "the last in line is served first": (State, "enqueue", enqueue_in_front),
    "newcomers do not see the line": (LocalEngine, "try_take", overtake),
    "what is freed vanishes": (BasePool, "_free_slowly", free_into_nowhere),  # compiled, most frees do not come by there
    "a grow fills all that is kept": (Decisions, "permit_fill", fill_all_that_is_kept),
    "the oldest spare is handed out": (State, "pop_spare", pop_the_oldest_spare),
}
PLANTED: dict[str, Planted] = IN_THE_CORE | {
    "try_alloc never asks the source": (Pool, "try_alloc", Pool.alloc_reserved),
    "the reserve is taken before the source is asked": (LocalEngine, "try_take", take_the_reserve_first),
    "a resize fills nothing": (LocalEngine, "_fill", fill_nothing),
    "a shrink disposes of nothing": (Supply, "dispose_surplus", lambda _supply, *_fill, **_here: None),
    "a free disposes of nothing": (Supply, "dispose", lambda _supply, _transfer, *_fill, **_here: None),
}
NOBODY_IS_WOKEN: Planted = (State, "wake_later", lambda _state, _ticket: None)
