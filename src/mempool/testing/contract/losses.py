"""Elements that are broken, and elements that are lost with their holder."""

from __future__ import annotations

from typing import ClassVar

import pytest

from mempool.errors import DoubleFree
from mempool.testing.contract.base import SOON, Contract, fails, waits, works


class LossContract(Contract):
    """`discard`, `write_off` and `take_over`."""

    needs: ClassVar[frozenset[str]] = frozenset({"discard", "guarantee", "take_over", "write_off"})

    def test_what_is_discarded_is_disposed_of_and_made_anew(self) -> None:
        """Nobody gets it again, and the promise is whole."""
        pool, source = self.pool(1, fails, works)
        broken = pool.alloc()
        pool.discard(broken)
        assert not source.has([broken])
        assert pool.stats().spare == 1
        assert pool.guarantee().held

    def test_what_cannot_be_made_anew_is_unfunded(self) -> None:
        """The discarded is gone even while memory is out, and the guarantee says what that costs."""
        pool, _source = self.pool(1, otherwise=fails)
        pool.discard(pool.alloc())
        assert pool.guarantee().unfunded == 1

    def test_what_was_discarded_is_not_out(self) -> None:
        """A second discard is a double free, or foreign; it changes nothing."""
        pool, _source = self.pool(1)
        broken = pool.alloc()
        pool.discard(broken)
        with pytest.raises(ValueError):  # DoubleFree or ForeignElement: both are
            pool.discard(broken)

    @waits
    def test_a_discard_serves_who_waits_at_the_limit(self) -> None:
        """There is room under the limit when it is disposed of, and what is made anew goes to the line."""
        pool, source = self.pool(1, limit=1)
        broken = pool.alloc()
        waiting = self.wait_for(pool)
        pool.discard(broken)
        self.audit(pool, source, out=[waiting.result(SOON)])

    def test_what_is_written_off_is_not_disposed_of_and_made_anew(self) -> None:
        """Its holder may still be using it: the source's free is not called, and the promise is whole."""
        pool, source = self.pool(1, limit=1)
        lost = pool.alloc()
        pool.write_off(lost)
        assert source.has([lost])
        assert (pool.stats().out, pool.stats().spare, pool.stats().written_off) == (0, 1, 1)
        assert pool.guarantee().held

    def test_what_was_written_off_cannot_be_freed(self) -> None:
        """A late free is refused and changes nothing."""
        pool, _source = self.pool(1, track="identity")
        lost = pool.alloc()
        pool.write_off(lost)
        with pytest.raises(ValueError):
            pool.free(lost)

    @waits
    def test_a_write_off_serves_who_waits_at_the_limit(self) -> None:
        """It counts against the limit no more, which is a reason to ask the source at once."""
        pool, source = self.pool(1, limit=1)
        lost = pool.alloc()
        waiting = self.wait_for(pool)
        pool.write_off(lost)
        self.audit(pool, source, out=[waiting.result(SOON)])

    @pytest.mark.parametrize("how", ["discard", "write_off"])
    def test_a_spare_is_neither_broken_nor_lost(self, how: str) -> None:
        """It is returned already: DoubleFree, and nothing has changed."""
        pool, _source = self.pool(1)
        element = pool.alloc()
        pool.free(element)
        with pytest.raises(DoubleFree):
            getattr(pool, how)(element)
        assert pool.stats().written_off == 0

    def test_who_takes_over_changes_nothing_but_the_holder(self) -> None:
        """The element is out as before and may be freed."""
        pool, source = self.pool(1)
        element = pool.alloc()
        pool.take_over(element)
        self.audit(pool, source, out=[element])
        pool.free(element)
        self.audit(pool, source)
