"""Lingering: a buffer that its user has freed is returned by itself when its last view ends, and is counted until then."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import mempool
from mempool import Buffer, Buffers, DoubleFree, Limited, Objects, Pool, PoolTimeout, UseAfterFree
from mempool.testing import wait_until

np: Any = pytest.importorskip("numpy")


@pytest.fixture(params=["nothing", "identity", "holders"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool[Buffer]]:
    """A pool of two. No warning may be raised, and nothing may be lost."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Pool(Buffers(4096), 2, limit=2, name="frames", track=request.param) as pool:
            yield pool
            gc.collect()
            assert counted(pool) == (2, 0, 0)


def counted(pool: Pool[Any]) -> tuple[int, int, int]:
    stats = pool.stats()
    assert stats.made - stats.disposed == stats.spare + stats.out + stats.disposing
    return stats.spare, stats.out, stats.lingering


def test_the_handle_is_dead_at_once_and_the_memory_is_returned_with_the_last_view(pool: Pool[Buffer]) -> None:
    buffer = pool.alloc()
    view = buffer[:]
    pool.free(buffer, linger=True)
    assert counted(pool) == (1, 1, 1)
    with pytest.raises(UseAfterFree):
        buffer[0]
    for linger in (False, True):
        with pytest.raises(DoubleFree):
            pool.free(buffer, linger=linger)
    view[5] = 7
    part = view[5:]
    del view
    assert (counted(pool), part[0]) == ((1, 1, 1), 7)
    del part
    assert counted(pool) == (2, 0, 0)


def test_what_nobody_looks_at_is_freed_as_ever(pool: Pool[Buffer]) -> None:
    pool.free(pool.alloc(), linger=True)
    assert counted(pool) == (2, 0, 0)
    with pool.lease(linger=True):
        pass
    assert counted(pool) == (2, 0, 0)


def test_of_many_those_that_are_viewed_linger_and_the_others_are_kept(pool: Pool[Buffer]) -> None:
    """All or nothing, as ever: with one that is not out nothing happens."""
    first, second = pool.alloc_many(2)
    view = second[:]
    with pytest.raises(mempool.PoolError):
        pool.free_many([first, second, second], linger=True)
    assert counted(pool) == (0, 2, 0)
    assert second.views() == 1
    assert pool.free_many([first, second], linger=True) == 1
    assert counted(pool) == (1, 1, 1)
    del view
    assert counted(pool) == (2, 0, 0)


def test_a_lease_lingers_by_with_by_async_with_and_by_release(pool: Pool[Buffer]) -> None:
    async def in_a_task() -> memoryview:
        async with pool.lease(linger=True) as buffer:
            return buffer[:]

    with pool.lease(linger=True) as buffer:
        view = buffer[:9]
    assert counted(pool) == (1, 1, 1)
    view = asyncio.run(in_a_task())
    assert counted(pool) == (1, 1, 1)
    lease = pool.lease(linger=True)
    view = lease.element[:9]
    lease.release()
    assert counted(pool) == (1, 1, 1)
    del view
    assert counted(pool) == (2, 0, 0)


def test_who_waits_is_served_by_the_end_of_the_last_view(pool: Pool[Buffer]) -> None:
    first, second = pool.alloc_many(2)
    views = [second[:]]
    pool.free(second, linger=True)
    got: list[Buffer] = []
    waiter = threading.Thread(target=lambda: got.append(pool.alloc(timeout=60)))
    waiter.start()
    wait_until(lambda: pool.stats().waiting == 1)
    views.clear()
    waiter.join()
    assert counted(pool) == (0, 2, 0)
    pool.free_many([first, *got])


def test_the_guarantee_counts_what_lingers_as_owed(pool: Pool[Buffer]) -> None:
    buffer = pool.alloc()
    view = buffer[:]
    pool.free(buffer, linger=True)
    guarantee = pool.guarantee()
    assert (guarantee.spare, guarantee.owed, guarantee.unfunded) == (1, 1, 0)
    del view


def test_why_empty_says_how_many_linger_and_what_looks(pool: Pool[Buffer]) -> None:
    array = pool.array((4, 1024))
    why = pool.why_empty()
    assert "1 of those out linger" in why
    if mempool.IMPLEMENTATION == "compiled":
        assert "shape (4, 1024)" in why or "memoryview" in why
    del array
    assert "linger" not in pool.why_empty()


