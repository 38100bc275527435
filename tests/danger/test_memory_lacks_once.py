"""Steps that lack memory once: a drop, a free, a check. The element is not lost by it, and nothing wrong is said of it."""

from __future__ import annotations

import gc
from collections import deque
from typing import Any

import pytest

from mempool import Buffers, Objects, Pool
from mempool.local.returning import Returning
from mempool.sources import Fallback, Limited, Logged
from mempool.sources.moves import move
from mempool.testing import ScriptedSource


class Short:
    """A step that lacks memory, once."""

    def __init__(self, step: Any) -> None:
        self.step = step
        self.lacks = True

    def __call__(self, *arguments: Any) -> Any:
        if self.lacks:
            self.lacks = False
            raise MemoryError
        return self.step(*arguments)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dropped_buffer_is_returned_although_memory_lacked_for_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Buffers(64), 1)
    short = Short(Returning.reclaim)
    monkeypatch.setattr(Returning, "reclaim", lambda returning, dropped: short(returning, dropped))
    buffer = pool.alloc()
    del buffer
    gc.collect()
    assert not short.lacks
    assert pool.stats().out == 0


def test_an_element_reaches_the_wrapped_source_although_memory_lacked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool counts it as disposed of by then, and nobody comes back to it."""
    inner = ScriptedSource()
    for adaptor in (Limited(inner, elements_max=1), Fallback(inner, ScriptedSource()), Logged(inner, to="/dev/null")):
        element = adaptor.alloc()
        short = Short(adaptor._end)
        monkeypatch.setattr(adaptor, "_end", short)
        adaptor.free(element)
        assert not short.lacks
        assert inner.existing == []
        adaptor.free(adaptor.alloc())  # a permit came back, too


def test_a_check_that_lacks_memory_says_nothing_about_the_element() -> None:
    class Checked(Objects[Any]):
        lacks = 1

        def check(self, element: Any) -> None:
            if self.lacks:
                self.lacks -= 1
                raise MemoryError("no memory to look")

    source = Checked(bytearray)
    pool: Pool[Any] = Pool(source, 2)
    with pytest.raises(MemoryError, match="no memory to look"):
        pool.alloc_reserved()
    assert (pool.stats().spare, pool.stats().disposed) == (2, 0)
    assert pool.try_alloc() is not None


class LacksOnce(list[int]):
    """A list whose first pop finds no memory."""

    lacks = True

    def pop(self, *place: Any) -> int:
        if self.lacks:
            self.lacks = False
            raise MemoryError
        return super().pop(*place)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_more_is_moved_for_want_of_memory_than_with_it(most: int) -> None:
    """Step by step, as many as were asked for, or as there are."""
    source, target = LacksOnce([1, 2, 3]), deque([0])
    move(source, target, most)
    assert list(target) == [0, 3, 2, 1][: most + 1]
    assert source == [1, 2, 3][: max(0, 3 - most)]
