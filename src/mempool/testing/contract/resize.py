"""The promise changed, live."""

from __future__ import annotations

import threading
from typing import ClassVar

import pytest

from mempool.errors import PoolClosed
from mempool.pool import Pool
from mempool.testing.contract.base import SOON, Contract, fails, raises, same_all, slow, waits, works
from mempool.testing.scripted import SourceBroken


def resizing(pool: Pool[object], *args: int) -> threading.Thread:
    """A thread that resizes."""
    thread = threading.Thread(target=pool.resize, args=args)
    thread.start()
    return thread


class ResizeContract(Contract):
    """`resize`: one atomic change of targets; then it fills or disposes."""

    needs: ClassVar[frozenset[str]] = frozenset(
        {"alloc_many", "alloc_many_async", "alloc_reserved", "free_many", "guarantee", "resize"}
    )

    def test_growing_fills_the_reserve(self) -> None:
        """A grow makes what is missing before it returns."""
        pool, source = self.pool(1)
        assert pool.resize(4).held
        assert pool.stats().spare == 4
        assert source.made == 4

    def test_shrinking_disposes_of_spares_beyond_keep(self) -> None:
        """A shrink disposes of what is beyond the new `keep` before it returns."""
        pool, source = self.pool(8)
        pool.resize(2)
        assert pool.stats().spare == 4
        assert source.disposed == 4

    def test_shrinking_below_what_is_out_disposes_on_return(self) -> None:
        """Elements out are not touched; beyond `keep` they are disposed of when they are returned."""
        pool, source = self.pool(4, otherwise=fails)
        elements = [pool.alloc() for _ in range(4)]
        pool.resize(1, keep=1)
        assert source.disposed == 0
        pool.free_many(elements)
        assert pool.stats().spare == 1
        assert source.disposed == 3

    def test_growing_keeps_the_elements_there_are(self) -> None:
        """A grow makes only what is missing, and loses nothing that was there."""
        pool, source = self.pool(2)
        before = source.existing
        pool.resize(3)
        assert same_all(source.existing[:2], before)
        assert source.made == 3

    def test_a_resize_of_nothing_changes_nothing(self) -> None:
        """resize() without arguments leaves every target as it is."""
        pool, _source = self.pool(2, keep=3, limit=9)
        pool.resize()
        stats = pool.stats()
        assert (stats.reserve, stats.keep, stats.limit) == (2, 3, 9)

    # -- keep

    def test_a_keep_that_was_not_given_follows(self) -> None:
        """A `keep` that was not given follows at `2 * reserve`."""
        pool, _source = self.pool(1)
        for reserve in (5, 0, 3):
            pool.resize(reserve)
            assert pool.stats().keep == 2 * reserve

    @pytest.mark.parametrize("given_to", ["the constructor", "resize"])
    def test_a_keep_that_was_given_stays(self, given_to: str) -> None:
        """A `keep` that was given stays, but is never below the reserve."""
        if given_to == "resize":
            pool, _source = self.pool(2)
            pool.resize(keep=4)
        else:
            pool, _source = self.pool(2, keep=4)
        for reserve, keep in ((3, 4), (6, 6), (1, 4)):
            pool.resize(reserve)
            assert pool.stats().keep == keep, f"reserve {reserve}"

    def test_a_resize_that_failed_gives_no_keep(self) -> None:
        """A resize that raises changes nothing: a `keep` it asked for was not given."""
        pool, _source = self.pool(2)
        with pytest.raises(MemoryError):
            pool.resize(keep=2**62)
        assert pool.stats().keep == 4
        pool.resize(5)
        assert pool.stats().keep == 10

    # -- limit

    def test_a_lowered_limit_disposes_of_spares_above_it(self) -> None:
        """`limit` elements may exist at once: spares beyond a lowered limit are disposed of, down to the reserve."""
        pool, source = self.pool(2, keep=10)
        pool.free_many([pool.alloc() for _ in range(10)])
        pool.resize(limit=4)
        assert len(source.existing) == 4

    @pytest.mark.parametrize("at_once", [True, False])
    def test_a_lowered_limit_disposes_of_what_is_returned_above_it(self, at_once: bool) -> None:
        """Elements out beyond a lowered limit are disposed of when they are returned, as far as the reserve allows."""
        pool, source = self.pool(2, keep=10, otherwise=works)
        elements = [pool.alloc() for _ in range(6)]
        pool.resize(limit=4)
        for some in [elements] if at_once else [[element] for element in elements]:
            pool.free_many(some) if at_once else pool.free(some[0])
        assert len(source.existing) == 4

    def test_a_lowered_limit_does_not_touch_the_reserve(self) -> None:
        """What is out above a lowered limit cannot be helped; the reserve that is there stays, and is refilled first."""
        pool, source = self.pool(2, keep=10)
        elements = [pool.alloc() for _ in range(6)]
        source.otherwise = fails
        pool.resize(limit=4)
        assert pool.stats().spare == 2
        elements += [pool.alloc_reserved(), pool.alloc_reserved()]
        assert None not in elements
        pool.free(elements.pop())
        assert pool.stats().spare == 1
        pool.free_many(elements)
        assert len(source.existing) == 4

    def test_a_grow_stops_at_the_limit(self) -> None:
        """A grow never makes more than `limit` allows; what is out counts."""
        pool, source = self.pool(1, limit=4)
        out = [pool.alloc() for _ in range(2)]
        guarantee = pool.resize(4)
        assert len(source.existing) == 4
        assert (guarantee.spare, guarantee.owed, guarantee.unfunded) == (2, 2, 0)
        self.audit(pool, source, out=out)

    # -- one moment

    def test_targets_change_before_anything_is_disposed_of(self) -> None:
        """All targets change at one moment, under the lock, before the source is called."""
        pool, source = self.pool(6, limit=20)
        seen = []
        source.then_free(lambda: seen.append(pool.stats()))
        pool.resize(1, keep=3, limit=7)
        assert (seen[0].reserve, seen[0].keep, seen[0].limit) == (1, 3, 7)

    def test_targets_change_before_anything_is_made(self) -> None:
        """The same for a grow."""
        pool, source = self.pool(1)
        seen = []
        source.then(lambda: seen.append(pool.stats()))
        pool.resize(6, keep=9, limit=11)
        assert (seen[0].reserve, seen[0].keep, seen[0].limit) == (6, 9, 11)

    def test_the_last_resize_to_reach_its_moment_wins(self) -> None:
        """A shrink that is still disposing does not write its targets again: the later one stands."""
        pool, source = self.pool(10, keep=10)
        source.then_free(slow)
        thread = threading.Thread(target=pool.resize, args=(8,), kwargs={"keep": 8})
        thread.start()
        source.wait_until_held()
        pool.resize(5, keep=6)
        source.open()
        thread.join(SOON)
        stats = pool.stats()
        assert (stats.reserve, stats.keep, stats.spare) == (5, 6, 6)

    def test_a_grow_that_was_overtaken_by_a_shrink_stops(self) -> None:
        """A grow looks again before each element: it does not fill what is no longer promised."""
        pool, source = self.pool(1)
        source.then(works, slow)
        thread = resizing(pool, 50)
        source.wait_until_held()
        pool.resize(2)
        source.open()
        thread.join(SOON)
        assert pool.stats().reserve == 2
        assert pool.stats().spare <= pool.stats().keep
        assert source.made <= 8

    def test_a_resize_in_the_middle_of_another_keeps_what_that_one_set(self) -> None:
        """What a resize was not asked to change it leaves as it is, also if that has changed since it began."""
        pool, _source = self.pool(2)

        class Three:
            def __index__(self) -> int:
                pool.resize(limit=7)
                return 3

        pool.resize(Three())  # type: ignore[arg-type]
        stats = pool.stats()
        assert (stats.reserve, stats.limit) == (3, 7)

    def test_two_grows_at_once_make_no_more_than_is_promised(self) -> None:
        """Elements that another grow is making count: the reserve is not filled twice."""
        pool, source = self.pool(0, slow)
        first = resizing(pool, 1)
        source.wait_until_held()
        pool.resize(3)
        assert source.made == 2
        source.open()
        first.join(SOON)
        assert (pool.stats().spare, source.made) == (3, 3)

    # -- the line

    @waits
    def test_a_grow_serves_the_line_first(self) -> None:
        """Callers in the line are served from what a resize makes, in their order; then the reserve is filled."""
        pool, source = self.pool(0, otherwise=fails)
        waiters = [self.wait_for(pool) for _ in range(3)]
        source.otherwise = works
        assert pool.resize(2).held
        elements = [waiter.result(SOON) for waiter in waiters]
        assert same_all(source.existing[:3], elements)
        assert pool.stats().spare == 2
        self.audit(pool, source, out=elements)

    @waits
    def test_a_shrink_takes_nothing_from_the_line(self) -> None:
        """A shrink does not dispose of what the head of the line is gathering."""
        pool, source = self.pool(3, otherwise=fails)
        elements = [self.alloc(pool) for _ in range(3)]
        gathering = self.wait_for_many(pool, 3)
        pool.free_many(elements[:2])
        pool.resize(0)
        assert source.disposed == 0
        pool.free(elements[2])
        assert len(gathering.result(SOON)) == 3
        self.audit(pool, source, out=elements)

    # -- when it goes wrong

    def test_a_source_that_breaks_is_heard_and_the_targets_stand(self) -> None:
        """What the source raises reaches the caller of resize; what was made stays, what is missing is unfunded."""
        pool, _source = self.pool(1, works, raises)
        with pytest.raises(SourceBroken):
            pool.resize(5)
        assert (pool.stats().reserve, pool.stats().spare, pool.guarantee().unfunded) == (5, 2, 3)

    def test_a_shrink_whose_source_breaks_disposes_of_the_rest(self) -> None:
        """An exception of the source's free reaches the caller, after the others were disposed of as well."""
        pool, source = self.pool(6)
        source.then_free(works, raises)
        with pytest.raises(SourceBroken):
            pool.resize(0)
        assert source.existing == []

    def test_no_room_for_the_list_is_a_memory_error_and_changes_nothing(self) -> None:
        """Kernel: mempool_resize returns -ENOMEM where the list of places cannot be had."""
        pool, _source = self.pool(2)
        with pytest.raises(MemoryError):
            pool.resize(2**62)
        assert (pool.stats().reserve, pool.stats().keep) == (2, 4)

    def test_a_closed_pool_is_not_resized(self) -> None:
        """resize after close is PoolClosed."""
        pool, _source = self.pool(2)
        pool.close()
        with pytest.raises(PoolClosed):
            pool.resize(3)
