"""mempool.linux: making, resizing and ending a pool, giving back, the ready-made pools and the names."""

from __future__ import annotations

import ctypes
import errno
import inspect
import mmap
from typing import Any

import pytest
from exports import exported
from kernel_model import Memory
from linux_pools import DIRECT_RECLAIM, IO, create, take

from mempool import DoubleFree, ForeignElement, Pool, PoolClosed, linux
from mempool.linux import (
    GFP_ATOMIC,
    GFP_KERNEL,
    GFP_NOFS,
    GFP_NOIO,
    GFP_NOWAIT,
    KmemCache,
    mempool_alloc,
    mempool_alloc_preallocated,
    mempool_create,
    mempool_create_kmalloc_pool,
    mempool_create_page_pool,
    mempool_create_slab_pool,
    mempool_destroy,
    mempool_free,
    mempool_is_saturated,
    mempool_resize,
)
from mempool.testing import Element

# -- create and destroy -----------------------------------------------------------------------------------------------


def test_create_fills_the_pool_before_it_returns() -> None:
    memory = Memory()
    pool = create(3, memory)
    assert isinstance(pool, Pool)
    assert (pool.min_nr, pool.curr_nr) == (3, 3)
    assert memory.log == [("alloc", GFP_KERNEL, n) for n in (1, 2, 3)]


def test_create_that_runs_out_of_memory_is_none_and_leaves_nothing() -> None:
    memory = Memory([True, True, False])
    assert mempool_create(3, memory.alloc, memory.free, None) is None
    assert memory.log[3:] == [("free", 0, 2), ("free", 0, 1)]


def test_create_hands_pool_data_to_both_functions() -> None:
    def alloc_fn(gfp_mask: int, pool_data: list[str]) -> object:
        pool_data.append("alloc")
        return object()

    def free_fn(element: object, pool_data: list[str]) -> None:
        pool_data.append("free")

    seen: list[str] = []
    mempool_destroy(mempool_create(1, alloc_fn, free_fn, seen))
    assert seen == ["alloc", "free"]


def test_create_with_more_places_than_there_can_be_is_none() -> None:
    memory = Memory()
    assert mempool_create(10**15, memory.alloc, memory.free, None) is None
    assert memory.log == []


@pytest.mark.parametrize(("min_nr", "error"), [(-1, ValueError), (1.5, TypeError), (None, TypeError), ("3", TypeError)])
def test_create_refuses_what_is_no_number_of_elements(min_nr: Any, error: type[Exception]) -> None:
    memory = Memory()
    with pytest.raises(error):
        mempool_create(min_nr, memory.alloc, memory.free, None)
    assert memory.log == []


def test_create_refuses_what_is_no_function() -> None:
    with pytest.raises(TypeError, match="alloc_fn"):
        mempool_create(1, None, Memory().free, None)  # type: ignore[arg-type]


def test_an_alloc_fn_that_raises_memory_error_has_failed_as_if_it_returned_none() -> None:
    def alloc_fn(gfp_mask: int, pool_data: None) -> bytearray:
        raise MemoryError

    assert mempool_create(1, alloc_fn, lambda element, data: None, None) is None


def test_an_alloc_fn_that_raises_anything_else_is_heard() -> None:
    def alloc_fn(gfp_mask: int, pool_data: list[int]) -> list[int]:
        if pool_data:
            raise LookupError("no such disk")
        return [gfp_mask]

    broken: list[int] = []
    pool = mempool_create(1, alloc_fn, lambda element, data: None, broken)
    assert pool is not None
    broken.append(1)
    with pytest.raises(LookupError, match="no such disk"):
        mempool_alloc(pool, GFP_KERNEL)
    assert pool.curr_nr == 1


def test_an_element_may_be_false_in_a_condition() -> None:
    """Only None is NULL."""
    pool = mempool_create(1, lambda mask, data: bytearray(), lambda element, data: None, None)
    assert pool is not None
    element = mempool_alloc(pool, GFP_NOWAIT)
    assert element == bytearray()
    mempool_free(element, pool)
    assert pool.stats().disposed == 1