def test_an_array_is_the_element_until_its_last_view_ends(pool: Pool[Buffer]) -> None:
    array = pool.array((np.uint16(2), -1), "uint16")
    assert (array.shape, array.dtype) == ((2, 1024), np.dtype("uint16"))
    assert counted(pool) == (1, 1, 1)
    row = array[1]
    del array
    row[:] = 3
    assert counted(pool) == (1, 1, 1)
    del row
    assert counted(pool) == (2, 0, 0)


def test_an_array_that_does_not_fit_says_the_sizes_and_takes_nothing(pool: Pool[Buffer]) -> None:
    with pytest.raises(ValueError, match=r"takes 8 KiB, this buffer has 4 KiB"):
        pool.array(2048, "float32")
    assert counted(pool) == (2, 0, 0)


@pytest.mark.parametrize(("shape", "dtype"), [((-1, -1), "uint8"), ((4097,), "uint8"), (("x",), "uint8"), ((1,), "no such")])
@pytest.mark.parametrize("adapt", [lambda source: source, lambda source: Limited(source, elements_max=2)])
def test_a_wrong_shape_or_dtype_changes_nothing_and_waits_for_nothing(adapt: Any, shape: Any, dtype: str) -> None:
    """It is told of before an element is taken: also where none is to be had, and the figures are as before."""
    with Pool(adapt(Buffers(4096)), 1, limit=1) as pool:
        held = pool.alloc()
        before = pool.stats()
        with pytest.raises((ValueError, TypeError)):
            pool.array(shape, dtype, timeout=0)
        assert pool.stats() == before
        pool.free(held)


def test_an_array_of_a_pool_without_buffers_is_a_type_error() -> None:
    with Pool(Objects(object), 1, name="things") as things:
        with pytest.raises(TypeError, match=r"pool 'things': an array needs a pool of Buffers"):
            things.array(1)
        assert things.stats().out == 0


def test_what_is_no_buffer_is_freed_as_ever() -> None:
    with Pool(Objects(object), 2, limit=2) as things:
        things.free(things.alloc(), linger=True)
        assert things.free_many(things.alloc_many(2), linger=True) == 2
        assert counted(things) == (2, 0, 0)


def test_an_exception_that_leaves_a_lease_tells_of_the_view_that_its_traceback_keeps(pool: Pool[Buffer]) -> None:
    """The buffer lingers by itself: it is returned with the traceback, and nobody is warned."""
    caught: list[BaseException] = []

    def fail() -> None:
        with pool.lease() as buffer:
            part = buffer[:9]
            raise KeyError(len(part))

    try:
        fail()
    except KeyError as error:
        caught.append(error)
    assert counted(pool) == (1, 1, 1)
    assert "pool 'frames': the lease is over" in caught[0].__notes__[0]
    assert caught[0].__notes__[0].endswith("dropped, at the latest with the next gc.collect()")
    caught.clear()
    gc.collect()
    assert counted(pool) == (2, 0, 0)


def test_an_exception_that_bears_no_notes_flies_all_the_same(pool: Pool[Buffer]) -> None:
    class Stubborn(Exception):
        def add_note(self, _note: str) -> None:
            raise TypeError

    views = []

    def fail() -> None:
        with pool.lease() as buffer:
            views.append(buffer[:1])
            raise Stubborn

    with pytest.raises(Stubborn):
        fail()
    assert counted(pool) == (1, 1, 1)
    views.clear()


def test_failed_tasks_whose_results_are_dropped_give_all_buffers_back() -> None:
    """While the results are kept, their tracebacks keep the buffers, and PoolTimeout says so."""

    async def work(pool: Pool[Buffer]) -> None:
        async with pool.lease() as buffer:
            part = buffer[:9]
            await asyncio.sleep(0)
            raise ValueError(len(part))

    async def main(pool: Pool[Buffer]) -> None:
        results: list[Any] = await asyncio.gather(*(work(pool) for _ in range(10)), return_exceptions=True)
        kinds = [type(result) for result in results]
        assert kinds.count(ValueError) == 4
        assert kinds.count(PoolTimeout) == 6
        assert all("linger" in str(result) for result in results if type(result) is PoolTimeout)
        assert counted(pool) == (0, 4, 4)
        results.clear()
        await asyncio.sleep(0)  # until now the loop has the tasks, and they their exceptions
        gc.collect()
        assert counted(pool) == (4, 0, 0)

    with Pool(Buffers(4096), 4, limit=4, timeout=0.05) as pool:
        asyncio.run(main(pool))


