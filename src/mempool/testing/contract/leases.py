"""Elements that are returned by themselves."""

from __future__ import annotations

import gc
import sys
import warnings
from typing import Any, ClassVar

import pytest

from mempool.errors import DoubleFree, PoolClosed, PoolTimeout
from mempool.testing.contract.base import SOON, Contract, fails, raises, same, waits
from mempool.testing.scripted import SourceBroken


class LeaseContract(Contract):
    """`lease`: `with`, `async with`, or held."""

    needs: ClassVar[frozenset[str]] = frozenset({"lease"})

    @waits
    def test_a_lease_takes_an_element_and_returns_it(self) -> None:
        """The element is out between entering and leaving."""
        pool, source = self.pool(1)
        lease = pool.lease()
        assert pool.stats().out == 0
        element = self.callers.enter(lease).result(SOON)
        self.audit(pool, source, out=[element])
        assert same(lease.element, element)
        self.callers.leave(lease).result(SOON)
        self.audit(pool, source)

    @waits
    def test_a_lease_waits_in_the_same_line(self) -> None:
        """A lease stands in the line like any other caller."""
        pool, source, element = self.used_up()
        lease = pool.lease()
        first = self.wait_to_enter(pool, lease)
        second = self.wait_for(pool)
        self.hand_on(pool, element, to=first)
        self.callers.leave(lease).result(SOON)
        assert same(second.result(SOON), element)
        self.audit(pool, source, out=[element])

    @waits
    def test_a_lease_has_a_timeout(self) -> None:
        """lease(timeout=...): PoolTimeout when the time is up; the lease is of no more use and holds nothing."""
        pool, _source = self.pool(0, otherwise=fails)
        lease = pool.lease(timeout=1)
        entering = self.wait_to_enter(pool, lease)
        self.expire(pool, 1, waiting=0)
        assert isinstance(entering.exception(SOON), PoolTimeout)
        with pytest.raises(DoubleFree):
            lease.release()

    @waits
    def test_a_lease_raises_what_the_source_raises(self) -> None:
        """Entering raises what alloc raises; nothing is lost."""
        pool, _source = self.pool(0, raises)
        with pytest.raises(SourceBroken):
            self.callers.enter(pool.lease()).result(SOON)

    @waits
    def test_a_lease_is_used_once(self) -> None:
        """A lease that was left cannot be entered again."""
        pool, _source = self.pool(1)
        lease = pool.lease()
        self.callers.enter(lease).result(SOON)
        with pytest.raises(RuntimeError):
            self.callers.enter(lease).result(SOON)
        self.callers.leave(lease).result(SOON)
        with pytest.raises(RuntimeError):
            self.callers.enter(lease).result(SOON)

    def test_an_exception_in_the_body_returns_the_element(self) -> None:
        """`with` releases whatever the end."""
        pool, _source = self.pool(1)
        with pytest.raises(KeyError), pool.lease():
            raise KeyError

    def test_a_lease_can_be_held(self) -> None:
        """`.element` takes it at the first access; `.release()` returns it."""
        pool, source = self.pool(1)
        lease = pool.lease()
        element = lease.element
        assert same(lease.element, element)
        self.audit(pool, source, out=[element])
        lease.release()
        self.audit(pool, source)

    def test_releasing_twice_is_an_error(self) -> None:
        """The second release raises DoubleFree and frees nothing."""
        pool, source = self.pool(1)
        lease = pool.lease()
        first = lease.element
        lease.release()
        other = pool.alloc()
        assert same(other, first)
        with pytest.raises(DoubleFree):
            lease.release()
        with pytest.raises(DoubleFree):
            _ = lease.element
        self.audit(pool, source, out=[other])

    def test_releasing_before_taking_is_an_error(self) -> None:
        """A lease that has taken nothing cannot return it."""
        pool, _source = self.pool(1)
        with pytest.raises(RuntimeError):
            pool.lease().release()

    def test_an_element_freed_behind_the_leases_back_is_noticed(self) -> None:
        """The lease's release is then a double free; the element was returned once."""
        pool, _source = self.pool(1)
        lease = pool.lease()
        pool.free(lease.element)
        with pytest.raises(DoubleFree):
            lease.release()

    def test_a_lease_never_used_is_nothing(self) -> None:
        """Asking for a lease takes nothing and dropping it warns of nothing."""
        pool, _source = self.pool(1)
        gc.collect()  # what an earlier test has left is none of this one's; and what that leaves
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del_me = pool.lease()
            del del_me
            gc.collect()

    def test_a_dropped_lease_is_returned_and_warns(self) -> None:
        """A lease dropped without release is returned at once, with a ResourceWarning that names the pool."""
        pool, _source = self.pool(1, name="frames")
        lease = pool.lease()
        assert lease.element is not None
        with pytest.warns(ResourceWarning, match="'frames'"):
            del lease
            gc.collect()

    def test_a_dropped_lease_is_returned_also_where_warnings_are_errors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The element is returned before anybody is warned, or whatever comes of the warning."""
        pool, _source = self.pool(1)
        unraisable: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append(args.exc_type))
        lease = pool.lease()
        assert lease.element is not None
        gc.collect()  # what an earlier test has left is none of this one's; and what that leaves
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del lease
            gc.collect()
        assert unraisable == [ResourceWarning]

    @waits
    def test_a_dropped_lease_serves_the_line(self) -> None:
        """What is returned by itself goes to the first in line."""
        pool, source = self.pool(1, otherwise=fails)
        lease = pool.lease()
        element = lease.element
        waiter = self.wait_for(pool)
        with pytest.warns(ResourceWarning):
            del lease
            gc.collect()
        assert same(waiter.result(SOON), element)
        self.audit(pool, source, out=[element])

    def test_a_lease_keeps_its_pool(self) -> None:
        """A pool whose last reference is a lease's lives until the element is returned."""
        source = self.make_source()
        pool = self.new_pool(source, 1)
        lease = pool.lease()
        assert lease.element is not None
        del pool
        gc.collect()
        assert len(source.existing) == 2
        lease.release()
        del lease
        gc.collect()
        assert source.existing == []

    @waits
    def test_a_lease_of_a_closed_pool_is_refused(self) -> None:
        """Entering after close is PoolClosed; an element that is out when the pool closes is disposed of on release."""
        pool, source = self.pool(1)
        held = pool.lease()
        assert held.element is not None
        pool.close()
        with pytest.raises(PoolClosed):
            self.callers.enter(pool.lease()).result(SOON)
        held.release()
        assert source.existing == []
