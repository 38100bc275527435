"""Whoever serves a caller in the line wakes its thread or its loop itself; what is lost on the way, the waiter finds out."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import Parent, child
from single_steps import kill_after_change, may_trace
from sweeps import LONG

from mempool.errors import PoolTimeout
from mempool.shared import lookout, pool_engine, ticket
from mempool.shared.doors import Door
from mempool.shared.pool import SharedPool
from mempool.shared.pool_engine import PoolEngine
from mempool.testing import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
LONG_TIME = 1e6  # seconds: so nobody looks by himself in the time of a test


def make(path: Path, **options: Any) -> SharedPool:
    return SharedPool("frames", **{"size": 4096, "reserve": 1, "keep": 1, "limit": 1, "folder": path.parent, **options})


def attach(path: Path) -> SharedPool:
    return SharedPool.attach("frames", folder=path.parent)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread looks around for those who wait."""
    monkeypatch.setattr(PoolEngine, "_listen", lambda _engine, _waited=0.0: None)


def doors_of(pool: SharedPool) -> list[Door]:
    return [door for door in pool._engine._doors._doors.values() if door]


def socket_of(door: Door) -> str:
    """Which one; its descriptor may soon be another's."""
    return str(Path(f"/proc/self/fd/{door._socket.number}").readlink())


def is_open(socket: str) -> bool:
    """Whether this process has it."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return socket in found


@contextmanager
def in_a_thread(call: Callable[[], object]) -> Iterator[threading.Thread]:
    """It must come to its end."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    yield thread
    thread.join(30)
    assert not thread.is_alive(), "nobody woke it"


async def in_line(pool: SharedPool) -> None:
    while pool.waiting == 0:  # noqa: ASYNC110 - the line has no event
        await asyncio.sleep(0)


async def take_one(pool: SharedPool) -> None:
    pool.free(await pool.alloc_async())


WAYS: dict[str, Callable[[SharedPool], None]] = {
    "thread": lambda pool: pool.free(pool.alloc()),
    "task": lambda pool: asyncio.run(take_one(pool)),
}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("way", WAYS)
def test_who_serves_a_caller_wakes_it_itself(pool_path: Path, way: str) -> None:
    """With no thread in between, and though the caller would not look by itself."""
    pool, other = make(pool_path), attach(pool_path)
    pool._engine._tx.slice = LONG_TIME
    for _ in range(3):  # each in a place, and the task in a loop, that was another's before
        held = other.alloc()
        with in_a_thread(lambda: WAYS[way](pool)):
            wait_until(lambda: other.waiting == 1)
            other.free(held)
    assert pool.verify() == []


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("way", WAYS)
def test_another_process_wakes_it(pool_path: Path, way: str) -> None:
    def hold(parent: Parent) -> None:
        mine = attach(pool_path)
        held = mine.alloc()
        parent.tell(1)
        parent.wait()
        mine.free(held)

    pool = make(pool_path)
    with child(hold) as holder:
        holder.hear()
        pool._engine._tx.slice = LONG_TIME
        with in_a_thread(lambda: WAYS[way](pool)):
            wait_until(lambda: pool.waiting == 1)
            holder.go()
        assert holder.end() == 0


class Scarce:
    """The memory of one process, which is lacking at first."""

    def __init__(self, pool: SharedPool) -> None:
        self._tx = pool._engine._tx
        self._tx.memory = self
        self.is_there = False
        self.asked = 0

    def make(self, slot: int) -> bool:
        self.asked += 1
        return self.is_there and bool(self._tx.populate_here(slot))

    def drop(self, slot: int) -> None:
        self._tx.punch_here(slot)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("way", WAYS)
