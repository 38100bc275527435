"""What `free` refuses, and which error of several it raises."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest

from mempool import Buffers, ForeignElement, Objects, Pool, PoolError
from mempool.local import returning


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


@pytest.mark.parametrize("linger", [False, True])
def test_a_buffer_that_another_thread_frees_in_the_midst_of_free_is_freed_once(
    linger: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Untracked, nothing but the handle itself tells of it: it is dead when the first of the two comes to kill it."""
    pool = Pool(Buffers(4096), 2, track="nothing")
    kept, buffer = pool.alloc(), pool.alloc()
    spare, view = pool.spare, buffer[:]
    if not linger:
        view.release()
    prepare, others = returning.prepare, [threading.Thread(target=lambda: pool.free(buffer, linger=linger))]

    def prepare_and_be_overtaken(*arguments: Any) -> Any:
        unfit = prepare(*arguments)
        if others:
            other = others.pop()
            other.start()
            other.join()
        return unfit

    monkeypatch.setattr(returning, "prepare", prepare_and_be_overtaken)
    with pytest.raises(PoolError):
        pool.free_many([buffer], linger=linger)
    stats = pool.stats()
    assert (stats.out, stats.lingering, stats.spare) == (1 + linger, int(linger), spare + 1 - linger)
    view.release()
    del view
    gc.collect()
    pool.free(kept)
    assert (pool.stats().out, pool.stats().lingering) == (0, 0)
