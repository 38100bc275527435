"""What looks after a pool, `upkeep` and `follow`, for every_call.py. Without their thread: who looks is the caller."""

from __future__ import annotations

import logging

from scenes import Call, Scene, again, call, raises

import mempool
from mempool import pressure


def _calm() -> float:
    return 5.0  # percent: nothing moves


@call()
def upkeep(scene: Scene) -> Call:
    def made() -> None:
        kept = mempool.upkeep(scene.pool, thread=False, clock=scene.clock)
        again(kept.close)

    return made


@call()
def upkeep_of_a_pool_that_has_one(scene: Scene) -> Call:
    kept = mempool.upkeep(scene.pool, thread=False, clock=scene.clock)
    scene.at_end.append(kept.close)
    return raises(ValueError, lambda: mempool.upkeep(scene.pool, thread=False))


@call()
def upkeep_as_a_block(scene: Scene) -> Call:
    kept = mempool.upkeep(scene.pool, thread=False, clock=scene.clock)

    def made() -> None:
        with kept:
            repr(kept)

    scene.at_end.append(kept.close)
    return made


@call()
def upkeep_that_refills(scene: Scene) -> Call:
    scene.source.alloc_raises = MemoryError
    scene.pool.resize(4, keep=4)
    scene.source.alloc_raises = None
    kept = mempool.upkeep(scene.pool, thread=False, clock=scene.clock)
    scene.at_end.append(kept.close)
    return kept.look


@call()
def upkeep_that_trims(scene: Scene) -> Call:
    scene.pool.free(scene.pool.alloc())
    kept = mempool.upkeep(scene.pool, thread=False, clock=scene.clock, idle=10)
    scene.at_end.append(kept.close)
    scene.clock.time += 10
    return kept.look


@call(track="holders")
def upkeep_that_warns(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc()
    kept = mempool.upkeep(scene.pool, thread=False, clock=scene.clock, held_warning=10)
    scene.at_end.append(kept.close)
    scene.clock.time += 20
    log = logging.getLogger("mempool")

    def made() -> None:
        log.disabled = True  # pytest keeps each record
        try:
            kept.look()
        finally:
            log.disabled = False

    return made


@call()
def follow(scene: Scene) -> Call:
    def made() -> None:
        followed = pressure.follow(scene.pool, (2, 9), source=_calm, thread=False, clock=scene.clock)
        again(followed.close)

    return made


@call()
def follow_what_makes_no_sense(scene: Scene) -> Call:
    return raises(ValueError, lambda: pressure.follow(scene.pool, (9, 2), thread=False))


@call()
def followed_as_a_block(scene: Scene) -> Call:
    followed = pressure.follow(scene.pool, (2, 9), source=_calm, thread=False, clock=scene.clock)
    scene.at_end.append(followed.close)

    def made() -> None:
        with followed:
            repr(followed)
            assert (followed.source, followed.log, followed.is_following) == ("_calm()", (), True)

    return made


@call()
def followed_where_nothing_moves(scene: Scene) -> Call:
    followed = pressure.follow(scene.pool, (2, 9), source=_calm, thread=False, clock=scene.clock)
    scene.at_end.append(followed.close)
    return followed.look


@call()
def followed_down(scene: Scene) -> Call:
    scene.pool.resize(2, keep=8)
    followed = pressure.follow(scene.pool, (2, 8), source=lambda: 50.0, thread=False, clock=scene.clock)
    scene.at_end.append(followed.close)
    return followed.look
