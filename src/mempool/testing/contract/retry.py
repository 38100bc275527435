"""A source that recovers serves the line, and is not pestered meanwhile."""

from __future__ import annotations

import threading
from typing import ClassVar

import pytest

from mempool.testing.contract.base import SOON, Contract, fails, raises, same, same_all, slow, waits, works
from mempool.testing.scripted import ScriptedSource, SourceBroken
from mempool.testing.waiting import wait_until

#: Seconds after which the head of the line asks the source by itself: 50 ms, then doubling steps up to 5 s.
STEPS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0)
#: Seconds. The least time between two questions to a source that fails, whatever has changed.
SOONEST = 0.001


class RetryContract(Contract):
    """The head of the line asks the source: by itself, and at every change."""

    needs: ClassVar[frozenset[str]] = frozenset({"resize"})

    def seconds_until_asked(self, source: ScriptedSource[object]) -> float:
        """Advance from alarm to alarm until the source has been asked; return the seconds that took."""
        calls, began, parked = source.alloc_calls, self.clock.now(), self.clock.parked
        while source.alloc_calls == calls:
            self.clock.advance(self.clock.next_alarm or 0)
            wait_until(lambda: source.alloc_calls > calls or self.clock.parked == parked)
        seconds = self.clock.now() - began
        self.clock.wait_until_parked(parked)
        return seconds

    @waits
    def test_the_head_asks_again_by_itself_in_doubling_steps(self) -> None:
        """Without any change: after 50 ms, then in doubling steps up to 5 s (kernel: every 5 s)."""
        pool, source = self.pool(0, otherwise=fails, patience=1000)
        waiter = self.wait_for(pool)
        self.clock.wait_until_parked(1)
        assert [self.seconds_until_asked(source) for _ in STEPS] == pytest.approx(STEPS)
        source.otherwise = works
        self.clock.advance(5)
        pool.free(waiter.result(SOON))

    @waits
    def test_news_does_not_make_the_head_more_patient(self) -> None:
        """A head that was woken by a change and failed asks again as soon as if there had been none."""
        pool, source = self.pool(0, otherwise=fails)
        self.wait_for(pool)
        for waiting in range(1, 7):  # newcomers are a reason to ask the source at once
            self.clock.wait_until_parked(waiting)  # the head, too, which has heard of the last one
            calls = source.alloc_calls
            self.clock.advance(2 * SOONEST)
            self.wait_for(pool)
            wait_until(lambda calls=calls: source.alloc_calls > calls)  # type: ignore[misc]
        self.clock.wait_until_parked(7)
        seconds = self.seconds_until_asked(source)
        pool.close()
        assert seconds <= STEPS[0] + SOONEST

    @waits
    def test_only_the_head_asks(self) -> None:
        """Those behind the head do not ask, however long they wait."""
        pool, source = self.pool(0, otherwise=fails, patience=1000)
        waiters = [self.wait_for(pool) for _ in range(4)]
        self.clock.wait_until_parked(4)
        calls = source.alloc_calls
        self.seconds_until_asked(source)
        assert source.alloc_calls == calls + 1
        pool.close()
        for waiter in waiters:
            assert waiter.exception(SOON) is not None

    @waits
    def test_a_newcomer_has_the_head_ask_at_once(self) -> None:
        """A newcomer is a reason to ask the source at once: the head asks the source, and is served before the newcomer."""
        pool, source = self.pool(0, otherwise=fails)
        head = self.wait_for(pool)
        self.pass_time(SOONEST, parked=1)
        source.then(works)
        newcomer = self.wait_for(pool)
        element = head.result(SOON)
        assert not newcomer.done()
        self.hand_on(pool, element, to=newcomer)
        self.audit(pool, source, out=[element])

    @waits
    def test_news_within_a_millisecond_is_asked_once(self) -> None:
        """At most once a millisecond, whatever has changed."""
        pool, source = self.pool(0, otherwise=fails)
        self.wait_for(pool)
        self.clock.wait_until_parked(1)
        calls = source.alloc_calls
        for _ in range(5):
            self.wait_for(pool)
        self.clock.wait_until_parked(6)
        assert source.alloc_calls == calls
        wait_until(lambda: self.clock.next_alarm == pytest.approx(SOONEST))
        self.clock.advance(SOONEST)
        wait_until(lambda: source.alloc_calls == calls + 1)
        self.clock.wait_until_parked(6)
        assert source.alloc_calls == calls + 1
        pool.close()

    @waits
    def test_a_source_that_has_recovered_drains_the_line_in_order(self) -> None:
        """A head that is served by the source has the next one ask at once, until the line is empty."""
        pool, source = self.pool(0, otherwise=fails)
        waiters = [self.wait_for(pool) for _ in range(5)]
        self.clock.wait_until_parked(5)
        source.otherwise = works
        self.clock.advance(STEPS[0])
        elements = [waiter.result(SOON) for waiter in waiters]
        assert pool.stats().served_from_line == 5
        assert same_all(source.existing, elements)
        self.audit(pool, source, out=elements)

    @waits
    def test_room_under_the_limit_is_news(self) -> None:
        """An element that was disposed of leaves room: the head asks at once."""
        pool, source = self.pool(1, limit=3, keep=1)
        pool.free(self.alloc(pool))  # one more was made, and disposed of, than exist
        elements = [self.alloc(pool) for _ in range(3)]
        source.then_free(slow)
        # While the surplus element is still being disposed of there is no room; then there is.
        pool.resize(0, keep=0)
        freeing = threading.Thread(target=pool.free, args=(elements.pop(),))
        freeing.start()
        source.wait_until_held()
        source.then(works)
        waiter = self.wait_for(pool)
        assert not waiter.done()
        source.release()
        freeing.join(SOON)
        fresh = waiter.result(SOON)
        self.audit(pool, source, out=[*elements, fresh])

    @waits
    def test_a_raised_limit_is_news(self) -> None:
        """resize(limit=...) lets the head ask at once."""
        pool, source = self.pool(0, limit=1)
        element = self.alloc(pool)
        waiters = [self.wait_for(pool), self.wait_for(pool)]
        assert source.alloc_calls == 1
        pool.resize(limit=3)
        elements = [element, *(waiter.result(SOON) for waiter in waiters)]
        assert pool.stats().made == 3
        self.audit(pool, source, out=elements)

    @waits
    def test_a_limit_taken_away_is_news(self) -> None:
        """resize(limit=None) lets the head ask at once."""
        pool, source = self.pool(0, limit=1)
        element = self.alloc(pool)
        waiter = self.wait_for(pool)
        pool.resize(limit=None)
        self.audit(pool, source, out=[element, waiter.result(SOON)])

    @waits
    def test_the_next_head_asks_when_the_head_has_left(self) -> None:
        """A head that gives up hands the asking on."""
        pool, source = self.pool(0, otherwise=fails)
        gone = self.wait_for(pool, timeout=0.01)
        second = self.wait_for(pool)
        self.clock.wait_until_parked(2)
        source.then(works)
        self.clock.advance(0.01)
        assert gone.exception(SOON) is not None
        element = second.result(SOON)
        self.audit(pool, source, out=[element])

    @waits
    def test_a_source_that_breaks_fails_the_head_and_nobody_else(self) -> None:
        """What the source raises reaches the caller that asked; those behind it go on waiting, and asking."""
        pool, source = self.pool(0, otherwise=fails)
        head = self.wait_for(pool)
        second = self.wait_for(pool)
        self.clock.wait_until_parked(2)
        source.then(raises, works)
        self.clock.advance(STEPS[0])
        assert isinstance(head.exception(SOON), SourceBroken)
        element = second.result(SOON)
        self.audit(pool, source, out=[element])

    @waits
    def test_an_element_freed_while_the_head_asks_serves_the_next(self) -> None:
        """The head cannot take it before it is out of the source, where its question may bring it another."""
        pool, source, element = self.used_up()
        head = self.wait_for(pool)
        second = self.wait_for(pool)
        self.clock.wait_until_parked(2)
        source.then(lambda: pool.free(element))
        self.clock.advance(STEPS[0])
        assert same(second.result(SOON), element)
        fresh = head.result(SOON)
        assert not same(fresh, element)
        self.audit(pool, source, out=[second.result(), fresh])
