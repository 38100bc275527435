"""Many at once: all or nothing, and fair."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, ClassVar

import pytest

from mempool.errors import DoubleFree, ForeignElement, LineFull, PoolTimeout
from mempool.pool import Pool
from mempool.testing.contract.base import SOON, Contract, fails, raises, same_in_any_order, waits, works
from mempool.testing.contract.callers import ThreadCallers, in_line
from mempool.testing.scripted import SourceBroken
from mempool.testing.waiting import wait_until


class BulkContract(Contract):
    """`alloc_many` and `free_many`."""

    needs: ClassVar[frozenset[str]] = frozenset({"alloc_many", "alloc_many_async", "free_many", "resize"})

    @waits
    def test_many_come_from_where_one_comes_from(self) -> None:
        """In order: spares above the reserve, the source, the reserve."""
        pool, source = self.pool(2, works, otherwise=fails)
        pool.free(self.alloc(pool))
        elements = self.alloc_many(pool, 3)
        assert len(elements) == 3
        assert source.alloc_calls == 4
        assert pool.stats().spare == 0
        self.audit(pool, source, out=elements)

    @waits
    def test_many_are_served_beyond_the_reserve_as_far_as_the_source_can(self) -> None:
        """`n` above the reserve is served by the source, without a promise."""
        pool, source = self.pool(2)
        elements = self.alloc_many(pool, 9)
        assert len({id(e) for e in elements}) == 9
        self.audit(pool, source, out=elements)

    @waits
    def test_none_at_all_are_had_at_once(self) -> None:
        """n = 0 is an empty list, also when there is nothing and others wait."""
        pool, _source = self.pool(0, otherwise=fails)
        assert self.alloc_many(pool, 0) == []
        waiter = self.wait_for(pool)
        assert self.alloc_many(pool, 0) == []
        pool.close()
        assert waiter.exception(SOON) is not None

    @waits
    def test_more_than_the_limit_can_never_be_had(self) -> None:
        """`n` above `limit` raises ValueError at once, and asks for nothing."""
        pool, source = self.pool(2, limit=3)
        with pytest.raises(ValueError, match="limit"):
            self.alloc_many(pool, 4)
        assert source.alloc_calls == 2
        elements = self.alloc_many(pool, 3)
        self.audit(pool, source, out=elements)

    @waits
    def test_who_waits_for_more_than_a_lowered_limit_is_told_and_the_next_is_served(self) -> None:
        """Nobody could ever serve it, nor whoever stands behind it."""
        pool, source = self.pool(0, keep=5, limit=5)
        elements = self.alloc_many(pool, 5)
        many = self.wait_for_many(pool, 5)
        one = self.wait_for(pool)
        pool.resize(limit=4)
        assert isinstance(many.exception(SOON), ValueError)
        pool.free(elements.pop())
        elements.append(one.result(SOON))
        self.audit(pool, source, out=elements)

    @waits
    @pytest.mark.parametrize("failing", [fails, raises])
    def test_all_or_nothing(self, failing: Any) -> None:
        """A call that cannot have all has none: what it had got is returned."""
        pool, _source = self.pool(1, works, works, failing, otherwise=fails)
        with pytest.raises((PoolTimeout, SourceBroken)):
            self.alloc_many(pool, 4, timeout=0)
        assert pool.stats().out == 0
        assert pool.stats().spare == 2  # keep: the third was disposed of

    @waits
    def test_one_who_waits_holds_nothing_back(self) -> None:
        """What a bulk request has got when it joins the line serves those who stand there before it."""
        pool, source = self.pool(0)
        before: list[Future[Any]] = []

        def somebody_joins() -> None:
            source.otherwise = fails
            before.append(self.wait_beside(pool, "alloc"))
            raise MemoryError

        source.then(works, somebody_joins)
        bulk = self.wait_for_many(pool, 3)
        wait_until(lambda: before)
        element = before[0].result(SOON)
        assert pool.stats().spare == 0
        pool.close()
        assert bulk.exception(SOON) is not None
        self.audit(pool, source, out=[element])

    @waits
    def test_the_head_gathers_what_is_returned(self) -> None:
        """A big request at the head of the line is served when enough has been returned; not before."""
        pool, source = self.pool(3, otherwise=fails)
        elements = self.alloc_many(pool, 3)
        gathering = self.wait_for_many(pool, 3)
        for element in elements:
            assert not gathering.done()
            pool.free(element)
        assert same_in_any_order(gathering.result(SOON), elements)
        self.audit(pool, source, out=elements)

    @waits
    def test_small_requests_do_not_starve_a_big_one(self) -> None:
        """Nobody overtakes: small requests behind a gathering head wait, whatever is free."""
        pool, source = self.pool(3, otherwise=fails)
        elements = self.alloc_many(pool, 3)
        big = self.wait_for_many(pool, 3)
        small = [self.wait_for(pool) for _ in range(3)]
        pool.free_many(elements[:2])
        assert pool.stats().waiting == 4
        pool.free(elements[2])
        assert same_in_any_order(big.result(SOON), elements)
        assert pool.stats().waiting == 3
        pool.free_many(big.result())
        assert same_in_any_order([waiter.result(SOON) for waiter in small], elements)
        self.audit(pool, source, out=elements)

    @waits
    def test_a_gatherer_that_gives_up_gives_all_back_in_one_step(self) -> None:
        """What a timed-out gatherer had goes to those behind it, at once and in order."""
        pool, source = self.pool(3, otherwise=fails)
        elements = self.alloc_many(pool, 3)
        big = self.wait_for_many(pool, 3, timeout=1)
        two = self.wait_for_many(pool, 2)
        one = self.wait_for(pool)
        pool.free_many(elements[:2])
        self.pass_time(1, parked=3)
        assert isinstance(big.exception(SOON), PoolTimeout)
        assert same_in_any_order(two.result(SOON), elements[:2])
        assert not one.done()
        self.hand_on(pool, elements[2], to=one)
        self.audit(pool, source, out=elements)

    @waits
    def test_a_gatherer_that_gives_up_leaves_no_more_than_keep(self) -> None:
        """What nobody behind wants is kept up to `keep`; the rest is disposed of."""
        pool, _source = self.pool(0, *[works] * 4, otherwise=fails, keep=1)
        with pytest.raises(PoolTimeout):
            self.alloc_many(pool, 8, timeout=0)
        assert pool.stats().spare == 1

    @waits
    def test_a_cancelled_gatherer_leaves_no_more_than_keep(self) -> None:
        """The same when what was gathered was returned while it waited."""
        pool, source = self.pool(4, otherwise=fails, keep=4)
        elements = self.alloc_many(pool, 4)
        big = self.wait_for_many(pool, 4, timeout=1)
        pool.free_many(elements[:3])
        pool.resize(1, keep=1)
        self.expire(pool, 1, waiting=0)
        assert isinstance(big.exception(SOON), PoolTimeout)
        assert pool.stats().spare == 1
        self.audit(pool, source, out=elements[3:])

    @waits
    def test_gatherers_of_every_size_keep_the_order(self) -> None:
        """A smaller request behind a bigger one waits for it, although there is enough for the smaller."""
        pool, source = self.pool(6, otherwise=fails)
        out = self.alloc_many(pool, 6)
        waiters = [self.wait_for_many(pool, size) for size in (5, 1, 3, 6, 2)]
        for served in ((0, 1), (2,), (3,), (4,)):
            pool.free_many(out)
            out = [element for place in served for element in waiters[place].result(SOON)]
            assert [waiter.done() for waiter in waiters] == [place <= served[-1] for place in range(5)]
        self.audit(pool, source, out=out)

    @waits
    def test_two_bulk_requests_that_meet_find_room(self) -> None:
        """What two requests have got when they join the line lies with the pool together, more than either wants."""
        pool, source = self.pool(0, keep=0)
        before: list[Future[Any]] = []

        def somebody_joins() -> None:
            source.then(*[works] * 9, fails)
            before.append(self.wait_beside(pool, "alloc_many", 10))
            source.otherwise = fails
            raise MemoryError

        source.then(*[works] * 7, somebody_joins)
        late = self.wait_for_many(pool, 8)
        wait_until(lambda: before)
        first = before[0].result(SOON)
        assert len(first) == 10
        pool.free_many(first)
        elements = late.result(SOON)
        assert len(elements) == 8
        self.audit(pool, source, out=elements)

    def wait_beside(self, pool: Pool[Any], call: str, *args: Any) -> Future[Any]:
        """Begin a call in a thread, also where the test's own kind of caller is busy; return when it stands in the line."""
        return in_line(pool, lambda: ThreadCallers().call(pool, call, *args))

    @waits
    def test_the_head_asks_for_what_it_lacks(self) -> None:
        """A source that recovers gives a gathering head the rest, not more."""
        pool, source = self.pool(0, *[works] * 2, otherwise=fails)
        waiter = self.wait_for_many(pool, 5)
        wait_until(lambda: pool.stats().spare == 2)  # an engine may join the line first, and hand over what it has got then
        source.otherwise = works
        self.pass_time(0.05, parked=1)
        elements = waiter.result(SOON)
        assert source.made == 5
        self.audit(pool, source, out=elements)

    @waits
    def test_a_grow_serves_a_gatherer(self) -> None:
        """What a resize makes goes to the head that gathers; then the reserve is filled."""
        pool, source = self.pool(0, otherwise=fails)
        waiter = self.wait_for_many(pool, 4)
        source.otherwise = works
        assert pool.resize(6).held
        elements = waiter.result(SOON)
        assert source.made == 10
        self.audit(pool, source, out=elements)

    @waits
    def test_a_full_line_turns_a_bulk_request_away_with_nothing(self) -> None:
        """LineFull: what it had got is returned."""
        pool, _source = self.pool(0, *[works] * 2, otherwise=fails, max_waiting=0, keep=5)
        with pytest.raises(LineFull):
            self.alloc_many(pool, 3)
        assert pool.stats().spare == 2

    # -- free_many

    def test_free_many_says_how_many_were_kept(self) -> None:
        """free_many returns how many went back into the pool (kernel: mempool_free_bulk); the rest was disposed of."""
        pool, source = self.pool(1, keep=3)
        elements = pool.alloc_many(5)
        assert pool.free_many(elements) == 2
        assert source.disposed == 3

    def test_free_many_of_nothing_is_nothing(self) -> None:
        """An empty list is legal."""
        pool, _source = self.pool(1)
        assert pool.free_many([]) == 0

    def test_free_many_takes_any_iterable(self) -> None:
        """Elements may come from a generator."""
        pool, _source = self.pool(1)
        elements = pool.alloc_many(2)
        pool.free_many(element for element in elements)

    def test_free_many_with_a_foreign_element_frees_nothing(self) -> None:
        """All or nothing: one that is not out, and all stay with their user."""
        pool, source = self.pool(1)
        elements = pool.alloc_many(2)
        with pytest.raises(ForeignElement):
            pool.free_many([*elements, bytearray(1)])
        self.audit(pool, source, out=elements)
        pool.free_many(elements)

    @pytest.mark.parametrize("twice", [0, 1, 2])
    def test_free_many_with_one_element_twice_frees_nothing(self, twice: int) -> None:
        """The same element twice in one call is a double free, and is named."""
        pool, source = self.pool(1)
        elements = pool.alloc_many(3)
        with pytest.raises(DoubleFree, match=f"{id(elements[twice]):#x}"):
            pool.free_many([*elements, elements[twice]])
        self.audit(pool, source, out=elements)
        pool.free_many(elements)

    @waits
    def test_free_many_serves_several_at_once(self) -> None:
        """Each element goes to the first that wants it."""
        pool, source = self.pool(3, otherwise=fails)
        elements = self.alloc_many(pool, 3)
        waiters = [self.wait_for(pool), self.wait_for_many(pool, 2)]
        assert pool.free_many(elements) == 3
        got = [waiters[0].result(SOON), *waiters[1].result(SOON)]
        assert same_in_any_order(got, elements)
        self.audit(pool, source, out=elements)
