"""One thread, elements at hand: what taking an element and giving it back costs, beside a deque's pop and append.

Bound methods are kept in local variables for every contestant alike; a second row calls them as attributes.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from mempool.benchmarks import peers
from mempool.benchmarks.measure import (
    ROUNDS,
    ROUNDS_QUICK,
    Point,
    Row,
    Target,
    in_rounds,
    in_words,
    ratios,
    row_of,
    slices_of,
)

from mempool import Pool
from mempool.buffer import EXPORTS
from mempool.sources import Buffers, Objects

GROUP = "uncontended"
RESERVE = 8
PAIR = "deque.pop + append"
POOL = "alloc + free"
LEASE = "with pool.lease()"
VIEW = "memoryview(buffer)"


def warm(track: str) -> Pool[object]:
    """A pool with as many spares beyond its reserve as it keeps."""
    pool = Pool(Objects(object), RESERVE, track=track)
    pool.free_many(pool.alloc_many(2 * RESERVE))
    return pool


def bare(track: str) -> Pool[object]:
    """A pool that keeps nothing: every element comes from the source and goes back to it."""
    return Pool(Objects(object), 0, keep=0, track=track)


def limited(track: str) -> Pool[object]:
    """A pool whose limit keeps it from asking: every element is one of the reserve."""
    return Pool(Objects(object), RESERVE, keep=RESERVE, limit=RESERVE, track=track)


def no_memory() -> object:
    raise MemoryError


def dry(track: str) -> Pool[object]:
    """A pool that asks in vain, then takes from its reserve: the source has failed ever since the pool was made."""
    source = Objects(object)
    pool = Pool(source, RESERVE, keep=RESERVE, track=track)
    source.alloc = no_memory  # type: ignore[method-assign]
    return pool


def ours() -> dict[str, tuple[peers.Peer, Target | None]]:
    """Our own ways, each with what it may cost, as a multiple of the deque's pair."""
    lease, identity = warm("identity"), warm("identity")
    reserved, nothing, holders = warm("identity"), warm("nothing"), warm("holders")
    ways = {
        f'{POOL}, track="nothing"': (peers.bound(nothing.alloc, nothing.free), Target(1.15)),
        POOL: (peers.bound(identity.alloc, identity.free), Target(1.3)),
        f'{POOL}, track="holders"': (peers.bound(holders.alloc, holders.free), None),
        LEASE: (peers.Peer("with lease(): pass", {"lease": lease.lease}), Target(3.2)),
        "alloc_reserved + free": (peers.bound(reserved.alloc_reserved, reserved.free), None),
    }
    for track in ("nothing", "identity"):
        buffers = Pool(Buffers(4096), RESERVE, track=track)
        buffers.free_many(buffers.alloc_many(2 * RESERVE))
        tracking = "" if track == "identity" else f', track="{track}"'
        ways[f"{POOL} of Buffers(4096){tracking}"] = (peers.bound(buffers.alloc, buffers.free), Target(4.0))
    for track in ("nothing", "identity", "holders"):
        tracking = "" if track == "identity" else f', track="{track}"'
        for path, make in (
            ("source and back to it", bare),
            ("reserve, at the limit", limited),
            ("reserve, source failing", dry),
        ):
            pool = make(track)
            ways[f"{POOL} from the {path}{tracking}"] = (peers.bound(pool.alloc, pool.free), None)
    return ways


def views(*, quick: bool) -> Iterator[Row]:
    """A view of a buffer, made and ended, beside one of a bytearray: how much longer it takes.

    None uncompiled on CPython 3.11, where no class of Python's can be viewed.
    """
    if not EXPORTS:
        return
    beside = "memoryview(bytearray)"
    buffer = Pool(Buffers(4096), 1).alloc()
    seconds = in_rounds(
        {
            name: slices_of("view(of)", quick=quick, view=memoryview, of=of)
            for name, of in ((VIEW, buffer), (beside, bytearray(4096)))
        },
        ROUNDS_QUICK if quick else ROUNDS,
    )
    longer = [(ours - theirs) * 1e9 for ours, theirs in zip(seconds[VIEW], seconds[beside], strict=True)]
    note = f"{in_words(min(seconds[VIEW]))} : {in_words(min(seconds[beside]))}"
    yield row_of(GROUP, VIEW, f"{beside}: longer by", longer, unit="ns", target=Target(20.0), note=note)


def run(*, quick: bool) -> Iterator[Row]:
    deque, pool = peers.of_deque(), warm("identity")
    mine = ours()
    contestants = {PAIR: deque, **{name: peer for name, (peer, _target) in mine.items()}}
    missing: dict[str, peers.Missing] = {}
    for name, make in {**peers.POOLS, **peers.OTHERS}.items():
        peer = peers.find(make)
        if isinstance(peer, peers.Missing):
            missing[name] = peer
        else:
            contestants[name] = peer
    attributes = {
        "deque, called as attributes": peers.Peer("shelf.append(shelf.pop())", {"shelf": deque.names["take"].__self__}),
        "pool, called as attributes": peers.Peer("pool.free(pool.alloc())", {"pool": pool}),
    }
    seconds = in_rounds(
        {name: slices_of(peer.statement, quick=quick, **peer.names) for name, peer in {**contestants, **attributes}.items()},
        ROUNDS_QUICK if quick else ROUNDS,
    )

    def versus(what: str, beside: str, target: Target | None = None) -> Row:
        note = f"{in_words(min(seconds[what]))} : {in_words(min(seconds[beside]))}"
        point = Point(what, 0.0, statistics.median(seconds[what]))
        return row_of(GROUP, what, beside, ratios(seconds, what, beside), target=target, note=note, point=point)

    yield versus(PAIR, PAIR)
    for name, (_peer, target) in mine.items():
        yield versus(name, PAIR, target)
    yield versus("pool, called as attributes", "deque, called as attributes", Target(2.0))
    for name in (*peers.POOLS, *peers.OTHERS):
        target = Target(12.0, at_most=False) if name in peers.POOLS else None
        if name in missing:
            yield Row(GROUP, name, POOL, target=target, note=missing[name].why)
        else:
            yield versus(name, POOL, target)
    yield from views(quick=quick)
    if "anopool" in seconds:  # it has no pair of calls, only a context manager; the like of it is our lease
        yield versus("anopool", LEASE)
