"""The outstanding elements: beside a set that cannot be wrong, and when two free the same at once."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable

import pytest

import mempool
from mempool import Objects, Pool, PoolError
from mempool._core import Decisions, Transfer
from mempool._core.decisions import UNCHANGED
from mempool._core.outstanding import Outstanding
from mempool.testing import Element, ScriptedSource

pure = pytest.mark.skipif(mempool.IMPLEMENTATION == "compiled", reason="stops the pure core between two bytecodes")


def transfer_of(elements: Iterable[object]) -> Transfer:
    elements = list(elements)
    transfer = Transfer(len(elements))
    for element in elements:
        transfer.hold(element)
    return transfer


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_a_set(seed: int) -> None:
    """Thousands of elements in and out in any order: each is listed exactly while it is out."""
    chance = random.Random(seed)
    elements = [bytearray(chance.choice([1, 64, 4096])) for _ in range(3000)]
    outstanding, out = Outstanding(), set()
    outstanding.make_room(len(elements))
    for _ in range(20_000):
        place = chance.randrange(len(elements))
        transfer = transfer_of([elements[place]])
        if place in out:
            assert outstanding.check_in(transfer)
            out.remove(place)
        else:
            assert not outstanding.check_in(transfer)
            outstanding.check_out(transfer)
            out.add(place)
    assert [outstanding.contains(element) for element in elements] == [place in out for place in range(len(elements))]
    assert outstanding.check_in(transfer_of(elements[place] for place in out))
    assert not any(map(outstanding.contains, elements))


def test_each_is_listed_wherever_it_lies() -> None:
    """Beyond the end of the table, too, where the search begins again at its beginning."""
    chance = random.Random(0)
    elements = [bytearray(8) for _ in range(1000)]
    for _ in range(200):
        out = chance.sample(range(len(elements)), 16)
        outstanding = Outstanding()
        outstanding.make_room(16)
        outstanding.check_out(transfer_of(elements[place] for place in out))
        assert [place for place in range(len(elements)) if outstanding.contains(elements[place])] == sorted(out)
        assert outstanding.check_in(transfer_of(elements[place] for place in out))


@pytest.mark.parametrize("for_reserve", [True, False])
def test_there_is_room_for_all_that_was_asked_for(for_reserve: bool) -> None:
    """A table that is full has no end at which the search for a stranger stops."""
    reserve = Decisions(True, False, False)
    reserve.retarget(16, 64, UNCHANGED, [None] * 64)
    both = Transfer(16), Transfer(16)
    for transfer in both:
        assert (reserve.permit_fill(transfer, False) if for_reserve else reserve.permit(transfer, 16)) == 16
        transfer.made.extend([object() for _ in range(16)])
        reserve.complete(transfer, True)
        reserve.check_out(transfer)
        assert all(map(reserve.is_out, transfer.held()))
    assert not reserve.is_out(object())


def test_it_grows_while_elements_are_out() -> None:
    """Making room forgets nobody."""
    outstanding, elements = Outstanding(), [object() for _ in range(5000)]
    for number, element in enumerate(elements, 1):
        outstanding.make_room(number)
        outstanding.check_out(transfer_of([element]))
    assert all(map(outstanding.contains, elements))
    assert outstanding.check_in(transfer_of(elements))


@pytest.mark.skipif(
    mempool.IMPLEMENTATION == "pure",
    reason="uncompiled, the table of outstanding elements is a dict, which grows when it must",
)
def test_without_memory_for_a_larger_table_the_old_one_is_kept() -> None:
    outstanding, elements = Outstanding(), [object() for _ in range(5)]
    outstanding.make_room(5)
    outstanding.check_out(transfer_of(elements))
    with pytest.raises(MemoryError):
        outstanding.make_room(1 << 55)  # bytes enough for no machine
    assert all(map(outstanding.contains, elements))
    assert not outstanding.contains(object())
    assert outstanding.check_in(transfer_of(elements))


def test_signing_in_is_all_or_nothing() -> None:
    """One that is not out, anywhere among the others, and none is removed."""
    outstanding, elements = Outstanding(), [object() for _ in range(20)]
    outstanding.make_room(20)
    outstanding.check_out(transfer_of(elements[:19]))
    for place in range(20):
        order = [*elements[:19]]
        order.insert(place, elements[19])
        assert not outstanding.check_in(transfer_of(order))
        assert not outstanding.check_in(transfer_of([*elements[:19], elements[place % 19]]))
        assert all(map(outstanding.contains, elements[:19]))


def test_an_address_that_is_not_out_makes_nobody_its_owner() -> None:
    """Who strikes off what nobody has at hand goes by the proof in the transfer."""
    outstanding, lost, stranger = Outstanding(), object(), object()
    outstanding.check_out(transfer_of([lost]))
    for address, was_out in ((id(stranger), False), (id(lost), True), (id(lost), False)):
        transfer = transfer_of([None])
        assert bool(outstanding.remove_address(transfer, address, 1)) is was_out
        assert transfer.are_owners() is was_out


def test_who_tries_again_to_strike_an_address_off_owns_what_was_there() -> None:
    """It was on its way back to its user meanwhile. Without the proof an interrupt behind it would lose the element."""
    outstanding, lost = Outstanding(), object()
    transfer = transfer_of([None])
    assert not outstanding.remove_address(transfer, id(lost), 0)
    outstanding.check_out(transfer_of([lost]))
    assert outstanding.remove_address(transfer, id(lost), 1)
    assert transfer.are_owners()


def test_an_address_is_not_removed_when_something_has_been_checked_out_since() -> None:
    """It may be that of what was checked out."""
    outstanding, element = Outstanding(), object()
    outstanding.check_out(transfer_of([element]))
    transfer = transfer_of([None])
    assert not outstanding.remove_address(transfer, id(element), outstanding.check_outs - 1)
    assert not transfer.are_owners()
    assert outstanding.check_in(transfer_of([element]))


def test_an_element_that_was_lost_does_not_count_for_another_at_its_address() -> None:
    """An element its user lost is gone; a new one at the same address goes in and out like any other."""
    pool = Pool(Objects(bytearray), 0, keep=0)
    for _ in range(100):
        pool.alloc()  # lost: the next is often made at the same address
        element = pool.alloc()
        pool.free(element)
        with pytest.raises(PoolError):
            pool.free(element)
    stats = pool.stats()
    assert (stats.out + stats.written_off, stats.spare) == (100, 0)


@pytest.mark.parametrize("track", ["identity", "holders"])
def test_an_element_whose_address_another_has_is_written_off(track: str) -> None:
    """It is no more, so it is owed no longer, and makes room under the limit; with holders tracked, none is forgotten."""
    pool = Pool(Objects(Dropped), 0, limit=20_000, track=track)
    seen = set()
    reused = made = 0
    while made < 100 or (reused == 0 and made < 10_000):  # an allocator may go through all of its block first
        made += 1
        element = pool.alloc()
        reused += id(element) in seen
        seen.add(id(element))
        del element
    assert reused > 0
    assert pool.stats().written_off >= reused
    pool.guarantee()
    stats = pool.stats()
    assert (stats.out, stats.written_off) == ((0, made) if track == "holders" else (made - reused, reused))
    assert pool.holders() == ()


class Dropped:
    """An object that allows weak references."""


def free_at_once(pool: Pool[Element], elements: list[Element], start: threading.Barrier, passed: list[int]) -> None:
    start.wait(60)
    try:
        pool.free_many(elements)
    except PoolError:
        return
    passed.append(len(elements))


def test_of_many_threads_that_free_the_same_element_one_passes() -> None:
    """Striking an element off is the gate of free: of all who free the same element, one passes."""
    source = ScriptedSource()
    pool = Pool(source, 2, keep=50)
    for _ in range(200):
        elements = pool.alloc_many(3)
        start = threading.Barrier(6)
        passed: list[int] = []
        race = [(pool, elements[:1], start, passed), (pool, elements, start, passed)] * 3
        threads = [threading.Thread(target=free_at_once, args=args) for args in race]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert passed in ([1], [3])
        if passed == [1]:
            pool.free_many(elements[1:])
        assert pool.stats().out == 0
        assert len(source.existing) == pool.stats().spare
    assert source.wrong == []


@pure
def test_an_element_freed_while_many_are_being_freed_is_returned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody frees one of the elements between free_many's look at the table of outstanding elements and its entry: a
    double free, and nothing happens; no element is returned twice.
    """
    source = ScriptedSource()
    pool = Pool(source, 0, keep=9)
    elements = pool.alloc_many(3)
    contains = Outstanding.contains

    def lists_and_is_overtaken(outstanding: Outstanding, element: object) -> bool:
        answer = contains(outstanding, element)
        if element is elements[2]:
            monkeypatch.setattr(Outstanding, "contains", contains)
            pool.free(elements[1])
        return answer

    monkeypatch.setattr(Outstanding, "contains", lists_and_is_overtaken)
    with pytest.raises(PoolError):
        pool.free_many(elements)
    assert (pool.stats().spare, pool.stats().out) == (1, 2)
    taken = pool.alloc_many(2)
    assert len({id(e) for e in [*taken, elements[0], elements[2]]}) == 4
    pool.free_many([elements[0], elements[2], *taken])
    assert source.wrong == []


@pytest.mark.parametrize(("track", "is_known"), [("identity", True), ("holders", True), ("nothing", False)])
def test_what_is_out_is_known_unless_nothing_is_tracked(track: str, is_known: bool) -> None:
    pool = Pool(Objects(bytearray), 1, track=track)
    assert pool.core.is_out(pool.alloc()) == is_known