def test_a_pool_for_none_holds_one() -> None:
    """Promises nothing, and yet a free that finds it empty stays, so that somebody who waits is served."""
    memory = Memory()
    pool = create(0, memory)
    assert (pool.min_nr, pool.curr_nr) == (0, 1)
    first, second = take(pool), take(pool)
    spare = mempool_alloc_preallocated(pool)
    assert (pool.curr_nr, mempool_is_saturated(pool)) == (0, True)
    for element in (first, second, spare):
        mempool_free(element, pool)
    assert pool.curr_nr == 1
    assert mempool_alloc_preallocated(pool) is first


@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize("new_min_nr", [1, 2, 5])
def test_a_pool_for_none_that_is_resized_is_filled(new_min_nr: int, is_empty: bool) -> None:
    """A resize to 1 is a growth to the kernel, and growth fills."""
    memory = Memory()
    pool = create(0, memory)
    spare = mempool_alloc_preallocated(pool) if is_empty else None
    assert mempool_resize(pool, new_min_nr) == 0
    assert (pool.min_nr, pool.curr_nr) == (new_min_nr, new_min_nr)
    assert len(memory.log) == new_min_nr + is_empty
    mempool_free(spare, pool)
    assert pool.curr_nr == new_min_nr


def test_destroy_disposes_of_the_last_first() -> None:
    memory = Memory()
    mempool_destroy(create(3, memory))
    assert memory.log[3:] == [("free", 0, 3), ("free", 0, 2), ("free", 0, 1)]


def test_destroy_of_nothing_is_allowed() -> None:
    mempool_destroy(None)


def test_after_destroy_nothing_is_handed_out_and_what_is_returned_is_disposed_of() -> None:
    memory = Memory()
    pool = create(1, memory)
    element = take(pool)
    mempool_destroy(pool)
    with pytest.raises(PoolClosed):
        mempool_alloc(pool, GFP_KERNEL)
    with pytest.raises(PoolClosed):
        mempool_alloc_preallocated(pool)
    with pytest.raises(PoolClosed):
        mempool_resize(pool, 2)
    mempool_free(element, pool)
    assert memory.log[-1] == ("free", 0, element.number)


# -- free -------------------------------------------------------------------------------------------------------------


def test_free_fills_the_reserve_and_what_is_more_goes_to_the_source() -> None:
    memory = Memory()
    pool = create(1, memory)
    spare = mempool_alloc_preallocated(pool)
    more = take(pool)
    mempool_free(spare, pool)
    mempool_free(more, pool)
    assert pool.curr_nr == 1
    assert memory.log[-1] == ("free", 0, more.number)


def test_free_of_nothing_is_ignored() -> None:
    memory = Memory()
    pool = create(1, memory)
    mempool_free(None, pool)
    assert (pool.curr_nr, len(memory.log)) == (1, 1)


def test_freeing_twice_or_to_another_pool_is_refused() -> None:
    """The kernel would hand one element to two users."""
    pool, other = create(1), create(1)
    element = mempool_alloc_preallocated(pool)
    with pytest.raises(ForeignElement):
        mempool_free(element, other)
    mempool_free(element, pool)
    with pytest.raises(DoubleFree):
        mempool_free(element, pool)


# -- resize -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_min_nr", [0, -1])
def test_resize_to_nothing_is_refused(new_min_nr: int) -> None:
    memory = Memory()
    pool = create(2, memory)
    with pytest.raises(ValueError, match=f"not to {new_min_nr}"):
        mempool_resize(pool, new_min_nr)
    assert (pool.min_nr, pool.curr_nr, len(memory.log)) == (2, 2, 2)


@pytest.mark.parametrize("min_nr", [0, 2])
def test_resize_beyond_all_places_is_enomem_and_changes_nothing(min_nr: int) -> None:
    memory = Memory()
    pool = create(min_nr, memory)
    before = len(memory.log)
    assert mempool_resize(pool, 10**15) == -errno.ENOMEM
    assert (pool.min_nr, pool.curr_nr, len(memory.log)) == (min_nr, max(1, min_nr), before)
    mempool_free(take(pool), pool)
    assert mempool_resize(pool, 3) == 0