def test_who_comes_has_the_head_ask_that_waits_in_another_process(
    pool_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: the head, which would not ask by itself in the time of a test, is told, and served before the newcomer."""
    monkeypatch.setattr(pool_engine, "ASK_FIRST", LONG_TIME)
    pool, other = make(pool_path, reserve=0, keep=0, limit=2), attach(pool_path)
    pool._engine._tx.slice = LONG_TIME
    memory = Scarce(pool)
    with in_a_thread(lambda: WAYS[way](pool)):
        wait_until(lambda: other.waiting == 1 and memory.asked > 0)
        memory.is_there = True
        with in_a_thread(lambda: WAYS["thread"](other)):
            pass
    assert (pool.out, pool.verify()) == (0, [])


def test_a_thread_that_is_served_soon_has_no_thread_begun(pool_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits for longer has: it looks after what a killed process has left undone."""
    begun: list[float] = []
    begin = lookout.begin

    def noted(engine: Any, waited: float) -> None:
        begun.append(waited)
        begin(engine, waited)

    monkeypatch.setattr(lookout, "begin", noted)
    monkeypatch.setattr(lookout, "WATCH_AFTER", LONG_TIME)
    pool, other = make(pool_path), attach(pool_path)
    held = other.alloc()
    with in_a_thread(lambda: WAYS["thread"](pool)):
        wait_until(lambda: other.waiting == 1)
        other.free(held)
    assert begun == []
    monkeypatch.setattr(lookout, "WATCH_AFTER", 0.001)
    held = other.alloc()
    with in_a_thread(lambda: WAYS["thread"](pool)):
        wait_until(lambda: len(begun) > 0)
        other.free(held)
    assert begun == [0.001]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("end", [SharedPool.close, SharedPool.close_for_all])
def test_a_close_wakes_who_waits(pool_path: Path, end: Callable[[SharedPool], int]) -> None:
    """In this process, and by the same way."""
    pool = make(pool_path)
    pool._engine._tx.slice = LONG_TIME
    held = pool.alloc()
    said: list[str] = []

    def wait() -> None:
        try:
            pool.alloc()
        except Exception as error:  # noqa: BLE001 - compared below
            said.append(type(error).__name__)

    with in_a_thread(wait):
        wait_until(lambda: pool.waiting == 1)
        end(pool)
    pool.free(held)
    assert said == ["PoolClosed"]


@pytest.mark.usefixtures("alone")
def test_a_wait_ends_with_its_timeout(pool_path: Path) -> None:
    pool = make(pool_path)
    pool._engine._tx.slice = LONG_TIME
    held = pool.alloc()
    with pytest.raises(PoolTimeout):
        pool.alloc(timeout=0.01)
    assert pool.waiting == 0
    pool.free(held)


@pytest.mark.usefixtures("alone")
def test_a_signal_ends_the_sleep(pool_path: Path) -> None:
    """Its handler runs at once, and what it raises comes out of the call; the line is left."""
    pool = make(pool_path)
    held = pool.alloc()
    here = threading.get_ident()

    class Rung(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rung

    def strike() -> None:
        wait_until(lambda: pool.waiting == 1)
        signal.pthread_kill(here, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, ring)
    try:
        with in_a_thread(strike), pytest.raises(Rung):
            pool.alloc()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert pool.waiting == 0
    pool.free(held)


def test_a_handler_waits_while_its_thread_sleeps(pool_path: Path) -> None:
    """In another line: what the thread sleeps on is in use, so the handler's wait has something of its own."""
    pool, other = make(pool_path), attach(pool_path)
    held, served = other.alloc(), []
    inner = SharedPool("inner", size=4096, reserve=1, keep=1, limit=1, folder=pool_path.parent)
    inner_held = inner.alloc()
    here = threading.get_ident()

    def wait_too(*_: object) -> None:
        if not served:
            served.append(inner)
            inner.free(inner.alloc())

    def strike() -> None:
        wait_until(lambda: pool.waiting == 1)
        while not served:  # one that comes just before the sleep is handled after it
            signal.pthread_kill(here, signal.SIGUSR1)
        wait_until(lambda: inner.waiting == 1)
        other.free(held)  # the outer one is served first, and sleeps on below the handler
        inner.free(inner_held)

    before = signal.signal(signal.SIGUSR1, wait_too)
    try:
        with in_a_thread(strike):
            pool.free(pool.alloc())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [(each.out, each.waiting, each.verify()) for each in (pool, inner)] == [(0, 0, [])] * 2


def test_a_thread_that_has_waited_keeps_no_pool(pool_path: Path) -> None:
    """It uses what it sleeps on again, in its next wait."""
    pool, other = make(pool_path), attach(pool_path)
    held = other.alloc()

    def give() -> None:
        wait_until(lambda: other.waiting == 1)
        other.free(held)

    with in_a_thread(give):
        pool.free(pool.alloc())
    engine = weakref.ref(pool._engine)
    del pool

    def is_gone() -> bool:
        gc.collect()
        return engine() is None

    wait_until(is_gone)


def test_a_door_that_is_shut_is_gone_round(pool_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the loop cannot be told, as from another network namespace, the thread that looks around is."""
    monkeypatch.setattr(lookout, "SLICE", LONG_TIME)
    monkeypatch.setattr(lookout, "WATCH_AFTER", LONG_TIME)
    expect = Door.expect

    def expect_at_another(door: Door, ticket: Any) -> None:
        expect(door, ticket)
        ticket.stand_at(door.number + 1000)

    monkeypatch.setattr(Door, "expect", expect_at_another)
    pool, other = make(pool_path), attach(pool_path)
    held = other.alloc()
    with in_a_thread(lambda: WAYS["task"](pool)):
        wait_until(lambda: other.waiting == 1)
        wait_until(lambda: pool._engine._listener is not None)
        other.free(held)


@pytest.mark.parametrize("way", ["thread", "task"])
def test_who_is_served_and_seen_as_it_lines_up_needs_no_bell(
    pool_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The thread that looks around for others sees it served, which leaves the line, before it has said how to be woken.

    `alloc` raised ValueError then: "a ticket that stands in no line has no door".
    """
    pool = make(pool_path)
    held = [pool.alloc()]
    stands_at, bell = ticket.Ticket.stand_at, ticket.Ticket.bell

    def serve_before() -> None:
        while held:
            pool.free(held.pop())
            pool._engine.look_around()

    def bell_after(served: Any) -> Any:
        serve_before()
        return bell(served)

    def stand_at_after(served: Any, door: int) -> Any:
        serve_before()
        return stands_at(served, door)

    monkeypatch.setattr(ticket.Ticket, "bell", bell_after)
    monkeypatch.setattr(ticket.Ticket, "stand_at", stand_at_after)
    WAYS[way](pool)
    assert (pool.stats().out, pool.waiting) == (0, 0)
    assert not any(door.served for door in doors_of(pool))


@pytest.mark.usefixtures("alone")
def test_a_task_goes_on_in_the_turn_of_its_loop_that_is_told(pool_path: Path) -> None:
    """And not in the next one, before which the loop asks the system again for what there is to do."""

    async def main() -> tuple[int, int]:
        loop: Any = asyncio.get_running_loop()
        turns, turn = 0, loop._run_once

        def counted() -> None:
            nonlocal turns
            turns += 1
            turn()

        loop._run_once = counted
        held = pool.alloc()

        async def wait() -> int:
            pool.free(await pool.alloc_async())
            return turns

        waiting = asyncio.ensure_future(wait())
        for _ in range(5):  # it stands in the line after the first
            await asyncio.sleep(0)
        assert pool.waiting == 1
        pool.free(held)
        return turns, await waiting

    with make(pool_path) as pool:
        freed_in, served_in = asyncio.run(main())
        pool.unlink()
    assert served_in == freed_in + 1


@pytest.mark.usefixtures("alone")
def test_a_task_whose_context_another_thread_is_in_goes_on_in_a_later_turn(pool_path: Path) -> None:
    """It cannot be run at once, and is not lost by that: asyncio calls it, when the other one has left."""
    context = contextvars.copy_context()
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        inside.set()
        assert leave.wait(30)

    async def main() -> int:
        loop: Any = asyncio.get_running_loop()
        refused = 0
        call_soon = loop.call_soon

        def left_before(*arguments: Any, **options: Any) -> Any:
            nonlocal refused
            if options.get("context") is context:
                refused += 1
                leave.set()
                thread.join(30)
            return call_soon(*arguments, **options)

        held = pool.alloc()
        waiting = loop.create_task(take_one(pool), context=context)
        await in_line(pool)
        thread = threading.Thread(target=lambda: context.run(stay), daemon=True)
        thread.start()
        assert inside.wait(30)
        loop.call_soon = left_before
        pool.free(held)
        await waiting
        return refused

    with make(pool_path) as pool:
        refused = asyncio.run(asyncio.wait_for(main(), 30))
        pool.unlink()
    assert refused == 1


def test_a_task_that_is_cancelled_has_left_its_door(pool_path: Path) -> None:
    pool = make(pool_path)
    held = pool.alloc()

    async def run() -> None:
        task = asyncio.create_task(take_one(pool))
        await in_line(pool)
        (door,) = doors_of(pool)
        assert len(door.served) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (door.served, pool.waiting) == ({}, 0)
        pool.free(held)
        await take_one(pool)

    asyncio.run(run())


def test_a_door_is_closed_with_its_loop_and_with_its_pool(pool_path: Path) -> None:
    """Nothing of it is left in the process."""
    pool, other = make(pool_path), attach(pool_path)

    async def wait_once(pool: SharedPool) -> str:
        held = other.alloc()
        asyncio.get_running_loop().call_later(0.01, other.free, held)
        await take_one(pool)
        (door,) = doors_of(pool)
        return socket_of(door)

    def run() -> str:
        return asyncio.run(wait_once(pool))

    def is_gone(socket: str) -> bool:
        gc.collect()  # again and again: the lookout may just be looking at the ticket, which knows the loop
        return not is_open(socket)

    first = run()
    wait_until(lambda: is_gone(first))

    async def outlive() -> None:
        passing = [attach(pool_path)]
        second = await wait_once(passing[0])
        assert is_open(second)
        passing[0].close()
        wait_until(lambda: passing[0]._engine._listener is None)
        passing.clear()
        while not is_gone(second):  # noqa: ASYNC110 - the loop itself shuts it
            await asyncio.sleep(0)

    asyncio.run(outlive())


def test_a_door_in_a_cycle_takes_its_reader_away_from_the_loop(pool_path: Path) -> None:
    """The collector ends what is in a cycle in any order; a loop that reads on at the number soon reads another's."""
    wrong: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: wrong.append(context))
        for _ in range(3):
            tx = attach(pool_path)._engine._tx
            loop = asyncio.get_running_loop()
            cycle: list[Any] = [Door(tx, loop, 2)]
            number = cycle[0]._socket.number
            cycle[0].served[0] = cycle  # type: ignore[assignment]
            del cycle
            gc.collect()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert loop.remove_reader(number) is False, "the loop reads on"

    pool = make(pool_path)
    asyncio.run(main())
    assert wrong == []
    pool.close()


@pytest.mark.parametrize("ending", ["served", "out of time"])
def test_a_lease_that_a_task_waited_for_and_returned_keeps_nothing(pool_path: Path, ending: str) -> None:
    """The task knows the lease, and the lease its ticket: the ticket forgets the task, as no collector knows a lease."""
    other = make(pool_path)

    async def wait(lease: Any) -> Any:
        with contextlib.suppress(PoolTimeout):
            await lease
        return lease

    async def run() -> weakref.ref[PoolEngine]:
        held = other.alloc()
        pool = attach(pool_path)
        task = asyncio.create_task(wait(pool.lease(timeout=0.01 if ending == "out of time" else None)))
        if ending == "served":
            await in_line(other)
            other.free(held)
        lease = await task
        if ending == "served":
            lease.release()
        else:
            other.free(held)
        return weakref.ref(pool._engine)

    engine = asyncio.run(run())

    def is_gone() -> bool:
        gc.collect()  # again and again: the lookout may just be looking at it
        return engine() is None

    wait_until(is_gone)
    assert (other.out, other.verify()) == (0, [])


def test_a_child_of_a_fork_has_no_door_of_its_parents(pool_path: Path) -> None:
    """It would keep the name, and read what is told the parent."""
    pool, other = make(pool_path), attach(pool_path)

    async def run() -> None:
        held = other.alloc()
        task = asyncio.create_task(take_one(pool))
        await in_line(pool)
        (socket,) = map(socket_of, doors_of(pool))
        assert is_open(socket)
        pid = os.fork()
        if pid == 0:
            os._exit(is_open(socket))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0  # noqa: ASYNC222 - a child that ends at once
        other.free(held)  # the parent's is read as before
        await asyncio.wait_for(task, 30)

    asyncio.run(run())


@pytest.mark.skipif(not may_trace(), reason="may not trace its children here")
@pytest.mark.once
@pytest.mark.sample(2)
@pytest.mark.parametrize("way", WAYS)
def test_who_serves_is_killed_at_any_change_and_the_waiter_is_served(pool_path: Path, way: str) -> None:
    """Before it has woken anybody, too: the waiter looks by itself, and has the element whatever has become of the other."""
    pool = make(pool_path)
    pool._engine._tx.slice = 0.01

    def hold(_path: Path) -> Callable[[], object]:
        mine = attach(pool_path)
        held = mine.alloc()
        return lambda: mine.free(held)

    changes, goes_on = 0, True
    while goes_on:
        changes += 1 if LONG else 4
        thread = threading.Thread(target=WAYS[way], args=(pool,), daemon=True)

        def begin(thread: threading.Thread = thread) -> None:
            thread.start()
            wait_until(lambda: pool.waiting == 1)

        goes_on = kill_after_change(pool._engine.client, pool_path, hold, changes, begin)
        thread.join(30)
        assert not thread.is_alive(), f"after change {changes}"
        pool.reclaim()
        assert (pool.out, pool.waiting, pool.verify()) == (0, 0, []), f"after change {changes}"
    assert changes > 4
