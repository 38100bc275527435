"""Threads and tasks that take and give back, while others resize. A second by default; `make stress` lets it last.

At the end: accounting exact, no exception, no element lost or in two hands at once, every waiter served.

MEMPOOL_STRESS_SECONDS: how long each of the marked tests lasts; 30 by default.
"""

import asyncio
import contextlib
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from books import assert_nothing_under_way
from sweeps import LONG

from mempool import Pool, PoolTimeout
from mempool.testing import Element, assert_books

SECONDS = float(os.environ.get("MEMPOOL_STRESS_SECONDS", "30"))
LATE = 30  # seconds
RESERVES = (0, 3, 5, 8, 1000)

lasting = pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(1.0 if LONG else 0.2, id="a moment"),
        pytest.param(SECONDS, id="long", marks=[pytest.mark.stress, pytest.mark.timeout(0)]),
    ],
)
hurried = pytest.mark.parametrize("switch", [0.005, 1e-6], ids=["", "hurried"])


class Source:
    """Fails at random when told to. Counts as a ScriptedSource does, but keeps no log, which would fill the memory."""

    def __init__(self, failing: float = 0) -> None:
        self.existing: set[Element] = set()
        self.made = self.disposed = 0
        self.wrong: list[str] = []
        self._failing = failing
        self._chance = random.Random(7)
        self._lock = threading.Lock()

    def alloc(self) -> Element:
        if self._chance.random() < self._failing:
            raise MemoryError
        with self._lock:
            self.made += 1
            element = Element(self.made)
            self.existing.add(element)
        return element

    def free(self, element: Element) -> None:
        with self._lock:
            self.existing.remove(element)  # a KeyError: disposed of twice
            self.disposed += 1


class Load:
    """Callers of one pool, in threads and tasks, until the time is up and each has had a turn beside the others.

    For that they go on at most LATE seconds longer: on a busy machine somebody may begin late, but is served before.
    """

    def __init__(self, pool: Pool[Element], seconds: float, most: int = 5) -> None:
        self.pool = pool
        self.sizes = [1, 1, 1, 1, 2, most]
        self.errors: list[BaseException] = []
        self.owner: dict[Element, object] = {}  # who has what; setdefault and pop are single steps
        self.turns: list[int] = []  # of each caller
        self._seconds = seconds
        self._until = 0.0  # told when it begins
        self._threads: list[threading.Thread] = []

    def goes_on(self) -> bool:
        late = LATE if 0 in self.turns else 0
        return time.monotonic() < self._until + late and not self.errors

    def _newcomer(self) -> int:
        self.turns.append(0)
        return len(self.turns) - 1

    def took(self, elements: list[Element], who: object) -> None:
        for element in elements:
            assert self.owner.setdefault(element, who) is who, f"{element} is in two hands"

    def gives(self, elements: list[Element]) -> None:
        for element in elements:
            del self.owner[element]

    def thread(self, turn: Callable[[random.Random], object]) -> None:
        """Take turns in a thread until the time is up."""
        number = self._newcomer()

        def run() -> None:
            chance = random.Random(number)
            try:
                while self.goes_on():
                    turn(chance)
                    self.turns[number] += 1
            except BaseException as error:  # noqa: BLE001 - shown at the end
                self.errors.append(error)

        self._threads.append(threading.Thread(target=run, daemon=True))

    def take_and_give(self, chance: random.Random) -> None:
        who = object()
        n = chance.choice(self.sizes)
        match chance.randrange(6):
            case 0:
                with self.pool.lease() as element:
                    self.took([element], who)
                    self.gives([element])
                return
            case 1:
                element = self.pool.try_alloc()
                elements = [] if element is None else [element]
            case 2:
                elements = []
                with contextlib.suppress(PoolTimeout):
                    elements = self.pool.alloc_many(n, timeout=chance.choice([0, 0.0001, 0.001]))
            case 3:
                elements = self.pool.alloc_many(n)
            case _:
                elements = [self.pool.alloc()]
        self.took(elements, who)
        self.gives(elements)
        if len(elements) == 1:
            self.pool.free(elements[0])
        else:
            self.pool.free_many(elements)

    def resize(self, chance: random.Random) -> None:
        self.pool.resize(chance.choice(RESERVES))

    async def take_and_give_async(self, chance: random.Random) -> None:
        who = object()
        match chance.randrange(4):
            case 0:
                async with self.pool.lease() as element:
                    self.took([element], who)
                    await asyncio.sleep(0)  # sleeps: lets the other tasks have a turn, and no longer
                    self.gives([element])
            case 1:
                with contextlib.suppress(PoolTimeout):
                    n, timeout = chance.choice(self.sizes), chance.choice([0, 0.001])
                    elements = await self.pool.alloc_many_async(n, timeout=timeout)
                    self.took(elements, who)
                    self.gives(elements)
                    self.pool.free_many(elements)
            case 2:
                task = asyncio.ensure_future(self.pool.alloc_async())
                await asyncio.sleep(0)  # sleeps: lets the task begin
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    element = await task
                    self.pool.free(element)
            case 3:
                element = await self.pool.alloc_async()
                self.took([element], who)
                self.gives([element])
                self.pool.free(element)

    def loop(self, tasks: int) -> None:
        """Take turns in so many tasks of a loop until the time is up."""
        numbers = [self._newcomer() for _ in range(tasks)]

        async def take_turns(number: int) -> None:
            chance = random.Random(number)
            while self.goes_on():
                await self.take_and_give_async(chance)
                self.turns[number] += 1
                await asyncio.sleep(0)  # sleeps: lets the other tasks have a turn

        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                for number in numbers:
                    group.create_task(take_turns(number))

        def run() -> None:
            try:
                asyncio.run(main())
            except BaseException as error:  # noqa: BLE001 - shown at the end
                self.errors.append(error)

        self._threads.append(threading.Thread(target=run, daemon=True))

    def run(self) -> None:
        self._until = time.monotonic() + self._seconds
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            while thread.is_alive() and not self.errors and time.monotonic() < self._until + LATE + 30:
                thread.join(1)
        unserved = [thread for thread in self._threads if thread.is_alive()]
        if unserved or self.errors:
            state = repr(self.pool)
            self.pool.close()
            assert self.errors == []
            raise AssertionError(f"{len(unserved)} threads were not served: {state}")
        assert min(self.turns) > 0


