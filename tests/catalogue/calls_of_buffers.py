"""Buffers: what a pool of them does, and what can be done with one, for every_call.py."""

from __future__ import annotations

import ctypes
import importlib.util
import io
from copy import copy
from typing import Any

from calls_that_alloc import alloc_by_waiting, alloc_from_source, alloc_warm
from calls_that_begin_and_end import close
from calls_that_free_and_resize import free_kept, free_many, free_surplus, lease_with
from scenes import Call, Scene, again, call, keep, listed, look_through, open_up, raises

import mempool
from mempool.sources.buffers import POISON_FREE

#: What Buffers does with an element that is returned or goes out.
CARE: dict[str, dict[str, Any]] = {
    "": {},
    "_wiped": {"zero": "free"},
    "_zeroed": {"zero": "alloc"},
    "_poisoned": {"poison": True},
}
OUT = (alloc_warm, alloc_from_source, lease_with)
HOME = (alloc_by_waiting, free_kept, free_surplus, free_many, close)
for care, options in CARE.items():
    for prepare in (*(OUT if options.get("zero") != "free" else ()), *(HOME if options.get("zero") != "alloc" else ())):
        is_long = prepare in (alloc_by_waiting, free_many) and care != "_wiped"
        listed(f"buffers{care}_{prepare.__name__}", prepare, is_long=is_long, buffers=options)


def _taken(scene: Scene) -> Any:
    buffer = scene.got[0] = scene.pool.alloc()
    return buffer


def _viewed(scene: Scene) -> Any:
    """A buffer that somebody views, until the end."""
    buffer = _taken(scene)
    views = [buffer[:]]
    scene.at_end.append(views.clear)
    return buffer


def _freed(scene: Scene) -> Any:
    buffer = scene.pool.alloc()
    scene.pool.free(buffer)
    return buffer


# -- reading


@call(buffers={})
def read_a_file(scene: Scene) -> Call:
    """Two pieces and the end; one is looked at, the other released by hand."""
    file = io.BytesIO(bytes(2 * scene.source.size))

    def made() -> None:
        file.seek(0)
        for number, chunk in enumerate(scene.pool.read(file)):
            if number == 0:
                with chunk as view:
                    view[0] = len(chunk) & 1
            else:
                chunk.view[0] = 0
                chunk.release()

    return made


# -- Buffers


@call(buffers={})
def buffers_alloc(scene: Scene) -> Call:
    def made() -> None:
        scene.made[0] = scene.source.alloc()

    return made


@call(buffers={})
def buffers_free(scene: Scene) -> Call:
    buffer = scene.made[0] = scene.source.alloc()
    return lambda: scene.source.free(buffer)


@call(buffers={})
def buffers_free_of_another(scene: Scene) -> Call:
    buffer = scene.made[0] = scene.source.alloc()
    return raises(ValueError, lambda: another.free(buffer))


@call()
def buffers(scene: Scene) -> Call:
    """With a block that is mapped."""
    source = _open_buffers()

    def made() -> None:
        element = source.alloc()
        element[:1] = b"1"
        source.free(element)

    scene.at_end.append(lambda: look_through(source._memory, []))
    return made


@call()
def pool_of_buffers(scene: Scene) -> Call:
    source = _open_buffers()

    def made() -> None:
        with mempool.Pool(source, 1) as pool, pool.lease() as element:
            element[:1] = b"1"

    scene.at_end.append(lambda: look_through(source._memory, []))
    return made


def _open_buffers() -> mempool.Buffers:
    source = mempool.Buffers(4096)
    open_up(source._memory)
    return source


@call()
def buffers_new(_scene: Scene) -> Call:
    def made() -> None:
        source = mempool.Buffers("4 KiB", align=64)
        repr(source)
        assert source.level is None

    return made


@call()
def buffers_with_bad_input(_scene: Scene) -> Call:
    def made() -> None:
        raises(ValueError, lambda: mempool.Buffers(0))()
        raises(ValueError, lambda: mempool.Buffers(4096, zero="always"))()
        raises(TypeError, lambda: mempool.Buffers(None))()  # type: ignore[arg-type]

    return made


@call()
def buffers_that_cannot_be_had(_scene: Scene) -> Call:
    source = mempool.Buffers(1 << 62, level="virtual")
    return raises(MemoryError, source.alloc)


@call(is_long=True)
def buffers_that_ask_the_system(_scene: Scene) -> Call:
    """The first element, for which is looked how much memory there is left."""
    source = mempool.Buffers(4096)

    def made() -> None:
        buffer = source.alloc()
        again(lambda: source.free(buffer))

    return made


@call(buffers={"size": 65536}, is_long=True)  # as large as a block, so that one is mapped
def buffers_alloc_where_the_system_is_asked(scene: Scene) -> Call:
    """Whatever goes wrong there, the reserve is not asked for in vain."""
    scene.source._memory._credit = 0

    def made() -> None:
        try:
            scene.got[0] = scene.pool.alloc()
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - this is what must not be
            raise AssertionError(f"{type(error).__name__}, and the reserve is there") from None

    return made


