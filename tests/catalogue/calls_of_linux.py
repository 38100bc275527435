"""The kernel's names, for every_call.py."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Any

from scenes import Broken, Call, Disposable, Scene, Source, again, call, each, keep, kernels_pool, raises

import mempool
from mempool import linux

NONE_LEFT = -errno.ENOMEM
#: More places than there can be.
FAR_TOO_MANY = sys.maxsize // 64

# -- create, resize, destroy


@call()
def linux_create(_scene: Scene) -> Call:
    source = Source()

    def made() -> None:
        pool = kernels_pool(source)
        again(lambda: linux.mempool_destroy(pool))
        assert source.existing() == [], "a pool that is closed, or could not be made, keeps elements"

    return made


@call(is_long=True)
def linux_create_for_none(_scene: Scene) -> Call:
    source = Source()

    def made() -> None:
        pool = linux.mempool_create(0, lambda _mask, data: data.alloc(), lambda element, data: data.free(element), source)
        assert pool is None or pool.min_nr == 0
        again(lambda: linux.mempool_destroy(pool))
        assert source.existing() == [], "a pool that is closed, or could not be made, keeps elements"

    return made


@call(is_long=True)
def linux_pool_without_functions(_scene: Scene) -> Call:
    source = Source()

    def made() -> None:
        again(linux.Mempool(2, source).close)
        assert source.existing() == [], "a pool that is closed keeps elements"

    return made


@call()
def linux_create_in_vain(_scene: Scene) -> Call:
    source = Source()
    source.alloc_raises = MemoryError

    def made() -> None:
        assert kernels_pool(source) is None

    return made


@call()
def linux_create_broken(_scene: Scene) -> Call:
    source = Source()
    source.alloc_raises = Broken
    return raises(Broken, lambda: kernels_pool(source))


@call()
def linux_create_with_bad_input(_scene: Scene) -> Call:
    nothing: Any = None
    return each(
        raises(TypeError, lambda: linux.mempool_create(1, nothing, nothing, None)),
        raises(ValueError, lambda: linux.mempool_create(-1, _made_of_nothing, _made_of_nothing, None)),
        raises(ValueError, lambda: linux.mempool_create_kmalloc_pool(1, -1)),
        raises(ValueError, lambda: linux.mempool_create_page_pool(1, -1)),
        raises(ValueError, lambda: linux.KmemCache(0)),
    )


def _made_of_nothing(*_arguments: object) -> None:
    return None


@call(kernel=True)
def linux_resize(scene: Scene) -> Call:
    return lambda: linux.mempool_resize(scene.pool, 4)


@call(kernel=True)
def linux_resize_smaller(scene: Scene) -> Call:
    return lambda: linux.mempool_resize(scene.pool, 1)


@call(kernel=True)
def linux_resize_in_vain(scene: Scene) -> Call:
    scene.source.alloc_raises = MemoryError
    return lambda: linux.mempool_resize(scene.pool, 4)


@call(kernel=True)
def linux_resize_broken(scene: Scene) -> Call:
    scene.source.alloc_raises = Broken

    def made() -> None:
        if linux.mempool_resize(scene.pool, 4) == NONE_LEFT:
            raise MemoryError

    return raises(Broken, made)


@call(kernel=True)
def linux_resize_without_a_list(scene: Scene) -> Call:
    """-ENOMEM: nothing has changed."""

    def made() -> None:
        assert linux.mempool_resize(scene.pool, FAR_TOO_MANY) == NONE_LEFT

    def look() -> None:
        assert (scene.pool.min_nr, scene.pool.curr_nr) == (2, 2)

    scene.at_end.append(look)
    return made


@call(kernel=True)
def linux_resize_to_nothing(scene: Scene) -> Call:
    return raises(ValueError, lambda: linux.mempool_resize(scene.pool, 0))


@call(kernel=True)
def linux_resize_closed(scene: Scene) -> Call:
    linux.mempool_destroy(scene.pool)

    def made() -> None:
        if linux.mempool_resize(scene.pool, 4) == NONE_LEFT:
            raise MemoryError

    return raises(mempool.PoolClosed, made)


@call(kernel=True)
def linux_is_saturated(scene: Scene) -> Call:
    return lambda: linux.mempool_is_saturated(scene.pool)


@call(kernel=True)
def linux_min_nr(scene: Scene) -> Call:
    return lambda: scene.pool.min_nr


@call(kernel=True)
def linux_destroy(scene: Scene) -> Call:
    return lambda: linux.mempool_destroy(scene.pool)


@call(kernel=True)
def linux_destroy_broken(scene: Scene) -> Call:
    scene.source.free_raises = Broken
    return raises(Broken, lambda: linux.mempool_destroy(scene.pool))


# -- alloc


@call(kernel=True)
def linux_alloc(scene: Scene) -> Call:
    return keep(scene, 0, lambda: linux.mempool_alloc(scene.pool, linux.GFP_KERNEL))


@call(kernel=True)
def linux_alloc_from_reserve(scene: Scene) -> Call:
    scene.source.alloc_raises = MemoryError
    return keep(scene, 0, lambda: linux.mempool_alloc(scene.pool, linux.GFP_ATOMIC))


def _emptied(scene: Scene) -> None:
    """Others have the reserve, and no more can be made."""
    scene.others = [scene.pool.alloc_reserved() for _ in range(2)]
    scene.source.alloc_raises = MemoryError


@call(kernel=True)
def linux_alloc_in_vain(scene: Scene) -> Call:
    _emptied(scene)
    return keep(scene, 0, lambda: linux.mempool_alloc(scene.pool, linux.GFP_NOWAIT))


@call(kernel=True, is_long=True)
def linux_alloc_by_waiting(scene: Scene) -> Call:
    _emptied(scene)
    scene.clock.meanwhile = scene.another_frees()
    return keep(scene, 0, lambda: linux.mempool_alloc(scene.pool, linux.GFP_KERNEL))


@call(kernel=True, is_long=True)
def linux_alloc_while_it_closes(scene: Scene) -> Call:
    _emptied(scene)
    scene.clock.meanwhile = lambda: again(scene.pool.close)
    return raises(mempool.PoolClosed, keep(scene, 0, lambda: linux.mempool_alloc(scene.pool, linux.GFP_KERNEL)))


@call(kernel=True)
def linux_alloc_closed(scene: Scene) -> Call:
    linux.mempool_destroy(scene.pool)
    return raises(mempool.PoolClosed, lambda: linux.mempool_alloc(scene.pool, linux.GFP_NOWAIT))


@call(kernel=True)
def linux_alloc_broken(scene: Scene) -> Call:
    scene.source.alloc_raises = Broken
    return raises(Broken, keep(scene, 0, lambda: linux.mempool_alloc(scene.pool, linux.GFP_NOWAIT)))


@call(kernel=True)
def linux_alloc_zeroed(scene: Scene) -> Call:
    """Which is warned of."""
    return keep(scene, 0, lambda: linux.mempool_alloc(scene.pool, linux.GFP_KERNEL | linux.__GFP_ZERO))


@call(kernel=True)
def linux_alloc_preallocated(scene: Scene) -> Call:
    return keep(scene, 0, lambda: linux.mempool_alloc_preallocated(scene.pool))


@call(kernel=True)
def linux_alloc_preallocated_in_vain(scene: Scene) -> Call:
    _emptied(scene)
    return keep(scene, 0, lambda: linux.mempool_alloc_preallocated(scene.pool))


@call(kernel=True)
def linux_alloc_preallocated_closed(scene: Scene) -> Call:
    linux.mempool_destroy(scene.pool)
    return raises(mempool.PoolClosed, lambda: linux.mempool_alloc_preallocated(scene.pool))


def _bulk(scene: Scene, places: int, **options: Any) -> Call:
    scene.got[0] = [None] * places
    return lambda: linux.mempool_alloc_bulk(scene.pool, scene.got[0], **options)


@call(kernel=True)
def linux_alloc_bulk(scene: Scene) -> Call:
    return _bulk(scene, 2)


@call(kernel=True)
def linux_alloc_bulk_from_reserve(scene: Scene) -> Call:
    scene.source.alloc_raises = MemoryError
    return _bulk(scene, 2, count=2, allocated=0)


@call(kernel=True, is_long=True)
def linux_alloc_bulk_by_waiting(scene: Scene) -> Call:
    _emptied(scene)
    scene.clock.meanwhile = scene.another_frees(2)
    return _bulk(scene, 2)


@call(kernel=True, is_long=True)
def linux_alloc_bulk_of_more_than_is_promised(scene: Scene) -> Call:
    """Which is warned of. Where the source had no memory for all of them, it waits, and is served what others free."""
    scene.others = [scene.pool.alloc() for _ in range(2)]
    scene.clock.meanwhile = scene.another_frees(2)
    return _bulk(scene, 3)


@call(kernel=True)
def linux_alloc_bulk_closed(scene: Scene) -> Call:
    linux.mempool_destroy(scene.pool)
    return raises(mempool.PoolClosed, _bulk(scene, 2))


@call(kernel=True)
def linux_alloc_bulk_broken(scene: Scene) -> Call:
    """One is there already."""
    filled = _bulk(scene, 2)
    scene.got[0][1] = scene.pool.alloc()
    scene.source.alloc_raises = Broken
    return raises(Broken, filled)


@call(kernel=True)
def linux_alloc_bulk_with_bad_input(scene: Scene) -> Call:
    return each(raises(ValueError, _bulk(scene, 2, count=3)), raises(ValueError, _bulk(scene, 2, allocated=1)))


# -- free


@call(kernel=True)
def linux_free(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    return lambda: linux.mempool_free(element, scene.pool)


@call(kernel=True)
def linux_free_none(scene: Scene) -> Call:
    return lambda: linux.mempool_free(None, scene.pool)


@call(kernel=True)
def linux_free_twice(scene: Scene) -> Call:
    element = linux.mempool_alloc_preallocated(scene.pool)
    linux.mempool_free(element, scene.pool)
    return raises(mempool.DoubleFree, lambda: linux.mempool_free(element, scene.pool))


@call(kernel=True)
def linux_free_foreign(scene: Scene) -> Call:
    element = Disposable()
    return raises(mempool.ForeignElement, lambda: linux.mempool_free(element, scene.pool))


@call(kernel=True)
def linux_free_broken(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    scene.source.free_raises = Broken
    return raises(Broken, lambda: linux.mempool_free(element, scene.pool))


@call(kernel=True)
def linux_free_bulk(scene: Scene) -> Call:
    elements = scene.got[0] = scene.pool.alloc_many(3)
    return lambda: linux.mempool_free_bulk(scene.pool, elements)


@call(kernel=True)
def linux_free_bulk_foreign(scene: Scene) -> Call:
    _emptied(scene)
    elements = [Disposable(), *scene.others]
    return raises(mempool.ForeignElement, lambda: linux.mempool_free_bulk(scene.pool, elements))


@call(kernel=True)
def linux_free_bulk_of_more_than_there_are(scene: Scene) -> Call:
    elements = scene.got[0] = scene.pool.alloc_many(2)
    return raises(ValueError, lambda: linux.mempool_free_bulk(scene.pool, elements, 3))


# -- ready-made pools


def _ready_made(create: Callable[[], Any]) -> Call:
    """One that is made and ended: whatever happens, all was disposed of in the end."""

    def made() -> None:
        pool = create()
        if pool is not None:
            again(lambda: linux.mempool_destroy(pool))
            snapshot = pool.core.snapshot()
            assert snapshot["made"] == snapshot["disposed"], snapshot

    return made


@call(is_long=True)
def linux_kmalloc_pool(_scene: Scene) -> Call:
    return _ready_made(lambda: linux.mempool_create_kmalloc_pool(1, 64))


@call(is_long=True)
def linux_slab_pool(_scene: Scene) -> Call:
    return _ready_made(lambda: linux.mempool_create_slab_pool(1, linux.KmemCache("64")))


@call()
def linux_page_pool(_scene: Scene) -> Call:
    linux.mempool_free_pages(linux.mempool_alloc_pages(linux.GFP_KERNEL, 0), 0)  # this asks the system what it has
    return _ready_made(lambda: linux.mempool_create_page_pool(1, 0))


def _by_hand(alloc: Callable[[], Any], free: Callable[[Any], object]) -> Call:
    """What the ready-made pools call, without a pool."""

    def made() -> None:
        element = alloc()
        if element is None:
            return
        element[0] = 1
        again(lambda: free(element))

    return made


@call()
def linux_kmalloc(_scene: Scene) -> Call:
    return _by_hand(lambda: linux.mempool_kmalloc(linux.GFP_KERNEL, 64), lambda element: linux.mempool_kfree(element, 64))


@call()
def linux_kmalloc_too_large(_scene: Scene) -> Call:
    def made() -> None:
        assert linux.mempool_kmalloc(linux.GFP_KERNEL, sys.maxsize) is None

    return made


@call()
def linux_slab(_scene: Scene) -> Call:
    cache = linux.KmemCache(64)
    return _by_hand(
        lambda: linux.mempool_alloc_slab(linux.GFP_KERNEL, cache), lambda element: linux.mempool_free_slab(element, cache)
    )


@call()
def linux_cache(_scene: Scene) -> Call:
    cache = linux.KmemCache(64)
    used = _by_hand(lambda: cache.alloc(linux.GFP_KERNEL), cache.free)
    return each(used, lambda: repr(cache))


@call()
def linux_pages(_scene: Scene) -> Call:
    used = _by_hand(
        lambda: linux.mempool_alloc_pages(linux.GFP_KERNEL, 0), lambda element: linux.mempool_free_pages(element, 0)
    )
    used()  # this asks the system what it has
    return used


@call(is_long=True)
def linux_pages_too_many(_scene: Scene) -> Call:
    def made() -> None:
        assert linux.mempool_alloc_pages(linux.GFP_KERNEL, 60) is None

    made()
    return made