def test_resize_that_runs_out_of_elements_is_0_and_frees_fill_the_rest() -> None:
    memory = Memory()
    pool = create(1, memory)
    held = [take(pool) for _ in range(3)]
    memory.plan = [True, False]
    assert mempool_resize(pool, 4) == 0
    assert (pool.min_nr, pool.curr_nr, mempool_is_saturated(pool)) == (4, 2, False)
    assert not pool.guarantee().unfunded
    for element in held:
        mempool_free(element, pool)
    assert mempool_is_saturated(pool)
    assert memory.log[-1] == ("free", 0, held[2].number)


def test_resize_to_less_disposes_of_the_last_first() -> None:
    memory = Memory()
    pool = create(4, memory)
    assert mempool_resize(pool, 2) == 0
    assert memory.log[4:] == [("free", 0, 4), ("free", 0, 3)]
    assert (pool.min_nr, pool.curr_nr) == (2, 2)


def test_resize_to_the_same_fills_nothing() -> None:
    memory = Memory()
    pool = create(2, memory)
    mempool_alloc_preallocated(pool)
    assert mempool_resize(pool, 2) == 0
    assert (pool.curr_nr, len(memory.log)) == (1, 2)


def test_resize_whose_free_fn_runs_out_of_memory_does_not_say_that_nothing_has_changed() -> None:
    troubles = [MemoryError("no memory to free memory")]

    def free_fn(element: Element, pool_data: None) -> None:
        if troubles:
            raise troubles.pop()

    pool = mempool_create(3, Memory().alloc, free_fn, None)
    assert pool is not None
    with pytest.raises(MemoryError, match="to free memory"):
        mempool_resize(pool, 2)
    assert (pool.min_nr, pool.curr_nr) == (2, 2)


# -- ready-made pools -------------------------------------------------------------------------------------------------


def test_a_kmalloc_pool_gives_bytes_of_a_fixed_size() -> None:
    pool = mempool_create_kmalloc_pool(2, "1 KiB")
    assert pool is not None
    element = mempool_alloc(pool, GFP_KERNEL)
    assert element is not None
    assert (len(element), element.readonly, bytes(element)) == (1024, False, bytes(1024))
    element[:5] = b"hello"
    mempool_free(element, pool)
    mempool_destroy(pool)
    with pytest.raises(ValueError, match="released"):
        element[0]


def test_an_element_that_is_still_viewed_is_disposed_of_without_harm() -> None:
    pool = mempool_create_kmalloc_pool(1, 16)
    assert pool is not None
    element = mempool_alloc(pool, GFP_KERNEL)
    assert element is not None
    view = memoryview(element)
    mempool_free(element, pool)
    assert pool.stats().disposed == 1
    assert len(view) == 16


def test_a_slab_pool_gives_objects_of_its_cache() -> None:
    cache = KmemCache(192)
    pool = mempool_create_slab_pool(3, cache)
    assert pool is not None
    element = mempool_alloc(pool, GFP_KERNEL)
    assert element is not None
    assert len(element) == cache.size == 192
    assert repr(cache) == "KmemCache(192)"
    mempool_free(element, pool)
    assert pool.stats().disposed == 1


def test_a_cache_makes_and_takes_back_objects_by_itself() -> None:
    cache = KmemCache("4 KiB")
    element = cache.alloc(GFP_KERNEL)
    assert element is not None
    cache.free(element)
    with pytest.raises(ValueError, match="released"):
        len(element)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_page_pool_gives_two_to_the_order_pages_aligned(order: int) -> None:
    pool = mempool_create_page_pool(2, order)
    assert pool is not None
    element = mempool_alloc(pool, GFP_KERNEL)
    assert element is not None
    assert len(element) == mmap.PAGESIZE << order
    byte = ctypes.c_char.from_buffer(exported(element))
    assert ctypes.addressof(byte) % mmap.PAGESIZE == 0
    del byte
    mempool_free(element, pool)
    mempool_destroy(pool)
    assert not element.is_alive()


@pytest.mark.parametrize("size", [0, -4, 1.5, "much"])
def test_what_is_no_size_is_refused(size: Any) -> None:
    for make in (KmemCache, lambda size: mempool_create_kmalloc_pool(1, size)):
        with pytest.raises((ValueError, TypeError), match="size"):
            make(size)


