"""Many elements that are returned together, by themselves."""

from __future__ import annotations

import gc
import warnings
from typing import ClassVar

import pytest

from mempool.errors import DoubleFree, PoolClosed, PoolTimeout
from mempool.testing.contract.base import SOON, Contract, fails, same, same_all, same_in_any_order, waits


class LeaseManyContract(Contract):
    """`lease_many`: `with`, `async with`, or held."""

    needs: ClassVar[frozenset[str]] = frozenset({"alloc_many", "free_many", "lease_many", "resize"})

    @waits
    def test_many_leases_take_their_elements_and_return_them(self) -> None:
        """The elements are out between entering and leaving, and are yielded as a list."""
        pool, source = self.pool(3)
        leases = pool.lease_many(3)
        assert pool.stats().out == 0
        elements = self.callers.enter(leases).result(SOON)
        self.audit(pool, source, out=elements)
        assert same_all(leases.elements, elements)
        self.callers.leave(leases).result(SOON)
        self.audit(pool, source)

    @waits
    def test_many_leases_are_all_or_none(self) -> None:
        """Where not all can be had in time, none is: PoolTimeout, and what was got is back."""
        pool, _source = self.pool(2, otherwise=fails)
        leases = pool.lease_many(3, timeout=1)
        entering = self.wait_to_enter(pool, leases)
        self.expire(pool, 1, waiting=0)
        assert isinstance(entering.exception(SOON), PoolTimeout)
        assert pool.stats().spare == 2
        with pytest.raises(DoubleFree):
            leases.release()

    @waits
    def test_many_leases_wait_in_the_same_line(self) -> None:
        """They gather what is returned; who comes later stands behind them."""
        pool, source = self.pool(2, otherwise=fails)
        elements = pool.alloc_many(2)
        leases = pool.lease_many(2)
        many = self.wait_to_enter(pool, leases)
        one = self.wait_for(pool)
        pool.free(elements[0])
        assert not many.done()
        assert not one.done()
        pool.free(elements[1])
        assert same_in_any_order(many.result(SOON), elements)
        self.callers.leave(leases).result(SOON)
        self.audit(pool, source, out=[one.result(SOON)])

    @waits
    def test_many_leases_are_used_once(self) -> None:
        """What was left cannot be entered again, nor what is in use."""
        pool, _source = self.pool(2)
        leases = pool.lease_many(2)
        self.callers.enter(leases).result(SOON)
        with pytest.raises(RuntimeError):
            self.callers.enter(leases).result(SOON)
        self.callers.leave(leases).result(SOON)
        with pytest.raises(RuntimeError):
            self.callers.enter(leases).result(SOON)

    def test_more_leases_than_the_limit_can_never_be_had(self) -> None:
        """ValueError at the call, before anything is entered; a negative number and a wrong timeout, too."""
        pool, _source = self.pool(2, limit=3)
        with pytest.raises(ValueError, match="limit"):
            pool.lease_many(4)
        with pytest.raises(ValueError, match="n "):
            pool.lease_many(-1)
        with pytest.raises(ValueError, match="timeout"):
            pool.lease_many(1, timeout=-1)

    def test_no_leases_at_all_are_an_empty_list(self) -> None:
        """n = 0 is had at once, and returned like any other."""
        pool, _source = self.pool(0, otherwise=fails)
        with pool.lease_many(0) as elements:
            assert elements == []

    def test_an_exception_in_the_body_returns_them_all(self) -> None:
        """`with` returns whatever the end, and whatever the body has done to its list."""
        pool, _source = self.pool(3)
        with pytest.raises(KeyError), pool.lease_many(3) as elements:
            elements.clear()
            raise KeyError

    def test_many_leases_can_be_held(self) -> None:
        """`.elements` takes them at the first access; `.release()` returns them; the second time is DoubleFree."""
        pool, source = self.pool(2)
        leases = pool.lease_many(2)
        with pytest.raises(RuntimeError):
            leases.release()
        leases = pool.lease_many(2)
        elements = leases.elements
        assert same_all(leases.elements, elements)
        self.audit(pool, source, out=elements)
        leases.release()
        with pytest.raises(DoubleFree):
            leases.release()
        with pytest.raises(DoubleFree):
            _ = leases.elements
        self.audit(pool, source)

    def test_one_that_was_freed_by_hand_does_not_keep_the_others_out(self) -> None:
        """The end says that it was freed twice, and has returned the others."""
        pool, _source = self.pool(3)
        with pytest.raises(DoubleFree), pool.lease_many(3) as elements:
            pool.free(elements[1])

    def test_many_leases_dropped_are_returned_with_a_warning(self) -> None:
        """A ResourceWarning names the pool; leases that were never entered are nothing."""
        pool, _source = self.pool(2, name="frames")
        gc.collect()  # what an earlier test has left is none of this one's; and what that leaves
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            unused = pool.lease_many(2)
            del unused
            gc.collect()
        leases = pool.lease_many(2)
        assert len(leases.elements) == 2
        with pytest.warns(ResourceWarning, match="'frames'"):
            del leases
            gc.collect()

    @waits
    def test_many_leases_dropped_serve_the_line(self) -> None:
        """What is returned by itself goes to those who wait."""
        pool, source = self.pool(2, otherwise=fails)
        leases = pool.lease_many(2)
        elements = leases.elements
        waiter = self.wait_for(pool)
        with pytest.warns(ResourceWarning):
            del leases
            gc.collect()
        assert any(same(waiter.result(SOON), element) for element in elements)
        self.audit(pool, source, out=[waiter.result(SOON)])

    @waits
    def test_many_leases_of_a_closed_pool_are_refused(self) -> None:
        """PoolClosed on entering; what is held when the pool closes is disposed of on its return."""
        pool, source = self.pool(2)
        held = pool.lease_many(2)
        assert len(held.elements) == 2
        pool.close()
        with pytest.raises(PoolClosed):
            self.callers.enter(pool.lease_many(1)).result(SOON)
        held.release()
        assert source.existing == []
