"""Why the else? The question that this project began with, answered by making it happen.

    mempool_resize, while it grows:         while (pool->curr_nr < pool->min_nr) {
                                                unlock; element = alloc(); lock;
                                                if (pool->curr_nr < pool->min_nr)
                                                    add_element(pool, element);
                                                else {
                                                    unlock; free(element); return 0;
                                                }
                                            }

The loop has tested the condition under the lock just before. It can have changed, because the lock is not held while the
source makes the element: a free can have refilled the pool, or another resize can have shrunk it. In both cases the
element is surplus, and must be disposed of and counted.

Each test lets it happen in the middle of the source's `alloc`: once in the same thread, once with a thread that is held
there. The pool is used in the kernel's way, `keep == reserve`.
"""

import threading
from collections.abc import Callable

import pytest
from books import assert_at_rest

from mempool import Pool
from mempool.testing import Element, ScriptedSource, Step

works, fails, raises, slow = Step

Meanwhile = Callable[[], object]


def grow_in_the_same_thread(pool: Pool[Element], source: ScriptedSource[Element], to: int, meanwhile: Meanwhile) -> None:
    """`meanwhile` is called by the source's alloc."""
    source.then(meanwhile)
    pool.resize(to, keep=to)


def grow_in_a_thread(pool: Pool[Element], source: ScriptedSource[Element], to: int, meanwhile: Meanwhile) -> None:
    """The growing thread is held in the source's alloc while this one does it."""
    source.then(slow)
    growing = threading.Thread(target=pool.resize, args=(to,), kwargs={"keep": to})
    growing.start()
    source.wait_until_held()
    meanwhile()
    source.release()
    growing.join(60)
    assert not growing.is_alive()


grows = pytest.mark.parametrize("grow", [grow_in_the_same_thread, grow_in_a_thread])


@grows
def test_the_pool_was_refilled_by_a_free_meanwhile(grow: Callable[..., None]) -> None:
    """Grow 3 to 4; while the fourth is being made, the free of an element that was out fills the fourth place."""
    source = ScriptedSource()
    pool = Pool(source, 3, keep=3)
    borrowed = pool.alloc()  # the source made it: three are spare
    grow(pool, source, 4, lambda: pool.free(borrowed))
    assert pool.stats().spare == 4
    assert source.made == 5
    assert source.disposed == 1  # the surplus element
    assert borrowed in source.existing
    assert pool.guarantee().held
    assert_at_rest(pool, source)


@grows
def test_the_pool_was_shrunk_by_another_resize_meanwhile(grow: Callable[..., None]) -> None:
    """Grow 3 to 4; while the fourth is being made, another resize shrinks to 2: the grow makes nothing more."""
    source = ScriptedSource()
    pool = Pool(source, 3, keep=3)
    grow(pool, source, 4, lambda: pool.resize(2, keep=2))
    assert (pool.stats().reserve, pool.stats().spare) == (2, 2)
    assert source.made == 4
    assert source.disposed == 2  # one by the shrink, and the surplus one
    assert_at_rest(pool, source)


@grows
def test_both_happen_to_a_long_grow(grow: Callable[..., None]) -> None:
    """Grow 3 to 100; in the middle everything that was out is returned and another resize shrinks to 1."""
    source = ScriptedSource()
    pool = Pool(source, 3, keep=3)
    borrowed = pool.alloc_many(20)

    def meanwhile() -> None:
        pool.free_many(borrowed)
        pool.resize(1, keep=1)

    source.then(*[works] * 10)
    grow(pool, source, 100, meanwhile)
    assert (pool.stats().reserve, pool.stats().spare) == (1, 1)
    assert_at_rest(pool, source)


@grows
def test_what_the_grow_left_over_goes_to_the_line_first(grow: Callable[..., None]) -> None:
    """A surplus element is disposed of only if nobody wants it: an alloc meanwhile has it, and the pool is full again."""
    source = ScriptedSource()
    pool = Pool(source, 3, keep=3)
    borrowed = pool.alloc()
    taken: list[Element | None] = []

    def meanwhile() -> None:
        pool.free(borrowed)
        taken.append(pool.alloc_reserved())

    grow(pool, source, 4, meanwhile)
    assert pool.stats().spare == 4
    assert source.disposed == 0
    pool.free(taken[0])
    assert source.disposed == 1
    assert_at_rest(pool, source)


def test_a_wider_keep_makes_the_else_a_spare() -> None:
    """With room to keep it (the default) the surplus element stays warm instead."""
    source = ScriptedSource()
    pool = Pool(source, 3)
    borrowed = pool.alloc()
    grow_in_the_same_thread(pool, source, 4, lambda: pool.resize(4, keep=8))
    pool.free(borrowed)
    assert source.disposed == 0
    assert_at_rest(pool, source)
