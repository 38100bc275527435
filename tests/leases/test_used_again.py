"""The memory of a lease, and of what `async with` awaits, is used again: each new life is as the first."""

import asyncio
import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from books import assert_at_rest

from mempool import DoubleFree, Lease, Objects, Pool, PoolError, PoolTimeout
from mempool._core import IMPLEMENTATION

LIVES = 40  # more than any free list has places


class Stop(Exception):
    """Ends a block."""

    leaving: Any = None


class Thing:
    """An element that can be referred to weakly."""


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
        usual = [pool.lease(), pool.lease()]
        del usual  # the next two have their memory
        lease = pool.lease()
        with pytest.raises(RuntimeError, match="never took"):
            lease.release()
        with lease:
            assert (pool.out, other.out) == (1, 0)
            with pytest.raises(PoolTimeout):
                pool.lease(timeout=0).__enter__()
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


def end_its_block(_pool: Pool[Thing], lease: Lease[Thing]) -> None:
    lease.__exit__(None, None, None)


def release(_pool: Pool[Thing], lease: Lease[Thing]) -> None:
    lease.release()


def discard(_pool: Pool[Thing], lease: Lease[Thing]) -> None:
    lease.discard()


def free_it_by_hand(pool: Pool[Thing], lease: Lease[Thing]) -> None:
    pool.free(lease.element)
    with pytest.raises(PoolError):
        lease.release()


@pytest.mark.parametrize("end", [end_its_block, release, discard, free_it_by_hand])
@pytest.mark.parametrize("spares", [0, 1])
def test_no_element_is_kept_in_the_memory_of_its_lease(
    end: Callable[[Pool[Thing], Lease[Thing]], None], spares: int
) -> None:
    """However it was taken, and however the lease ended: the next one would take it for its own."""
    pool = Pool(Objects(Thing), 0, keep=1)
    if spares:
        pool.free(pool.alloc())
    lease = pool.lease()
    gone = weakref.ref(lease.element)
    end(pool, lease)
    del lease
    pool.close()
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("waits", [False, True])
def test_neither_an_error_nor_a_pool_is_kept_in_the_memory_of_what_a_task_awaited(waits: bool) -> None:
    """The next block would take that error for the one it ended with."""

    async def use(pool: Pool[Any]) -> None:
        async with pool.lease():
            raise Stop

    async def main() -> None:
        pool = one_element()
        pool_gone = weakref.ref(pool)
        element = pool.alloc() if waits else None
        task = asyncio.create_task(use(pool))
        await asyncio.sleep(0)
        if waits:
            assert pool.waiting == 1
            pool.free(element)
        try:
            await task
        except Stop as error:
            error_gone = weakref.ref(error)
        del task, element
        await asyncio.sleep(0)  # the loop, too, had a hold of that task
        gc.collect()
        assert error_gone() is None
        del pool
        gc.collect()
        assert pool_gone() is None

    asyncio.run(main())


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


def test_what_a_task_was_handed_is_back_when_nobody_awaits_it_any_more() -> None:
    """At once, though its lease lives on; also where the collector has ended what had the same memory before."""

    async def main() -> None:
        pool = one_element()
        for life in range(LIVES):
            element = pool.alloc()
            lease = pool.lease()
            entering: Any = lease.__aenter__()
            entering.send(None)
            pool.free(element)
            assert (pool.out, pool.waiting) == (1, 0)
            if life % 2:
                holder: list[Any] = [entering]
                holder.append(holder)
                del holder
            del entering, element
            if life % 2 or IMPLEMENTATION == "pure":
                gc.collect()
            assert pool.out == 0
            del lease
        assert_at_rest(pool)

    asyncio.run(main())


def test_who_enters_a_lease_that_another_uses_takes_nothing_from_it() -> None:
    """Also where the memory of what it awaits belonged to the rightful user before."""

    async def main() -> None:
        pool = one_element()
        for _ in range(LIVES):
            lease = pool.lease()
            async with lease as element:
                with pytest.raises(RuntimeError, match="used once"):
                    await lease.__aenter__()
                assert pool.out == 1
                assert lease.element is element
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


def test_who_holds_a_method_of_a_lease_may_call_it_again() -> None:
    """Each call of `__aexit__` is its own, as of any method: its error is that of no other."""
    pool = one_element()

    async def main() -> None:
        lease = pool.lease()
        leave = lease.__aexit__
        await lease.__aenter__()
        kept = weakref.ref(error := Stop())
        calls = [leave(None, None, None), leave(Stop, error, None), leave(None, None, None)]
        assert len(set(map(id, calls))) == 3
        del error
        calls.pop(1).close()
        assert kept() is None, "an error that nobody names is kept by another call"
        assert await calls.pop() is None
        with pytest.raises(DoubleFree):
            await calls.pop()
        with pytest.raises((TypeError, ValueError)):
            leave(None, None)

    asyncio.run(main())
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
