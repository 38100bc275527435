"""The memory of a lease, and of what `async with` awaits, is used again: each new life is as the first."""

import asyncio
import gc
import warnings
import weakref
from typing import Any

import pytest
from books import assert_at_rest

from mempool import Objects, Pool
from mempool._core import IMPLEMENTATION

LIVES = 40  # more than any free list has places


class Stop(Exception):
    """Ends a block."""

    leaving: Any = None


def one_element() -> Pool[Any]:
    return Pool(Objects(object), 1, limit=1)


def test_each_lease_that_is_dropped_gives_its_element_back_and_warns() -> None:
    """Also one whose memory was a lease before that was dropped, or that came to a good end."""
    pool = one_element()
    for _ in range(LIVES):
        lease = pool.lease()
        lease.__enter__()
        with pytest.warns(ResourceWarning, match="dropped without release"):
            del lease
        with pool.lease():
            assert pool.out == 1
        assert_at_rest(pool)


def test_a_new_lease_knows_nothing_of_the_one_before() -> None:
    """It has its own pool, timeout and state, whatever became of the others."""
    pools = [one_element(), one_element()]
    for life in range(LIVES):
        pool, other = pools[life % 2], pools[1 - life % 2]
        several = [pool.lease(timeout=0.001, linger=True) for _ in range(LIVES)]
        several[0].__enter__()
        several[0].discard()
        del several
        lease = pool.lease()
        with pytest.raises(RuntimeError, match="never took"):
            lease.release()
        with lease:
            assert (pool.out, other.out) == (1, 0)
        with pytest.raises(RuntimeError, match="used once"):
            lease.__enter__()
        del lease
        assert_at_rest(pool)


def test_a_lease_keeps_its_pool_for_as_long_as_it_lives() -> None:
    """And no longer, though its memory stays."""
    pool = one_element()
    gone = weakref.ref(pool)
    with pool.lease():
        pass
    lease = pool.lease()
    del pool
    assert gone() is not None
    with lease:
        pass
    del lease
    gc.collect()  # uncompiled, a pool is in cycles
    assert gone() is None


def test_each_task_that_is_dropped_while_it_waits_loses_its_place() -> None:
    """Also by the collector, in a cycle, and where the memory of what it awaits was used before."""

    async def main() -> None:
        pool = one_element()
        element = pool.alloc()
        for life in range(LIVES):
            entering: Any = pool.lease().__aenter__()
            entering.send(None)
            assert pool.waiting == 1
            if life % 2:
                assert gc.is_tracked(entering)
                holder: list[Any] = [entering]
                holder.append(holder)
                del holder
            del entering
            gc.collect()
            assert pool.waiting == 0
            async with Pool(Objects(object), 1).lease():
                pass
        pool.free(element)
        assert_at_rest(pool)

    asyncio.run(main())


def test_an_error_that_names_the_end_of_its_own_block_is_collected() -> None:
    """What awaits the end of a block knows the error that ended it; nobody may ever await it."""
    pool = one_element()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(LIVES):
            error = Stop()
            gone = weakref.ref(error)
            lease = pool.lease()
            error.leaving = lease.__aexit__(Stop, error, None)
            del error, lease
            gc.collect()
            assert gone() is None
    assert_at_rest(pool)


def test_what_a_block_calls_is_called_as_a_block_calls_it() -> None:
    """With other arguments it is an error, which changes nothing."""
    pool: Any = one_element()
    lease: Any = pool.lease()
    for wrong in (
        lambda: lease.__enter__(1),
        lambda: lease.__exit__(None),
        lambda: lease.__exit__(kind=None),
        lambda: lease.__aenter__(None),
        lambda: lease.__aenter__(kind=None),
        lambda: lease.__aexit__(),
        lambda: lease.__aexit__(None, None, None, None),
        lambda: pool.lease(1),
        lambda: pool.lease(time=1),
        lambda: pool.alloc(1),
        lambda: pool.free(),
        lambda: pool.free(1, 2),
    ):
        with pytest.raises((TypeError, ValueError)):
            wrong()
    with lease as element:
        assert lease.element is element
    assert_at_rest(pool)


def test_who_holds_a_method_of_a_lease_holds_the_lease() -> None:
    """Each call of `__aenter__` is its own, as of any method."""
    pool = one_element()
    enter = pool.lease().__aenter__
    assert callable(enter)
    first, second = enter(), enter()
    assert first is not second
    first.close()
    second.close()

    async def main(enter: Any) -> None:
        assert await enter() is not None

    asyncio.run(main(enter))
    del first, second
    with pytest.warns(ResourceWarning, match="dropped without release"):
        del enter
    assert_at_rest(pool)


@pytest.mark.skipif(IMPLEMENTATION == "pure", reason="uncompiled, Python's own memory is used again")
def test_no_more_memory_is_kept_than_was_used_at_once() -> None:
    """A thousand leases at once, of which few are kept."""
    pool = one_element()
    for _ in range(3):
        leases = [pool.lease() for _ in range(1000)]
        awaited = [(lease.__aenter__(), lease.__aexit__(None, None, None)) for lease in leases]
        for entering, leaving in awaited:
            entering.close()
            leaving.close()
        del leases, awaited, entering, leaving
    assert_at_rest(pool)
