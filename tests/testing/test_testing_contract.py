"""The contract in other hands: run on sources and pools that are not ours, and by whom something is lacking."""

from __future__ import annotations

import collections
import re
import threading
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from sweeps import LONG

from mempool import Pool
from mempool.testing import Element, contract, wait_until
from mempool.testing.contract.callers import in_a_thread

pytest_plugins = ["pytester"]

HOW_TO = Path(__file__).parent.parent.parent / "docs" / "how-to" / "test-code-that-allocates.md"
PARTS = [part.__name__ for part in contract.PoolContract.__bases__]

HEAD = """
from mempool import Pool
from mempool.testing.contract import AllocContract, Contract, GuaranteeContract, LeaseContract

class Wrapped:
    def __init__(self, source, reserve, **options):
        self.inner = Pool(source, reserve, **options)
    def __getattr__(self, name):
        return getattr(self.inner, name)
"""


def run(pytester: pytest.Pytester, text: str) -> pytest.RunResult:
    pytester.makepyfile(HEAD + text)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider")


def the_one_error(result: pytest.RunResult) -> str:
    """Of the first test; all others were skipped."""
    outcomes = result.parseoutcomes()
    assert outcomes.pop("skipped") > 1
    assert outcomes == {"failed": 1}
    return result.stdout.str()


@pytest.mark.long_on_both
def test_a_pool_that_lacks_something_is_told_all_of_it_once(pytester: pytest.Pytester) -> None:
    """The first test of a class names what the pool has not, and the others are skipped."""
    told = the_one_error(
        run(
            pytester,
            """
class Toy:
    def __init__(self, source, reserve):
        self.spares = [source.alloc() for _ in range(reserve)]
    def alloc(self, *, timeout=None):
        return self.spares.pop()
    def free(self, element):
        self.spares.append(element)
    def close(self):
        pass

class TestToy(AllocContract):
    def make_pool(self, source, reserve, **options):
        return Toy(source, reserve, **options)
""",
        )
    )
    names = "alloc_async, alloc_many, alloc_reserved, free_many, guarantee, stats, try_alloc"
    assert f"this pool cannot be run under the contract: it has no {names}; <" in told
    assert "has no clock of its own to replace" in told
    assert "override attach_clock" in told


def test_figures_that_are_lacking_are_named(pytester: pytest.Pytester) -> None:
    """stats() has all fields of PoolStats."""
    told = the_one_error(
        run(
            pytester,
            """
import types

class Few(Pool):
    def stats(self):
        stats = super().stats()
        return types.SimpleNamespace(**{name: getattr(stats, name) for name in stats.__slots__ if name[:4] != "wait"})

class TestFew(LeaseContract):
    def make_pool(self, source, reserve, **options):
        return Few(source, reserve, **options)
""",
        )
    )
    assert re.search(r"its stats\(\), a mempool.PoolStats, have no waiting, waits_served, .*, wait_histogram\. ", told)


