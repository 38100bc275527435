"""What is covered, what is owed, what is unfunded."""

from __future__ import annotations

from typing import ClassVar

import pytest

from mempool.stats import Guarantee
from mempool.testing.contract.base import SOON, Contract, fails, raises, slow, works
from mempool.testing.contract.callers import in_a_thread
from mempool.testing.scripted import SourceBroken, Step


def parts(guarantee: Guarantee, filling: int = 0) -> tuple[int, int, int, int]:
    """Four of the numbers of a guarantee, which with the fifth always add up."""
    spare = min(guarantee.spare, guarantee.promised)
    assert guarantee.promised == spare + guarantee.owed + guarantee.filling + guarantee.unfunded
    assert guarantee.held == (guarantee.unfunded == 0)
    assert guarantee.filling == filling
    return guarantee.promised, guarantee.spare, guarantee.owed, guarantee.unfunded


class GuaranteeContract(Contract):
    """`guarantee` and `refill`."""

    needs: ClassVar[frozenset[str]] = frozenset({"alloc_reserved", "free_many", "guarantee", "refill", "resize"})

    def test_a_full_reserve_is_held(self) -> None:
        """promised == spare: nothing owed, nothing unfunded."""
        pool, _source = self.pool(3)
        assert parts(pool.guarantee()) == (3, 3, 0, 0)

    def test_what_is_out_is_owed(self) -> None:
        """owed: the part of the reserve that elements now out will refill when they are returned."""
        pool, _source = self.pool(3, otherwise=fails)
        elements = [pool.alloc(), pool.alloc()]
        assert parts(pool.guarantee()) == (3, 1, 2, 0)
        pool.free_many(elements)
        assert parts(pool.guarantee()) == (3, 3, 0, 0)

    def test_what_is_out_beyond_the_reserve_is_not_owed(self) -> None:
        """owed is a part of the reserve, never more."""
        pool, source = self.pool(1)
        out = [pool.alloc() for _ in range(4)]
        assert parts(pool.guarantee()) == (1, 1, 0, 0)
        self.audit(pool, source, out=out)

    def test_a_grow_that_ran_out_of_memory_is_unfunded(self) -> None:
        """unfunded: the part of the reserve that not even every return would fill."""
        pool, source = self.pool(2, works, otherwise=fails)
        out = pool.alloc_reserved()
        guarantee = pool.resize(10)
        assert parts(guarantee) == (10, 2, 1, 7)
        assert not guarantee.held
        self.audit(pool, source, out=[out])

    def test_refill_makes_what_is_unfunded_and_no_more(self) -> None:
        """refill() leaves to the elements out what they will bring."""
        pool, source = self.pool(3, otherwise=fails)
        elements = [pool.alloc(), pool.alloc()]
        pool.resize(6)
        source.otherwise = works
        assert parts(pool.refill()) == (6, 4, 2, 0)
        pool.free_many(elements)
        assert parts(pool.guarantee()) == (6, 6, 0, 0)

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

    def test_frees_fund_what_was_unfunded(self) -> None:
        """Elements that are returned fill an unfunded reserve; nothing is disposed of before it is full."""
        pool, source = self.pool(0)
        elements = [pool.alloc() for _ in range(3)]
        source.otherwise = fails
        assert parts(pool.resize(5)) == (5, 0, 3, 2)
        pool.free_many(elements)
        assert parts(pool.guarantee()) == (5, 3, 0, 2)

    # -- while elements are being made

    def test_what_a_grow_is_making_is_not_unfunded(self) -> None:
        """filling: what a resize has still to make, asked for already or not; as long as nothing has failed it is held."""
        pool, source = self.pool(1, slow, works, slow)
        growing = in_a_thread(lambda: pool.resize(20))
        source.wait_until_held()
        assert parts(pool.guarantee(), filling=19) == (20, 1, 0, 0)
        source.release()
        source.wait_until_held()
        between = pool.guarantee()
        assert parts(between, filling=20 - between.spare - between.owed) == (20, between.spare, between.owed, 0)
        assert 0 < between.filling < 19
        source.open()
        assert parts(growing.result(SOON)) == (20, 20, 0, 0)

    def test_a_grow_is_filling_from_the_moment_of_its_targets_on(self) -> None:
        """There is no moment at which the new reserve is promised and nobody makes it."""
        pool, source = self.pool(0)
        seen = []
        source.then(lambda: seen.append(pool.guarantee()), lambda: seen.append(pool.guarantee()))
        pool.resize(2)
        assert [parts(guarantee, filling=2 - n) for n, guarantee in enumerate(seen)] == [(2, 0, 0, 0), (2, 1, 0, 0)]

    def test_what_is_returned_first_is_owed_and_not_filling(self) -> None:
        """owed comes first: a grow beside elements out is making only the rest."""
        pool, source = self.pool(2, otherwise=fails)
        out = [pool.alloc(), pool.alloc()]
        source.then(slow, fails)
        growing = in_a_thread(lambda: pool.resize(5))
        source.wait_until_held()
        assert parts(pool.guarantee(), filling=3) == (5, 0, 2, 0)
        source.release()
        assert parts(growing.result(SOON)) == (5, 1, 2, 2)
        pool.free_many(out)

    @pytest.mark.parametrize("again", ["refill", "resize"])
    def test_of_two_fills_the_one_that_leaves_the_work_to_the_other_says_so(self, again: str) -> None:
        """What another fill is making is not made twice, and is not unfunded for that."""
        pool, source = self.pool(0, slow)
        growing = in_a_thread(lambda: pool.resize(1))
        source.wait_until_held()
        assert parts(pool.refill() if again == "refill" else pool.resize(1), filling=1) == (1, 0, 0, 0)
        assert source.alloc_calls == 1
        source.open()
        assert parts(growing.result(SOON)) == (1, 1, 0, 0)
        assert parts(pool.guarantee()) == (1, 1, 0, 0)

    @pytest.mark.parametrize("outcome", [works, fails])
    def test_of_two_fills_the_end_of_one_is_not_that_of_the_other(self, outcome: Step) -> None:
        """filling until the last of them has ended."""
        pool, source = self.pool(0, otherwise=fails)
        assert parts(pool.resize(4)) == (4, 0, 0, 4)
        source.then(slow)
        refilling = in_a_thread(pool.refill)
        source.wait_until_held()
        source.then(slow)
        growing = in_a_thread(lambda: pool.resize(8))
        source.wait_until_held(2)
        assert parts(pool.guarantee(), filling=8) == (8, 0, 0, 0)
        source.release(outcome)
        spare = int(outcome is works)
        assert parts(refilling.result(SOON), filling=8 - spare) == (8, spare, 0, 0)
        source.release(fails)
        assert parts(growing.result(SOON)) == (8, spare, 0, 8 - spare)

    @pytest.mark.parametrize("how", ["refill", "resize"])
    def test_a_fill_that_fails_leaves_the_rest_unfunded(self, how: str) -> None:
        """Out of memory, or an error of the source: filling ends with the call, and says no more than is true."""
        pool, source = self.pool(0, otherwise=fails)
        assert parts(pool.resize(4)) == (4, 0, 0, 4)
        source.then(works, raises)
        with pytest.raises(SourceBroken):
            pool.refill() if how == "refill" else pool.resize(5)
        assert parts(pool.guarantee())[3] == (3 if how == "refill" else 4)
        source.then(works)
        assert parts(pool.refill())[3] == (2 if how == "refill" else 3)

    def test_a_closed_pool_is_filling_nothing(self) -> None:
        """What a resize makes for a pool that was closed meanwhile is disposed of."""
        pool, source = self.pool(1, slow)
        growing = in_a_thread(lambda: pool.resize(3))
        source.wait_until_held()
        pool.close()
        assert parts(pool.guarantee()) == (3, 0, 0, 3)
        source.open()
        growing.result(SOON)
        assert source.existing == []

    def test_a_grow_that_a_disposal_leaves_no_room_is_gone_on_with(self) -> None:
        """What a shrink disposes of takes room under the limit until it is gone: then it makes what a grow could not."""
        pool, source = self.pool(3, limit=3)
        source.then_free(slow)
        shrinking = in_a_thread(lambda: pool.resize(1, keep=1))
        source.wait_until_held()
        assert parts(pool.resize(3), filling=2) == (3, 1, 0, 0)
        assert parts(pool.refill(), filling=2) == (3, 1, 0, 0)
        assert source.alloc_calls == 3
        source.release()
        assert parts(shrinking.result(SOON)) == (3, 3, 0, 0)
