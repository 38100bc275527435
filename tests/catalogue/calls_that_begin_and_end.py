"""Looking, beginning and ending, for every_call.py."""

from __future__ import annotations

from copy import copy
from typing import Any

from scenes import Broken, Call, Disposable, Scene, Source, again, call, raises

import mempool
from mempool import registry

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
def why_empty_with_holders(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc_many(5)
    return scene.pool.why_empty


@call(track="holders")
def holders(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc_many(5)
    return scene.pool.holders


@call(track="holders")
def hand_over(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    return lambda: scene.pool.hand_over(element)


@call(track="holders")
def take_over(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    return lambda: scene.pool.take_over(element)


@call(track="holders")
def hand_over_foreign(scene: Scene) -> Call:
    element = Disposable()
    return lambda: scene.pool.hand_over(element)


@call()
def copied(scene: Scene) -> Call:
    return raises(TypeError, lambda: copy(scene.pool))


@call()
def numbers_of_the_kernel(scene: Scene) -> Call:
    return lambda: (scene.pool.min_nr, scene.pool.curr_nr)


@call()
def numbers_one_by_one(scene: Scene) -> Call:
    pool = scene.pool
    return lambda: (pool.reserve, pool.keep, pool.limit, pool.spare, pool.out, pool.waiting, pool.closed)


@call()
def get_by_name(scene: Scene) -> Call:
    pool = mempool.Pool(scene.source, 0, name="one of its name")
    scene.at_end.append(pool.close)
    return lambda: mempool.get("one of its name")


@call()
def get_in_vain(_scene: Scene) -> Call:
    return raises(LookupError, lambda: mempool.get("none of this name"))


@call()
def all_pools(_scene: Scene) -> Call:
    return registry.pools


@call()
def register_pool(scene: Scene) -> Call:
    return lambda: registry.register(scene.pool)


@call()
def register_resolver(_scene: Scene) -> Call:
    def made() -> None:
        remove = registry.register_resolver(lambda name: None)
        again(remove)

    return made


# -- beginning and end


@call()
def close(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc()
    return scene.pool.close


@call()
def close_twice(scene: Scene) -> Call:
    scene.pool.close()
    return scene.pool.close


@call()
def close_where_the_source_breaks(scene: Scene) -> Call:
    scene.source.free_raises = Broken
    return raises(Broken, scene.pool.close)


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


@call()
def drain_closed(scene: Scene) -> Call:
    scene.pool.close()
    return scene.pool.drain


@call()
def drain_bad_timeout(scene: Scene) -> Call:
    return raises(ValueError, lambda: scene.pool.drain(timeout=-1))


def _begin(source: Source, **options: Any) -> Call:
    """A pool of its own that is made and closed: whatever happens, its source has everything back in the end."""

    def made() -> None:
        try:
            pool = mempool.Pool(source, 3, **options)
        except BaseException:
            assert source.existing() == [], "a pool that could not be made keeps elements"
            raise
        again(pool.close)
        assert source.existing() == [], "a pool that is closed keeps elements"

    return made


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
        assert source.existing() == [], "a pool that is gone keeps elements"

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


@call()
def begin_without_a_source(_scene: Scene) -> Call:
    return raises(TypeError, lambda: mempool.Pool(object(), 3))  # type: ignore[arg-type]
