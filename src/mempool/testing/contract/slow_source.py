"""While the head of the line is inside a slow source, what is returned serves those behind it: nobody sleeps beside it."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, ClassVar

from mempool.pool import Pool
from mempool.testing.contract.base import (
    SOON,
    Contract,
    fails,
    raises,
    same,
    same_all,
    same_in_any_order,
    slow,
    waits,
    works,
)
from mempool.testing.contract.callers import ThreadCallers, in_line
from mempool.testing.contract.retry import STEPS
from mempool.testing.scripted import ScriptedSource, SourceBroken


class SlowSourceContract(Contract):
    """Who asks is mostly a thread here, whose question stops no loop; whoever stands behind is either kind of caller."""

    needs: ClassVar[frozenset[str]] = frozenset({"alloc_many", "alloc_many_async", "free_many"})

    def wait_in_thread(self, pool: Pool[Any], n: int = 1) -> Future[Any]:
        """Begin an alloc of a thread, whose question stops no loop; return when it stands in the line, or is over."""
        return in_line(pool, lambda: ThreadCallers().call(pool, "alloc_many", n))

    def let_the_head_ask_slowly(self, pool: Pool[Any], source: ScriptedSource[Any]) -> None:
        """Return when it is inside the source, from which only `source.release` lets it out."""
        self.clock.wait_until_parked(pool.stats().waiting)
        source.then(slow)
        self.clock.advance(STEPS[0])
        source.wait_until_held()

    @waits
    def test_what_is_returned_while_the_head_is_inside_a_slow_source_serves_those_behind(self) -> None:
        """Each of them, in their order; and the head has what the source gives it in the end."""
        pool, source = self.pool(2, otherwise=fails)
        elements = self.alloc_many(pool, 2)
        head = self.wait_in_thread(pool)
        behind = [self.wait_for(pool), self.wait_for(pool)]
        self.let_the_head_ask_slowly(pool, source)
        for waiter, element in zip(behind, elements, strict=True):
            self.hand_on(pool, element, to=waiter)
        assert not head.done()
        source.release(works)
        self.audit(pool, source, out=[*(waiter.result() for waiter in behind), *head.result(SOON)])

    @waits
    def test_who_is_behind_a_caller_inside_a_slow_source_may_be_a_thread(self) -> None:
        """The same, where the head is this kind of caller."""
        pool, source, element = self.used_up()
        head = self.wait_for(pool)
        behind = self.wait_in_thread(pool)
        self.let_the_head_ask_slowly(pool, source)
        pool.free(element)
        assert same_all(behind.result(SOON), [element])
        source.release(works)
        self.audit(pool, source, out=[*behind.result(), head.result(SOON)])

    @waits
    def test_a_newcomer_has_what_was_returned_while_the_head_is_inside_a_slow_source(self) -> None:
        """It lies there, and the head cannot use it yet: the newcomer does not even wait."""
        pool, source, element = self.used_up()
        head = self.wait_in_thread(pool)
        self.let_the_head_ask_slowly(pool, source)
        pool.free(element)
        assert pool.stats().spare == 1
        newcomer = self.alloc(pool, timeout=0)
        assert same(newcomer, element)
        source.release(works)
        self.audit(pool, source, out=[newcomer, *head.result(SOON)])

    @waits
    def test_a_head_that_comes_out_of_the_source_with_nothing_has_what_was_returned(self) -> None:
        """At once, and not the next time that something does; be it beyond `keep`."""
        pool, source = self.pool(0, otherwise=works, keep=0)
        element = self.alloc(pool)
        source.otherwise = fails
        head = self.wait_in_thread(pool)
        self.let_the_head_ask_slowly(pool, source)
        pool.free(element)
        source.release(fails)
        assert same_all(head.result(SOON), [element])
        self.audit(pool, source, out=head.result())

    @waits
    def test_what_was_laid_by_for_a_head_whose_source_breaks_is_disposed_of_beyond_keep(self) -> None:
        """Nobody wants it any more."""
        pool, source = self.pool(0, otherwise=works, keep=0)
        element = self.alloc(pool)
        source.otherwise = fails
        head = self.wait_in_thread(pool)
        self.let_the_head_ask_slowly(pool, source)
        pool.free(element)
        source.release(raises)
        assert isinstance(head.exception(SOON), SourceBroken)
        self.audit(pool, source)
        assert pool.stats().spare == 0

    @waits
    def test_what_a_big_request_has_gathered_stays_its_own_while_it_asks(self) -> None:
        """It asks for what it lacks; only what is returned beyond that is for those behind it."""
        pool, source = self.pool(3, otherwise=fails)
        elements = self.alloc_many(pool, 3)
        big = self.wait_in_thread(pool, 2)
        behind = self.wait_for(pool)
        pool.free(elements[0])
        self.let_the_head_ask_slowly(pool, source)
        assert pool.stats().spare == 1
        assert not behind.done()
        self.hand_on(pool, elements[1], to=behind)
        assert pool.stats().spare == 1
        source.release(works)
        assert same_in_any_order(big.result(SOON), [elements[0], source.existing[-1]])
        self.audit(pool, source, out=[behind.result(), elements[2], *big.result()])

    @waits
    def test_a_big_request_behind_gathers_what_is_returned_while_the_head_asks(self) -> None:
        """As the first who could be served: nobody overtakes it."""
        pool, source = self.pool(2, otherwise=fails)
        elements = self.alloc_many(pool, 2)
        head = self.wait_in_thread(pool)
        big = self.wait_for_many(pool, 2)
        third = self.wait_for(pool)
        self.let_the_head_ask_slowly(pool, source)
        pool.free(elements[0])
        assert not (big.done() or third.done())
        pool.free(elements[1])
        assert same_in_any_order(big.result(SOON), elements)
        assert not third.done()
        source.release(works)
        assert len(head.result(SOON)) == 1
        self.hand_on(pool, big.result()[0], to=third)
        self.audit(pool, source, out=[third.result(), big.result()[1], *head.result()])

    @waits
    def test_a_slow_source_is_left_alone_for_as_long_as_it_took(self) -> None:
        """Else a head that asks whenever something has changed would never be out of it when something is returned."""
        pool, source, element = self.used_up()
        head = self.wait_in_thread(pool)
        self.let_the_head_ask_slowly(pool, source)
        newcomer = self.wait_for(pool)  # which is a reason to ask the source at once
        self.pass_time(2.0, parked=1)
        calls = source.alloc_calls
        source.release(fails)
        self.pass_time(1.75, parked=2)
        self.clock.wait_until_parked(2)
        assert source.alloc_calls == calls
        pool.free(element)
        assert same_all(head.result(SOON), [element])
        pool.free_many(head.result())
        assert same(newcomer.result(SOON), element)
        self.audit(pool, source, out=[newcomer.result()])