@pytest.fixture
def switch_often(switch: float) -> Iterator[None]:
    """Let threads take turns more often than they would."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(switch)
    yield
    sys.setswitchinterval(before)


def assert_all_came_back(pool: Pool[Element], source: Source, load: Load) -> None:
    assert_books(pool, source)  # type: ignore[arg-type]
    assert_nothing_under_way(pool)
    assert load.owner == {}
    source._failing = 0
    pool.resize(3)
    assert pool.refill().held  # a resize to what the reserve is already fills nothing
    assert pool.stats().spare <= 6
    elements = [pool.alloc() for _ in range(20)]
    assert len(set(elements)) == 20
    pool.free_many(elements)
    assert pool.close() == 0
    assert source.existing == set()


@pytest.mark.sample(3)
@lasting
@hurried
@pytest.mark.usefixtures("switch_often")
@pytest.mark.parametrize(("failing", "limit"), [(0, None), (0.3, None), (0, 1000)], ids=["", "a failing source", "a limit"])
def test_ten_threads_take_and_give_while_three_resize(seconds: float, failing: float, limit: int | None) -> None:
    """Ten threads alloc and free while three resize between 0, 3, 5, 8 and 1000: nothing lost, everybody served."""
    source = Source()
    pool = Pool(source, 5, limit=limit)
    source._failing = failing
    load = Load(pool, seconds)
    for _ in range(10):
        load.thread(load.take_and_give)
    for _ in range(3):
        load.thread(load.resize)
    load.run()
    assert_all_came_back(pool, source, load)


@lasting
@hurried
@pytest.mark.usefixtures("switch_often")
@pytest.mark.parametrize("failing", [0, 0.3], ids=["", "a failing source"])
def test_tasks_of_two_loops_share_the_pool_with_threads(seconds: float, failing: float) -> None:
    """The same with tasks in the line, some of which are cancelled."""
    source = Source()
    pool = Pool(source, 5, limit=1000)
    source._failing = failing
    load = Load(pool, seconds)
    load.loop(tasks=6)
    load.loop(tasks=6)
    for _ in range(4):
        load.thread(load.take_and_give)
    for _ in range(2):
        load.thread(load.resize)
    load.run()
    assert_all_came_back(pool, source, load)


@lasting
@hurried
@pytest.mark.usefixtures("switch_often")
def test_nobody_starves_in_a_short_line(seconds: float) -> None:
    """Ten threads and ten tasks share three elements that are never made anew: all of them are served all the time."""
    source = Source()
    pool = Pool(source, 3, keep=3, limit=3)
    load = Load(pool, seconds, most=3)

    def counting(number: int) -> Callable[[random.Random], None]:
        def turn(_chance: random.Random) -> None:
            elements = pool.alloc_many(1 + number % 3)
            load.took(elements, number)
            load.gives(elements)
            pool.free_many(elements)

        return turn

    for number in range(10):
        load.thread(counting(number))
    load.loop(tasks=10)
    load.run()
    assert pool.stats().spare == 3
    assert source.made == 3
