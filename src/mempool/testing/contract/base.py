"""The base of all parts of the contract: how a pool to be tested is made, and the audit at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from mempool.buffer import identity_of
from mempool.lease import Lease
from mempool.pool import Pool, Source
from mempool.testing.contract.callers import KINDS, Callers, in_line
from mempool.testing.manual_clock import ManualClock
from mempool.testing.scripted import Action, ScriptedSource, Step
from mempool.testing.waiting import wait_until

works: Step = Step.WORKS
fails: Step = Step.FAILS
raises: Step = Step.RAISES
slow: Step = Step.SLOW

#: Seconds of real time in which a caller that was served must have noticed.
SOON = 10

#: A test that waits or that could: it runs once by each kind of caller.
waits: pytest.MarkDecorator = pytest.mark.usefixtures("calling")


def same(one: object, other: object) -> bool:
    """Whether these are one element. A buffer has another handle each time it comes home."""
    return identity_of(one) == identity_of(other)


def same_all(some: Iterable[object], others: Iterable[object]) -> bool:
    """The same for many, in their order."""
    return list(map(identity_of, some)) == list(map(identity_of, others))


def same_in_any_order(some: Iterable[object], others: Iterable[object]) -> bool:
    """Whether these are the same elements, in any order."""
    return sorted(map(identity_of, some)) == sorted(map(identity_of, others))


class Contract:
    """Tests of one danger. Override the three `make_` methods to test something else."""

    clock: ManualClock
    callers: Callers

    # -- what to override

    def make_elements(self) -> Source[Any] | None:
        """Where the elements really come from; None: plain objects."""
        return None

    def make_source(self, *script: Action, otherwise: Action = works) -> ScriptedSource[Any]:
        """A source that follows a script."""
        return ScriptedSource(*script, otherwise=otherwise, source=self.make_elements())

    def make_pool(self, source: ScriptedSource[Any], reserve: int, **options: Any) -> Pool[Any]:
        """A pool of that source. `options` are those of Pool."""
        return Pool(source, reserve, **options)

    # -- what the tests use

    @pytest.fixture(autouse=True)
    def _audited(self) -> Iterator[None]:
        """A manual clock for each test; and when it is over, the audit of every pool it made."""
        self.clock = ManualClock()
        self._pools: list[tuple[Pool[Any], ScriptedSource[Any]]] = []
        yield
        waiting = [pool.stats().waiting for pool, _source in self._pools]
        for pool, source in self._pools:
            source.open()
            pool.close()  # also ends those who still wait, whatever has failed
        for pool, source in self._pools:
            assert source.wrong == []
            stats = pool.stats()
            assert stats.made == source.made
            assert stats.disposed == source.disposed
            assert stats.spare == 0
            assert stats.disposing == 0
            assert stats.out == len(source.existing)
        assert not any(waiting)
        del self._pools, self.clock  # pytest keeps this instance to its end

    @pytest.fixture(params=list(KINDS))
    def calling(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """For tests that wait: once by a thread, once by a task, once by a task of uvloop where that is installed."""
        self.callers = KINDS[request.param]()
        yield
        self.callers.close()
        del self.callers

    def pool(
        self, reserve: int, *script: Action, otherwise: Action = works, **options: Any
    ) -> tuple[Pool[Any], ScriptedSource[Any]]:
        """A pool under the manual clock, and its source. The script begins when the reserve has been filled.

        `reset` among the options becomes the source's; the others are those of Pool.
        """
        source = self.make_source()
        if "reset" in options:
            source.reset = options.pop("reset")
        pool = self.clock.attach(self.make_pool(source, reserve, **options))
        source.then(*script)
        source.otherwise = otherwise
        self._pools.append((pool, source))
        return pool, source

    def audit(self, pool: Pool[Any], source: ScriptedSource[Any], out: Iterable[Any] = ()) -> None:
        """The pool's figures are the source's, and what is out exists."""
        out = list(out)
        stats = pool.stats()
        assert stats.made == source.made
        assert stats.disposed == source.disposed
        assert stats.out == len(out)
        assert stats.disposing >= 0
        assert stats.spare + stats.disposing == source.made - source.disposed - len(out)
        assert source.has(out)
        assert len({id(element) for element in out}) == len(out)
        assert source.wrong == []

    def alloc(self, pool: Pool[Any], **options: Any) -> Any:
        """An element, by this kind of caller."""
        return self.callers.call(pool, "alloc", **options).result(SOON)

    def alloc_many(self, pool: Pool[Any], n: int, **options: Any) -> list[Any]:
        """Many elements, by this kind of caller."""
        elements: list[Any] = self.callers.call(pool, "alloc_many", n, **options).result(SOON)
        return elements

    def wait_for(self, pool: Pool[Any], **options: Any) -> Future[Any]:
        """Begin an alloc; return when it stands in the line, or is over."""
        return in_line(pool, lambda: self.callers.call(pool, "alloc", **options))

    def wait_for_many(self, pool: Pool[Any], n: int, **options: Any) -> Future[Any]:
        """Begin an alloc_many; return when it stands in the line, or is over."""
        return in_line(pool, lambda: self.callers.call(pool, "alloc_many", n, **options))

    def wait_to_enter(self, pool: Pool[Any], lease: Lease) -> Future[Any]:
        """Begin to enter a lease; return when it stands in the line, or is over."""
        return in_line(pool, lambda: self.callers.enter(lease))

    def expire(self, pool: Pool[Any], seconds: float, waiting: int) -> None:
        """Let the time of callers run out until only so many still wait."""
        self.clock.wait_until_parked(pool.stats().waiting)
        self.clock.advance(seconds)
        wait_until(lambda: pool.stats().waiting == waiting)
