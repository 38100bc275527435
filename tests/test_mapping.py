"""pool.map: worker threads with an element each, results in order, never more under way than was asked for."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from mempool import Buffer, Buffers, Objects, Pool
from mempool.testing import wait_until


def test_results_come_in_the_order_of_the_items() -> None:
    """Whichever call ends first."""
    turns = [threading.Event() for _ in range(4)]

    def work(_element: object, number: int) -> int:
        if number < 3:
            turns[number + 1].wait(20)  # each waits for the one after it
        turns[number].set()
        return number * number

    with Pool(Objects(object), 4) as pool:
        assert list(pool.map(work, range(4))) == [0, 1, 4, 9]
        assert pool.out == 0


def test_each_call_has_an_element_of_its_own() -> None:
    """No two calls at once have the same one, and there are no more elements than the limit."""
    inside: set[int] = set()
    shared: list[int] = []

    def work(element: object, _item: int) -> None:
        if id(element) in inside:
            shared.append(id(element))
        inside.add(id(element))
        inside.discard(id(element))

    with Pool(Objects(object), 2, limit=2) as pool:
        assert len(list(pool.map(work, range(500), workers=4))) == 500
        assert pool.stats().made == 2
    assert shared == []


def test_items_are_taken_as_results_are() -> None:
    """An endless source of items is no trouble: at most two for each worker are under way."""
    taken = itertools.count()

    def items() -> Iterator[int]:
        while True:
            yield next(taken)

    with Pool(Objects(object), 1) as pool:
        results = pool.map(lambda _element, item: item, items(), workers=2)
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        results.close()  # type: ignore[attr-defined]  # a generator
        assert next(taken) <= 10
        assert pool.out == 0


def test_an_error_of_a_call_is_raised_in_its_place() -> None:
    """Results before it were given; no call begins after; every element is back."""
    begun: list[int] = []

    def work(_element: object, item: int) -> float:
        begun.append(item)
        return 1 / (3 - item)

    with Pool(Objects(object), 1) as pool:
        results = pool.map(work, itertools.count(), workers=1)
        assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1.0]
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert pool.out == 0
    assert len(begun) <= 6


def test_the_worker_threads_are_as_many_as_elements_are_promised() -> None:
    """workers=None: the reserve. All of them are at work at once."""
    together = threading.Barrier(3, timeout=20)

    def work(_element: Buffer, _item: int) -> str:
        together.wait()
        return threading.current_thread().name

    with Pool(Buffers(64), 3, name="frames") as pool:
        names = list(pool.map(work, range(3)))
    assert len(set(names)) == 3
    assert all(name.startswith("frames-map") for name in names)
    wait_until(lambda: not any(thread.name.startswith("frames-map") for thread in threading.enumerate()))


@pytest.mark.parametrize("workers", [0, -1, "two"])
def test_a_number_of_workers_that_makes_no_sense_is_refused_at_once(workers: object) -> None:
    with Pool(Objects(object), 1) as pool, pytest.raises((ValueError, TypeError)):
        pool.map(lambda _element, item: item, [1], workers=workers)  # type: ignore[arg-type]
