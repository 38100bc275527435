"""Sources, and adaptors around them, for every_call.py."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calls_that_alloc import alloc_from_source
from calls_that_begin_and_end import close
from calls_that_free_and_resize import free_surplus, lease_with
from scenes import (
    Broken,
    Call,
    Disposable,
    Scene,
    Source,
    call,
    each,
    exists,
    listed,
    raises,
)

import mempool
from mempool import sources


class Exhausted:
    """A source that never has anything."""

    def alloc(self) -> Disposable:
        raise MemoryError

    def free(self, _element: Disposable) -> None:
        raise AssertionError("never made one")


class EverySecond:
    """A source around one: fails the first time, and every second time after."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.free = source.free
        self.fails = False

    def alloc(self) -> Disposable:
        self.fails = not self.fails
        if self.fails:
            raise MemoryError
        return self.source.alloc()


def _true() -> bool:
    return True


#: What can stand between a pool and its source.
AROUND: dict[str, Callable[[Any], Any]] = {
    "limited": lambda source: mempool.Limited(source, elements_max=9),
    "faulty": lambda source: mempool.Faulty(source, every=1_000_000),
    "on_failure": lambda source: mempool.OnFailure(EverySecond(source), _true),
    "translated": lambda source: mempool.Translated(source, OSError),
    "fallback": lambda source: mempool.Fallback(source, source),
    "fallback_second": lambda source: mempool.Fallback(Exhausted(), source),
    "logged": lambda source: mempool.Logged(source, to=os.devnull),
    "objects": lambda source: mempool.Objects(source.alloc, source.free),
    "all": lambda source: mempool.Limited(
        mempool.Fallback(mempool.Logged(source, to=os.devnull), Exhausted()), elements_max=9
    ),
}


def source_alloc(scene: Scene) -> Call:
    def made() -> None:
        scene.made[0] = scene.adaptor.alloc()

    return made


def source_free(scene: Scene) -> Call:
    element = scene.made[0] = scene.adaptor.alloc()
    return lambda: scene.adaptor.free(element)


def source_alloc_broken(scene: Scene) -> Call:
    scene.source.alloc_raises = Broken
    return raises(Broken, source_alloc(scene))


def source_free_broken(scene: Scene) -> Call:
    freed = source_free(scene)
    scene.source.free_raises = Broken
    return raises(Broken, freed)


def represented(scene: Scene) -> Call:
    return lambda: repr(scene.adaptor)


for kind, around in AROUND.items():
    for prepare in (source_alloc, source_free, source_alloc_broken, source_free_broken, represented):
        listed(f"{kind}_{prepare.__name__.removeprefix('source_')}", prepare, around=around)
    for prepare in (alloc_from_source, free_surplus, lease_with, close):
        listed(f"{kind}_in_a_pool_{prepare.__name__}", prepare, around=around, is_long=kind != "all")


# -- each one's own


@call(around=AROUND["limited"])
def limited_existing(scene: Scene) -> Call:
    return lambda: scene.adaptor.existing


@call(around=lambda source: mempool.Limited(source, bytes_max="2 KiB", size=1024))
def limited_in_vain(scene: Scene) -> Call:
    return raises(MemoryError, source_alloc(scene))


@call()
def limited_new(_scene: Scene) -> Call:
    return lambda: mempool.Limited(Source(), bytes_max="1 MiB", size="4 KiB")


@call(around=AROUND["faulty"])
def faulty_fails(scene: Scene) -> Call:
    def made() -> None:
        scene.adaptor.fail_next()
        failures = scene.adaptor.failures
        raises(MemoryError, scene.adaptor.alloc)()
        assert scene.adaptor.failures <= failures + 1

    return made


@call()
def faulty_new(_scene: Scene) -> Call:
    return lambda: mempool.Faulty(Source(), probability=0.5, seed=1)


@call()
def on_failure_in_vain(_scene: Scene) -> Call:
    source = mempool.OnFailure(Exhausted(), _true, tries=2)
    return raises(MemoryError, source.alloc)


@call()
def on_failure_broken(_scene: Scene) -> Call:
    def callback() -> None:
        raise Broken

    source = mempool.OnFailure(Exhausted(), callback)
    return raises(Broken, source.alloc)


@call(around=lambda source: mempool.Translated(source, Broken))
def translated_in_vain(scene: Scene) -> Call:
    scene.source.alloc_raises = Broken
    return raises(MemoryError, source_alloc(scene))


@call(around=AROUND["limited"])
def limited_room(scene: Scene) -> Call:
    return lambda: scene.adaptor.room_for(5)


@call()
def buffers_room(_scene: Scene) -> Call:
    source = mempool.Buffers(4096)
    around = (source, mempool.Fallback(source, source), mempool.OnFailure(source, _true, tries=1), sources.Memory(4096))

    def made() -> None:
        for one in around:
            assert one.room_for(1) is None
            room = one.room_for(1 << 50)
            assert room is None or room.elements < 1 << 50

    return made


@call(is_long=True)
def buffers_dontfork(_scene: Scene) -> Call:
    source = mempool.Buffers(4096, dontfork=True)

    def made() -> None:
        with mempool.Pool(source, 1) as pool, pool.lease() as buffer:
            buffer.fill(1)

    return made


