"""Who is woken, and who is left asleep: every decision that serves somebody wakes that one, and wakes no one in vain."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from callers import SOON, Caller
from tickets import ticket

from mempool import IMPLEMENTATION, Buffers, Objects, Pool, parking, waiting
from mempool._core import Decisions, Transfer
from mempool._core.decisions import IN_LINE, UNCHANGED
from mempool.clock import SYSTEM_CLOCK, Clock
from mempool.local import owner
from mempool.testing import wait_until
from mempool.waiting import AsyncioParker


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

    for called in ("wake", "__call__"):  # a ticket calls the one or the other
        monkeypatch.setattr(parking.ThreadParker, called, wake_and_hold)
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

    for called in ("wake", "__call__"):  # a ticket calls the one or the other
        monkeypatch.setattr(parking.ThreadParker, called, raise_then)
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


@pytest.mark.parametrize("for_the_head", [True, False])
def test_the_room_that_the_head_of_the_line_took_itself_is_no_news_to_it(for_the_head: bool) -> None:
    """Else it would ask a source that fails again and again without a pause, as long as it filled the limit by asking."""
    reserve = Decisions(False, False, False)
    reserve.retarget(UNCHANGED, UNCHANGED, 1, [])
    head, told = ticket()
    assert reserve.join(head, [None]) == IN_LINE
    asking = Transfer(1)
    if for_the_head:
        asking.ask_for(head)
    assert reserve.permit(asking, 1) == 1
    asking.made.append(None)  # nothing came
    reserve.complete(asking, False)
    assert told == ([] if for_the_head else [True])


def test_a_newcomer_is_news_to_the_head_even_while_its_question_fills_the_limit() -> None:
    """There was no room when it came, so the head is told when the question has failed."""
    reserve = Decisions(False, False, False)
    reserve.retarget(UNCHANGED, UNCHANGED, 1, [])
    head, told = ticket()
    assert reserve.join(head, [None]) == IN_LINE
    asking = Transfer(1)
    asking.ask_for(head)
    assert reserve.permit(asking, 1) == 1
    assert reserve.join(ticket()[0], [None]) == IN_LINE
    assert told == []
    asking.made.append(None)
    reserve.complete(asking, False)
    assert told == [True]


def test_a_drain_hears_of_what_a_caller_puts_back_when_it_lines_up() -> None:
    """It is the last that was out."""
    reserve = Decisions(False, False, False)
    reserve.retarget(UNCHANGED, 5, UNCHANGED, [None] * 5)
    many, _ = ticket(2)
    assert reserve.permit(many, 2) == 2
    many.made.extend([object(), None])
    reserve.complete(many, True)
    drain, told = ticket(0)
    assert not reserve.watch_drain(drain, True)
    assert reserve.join(many, [None] * 2) == IN_LINE
    assert told == [True]
    assert reserve.watch_drain(drain, False)


def test_a_task_is_woken_through_its_loop_by_another_loops_task_even_while_one_runs_there() -> None:
    """No loop of asyncio may be touched from another thread but by `call_soon_threadsafe`; from its own thread it may."""
    asked: list[object] = []

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        call = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *arguments: (asked.append(arguments), call(*arguments))
        parker = AsyncioParker(SYSTEM_CLOCK, loop)

        async def wake() -> None:
            parker.wake()

        other = threading.Thread(target=lambda: asyncio.run(wake()))
        other.start()
        other.join(SOON)  # this task runs all the while
        assert len(asked) == 1
        await parker.park(SOON)
        parker.wake()
        assert len(asked) == 1
        await parker.park(SOON)

    asyncio.run(main())


@pytest.mark.skipif(IMPLEMENTATION == "compiled", reason="compiled, Python cannot call it")
def test_a_loops_shared_timer_is_of_one_clock() -> None:
    """Pools of one loop may have different clocks: a caller is roused by its own pool's."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, other = Clock(), Clock()
        timer = waiting.alarm_of(one, loop)
        assert waiting.alarm_of(one, loop) is timer
        assert waiting.alarm_of(other, loop).clock is other

    asyncio.run(main())
