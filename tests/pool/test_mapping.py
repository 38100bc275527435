"""pool.map: worker threads with an element each, results in order, never more under way than was asked for."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mempool import Buffer, Buffers, Lease, Objects, Pool
from mempool.mapping import in_workers
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


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the buffer that the result has kept
def test_a_result_that_looks_at_its_element_is_an_error() -> None:
    """The next call would write over it. The message says how it is allowed; nothing stays out."""
    with Pool(Buffers(16), 2) as pool:
        with pytest.raises(BufferError, match="linger=True"):
            list(pool.map(lambda buf, item: buf[:item], [4]))
        gc.collect()
        wait_until(lambda: pool.out == 0)  # the worker lets go of its traceback


def test_results_may_look_at_their_elements() -> None:
    """With linger=True, each is what its own call has written, for as long as somebody looks at it."""

    def write(buf: Buffer, item: int) -> memoryview:
        buf.fill(item)
        return buf[:4]

    with Pool(Buffers(16), 3) as pool:
        for item, view in enumerate(pool.map(write, range(50), linger=True)):
            assert bytes(view) == bytes([item] * 4)
        del view
        assert pool.out == 0
        assert pool.stats().lingering == 0


def test_results_that_look_at_their_elements_do_not_use_up_the_reserve() -> None:
    """Calls that end before an earlier one has begun leave an element for it, where there is nothing but the reserve."""
    main = threading.get_ident()
    taken: list[int] = []
    done: list[int] = []

    def items() -> Iterator[int]:
        for item in range(20):
            taken.append(item)
            yield item

    def is_all_done() -> bool:
        """The loop waits for the first result; all it has begun beside that is done, and the last item not begun."""
        return inside(main, "result") and len(done) == len(taken) - 2

    class FirstComesLast:
        """The pool, whose first call comes to take its element when all others under way have theirs."""

        name, reserve = "late", 3

        def lease(self, **options: Any) -> Lease[Buffer]:
            if sys._getframe(1).f_locals["item"] == 0:
                wait_until(is_all_done)
            return pool.lease(**options)

    def write(buf: Buffer, item: int) -> memoryview:
        buf.fill(item)
        done.append(item)
        return buf[:4]

    with Pool(Buffers(16), 3, limit=3, timeout=60) as pool:
        late: Any = FirstComesLast()
        results = in_workers(late, write, items(), workers=2, timeout="default", linger=True)
        assert [bytes(view)[0] for view in results] == list(range(20))
        assert pool.stats().made == 3


def inside(thread: int, function: str) -> bool:
    """Whether this thread is in a call of a function of that name."""
    frame = sys._current_frames().get(thread)
    while frame is not None and frame.f_code.co_name != function:
        frame = frame.f_back
    return frame is not None


def test_looking_results_need_a_second_element() -> None:
    """Of one, the call for the next result would wait for the last; it is said at once."""
    with Pool(Buffers(16), 1) as pool, pytest.raises(ValueError, match="reserve of 2"):
        pool.map(lambda buf, item: buf[:item], [1], linger=True)


def test_as_many_items_are_under_way_as_two_for_each_worker() -> None:
    """One that is at work and one behind it, so that no worker waits for the next item; those of looking results as many."""
    for linger in (False, True):
        taken: list[int] = []

        def items(taken: list[int] = taken) -> Iterator[int]:
            for item in range(40):
                taken.append(item)
                yield item

        for workers in (1, 4):
            taken.clear()
            with Pool(Objects(object), 20) as pool:
                results = pool.map(lambda _element, item: item, items(), workers=workers, linger=linger)
                assert next(results) == 0
                assert len(taken) == 2 * workers + 1  # the last of them waits for its place
                results.close()  # type: ignore[attr-defined]  # a generator
