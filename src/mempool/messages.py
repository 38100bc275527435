"""The words of a pool's errors and of `why_empty`: each names the pool, the fact and the way out.

Functions of values only. called: how the pool is named in a message, see `called`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mempool.clock import in_words
from mempool.engine import Snapshot
from mempool.errors import PoolClosed

#: How many holders `why_empty` names, the oldest.
HOLDERS_NAMED = 8


def called(name: str) -> str:
    """How a pool is named."""
    return f"pool {name!r}"


def s(number: int) -> str:
    """The end of a noun after this number."""
    return "" if number == 1 else "s"


def are(number: int) -> str:
    """The verb after this number."""
    return "is" if number == 1 else "are"


def still_out(out: int) -> str:
    """What keeps a pool from being drained."""
    return f"{out} element{s(out)} {are(out)} still out; free {'it' if out == 1 else 'them'}"


def lingering(number: int, viewers: Sequence[str]) -> str:
    """What its users have freed, and views keep. viewers: those that are known."""
    what = f" ({'; '.join(viewers)})" if viewers else ""
    freed = (
        "1 of those out lingers: its user has freed it, and it is returned when its last view ends"
        if number == 1
        else f"{number} of those out linger: their users have freed them, and each is returned when its last view ends"
    )
    return f"{freed}{what}; drop the views, or the traceback that holds them"


def describe(element: object) -> str:
    """An element: its type and address."""
    return f"{type(element).__name__} at {id(element):#x}"


def in_line(waiting: int) -> str:
    """How many wait."""
    return f"{waiting} caller{s(waiting)} in line"


def closed(called: str) -> PoolClosed:
    """Of a closed pool."""
    return PoolClosed(f"{called} is closed and hands out nothing any more; make another")


def ending(called: str) -> PoolClosed:
    """At the end of the interpreter."""
    return PoolClosed(f"{called}: the interpreter is ending, and nobody may wait any more; free and go")


def too_many(called: str, wanted: int, why: str) -> ValueError:
    """More than the limit allows."""
    return ValueError(f"{called}: {wanted} elements at once can never be had, {why}; ask for fewer, or raise it")


def returned_twice(called: str, source: Any, element: Any) -> ValueError:
    """The source returned what is in the pool already."""
    return ValueError(
        f"{called}: the alloc of {source!r} returned a {describe(element)} that is in this pool already; "
        "return a new element each time, and raise MemoryError where none can be had"
    )


def deadlock(called: str, lines: Iterable[str]) -> str:
    """Callers that wait for each other."""
    return (
        f"{called}: nobody can ever serve this caller. {'; '.join(lines)}. Take all you need at once with alloc_many, or "
        "take from several pools in one order"
    )


def undrainable(called: str, lines: Iterable[str]) -> str:
    """A drain that waits for what its own caller keeps from being returned."""
    return f"{called}: it can never be drained by this caller. {'; '.join(lines)}. Return what you hold, and then drain"


def why_empty(
    called: str, now: Snapshot, remarks: Sequence[str], holders: Sequence[object] | None, deadlocks: Sequence[str]
) -> str:
    """One paragraph a person can act on.

    remarks: further facts. holders: who holds what, oldest first; None: unknown. deadlocks: who waits for whom.
    """
    sentences = [
        f"{called}: {now.reserve} promised, {now.spare} spare, {now.out} out, {in_line(now.waiting)}",
        f"the source has failed {now.source_failures} time{s(now.source_failures)}, last with {now.source_said}"
        if now.source_said
        else "the source has not failed",
    ]
    if now.source_rests > 0:
        sentences.append(f"it is left alone for {in_words(now.source_rests)} while there are spares of the reserve")
    if now.closed:
        sentences.append("it is closed")
    elif now.limit is not None and now.made - now.disposed + now.being_made >= now.limit:
        sentences.append(f"the limit of {now.limit} is reached")
    if now.being_made:
        sentences.append(f"{now.being_made} {are(now.being_made)} being made")
    if now.disposing:
        sentences.append(f"{now.disposing} {are(now.disposing)} being disposed of")
    sentences += remarks
    if holders is not None:
        sentences += map(str, holders[:HOLDERS_NAMED])
        if len(holders) > HOLDERS_NAMED:
            more = len(holders) - HOLDERS_NAMED
            sentences.append(f"{more} more {are(more)} held for less long")
        sentences += deadlocks
    elif now.out:
        sentences.append('track="holders" would tell who holds them')
    if now.closed:
        way_out = "Make another"
    elif now.spare and not now.waiting:
        way_out = "It is not empty: whoever asks now is served at once"
    else:
        way_out = "Free what is out, raise the reserve or the limit, or wait longer"
    return "; ".join(sentences) + f". {way_out}"
