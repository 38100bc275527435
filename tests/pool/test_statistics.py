"""What the statistics count, each event once: where an element came from, how a wait ended, what is owed."""

from __future__ import annotations

import asyncio

from mempool import Objects, Pool
from mempool._core import Decisions, Transfer
from mempool._core.decisions import UNCHANGED
from mempool._core.state import UNLIMITED
from mempool._core.transfer import CLOSED, SERVED, WITHDRAWN
from mempool.engine import TIMED_OUT
from mempool.testing import ManualClock, ScriptedSource, Step


def test_many_that_come_from_here_and_there_do_not_line_up() -> None:
    """What a caller has of the spares already it does not ask of the reserve again."""
    source = ScriptedSource()
    pool = Pool(source, 2)
    pool.free(pool.alloc())
    source.otherwise = Step.FAILS
    pool.free_many(pool.alloc_many(3, timeout=0))
    stats = pool.stats()
    assert (stats.served_from_spare, stats.served_from_reserve, stats.served_from_line) == (1, 2, 0)


def test_waits_that_ended_in_vain_are_summed_up() -> None:
    """Of those who left by themselves, and of those who were told to, at numbers that no other operation adds up."""
    pool = Pool(Objects(object), 0)
    for outcome, times in ((SERVED, 5), (WITHDRAWN, 3), (CLOSED, 1), (TIMED_OUT, 7)):
        for _ in range(times):
            pool.core.count_wait(outcome, 0.5)
    stats = pool.stats()
    assert (stats.waits_served, stats.waits_cancelled, stats.waits_timed_out) == (5, 4, 7)


def test_a_new_reserve_holds_nothing() -> None:
    reserve = Decisions(False, False, False)
    snapshot = reserve.snapshot()
    expected = {"limit": UNLIMITED, "waiting_max": UNLIMITED, "closed": False, "resizes": -1}
    expected |= {"waits": [0] * 8, "wait_histogram": [0] * 23}
    assert snapshot == dict.fromkeys(snapshot, 0) | expected
    assert reserve.capacity() == 0


def test_nobody_owes_an_element_when_more_were_returned_than_went_out() -> None:
    """Where nobody looks, two threads that free the same element in the same moment can do that."""
    pool = Pool(Objects(object), 1, track="nothing")
    element, several = pool.alloc_reserved(), (Transfer(1), Transfer(1))
    for transfer in several:
        transfer.hold(element)
        assert pool.core.check_in(transfer)
    for transfer in several:
        pool.core.take_back(transfer)
    pool._engine._retarget(5, UNCHANGED, UNCHANGED)
    assert (pool.guarantee().owed, pool.guarantee().unfunded, pool.stats().out) == (0, 3, -1)


def test_what_the_head_of_the_line_is_served_with_counts_once() -> None:
    """It asked the source, and got it as one of the line."""
    source = ScriptedSource(otherwise=Step.FAILS)
    clock = ManualClock()
    pool = clock.attach(Pool(source, 0))

    async def main() -> None:
        task = asyncio.create_task(pool.alloc_async())
        await asyncio.sleep(0)
        source.otherwise = Step.WORKS
        clock.advance(0.05)
        await task

    asyncio.run(main())
    stats = pool.stats()
    assert (stats.served_from_line, stats.served_from_source, stats.served_from_spare) == (1, 0, 0)