@pytest.mark.parametrize(("order", "error"), [(-1, ValueError), (0.5, TypeError), ("0", TypeError)])
def test_what_is_no_order_is_refused(order: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        mempool_create_page_pool(1, order)


@pytest.mark.parametrize("bytes_at_once", [1 << 60, 1 << 80])
def test_ready_made_pools_that_get_no_memory_are_none(bytes_at_once: int) -> None:
    assert mempool_create_kmalloc_pool(1, bytes_at_once) is None
    assert mempool_create_slab_pool(1, KmemCache(bytes_at_once)) is None
    assert mempool_create_page_pool(1, (bytes_at_once // mmap.PAGESIZE).bit_length() - 1) is None


@pytest.mark.parametrize(
    ("alloc_fn", "free_fn", "pool_data", "size"),
    [
        (linux.mempool_alloc_slab, linux.mempool_free_slab, KmemCache(32), 32),
        (linux.mempool_kmalloc, linux.mempool_kfree, 32, 32),
        (linux.mempool_alloc_pages, linux.mempool_free_pages, 1, 2 * mmap.PAGESIZE),
    ],
)
def test_what_the_ready_made_pools_call_may_be_given_to_create(
    alloc_fn: Any, free_fn: Any, pool_data: Any, size: int
) -> None:
    pool = mempool_create(2, alloc_fn, free_fn, pool_data)
    assert pool is not None
    element: Any = mempool_alloc(pool, GFP_KERNEL)
    assert len(element) == size
    mempool_free(element, pool)
    assert pool.stats().disposed == 1


# -- names ------------------------------------------------------------------------------------------------------------


def test_the_masks_are_composed_as_the_kernel_composes_them() -> None:
    high, fs, kswapd = linux.__GFP_HIGH, linux.__GFP_FS, linux.__GFP_KSWAPD_RECLAIM
    assert DIRECT_RECLAIM | kswapd == linux.__GFP_RECLAIM
    assert GFP_KERNEL == linux.__GFP_RECLAIM | IO | fs == 0xCC0
    assert GFP_KERNEL & ~fs == GFP_NOFS
    assert GFP_NOIO == GFP_NOFS & ~IO
    assert high | kswapd == GFP_ATOMIC
    assert kswapd | linux.__GFP_NOWARN == GFP_NOWAIT


def test_each_flag_is_a_bit_of_its_own() -> None:
    flags = [getattr(linux, name) for name in linux.__all__ if name.startswith("__GFP") and name != "__GFP_RECLAIM"]
    assert all(flag.bit_count() == 1 for flag in flags)
    assert len(set(flags)) == len(flags)


def test_all_of_the_kernels_names_are_there() -> None:
    """Those that begin with underscores too, which a star would otherwise leave out."""
    namespace: dict[str, object] = {}
    exec("from mempool.linux import *", namespace)
    assert {"__GFP_DIRECT_RECLAIM", "mempool_create", "GFP_KERNEL", "KmemCache"} <= namespace.keys()


@pytest.mark.parametrize("name", [name for name in linux.__all__ if name.startswith("mempool_")])
def test_a_kernel_name_says_which_kernel_function_it_is(name: str) -> None:
    assert f"Kernel: {name}" in (inspect.getdoc(getattr(linux, name)) or "")


def test_a_callback_that_looks_at_the_pool_finds_what_the_kernels_would() -> None:
    """A resize makes and disposes of one element at a time: each call finds the one before it done."""
    seen: list[int] = []
    pools: list[Any] = []

    def look(_mask: int, _data: None) -> object:
        seen.extend(pool.curr_nr for pool in pools)
        return object()

    def look_again(_element: object, _data: None) -> None:
        seen.extend(pool.curr_nr for pool in pools)

    pool = mempool_create(2, look, look_again, None)
    assert pool is not None
    pools.append(pool)
    assert mempool_resize(pool, 6) == 0
    assert seen == [2, 3, 4, 5]
    seen.clear()
    assert mempool_resize(pool, 3) == 0
    assert seen == [5, 4, 3]
    pools.clear()
    mempool_destroy(pool)
