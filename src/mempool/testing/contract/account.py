"""What is counted, said and shown; and who may call what from where."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from mempool.errors import PoolClosed, PoolTimeout
from mempool.pool import Pool
from mempool.testing.contract.base import SOON, Contract, fails, same, slow, waits, works
from mempool.testing.waiting import wait_until

CALLS: dict[str, Callable[[Pool[Any]], object]] = {
    "stats": lambda pool: pool.stats(),
    "guarantee": lambda pool: pool.guarantee(),
    "repr": repr,
    "try_alloc": lambda pool: pool.free(pool.try_alloc()),
    "alloc_reserved": lambda pool: pool.free(pool.alloc_reserved()),
    "resize": lambda pool: pool.resize(pool.stats().reserve + 1),
    "shrink": lambda pool: pool.resize(0),
    "refill": lambda pool: pool.refill(),
    "close": lambda pool: pool.close(),
}


class AccountContract(Contract):
    """`stats`, `repr`, the kernel's names; user code outside the critical section."""

    needs: ClassVar[frozenset[str]] = frozenset(
        {
            "alloc_reserved",
            "closed",
            "curr_nr",
            "free_many",
            "guarantee",
            "keep",
            "limit",
            "min_nr",
            "out",
            "refill",
            "reserve",
            "resize",
            "spare",
            "try_alloc",
            "waiting",
        }
    )

    def test_made_less_disposed_is_spare_and_out_while_a_source_works(self) -> None:
        """Accounting is exact also in the middle of a call: what is on its way to the source's free is `disposing`."""
        pool, source = self.pool(0, keep=0)
        element = pool.alloc()
        seen = []
        source.then_free(lambda: seen.append(pool.stats()))
        pool.free(element)
        stats = seen[0]
        assert (stats.made, stats.disposed, stats.spare, stats.out, stats.disposing) == (1, 0, 0, 0, 1)

    def test_an_element_exists_only_when_the_source_has_returned(self) -> None:
        """While the source works on an element, it counts neither as made nor as out."""
        pool, source = self.pool(1)
        seen = []
        source.then(lambda: seen.append(pool.stats()))
        element = pool.alloc()
        assert (seen[0].made, seen[0].out, seen[0].spare) == (1, 0, 1)
        self.audit(pool, source, out=[element])

    @waits
    def test_the_limit_counts_what_is_being_made(self) -> None:
        """While one caller's element is being made, another cannot be made beyond the limit."""
        pool, source = self.pool(0, slow, limit=1)
        first = self.callers.call(pool, "alloc")
        source.wait_until_held()
        assert pool.try_alloc() is None
        source.open()
        assert pool.stats().made <= 1
        pool.free(first.result(SOON))

    def test_each_way_of_being_served_is_counted(self) -> None:
        """stats: from spares beyond the reserve, from the source, from the reserve."""
        pool, source = self.pool(1, works, otherwise=fails)
        first = pool.alloc()
        pool.free(first)
        held = [pool.alloc(), pool.alloc()]
        stats = pool.stats()
        assert stats.out == len(held)
        assert (stats.served_from_source, stats.served_from_spare, stats.served_from_reserve) == (1, 1, 1)
        assert stats.source_failures == 1
        self.audit(pool, source, out=held)

    @waits
    def test_each_way_a_wait_can_end_is_counted_with_its_time(self) -> None:
        """Waits that timed out count beside those that were served: how many, total, longest, and by duration."""
        pool, source = self.pool(0, works, otherwise=fails)
        element = self.alloc(pool)
        in_vain = self.wait_for(pool, timeout=2)
        served = self.wait_for(pool)
        self.expire(pool, 3, waiting=1)
        with pytest.raises(PoolTimeout):
            in_vain.result(SOON)
        self.hand_on(pool, element, to=served)
        wait_until(lambda: pool.stats().waits_served == 1)
        stats = pool.stats()
        assert stats.waits_timed_out == 1
        assert stats.waits_cancelled == 0
        assert stats.wait_seconds_total == 6
        assert stats.wait_seconds_max == 3
        assert [(bound, count) for bound, count in stats.wait_histogram if count] == [(5, 2)]
        self.audit(pool, source, out=[element])

    @waits
    def test_a_closed_pool_ends_waits_as_cancelled(self) -> None:
        """stats: the waits that the pool's closing ended count as cancelled."""
        pool, _source = self.pool(0, otherwise=fails)
        waiter = self.wait_for(pool)
        pool.close()
        assert waiter.exception(SOON) is not None
        assert pool.stats().waits_cancelled == 1

    def test_stats_and_guarantee_are_frozen(self) -> None:
        """stats() and guarantee() are values: nobody can change them."""
        pool, _source = self.pool(1)
        for value in (pool.stats(), pool.guarantee()):
            for field in dataclasses.fields(value):
                with pytest.raises(dataclasses.FrozenInstanceError):
                    setattr(value, field.name, 0)

    def test_the_kernels_names_are_aliases(self) -> None:
        """`min_nr` is the reserve and `curr_nr` the spares."""
        pool, source = self.pool(3)
        element = pool.alloc_reserved()
        assert (pool.min_nr, pool.curr_nr) == (3, 2)
        self.audit(pool, source, out=[element])

    @waits
    def test_the_numbers_of_a_pool_are_those_of_its_stats(self) -> None:
        """Each number can be read off the pool by itself, under the name that it has in `stats()`."""
        pool, _source = self.pool(1, limit=2)
        element = self.alloc(pool)
        others = [self.alloc(pool)]
        waiter = self.wait_for(pool)
        for name in ("reserve", "keep", "limit", "spare", "out", "waiting", "closed"):
            assert getattr(pool, name) == getattr(pool.stats(), name)
        assert (pool.reserve, pool.keep, pool.limit, pool.out, pool.waiting, pool.closed) == (1, 2, 2, 2, 1, False)
        pool.free(element)
        others.append(waiter.result(SOON))
        pool.free_many(others)
        pool.resize(limit=None)
        assert pool.limit is None
        pool.close()
        assert pool.closed

    def test_stats_are_valid_json(self) -> None:
        """`stats().as_dict()` has every field, in values that JSON knows: no infinity."""
        pool, _source = self.pool(1)
        values = pool.stats().as_dict()
        assert set(values) == {field.name for field in dataclasses.fields(pool.stats())}
        assert json.loads(json.dumps(values, allow_nan=False)) == values
        assert values["wait_histogram"][-1][0] is None

    @waits
    def test_repr_tells_the_state(self) -> None:
        """repr: name, reserve, spare, out, in line."""
        pool, _source, element = self.used_up(name="frames")
        waiter = self.wait_for(pool)
        assert repr(pool) == "<Pool 'frames' reserve=1: 0 spare, 1 out, 1 in line>"
        pool.free(element)
        pool.free(waiter.result(SOON))
        pool.close()
        assert repr(pool) == "<Pool 'frames' reserve=1: 0 spare, 0 out, 0 in line, closed>"

    # -- no user code in the critical section

    @pytest.mark.parametrize("call", CALLS)
    def test_a_sources_alloc_may_call_the_pool(self, call: str) -> None:
        """The source's alloc runs outside the critical section: it may make any call that does not wait.

        What it makes for a pool that is closed by then is handed to nobody: who closed the pool was not told of it.
        """
        pool, source = self.pool(2)
        source.then(lambda: CALLS[call](pool))
        with pytest.raises(PoolClosed) if call == "close" else contextlib.nullcontext():
            pool.free(pool.try_alloc())
        assert pool.stats().made == source.made
        assert call != "close" or source.existing == []

    @pytest.mark.parametrize("call", CALLS)
    def test_a_sources_free_may_call_the_pool(self, call: str) -> None:
        """The source's free runs outside the critical section, too."""
        pool, source = self.pool(2, keep=2)
        element = pool.alloc()
        source.then_free(lambda: CALLS[call](pool))
        pool.free(element)
        assert pool.stats().disposed == source.disposed

    def test_a_finalizer_may_free(self) -> None:
        """free is callable from `__del__` and from weakref callbacks."""
        pool, _source = self.pool(1)

        class Owner:
            def __init__(self) -> None:
                self.element = pool.alloc()

            def __del__(self) -> None:
                pool.free(self.element)

        owner = Owner()
        by_callback = pool.alloc()
        watched = type("Watched", (), {})()
        weakref.finalize(watched, pool.free, by_callback)
        assert pool.stats().out == 2
        del owner, watched
        assert pool.stats().out == 0

    @waits
    def test_a_sources_alloc_may_serve_the_line(self) -> None:
        """A free in the middle of somebody's alloc serves those who wait."""
        pool, source, element = self.used_up()
        waiter = self.wait_for(pool)

        def free_then_fail() -> None:
            pool.free(element)
            raise MemoryError

        source.then(free_then_fail)
        assert pool.try_alloc() is None
        assert same(waiter.result(SOON), element)
        self.audit(pool, source, out=[element])
