"""Looking, beginning, ending, the kernel's names and the sources, for every_call.py."""

from __future__ import annotations

import asyncio
from typing import Any

from scenes import Broken, Call, Element, Scene, Source, call, keep, kernels_pool, raises

import mempool
from mempool import linux

# -- looking


@call()
def guarantee(scene: Scene) -> Call:
    return scene.pool.guarantee


@call()
def stats(scene: Scene) -> Call:
    return scene.pool.stats


@call()
def represented(scene: Scene) -> Call:
    return lambda: repr(scene.pool)


@call()
def why_empty(scene: Scene) -> Call:
    scene.take_all()
    return scene.pool.why_empty


@call(track="holders")
def holders(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc_many(5)
    return scene.pool.holders


@call(track="holders")
def hand_over(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    return lambda: scene.pool.hand_over(element)


@call()
def numbers_of_the_kernel(scene: Scene) -> Call:
    return lambda: (scene.pool.min_nr, scene.pool.curr_nr)


# -- beginning and end


@call()
def close(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc()
    return scene.pool.close


@call()
def closed_by_with(scene: Scene) -> Call:
    def made() -> None:
        with scene.pool:
            pass

    return made


@call()
def drain(scene: Scene) -> Call:
    return scene.pool.drain


@call()
def drain_by_waiting(scene: Scene) -> Call:
    scene.others = [scene.pool.alloc()]
    scene.clock.meanwhile = scene.another_frees()
    return scene.pool.drain


@call()
def drain_in_vain(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc()
    return raises(mempool.PoolTimeout, lambda: scene.pool.drain(timeout=0))


def _begin(source: Source, **options: Any) -> Call:
    """A pool of its own that is made and closed: whatever happens, its source has everything back in the end."""

    def made() -> None:
        try:
            pool = mempool.Pool(source, 3, **options)
        except BaseException:
            assert not any(map(_exists, source.made)), "a pool that could not be made keeps elements"
            raise
        again(pool.close)
        assert not any(map(_exists, source.made)), "a pool that is closed keeps elements"

    return made


def again(made: Call) -> None:
    """The call, a second time where there was no memory for the first."""
    try:
        made()
    except MemoryError:
        made()


def _exists(element: Element) -> bool:
    return element.exists


@call()
def begin(_scene: Scene) -> Call:
    return _begin(Source())


@call()
def begin_with_holders(_scene: Scene) -> Call:
    return _begin(Source(), track="holders")


@call()
def dropped_unclosed(_scene: Scene) -> Call:
    source = Source()
    pools = [mempool.Pool(source, 3)]

    def made() -> None:
        pools.clear()
        assert not any(map(_exists, source.made)), "a pool that is gone keeps elements"

    return made


@call()
def begin_in_vain(_scene: Scene) -> Call:
    source = Source()
    source.alloc_raises = MemoryError
    return raises(MemoryError, _begin(source))


@call()
def begin_broken(_scene: Scene) -> Call:
    source = Source()
    source.alloc_raises = Broken
    return raises(Broken, _begin(source))


@call()
def begin_with_bad_input(_scene: Scene) -> Call:
    return raises(ValueError, _begin(Source(), keep=1))


# -- mempool.linux


@call(kernel=True)
def linux_alloc(scene: Scene) -> Call:
    return keep(scene, 0, lambda: linux.mempool_alloc(scene.pool, linux.GFP_KERNEL))  # type: ignore[arg-type]


@call(kernel=True)
def linux_alloc_from_reserve(scene: Scene) -> Call:
    scene.source.alloc_raises = MemoryError
    return keep(scene, 0, lambda: linux.mempool_alloc(scene.pool, linux.GFP_ATOMIC))  # type: ignore[arg-type]


@call(kernel=True)
def linux_alloc_in_vain(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc_many(2)
    scene.source.alloc_raises = MemoryError
    return keep(scene, 1, lambda: linux.mempool_alloc(scene.pool, linux.GFP_NOWAIT))  # type: ignore[arg-type]


@call(kernel=True)
def linux_alloc_bulk(scene: Scene) -> Call:
    scene.got[0] = [None, None]
    return lambda: linux.mempool_alloc_bulk(scene.pool, scene.got[0])  # type: ignore[arg-type]


@call(kernel=True)
def linux_free(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    return lambda: linux.mempool_free(element, scene.pool)  # type: ignore[arg-type]


@call(kernel=True)
def linux_free_bulk(scene: Scene) -> Call:
    elements = scene.got[0] = scene.pool.alloc_many(3)
    return lambda: linux.mempool_free_bulk(scene.pool, elements)  # type: ignore[arg-type]


@call(kernel=True)
def linux_resize(scene: Scene) -> Call:
    return lambda: linux.mempool_resize(scene.pool, 4)  # type: ignore[arg-type]


@call(kernel=True)
def linux_destroy(scene: Scene) -> Call:
    return lambda: linux.mempool_destroy(scene.pool)  # type: ignore[arg-type]


@call()
def linux_create(_scene: Scene) -> Call:
    source = Source()

    def made() -> None:
        pool = kernels_pool(source)
        again(lambda: linux.mempool_destroy(pool))
        assert not any(map(_exists, source.made)), "a pool that is closed, or could not be made, keeps elements"

    return made


# -- sources


def _open_buffers() -> mempool.Buffers:
    """Buffers that have asked the system already what it has to offer, which takes thousands of allocations."""
    source = mempool.Buffers(4096)
    source.free(source.alloc())
    return source


@call()
def buffers(_scene: Scene) -> Call:
    source = _open_buffers()

    def made() -> None:
        element = source.alloc()
        element[:1] = b"1"
        source.free(element)

    return made


@call()
def pool_of_buffers(_scene: Scene) -> Call:
    source = _open_buffers()

    def made() -> None:
        with mempool.Pool(source, 1) as pool, pool.lease() as element:
            element[:1] = b"1"

    return made


@call()
def pool_of_objects(_scene: Scene) -> Call:
    source = mempool.Objects(Element)

    def made() -> None:
        with mempool.Pool(source, 1) as pool, pool.lease() as element:
            assert element.exists

    return made


def in_a_task(function: Call) -> None:
    """Run a function inside a task of an event loop."""

    async def task() -> None:
        function()

    with asyncio.Runner() as runner:
        runner.run(task())
