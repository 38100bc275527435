"""What was found by breaking it: interrupts and finalizers between two lines, and forks. One promise each, on both cores."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from named import SOON, Caller, make

from mempool import IMPLEMENTATION, Buffers, Objects, Pool, PoolClosed, deadlock, parking
from mempool.local import owner, returning
from mempool.local.returning import Returning
from mempool.testing import wait_until, wait_until_async
from mempool.tracking import Holders

PROGRAM = """
import os, signal, threading
from mempool import Objects, Pool, parking
from mempool.testing import wait_until

elements = [2]
def make():
    if not elements[0]:
        raise MemoryError
    elements[0] -= 1
    return bytearray(1)

child = None
def fork(*_):
    global child
    child = os.fork()
    if child == 0:
        elements[0] += 1
        signal.alarm(8)  # ends it
signal.signal(signal.SIGUSR1, fork)

pool = Pool(Objects(make), 0, keep=2, limit=3, patience=None)
held = pool.alloc_many(2)
threading.Thread(target=pool.alloc, daemon=True).start()
wait_until(lambda: pool.stats().waiting == 1)
main = threading.get_ident()
"""

THE_NEXT_HEAD = """
def other():
    wait_until(lambda: pool.stats().waiting == 2)
    signal.pthread_kill(main, signal.SIGUSR1)
    wait_until(lambda: child)
    pool.free_many(held)
"""

SERVED_AND_ASLEEP = """
wake, struck = parking.ThreadParker.wake, []
def fork_before(parker):
    if parker.thread == main and not struck:
        struck.append(True)
        signal.pthread_kill(main, signal.SIGUSR1)
        wait_until(lambda: child)
    wake(parker)
parking.ThreadParker.wake = fork_before

def other():
    wait_until(lambda: pool.stats().waiting == 2)
    pool.free_many(held)
