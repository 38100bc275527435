"""The pytest plugin: fixtures `faulty_source` and `leak_check`, marker `pool_faults`.

    def test_mine(faulty_source):
        faulty_source.otherwise = Step.FAILS            # a ScriptedSource, which works until told otherwise

    def test_mine(leak_check): ...                      # fails if elements of any pool made in it are still out

    @pytest.mark.pool_faults(every=3)                   # every third alloc of every source fails
    def test_mine(): ...

pytest loads it by itself where mempool is installed (entry point `mempool`), or by `-p mempool.testing.plugin`.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

import pytest

from mempool.pool import Pool, Source
from mempool.testing.scripted import Element, ScriptedSource

T = TypeVar("T")

MARKER = "pool_faults"


def pytest_configure(config: pytest.Config) -> None:
    """Say what the marker means (`pytest --markers`)."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(every=3): the sources of all mempool pools made in the test, once the reserve is filled, raise "
        "MemoryError at every third alloc; every=1: at each.",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """For tests with the marker: let the sources of all pools fail, those of its fixtures too."""
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        return (yield)
    with faults(**_arguments(marker)):
        return (yield)


@pytest.fixture
def faulty_source() -> Iterator[ScriptedSource[Element]]:
    """A source that works until the test tells it otherwise. Calls that it still holds at the end are let go."""
    source: ScriptedSource[Element] = ScriptedSource()
    yield source
    source.open()


@pytest.fixture
def leak_check(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail the test if elements of a pool made in it are out at its end, naming who took them.

    The failure is reported by the fixture's end, after the ends of the fixtures that were requested later.
    """
    if not os.environ.get("MEMPOOL_TRACK"):
        monkeypatch.setenv("MEMPOOL_TRACK", "holders")
    made: list[tuple[str, Any, weakref.ref[Pool[Any]]]] = []
    # The core and not the pool, which must be free to die when the test drops it.
    with _pools_made(after=lambda pool, _source: made.append((pool.name, pool.core, weakref.ref(pool)))):
        yield
    gc.collect()  # what goes home by itself is no leak
    leaks = [_leak(name, core.figures()["out"], pool()) for name, core, pool in made if core.figures()["out"]]
    if leaks:
        pytest.fail("elements were not freed. " + ". ".join(leaks), pytrace=False)


def _leak(name: str, out: int, pool: Pool[Any] | None) -> str:
    holders = [] if pool is None else [str(holder) for holder in pool.holders()]
    return f"pool {name!r}: {out} still out{'; ' if holders else ''}{'; '.join(holders)}"


@contextlib.contextmanager
def faults(*, every: int) -> Iterator[None]:
    """While this lasts, the source of each pool that is made fails at every so-manieth alloc.

    Each counts for itself, from when its pool's reserve has been filled: what is tested is how the pool is used, and not
    whether it can be made (kernel: fail_mempool_alloc).
    """

    def arm(_pool: Pool[Any], source: Source[Any]) -> None:
        if isinstance(source, _Failing):
            source.armed = True

    with _pools_made(before=lambda source: _Failing(source, every), after=arm):
        yield


class _Failing(Generic[T]):
    """A source that fails at every nth alloc, once it is armed; else it is the one it stands before."""

    def __init__(self, source: Source[T], every: int) -> None:
        self.armed = False
        self._source = source
        self._every = every
        self._asked = 0

    def alloc(self) -> T:
        if self.armed:
            self._asked += 1
            if self._asked % self._every == 0:
                raise MemoryError(f"{MARKER}: every {self._every}. alloc fails on purpose")
        return self._source.alloc()

    def free(self, element: T, /) -> None:
        self._source.free(element)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __repr__(self) -> str:
        return f"<{self._source!r}, failing>"


@contextlib.contextmanager
def _pools_made(
    *,
    before: Callable[[Any], Any] = lambda source: source,
    after: Callable[[Pool[Any], Any], object],
) -> Iterator[None]:
    """While this lasts, `before` sees and may replace the source of each new pool, and `after` sees both."""
    make = Pool.__init__

    @functools.wraps(make)
    def made(self: Pool[Any], source: Any, *args: Any, **options: Any) -> None:
        # Sources that are none are for Pool to complain of.
        is_source = callable(getattr(source, "alloc", None)) and callable(getattr(source, "free", None))
        source = before(source) if is_source else source
        make(self, source, *args, **options)
        after(self, source)

    Pool.__init__ = made  # type: ignore[method-assign]
    try:
        yield
    finally:
        Pool.__init__ = make  # type: ignore[method-assign]


def _arguments(marker: pytest.Mark) -> dict[str, int]:
    every = marker.kwargs.get("every", 3)
    if marker.args or set(marker.kwargs) - {"every"} or not isinstance(every, int) or every < 1:
        raise pytest.UsageError(f"{MARKER} is written pool_faults(every=n), n at least 1, not {marker}")
    return {"every": every}
