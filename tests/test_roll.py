"""The roll of elements that are out: beside a set that cannot be wrong, and when two free the same at once."""

import random
import threading
from collections.abc import Iterable

import pytest

import mempool
from mempool import Objects, Pool, PoolError
from mempool._core import Hands, Reserve
from mempool._core.reserve import UNCHANGED
from mempool._core.roll import Roll
from mempool.testing import Element, ScriptedSource

pure = pytest.mark.skipif(mempool.IMPLEMENTATION == "compiled", reason="stops the pure core between two bytecodes")


def hands_with(elements: Iterable[object]) -> Hands:
    elements = list(elements)
    hands = Hands(len(elements))
    for element in elements:
        hands.hold(element)
    return hands


@pytest.mark.parametrize("seed", range(5))
def test_it_agrees_with_a_set(seed: int) -> None:
    """Thousands of elements in and out in any order: each is listed exactly while it is out."""
    chance = random.Random(seed)
    elements = [bytearray(chance.choice([1, 64, 4096])) for _ in range(3000)]
    roll, out = Roll(), set()
    roll.make_room(len(elements))
    for _ in range(20_000):
        place = chance.randrange(len(elements))
        hands = hands_with([elements[place]])
        if place in out:
            assert roll.sign_in(hands)
            out.remove(place)
        else:
            assert not roll.sign_in(hands)
            roll.sign_out(hands)
            out.add(place)
    assert [roll.lists(element) for element in elements] == [place in out for place in range(len(elements))]
    assert roll.sign_in(hands_with(elements[place] for place in out))
    assert not any(map(roll.lists, elements))


def test_each_is_listed_wherever_it_lies() -> None:
    """Beyond the end of the table, too, where the search begins again at its beginning."""
    chance = random.Random(0)
    elements = [bytearray(8) for _ in range(1000)]
    for _ in range(200):
        out = chance.sample(range(len(elements)), 16)
        roll = Roll()
        roll.make_room(16)
        roll.sign_out(hands_with(elements[place] for place in out))
        assert [place for place in range(len(elements)) if roll.lists(elements[place])] == sorted(out)
        assert roll.sign_in(hands_with(elements[place] for place in out))


@pytest.mark.parametrize("for_reserve", [True, False])
def test_there_is_room_for_all_that_was_asked_for(for_reserve: bool) -> None:
    """A table that is full has no end at which the search for a stranger stops."""
    reserve = Reserve(True, False, False)
    reserve.retarget(16, 64, UNCHANGED, [None] * 64)
    both = Hands(16), Hands(16)
    for hands in both:
        assert (reserve.claim_to_fill(hands, False) if for_reserve else reserve.claim(hands, 16)) == 16
        hands.arrivals.extend([object() for _ in range(16)])
        reserve.arrive(hands, True)
        reserve.sign_out(hands)
        assert all(map(reserve.is_out, hands.held()))
    assert not reserve.is_out(object())


def test_it_grows_while_elements_are_out() -> None:
    """Making room forgets nobody."""
    roll, elements = Roll(), [object() for _ in range(5000)]
    for number, element in enumerate(elements, 1):
        roll.make_room(number)
        roll.sign_out(hands_with([element]))
    assert all(map(roll.lists, elements))
    assert roll.sign_in(hands_with(elements))


@pytest.mark.skipif(mempool.IMPLEMENTATION == "pure", reason="uncompiled, the roll is a dict, which grows when it must")
def test_without_memory_for_a_larger_table_the_old_one_is_kept() -> None:
    roll, elements = Roll(), [object() for _ in range(5)]
    roll.make_room(5)
    roll.sign_out(hands_with(elements))
    with pytest.raises(MemoryError):
        roll.make_room(1 << 55)  # bytes enough for no machine
    assert all(map(roll.lists, elements))
    assert not roll.lists(object())
    assert roll.sign_in(hands_with(elements))


def test_signing_in_is_all_or_nothing() -> None:
    """One that is not out, anywhere among the others, and none is struck off."""
    roll, elements = Roll(), [object() for _ in range(20)]
    roll.make_room(20)
    roll.sign_out(hands_with(elements[:19]))
    for place in range(20):
        order = [*elements[:19]]
        order.insert(place, elements[19])
        assert not roll.sign_in(hands_with(order))
        assert not roll.sign_in(hands_with([*elements[:19], elements[place % 19]]))
        assert all(map(roll.lists, elements[:19]))


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
    pool = Pool(Objects(Dropped), 0, limit=1000, track=track)
    seen = set()
    reused = 0
    for _ in range(100):
        element = pool.alloc()
        reused += id(element) in seen
        seen.add(id(element))
        del element
    assert reused > 0
    assert pool.stats().written_off >= reused
    pool.guarantee()
    stats = pool.stats()
    assert (stats.out, stats.written_off) == ((0, 100) if track == "holders" else (100 - reused, reused))
    assert pool.holders() == ()


class Dropped:
    """An object that allows weak references."""


def free_at_once(pool: Pool[Element], elements: list[Element], start: threading.Barrier, passed: list[int]) -> None:
    start.wait(10)
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
            thread.join(10)
        assert passed in ([1], [3])
        if passed == [1]:
            pool.free_many(elements[1:])
        assert pool.stats().out == 0
        assert len(source.existing) == pool.stats().spare
    assert source.wrong == []


@pure
def test_an_element_freed_while_many_are_being_freed_comes_home_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody frees one of the elements between free_many's look at the roll and its entry: a double free, and nothing
    happens; no element comes home twice.
    """
    source = ScriptedSource()
    pool = Pool(source, 0, keep=9)
    elements = pool.alloc_many(3)
    lists = Roll.lists

    def lists_and_is_overtaken(roll: Roll, element: object) -> bool:
        answer = lists(roll, element)
        if element is elements[2]:
            monkeypatch.setattr(Roll, "lists", lists)
            pool.free(elements[1])
        return answer

    monkeypatch.setattr(Roll, "lists", lists_and_is_overtaken)
    with pytest.raises(PoolError):
        pool.free_many(elements)
    assert (pool.stats().spare, pool.stats().out) == (1, 2)
    taken = pool.alloc_many(2)
    assert len({id(e) for e in [*taken, elements[0], elements[2]]}) == 4
    pool.free_many([elements[0], elements[2], *taken])
    assert source.wrong == []
