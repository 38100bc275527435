"""A limit that is lowered while callers wait, or are about to: who can never be served is told, the others are served."""

from __future__ import annotations

import pytest
from callers import SOON, Caller
from tickets import ticket

from mempool import Objects, Pool, PoolTimeout
from mempool._core import Decisions, Transfer
from mempool._core.decisions import IN_LINE, IS_TOO_MANY, UNCHANGED
from mempool._core.transfer import IMPOSSIBLE
from mempool.testing import ScriptedSource, Step, wait_until


def test_who_wants_more_than_a_lowered_limit_allows_is_told_and_those_behind_are_served() -> None:
    source = ScriptedSource()
    pool = Pool(source, 0, limit=5, keep=5)
    kept = pool.alloc_many(3)
    source.otherwise = Step.FAILS
    anna, bert = Caller("anna"), Caller("bert")
    many = anna.does(lambda: pool.alloc_many(5))
    wait_until(lambda: pool.stats().waiting == 1)
    one = bert.waits(pool)
    pool.resize(limit=3)
    with pytest.raises(
        ValueError,
        match=r"5 elements .* never be had, the limit was lowered while this caller waited",
    ):
        many.result(SOON)
    pool.free_many(kept)
    assert one.result(SOON) in kept
    assert pool.stats().waiting == 0
    pool.free(one.result())
    for caller in (anna, bert):
        caller.ends()


def test_who_joins_after_the_limit_was_lowered_is_refused() -> None:
    """He was let in by `alloc_many` before. A single element may be waited for: a limit of 0 is a pause."""
    reserve = Decisions(False, False, False)
    assert reserve.join(ticket()[0], [None]) == IN_LINE
    reserve.retarget(UNCHANGED, UNCHANGED, 0, [])
    assert reserve.join(ticket(2)[0], [None] * 2) == IS_TOO_MANY
    assert reserve.join(ticket()[0], [None]) == IN_LINE
    assert reserve.waiting() == 2


def test_the_limit_may_be_lowered_while_the_source_is_asked_for_many() -> None:
    """By the time the caller lines up, nobody can serve it."""
    source = ScriptedSource(otherwise=Step.FAILS)
    pool = Pool(source, 0, limit=2)
    source.then(lambda: pool.resize(limit=1))
    with pytest.raises(ValueError, match="the limit has just been lowered"):
        pool.alloc_many(2, timeout=1)
    assert (pool.stats().waiting, pool.stats().out) == (0, 0)


def test_one_may_be_waited_for_in_whichever_words() -> None:
    """As long as the limit is 0: a pause."""
    pool = Pool(Objects(object), 0, limit=0)
    for call in (lambda: pool.alloc(timeout=0), lambda: pool.alloc_many(1, timeout=0)):
        with pytest.raises(PoolTimeout):
            call()
    with pytest.raises(ValueError, match="limit is 0"):
        pool.alloc_many(2, timeout=0)


def test_the_next_is_served_when_a_lowered_limit_takes_the_head_from_the_line() -> None:
    """Two spares wait for the third; who is behind has use for them. And whoever stays first is not told."""
    reserve = Decisions(False, False, False)
    reserve.retarget(2, 2, UNCHANGED, [None] * 5)
    filling = Transfer(2)
    assert reserve.permit_fill(filling, False) == 2
    filling.made.extend([object(), object()])
    reserve.complete(filling, False)
    reserve.take_back(filling)
    (first, told_first), (second, told_second), (third, told_third) = ticket(3), ticket(2), ticket(2)
    for each in (first, second, third):
        assert reserve.join(each, [None] * 3) == IN_LINE
    told_first.clear()
    reserve.retarget(UNCHANGED, UNCHANGED, 2, [])
    assert (first.state, told_first, len(second.held()), told_second) == (IMPOSSIBLE, [True], 2, [True])
    assert not third.is_settled()
    told_third.clear()
    reserve.retarget(UNCHANGED, UNCHANGED, 2, [])
    assert told_third == []


def test_the_next_asks_when_a_lowered_limit_takes_the_head_from_the_line_and_a_head_that_stays_does_not() -> None:
    """There is nothing to serve it with; without a word it would ask after its next 50 ms. Who was first had just asked."""
    reserve = Decisions(False, False, False)
    (first, told_first), (second, told_second) = ticket(3), ticket(1)
    for each in (first, second):
        assert reserve.join(each, [None] * 3) == IN_LINE
    told_first.clear()
    reserve.retarget(UNCHANGED, UNCHANGED, 3, [])
    assert (first.is_settled(), told_first, told_second) == (False, [], [])
    reserve.retarget(UNCHANGED, UNCHANGED, 2, [])
    assert (first.state, second.is_settled(), told_second) == (IMPOSSIBLE, False, [True])