@call()
def buffers_regain(_scene: Scene) -> Call:
    source = mempool.Buffers(4096)
    pool = mempool.Pool(mempool.Fallback(source, source), 1)

    def made() -> None:
        source.regain()
        assert pool.refill().held

    return made


@call()
def pool_of_one_object_twice(_scene: Scene) -> Call:
    only = Disposable()
    source = mempool.Objects(lambda: only)
    return raises(ValueError, lambda: mempool.Pool(source, 2))


@call()
def room_new(_scene: Scene) -> Call:
    return lambda: sources.Room(3, "the store has three places")


@call()
def pool_without_room(_scene: Scene) -> Call:
    source = mempool.Limited(Source(), elements_max=2)
    return raises(MemoryError, lambda: mempool.Pool(source, 3))


@call()
def fallback_in_vain(_scene: Scene) -> Call:
    source = mempool.Fallback(Exhausted(), Exhausted())
    return raises(MemoryError, source.alloc)


@call()
def adaptors_with_bad_input(_scene: Scene) -> Call:
    nothing: Any = None
    return each(
        raises(TypeError, lambda: mempool.Limited(nothing, elements_max=1)),
        raises(TypeError, lambda: mempool.Limited(Source())),
        raises(ValueError, lambda: mempool.Limited(Source(), bytes_max=1)),
        raises(ValueError, lambda: mempool.Limited(Source(), elements_max=-1)),
        raises(ValueError, lambda: mempool.Faulty(Source(), probability=2)),
        raises(ValueError, lambda: mempool.Faulty(Source(), every=-1)),
        raises(TypeError, lambda: mempool.OnFailure(Source(), nothing)),
        raises(TypeError, lambda: mempool.Translated(Source())),
        raises(TypeError, lambda: mempool.Fallback(Source(), nothing)),
        raises(TypeError, lambda: mempool.Objects(nothing)),
    )


class Complete(Source):
    """One that has all that an adaptor passes on."""

    size = 16
    level = "resident"

    def reset(self, element: Disposable) -> None:
        assert exists(element)

    check = reset


@call()
def adaptors_pass_on(_scene: Scene) -> Call:
    """What the source has beside alloc and free; and that it has nothing else."""
    inner = Complete()
    element = inner.alloc()
    adaptors = (
        mempool.Limited(inner, elements_max=2),
        mempool.Faulty(inner),
        mempool.OnFailure(inner, _true),
        mempool.Translated(inner, OSError),
        mempool.Fallback(inner, inner),
        mempool.Logged(inner, to=os.devnull),
    )

    def made() -> None:
        for adaptor in adaptors:
            assert (adaptor.size, adaptor.level) == (16, "resident")
            adaptor.reset(element)
            adaptor.check(element)
            raises(AttributeError, lambda adaptor=adaptor: adaptor.height)()  # type: ignore[misc]

    return made


@call(around=lambda source: mempool.Objects(source.alloc, source.free, reset=_look_at))
def objects_that_are_reset(scene: Scene) -> Call:
    return lease_with(scene)


def _look_at(element: Disposable) -> None:
    assert exists(element)


@call()
def pool_of_objects(_scene: Scene) -> Call:
    source = mempool.Objects(Disposable)

    def made() -> None:
        with mempool.Pool(source, 1) as pool, pool.lease() as element:
            assert exists(element)

    return made


# -- logs

LOG = ("time,thread,action,element,size", "1,1,alloc,1,", "2,1,fail,,", "3,1,alloc,2,", "4,1,free,1,", "5,1,?")


@call()
def logged_new_and_closed(_scene: Scene) -> Call:
    def made() -> None:
        logged = mempool.Logged(Source(), to=os.devnull)
        logged.close()
        assert logged.lines_lost == 0

    return made


@call(around=AROUND["logged"])
def logged_after_it_was_closed(scene: Scene) -> Call:
    scene.adaptor.close()
    return source_alloc(scene)


@call()
def logged_to_a_file_that_is_gone(_scene: Scene) -> Call:
    return raises(OSError, lambda: mempool.Logged(Source(), to="/no/such/folder"))


def _replayed(scene: Scene, log: Any) -> Call:
    source = Source()

    def look() -> None:
        assert source.existing() == [], "a replay keeps elements"

    scene.at_end.append(look)
    return lambda: sources.replay(log, source)


@call()
def replay(scene: Scene) -> Call:
    return _replayed(scene, LOG)


_folder = tempfile.TemporaryDirectory()
_log = Path(_folder.name, "log")
_log.write_text("\n".join(LOG) + "\n", "ascii")


@call()
def replay_of_a_file(scene: Scene) -> Call:
    return _replayed(scene, _log)


@call()
def replay_of_no_log(scene: Scene) -> Call:
    return each(
        raises(ValueError, _replayed(scene, ("nothing",))),
        raises(ValueError, _replayed(scene, (*LOG[:2], "one,two"))),
    )


@call()
def replay_where_the_source_breaks(_scene: Scene) -> Call:
    source = Source()
    source.free_raises = Broken
    return raises(Broken, lambda: sources.replay(LOG, source))


@call()
def replay_in_vain(_scene: Scene) -> Call:
    return lambda: sources.replay(LOG, Exhausted())
