"""Memory, and the ballast that is made of it, for every_call.py."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from scenes import Call, NotRaised, Scene, call, each, look_through, open_up, raises

import mempool
from mempool import sources

# -- memory


def _memory(scene: Scene) -> tuple[sources.Memory, list[Any]]:
    """And a place for what the call takes."""
    memory = sources.Memory(4096)
    open_up(memory)
    taken: list[Any] = [None]

    def look() -> None:
        region = taken.pop()
        if region is not None and region._held:
            memory.give(region)
        look_through(memory, [])

    scene.at_end.append(look)
    return memory, taken


@call()
def memory_take(scene: Scene) -> Call:
    memory, taken = _memory(scene)

    def made() -> None:
        taken[0] = memory.take()

    return made


@call(is_long=True)
def memory_regain(scene: Scene) -> Call:
    """As in a child of a fork."""
    memory, taken = _memory(scene)
    region = taken[0] = memory.take()
    block = region._block
    assert block is not None
    block.forks = memory._whole_since = -1

    def made() -> None:
        assert memory.verified in ("virtual", "backed", "resident")
        memory.regain()
        assert memory.verified == "resident"

    return made


@call()
def memory_give(scene: Scene) -> Call:
    memory, taken = _memory(scene)
    others = [memory.take()]
    region = taken[0] = memory.take()

    def look() -> None:
        memory.give(others.pop())

    scene.at_end.insert(0, look)
    return lambda: memory.give(region)


@call()
def memory_give_twice(scene: Scene) -> Call:
    memory, _ = _memory(scene)
    region = memory.take()
    memory.give(region)
    return raises(ValueError, lambda: memory.give(region))


@call()
def memory_give_elsewhere(scene: Scene) -> Call:
    memory, taken = _memory(scene)
    region = taken[0] = memory.take()
    return raises(ValueError, lambda: sources.Memory(4096).give(region))


@call()
def memory_give_viewed(_scene: Scene) -> Call:
    """Its place is not used again, and its block is unmapped with the last view."""
    memory = sources.Memory(4096)
    open_up(memory)
    region = memory.take()
    views = [(ctypes.c_char * 4096).from_buffer(region.view)]

    def made() -> None:
        memory.give(region)
        views.clear()

    return made


@call()
def region_of_a_buffer(_scene: Scene) -> Call:
    whole = bytearray(64)
    return lambda: repr(sources.BufferRegion(whole))


@call()
def memory_dropped(_scene: Scene) -> Call:
    memory = sources.Memory(4096)
    open_up(memory)
    regions = [memory.take()]
    return regions.clear


@call()
def memory_that_cannot_be_had(_scene: Scene) -> Call:
    memory = sources.Memory(1 << 62, level="virtual")
    return raises(MemoryError, memory.take)


@call()
def memory_new_and_told(scene: Scene) -> Call:
    memory, _ = _memory(scene)
    region = memory.take()
    memory.give(region)
    return lambda: (repr(region), repr(sources.Memory("1 KiB", level="backed", align=4096)))


@call()
def memory_with_bad_input(_scene: Scene) -> Call:
    return each(
        raises(ValueError, lambda: sources.Memory(0)),
        raises(ValueError, lambda: sources.Memory(1, level="solid")),
        raises(ValueError, lambda: sources.Memory(1, align=3)),
        raises(TypeError, lambda: sources.Memory(1.5)),  # type: ignore[arg-type]
    )


# -- the ballast


@functools.cache
def _ballast() -> mempool.rescue:
    """One for all, because each new one looks what it got, which takes thousands of allocations."""
    return mempool.rescue(4096)


def _thrown_off_and_taken_again(scene: Scene) -> mempool.rescue:
    """At the end it can be had, and there is one."""
    rescue = _ballast()

    def look() -> None:
        with rescue:
            assert rescue.ready
        assert len(rescue._ballast) == 1
        look_through(rescue._memory, rescue._ballast)

    scene.at_end.append(look)
    return rescue


@call(is_long=True)
def rescue_new(_scene: Scene) -> Call:
    return lambda: mempool.rescue("4 KiB").close()


@call()
def rescue_in_vain(_scene: Scene) -> Call:
    return raises(MemoryError, lambda: mempool.rescue(1 << 62, level="virtual"))


@call()
def rescue_with_bad_input(_scene: Scene) -> Call:
    return raises(ValueError, lambda: mempool.rescue("4 KiB", level="solid"))


@call()
def rescue_not_needed(scene: Scene) -> Call:
    rescue = _thrown_off_and_taken_again(scene)

    def made() -> None:
        with rescue:
            assert rescue.ready

    return made


@call()
def rescue_thrown_off(scene: Scene) -> Call:
    rescue = _thrown_off_and_taken_again(scene)

    def made() -> None:
        try:
            with rescue:
                raise ExceptionGroup("a task had no memory", [MemoryError()])
        except ExceptionGroup:
            assert not rescue.ready

    return made


@call()
def rescue_taken_again(scene: Scene) -> Call:
    rescue = _thrown_off_and_taken_again(scene)
    rescue.release()

    def made() -> None:
        with rescue:
            if not rescue.ready:
                raise NotRaised

    return made


@call()
def rescue_release(scene: Scene) -> Call:
    rescue = _thrown_off_and_taken_again(scene)
    return each(rescue.release, rescue.release)


@call()
def rescue_closed(scene: Scene) -> Call:
    rescue = mempool.rescue(4096)

    def made() -> None:
        rescue.close()
        with rescue:
            assert not rescue.ready

    def look() -> None:
        rescue.close()
        look_through(rescue._memory, [])

    scene.at_end.append(look)
    return made


@call()
def rescue_told(scene: Scene) -> Call:
    rescue = _thrown_off_and_taken_again(scene)
    return lambda: (repr(rescue), rescue.size, rescue.ready)
