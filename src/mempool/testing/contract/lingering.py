"""Elements that their users have freed while something still looks at them."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from mempool.buffer import Buffer
from mempool.errors import PoolTimeout
from mempool.pool import Pool
from mempool.testing.contract.base import SOON, Contract, fails, waits, works


class Views:
    """What looks at an element: two views of a buffer. Of other elements there are none, and they never linger."""

    def __init__(self, element: Any) -> None:
        self._views = [element[:], element[1:]] if isinstance(element, Buffer) else []
        #: How many elements linger once this one is freed.
        self.lingering: int = int(bool(self._views))

    def end_one(self) -> None:
        """One view less; the other is the last."""
        del self._views[:1]

    def end(self) -> None:
        """No view any more."""
        self._views.clear()


class LingerContract(Contract):
    """`free(linger=True)`, `free_many(linger=True)`, `lease(linger=True)`: the last view returns what it looked at."""

    needs: ClassVar[frozenset[str]] = frozenset(
        {"alloc_many", "drain", "drain_async", "free_many", "guarantee", "lease", "lease_many", "resize"}
    )

    def lend(self, pool: Pool[Any]) -> Views:
        """Take an element and free it while it is viewed."""
        element = pool.alloc()
        views = Views(element)
        pool.free(element, linger=True)
        return views

    def test_what_lingers_is_returned_when_its_last_view_ends(self) -> None:
        """Until then it is out, and counted as lingering; what nothing looks at is returned at once."""
        pool, _source = self.pool(1, otherwise=fails)
        views = self.lend(pool)
        for _ in range(2):
            stats = pool.stats()
            assert (stats.out, stats.lingering) == (views.lingering, views.lingering)
            assert stats.spare == 1 - views.lingering
            views.end_one()
        assert (pool.stats().out, pool.stats().lingering, pool.stats().spare) == (0, 0, 1)

    def test_what_lingers_is_owed(self) -> None:
        """It will fill the reserve when it is returned, so the promise is held."""
        pool, _source = self.pool(1, otherwise=fails)
        views = self.lend(pool)
        guarantee = pool.guarantee()
        assert (guarantee.owed, guarantee.unfunded, guarantee.held) == (views.lingering, 0, True)
        views.end()

    def test_what_lingers_cannot_be_freed_again(self) -> None:
        """Its user has freed it: that he looks at it still does not make it his."""
        pool, _source = self.pool(1, otherwise=fails)
        element = pool.alloc()
        views = Views(element)
        pool.free(element, linger=True)
        for linger in (False, True):
            with pytest.raises(ValueError):  # DoubleFree or ForeignElement: both are
                pool.free(element, linger=linger)
        assert pool.stats().lingering == views.lingering
        views.end()

    @waits
    def test_who_waits_has_what_lingered_when_its_last_view_ends(self) -> None:
        """It counts against the limit meanwhile, and its return serves the line."""
        pool, source = self.pool(1, works, limit=1)
        held = pool.alloc()
        views = Views(held)
        waiting = self.wait_for(pool)
        pool.free(held, linger=True)
        if views.lingering:
            assert pool.stats().waiting == 1
            assert source.made == 1
        views.end()
        self.audit(pool, source, out=[waiting.result(SOON)])

    def test_of_many_those_that_linger_are_not_kept(self) -> None:
        """free_many says how many were; the others come one by one, each with its last view."""
        pool, _source = self.pool(3, keep=3, otherwise=fails)
        elements = pool.alloc_many(3)
        views = [Views(element) for element in elements[1:]]
        lingering = sum(each.lingering for each in views)
        assert pool.free_many(elements, linger=True) == 3 - lingering
        assert (pool.stats().spare, pool.stats().lingering) == (3 - lingering, lingering)
        for each in views:
            each.end()
        assert pool.stats().spare == 3

    def test_a_lease_that_lingers_ends_although_its_element_is_viewed(self) -> None:
        """So do those of many; and nobody is told off."""
        pool, _source = self.pool(2, keep=2, otherwise=fails)
        with pool.lease(linger=True) as element, pool.lease_many(1, linger=True) as others:
            views = [Views(element), *map(Views, others)]
        lingering = sum(each.lingering for each in views)
        assert (pool.stats().out, pool.stats().lingering, pool.stats().spare) == (lingering, lingering, 2 - lingering)
        for each in views:
            each.end()

    def test_what_lingers_is_reset_once_when_it_is_returned(self) -> None:
        """Not before, as somebody still looks at it."""
        resets: list[None] = []
        pool, _source = self.pool(1, otherwise=fails, reset=lambda _element: resets.append(None))
        views = self.lend(pool)
        assert len(resets) == 1 - views.lingering
        views.end()
        assert len(resets) == 1

    def test_what_lingers_beyond_keep_is_disposed_of_when_its_last_view_ends(self) -> None:
        """A shrink meanwhile counts for it, too."""
        pool, source = self.pool(1, keep=1)
        views = self.lend(pool)
        pool.resize(0, keep=0)
        assert len(source.existing) == views.lingering
        views.end()
        assert source.existing == []

    def test_a_closed_pool_disposes_of_what_lingered(self) -> None:
        """close tells how many are out, those that linger among them."""
        pool, source = self.pool(1)
        views = self.lend(pool)
        assert pool.close() == views.lingering
        views.end()
        assert source.existing == []

    @waits
    def test_a_drain_waits_for_what_lingers(self) -> None:
        """It is over when the last view has ended."""
        pool, _source = self.pool(1)
        views = self.lend(pool)
        if views.lingering:
            with pytest.raises(PoolTimeout):
                self.callers.call(pool, "drain", timeout=0).result(SOON)
        draining = self.callers.call(pool, "drain")
        views.end()
        draining.result(SOON)
