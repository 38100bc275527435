"""The pytest plugin: fixtures `faulty_source` and `leak_check`, marker `pool_faults`.

    def test_mine(faulty_source):
        faulty_source.otherwise = Step.FAILS            # a ScriptedSource, which works until told otherwise

    def test_mine(leak_check): ...                      # fails if it, or a fixture of its own, leaves elements out

    @pytest.mark.pool_faults(every=3)                   # every third alloc of every source fails
    def test_mine(): ...

pytest loads it by itself where mempool is installed (entry point `mempool`), or by `-p mempool.testing.plugin`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

import pytest

from mempool import lifecycle
from mempool.local.engine import LocalEngine
from mempool.pool import Pool
from mempool.sources.source import Source
from mempool.testing.leaks import LeakWatch, Takers
from mempool.testing.scripted import Element, ScriptedSource

T = TypeVar("T")

MARKER = "pool_faults"
#: What watches the test that runs, if it uses leak_check.
WATCH: pytest.StashKey[LeakWatch] = pytest.StashKey()


# -- leaks


@pytest.fixture
def leak_check(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test if it leaves elements of any pool out, naming who took them and where.

    Its end, after the ends of all fixtures of the test's own, reports an error. All pools of the process are looked at: of
    those that lived before, what is out beyond what was out before. What fixtures with a wider scope take while they are set
    up does not count, as it may stay out until they end. Requested by `request.getfixturevalue`, it begins only then.

    Who took what is known of pools that are made while it lasts, and of those with `track="holders"`. To know it, pools that
    are made without `track` and without MEMPOOL_TRACK record it: they are slower, `holders()` tells, and they raise no
    DeadlockError, as they would not without this fixture.
    """
    watch = LeakWatch()
    request.config.stash[WATCH] = watch

    def make_watched(make: Callable[[], None], pool: Pool[Any], options: dict[str, Any]) -> None:
        records = not (options.get("track") or os.environ.get("MEMPOOL_TRACK"))
        if records:
            options["track"] = "holders"
        make()
        if records:
            pool._engine.track_by(Takers())  # nothing is out yet
        watch.see(pool._engine)

    try:
        with _pools_made_by(make_watched):
            yield
    finally:
        del request.config.stash[WATCH]
    gc.collect()  # what is returned by itself is no leak
    leaks = watch.leaks()
    if leaks:
        pytest.fail(f"elements were not freed. {'. '.join(leaks)}. Free each, or use a lease", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """What a fixture takes that outlives the test is not the test's."""
    watch = request.config.stash.get(WATCH, None)
    if watch is None or fixturedef.scope == "function":
        return (yield)
    with watch.for_others():
        return (yield)


# -- faults


def pytest_configure(config: pytest.Config) -> None:
    """Say what the marker means (`pytest --markers`)."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(every=3): while the test runs, the sources of all mempool pools raise MemoryError at every third alloc, "
        "those of new ones once the reserve is filled; every=1: at each.",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """For tests with the marker: let the sources of all pools fail, those of its fixtures too."""
    marker = item.get_closest_marker(MARKER)
    if marker is None or not _is_written_well(marker):
        return (yield)
    with faults(**marker.kwargs):
        return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marker that makes no sense, for the one test; and let leak_check watch all other fixtures of a test."""
    marker = item.get_closest_marker(MARKER)
    if marker is not None and not _is_written_well(marker):
        written = ", ".join([*map(repr, marker.args), *(f"{name}={value!r}" for name, value in marker.kwargs.items())])
        pytest.fail(
            f"{item.nodeid}: {MARKER} is written {MARKER}(every=n), n a whole number of at least 1, not {MARKER}({written})",
            pytrace=False,
        )
    names: list[str] = getattr(item, "fixturenames", [])
    if "leak_check" in names:
        # They are set up in this order, and end in the opposite one.
        names.remove("leak_check")
        names.insert(0, "leak_check")


def _is_written_well(marker: pytest.Mark) -> bool:
    every = marker.kwargs.get("every", 3)
    return not marker.args and set(marker.kwargs) <= {"every"} and type(every) is int and every >= 1


@contextlib.contextmanager
def faults(*, every: int = 3) -> Iterator[None]:
    """While this lasts, the source of each pool, also of those that live already, fails at every so-manieth alloc.

    Each counts for itself; that of a new pool from when its reserve has been filled: what is tested is how the pool is
    used, and not whether it can be made (kernel: fail_mempool_alloc).
    """
    failing: list[weakref.ref[LocalEngine]] = []

    def begin(engine: object) -> None:
        if isinstance(engine, LocalEngine):
            engine.supply.source = _Failing(engine.supply.source, every)
            failing.append(weakref.ref(engine))

    def make_failing(make: Callable[[], None], pool: Pool[Any], _options: dict[str, Any]) -> None:
        make()
        begin(pool._engine)

    try:
        for engine in lifecycle.engines():
            begin(engine)
        with _pools_made_by(make_failing):
            yield
    finally:
        for reference in failing:
            living = reference()
            if living is not None:
                living.supply.source = living.supply.source.behind


class _Failing(Generic[T]):
    """A source that fails at every nth alloc; else it is the one it stands before."""

    def __init__(self, behind: Source[T], every: int) -> None:
        self.behind = behind
        self._every = every
        self._calls = itertools.count(1)

    def alloc(self) -> T:
        if next(self._calls) % self._every == 0:
            raise MemoryError(f"{MARKER}: every {self._every}. alloc fails on purpose")
        return self.behind.alloc()

    def free(self, element: T, /) -> None:
        self.behind.free(element)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)

    def __repr__(self) -> str:
        return f"<{self.behind!r}, failing>"


@pytest.fixture
def faulty_source() -> Iterator[ScriptedSource[Element]]:
    """A source that works until the test tells it otherwise. Calls that it still holds at the end are let go."""
    source: ScriptedSource[Element] = ScriptedSource()
    yield source
    source.open()


# -- both


@contextlib.contextmanager
def _pools_made_by(how: Callable[[Callable[[], None], Pool[Any], dict[str, Any]], None]) -> Iterator[None]:
    """While this lasts, each new pool is made by `how`: it gets what makes the pool, the pool, and the options to it."""
    make = Pool.__init__

    @functools.wraps(make)
    def made(self: Pool[Any], *args: Any, **options: Any) -> None:
        how(lambda: make(self, *args, **options), self, options)

    Pool.__init__ = made  # type: ignore[method-assign]
    try:
        yield
    finally:
        Pool.__init__ = make  # type: ignore[method-assign]
