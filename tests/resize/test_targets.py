"""The targets of a pool: reserve, keep and limit are named, and those that contradict each other are refused."""

from __future__ import annotations

import pytest

from mempool import Objects, Pool


def test_targets_beside_the_reserve_are_named() -> None:
    with pytest.raises(TypeError, match="positional"):
        Pool(Objects(object), 1, 2)  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        Pool(Objects(object), 1).resize(1, 2)  # type: ignore[misc]


def test_a_refused_resize_names_the_numbers_that_contradict_each_other() -> None:
    """Those that were given, and where one was not, the one that stands."""
    pool = Pool(Objects(object), 2, limit=9)
    with pytest.raises(ValueError, match="keep 1 is below the reserve of 2"):
        pool.resize(keep=1)
    with pytest.raises(ValueError, match="keep 4 is below the reserve of 5"):
        pool.resize(5, keep=4)
    with pytest.raises(ValueError, match="a limit of 1 cannot hold the reserve of 2"):
        pool.resize(limit=1)
    with pytest.raises(ValueError, match="a limit of 9 cannot hold the reserve of 10"):
        pool.resize(10)
    with pytest.raises(ValueError, match="a limit of 8 cannot hold the reserve of 10"):
        pool.resize(10, limit=8)
