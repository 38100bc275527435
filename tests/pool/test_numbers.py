"""Numbers that the pool is given: too large for the machine, of other types, more than can ever be had."""

from __future__ import annotations

import json
import sys

import pytest

from mempool import Buffers, Limited, Objects, Pool, PoolTimeout
from mempool.sizes import parse_size
from mempool.testing import ManualClock


def test_what_can_never_be_had_is_said_with_the_way_out() -> None:
    pool = Pool(Objects(object), 0)
    with pytest.raises(ValueError, match=rf"{2**70} elements .* never be had, limit is {sys.maxsize}; ask for fewer"):
        pool.alloc_many(2**70)


def test_numbers_beyond_those_of_the_machine() -> None:
    limited = Limited(Objects(object), elements_max=2**64)
    limited.free(limited.alloc())
    assert limited.existing == 0
    pool = Pool(Objects(object), 0, limit=0)
    with pytest.raises(PoolTimeout):
        pool.alloc(timeout=type("Real", (float,), {})(0.0))
    clock = ManualClock()
    pool = clock.attach(Pool(Objects(object), 1, limit=1, track="holders"))
    element = pool.alloc(timeout=10**400)
    clock.advance(3600)
    assert " for 3600 s, " in str(pool.holders()[0])
    pool.free(element)


@pytest.mark.parametrize(("words", "size"), [("2.01 KB", 2010), ("1.07 GB", 1_070_000_000), ("0.29 KB", 290)])
def test_decimal_sizes_are_exact(words: str, size: int) -> None:
    assert parse_size(words) == size


def test_numpys_numbers_are_numbers() -> None:
    np = pytest.importorskip("numpy")
    pool = Pool(Buffers(64), 1)
    for seconds in (np.int64(5), np.float32(5)):
        buffer = pool.alloc(timeout=seconds)
        assert buffer.array(shape=np.int64(10)).shape == (10,)
        with pytest.raises(ValueError, match="takes no bytes"):
            buffer.array("S")
        with pytest.raises(TypeError):
            buffer.fill(255.9)
        pool.free(buffer)


def test_the_figures_are_valid_json() -> None:
    """Strictly, without NaN and Infinity, of a pool without a limit, that has waited and failed, and that is closed."""
    clock = ManualClock()
    for options in ({}, {"limit": 1}, {"track": "holders"}):
        pool = clock.attach(Pool(Objects(bytearray), 1, **options))  # type: ignore[arg-type]
        held = pool.alloc_reserved()
        if pool.limit == 1:
            with pytest.raises(PoolTimeout):
                pool.alloc(timeout=0)
        told = pool.stats().as_dict()
        assert json.loads(json.dumps(told, allow_nan=False)) == told
        assert told["out"] == 1
        pool.close()
        pool.free(held)
        assert json.loads(json.dumps(pool.stats().as_dict(), allow_nan=False))["closed"] is True


def test_a_pool_has_no_length_and_is_true() -> None:
    """Of what: its spares, or all of its elements? And an empty pool is no reason to go without."""
    pool = Pool(Objects(object), 0)
    assert bool(pool)
    with pytest.raises(TypeError):
        len(pool)  # type: ignore[arg-type]