# -- one


@call(buffers={})
def buffer_told(scene: Scene) -> Call:
    buffer = _taken(scene)
    return lambda: (
        len(buffer),
        buffer.address,
        buffer.views(),
        buffer.is_alive(),
        repr(buffer),
        buffer.__dlpack_device__(),
    )


@call(buffers={})
def buffer_read_and_written(scene: Scene) -> Call:
    buffer = _taken(scene)

    def made() -> None:
        buffer[:2] = b"12"
        assert buffer[0] == 49
        assert buffer[:2] == b"12"
        with buffer[:] as view:
            assert len(view) == 4096

    return made


@call(buffers={})
def buffer_as_bytes(scene: Scene) -> Call:
    buffer = _taken(scene)

    def made() -> None:
        assert len(bytes(buffer)) == 4096

    return made


@call(buffers={})
def buffer_filled(scene: Scene) -> Call:
    buffer = _taken(scene)
    return lambda: buffer.fill(3)


@call(buffers={})
def buffer_with_bad_input(scene: Scene) -> Call:
    buffer = _taken(scene)

    def made() -> None:
        raises(ValueError, lambda: buffer.fill(256))()
        raises(TypeError, lambda: buffer.fill("x"))()
        raises(IndexError, lambda: buffer[4096])()

    return made


@call(buffers={})
def buffer_written_what_does_not_fit(scene: Scene) -> Call:
    buffer = _taken(scene)

    def made() -> None:
        buffer[:2] = b"123"

    return raises(ValueError, made)


@call(buffers={})
def buffer_made_or_copied_by_hand(scene: Scene) -> Call:
    buffer = _taken(scene)

    def made() -> None:
        raises(TypeError, mempool.Buffer)()
        raises(TypeError, lambda: copy(buffer))()

    return made


if importlib.util.find_spec("numpy"):

    @call(buffers={})
    def pool_array(scene: Scene) -> Call:
        scene.pool.array(8)  # NumPy is loaded

        def made() -> None:
            scene.got[0] = scene.pool.array((2, -1), "uint16")

        scene.at_end.append(lambda: scene.got.__setitem__(0, None))
        return made

    @call(buffers={})
    def buffer_as_an_array(scene: Scene) -> Call:
        import numpy as np

        buffer = _taken(scene)

        def made() -> None:
            assert buffer.array("float32", (32, 32)).shape == (32, 32)
            assert len(np.from_dlpack(buffer)) == 4096

        return made

    @call(buffers={})
    def buffer_taken_for_an_array(scene: Scene) -> Call:
        import numpy as np

        buffer = _taken(scene)
        np.asarray(buffer)  # NumPy is loaded

        def made() -> None:
            assert np.asarray(buffer).shape == (4096,)

        return made

    @call(buffers={})
    def buffer_as_no_array(scene: Scene) -> Call:
        buffer = _taken(scene)

        def made() -> None:
            raises(ValueError, lambda: buffer.array("S0"))()
            raises(TypeError, lambda: buffer.array("no such type"))()

        made()  # NumPy imports something of its own; CPython 3.12 and 3.13 crash where an import runs out of memory
        return made

    @call(buffers={}, is_long=True)  # NumPy, asked for the name of a type, keeps something of its first thousand answers
    def buffer_as_too_large_an_array(scene: Scene) -> Call:
        buffer = _taken(scene)
        return raises(ValueError, lambda: buffer.array("float32", (32, 33)))


@call(buffers={})
def buffer_used_after_it_was_freed(scene: Scene) -> Call:
    buffer = _freed(scene)
    uses: tuple[Call, ...] = (
        lambda: len(buffer),
        lambda: buffer[0],
        lambda: buffer.__setitem__(0, 1),
        lambda: buffer.address,
        lambda: buffer.fill(),
        buffer.detach,
    )

    def made() -> None:
        for use in uses:
            raises(mempool.UseAfterFree, use)()
        raises(ValueError, lambda: buffer[:])()  # Python's own, uncompiled
        repr(buffer)

    return made


# -- free and drop


@call(buffers={})
def buffer_freed_twice(scene: Scene) -> Call:
    buffer = _freed(scene)
    return raises(mempool.DoubleFree, lambda: scene.pool.free(buffer))


@call(buffers={})
def buffer_freed_elsewhere(scene: Scene) -> Call:
    buffer = scene.made[0] = scene.source.alloc()
    return raises(mempool.ForeignElement, lambda: scene.pool.free(buffer))


@call(buffers={})
def buffer_viewed_and_freed(scene: Scene) -> Call:
    buffer = _viewed(scene)
    return raises(BufferError, lambda: scene.pool.free(buffer))


@call(buffers={}, track="holders", is_long=True)
def buffer_viewed_and_freed_with_holders(scene: Scene) -> Call:
    return buffer_viewed_and_freed(scene)


@call(buffers={})
def buffer_viewed_and_detached(scene: Scene) -> Call:
    return raises(BufferError, _viewed(scene).detach)


