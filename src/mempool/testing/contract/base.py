"""The base of all parts of the contract: how a pool to be tested is made, and the audit at the end."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any, ClassVar

import pytest

from mempool.buffer import identity_of
from mempool.lease import Lease
from mempool.leases import Leases
from mempool.pool import Pool
from mempool.sources.source import Source
from mempool.stats import PoolStats
from mempool.testing.books import assert_books
from mempool.testing.contract.callers import KINDS, Callers, ThreadCallers, in_line
from mempool.testing.manual_clock import ManualClock
from mempool.testing.scripted import Action, ScriptedSource, Step
from mempool.testing.waiting import wait_until, wait_until_it_holds

works: Step = Step.WORKS
fails: Step = Step.FAILS
raises: Step = Step.RAISES
slow: Step = Step.SLOW

#: Seconds of real time in which a caller that was served must have noticed.
SOON = 30
#: Seconds in which figures must come to agree when a test is over. A thread or a loop that has told of a result refers to it
#: for some steps more; if the test has dropped it, it goes back then, maybe between two figures that an audit reads.
AT_REST = 2

#: A test that waits or that could: it runs once by each kind of caller.
waits: pytest.MarkDecorator = pytest.mark.usefixtures("calling")


def same(one: object, other: object) -> bool:
    """Whether these are one element. A buffer has another handle each time it is returned."""
    return identity_of(one) == identity_of(other)


def same_all(some: Iterable[object], others: Iterable[object]) -> bool:
    """The same for many, in their order."""
    return list(map(identity_of, some)) == list(map(identity_of, others))


def same_in_any_order(some: Iterable[object], others: Iterable[object]) -> bool:
    """Whether these are the same elements, in any order."""
    return sorted(map(identity_of, some)) == sorted(map(identity_of, others))


class Contract:
    """Tests of one danger. Override the three `make_` methods to test something else, and `attach_clock` if need be."""

    needs: ClassVar[frozenset[str]] = frozenset({"alloc", "alloc_async", "close", "free", "stats"})
    """What these tests call of a pool; they need what the classes name that this one inherits from as well."""
    clock: ManualClock
    """The clock of this test: all its pools live by it."""
    callers: Callers
    _is_sound: ClassVar[bool]  # once this very class has been examined

    # -- what to override

    def make_elements(self) -> Source[Any] | None:
        """Where the elements really come from; None: plain objects."""
        return None

    def make_source(self, *script: Action, otherwise: Action = works) -> ScriptedSource[Any]:
        """A source that follows a script."""
        return ScriptedSource(*script, otherwise=otherwise, source=self.make_elements())

    def make_pool(self, source: ScriptedSource[Any], reserve: int, **options: Any) -> Any:
        """A pool of that source: a Pool, or whatever has what `needs` says. `options` are those of Pool."""
        return Pool(source, reserve, **options)

    def attach_clock(self, pool: Any) -> None:
        """Make `self.clock` the clock by which this pool waits. For a pool around a Pool: attach it to that one."""
        self.clock.attach(pool)

    # -- what the tests use

    @pytest.fixture(autouse=True)
    def _audited(self) -> Iterator[None]:
        """A manual clock for each test; and when it is over, the audits of every pool it made: as it is left, and closed."""
        self.clock = ManualClock()
        self._pools: list[tuple[Pool[Any], ScriptedSource[Any]]] = []
        self._left_out: set[int] = set()  # pools of which the test itself has said what is out
        yield
        try:
            assert not any(pool.stats().waiting for pool, _source in self._pools)
            for pool, source in self._pools:
                if id(pool) not in self._left_out:
                    wait_until_it_holds(functools.partial(self.audit, pool, source), AT_REST)
        finally:
            for pool, source in self._pools:
                source.open()
                pool.close()  # also ends those who still wait, whatever has failed
        for pool, source in self._pools:
            wait_until_it_holds(functools.partial(self._audit_closed, pool, source), AT_REST)
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
        pool = self.new_pool(source, reserve, **options)
        self.attach_clock(pool)
        source.then(*script)
        source.otherwise = otherwise
        self._pools.append((pool, source))
        return pool, source

    def used_up(self, **options: Any) -> tuple[Pool[Any], ScriptedSource[Any], Any]:
        """A pool of one element, its source, which fails from now on, and the element, which is out."""
        pool, source = self.pool(1, otherwise=fails, **options)
        return pool, source, self.alloc(pool)

    def new_pool(self, source: ScriptedSource[Any], reserve: int, **options: Any) -> Pool[Any]:
        """A pool without the clock and without an audit at the end."""
        self._examine_once()
        pool: Pool[Any] = self.make_pool(source, reserve, **options)
        return pool

    def audit(self, pool: Pool[Any], source: ScriptedSource[Any], out: Iterable[Any] = ()) -> None:
        """The pool's figures are the source's, and what is out exists. A test that ends with nothing out need not say so."""
        out = list(out)
        if out:
            self._left_out.add(id(pool))
        assert_books(pool, source, out=out)

    def _audit_closed(self, pool: Pool[Any], source: ScriptedSource[Any]) -> None:
        stats = pool.stats()
        assert_books(pool, source, out=stats.out, spare=0)
        assert stats.disposing == 0

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

    def wait_to_enter(self, pool: Pool[Any], lease: Lease[Any] | Leases[Any]) -> Future[Any]:
        """Begin to enter a lease; return when it stands in the line, or is over."""
        return in_line(pool, lambda: self.callers.enter(lease))

    def expire(self, pool: Pool[Any], seconds: float, waiting: int) -> None:
        """Let the time of callers run out until only so many still wait."""
        self.pass_time(seconds, parked=pool.stats().waiting)
        wait_until(lambda: pool.stats().waiting == waiting)

    def pass_time(self, seconds: float, *, parked: int) -> None:
        """Let time go on when so many callers are parked."""
        self.clock.wait_until_parked(parked)
        self.clock.advance(seconds)

    def hand_on(self, pool: Pool[Any], element: Any, *, to: Future[Any]) -> None:
        """Free this element: who waits for it has it."""
        pool.free(element)
        assert same(to.result(SOON), element)

    # -- whether there is any sense in testing

    def _examine_once(self) -> None:
        """Let the first test of a class say what source or pool lack, instead of each test what it stumbles over.

        Not in a fixture, because the `make_` methods of a class may need what other fixtures of its own set up.
        """
        tests = type(self)
        if "_is_sound" not in vars(tests):
            tests._is_sound = False
            tests_clock, self.clock = self.clock, ManualClock()
            try:
                self._try_source()
                lacks = self._lacks()
            except Exception as error:
                # As a failure, because the test may expect such an error.
                raise pytest.fail.Exception(f"this source or pool cannot be run under the contract: {error!r}") from error
            finally:
                self.clock = tests_clock
            if lacks:
                pytest.fail(
                    f"this pool cannot be run under the contract: {'; '.join(lacks)}. What a pool must have is said in "
                    "mempool.testing.contract",
                    pytrace=False,
                )
            tests._is_sound = True
        elif not tests._is_sound:
            pytest.skip("source or pool cannot be run under the contract: see the first failure of this class")

    def _try_source(self) -> None:
        source = self.make_source()
        elements = []
        for _ in range(2):
            elements.append(source.alloc())  # raises where it is the same as before
            assert elements[-1] is not None, "the source's alloc returned None; raise MemoryError where nothing can be had"
        for element in elements:
            source.free(element)

    def _lacks(self) -> list[str]:
        source = self.make_source()
        pool = self.make_pool(source, 0)
        source.otherwise = fails
        needs = frozenset[str]().union(*(vars(part).get("needs", ()) for part in type(self).__mro__))
        missing = sorted(name for name in needs if not hasattr(pool, name))
        lacks = [f"it has no {', '.join(missing)}"] if missing else []
        if "stats" not in missing:
            stats = pool.stats()
            fields = [field.name for field in dataclasses.fields(PoolStats) if not hasattr(stats, field.name)]
            if fields:
                lacks.append(f"its stats(), a mempool.PoolStats, have no {', '.join(fields)}")
        try:
            self.attach_clock(pool)
        except TypeError as error:
            lacks.append(f"{error}; here, override attach_clock to say which clock that is")
        if not lacks:
            lacks += self._waits_otherwise(pool)
            pool.close()
        return lacks

    def _waits_otherwise(self, pool: Any) -> list[str]:
        waiting = ThreadCallers().call(pool, "alloc", timeout=SOON)
        try:
            wait_until(lambda: self.clock.parked or waiting.done(), SOON / 2)
        except AssertionError:
            return ["it waits by another clock than `attach_clock` gave it, see ManualClock.attach"]
        if not waiting.done():
            return []
        got = waiting.exception() or "an element"
        return [
            f"it does not wait: alloc(timeout={SOON}) of an empty pool whose source fails was over at once, with {got!r}"
        ]
