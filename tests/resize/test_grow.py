"""A resize that grows: how many elements it makes at once, and how much room it uses under the limit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mempool import Pool
from mempool.testing import ManualClock


class Asking:
    """A source that does something else, once, while it is asked for an element."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] | None = None

    def alloc(self) -> object:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return object()

    def free(self, _element: object) -> None:
        pass


def test_a_grow_beside_an_alloc_uses_all_the_room_under_the_limit() -> None:
    """What another caller is having made takes one place under the limit, and not more."""
    source = Asking()
    pool = Pool(source, 2, limit=6)
    source.meanwhile = lambda: pool.resize(5)
    assert pool.try_alloc() is not None
    assert (pool.stats().spare, pool.stats().out) == (5, 1)


class Dear:
    """A source whose elements take their time, by the pool's clock; and that looks how many are asked for at once."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds
        self.pool: Pool[object] | None = None
        self.at_once: list[int] = []

    def alloc(self) -> object:
        assert self.pool is not None
        self.at_once.append(self.pool.core.snapshot()["permits"])
        self.clock.advance(self.seconds)
        return object()

    def free(self, _element: object) -> None:
        pass


@pytest.mark.parametrize(
    ("seconds", "goes"),
    [(0, [1, 2, 4, 8, 16, 32, 64, 64, 64, 45]), (0.0003, [1, 2, 4, *[4] * 73, 1]), (0.002, [1] * 300)],
)
def test_cheap_elements_are_made_in_larger_goes(seconds: float, goes: list[int]) -> None:
    """Twice as many after each that took less than a millisecond, and 64 at most."""
    clock = ManualClock()
    source = Dear(clock, seconds)
    pool = source.pool = clock.attach(Pool(source, 0))
    pool.resize(300)
    assert source.at_once == [go for go in goes for _ in range(go)]
