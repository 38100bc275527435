"""What `free` refuses, and which error of several it raises."""

from __future__ import annotations

from typing import Any

import pytest

from mempool import ForeignElement, Objects, Pool


@pytest.mark.parametrize("track", ["nothing", "identity", "holders"])
def test_nothing_cannot_be_freed(track: str) -> None:
    """Else somebody would get it: an element is never None."""
    pool: Pool[Any] = Pool(Objects(object), 2, track=track)
    element = pool.alloc_reserved()
    with pytest.raises(ForeignElement):
        pool.free(None)
    with pytest.raises(ForeignElement, match="None is no element"):
        pool.free_many([element, None])
    pool.free(element)
    assert pool.stats().spare == 2
