"""Every way to alloc and to lease in a task, for every_call.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from calls_that_free_and_resize import found_again
from scenes import Broken, Call, Scene, again, call, cancelled, driven, each, exists, in_time, raises

import mempool
from mempool import parking
from mempool.local import offloading

Routine = Callable[[], Coroutine[Any, Any, object]]


def _one(scene: Scene, **options: Any) -> Routine:
    async def routine() -> None:
        scene.got[0] = await scene.pool.alloc_async(**options)

    return routine


def _many(scene: Scene, n: int, **options: Any) -> Routine:
    async def routine() -> None:
        scene.got[0] = await scene.pool.alloc_many_async(n, **options)

    return routine


def _lease(scene: Scene, **options: Any) -> Routine:
    async def routine() -> None:
        async with scene.pool.lease(**options) as element:
            assert exists(element)

    return routine


# -- alloc_async


@call(in_loop=True)
def alloc_async_warm(scene: Scene) -> Call:
    scene.pool.free(scene.pool.alloc())
    return driven(_one(scene))


@call(in_loop=True)
def alloc_async_from_source(scene: Scene) -> Call:
    return driven(_one(scene))


@call(in_loop=True)
def alloc_async_from_reserve(scene: Scene) -> Call:
    scene.source.alloc_raises = MemoryError
    return driven(_one(scene))


@call(in_loop=True)
def alloc_async_by_waiting(scene: Scene) -> Call:
    scene.take_all()
    return driven(_one(scene), scene.another_frees())


@call(in_loop=True)
def alloc_async_in_vain(scene: Scene) -> Call:
    scene.take_all()
    return raises(mempool.PoolTimeout, driven(_one(scene, timeout=0)))


@call(in_loop=True)
def alloc_async_in_vain_by_a_kind_of_ones_own(scene: Scene) -> Call:
    scene.take_all()
    owner = object()
    loop = asyncio.get_running_loop()

    def made() -> None:
        remove = parking.register_tasks(lambda: owner, lambda clock: parking.AsyncioParker(clock, loop))
        try:
            driven(_one(scene, timeout=0))()
        finally:
            again(remove)

    return raises(mempool.PoolTimeout, made)


@call(in_loop=True)
def alloc_async_cancelled(scene: Scene) -> Call:
    scene.take_all()
    return cancelled(_one(scene))


@call(in_loop=True)
def alloc_async_cancelled_when_served(scene: Scene) -> Call:
    scene.take_all()
    return cancelled(_one(scene), scene.another_frees())


@call(in_loop=True)
def alloc_async_closed(scene: Scene) -> Call:
    scene.pool.close()
    return raises(mempool.PoolClosed, driven(_one(scene)))


@call(in_loop=True)
def alloc_async_while_it_closes(scene: Scene) -> Call:
    scene.take_all()
    return raises(mempool.PoolClosed, driven(_one(scene), lambda: again(scene.pool.close)))


@call(in_loop=True, max_waiting=0)
def alloc_async_line_full(scene: Scene) -> Call:
    scene.take_all()
    return raises(mempool.LineFull, driven(_one(scene)))


@call(in_loop=True, track="holders")
def alloc_async_deadlock(scene: Scene) -> Call:
    scene.got[1] = scene.pool.alloc_many(5)

    async def wait_for_oneself() -> None:
        for element in scene.got[1]:
            scene.pool.take_over(element)
        await _one(scene)()

    return raises(mempool.DeadlockError, driven(wait_for_oneself))


@call(in_loop=True)
def alloc_async_source_broken(scene: Scene) -> Call:
    scene.source.alloc_raises = Broken
    return raises(Broken, driven(_one(scene)))


@call(in_loop=True)
def alloc_async_bad_timeout(scene: Scene) -> Call:
    return raises(ValueError, driven(_one(scene, timeout=-1)))


@call()
def alloc_async_without_a_loop(scene: Scene) -> Call:
    return raises(RuntimeError, driven(_one(scene)))


# -- alloc_many_async


@call(in_loop=True)
def alloc_many_async(scene: Scene) -> Call:
    return in_time(driven(_many(scene, 4, timeout=0)))


@call(in_loop=True)
def alloc_many_async_by_waiting(scene: Scene) -> Call:
    scene.take_all()
    return driven(_many(scene, 2), scene.another_frees(2))


@call(in_loop=True, is_long=True)
def alloc_many_async_in_vain(scene: Scene) -> Call:
    scene.take_all()
    scene.pool.free(scene.others.pop())
    return raises(mempool.PoolTimeout, driven(_many(scene, 2, timeout=0)))


@call(in_loop=True)
def alloc_many_async_cancelled_when_gathering(scene: Scene) -> Call:
    scene.take_all()
    return cancelled(_many(scene, 2), scene.another_frees(1))


@call(in_loop=True)
def alloc_many_async_closed(scene: Scene) -> Call:
    scene.pool.close()
    return raises(mempool.PoolClosed, driven(_many(scene, 2)))


@call(in_loop=True, is_long=True)
def alloc_many_async_while_it_closes(scene: Scene) -> Call:
    scene.take_all()
    return raises(mempool.PoolClosed, driven(_many(scene, 2), lambda: again(scene.pool.close)))


@call(in_loop=True)
def alloc_many_async_source_broken(scene: Scene) -> Call:
    scene.source.alloc_raises = Broken
    return raises(Broken, in_time(driven(_many(scene, 4, timeout=0))))


@call(in_loop=True)
def alloc_many_async_beyond_the_limit(scene: Scene) -> Call:
    return raises(ValueError, driven(_many(scene, 6)))


# -- a pool in a task


@call(in_loop=True)
def drain_async_at_once(scene: Scene) -> Call:
    return driven(scene.pool.drain_async)


@call(in_loop=True)
def drain_async_in_vain(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc()
    return raises(mempool.PoolTimeout, driven(lambda: scene.pool.drain_async(0)))


@call(in_loop=True)
def enter_pool_async(scene: Scene) -> Call:
    return driven(scene.pool.__aenter__)


# -- leases


@call(in_loop=True)
def lease_awaited(scene: Scene) -> Call:
    async def routine() -> None:
        lease = await scene.pool.lease()
        lease.release()

    return driven(routine)


@call(in_loop=True)
def lease_async_with(scene: Scene) -> Call:
    return driven(_lease(scene))


@call(in_loop=True)
def lease_async_warm(scene: Scene) -> Call:
    scene.pool.free(scene.pool.alloc())
    return driven(_lease(scene))


@call(in_loop=True)
def lease_async_by_waiting(scene: Scene) -> Call:
    scene.take_all()
    return driven(_lease(scene), scene.another_frees())


@call(in_loop=True, is_long=True)
def lease_async_in_vain(scene: Scene) -> Call:
    scene.take_all()
    return raises(mempool.PoolTimeout, driven(_lease(scene, timeout=0)))


@call(in_loop=True)
def lease_async_cancelled(scene: Scene) -> Call:
    scene.take_all()
    return cancelled(_lease(scene))


@call(in_loop=True)
def lease_async_cancelled_when_served(scene: Scene) -> Call:
    scene.take_all()
    return cancelled(_lease(scene), scene.another_frees())


@call(in_loop=True)
def lease_async_closed(scene: Scene) -> Call:
    scene.pool.close()
    return raises(mempool.PoolClosed, driven(_lease(scene)))


@call(in_loop=True)
def lease_async_body_raises(scene: Scene) -> Call:
    async def routine() -> None:
        async with scene.pool.lease():
            raise Broken

    return raises(Broken, driven(routine))


# -- surplus that a thread disposes of


def _in_a_thread_later(scene: Scene) -> Call:
    """What would begin in a thread begins after the call: the sweeps make memory lack, or interrupt, in one thread."""
    start = offloading.start_new_thread

    def start_later(run: Call, arguments: tuple[()]) -> int:
        return 0  # whoever ends the scene has it done

    def begin() -> None:
        offloading.start_new_thread = start

    scene.at_end.append(begin)

    def ready() -> None:
        offloading.start_new_thread = start_later

    return ready


@call(in_loop=True, offload=True)
def free_many_beside_a_loop(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc_many(5)
    return each(_in_a_thread_later(scene), lambda: scene.pool.free_many(scene.got[0]))


@call(in_loop=True, offload=True)
def free_beside_a_loop(scene: Scene) -> Call:
    scene.others = scene.pool.alloc_many(5)
    scene.pool.resize(0, keep=0)
    scene.got[0] = scene.others.pop()
    return each(_in_a_thread_later(scene), lambda: scene.pool.free(scene.got[0]))


@call(in_loop=True, offload=True, resets=True)
def free_many_to_reset_beside_a_loop(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc_many(5)
    return each(_in_a_thread_later(scene), lambda: scene.pool.free_many(scene.got[0]))


@call(in_loop=True, offload=True, buffers={"zero": "free"})
def free_wiped_beside_a_loop(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc()
    return each(_in_a_thread_later(scene), lambda: scene.pool.free(scene.got[0]))


@call(in_loop=True, offload=True)
def discard_beside_a_loop(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc()
    return each(_in_a_thread_later(scene), lambda: scene.pool.discard(scene.got[0]))


@call(in_loop=True, offload=True)
def write_off_beside_a_loop(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    found_again(scene, element)
    return each(_in_a_thread_later(scene), lambda: scene.pool.write_off(element))


@call(in_loop=True, offload=True, buffers={})
def free_buffers_beside_a_loop(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc_many(5)
    return each(_in_a_thread_later(scene), lambda: scene.pool.free_many(scene.got[0]))
