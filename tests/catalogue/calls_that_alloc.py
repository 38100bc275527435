"""Every way to alloc in a thread, for every_call.py."""

from __future__ import annotations

from scenes import Broken, Call, Scene, again, call, in_time, keep, listed, raises

import mempool
from mempool import parking

# -- one


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
def alloc_in_vain_by_a_kind_of_ones_own(scene: Scene) -> Call:
    scene.take_all()
    owner = object()

    def made() -> None:
        remove = parking.register(lambda: owner, parking.ThreadParker)
        try:
            scene.pool.alloc(timeout=0)
        finally:
            again(remove)

    return raises(mempool.PoolTimeout, made)


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
    for element in scene.got[0]:
        scene.pool.take_over(element)
    return raises(mempool.DeadlockError, scene.pool.alloc)


@call()
def alloc_source_broken(scene: Scene) -> Call:
    scene.source.alloc_raises = Broken
    return raises(Broken, keep(scene, 0, scene.pool.alloc))


@call()
def alloc_bad_timeout(scene: Scene) -> Call:
    # Where there is no memory for the error, there may be an element.
    return raises(ValueError, keep(scene, 0, lambda: scene.pool.alloc(timeout=-1)))


@call(checks=True)
def alloc_checked(scene: Scene) -> Call:
    return keep(scene, 0, scene.pool.alloc)


@call(checks=True)
def alloc_where_the_check_breaks(scene: Scene) -> Call:
    scene.source.check_raises = Broken
    return raises(Broken, keep(scene, 0, scene.pool.alloc))


@call()
def try_alloc(scene: Scene) -> Call:
    return keep(scene, 0, scene.pool.try_alloc)


@call()
def try_alloc_in_vain(scene: Scene) -> Call:
    scene.take_all()
    return keep(scene, 0, scene.pool.try_alloc)


@call()
def try_alloc_closed(scene: Scene) -> Call:
    scene.pool.close()
    return raises(mempool.PoolClosed, scene.pool.try_alloc)


@call()
def try_alloc_source_broken(scene: Scene) -> Call:
    scene.source.alloc_raises = Broken
    return raises(Broken, keep(scene, 0, scene.pool.try_alloc))


@call()
def alloc_reserved(scene: Scene) -> Call:
    return keep(scene, 0, scene.pool.alloc_reserved)


@call()
def alloc_reserved_in_vain(scene: Scene) -> Call:
    scene.take_all()
    return keep(scene, 0, scene.pool.alloc_reserved)


@call()
def alloc_reserved_closed(scene: Scene) -> Call:
    scene.pool.close()
    return raises(mempool.PoolClosed, scene.pool.alloc_reserved)


@call(checks=True)
def alloc_reserved_where_the_check_breaks(scene: Scene) -> Call:
    scene.source.check_raises = Broken
    return raises(Broken, keep(scene, 0, scene.pool.alloc_reserved))


for track in ("nothing", "holders"):
    listed(f"alloc_warm_track_{track}", alloc_warm, track=track)
    listed(f"alloc_from_source_track_{track}", alloc_from_source, track=track)
listed("alloc_by_waiting_track_holders", alloc_by_waiting, is_long=True, track="holders")

# -- many


@call()
def alloc_many(scene: Scene) -> Call:
    scene.pool.free(scene.pool.alloc())
    return in_time(keep(scene, 0, lambda: scene.pool.alloc_many(5, timeout=0)))


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


@call()
def alloc_many_of_no_number(scene: Scene) -> Call:
    return raises(ValueError, keep(scene, 0, lambda: scene.pool.alloc_many(-1)))


@call()
def alloc_many_closed(scene: Scene) -> Call:
    scene.pool.close()
    return raises(mempool.PoolClosed, lambda: scene.pool.alloc_many(2))


@call(is_long=True)
def alloc_many_while_it_closes(scene: Scene) -> Call:
    scene.take_all()
    scene.clock.meanwhile = lambda: again(scene.pool.close)
    return raises(mempool.PoolClosed, lambda: scene.pool.alloc_many(2))


@call(is_long=True)
def alloc_many_while_the_limit_is_lowered(scene: Scene) -> Call:
    scene.take_all()
    scene.clock.meanwhile = lambda: again(lambda: scene.pool.resize(1, limit=1))
    return raises(ValueError, lambda: scene.pool.alloc_many(2))


@call()
def alloc_many_source_broken(scene: Scene) -> Call:
    scene.source.alloc_raises = Broken
    return raises(Broken, in_time(keep(scene, 0, lambda: scene.pool.alloc_many(4, timeout=0))))


@call(max_waiting=0)
def alloc_many_line_full(scene: Scene) -> Call:
    scene.take_all()
    return raises(mempool.LineFull, lambda: scene.pool.alloc_many(2))


@call(track="holders")
def alloc_many_deadlock(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc_many(4)
    scene.pool.resize(limit=4)
    for element in scene.got[0]:
        scene.pool.take_over(element)
    return raises(mempool.DeadlockError, keep(scene, 1, lambda: scene.pool.alloc_many(2)))