@pytest.mark.parametrize("end", ["close", "drop"])
def test_what_lingers_outlives_its_pool(end: str) -> None:
    source = Buffers(1 << 20)
    pool = Pool(source, 1)
    array = pool.array((-1,))
    if end == "close":
        assert pool.close() == 1
    else:
        del pool
        gc.collect()
    array[-1] = 7
    assert array[-1] == 7
    del array
    if end == "close":
        assert counted(pool) == (0, 0, 0)


def test_what_lingers_in_a_pool_that_shrinks_is_disposed_of(pool: Pool[Buffer]) -> None:
    first, second = pool.alloc_many(2)
    views = [first[:], second[:]]
    pool.free_many([first, second], linger=True)
    pool.resize(0, keep=0)
    views.clear()
    assert counted(pool) == (0, 0, 0)
    pool.resize(2)


def test_memory_that_is_wiped_is_wiped_after_the_last_view() -> None:
    with Pool(Buffers(4096, zero="free"), 1, limit=1) as pool:
        array = pool.array(4096)
        array[:] = 7
        assert array[0] == 7
        del array
        with pool.lease() as buffer:
            assert bytes(buffer) == bytes(4096)
        assert counted(pool) == (1, 0, 0)


def test_a_buffer_that_lingered_is_like_any_other_when_it_is_out_again() -> None:
    """Dropped by its next user, it warns."""
    with Pool(Buffers(4096), 1, limit=1) as pool:
        array = pool.array(10)
        del array
        buffers = [pool.alloc()]
        with pytest.warns(ResourceWarning, match="dropped while it was out"):
            buffers.clear()
        assert counted(pool) == (1, 0, 0)


def test_an_error_names_the_cause_and_the_cures(pool: Pool[Buffer]) -> None:
    buffer = pool.alloc()
    part = buffer[:9]
    with pytest.raises(
        BufferError, match=r"it is still out: end the view, then free\(buf\)\..*with buf\[:\] as view.*linger=True"
    ):
        pool.free(buffer)
    del part
    pool.free(buffer)


@pytest.mark.parametrize("shape", [(np.uint16(32), np.uint16(64)), (-1, 64), (32, -1)])
def test_a_shape_may_be_of_any_integers_and_leave_one_length_open(pool: Pool[Buffer], shape: Any) -> None:
    with pool.lease() as buffer:
        array = buffer.array("uint16", shape)
        assert array.shape == (32, 64)
        del array


def test_a_shape_of_numbers_that_would_overflow_is_refused_by_its_true_size(pool: Pool[Buffer]) -> None:
    with pool.lease() as buffer, pytest.raises(ValueError, match=r"takes 300 KiB"):
        buffer.array(shape=(np.uint16(480), np.uint16(640)))


def test_a_released_view_that_is_kept_does_not_spoil_the_report_of_a_wait() -> None:
    """Of a released memoryview nothing can be asked: whoever waits in vain hears of the time, and not of that."""
    pool = Pool(Buffers(64), 1, limit=1, name="frames")
    buffer = pool.alloc()
    view = buffer[:]
    kept = view[5:]
    pool.free(buffer, linger=True)
    view.release()
    with pytest.raises(PoolTimeout, match="1 of those out lingers"):
        pool.alloc(timeout=0.01)
    if mempool.IMPLEMENTATION == "compiled":  # else nothing tells who looks
        assert "memoryview of shape (59,)" in pool.why_empty()
    kept.release()
    pool.free(pool.alloc(timeout=60))


AFTER_THE_LAST_VIEW = """
import gc, sys
get_objects, times = gc.get_objects, [int(sys.argv[1])]
def collect_first(generation=None):
    if times[0]:
        times[0] -= 1
        gc.collect()
    return get_objects(generation)
gc.get_objects = collect_first
from mempool import Buffers, Pool
gc.get_objects = get_objects
pool = Pool(Buffers(64), 1)
buffer = pool.alloc()
view = buffer[:]
pool.free(buffer, linger=True)
del view
print(pool.stats().lingering)
"""


@pytest.mark.parametrize("collections", [0, 1, 2, 5])
def test_a_collection_while_mempool_is_imported_makes_no_view_one_that_is_kept(collections: int) -> None:
    """Uncompiled, it counts then how many references a view has that nobody keeps: with a collection in between, too few."""
    command = [sys.executable, "-c", AFTER_THE_LAST_VIEW, str(collections)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split() == ["0"]
