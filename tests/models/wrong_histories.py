"""Histories that no pool may have, each beside the nearest one that a pool may have: the checker must tell them apart.

A, B and C are threads. What they do is told as a list: who asks what; what the source says meanwhile; what is returned.
A resize returns (promised, spare, owed, unfunded), stats (reserve, keep, waiting, spare, out, disposing, made, disposed).
"""

from __future__ import annotations

from typing import NamedTuple

from histories import Event, State, new_pool

A, B, C = range(3)


class Pair(NamedTuple):
    """A pool as it was, what then cannot have happened, and what can."""

    start: State
    wrong: list[Event]
    right: list[Event]


def pool(reserve: int, keep: int) -> State:
    return new_pool(reserve, keep, 3)


def asks(who: int, what: str, value: object = None) -> list[Event]:
    """Begun, and not ended yet."""
    return [Event(who, what, value)]


def refused(who: int, what: str, value: object = None) -> list[Event]:
    """Begun, and the source has failed."""
    return [Event(who, what, value), Event(who, "failed")]


def made(who: int, element: int) -> list[Event]:
    return [Event(who, "made", element)]


def disposed(who: int, element: int) -> list[Event]:
    return [Event(who, "disposed", element)]


def returns(who: int, value: object = None) -> list[Event]:
    return [Event(who, "returns", value)]


def stats(who: int, *numbers: int) -> list[Event]:
    return asks(who, "stats") + returns(who, numbers)


TAKEN = refused(A, "alloc") + returns(A, 0)  # A has the only element
GIVEN_BACK = asks(A, "free", 0) + returns(A)
B_WAITS = TAKEN + refused(B, "alloc") + stats(A, 1, 1, 1, 0, 1, 0, 1, 0)  # which the stats show: it is not on its way there
BOTH_WAIT = B_WAITS + asks(C, "alloc") + stats(A, 1, 1, 2, 0, 1, 0, 1, 0)
LOWERED = asks(A, "resize", (1, 2)) + returns(A, (1, 2, 0, 0))  # of (2, 2): there is a spare beyond the reserve

