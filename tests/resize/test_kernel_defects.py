"""The six defects that the kernel's mempool was seen to have, as six tests that ours has none of them.

Seen by running mm/mempool.c in user space; the pool is used here in the kernel's way, `keep == reserve`.
"""

import logging
import threading

import pytest
from callers import waiter

from mempool import Pool
from mempool.testing import Element, ManualClock, ScriptedSource, Step, assert_books, wait_until

works, fails, raises, slow = Step
SOON = 60


def three_resizes(pool: Pool[Element], source: ScriptedSource[Element]) -> None:
    """A shrinks 10 to 8 and is held while it disposes of an element. B shrinks to 3, C grows to 5. A goes on."""
    source.then_free(slow)
    a = threading.Thread(target=pool.resize, args=(8,), kwargs={"keep": 8})
    a.start()
    source.wait_until_held()
    pool.resize(3, keep=3)
    pool.resize(5, keep=5)
    source.release()
    a.join(SOON)
    assert not a.is_alive()


def test_three_resizes_overflow_nothing() -> None:
    """The last resize to reach its moment wins: A writes nothing when it goes on, and frees fill 5 places, not 8."""
    source = ScriptedSource()
    pool = Pool(source, 10, keep=10)
    borrowed = pool.alloc_many(8)
    three_resizes(pool, source)
    assert (pool.stats().reserve, pool.stats().keep, pool.stats().spare) == (5, 5, 5)
    pool.free_many(borrowed)
    assert pool.stats().spare == 5
    assert_books(pool, source)


def test_three_resizes_nested_in_each_other_overflow_nothing() -> None:
    """The same in one thread: B and C happen in the middle of the source's free that A called."""
    source = ScriptedSource()
    pool = Pool(source, 10, keep=10)
    source.then_free(lambda: (pool.resize(3, keep=3), pool.resize(5, keep=5)))
    pool.resize(8, keep=8)
    assert (pool.stats().reserve, pool.stats().keep, pool.stats().spare) == (5, 5, 5)
    pool.free_many(pool.alloc_many(8))
    assert pool.stats().spare == 5
    assert_books(pool, source)


# -- 2. a grow wakes nobody


def test_a_grow_wakes_the_line_at_once() -> None:
    """A caller waits on an empty pool; a resize makes elements; the caller has one, though no time has passed at all."""
    source = ScriptedSource(otherwise=fails)
    pool = ManualClock().attach(Pool(source, 0))
    waiting = waiter(pool)
    source.otherwise = works
    pool.resize(4)
    assert len(waiting.result(SOON)) == 1
    assert pool.stats().spare == 4
    assert_books(pool, source, out=1)


# -- 3. a grow that fails says it succeeded


def test_a_grow_that_falls_short_says_so() -> None:
    """resize returns what was reached: promised 100, held is false, 98 unfunded; refill makes it good later."""
    source = ScriptedSource()
    pool = Pool(source, 1)
    source.then(works)
    source.otherwise = fails
    guarantee = pool.resize(100)
    assert not guarantee.held
    assert (guarantee.promised, guarantee.spare, guarantee.owed, guarantee.unfunded) == (100, 2, 0, 98)
    assert pool.guarantee() == guarantee
    source.otherwise = works
    assert pool.refill().held
    assert_books(pool, source)


# -- 4. no order among waiters


def test_the_line_has_an_order_and_a_newcomer_takes_nothing() -> None:
    """First come, first served; and what a waiter was woken for, no newcomer can take."""
    source = ScriptedSource()
    pool = ManualClock().attach(Pool(source, 1))
    source.otherwise = fails
    element = pool.alloc()
    waiting = [waiter(pool) for _ in range(4)]
    stolen = []
    for place in range(4):
        pool.free(element)
        stolen += [pool.try_alloc(), pool.alloc_reserved()]  # at once, before the waiter can have run
        assert waiting[place].result(SOON) == [element]
        assert [w.done() for w in waiting] == [later <= place for later in range(4)]
    assert stolen == [None] * 8
    assert_books(pool, source, out=1)


# -- 5. hold and wait deadlocks silently


def test_hold_and_wait_is_seen_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """Two callers each hold one of two elements and want another: stats() shows both, and after `patience` each is
    logged with the pool's name and what is out.
    """
    source = ScriptedSource()
    clock = ManualClock()
    pool = clock.attach(Pool(source, 2, limit=2, name="frames", patience=10))
    held = [pool.alloc(), pool.alloc()]
    waiting = [waiter(pool), waiter(pool)]
    stats = pool.stats()
    assert (stats.waiting, stats.out, stats.spare) == (2, 2, 0)
    clock.wait_until_parked(2)
    clock.advance(9)
    clock.wait_until_parked(2)
    assert caplog.records == []
    clock.advance(1)
    wait_until(lambda: len(caplog.records) == 2)
    for record in caplog.records:
        assert (record.name, record.levelno) == ("mempool", logging.WARNING)
        assert "'frames'" in record.getMessage()
        assert "2 out" in record.getMessage()
        assert "2 callers in line" in record.getMessage()
    pool.free_many(held)
    assert {id(w.result(SOON)[0]) for w in waiting} == {id(element) for element in held}
    assert_books(pool, source, out=2)


# -- 6. frees refill what a shrink is about to remove


def test_a_shrink_is_not_undone_by_frees() -> None:
    """Elements that are returned while a shrink disposes find the new `keep`: none is kept only to be disposed of."""
    source = ScriptedSource()
    pool = Pool(source, 10, keep=10)
    elements = [pool.alloc_reserved() for _ in range(5)]
    source.then_free(slow)
    shrinking = threading.Thread(target=pool.resize, args=(2,), kwargs={"keep": 2})
    shrinking.start()
    source.wait_until_held()
    spare_before = pool.stats().spare
    pool.free_many(elements)
    assert pool.stats().spare <= spare_before
    source.open()
    shrinking.join(SOON)
    assert pool.stats().spare == 2
    assert source.free_calls == 8
    assert_books(pool, source)
