"""Who waits, in which order, and how it ends."""

from __future__ import annotations

from typing import ClassVar

import pytest

from mempool.errors import LineFull, PoolTimeout
from mempool.testing.contract.base import SOON, Contract, fails, same, same_in_any_order, waits, works
from mempool.testing.waiting import wait_until


class LineContract(Contract):
    """First come, first served; hand-offs that can be refused; deadlines; a full line."""

    needs: ClassVar[frozenset[str]] = frozenset(
        {"alloc_many", "alloc_many_async", "alloc_reserved", "free_many", "resize", "try_alloc"}
    )

    @waits
    def test_first_come_first_served(self) -> None:
        """Callers in the line are served in the order in which they came."""
        pool, source, element = self.used_up()
        waiters = [self.wait_for(pool) for _ in range(5)]
        for place, waiter in enumerate(waiters):
            assert pool.stats().waiting == 5 - place
            self.hand_on(pool, element, to=waiter)
            element = waiter.result()
            assert not any(later.done() for later in waiters[place + 1 :])
        self.audit(pool, source, out=[element])

    @waits
    def test_a_newcomer_that_may_wait_joins_those_who_wait(self) -> None:
        """While a ticket stands in the line a newcomer joins it, although it could ask the source itself."""
        pool, source = self.pool(0, otherwise=fails)
        first = self.wait_for(pool)
        calls = source.alloc_calls
        newcomer = self.wait_for(pool)
        assert pool.stats().waiting == 2
        assert source.alloc_calls == calls  # the clock stands still: no millisecond has passed since it failed
        source.otherwise = works
        self.clock.advance(0.05)
        pool.free(first.result(SOON))
        pool.free(newcomer.result(SOON))

    @waits
    def test_one_that_may_not_wait_has_what_the_source_gives_but_no_spare(self) -> None:
        """try_alloc while others wait: what the source gives, never a spare."""
        pool, source = self.pool(2, otherwise=fails)
        elements = [self.alloc(pool), self.alloc(pool)]
        gathering = self.wait_for_many(pool, 2)
        pool.free(elements[0])
        assert pool.stats().spare == 1
        assert pool.try_alloc() is None
        assert pool.stats().spare == 1
        source.then(works)
        fresh = pool.try_alloc()
        assert fresh is not None
        assert not same(fresh, elements[0])
        assert pool.stats().spare == 1
        pool.free(elements[1])
        assert same_in_any_order(gathering.result(SOON), elements)
        self.audit(pool, source, out=[fresh, *elements])

    @waits
    def test_a_reserved_alloc_takes_nothing_from_those_who_wait(self) -> None:
        """alloc_reserved while others wait: None, though elements are being gathered."""
        pool, _source = self.pool(2, otherwise=fails)
        elements = [self.alloc(pool), self.alloc(pool)]
        gathering = self.wait_for_many(pool, 2)
        pool.free(elements[0])
        assert pool.alloc_reserved() is None
        pool.free(elements[1])
        pool.free_many(gathering.result(SOON))

    # -- deadlines

    @waits
    def test_time_up_is_a_pool_timeout(self) -> None:
        """A caller whose time is up gets PoolTimeout, which is a TimeoutError, at the moment it was due."""
        pool, _source = self.pool(0, otherwise=fails)
        waiter = self.wait_for(pool, timeout=1.5)
        self.pass_time(1.25, parked=1)
        self.clock.wait_until_parked(1)
        assert pool.stats().waiting == 1
        self.clock.advance(0.25)
        error = waiter.exception(SOON)
        assert isinstance(error, PoolTimeout)
        assert isinstance(error, TimeoutError)

    @waits
    def test_no_time_at_all_is_a_try_that_raises(self) -> None:
        """timeout=0 takes what there is and does not wait."""
        pool, source = self.pool(1, otherwise=fails)
        element = self.alloc(pool, timeout=0)
        with pytest.raises(PoolTimeout):
            self.alloc(pool, timeout=0)
        self.audit(pool, source, out=[element])

    @waits
    def test_the_pools_own_timeout_is_the_default(self) -> None:
        """`Pool(timeout=...)` holds for calls that do not say; timeout=None says for ever."""
        pool, source = self.pool(0, otherwise=fails, timeout=2)
        default = self.wait_for(pool)
        for_ever = self.wait_for(pool, timeout=None)
        self.expire(pool, 2, waiting=1)
        assert isinstance(default.exception(SOON), PoolTimeout)
        assert not for_ever.done()
        source.otherwise = works
        # The first in line asks when the one before it is gone: it is served by now, or waits for its next try.
        wait_until(lambda: for_ever.done() or self.clock.parked)
        self.clock.advance(5)
        pool.free(for_ever.result(SOON))

    @waits
    def test_nothing_extends_a_deadline(self) -> None:
        """One absolute deadline per call: wake-ups in vain do not move it."""
        pool, source = self.pool(0, otherwise=fails)
        waiter = self.wait_for(pool, timeout=1)
        for _quarter in range(3):
            self.pass_time(0.25, parked=1)
            assert pool.try_alloc() is None
            pool.resize(limit=5 + source.alloc_calls)  # which wakes the head in vain
        assert not waiter.done()
        self.pass_time(0.25, parked=1)
        assert isinstance(waiter.exception(SOON), PoolTimeout)

    @waits
    def test_a_ticket_whose_time_is_up_refuses_and_the_next_is_offered(self) -> None:
        """An element freed after a caller gave up goes to the next in line; nobody is served who is not there."""
        pool, source, element = self.used_up()
        gone = self.wait_for(pool, timeout=1)
        waiting = self.wait_for(pool)
        self.expire(pool, 1, waiting=1)
        assert isinstance(gone.exception(SOON), PoolTimeout)
        self.hand_on(pool, element, to=waiting)
        self.audit(pool, source, out=[element])

    @waits
    def test_one_that_leaves_the_middle_of_the_line_disturbs_nobody(self) -> None:
        """Those before and behind keep their order."""
        pool, source, element = self.used_up()
        first = self.wait_for(pool)
        middle = self.wait_for(pool, timeout=1)
        last = self.wait_for(pool)
        self.expire(pool, 1, waiting=2)
        assert isinstance(middle.exception(SOON), PoolTimeout)
        self.hand_on(pool, element, to=first)
        pool.free(first.result())
        assert same(last.result(SOON), element)
        self.audit(pool, source, out=[element])

    # -- a full line

    @waits
    def test_a_full_line_is_an_error_at_once(self) -> None:
        """`max_waiting` callers may wait; one more gets LineFull at once, and its place is nobody's."""
        pool, source, element = self.used_up(max_waiting=2)
        waiters = [self.wait_for(pool), self.wait_for(pool)]
        with pytest.raises(LineFull):
            self.alloc(pool)
        for waiter in waiters:
            self.hand_on(pool, element, to=waiter)
            element = waiter.result()
        again = self.wait_for(pool)
        self.hand_on(pool, element, to=again)
        self.audit(pool, source, out=[element])

    @waits
    def test_no_line_at_all_still_serves_what_there_is(self) -> None:
        """max_waiting=0: what can be had is had; what would wait is LineFull."""
        pool, source, element = self.used_up(max_waiting=0)
        with pytest.raises(LineFull):
            self.alloc(pool)
        self.audit(pool, source, out=[element])

    @waits
    def test_who_was_turned_away_has_not_waited(self) -> None:
        """A LineFull is not a wait that was cancelled: stats() counts no wait."""
        pool, _source = self.pool(0, otherwise=fails, max_waiting=0)
        with pytest.raises(LineFull):
            self.alloc(pool)
        stats = pool.stats()
        assert (stats.waits_served, stats.waits_timed_out, stats.waits_cancelled) == (0, 0, 0)

    # -- patience

    @waits
    def test_a_long_wait_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """A wait beyond `patience` seconds is logged once, with the pool's name and what is out."""
        pool, source, element = self.used_up(name="frames", patience=3)
        waiter = self.wait_for(pool)
        for second in range(1, 8):
            self.pass_time(1, parked=1)
            if second == 2:
                self.clock.wait_until_parked(1)
                assert caplog.records == []
        wait_until(lambda: caplog.records)
        self.clock.wait_until_parked(1)
        assert [(record.name, record.levelname) for record in caplog.records] == [("mempool", "WARNING")]
        assert "'frames'" in caplog.messages[0]
        self.hand_on(pool, element, to=waiter)
        self.audit(pool, source, out=[element])

    @waits
    def test_without_patience_nobody_is_woken_to_be_logged(self) -> None:
        """patience=None: no warning, and a caller parks until there is something to do."""
        pool, _source = self.pool(1, limit=1, patience=None)
        element = self.alloc(pool)
        self.wait_for(pool)
        second = self.wait_for(pool)
        self.clock.wait_until_parked(1)
        looks = self.clock.looks
        with pytest.raises(AssertionError, match="in vain"):
            wait_until(lambda: self.clock.looks > looks + 100, timeout=0.1)
        pool.close()
        assert second.exception(SOON) is not None
        pool.free(element)