def test_a_pool_must_wait_by_the_clock_it_is_given(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits by another clock, and one that does not wait, are found out before each test waits for it in vain."""
    monkeypatch.setattr("mempool.testing.contract.base.SOON", 3)  # on a busy machine whoever looks may be late by a second
    told = the_one_error(
        run(
            pytester,
            """
class TestAnotherClock(GuaranteeContract):
    def attach_clock(self, pool):
        pass
""",
        )
    )
    assert "it waits by another clock than `attach_clock` gave it" in told
    told = the_one_error(
        run(
            pytester,
            """
class Hasty(Pool):
    def alloc(self, *, timeout=None):
        return super().alloc(timeout=0)

class TestHasty(GuaranteeContract):
    def make_pool(self, source, reserve, **options):
        return Hasty(source, reserve, **options)
""",
        )
    )
    assert re.search(r"it does not wait: alloc\(timeout=3\) .* was over at once, with PoolTimeout\(", told)


@pytest.mark.long_on_both
@pytest.mark.parametrize(
    ("alloc", "told"),
    [
        ("return self", "must make another object each time"),
        ("return None", "the source's alloc returned None"),
        ("raise ZeroDivisionError", "ZeroDivisionError"),
    ],
)
def test_a_source_that_makes_no_elements_is_told_once(pytester: pytest.Pytester, alloc: str, told: str) -> None:
    """The first test of a class says what is wrong with the source, and no test blames the pool."""
    result = run(
        pytester,
        f"""
class Source:
    def alloc(self):
        {alloc}
    def free(self, element):
        pass

class TestSource(GuaranteeContract):
    def make_elements(self):
        return Source()
""",
    )
    assert told in the_one_error(result)


def test_what_comes_back_while_the_figures_are_read_is_no_fault(pytester: pytest.Pytester) -> None:
    """The audit is taken once more. What is lost stays lost."""
    result = run(
        pytester,
        """
import pytest

class TestLate(Contract):
    def audit(self, pool, source, out=()):
        try:
            super().audit(pool, source, out)
        except AssertionError:
            if self.comes_back:
                pool.free(self.out)
            raise

    @pytest.mark.parametrize("comes_back", [True, False])
    def test_one_is_out(self, comes_back):
        self.comes_back = comes_back
        self.out = self.pool(1)[0].alloc()
""",
    )
    assert result.parseoutcomes() == {"passed": 2, "errors": 1}
    assert "out: 1, not 0" in result.stdout.str()


def test_a_pool_around_a_pool_is_run_under_its_clock(pytester: pytest.Pytester) -> None:
    """attach_clock hands the time to the pool within; a part can be run alone, or the base with own tests."""
    result = run(
        pytester,
        """
class Mine(Contract):
    def make_pool(self, source, reserve, **options):
        return Wrapped(source, reserve, **options)
    def attach_clock(self, pool):
        self.clock.attach(pool.inner)

class TestGuarantees(Mine, GuaranteeContract):
    pass

class TestMore(Mine):
    def test_mine(self):
        pool, source = self.pool(1)
        self.audit(pool, source)
""",
    )
    outcomes = result.parseoutcomes()
    assert outcomes.pop("passed") > 5
    assert outcomes == {}


# -- what a pool must have is what is called --------------------------------------------------------------------------


class Recorder:
    """A pool that knows which of its names were asked for."""

    asked: ClassVar[collections.defaultdict[str, set[str]]] = collections.defaultdict(set)

    def __init__(self, part: str, pool: Pool[object]) -> None:
        self.part = part
        self.inner = pool

    def __getattr__(self, name: str) -> object:
        self.asked[self.part].add(name)
        return getattr(self.inner, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_outcome: object) -> None:
        self.close()  # type: ignore[operator]

    def __repr__(self) -> str:
        return repr(self.inner)


RECORDED = """
import pytest
from mempool import Pool
from mempool.testing import contract
from test_testing_contract import Recorder

def recorded(part):
    class Recorded(getattr(contract, part)):
        def make_pool(self, source, reserve, **options):
            return Recorder(part, Pool(source, reserve, **options))
        def attach_clock(self, pool):
            self.clock.attach(pool.inner)
    return Recorded

for part in PARTS:
    globals()["Test" + part] = recorded(part)
"""


@pytest.mark.long_on_both
def test_a_pool_needs_what_each_part_says_and_no_more(pytester: pytest.Pytester) -> None:
    """`needs` of a part and of the base name what its tests call; so does the table in the documentation."""
    pytester.syspathinsert(Path(__file__).parent)
    pytester.makepyfile(RECORDED.replace("PARTS", repr(PARTS)))
    of_them = [] if LONG else ["-k", "not accounts_are_exact and not uvloop"]  # others call the same
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:terminalreporter", *of_them)
    assert result.ret == 0
    from test_testing_contract import Recorder as Imported  # the one that those tests had

    of_all = contract.Contract.needs
    says = {part: getattr(contract, part).needs for part in PARTS}
    assert {part: Imported.asked[part] - of_all for part in PARTS} == says
    assert set.union(*Imported.asked.values()) >= of_all
    table = re.findall(r"^\| `(\w+Contract)` \| (.*) \|$", HOW_TO.read_text("utf-8"), re.MULTILINE)
    assert {part: set(re.findall(r"`(\w+)`", calls)) for part, calls in table} == says
    base = re.search(r"All parts call (.*?); the result", HOW_TO.read_text("utf-8"), re.DOTALL)
    assert base is not None
    assert set(re.findall(r"`(\w+)`", base[1])) == of_all


def test_whoever_has_what_a_thread_got_has_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread refers to it until set_result has returned; here that waits until the test goes on, or it is joined."""
    goes_on = threading.Event()
    set_result, join = Future.set_result, threading.Thread.join

    def set_and_wait(self: Future[Any], result: object) -> None:
        set_result(self, result)
        wait_until(goes_on.is_set)

    def join_it(self: threading.Thread, timeout: float | None = None) -> None:
        goes_on.set()
        join(self, timeout)

    monkeypatch.setattr(Future, "set_result", set_and_wait)
    monkeypatch.setattr(threading.Thread, "join", join_it)
    future = in_a_thread(lambda: Element(1))
    alone = weakref.ref(future.result(60))
    del future
    existed = alone() is not None
    goes_on.set()
    assert not existed
