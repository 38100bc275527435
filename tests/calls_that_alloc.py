"""Every way to alloc, for every_call.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from calls_that_begin_and_end import again
from scenes import Broken, Call, NotRaised, Scene, call, driven, keep, raises

import mempool

# -- alloc


@call()
def alloc_warm(scene: Scene) -> Call:
    scene.pool.free(scene.pool.alloc())
    return keep(scene, 0, scene.pool.alloc)


@call()
def alloc_from_source(scene: Scene) -> Call:
    return keep(scene, 0, scene.pool.alloc)


@call()
def alloc_from_reserve(scene: Scene) -> Call:
    scene.source.alloc_raises = MemoryError
    return keep(scene, 0, scene.pool.alloc)


@call()
def alloc_in_vain(scene: Scene) -> Call:
    scene.take_all()
    return raises(mempool.PoolTimeout, lambda: scene.pool.alloc(timeout=0))


@call()
def alloc_by_waiting(scene: Scene) -> Call:
    scene.take_all()
    scene.clock.meanwhile = scene.another_frees()
    return keep(scene, 0, scene.pool.alloc)


@call()
def alloc_while_a_resize_grows(scene: Scene) -> Call:
    scene.take_all()

    def meanwhile() -> None:
        scene.source.alloc_raises = None
        try:
            scene.pool.resize(3, limit=7)
        except MemoryError:
            pass
        if scene.pool.stats().waiting:
            scene.another_frees()()

    scene.clock.meanwhile = meanwhile
    return keep(scene, 0, scene.pool.alloc)


@call()
def alloc_while_it_closes(scene: Scene) -> Call:
    scene.take_all()

    def meanwhile() -> None:
        again(scene.pool.close)

    scene.clock.meanwhile = meanwhile
    return raises(mempool.PoolClosed, scene.pool.alloc)


@call()
def alloc_closed(scene: Scene) -> Call:
    scene.pool.close()
    return raises(mempool.PoolClosed, scene.pool.alloc)


@call(max_waiting=0)
def alloc_line_full(scene: Scene) -> Call:
    scene.take_all()
    return raises(mempool.LineFull, scene.pool.alloc)


@call(track="holders")
def alloc_deadlock(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc_many(5)
    return raises(mempool.DeadlockError, scene.pool.alloc)


@call()
def alloc_source_broken(scene: Scene) -> Call:
    scene.source.alloc_raises = Broken
    return raises(Broken, keep(scene, 0, scene.pool.alloc))


@call()
def alloc_bad_timeout(scene: Scene) -> Call:
    # Where there is no memory for the error, there may be an element.
    return raises(ValueError, keep(scene, 0, lambda: scene.pool.alloc(timeout=-1)))


@call()
def try_alloc(scene: Scene) -> Call:
    return keep(scene, 0, scene.pool.try_alloc)


@call()
def try_alloc_in_vain(scene: Scene) -> Call:
    scene.take_all()
    return keep(scene, 0, scene.pool.try_alloc)


@call()
def alloc_reserved(scene: Scene) -> Call:
    return keep(scene, 0, scene.pool.alloc_reserved)


@call()
def alloc_reserved_in_vain(scene: Scene) -> Call:
    scene.take_all()
    return keep(scene, 0, scene.pool.alloc_reserved)


@call()
def alloc_many(scene: Scene) -> Call:
    scene.pool.free(scene.pool.alloc())

    def made() -> None:
        try:
            scene.got[0] = scene.pool.alloc_many(5, timeout=0)
        except mempool.PoolTimeout:
            raise NotRaised from None  # the source could not make them

    return made


@call()
def alloc_many_by_waiting(scene: Scene) -> Call:
    scene.take_all()
    scene.clock.meanwhile = scene.another_frees(2)
    return keep(scene, 0, lambda: scene.pool.alloc_many(2))


@call()
def alloc_many_in_vain(scene: Scene) -> Call:
    scene.take_all()
    scene.pool.free(scene.others.pop())
    return raises(mempool.PoolTimeout, lambda: scene.pool.alloc_many(2, timeout=0))


@call()
def alloc_many_beyond_the_limit(scene: Scene) -> Call:
    return raises(ValueError, lambda: scene.pool.alloc_many(6))


# -- alloc_async


@call(in_loop=True)
def alloc_async_warm(scene: Scene) -> Call:
    async def routine() -> None:
        scene.got[0] = await scene.pool.alloc_async()

    scene.pool.free(scene.pool.alloc())
    return driven(routine)


@call(in_loop=True)
def alloc_async_from_reserve(scene: Scene) -> Call:
    async def routine() -> None:
        scene.got[0] = await scene.pool.alloc_async()

    scene.source.alloc_raises = MemoryError
    return driven(routine)


@call(in_loop=True)
def alloc_async_by_waiting(scene: Scene) -> Call:
    async def routine() -> None:
        scene.got[0] = await scene.pool.alloc_async()

    scene.take_all()
    return driven(routine, scene.another_frees())


@call(in_loop=True)
def alloc_async_in_vain(scene: Scene) -> Call:
    async def routine() -> None:
        scene.got[0] = await scene.pool.alloc_async(timeout=0)

    scene.take_all()
    return raises(mempool.PoolTimeout, driven(routine))


def _cancelled(scene: Scene, routine: Callable[[], Coroutine[Any, Any, object]], meanwhile: Call) -> Call:
    cancelled = asyncio.CancelledError()

    def cancel() -> None:
        coroutine = routine()
        try:
            coroutine.send(None)
            meanwhile()
            coroutine.throw(cancelled)
        except asyncio.CancelledError:
            return
        finally:
            coroutine.close()
        raise AssertionError("not cancelled")

    return cancel


@call(in_loop=True)
def alloc_async_cancelled(scene: Scene) -> Call:
    async def routine() -> None:
        scene.got[0] = await scene.pool.alloc_async()

    scene.take_all()
    return _cancelled(scene, routine, lambda: None)


@call(in_loop=True)
def alloc_async_cancelled_when_served(scene: Scene) -> Call:
    async def routine() -> None:
        scene.got[0] = await scene.pool.alloc_async()

    scene.take_all()
    return _cancelled(scene, routine, scene.another_frees())


@call(in_loop=True)
def alloc_many_async(scene: Scene) -> Call:
    async def routine() -> None:
        try:
            scene.got[0] = await scene.pool.alloc_many_async(4, timeout=0)
        except mempool.PoolTimeout:
            raise NotRaised from None

    return driven(routine)


@call(in_loop=True)
def alloc_many_async_by_waiting(scene: Scene) -> Call:
    async def routine() -> None:
        scene.got[0] = await scene.pool.alloc_many_async(2)

    scene.take_all()
    return driven(routine, scene.another_frees(2))


@call(in_loop=True)
def alloc_many_async_cancelled_when_gathering(scene: Scene) -> Call:
    async def routine() -> None:
        scene.got[0] = await scene.pool.alloc_many_async(2)

    scene.take_all()
    return _cancelled(scene, routine, scene.another_frees(1))


@call()
def alloc_async_without_a_loop(scene: Scene) -> Call:
    async def routine() -> None:
        scene.got[0] = await scene.pool.alloc_async()

    return raises(RuntimeError, driven(routine))
