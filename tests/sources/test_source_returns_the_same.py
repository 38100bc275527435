"""A source that returns an object which is in the pool already: it raises, and the object is there once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from books import assert_at_rest

from mempool import Limited, Objects, Pool


class Shelf:
    """A source that returns what it was given, in this order; and remembers what came back."""

    def __init__(self, elements: Iterable[Any]) -> None:
        self.elements = list(elements)
        self.freed: list[Any] = []

    def alloc(self) -> Any:
        if not self.elements:
            raise MemoryError
        return self.elements.pop(0)

    def free(self, element: Any) -> None:
        self.freed.append(element)


tracks = pytest.mark.parametrize("track", ["identity", "holders"])
IN_THE_POOL = r"pool 'frames': the alloc of .*Shelf.* returned a .* that is in this pool already; return a new element"


@tracks
def test_two_of_one_call(track: str) -> None:
    """Nobody gets the same object twice by alloc_many: it raises, and the object is returned once."""
    one, other = bytearray(1), bytearray(1)
    source = Shelf([one, one, other, other, one])
    pool = Pool(source, 0, keep=9, name="frames", track=track)
    with pytest.raises(ValueError, match=IN_THE_POOL):
        pool.alloc_many(5)
    stats = pool.stats()
    assert (stats.made, stats.spare, stats.out, stats.disposed) == (2, 2, 0, 0)
    assert_at_rest(pool)
    assert sorted(map(id, pool.alloc_many(2))) == sorted([id(one), id(other)])


@tracks
def test_a_spare_is_returned_again(track: str) -> None:
    """By an alloc of one, a resize or a refill: the spare stays where it is."""
    one = bytearray(1)
    source = Shelf([one])
    pool = Pool(source, 1, name="frames", track=track)
    for call in (pool.alloc, pool.try_alloc, lambda: pool.resize(reserve=2), pool.refill):
        source.elements = [one]
        with pytest.raises(ValueError, match=IN_THE_POOL):
            call()
        stats = pool.stats()
        assert (stats.made, stats.spare, stats.out, stats.disposed) == (1, 1, 0, 0)
    assert_at_rest(pool)
    assert pool.alloc_reserved() is one
    pool.free(one)
    pool.close()
    assert source.freed == [one]


@tracks
def test_a_pool_cannot_be_filled_with_one_object(track: str) -> None:
    """The constructor raises, and the object is disposed of once."""
    source = Shelf([bytearray(1)] * 4)
    with pytest.raises(ValueError, match=IN_THE_POOL):
        Pool(source, 4, name="frames", track=track)
    assert len(source.freed) == 1


def test_through_an_adaptor_it_is_noticed_as_well() -> None:
    """And the adaptor is named, which shows what it wraps."""
    only = bytearray(1)
    with pytest.raises(ValueError, match=r"pool 'frames': the alloc of Limited\(Objects\(.*\)\) returned a bytearray"):
        Pool(Limited(Objects(lambda: only), elements_max=5), 2, name="frames")


def test_without_tracking_nobody_looks() -> None:
    """As for a double free."""
    only = bytearray(1)
    with Pool(Objects(lambda: only), 2, track="nothing") as pool:
        assert pool.stats().spare == 2


def test_an_object_that_was_disposed_of_may_come_again() -> None:
    """A source may give out again what it got back, as a pool behind the pool does."""
    behind = Pool(Objects(bytearray), 2, limit=2)
    pool = Pool(behind, 0, keep=0)
    for _ in range(3):
        elements = pool.alloc_many(2)
        pool.free_many(elements)
    assert pool.stats().made == 6
    assert_at_rest(pool)
    assert_at_rest(behind)


class Noted:
    """A class that keeps a reference to what it makes, and drops that of the one before."""

    last: Any = None

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def alloc(self) -> Any:
        self.last = None
        self.last = self.make()
        return self.last

    def free(self, element: Any) -> None:
        pass


@tracks
@pytest.mark.parametrize("kept", [False, True])
def test_the_address_of_a_lost_element_may_be_used_again(kept: bool, track: str) -> None:
    """A user lost it, so it is no more; what the source makes at its place is new, whether the source keeps it or not."""
    pool = Pool(Noted(object) if kept else Objects(object), 0, keep=0, track=track)
    seen: set[int] = set()
    made = 0
    while len(seen) == made < 50_000:  # at once; where there is no GIL, when the allocator has been around
        seen.add(id(pool.alloc()))
        made += 1
    assert len(seen) < made  # some address came again
    assert pool.stats().made == made
    last = pool.alloc()
    pool.free(last)
    with pytest.raises(ValueError, match="free an element once"):
        pool.free(last)


class Thing:
    """What the collector knows."""


def test_a_new_element_at_a_lost_ones_address_is_a_spare_until_it_is_taken() -> None:
    """The table of outstanding elements has let go of the lost one: freeing the new one before it was handed out is a double
    free.
    """
    pool = Pool(Objects(Thing), 0, keep=100)
    lost: set[int] = set()
    for _ in range(20):  # the allocator of CPython 3.13t gives an address out again only when it has come round its page
        lost.update(map(id, pool.alloc_many(100)))
    pool.resize(reserve=100)
    again = [thing for thing in gc.get_objects() if type(thing) is Thing and id(thing) in lost]
    assert again
    for spare in again:
        with pytest.raises(ValueError, match="was freed already and is a spare"):
            pool.free(spare)
    assert pool.stats().spare == 100