PAIRS = {
    "an element is handed out twice": Pair(
        pool(1, 1),
        TAKEN + refused(B, "try_alloc") + returns(B, 0),
        TAKEN + refused(B, "try_alloc") + returns(B),
    ),
    "an element is handed out before its last user has given it back": Pair(
        pool(1, 1),
        B_WAITS + returns(B, 0) + GIVEN_BACK,
        B_WAITS + GIVEN_BACK + returns(B, 0),
    ),
    "nothing is handed out beside a spare": Pair(
        pool(1, 1),
        refused(A, "try_alloc") + returns(A),
        refused(A, "try_alloc") + returns(A, 0),
    ),
    "nothing is handed out and the source was not asked": Pair(
        pool(0, 0),
        asks(A, "try_alloc") + returns(A),
        refused(A, "try_alloc") + returns(A),
    ),
    "a spare of the reserve is handed out and the source was not asked": Pair(
        pool(1, 1),
        asks(A, "alloc") + returns(A, 0),
        refused(A, "alloc") + returns(A, 0),
    ),
    "the source is asked beside a spare beyond the reserve": Pair(
        pool(2, 2),
        LOWERED + asks(A, "alloc") + made(A, 2) + returns(A, 2),
        LOWERED + asks(A, "alloc") + returns(A, 1),
    ),
    "the oldest spare is handed out": Pair(
        pool(2, 2),
        refused(A, "alloc") + returns(A, 0),
        refused(A, "alloc") + returns(A, 1),
    ),
    "what the source made is not what the caller gets": Pair(
        pool(1, 1),
        asks(A, "alloc") + made(A, 1) + returns(A, 0),
        asks(A, "alloc") + made(A, 1) + returns(A, 1),
    ),
    "what was returned has vanished": Pair(
        pool(1, 1),
        TAKEN + GIVEN_BACK + asks(A, "alloc_reserved") + returns(A),
        TAKEN + GIVEN_BACK + asks(A, "alloc_reserved") + returns(A, 0),
    ),
    "what was returned is not counted": Pair(
        pool(1, 1),
        TAKEN + GIVEN_BACK + stats(A, 1, 1, 0, 0, 1, 0, 1, 0),
        TAKEN + GIVEN_BACK + stats(A, 1, 1, 0, 1, 0, 0, 1, 0),
    ),
    "a free keeps more than the pool keeps": Pair(
        pool(0, 0),
        asks(A, "alloc") + made(A, 0) + returns(A, 0) + GIVEN_BACK,
        asks(A, "alloc") + made(A, 0) + returns(A, 0) + asks(A, "free", 0) + disposed(A, 0) + returns(A),
    ),
    "a free disposes of what the pool would keep": Pair(
        pool(1, 1),
        TAKEN + asks(A, "free", 0) + disposed(A, 0) + returns(A),
        TAKEN + GIVEN_BACK,
    ),
    "a grow makes nothing and the source was not asked": Pair(
        pool(1, 1),
        asks(A, "resize", (3, 3)) + returns(A, (3, 1, 0, 2)),
        refused(A, "resize", (3, 3)) + returns(A, (3, 1, 0, 2)),
    ),
    "a grow fills what is kept, and not the reserve": Pair(
        pool(0, 0),
        asks(A, "resize", (1, 2)) + made(A, 0) + made(A, 1) + returns(A, (1, 2, 0, 0)),
        asks(A, "resize", (1, 2)) + made(A, 0) + returns(A, (1, 1, 0, 0)),
    ),
    "a shrink disposes of nothing": Pair(
        pool(3, 3),
        asks(A, "resize", (1, 1)) + returns(A, (1, 3, 0, 0)),
        asks(A, "resize", (1, 1)) + disposed(A, 2) + disposed(A, 1) + returns(A, (1, 1, 0, 0)),
    ),
    "a shrink disposes of more than it must": Pair(
        pool(2, 2),
        asks(A, "resize", (1, 2)) + disposed(A, 1) + returns(A, (1, 1, 0, 0)),
        LOWERED,
    ),
    "a resize that had ended is undone by one that changed its targets before": Pair(
        pool(0, 0),
        asks(A, "resize", (0, 1))
        + asks(B, "resize", (0, 2))
        + returns(A, (0, 0, 0, 0))
        + returns(B, (0, 0, 0, 0))
        + stats(A, 0, 1, 0, 0, 0, 0, 0, 0)
        + stats(B, 0, 2, 0, 0, 0, 0, 0, 0),
        asks(A, "resize", (0, 1))
        + asks(B, "resize", (0, 2))
        + returns(A, (0, 0, 0, 0))
        + stats(A, 0, 1, 0, 0, 0, 0, 0, 0)
        + stats(A, 0, 2, 0, 0, 0, 0, 0, 0)
        + returns(B, (0, 0, 0, 0)),
    ),
    "what is returned lies beside one who waits": Pair(
        pool(1, 1),
        B_WAITS + GIVEN_BACK + stats(A, 1, 1, 1, 1, 0, 0, 1, 0) + returns(B, 0),  # which has not been inside the source
        B_WAITS + GIVEN_BACK + stats(A, 1, 1, 0, 0, 1, 0, 1, 0) + returns(B, 0),
    ),
    "what is returned does not lie there for one inside the source": Pair(
        pool(1, 1),
        B_WAITS + GIVEN_BACK + stats(A, 1, 1, 0, 0, 1, 0, 1, 0) + made(B, 1) + returns(B, 1),
        B_WAITS + GIVEN_BACK + stats(A, 1, 1, 1, 1, 0, 0, 1, 0) + made(B, 1) + returns(B, 0),
    ),
    "one inside the source has what is returned, and another waits": Pair(
        pool(1, 1),
        BOTH_WAIT + GIVEN_BACK + stats(A, 1, 1, 1, 0, 1, 0, 1, 0) + made(B, 1) + returns(B, 0) + returns(C, 1),
        BOTH_WAIT + GIVEN_BACK + stats(A, 1, 1, 1, 0, 1, 0, 1, 0) + made(B, 1) + returns(B, 1) + returns(C, 0),
    ),
    "one that may not wait takes what is another's who waits": Pair(
        pool(1, 1),
        B_WAITS + GIVEN_BACK + refused(C, "try_alloc") + returns(C, 0),
        B_WAITS + GIVEN_BACK + refused(C, "try_alloc") + returns(C),
    ),
    "a newcomer does not join those who wait": Pair(
        pool(1, 1),
        B_WAITS + refused(C, "alloc") + GIVEN_BACK + returns(B, 0),
        B_WAITS + asks(C, "alloc") + GIVEN_BACK + returns(B, 0),
    ),
    "a newcomer overtakes one who waits": Pair(
        pool(1, 1),
        BOTH_WAIT
        + GIVEN_BACK
        + returns(C, 0)
        + asks(C, "free", 0)
        + returns(C)
        + returns(B, 0),  # it has not asked the source
        BOTH_WAIT + GIVEN_BACK + returns(B, 0) + asks(B, "free", 0) + returns(B) + returns(C, 0),
    ),
    "one asks the source who is not the first in line": Pair(
        pool(1, 1),
        BOTH_WAIT + made(C, 1) + returns(B, 1),
        BOTH_WAIT + made(B, 1) + returns(B, 1),
    ),
    "what the first in line had the source make goes to the second": Pair(
        pool(1, 1),
        BOTH_WAIT + made(B, 1) + returns(C, 1),
        BOTH_WAIT + made(B, 1) + GIVEN_BACK + returns(C, 0),
    ),
    "who has given up stands in the line": Pair(
        pool(1, 1),
        TAKEN + refused(B, "alloc at once") + returns(B) + stats(A, 1, 1, 1, 0, 1, 0, 1, 0),
        TAKEN + refused(B, "alloc at once") + stats(A, 1, 1, 1, 0, 1, 0, 1, 0) + returns(B),
    ),
    "who has given up is served": Pair(
        pool(1, 1),
        TAKEN + refused(B, "alloc at once") + returns(B) + GIVEN_BACK + asks(C, "alloc_reserved") + returns(C),
        TAKEN + refused(B, "alloc at once") + returns(B) + GIVEN_BACK + asks(C, "alloc_reserved") + returns(C, 0),
    ),
    "who waits as long as it takes goes away with nothing": Pair(
        pool(1, 1),
        B_WAITS + returns(B),
        B_WAITS,
    ),
}
