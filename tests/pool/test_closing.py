"""close and drain: what comes back, what is made meanwhile, who hears of it, and what a closed pool says."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from callers import SOON, Caller
from notes import assert_leaves_no_note

from mempool import IMPLEMENTATION, Objects, Pool, PoolClosed, PoolTimeout, lifecycle


def test_what_the_source_makes_for_a_pool_that_is_closed_meanwhile_is_disposed_of() -> None:
    """close has said that nothing is out, and drain that all is back."""
    is_asked, may_go = threading.Event(), threading.Event()

    def slowly() -> bytearray:
        is_asked.set()
        may_go.wait(SOON)
        return bytearray(1)

    pool: Pool[Any] = Pool(Objects(slowly), 0)
    anna = Caller("Anna")
    taking = anna.does(pool.alloc)
    is_asked.wait(SOON)
    assert pool.close() == 0
    pool.drain(timeout=0)
    may_go.set()
    with pytest.raises(PoolClosed):
        taking.result(SOON)
    assert (pool.stats().out, pool.stats().made, pool.stats().disposed) == (0, 1, 1)
    anna.ends()


def test_a_closed_pool_owes_nothing_and_says_that_it_is_closed() -> None:
    """What is out of it never comes to the reserve again."""
    pool = Pool(Objects(object), 2, name="frames")
    element = pool.alloc_reserved()
    pool.close()
    guarantee = pool.guarantee()
    assert (guarantee.owed, guarantee.unfunded, guarantee.held) == (0, 2, False)
    assert "it is closed" in pool.why_empty()
    assert pool.why_empty().endswith(". Make another")
    pool.free(element)


@pytest.mark.skipif(IMPLEMENTATION == "compiled", reason="compiled, nobody sees who watches")
def test_who_gives_up_a_drain_watches_no_more() -> None:
    pool: Any = Pool(Objects(bytearray), 1)
    element = pool.alloc()
    with pytest.raises(PoolTimeout):
        pool.drain(timeout=0)
    assert pool.core.state.drainers == ()
    pool.free(element)


def test_a_pool_that_is_gone_leaves_no_note_behind() -> None:
    """Each fork, and the end of the interpreter, goes through all notes."""
    assert_leaves_no_note(lifecycle._engines, lambda: Pool(Objects(object), 0), lambda pool: pool._engine)
