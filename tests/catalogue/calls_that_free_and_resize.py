"""Frees, leases and resizes, for every_call.py."""

from __future__ import annotations

import _thread
from copy import copy
from itertools import repeat

from scenes import Broken, Call, Disposable, NotRaised, Scene, call, exists, listed, raises

import mempool

# -- free


@call()
def free_kept(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    return lambda: scene.pool.free(element)


@call()
def free_surplus(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc_many(4)
    element = scene.got[0][0]
    scene.pool.free_many(scene.got[0][1:])
    return lambda: scene.pool.free(element)


@call()
def free_twice(scene: Scene) -> Call:
    element = scene.pool.alloc()
    scene.pool.free(element)
    return raises(mempool.DoubleFree, lambda: scene.pool.free(element))


@call()
def free_foreign(scene: Scene) -> Call:
    element = Disposable()
    return raises(mempool.ForeignElement, lambda: scene.pool.free(element))


@call()
def free_closed(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    scene.pool.close()
    return lambda: scene.pool.free(element)


@call()
def free_where_the_source_breaks(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    scene.pool.close()
    scene.source.free_raises = Broken
    return raises(Broken, lambda: scene.pool.free(element))


@call(resets=True)
def free_where_the_reset_breaks(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    scene.source.reset_raises = Broken
    return raises(Broken, lambda: scene.pool.free(element))


@call(resets=True)
def free_reset(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    return lambda: scene.pool.free(element)


@call()
def free_many(scene: Scene) -> Call:
    elements = scene.got[0] = scene.pool.alloc_many(5)
    return lambda: scene.pool.free_many(elements)


@call()
def free_many_one_twice(scene: Scene) -> Call:
    elements = scene.got[0] = scene.pool.alloc_many(3)
    return raises(mempool.DoubleFree, lambda: scene.pool.free_many([*elements, elements[0]]))


@call()
def free_many_one_foreign(scene: Scene) -> Call:
    elements = scene.got[0] = scene.pool.alloc_many(2)
    foreign = Disposable()
    return raises(mempool.ForeignElement, lambda: scene.pool.free_many([*elements, foreign]))


@call()
def free_many_closed(scene: Scene) -> Call:
    elements = scene.got[0] = scene.pool.alloc_many(3)
    scene.pool.close()
    return lambda: scene.pool.free_many(elements)


@call()
def free_many_where_the_source_breaks(scene: Scene) -> Call:
    freed = free_many_closed(scene)
    scene.source.free_raises = Broken
    return raises(Broken, freed)


@call(resets=True)
def free_many_where_the_reset_breaks(scene: Scene) -> Call:
    elements = scene.got[0] = scene.pool.alloc_many(3)
    scene.source.reset_raises = Broken
    return raises(Broken, lambda: scene.pool.free_many(elements))


# -- leases


@call()
def lease_with(scene: Scene) -> Call:
    def made() -> None:
        with scene.pool.lease() as element:
            assert exists(element)

    return made


@call()
def lease_warm(scene: Scene) -> Call:
    scene.pool.free(scene.pool.alloc())
    return lease_with(scene)


@call()
def lease_body_raises(scene: Scene) -> Call:
    def made() -> None:
        with scene.pool.lease():
            raise Broken

    return raises(Broken, made)


@call()
def lease_held(scene: Scene) -> Call:
    def made() -> None:
        lease = scene.pool.lease()
        assert exists(lease.element)
        lease.release()

    return made


@call()
def lease_by_waiting(scene: Scene) -> Call:
    scene.take_all()
    scene.clock.meanwhile = scene.another_frees()
    return lease_with(scene)


@call()
def lease_in_vain(scene: Scene) -> Call:
    scene.take_all()
    return raises(mempool.PoolTimeout, lambda: scene.pool.lease(timeout=0).element)


@call()
def lease_released_twice(scene: Scene) -> Call:
    lease = scene.pool.lease()
    assert exists(lease.element)
    lease.release()
    return raises(mempool.DoubleFree, lease.release)


@call()
def lease_used_twice(scene: Scene) -> Call:
    lease = scene.pool.lease()
    with lease:
        pass
    return raises(RuntimeError, lease.__enter__)


@call()
def lease_freed_behind_its_back(scene: Scene) -> Call:
    lease = scene.pool.lease()
    scene.pool.free(lease.element)
    return raises(mempool.DoubleFree, lease.release)


@call()
def lease_never_used(scene: Scene) -> Call:
    return lambda: scene.pool.lease() and None


@call()
def lease_dropped(scene: Scene) -> Call:
    def made() -> None:
        lease = scene.pool.lease()
        assert exists(lease.element)
        del lease

    return made


@call()
def lease_warm_dropped(scene: Scene) -> Call:
    scene.pool.free(scene.pool.alloc())
    return lease_dropped(scene)


@call()
def lease_dropped_at_the_bottom_of_a_stack(scene: Scene) -> Call:
    """Where no frame is that a warning could name."""
    leases = [scene.pool.lease()]
    assert exists(leases[0].element)
    threads = _thread._count()
    shut = _thread.allocate_lock()
    shut.acquire()
    turns = repeat(None, 5000)  # of a tenth of a millisecond: a busy machine takes its time to begin a thread

    def made() -> None:
        _thread.start_new_thread(leases.clear, ())
        for _ in turns:
            if not leases and _thread._count() <= threads:
                return
            shut.acquire(True, 0.0001)  # in vain, and lets the other thread run
        raise NotRaised  # it had no memory to begin

    scene.at_end.append(leases.clear)
    return made


@call()
def lease_closed(scene: Scene) -> Call:
    scene.pool.close()
    return raises(mempool.PoolClosed, lambda: scene.pool.lease().element)


@call()
def lease_bad_timeout(scene: Scene) -> Call:
    return raises(ValueError, lambda: scene.pool.lease(timeout=-1).element)


@call(resets=True)
def lease_where_the_reset_breaks(scene: Scene) -> Call:
    scene.source.reset_raises = Broken
    return raises(Broken, lease_with(scene))


@call()
def lease_where_the_source_breaks(scene: Scene) -> Call:
    lease = scene.pool.lease()
    assert exists(lease.element)
    scene.pool.close()
    scene.source.free_raises = Broken
    return raises(Broken, lease.release)


@call()
def lease_made_or_copied_by_hand(scene: Scene) -> Call:
    lease = scene.pool.lease()

    def made() -> None:
        raises(TypeError, mempool.Lease)()
        raises(TypeError, lambda: copy(lease))()

    return made


for track in ("nothing", "holders"):
    listed(f"free_kept_track_{track}", free_kept, track=track)
    listed(f"free_surplus_track_{track}", free_surplus, track=track)
    listed(f"lease_with_track_{track}", lease_with, track=track)
    listed(f"lease_dropped_track_{track}", lease_dropped, track=track)


# -- resize


@call()
def resize_grow(scene: Scene) -> Call:
    return lambda: scene.pool.resize(4)


@call()
def resize_grow_in_vain(scene: Scene) -> Call:
    scene.source.alloc_raises = MemoryError
    return lambda: scene.pool.resize(4)


@call()
def resize_grow_broken(scene: Scene) -> Call:
    scene.source.alloc_raises = Broken
    return raises(Broken, lambda: scene.pool.resize(4))


@call()
def resize_grow_by_far(scene: Scene) -> Call:
    return lambda: scene.pool.resize(100, limit=None)


@call()
def resize_shrink(scene: Scene) -> Call:
    scene.pool.resize(5)
    return lambda: scene.pool.resize(0, keep=0)


@call(is_long=True)
def resize_shrink_where_the_source_breaks(scene: Scene) -> Call:
    shrunk = resize_shrink(scene)
    scene.source.free_raises = Broken
    return raises(Broken, shrunk)


@call()
def resize_keep(scene: Scene) -> Call:
    return lambda: scene.pool.resize(keep=4)


@call()
def resize_limit_lowered(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc_many(5)
    scene.pool.free_many(scene.got[0][2:])
    return lambda: scene.pool.resize(limit=2)


@call()
def resize_negative(scene: Scene) -> Call:
    return raises(ValueError, lambda: scene.pool.resize(-1))


@call()
def resize_no_number(scene: Scene) -> Call:
    return raises(TypeError, lambda: scene.pool.resize("many"))  # type: ignore[arg-type]


@call()
def resize_keep_below_the_reserve(scene: Scene) -> Call:
    return raises(ValueError, lambda: scene.pool.resize(3, keep=2))


@call()
def resize_beyond_the_limit(scene: Scene) -> Call:
    return raises(ValueError, lambda: scene.pool.resize(6))


@call()
def resize_closed(scene: Scene) -> Call:
    scene.pool.close()
    return raises(mempool.PoolClosed, lambda: scene.pool.resize(3))


@call()
def refill(scene: Scene) -> Call:
    scene.source.alloc_raises = MemoryError
    scene.pool.resize(4)
    scene.source.alloc_raises = None
    return scene.pool.refill


@call()
def refill_in_vain(scene: Scene) -> Call:
    scene.source.alloc_raises = MemoryError
    scene.pool.resize(4)
    return scene.pool.refill


@call()
def refill_source_broken(scene: Scene) -> Call:
    refilled = refill(scene)
    scene.source.alloc_raises = Broken
    return raises(Broken, refilled)


@call()
def refill_closed(scene: Scene) -> Call:
    scene.pool.close()
    return scene.pool.refill


# -- what is broken or lost


@call()
def discard(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    return lambda: scene.pool.discard(element)


@call()
def discard_in_vain(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    scene.source.alloc_raises = MemoryError
    return lambda: scene.pool.discard(element)


@call()
def lease_discard(scene: Scene) -> Call:
    def made() -> None:
        lease = scene.pool.lease()
        with lease as element:
            assert exists(element)
            lease.discard()

    return made


def found_again(scene: Scene, element: object) -> None:
    """What was written off is somebody's still, in the end: the source has it back from him."""

    def found() -> None:
        if not scene.pool.core.is_out(element):
            scene.source.free(element)
        scene.pool._engine.giving.written_off.clear()  # the last thousands are remembered, for a message

    scene.at_end.append(found)


@call()
def write_off(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    found_again(scene, element)
    return lambda: scene.pool.write_off(element)


@call(track="holders")
def write_off_by_holder(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    found_again(scene, element)
    holder = scene.pool.holders()[0]
    return lambda: scene.pool.write_off(holder)


@call()
def write_off_all(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    found_again(scene, element)
    return scene.pool.write_off_all
