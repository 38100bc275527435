"""Every way to lease many, for every_call.py."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from scenes import Broken, Call, NotRaised, Scene, call, cancelled, driven, exists, in_time, raises

import mempool


def _entered(scene: Scene, n: int = 3, **options: Any) -> Call:
    def made() -> None:
        with scene.pool.lease_many(n, **options) as elements:
            assert len(elements) == n
            assert all(map(exists, elements))

    return made


def _in_a_task(scene: Scene, n: int = 3, **options: Any) -> Callable[[], Coroutine[Any, Any, object]]:
    async def routine() -> None:
        async with scene.pool.lease_many(n, **options) as elements:
            assert all(map(exists, elements))

    return routine


@call()
def lease_many_with(scene: Scene) -> Call:
    return in_time(_entered(scene, timeout=0))


@call()
def lease_many_body_raises(scene: Scene) -> Call:
    def made() -> None:
        with scene.pool.lease_many(2):
            raise Broken

    return raises(Broken, made)


@call()
def lease_many_held(scene: Scene) -> Call:
    def made() -> None:
        leases = scene.pool.lease_many(2)
        assert all(map(exists, leases.elements))
        assert all(map(exists, leases.elements))
        leases.release()

    return made


@call()
def lease_many_by_waiting(scene: Scene) -> Call:
    scene.take_all()
    scene.clock.meanwhile = scene.another_frees(2)
    return _entered(scene, 2)


@call()
def lease_many_in_vain(scene: Scene) -> Call:
    scene.take_all()
    return raises(mempool.PoolTimeout, _entered(scene, 2, timeout=0))


@call()
def lease_many_source_broken(scene: Scene) -> Call:
    scene.source.alloc_raises = Broken
    return raises(Broken, in_time(_entered(scene, timeout=0)))


@call()
def lease_many_above_the_limit(scene: Scene) -> Call:
    return raises(ValueError, lambda: scene.pool.lease_many(6))


@call()
def lease_many_bad_timeout(scene: Scene) -> Call:
    return raises(ValueError, lambda: scene.pool.lease_many(1, timeout=-1))


@call()
def lease_many_released_twice(scene: Scene) -> Call:
    leases = scene.pool.lease_many(2)
    assert all(map(exists, leases.elements))
    leases.release()
    return raises(mempool.DoubleFree, leases.release)


@call()
def lease_many_used_twice(scene: Scene) -> Call:
    leases = scene.pool.lease_many(2)
    with leases:
        pass
    return raises(RuntimeError, leases.__enter__)


@call()
def lease_many_freed_behind_its_back(scene: Scene) -> Call:
    leases = scene.pool.lease_many(3)
    scene.pool.free(leases.elements[1])
    return raises(mempool.DoubleFree, leases.release)


@call()
def lease_many_dropped(scene: Scene) -> Call:
    def made() -> None:
        leases = scene.pool.lease_many(2)
        assert all(map(exists, leases.elements))
        del leases

    return made


@call()
def lease_many_freed_and_dropped(scene: Scene) -> Call:
    leases = [scene.pool.lease_many(3)]
    scene.pool.free(leases[0].elements[1])

    def made() -> None:
        leases.clear()
        if scene.pool.out:
            raise NotRaised  # there was no memory for a finalizer to return them

    return made


@call()
def lease_many_closed(scene: Scene) -> Call:
    scene.pool.close()
    return raises(mempool.PoolClosed, _entered(scene))


@call()
def lease_many_cannot_be_copied(scene: Scene) -> Call:
    return raises(TypeError, scene.pool.lease_many(1).__reduce__)


@call(resets=True)
def lease_many_where_the_reset_breaks(scene: Scene) -> Call:
    scene.source.reset_raises = Broken
    return raises(Broken, _entered(scene, 2))


@call(buffers={})
def lease_many_of_buffers(scene: Scene) -> Call:
    return in_time(_entered(scene, timeout=0))


@call(buffers={})
def lease_many_of_a_viewed_buffer(scene: Scene) -> Call:
    leases = [scene.pool.lease_many(2)]
    views = [leases[0].elements[1][:]]
    scene.at_end += [views.clear, leases.clear]
    return raises(BufferError, leases[0].release)


@call(buffers={})
def lease_many_that_linger(scene: Scene) -> Call:
    views: list[memoryview] = []

    def made() -> None:
        with scene.pool.lease_many(2, linger=True) as elements:
            views.append(elements[0][:])
        elements.clear()
        views.clear()

    scene.at_end.append(views.clear)
    return made


# -- in a task


@call(in_loop=True)
def lease_many_async_with(scene: Scene) -> Call:
    return in_time(driven(_in_a_task(scene, timeout=0)))


@call(in_loop=True)
def lease_many_awaited(scene: Scene) -> Call:
    async def routine() -> None:
        leases = await scene.pool.lease_many(2)
        leases.release()

    return driven(routine)


@call(in_loop=True)
def lease_many_async_by_waiting(scene: Scene) -> Call:
    scene.take_all()
    return in_time(driven(_in_a_task(scene, 2), scene.another_frees(2)))


@call(in_loop=True)
def lease_many_async_cancelled(scene: Scene) -> Call:
    scene.take_all()
    return cancelled(_in_a_task(scene, 2))


@call(in_loop=True)
def lease_many_async_cancelled_when_served(scene: Scene) -> Call:
    scene.take_all()
    return cancelled(_in_a_task(scene, 2), scene.another_frees(2))
