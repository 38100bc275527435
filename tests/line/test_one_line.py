"""One line for everybody: threads and tasks of any loop stand in it in the order in which they came."""

from __future__ import annotations

import asyncio
import itertools
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mempool import Objects, Pool
from mempool.parking import current_owner
from mempool.testing import ManualClock, ScriptedSource, Step, wait_until
from mempool.testing.contract.callers import KINDS, Callers, in_line

works, fails, raises, slow = Step
SOON = 60
HANDOFFS = 10_000
#: Seconds after which fewer are enough: where others have the processors, each hand-off waits for its turn there.
LONG_ENOUGH, HANDOFFS_MIN = 40, 200


@pytest.fixture
def callers() -> Iterator[dict[str, Callers]]:
    """One of each kind, and a second loop."""
    made = {kind: make() for kind, make in KINDS.items()}
    made["another task"] = KINDS["task"]()
    yield made
    for caller in made.values():
        caller.close()


def test_threads_and_tasks_are_served_in_the_order_in_which_they_came(callers: dict[str, Callers]) -> None:
    """The order in the line is the order of arrival, whatever the kind of caller and of its neighbours."""
    source = ScriptedSource(works, otherwise=fails)
    pool = ManualClock().attach(Pool(source, 1))
    element = pool.alloc()
    kinds = [kind for pair in itertools.product(callers, repeat=2) for kind in pair]
    waiters = [in_line(pool, lambda kind=kind: callers[kind].call(pool, "alloc")) for kind in kinds]
    for place, waiter in enumerate(waiters):
        pool.free(element)
        assert waiter.result(SOON) is element
        assert [later for later in waiters[place + 1 :] if later.done()] == []
    pool.free(element)
    assert (source.made, pool.stats().spare) == (1, 1)


class HandToHand:
    """One element passes from one holder to the next. Its holder compares the line with what its predecessor saw."""

    def __init__(self) -> None:
        self.pool = Pool(ScriptedSource(), 1, limit=1)
        self.in_order = 0  # hand-offs to somebody who stood in the line
        self.seen: list[object] = []
        self.errors: list[str] = []
        self.until = time.monotonic() + LONG_ENOUGH

    def hold(self, owner: object) -> None:
        """Called by the one who has the element, and so by one at a time."""
        line = [ticket.owner for ticket in self.pool.core.queue()]
        if self.seen:
            self.in_order += 1
            if self.seen[0] is not owner:
                self.errors.append(f"{self.seen[0]} was first, {owner} was served")
            if line[: len(self.seen) - 1] != self.seen[1:]:
                self.errors.append(f"the line was {self.seen}, and is {line}")
        self.seen = line

    def goes_on(self) -> bool:
        enough = HANDOFFS if time.monotonic() < self.until else HANDOFFS_MIN
        return self.in_order < enough and not self.errors

    def in_thread(self) -> None:
        while self.goes_on():
            element = self.pool.alloc()
            self.hold(current_owner())
            self.pool.free(element)

    async def in_task(self) -> None:
        while self.goes_on():
            element = await self.pool.alloc_async()
            self.hold(current_owner())
            self.pool.free(element)


def test_ten_thousand_hand_offs_keep_the_order_of_arrival() -> None:
    """Eight threads and eight tasks in one line: it loses nobody but its head, and wins nobody but at its end.

    On a machine that is full, as many as there are in 40 s.
    """
    relay = HandToHand()

    async def tasks() -> None:
        await asyncio.gather(*(relay.in_task() for _ in range(8)))

    threads = [threading.Thread(target=relay.in_thread, daemon=True) for _ in range(8)]
    threads.append(threading.Thread(target=lambda: asyncio.run(tasks()), daemon=True))
    for thread in threads:
        thread.start()
    end = time.monotonic() + 100  # only ends what hangs
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    assert relay.errors == []
    assert not any(thread.is_alive() for thread in threads)
    assert relay.in_order >= HANDOFFS_MIN
    assert relay.pool.stats().spare == 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_had_at_once_does_not_yield_to_the_loop(kind: str) -> None:
    """Uncontended, none of the asynchronous calls lets another task run."""
    pool = Pool(ScriptedSource(), 4)
    ran: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(ran.append, "another")
        element = await pool.alloc_async()
        pool.free(element)
        pool.free_many(await pool.alloc_many_async(3))
        async with pool.lease():
            pass
        assert ran == []
        await asyncio.sleep(0)  # sleeps: now the other has its turn
        assert ran == ["another"]

    if kind == "thread":
        asyncio.run(main())
    else:
        loop = KINDS[kind]()
        asyncio.run_coroutine_threadsafe(main(), loop.loop).result(SOON)  # type: ignore[attr-defined]
        loop.close()


def test_a_free_in_the_same_loop_serves_a_task_without_a_thread() -> None:
    """A task's free wakes another task of the same loop; the one that waits needs no timer and no other thread."""
    pool = ManualClock().attach(Pool(ScriptedSource(), 1, limit=1))

    async def main() -> None:
        element = await pool.alloc_async()
        waiting = asyncio.ensure_future(pool.alloc_async())
        await asyncio.sleep(0)  # sleeps: lets it stand in the line
        assert pool.stats().waiting == 1
        pool.free(element)
        assert await asyncio.wait_for(waiting, SOON) is element
        pool.free(element)

    asyncio.run(main())


@pytest.mark.parametrize("from_where", ["a callback of the loop", "a callback of another loop", "a thread"])
def test_a_free_from_anywhere_wakes_a_loop_that_sleeps(from_where: str) -> None:
    """The loop sleeps in its selector, without any timer; a free from elsewhere wakes it."""
    pool = ManualClock().attach(Pool(ScriptedSource(), 1, limit=1))
    element = pool.alloc()
    waits = threading.Event()

    def free_later() -> None:
        waits.wait(SOON)
        if from_where == "a callback of another loop":

            async def free() -> None:
                asyncio.get_running_loop().call_soon(pool.free, element)

            asyncio.run(free())
        else:
            pool.free(element)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        if from_where == "a callback of the loop":
            loop.call_soon(loop.call_soon, loop.call_soon, pool.free, element)
        else:
            loop.call_soon(waits.set)
        assert await pool.alloc_async() is element

    thread = threading.Thread(target=free_later)
    if from_where != "a callback of the loop":
        thread.start()
    asyncio.run(main())
    if from_where != "a callback of the loop":
        thread.join(SOON)
    pool.free(element)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_a_signal_handler_that_frees_wakes_a_loop_that_sleeps() -> None:
    """The loop sleeps in its selector; a signal handler frees: the task has the element at once, without any timer."""
    pool = ManualClock().attach(Pool(ScriptedSource(), 1, limit=1))
    held = [pool.alloc()]
    main_thread = threading.get_ident()
    asleep = threading.Event()

    def free(*_signal: object) -> None:
        if held:
            pool.free(held.pop())

    def send() -> None:
        assert asleep.wait(SOON)
        # Again, because one that comes just before select is looked at only after it.
        wait_until(lambda: not held or signal.pthread_kill(main_thread, signal.SIGUSR1))

    async def main() -> None:
        asyncio.get_running_loop().call_soon(asleep.set)
        pool.free(await asyncio.wait_for(pool.alloc_async(), SOON))

    before = signal.signal(signal.SIGUSR1, free)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        asyncio.run(main())
    finally:
        sender.join(SOON)
        signal.signal(signal.SIGUSR1, before)
    assert (pool.stats().out, pool.stats().spare) == (0, 1)


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