"""

END = """
threading.Thread(target=other, daemon=True).start()
pool.alloc()
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0, "the child's waiter sleeps"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
@pytest.mark.parametrize("story", [THE_NEXT_HEAD, SERVED_AND_ASLEEP], ids=["the next head", "served and asleep"])
def test_a_waiter_that_forks_in_a_signal_handler_is_served_in_the_child_too(story: str) -> None:
    code = PROGRAM + story + END
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_a_task_is_roused_by_a_signal_handler_while_it_lies_down() -> None:
    """Within the task, so without a detour through the loop; and it had no future yet that could be set."""
    pool: Pool[Any] = Pool(Objects(bytearray), 2, limit=2, patience=None)
    held = pool.alloc_many(2)
    before = signal.signal(signal.SIGUSR1, lambda *_: pool.free_many([held.pop(), held.pop()]))

    async def main() -> None:
        first = asyncio.create_task(pool.alloc_async())
        await asyncio.sleep(0.01)

        second = asyncio.create_task(pool.alloc_async())
        await asyncio.wait_for(asyncio.gather(first, second), SOON)

    class Loop(asyncio.SelectorEventLoop):
        """Raises the signal as soon as the second caller has its future."""

        def create_future(self) -> Any:
            future = super().create_future()
            if pool.stats().waiting == 2 and held:
                signal.raise_signal(signal.SIGUSR1)
            return future

    try:
        loop = Loop()
        loop.run_until_complete(main())
        loop.close()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not held


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_news_outlives_what_a_dying_ticket_lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last reference to a ticket, and to a dropped buffer in it, went between the reading of the wake queue and its
    clearing.

    The buffer's way back woke those who were due itself, another thread's frees added to it, and what they added was struck.
    """
    pool = Pool(Buffers(64), 6, limit=6, patience=None)
    held, kept = pool.alloc_many(6), []
    names: dict[int, str] = {}
    is_dropped, is_returned, is_waking, is_over = (threading.Event() for _ in range(4))

    def wait(name: str) -> None:
        names[threading.get_ident()] = name
        element = pool.alloc()
        if name == "2":
            del element
            is_dropped.set()
        else:
            kept.append(element)

    wake, reclaim = parking.ThreadParker.wake, owner.Owner.reclaim

    def wake_and_hold(parker: Any) -> None:
        wake(parker)
        if names[parker.thread] == "2" and threading.current_thread().name == "Anna":
            is_dropped.wait(SOON)
            waiters[1].join(SOON)
        if names[parker.thread] == "5" and threading.current_thread().name == "Berta":
            is_waking.set()
            is_over.wait(SOON)

    def reclaim_and_hold(its_owner: Any, dropped: Any) -> str:
        why = reclaim(its_owner, dropped)
        is_returned.set()
        is_waking.wait(1)
        return why

    monkeypatch.setattr(parking.ThreadParker, "wake", wake_and_hold)
    monkeypatch.setattr(owner.Owner, "reclaim", reclaim_and_hold)
    waiters = []
    for number in range(1, 6):
        waiters.append(threading.Thread(target=wait, args=[str(number)], daemon=True))
        waiters[-1].start()
        wait_until(lambda: pool.stats().waiting == len(waiters))
    anna, berta = Caller("Anna"), Caller("Berta")
    first = anna.does(lambda: (pool.free_many([held.pop(), held.pop()]), is_over.set()))
    second = berta.does(lambda: (is_returned.wait(SOON), pool.free_many([held.pop(), held.pop()])))
    first.result(2 * SOON)
    second.result(2 * SOON)
    for waiter in waiters:
        waiter.join(SOON)
    assert not any(waiter.is_alive() for waiter in waiters)
    anna.ends()
    berta.ends()


def test_a_buffer_that_is_viewed_when_an_interrupt_strikes_stays_its_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """It went to the free list with a handle that somebody knew, and to the next user."""
    views: list[memoryview] = []
    forget = Holders.forget

    def view_and_interrupt(_tracker: Holders, _elements: Any) -> Any:
        views.append(buffer[:])
        monkeypatch.setattr(Holders, "forget", forget)
        raise KeyboardInterrupt

    pool = Pool(Buffers(64), 1, limit=1, track="holders")
    buffer = pool.alloc()
    monkeypatch.setattr(Holders, "forget", view_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.free(buffer)
    assert (pool.stats().out, pool.stats().spare) == (1, 0)
    views.pop().release()
    pool.free(buffer)
    assert pool.stats().out == 0


def test_who_is_served_while_the_holders_are_looked_at_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make("p", 2)
    mine = pool.alloc()
    anna, berta = Caller("Anna"), Caller("Berta")
    hers = anna.take(pool)
    waiting = berta.waits(pool)
    is_dry, looked = deadlock._is_dry, []

    def switch_first(*arguments: Any) -> bool:
        if not looked:
            looked.append(True)
            anna.does(lambda: pool.free(hers)).result(SOON)
            waiting.result(SOON)
            wait_until(lambda: len(pool.holders()) == 2)
            threading.Timer(0.1, lambda: berta.does(lambda: pool.free(waiting.result()))).start()
        return is_dry(*arguments)

    monkeypatch.setattr(deadlock, "_is_dry", switch_first)
    pool.free_many([mine, pool.alloc(timeout=SOON)])
    assert looked
    anna.ends()
    berta.ends()


def test_what_the_source_makes_for_a_pool_that_is_closed_meanwhile_is_disposed_of() -> None:
    """close has said that nothing is out, and drain that all is back."""
    is_asked, may_go = threading.Event(), threading.Event()

    def slowly() -> bytearray:
        is_asked.set()
        may_go.wait(SOON)
        return bytearray(1)

    pool: Pool[Any] = Pool(Objects(slowly), 0)
    anna = Caller("Anna")
    taking = anna.does(pool.alloc)
    is_asked.wait(SOON)
    assert pool.close() == 0
    pool.drain(timeout=0)
    may_go.set()
    with pytest.raises(PoolClosed):
        taking.result(SOON)
    assert (pool.stats().out, pool.stats().made, pool.stats().disposed) == (0, 1, 1)
    anna.ends()


@pytest.fixture
def lost_task() -> Iterator[Callable[..., None]]:
    """Makes a task that stands in the line of a loop that is closed, for `n` elements."""
    tasks: list[Any] = []

    def lose(pool: Pool[Any], n: int = 1) -> None:
        loop = asyncio.new_event_loop()

        async def main() -> None:
            before = pool.stats().waiting
            tasks.append(asyncio.ensure_future(pool.alloc_many_async(n)))
            await wait_until_async(lambda: pool.stats().waiting > before)

        loop.run_until_complete(main())
        loop.close()
        tasks[-1]._log_destroy_pending = False

    yield lose
    for task in tasks:
        task.get_coro().close()  # here, and not in the midst of another test


def test_lost_tasks_are_seen_to_although_one_interrupt_struck(
    lost_task: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever saw to them held a lock, and the interrupt came between the lock and the `try`."""
    pool: Pool[Any] = Pool(Objects(bytearray), 1, limit=1, patience=None)
    element = pool.alloc()
    lost_task(pool)
    move = returning.move

    def move_and_interrupt(*what: Any) -> None:
        move(*what)
        monkeypatch.setattr(returning, "move", move)
        raise KeyboardInterrupt

    monkeypatch.setattr(returning, "move", move_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.free(element)
    assert pool.try_alloc() is not None


def test_what_one_lost_task_had_goes_past_two_more(lost_task: Callable[..., None]) -> None:
    """Each is served and found lost while the one before it is seen to."""
    pool: Pool[Any] = Pool(Objects(bytearray), 2, limit=2, patience=None)
    held = pool.alloc_many(2)
    lost_task(pool, 2)
    lost_task(pool)
    lost_task(pool)
    pool.free_many(held)
    assert len(pool.alloc_many(2, timeout=0)) == 2


def test_of_what_lost_tasks_had_all_is_disposed_of_and_the_first_error_raised(lost_task: Callable[..., None]) -> None:
    class Broken(Objects[Any]):
        freed = 0

        def free(self, element: Any, /) -> None:
            self.freed += 1
            raise OSError(f"broken {self.freed}")

    pool: Pool[Any] = Pool(Broken(bytearray), 0, keep=0, limit=2, patience=None)
    held = pool.alloc_many(2)
    lost_task(pool, 2)
    lost_task(pool)
    lost_task(pool)
    with pytest.raises(OSError, match="broken 1"):
        pool.free_many(held)
    assert (pool.stats().out, pool.stats().disposed) == (0, 2)


def test_who_is_served_behind_two_lost_tasks_is_woken_though_the_source_breaks(lost_task: Callable[..., None]) -> None:
    class Broken(Objects[Any]):
        def free(self, element: Any, /) -> None:
            raise OSError("broken")

    pool: Pool[Any] = Pool(Broken(bytearray), 0, keep=0, limit=3, patience=None)
    held = pool.alloc_many(3)
    lost_task(pool)
    lost_task(pool)
    anna = Caller("Anna")
    waiting = anna.waits(pool)
    with pytest.raises(OSError, match="broken"):
        pool.free_many(held)
    assert waiting.result(SOON) is not None
    anna.ends()


def interrupt_once(owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = getattr(owner, name)

    def interrupt(*_arguments: Any, **_options: Any) -> Any:
        monkeypatch.setattr(owner, name, method)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, name, interrupt)


@pytest.mark.parametrize("way", ["alloc_many", "lease"])
def test_what_a_failed_call_had_is_returned_although_an_interrupt_strikes(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two things are raised: what the source or the check raises, and in the midst of the way back the interrupt."""

    class Sour(Objects[Any]):
        left = 1

        def alloc(self) -> Any:
            if not self.left:
                raise OSError("the device is gone")
            self.left -= 1
            return super().alloc()

        def check(self, _element: Any) -> None:
            raise OSError("spoilt")

    pool: Pool[Any] = Pool(Sour(bytearray), 0, keep=4, limit=2)
    interrupt_once(Returning, "undo_call", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pool.alloc_many(2) if way == "alloc_many" else pool.lease().__enter__()
    assert (pool.stats().out, pool.stats().disposing) == (0, 0)


def test_a_lease_that_was_interrupted_twice_returns_what_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """It had not come to say that it holds something."""

    class Spoilt(Objects[Any]):
        def check(self, _element: Any) -> None:
            raise OSError("spoilt")

    pool: Pool[Any] = Pool(Spoilt(bytearray), 1)
    lease = pool.lease()
    interrupt_once(Returning, "undo_call", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        lease.__enter__()
    del lease
    assert (pool.stats().out, pool.stats().disposing) == (0, 0)


def test_who_hands_over_what_is_returned_leaves_no_holder_behind() -> None:
    pool = make("p")
    element = pool.alloc()
    entry = pool._engine.tracker._entries[id(element)]  # type: ignore[union-attr]
    pool.hand_over(element)
    assert "handed it over" in pool.holders()[0].who
    assert pool._engine.tracker._entries[id(element)] is entry  # type: ignore[union-attr]  # so a free at any moment takes it out
    pool.hand_over(element)
    assert pool.holders()[0].who.count("handed it over") == 1
    pool.free(element)
    assert pool.holders() == ()


def test_who_is_served_is_woken_whatever_the_waking_of_others_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    pool: Pool[Any] = Pool(Objects(bytearray), 3, limit=3, patience=None)
    held = pool.alloc_many(3)
    names: dict[int, str] = {}
    asleep: list[Any] = []
    is_armed = threading.Event()
    wake = parking.ThreadParker.wake

    def raise_then(parker: Any) -> None:
        if is_armed.is_set() and names[parker.thread] in ("first", "second"):
            asleep.append(parker)
            raise OSError(names[parker.thread])
        wake(parker)

    def wait(name: str) -> Any:
        names[threading.get_ident()] = name
        return pool.alloc()

    monkeypatch.setattr(parking.ThreadParker, "wake", raise_then)
    callers = {name: Caller(name) for name in ("first", "second", "third")}
    waiting = []
    for name, caller in callers.items():
        waiting.append(caller.does(lambda name=name: wait(name)))
        wait_until(lambda: pool.stats().waiting == len(waiting))
    is_armed.set()
    with pytest.raises(OSError, match="first" if IMPLEMENTATION == "pure" else "first|second"):
        pool.free_many(held)
    assert waiting[2].result(SOON) is not None
    is_armed.clear()
    for parker in asleep:
        parker.wake()
    for caller in callers.values():
        caller.ends()
