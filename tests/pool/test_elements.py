"""What the pool does with an element: it moves it, knows it by its identity, and runs none of its code."""

from __future__ import annotations

from typing import NoReturn

import pytest

from mempool import DoubleFree, ForeignElement, Objects, Pool


class Hostile:
    """An element that must not be asked anything: whatever is done with it is its maker's code."""

    def _asked(self, *_arguments: object) -> NoReturn:
        raise AssertionError("the pool ran an element's own code")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _asked  # type: ignore[assignment]
    __bool__ = __len__ = __iter__ = __contains__ = __repr__ = __str__ = __format__ = _asked  # type: ignore[assignment]
    __index__ = __int__ = __getattr__ = _asked


@pytest.mark.parametrize("track", ["identity", "nothing", "holders"])
def test_no_code_of_an_element_is_run(track: str) -> None:
    """Elements are moved, and known by their identity: the pool neither compares, hashes, tests nor prints them."""
    with Pool(Objects(Hostile), 2, keep=3, limit=4, track=track) as pool:
        one = pool.alloc()
        many = pool.alloc_many(3)
        assert pool.try_alloc() is None
        pool.why_empty()
        pool.holders()
        pool.free(one)
        pool.free_many(many)
        if track != "nothing":
            with pytest.raises(DoubleFree):
                pool.free(one)
            with pytest.raises(ForeignElement):
                pool.free(Hostile())
        with pool.lease() as leased:
            pool.hand_over(leased)
        pool.resize(3)
        pool.resize(0, keep=0)
