"""Elements are disposed of, many at once: all of them, whatever the source raises, and each is counted."""

from __future__ import annotations

import pytest
from broken_sources import Stubborn

from mempool import Objects, Pool
from mempool.testing import ScriptedSource, Step


@pytest.mark.parametrize("way", ["close", "shrink", "drop", "constructor"])
def test_all_are_disposed_of_though_the_source_raises_again_and_again(way: str) -> None:
    """More than one go of them."""
    source = Stubborn()
    if way == "constructor":
        source.then(*[Step.WORKS] * 200, Step.RAISES)
        with pytest.raises(RuntimeError, match=r"the one after 1$"):
            Pool(source, 201)
    else:
        pool = Pool(source, 200)
        with pytest.raises(RuntimeError, match=r"the one after 1$"):
            {"close": pool.close, "shrink": lambda: pool.resize(0, keep=0), "drop": pool.__del__}[way]()
        assert pool.stats().spare == 0
    assert (source.disposed, len(source.existing)) == (200, 0)


def test_more_are_disposed_of_at_once_than_there_are_small_numbers() -> None:
    source = ScriptedSource()
    pool = Pool(source, 0, keep=0)
    assert pool.free_many(pool.alloc_many(300)) == 0
    assert pool.stats().disposed == source.free_calls == 300


def test_more_cannot_be_reset_at_once_than_there_are_small_numbers() -> None:
    """They were taken back from their user before the reset failed, and are disposed of."""
    pool = Pool(Objects(bytearray, reset=lambda _element: {}["nothing"]), 0)
    elements = pool.alloc_many(300)
    with pytest.raises(KeyError, match="nothing"):
        pool.free_many(elements)
    assert (pool.stats().out, pool.stats().disposed) == (0, 300)


def test_of_several_errors_of_a_free_the_first_is_raised() -> None:
    source = ScriptedSource()
    pool = Pool(source, 3)
    source.then_free(Step.WORKS, lambda: (_ for _ in ()).throw(LookupError("first")), Step.RAISES)
    with pytest.raises(LookupError, match="first"):
        pool.close()
    assert pool.stats().disposed == 3


def test_a_free_that_cannot_be_called_is_tried_three_times_and_the_element_is_written_off() -> None:
    """Once more than an interrupt and its successor can spoil; and not for ever, or `close` would never end."""
    looked: list[str] = []

    class Unreachable(ScriptedSource):
        def __getattribute__(self, name: str) -> object:
            if name == "free" and is_closing:
                looked.append(name)
                raise LookupError("no free")
            return super().__getattribute__(name)

    is_closing: list[bool] = []
    pool = Pool(Unreachable(), 2)
    is_closing.append(True)
    with pytest.raises(LookupError, match="no free"):
        pool.close()
    assert len(looked) == 2 * 3
    assert (pool.stats().disposed, pool.stats().written_off) == (2, 2)
