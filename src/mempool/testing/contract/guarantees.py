"""What is covered, what is owed, what is unfunded."""

from __future__ import annotations

from typing import ClassVar

import pytest

from mempool.guarantee import Guarantee
from mempool.testing.contract.base import Contract, fails, works


def parts(guarantee: Guarantee) -> tuple[int, int, int, int]:
    """The four numbers of a guarantee, which always add up."""
    spare = min(guarantee.spare, guarantee.promised)
    assert guarantee.promised == spare + guarantee.owed + guarantee.unfunded
    assert guarantee.held == (guarantee.unfunded == 0)
    return guarantee.promised, guarantee.spare, guarantee.owed, guarantee.unfunded


class GuaranteeContract(Contract):
    """`guarantee` and `refill`."""

    needs: ClassVar[frozenset[str]] = frozenset({"alloc_reserved", "free_many", "guarantee", "refill", "resize"})

    def test_a_full_reserve_is_held(self) -> None:
        """promised == spare: nothing owed, nothing unfunded."""
        pool, _source = self.pool(3)
        assert parts(pool.guarantee()) == (3, 3, 0, 0)

    def test_what_is_out_is_owed(self) -> None:
        """owed: the part of the reserve that elements now out will refill when they come home."""
        pool, _source = self.pool(3, otherwise=fails)
        elements = [pool.alloc(), pool.alloc()]
        assert parts(pool.guarantee()) == (3, 1, 2, 0)
        pool.free_many(elements)
        assert parts(pool.guarantee()) == (3, 3, 0, 0)

    def test_what_is_out_beyond_the_reserve_is_not_owed(self) -> None:
        """owed is a part of the reserve, never more."""
        pool, _source = self.pool(1)
        for _ in range(4):
            pool.alloc()
        assert parts(pool.guarantee()) == (1, 1, 0, 0)

    def test_a_grow_that_ran_out_of_memory_is_unfunded(self) -> None:
        """unfunded: the part of the reserve that not even every return would fill."""
        pool, _source = self.pool(2, works, otherwise=fails)
        pool.alloc_reserved()
        guarantee = pool.resize(10)
        assert parts(guarantee) == (10, 2, 1, 7)
        assert not guarantee.held

    def test_refill_makes_what_is_unfunded_and_no_more(self) -> None:
        """refill() leaves to the elements out what they will bring."""
        pool, source = self.pool(3, otherwise=fails)
        elements = [pool.alloc(), pool.alloc()]
        pool.resize(6)
        source.otherwise = works
        assert parts(pool.refill()) == (6, 4, 2, 0)
        pool.free_many(elements)
        assert parts(pool.guarantee()) == (6, 6, 0, 0)
        self.audit(pool, source)

    def test_refill_of_a_full_pool_asks_nothing(self) -> None:
        """refill() of a held promise does not call the source."""
        pool, source = self.pool(2)
        pool.refill()
        assert source.alloc_calls == 2

    @pytest.mark.parametrize("working", range(4))
    def test_refill_goes_as_far_as_the_source_does(self, working: int) -> None:
        """refill() returns what it reached, and can be called again."""
        pool, source = self.pool(0, otherwise=fails)
        pool.resize(4)
        source.then(*[works] * working)
        assert parts(pool.refill()) == (4, working, 0, 4 - working)
        source.otherwise = works
        assert pool.refill().held
        self.audit(pool, source)

    def test_frees_fund_what_was_unfunded(self) -> None:
        """Elements that come home fill an unfunded reserve; nothing is disposed of before it is full."""
        pool, source = self.pool(0)
        elements = [pool.alloc() for _ in range(3)]
        source.otherwise = fails
        assert parts(pool.resize(5)) == (5, 0, 3, 2)
        pool.free_many(elements)
        assert parts(pool.guarantee()) == (5, 3, 0, 2)
        self.audit(pool, source)