@call(buffers={})
def buffers_free_many_one_viewed(scene: Scene) -> Call:
    elements = [_viewed(scene), *scene.pool.alloc_many(2)]
    scene.got[1] = elements
    return raises(BufferError, lambda: scene.pool.free_many(elements))


@call(buffers={})
def buffers_free_many_one_twice(scene: Scene) -> Call:
    elements = scene.got[0] = scene.pool.alloc_many(3)
    return raises(mempool.DoubleFree, lambda: scene.pool.free_many([*elements, elements[0]]))


@call(buffers={})
def buffer_lingers(scene: Scene) -> Call:
    buffer = _viewed(scene)
    return lambda: scene.pool.free(buffer, linger=True)


@call(buffers={}, track="holders")
def buffer_lingers_with_holders(scene: Scene) -> Call:
    return buffer_lingers(scene)


@call(buffers={})
def buffers_linger_one_of_many(scene: Scene) -> Call:
    elements = [_viewed(scene), *scene.pool.alloc_many(2)]
    scene.got[1] = elements
    return lambda: scene.pool.free_many(elements, linger=True)


@call(buffers={})
def buffer_lingers_after_a_lease(scene: Scene) -> Call:
    lease = scene.pool.lease(linger=True)
    views = [lease.element[:]]
    scene.at_end.append(views.clear)

    def end() -> None:
        try:
            lease.release()
        except mempool.DoubleFree:
            pass  # it was released

    scene.at_end.append(end)
    return lease.release


@call(buffers={})
def buffer_is_returned_after_lingering(scene: Scene) -> Call:
    buffer = scene.pool.alloc()
    views = [buffer[:]]
    scene.pool.free(buffer, linger=True)
    scene.at_end.append(views.clear)
    return views.clear


@call(buffers={"zero": "free"})
def buffer_is_returned_after_lingering_and_is_wiped(scene: Scene) -> Call:
    return buffer_is_returned_after_lingering(scene)


@call(buffers={})
def buffer_dropped(scene: Scene) -> Call:
    buffers = [scene.pool.alloc()]
    scene.at_end.append(buffers.clear)
    return buffers.clear


@call(buffers={}, track="holders")
def buffer_dropped_with_holders(scene: Scene) -> Call:
    return buffer_dropped(scene)


@call(buffers={"zero": "free"})
def buffer_dropped_and_wiped(scene: Scene) -> Call:
    return buffer_dropped(scene)


@call(buffers={})
def buffer_dropped_closed(scene: Scene) -> Call:
    dropped = buffer_dropped(scene)
    scene.pool.close()
    return dropped


@call(buffers={})
def buffer_dropped_and_awaited(scene: Scene) -> Call:
    """Who waits is served with it."""
    buffers = [scene.pool.alloc()]
    scene.pool.hand_over(buffers[0])
    scene.others = [scene.pool.alloc() for _ in range(4)]
    scene.source.alloc_raises = MemoryError
    scene.at_end.append(buffers.clear)
    scene.clock.meanwhile = buffers.clear
    return keep(scene, 0, scene.pool.alloc)


@call(buffers={})
def buffer_dropped_and_viewed(scene: Scene) -> Call:
    """It is returned with the last view."""
    buffers = [scene.pool.alloc()]
    views = [buffers[0][:]]

    def made() -> None:
        buffers.clear()
        views.clear()

    scene.at_end += [buffers.clear, views.clear]
    return made


@call(buffers={})
def buffer_dropped_that_no_pool_has(scene: Scene) -> Call:
    buffers = [scene.source.alloc()]
    scene.at_end.append(buffers.clear)
    return buffers.clear


@call(buffers={})
def lease_of_a_viewed_buffer(scene: Scene) -> Call:
    lease = scene.pool.lease()
    views = [lease.element[:]]
    leases = [lease]
    scene.at_end += [views.clear, leases.clear]
    return raises(BufferError, lease.release)


@call(buffers={})
def lease_of_a_viewed_buffer_dropped(scene: Scene) -> Call:
    leases = [scene.pool.lease()]
    views = [leases[0].element[:]]

    def made() -> None:
        leases.clear()
        views.clear()

    scene.at_end += [leases.clear, views.clear]
    return made


# -- poison


def _spoil(scene: Scene) -> None:
    """Write to the spare that goes out next."""
    buffer = scene.pool.alloc()
    address = buffer.address
    scene.pool.free(buffer)
    ctypes.memset(address, 1, 1)
    # Its block is mapped as long as another spare lies in it.
    scene.at_end.append(lambda: ctypes.memset(address, POISON_FREE, 1))


@call(buffers={"poison": True})
def buffers_spoilt_alloc(scene: Scene) -> Call:
    _spoil(scene)
    return raises(mempool.PoisonError, keep(scene, 0, scene.pool.alloc))


@call(buffers={"poison": True})
def buffers_spoilt_lease(scene: Scene) -> Call:
    _spoil(scene)
    return raises(mempool.PoisonError, lease_with(scene))


another = mempool.Buffers(4096)
