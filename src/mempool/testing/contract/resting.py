"""A source that has just failed is left alone for a while, and the reserve is used without asking."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from mempool.errors import PoolTimeout
from mempool.pool import Pool
from mempool.testing.contract.base import Contract, fails, waits, works
from mempool.testing.scripted import ScriptedSource

#: Seconds for which a source is left alone when it has failed, has failed again when it was asked after that, and so on.
RESTS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05)


class RestContract(Contract):
    """When the source rests, and who asks it nevertheless."""

    needs: ClassVar[frozenset[str]] = frozenset(
        {"alloc_many", "alloc_many_async", "alloc_reserved", "lease", "refill", "resize", "try_alloc"}
    )

    def questions(self, pool: Pool[Any], source: ScriptedSource[Any]) -> int:
        """How often one alloc, and the free after it, asks the source."""
        calls = source.alloc_calls
        pool.free(self.alloc(pool))
        return source.alloc_calls - calls

    @waits
    def test_a_source_that_failed_is_left_alone_while_the_reserve_lasts(self) -> None:
        """The first alloc hears that memory is out; those right after it take of the reserve without asking."""
        pool, source = self.pool(4, otherwise=fails)
        calls = source.alloc_calls
        elements = [self.alloc(pool) for _ in range(4)]
        assert source.alloc_calls == calls + 1
        assert pool.stats().served_from_reserve == 4
        assert pool.stats().source_failures == 1
        self.audit(pool, source, out=elements)

    @waits
    def test_the_rest_is_one_millisecond_and_doubles_to_fifty(self) -> None:
        """While it goes on failing, a source is asked once in a rest, and each rest is twice as long as the one before."""
        pool, source = self.pool(1, otherwise=fails)
        for rest in RESTS:
            assert self.questions(pool, source) == 1
            self.clock.advance(0.9 * rest)
            assert self.questions(pool, source) == 0
            self.clock.advance(0.1 * rest + 1e-9)

    @waits
    def test_a_source_that_works_ends_its_rest(self) -> None:
        """The next failure is a first one: the source is asked again after a millisecond."""
        pool, source = self.pool(1, fails, fails, fails, works, otherwise=fails)
        for rest in RESTS[:3]:
            assert self.questions(pool, source) == 1
            self.clock.advance(rest + 1e-9)
        first = self.alloc(pool)  # of the source
        assert pool.stats().served_from_source == 1
        assert self.questions(pool, source) == 1
        assert self.questions(pool, source) == 0
        self.clock.advance(RESTS[0] + 1e-9)
        assert self.questions(pool, source) == 1
        self.audit(pool, source, out=[first])

    @waits
    def test_who_finds_no_spare_asks_a_source_that_rests(self) -> None:
        """Nobody joins the line without having asked."""
        pool, source, element = self.used_up()
        for _ in range(3):
            calls = source.alloc_calls
            with pytest.raises(PoolTimeout):
                self.alloc(pool, timeout=0)
            assert source.alloc_calls > calls
        source.otherwise = works
        self.audit(pool, source, out=[element, self.alloc(pool)])

    @waits
    def test_what_was_heard_from_others_does_not_make_the_rest_longer(self) -> None:
        """Who asks while the source rests, because there is no spare, and fails, is no new failure."""
        pool, source, element = self.used_up()
        with pytest.raises(PoolTimeout):
            self.alloc(pool, timeout=0)
        pool.free(element)
        self.clock.advance(RESTS[0] + 1e-9)
        assert self.questions(pool, source) == 1
        self.clock.advance(RESTS[1] + 1e-9)
        assert self.questions(pool, source) == 1

    @waits
    def test_many_at_once_come_of_the_reserve_without_asking(self) -> None:
        """All of them, or the source is asked."""
        pool, source = self.pool(4, otherwise=fails)
        elements = [self.alloc(pool)]
        calls = source.alloc_calls
        elements += self.alloc_many(pool, 3)
        assert source.alloc_calls == calls
        pool.free(elements.pop())
        with pytest.raises(PoolTimeout):
            self.alloc_many(pool, 2, timeout=0)
        assert source.alloc_calls > calls
        self.audit(pool, source, out=elements)

    def test_every_way_to_take_one_lets_the_source_rest(self) -> None:
        """A lease and try_alloc, too; and alloc_reserved asks nobody in any case."""
        pool, source = self.pool(4, otherwise=fails)
        calls = source.alloc_calls
        elements = [pool.alloc_reserved(), pool.try_alloc(), pool.try_alloc()]
        with pool.lease() as leased:
            assert source.alloc_calls == calls + 1
            self.audit(pool, source, out=[*elements, leased])
        assert pool.stats().served_from_reserve == 4

    def test_a_grow_asks_a_source_that_rests(self) -> None:
        """Who has to make elements asks; and when it works, the rest is over."""
        pool, source = self.pool(1, fails, works, fails)
        pool.free(pool.alloc())
        pool.resize(2)
        assert pool.stats().spare == 2
        first = pool.alloc()  # asks, and fails
        assert pool.stats().source_failures == 2
        self.audit(pool, source, out=[first])
