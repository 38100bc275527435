"""The end: close, drain."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import pytest

from mempool.errors import PoolClosed, PoolTimeout
from mempool.testing.contract.base import SOON, Contract, fails, raises, same, same_all, slow, waits, works
from mempool.testing.contract.callers import ThreadCallers
from mempool.testing.scripted import SourceBroken
from mempool.testing.waiting import wait_until


class CloseContract(Contract):
    """`close`, `drain`, the pool as a context manager."""

    needs: ClassVar[frozenset[str]] = frozenset(
        {"alloc_many", "alloc_many_async", "alloc_reserved", "drain", "free_many", "resize", "try_alloc"}
    )

    def test_closing_disposes_of_the_spares(self) -> None:
        """close: spares are disposed of."""
        pool, source = self.pool(3)
        assert pool.close() == 0
        assert source.existing == []
        assert pool.stats().closed

    def test_closing_says_how_many_are_out(self) -> None:
        """close returns how many elements are still out; they are disposed of when they are freed."""
        pool, source = self.pool(1)
        elements = [pool.alloc() for _ in range(3)]
        assert pool.close() == 3
        self.audit(pool, source, out=elements)
        pool.free(elements.pop())
        assert pool.close() == 2
        assert len(source.existing) == 2
        pool.free_many(elements)
        assert source.existing == []
        self.audit(pool, source)

    @waits
    def test_a_closed_pool_hands_out_nothing(self) -> None:
        """Every kind of alloc raises PoolClosed, although the source works."""
        pool, source = self.pool(1)
        pool.close()
        calls = source.alloc_calls
        with pytest.raises(PoolClosed):
            self.alloc(pool)
        with pytest.raises(PoolClosed):
            self.alloc_many(pool, 2)
        with pytest.raises(PoolClosed):
            pool.try_alloc()
        with pytest.raises(PoolClosed):
            pool.alloc_reserved()
        assert source.alloc_calls == calls

    @waits
    def test_closing_ends_every_wait(self) -> None:
        """Every ticket in the line fails with PoolClosed."""
        pool, source, element = self.used_up()
        waiters = [self.wait_for(pool), self.wait_for_many(pool, 2), self.wait_for(pool)]
        assert pool.close() == 1
        for waiter in waiters:
            assert isinstance(waiter.exception(SOON), PoolClosed)
        assert pool.stats().waiting == 0
        self.audit(pool, source, out=[element])

    @waits
    def test_closing_a_pool_disposes_of_what_was_being_gathered(self) -> None:
        """What lay ready for the head of the line is disposed of with the spares."""
        pool, source = self.pool(2, otherwise=fails)
        elements = self.alloc_many(pool, 2)
        gathering = self.wait_for_many(pool, 2)
        pool.free(elements[0])
        pool.close()
        assert isinstance(gathering.exception(SOON), PoolClosed)
        assert same_all(source.existing, [elements[1]])
        self.audit(pool, source, out=elements[1:])

    def test_closing_twice_is_allowed(self) -> None:
        """close may be called again."""
        pool, _source = self.pool(2)
        assert pool.close() == 0
        assert pool.close() == 0

    def test_with_closes(self) -> None:
        """`with Pool(...) as pool` closes it at the end, whatever the end."""
        pool, source = self.pool(2)
        with pytest.raises(KeyError), pool as same:
            assert same is pool
            raise KeyError
        assert source.existing == []

    def test_a_source_that_breaks_while_closing_disposes_of_the_rest(self) -> None:
        """An exception of the source's free reaches the caller of close, after all others were disposed of."""
        pool, source = self.pool(4)
        source.then_free(raises)
        with pytest.raises(SourceBroken):
            pool.close()
        assert source.existing == []

    def test_a_grow_that_is_overtaken_by_close_stops_and_disposes(self) -> None:
        """What a resize still makes when the pool closes is disposed of."""
        pool, source = self.pool(1)
        source.then(slow)
        growing = threading.Thread(target=pool.resize, args=(40,))
        growing.start()
        source.wait_until_held()
        pool.close()
        source.open()
        growing.join(SOON)
        assert source.existing == []
        assert source.made <= 2

    def test_an_element_that_arrives_after_close_is_not_lost(self) -> None:
        """An alloc that was asking the source when the pool closed gives the element or PoolClosed; nothing is lost."""
        pool, source = self.pool(0, slow)
        asking = ThreadCallers().call(pool, "alloc")
        source.wait_until_held()
        pool.close()
        source.open()
        if asking.exception(SOON) is None:
            pool.free(asking.result())
        assert source.existing == []

    # -- drain

    def drain(self, pool: Any, **options: Any) -> Any:
        """Begin to drain in a thread."""
        return ThreadCallers().call(pool, "drain", **options)

    def test_drain_returns_at_once_when_nothing_is_out(self) -> None:
        """Nothing out, nothing to wait for."""
        pool, _source = self.pool(2)
        pool.drain()
        pool.drain(timeout=0)

    def test_drain_waits_until_all_are_returned(self) -> None:
        """drain returns when the last element is returned, and not before."""
        pool, _source = self.pool(0, keep=1)
        elements = [pool.alloc() for _ in range(3)]
        draining = self.drain(pool)
        self.clock.wait_until_parked(1)
        for element in elements:
            assert not draining.done()
            pool.free(element)
        draining.result(SOON)

    def test_drain_is_told_of_an_element_that_could_not_be_reset(self) -> None:
        """It is returned, though it is disposed of."""

        def broken(_element: object) -> None:
            raise SourceBroken

        pool, _source = self.pool(0, reset=broken)
        element = pool.alloc()
        draining = self.drain(pool)
        self.clock.wait_until_parked(1)
        with pytest.raises(SourceBroken):
            pool.free(element)
        draining.result(SOON)

    def test_drain_after_close_waits_as_well(self) -> None:
        """Elements still out when the pool was closed are waited for."""
        pool, _source = self.pool(1)
        element = pool.alloc()
        pool.close()
        draining = self.drain(pool)
        self.clock.wait_until_parked(1)
        assert not draining.done()
        pool.free(element)
        draining.result(SOON)

    def test_drain_has_a_timeout(self) -> None:
        """PoolTimeout when some are still out; the pool goes on as before."""
        pool, source = self.pool(1)
        element = pool.alloc()
        with pytest.raises(PoolTimeout):
            pool.drain(timeout=0)
        draining = self.drain(pool, timeout=2)
        self.pass_time(2, parked=1)
        assert isinstance(draining.exception(SOON), PoolTimeout)
        self.audit(pool, source, out=[element])
        pool.free(element)
        assert same(pool.alloc(), element)

    @pytest.mark.parametrize("seconds", [float("inf"), 1e10, None])
    def test_drain_may_take_for_ever(self, seconds: float | None) -> None:
        """Any number of seconds is a timeout, and None is none."""
        pool, _source = self.pool(1)
        element = pool.alloc()
        draining = self.drain(pool, timeout=seconds)
        wait_until(lambda: self.clock.parked == 1 or draining.done())
        pool.free(element)
        draining.result(SOON)

    def test_a_resize_while_draining_is_not_waited_for_ever(self) -> None:
        """Elements that are made for the reserve do not keep drain from seeing that all are returned."""
        pool, _source = self.pool(1, works)
        element = pool.alloc()
        draining = self.drain(pool)
        self.clock.wait_until_parked(1)
        pool.resize(5)
        assert not draining.done()
        pool.free(element)
        draining.result(SOON)
