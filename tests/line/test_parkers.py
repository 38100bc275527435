"""Kinds of callers that are added: `mempool.parking.register` and `register_tasks`."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from books import assert_at_rest

from mempool import Objects, Pool, PoolTimeout, parking
from mempool.clock import Clock
from mempool.testing import ManualClock, wait_until

greenlet = pytest.importorskip("greenlet")
SOON = 60  # seconds


class Rounds:
    """A little loop: runs greenlets by turns, and those that wait not until they are woken, from any thread."""

    def __init__(self) -> None:
        self.ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.living: set[Any] = set()
        self.greenlet = greenlet.getcurrent()

    def spawn(self, function: Callable[[], object]) -> Any:
        fiber = greenlet.greenlet(function, self.greenlet)
        self.living.add(fiber)
        self.ready.put(fiber)
        return fiber

    def current(self) -> object:
        current = greenlet.getcurrent()
        return current if current in self.living else None

    def run(self) -> None:
        while self.living:
            fiber = self.ready.get(timeout=SOON)
            if fiber in self.living:
                fiber.switch()
                self.living -= {fiber for fiber in self.living if fiber.dead}


class FiberParker:
    """Has no time of its own: it is for waits without an end."""

    may_be_gone = True

    def __init__(self, rounds: Rounds) -> None:
        self.rounds = rounds
        self.owner: object = rounds.current()
        self.on_gone: Callable[[], object] | None = None

    def wake(self) -> None:
        if self.owner in self.rounds.living:
            self.rounds.ready.put(self.owner)
        elif self.on_gone is not None:
            self.on_gone()

    def park(self, seconds: float | None) -> None:
        self.rounds.greenlet.switch()


@pytest.fixture
def rounds() -> Iterator[Rounds]:
    made = Rounds()
    remove = parking.register(made.current, lambda _clock: FiberParker(made))
    yield made
    remove()
    remove()  # may be done again


def test_a_kind_of_callers_that_was_added_waits_in_its_own_way(rounds: Rounds) -> None:
    """Fibers of one thread and a thread in one line: in order, each its own owner, and nobody stops the others."""
    pool = Pool(Objects(bytearray), 1, limit=1, track="holders", patience=None)
    served: list[object] = []

    def take(name: str) -> None:
        with pool.lease():
            served.append(name)
            assert pool.core.queue() == [] or all(ticket.owner is not greenlet.getcurrent() for ticket in pool.core.queue())

    def hold() -> None:
        with pool.lease():
            fibers.extend(rounds.spawn(lambda name=name: take(name)) for name in "abc")
            while pool.stats().waiting < 3:
                rounds.ready.put(greenlet.getcurrent())
                rounds.greenlet.switch()
            assert [ticket.owner for ticket in pool.core.queue()] == fibers
            thread.start()
            wait_until(lambda: pool.stats().waiting == 4)

    fibers: list[Any] = []
    thread = threading.Thread(target=take, args=("thread",))
    rounds.spawn(hold)
    rounds.run()
    thread.join(SOON)
    assert served == ["a", "b", "c", "thread"]
    assert_at_rest(pool)


def test_one_that_is_gone_loses_its_place_and_no_element(rounds: Rounds) -> None:
    """`wake` finds that the caller can run no more and calls on_gone: the next in line is served."""
    pool = Pool(Objects(bytearray), 1, limit=1)
    element = pool.alloc()
    fiber = rounds.spawn(pool.alloc)
    rounds.ready.get(timeout=SOON).switch()
    assert pool.stats().waiting == 1
    rounds.living.clear()  # the loop has ended, and this one is never run again
    behind = threading.Thread(target=lambda: pool.free(pool.alloc(timeout=SOON)))
    behind.start()
    wait_until(lambda: pool.stats().waiting == 2)
    pool.free(element)
    behind.join(SOON)
    assert not behind.is_alive()
    assert not fiber.dead
    assert_at_rest(pool)


def test_a_parker_that_leaves_time_to_the_clock_lives_by_a_manual_clock() -> None:
    """`clock.park` takes anything with `put` and `get`."""

    class Counted(queue.SimpleQueue[None]):
        gets = 0

        def get(self, block: bool = True, timeout: float | None = None) -> None:
            type(self).gets += 1
            return super().get(block, timeout)

    class ClockParker:
        may_be_gone = False
        on_gone: Callable[[], object] | None = None

        def __init__(self, clock: Clock) -> None:
            self.owner: object = "me"
            self.wakes = Counted()
            self.clock = clock

        def wake(self) -> None:
            self.wakes.put(None)

        def park(self, seconds: float | None) -> None:
            self.clock.park(self.wakes, seconds)

    clock = ManualClock()
    pool = clock.attach(Pool(Objects(bytearray), 1, limit=1, patience=None))
    element = pool.alloc()
    errors: list[PoolTimeout] = []

    def wait() -> None:
        try:
            pool.alloc(timeout=1000)
        except PoolTimeout as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    remove = parking.register(lambda: "me" if threading.current_thread() is thread else None, ClockParker)
    try:
        thread.start()
        clock.wait_until_parked(1)
        assert [ticket.owner for ticket in pool.core.queue()] == ["me"]
        clock.advance(1000)
        thread.join(SOON)
    finally:
        remove()
    assert (len(errors), Counted.gets > 0) == (1, True)
    pool.free(element)
    assert_at_rest(pool)


def test_a_kind_of_tasks_that_was_added_waits_in_its_own_way() -> None:
    """A loop of ten lines, of which neither asyncio nor trio knows: its tasks yield, and are sent on when woken."""
    pool = Pool(Objects(bytearray), 1, limit=1, patience=None)
    ready: queue.SimpleQueue[Coroutine[Any, Any, None]] = queue.SimpleQueue()
    running: list[Coroutine[Any, Any, None]] = []
    served: list[str] = []

    class Pause:
        def __await__(self) -> Iterator[None]:
            yield

    class LittleParker:
        may_be_gone = False
        on_gone: Callable[[], object] | None = None

        def __init__(self, clock: Clock) -> None:
            self.owner: object = running[0]
            self.now = clock.now

        def wake(self) -> None:
            ready.put(self.owner)  # type: ignore[arg-type]

        async def park(self, seconds: float | None) -> None:
            await Pause()

    async def take(name: str) -> None:
        async with pool.lease():
            served.append(name)

    element = pool.alloc()
    remove = parking.register_tasks(lambda: running[0] if running else None, LittleParker)
    try:
        tasks = [take("a"), take("b")]
        for number, task in enumerate(tasks):
            running.append(task)
            task.send(None)
            running.clear()
            assert pool.stats().waiting == number + 1
        threading.Thread(target=pool.free, args=(element,)).start()
        while tasks:
            task = ready.get(timeout=SOON)
            if task in tasks:
                running.append(task)
                try:
                    task.send(None)
                except StopIteration:
                    tasks.remove(task)
                running.clear()
    finally:
        remove()
    assert served == ["a", "b"]
    assert_at_rest(pool)
    asyncio.run(take("asyncio, as before"))
