"""Where an element comes from, and where it goes."""

from __future__ import annotations

import gc
import itertools
from typing import Any, ClassVar

import pytest

from mempool.errors import PoolTimeout
from mempool.testing.contract.base import SOON, Contract, fails, raises, same, same_all, waits, works
from mempool.testing.scripted import Action, SourceBroken


class AllocContract(Contract):
    """`Pool(...)`, `alloc`, `try_alloc`, `alloc_reserved`, `free`."""

    needs: ClassVar[frozenset[str]] = frozenset({"alloc_many", "alloc_reserved", "free_many", "guarantee", "try_alloc"})

    # -- the constructor

    def test_a_new_pool_holds_its_reserve(self) -> None:
        """`Pool(...)` fills the reserve before it returns, and makes no more than that."""
        pool, source = self.pool(3)
        assert pool.stats().spare == 3
        assert source.alloc_calls == 3

    @pytest.mark.parametrize("failing", range(3))
    def test_a_pool_whose_reserve_cannot_be_filled_is_not_made(self, failing: int) -> None:
        """If the source fails on the way, the constructor disposes of what it made and raises MemoryError."""
        source = self.make_source(*[works] * failing, fails)
        with pytest.raises(MemoryError) as error:
            self.new_pool(source, 3)
        assert error.tb is not None  # and with it the pool, which cannot have been collected
        assert source.existing == []
        assert source.disposed == failing

    def test_a_pool_whose_source_breaks_is_not_made(self) -> None:
        """Any other exception of the source reaches the caller of the constructor; what was made is disposed of."""
        source = self.make_source(works, works, raises)
        with pytest.raises(SourceBroken):
            self.new_pool(source, 3)
        assert source.existing == []

    def test_a_pool_without_a_reserve_is_legal(self) -> None:
        """`reserve=0` is no promise, and asks the source for nothing."""
        pool, source = self.pool(0)
        assert source.alloc_calls == 0
        assert pool.guarantee().held

    @waits
    def test_waiters_of_a_pool_without_a_reserve_are_served_by_frees(self) -> None:
        """`reserve=0`: waiters are still served by frees."""
        pool, _source = self.pool(0, works, otherwise=fails)
        element = self.alloc(pool)
        waiter = self.wait_for(pool)
        pool.free(element)
        assert same(waiter.result(60), element)
        pool.free(waiter.result())

    # -- the order in which alloc looks

    @waits
    def test_alloc_takes_a_spare_above_the_reserve_first(self) -> None:
        """In order: a spare above the reserve, without asking the source."""
        pool, source = self.pool(1)
        element = self.alloc(pool)
        pool.free(element)
        calls = source.alloc_calls
        again = self.alloc(pool)
        assert same(again, element)
        assert source.alloc_calls == calls
        assert pool.stats().served_from_spare == 1
        self.audit(pool, source, out=[again])

    @waits
    def test_alloc_asks_the_source_before_it_touches_the_reserve(self) -> None:
        """In order: the source, while there are only spares of the reserve."""
        pool, source = self.pool(2)
        element = self.alloc(pool)
        assert source.made == 3
        assert pool.stats().spare == 2
        assert pool.stats().served_from_source == 1
        self.audit(pool, source, out=[element])

    @waits
    def test_alloc_takes_from_the_reserve_when_the_source_fails(self) -> None:
        """In order: a spare of the reserve, when the source has none."""
        pool, source = self.pool(2, otherwise=fails)
        elements = [self.alloc(pool)]
        self.clock.advance(1)  # so that a source which is left alone after a failure is asked again
        elements.append(self.alloc(pool))
        assert pool.stats().spare == 0
        assert pool.stats().served_from_reserve == 2
        assert source.log[-2:] == ["alloc fails", "alloc fails"]
        self.audit(pool, source, out=elements)

    @waits
    def test_alloc_waits_when_there_is_nothing(self) -> None:
        """In order: the line, when source and reserve have nothing."""
        pool, source, element = self.used_up()
        waiter = self.wait_for(pool)
        assert pool.stats().waiting == 1
        pool.free(element)
        assert same(waiter.result(60), element)
        assert pool.stats().served_from_line == 1
        self.audit(pool, source, out=[element])

    @waits
    @pytest.mark.parametrize("reserve", [1, 2, 7])
    def test_the_reserve_can_always_be_had(self, reserve: int) -> None:
        """`reserve` elements can always be had at once, even when making new ones fails."""
        pool, source = self.pool(reserve, otherwise=fails)
        for _round in range(3):
            elements = [self.alloc(pool, timeout=0) for _ in range(reserve)]
            self.audit(pool, source, out=elements)
            for element in elements:
                pool.free(element)

    @waits
    def test_what_the_source_raises_reaches_the_caller(self) -> None:
        """What the source raises that is not MemoryError is raised by alloc; nothing is lost."""
        pool, source = self.pool(1, raises)
        with pytest.raises(SourceBroken):
            self.alloc(pool)
        self.audit(pool, source)
        self.audit(pool, source, out=[self.alloc(pool)])

    @waits
    def test_a_source_that_returns_none_is_told_so(self) -> None:
        """alloc is never None: a source whose alloc returns None is a TypeError, and counts nothing as made."""

        class Nothing:
            def alloc(self) -> None:
                return None

            def free(self, element: object) -> None:
                raise AssertionError(element)

        pool = self.new_pool(Nothing(), 0)  # type: ignore[arg-type]
        self.attach_clock(pool)
        with pytest.raises(TypeError, match="None"):
            self.alloc(pool)
        assert pool.stats().made == 0

    @waits
    def test_at_the_limit_the_source_is_not_asked(self) -> None:
        """At most `limit` elements exist: at the limit alloc goes on to the reserve, and then to the line."""
        pool, source = self.pool(2, limit=3)
        elements = [self.alloc(pool) for _ in range(3)]
        assert source.alloc_calls == 3
        with pytest.raises(PoolTimeout):
            self.alloc(pool, timeout=0)
        assert source.alloc_calls == 3
        self.audit(pool, source, out=elements)

    @waits
    @pytest.mark.parametrize("answers", list(itertools.product([works, fails, raises], repeat=4)), ids=str)
    def test_whatever_the_source_answers_the_accounts_are_exact(self, answers: tuple[Action, ...]) -> None:
        """Every combination of answers: each alloc gives, times out or raises, and what is counted is what exists."""
        pool, source = self.pool(1, *answers, limit=4)
        out = []
        for _call in answers:
            try:
                out.append(self.alloc(pool, timeout=0))
            except (PoolTimeout, SourceBroken):
                pass
            self.audit(pool, source, out)
        for element in list(out):
            out.remove(element)
            pool.free(element)
            self.audit(pool, source, out)

    # -- without the line

    def test_try_alloc_looks_where_alloc_looks(self) -> None:
        """try_alloc: a spare above the reserve, the source, a spare of the reserve; None when nothing is to be had."""
        pool, source = self.pool(1, works, otherwise=fails)
        made = pool.try_alloc()
        assert source.made == 2
        pool.free(made)
        again = pool.try_alloc()
        assert same(again, made)
        reserved = pool.try_alloc()
        assert reserved is not None
        assert pool.try_alloc() is None
        assert pool.stats().waiting == 0
        self.audit(pool, source, out=[again, reserved])

    def test_try_alloc_raises_what_the_source_raises(self) -> None:
        """What the source raises that is not MemoryError reaches the caller of try_alloc."""
        pool, _source = self.pool(1, raises)
        with pytest.raises(SourceBroken):
            pool.try_alloc()

    def test_alloc_reserved_never_calls_the_source(self) -> None:
        """alloc_reserved: a spare or None (kernel: mempool_alloc_preallocated)."""
        pool, source = self.pool(2)
        elements = [pool.alloc_reserved(), pool.alloc_reserved()]
        assert pool.alloc_reserved() is None
        assert source.alloc_calls == 2
        self.audit(pool, source, out=elements)

    # -- free

    def test_the_element_freed_last_comes_out_first(self) -> None:
        """Spares are used last in, first out, so that warm memory is used again (kernel: remove_element)."""
        pool, source = self.pool(0, keep=3)
        elements = [pool.alloc() for _ in range(3)]
        for element in elements:
            pool.free(element)
        taken = [pool.alloc() for _ in range(3)]
        assert same_all(taken, reversed(elements))
        self.audit(pool, source, out=taken)

    def test_free_keeps_an_element_while_spare_is_below_keep(self) -> None:
        """free keeps the element if `spare < keep`; else it is disposed of."""
        pool, source = self.pool(1, keep=2)
        elements = [pool.alloc() for _ in range(3)]
        pool.free(elements.pop())
        assert (pool.stats().spare, source.free_calls) == (2, 0)
        pool.free(elements.pop())
        assert (pool.stats().spare, source.free_calls) == (2, 1)
        self.audit(pool, source, out=elements)

    def test_keep_is_twice_the_reserve_unless_it_is_given(self) -> None:
        """`keep` defaults to `2 * reserve`."""
        pool, _source = self.pool(2)
        for element in [pool.alloc() for _ in range(6)]:
            pool.free(element)
        assert pool.stats().keep == 4
        assert pool.stats().spare == 4

    def test_a_source_whose_free_raises_is_heard_and_the_element_is_gone(self) -> None:
        """What the source's free raises reaches the caller of free; the element counts as disposed of."""
        pool, source = self.pool(0, keep=0)
        element = pool.alloc()
        source.then_free(raises)
        with pytest.raises(SourceBroken):
            pool.free(element)

    # -- reset

    @waits
    def test_an_element_is_reset_when_it_is_returned(self) -> None:
        """The source's reset runs on return, before anybody else can have the element."""
        reset: list[Any] = []
        pool, _source = self.pool(0, works, otherwise=fails, reset=reset.append)
        element = self.alloc(pool)
        waiter = self.wait_for(pool)
        assert reset == []
        pool.free(element)
        assert same_all(reset, [element])
        assert same(waiter.result(SOON), element)
        pool.free_many([waiter.result()])
        assert same_all(reset, [element, element])

    def test_an_element_whose_reset_raises_is_disposed_of(self) -> None:
        """Nobody knows what state it is in; what the reset raised reaches the caller of free."""

        def broken(_element: object) -> None:
            raise SourceBroken

        pool, source = self.pool(1, keep=9, reset=broken)
        elements = pool.alloc_many(3)
        with pytest.raises(SourceBroken):
            pool.free(elements.pop())
        self.audit(pool, source, out=elements)
        assert pool.stats().disposing == 0
        with pytest.raises(SourceBroken):
            pool.free_many(elements)
        self.audit(pool, source)
        assert source.disposed == 3

    # -- the end of a pool nobody closed

    def test_a_pool_that_is_dropped_disposes_of_its_spares(self) -> None:
        """A pool that is dropped unclosed disposes of its spares."""
        source = self.make_source()
        pool = self.new_pool(source, 3)
        assert len(source.existing) == 3
        del pool
        gc.collect()
        assert source.existing == []
        assert source.wrong == []
