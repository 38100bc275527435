"""Every public call, and every way in which it can go wrong, each ready to be made: for sweeps and for counting.

    for name, prepared in CALLS.items():
        scene = prepared.scene()
        call = prepared(scene)      # all that memory is needed for beforehand
        call()                      # what is under test; an error that belongs to it is caught in it
        scene.end()                 # gives back what is known to be out, and looks

What a call gets it puts into `scene.got`, which has its places already, so that nothing is lost on the way there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import mempool
from mempool import linux
from mempool.clock import Clock

Call = Callable[[], object]


class Element:
    """Knows whether it was disposed of, which takes no memory to note."""

    __slots__ = ("exists",)

    def __init__(self) -> None:
        self.exists = True


class Broken(Exception):
    """What a source raises that is no lack of memory."""


class Source:
    """Makes elements and remembers them; fails or raises when it is told to."""

    def __init__(self) -> None:
        self.made: list[Element] = []
        self.alloc_raises: type[Exception] | None = None
        self.free_raises: type[Exception] | None = None

    def alloc(self) -> Element:
        if self.alloc_raises is not None:
            raise self.alloc_raises
        element = Element()
        self.made.append(element)
        return element

    def free(self, element: Element) -> None:
        assert element.exists, "disposed of twice"
        element.exists = False
        if self.free_raises is not None:
            raise self.free_raises

    def existing(self) -> list[Element]:
        return [element for element in self.made if element.exists]


class ResettingSource(Source):
    """One whose elements are reset when they come home."""

    reset_raises: type[Exception] | None = None

    def reset(self, _element: Element) -> None:
        if self.reset_raises is not None:
            raise self.reset_raises


class Never:
    """A timer of a clock that stands still."""

    def cancel(self) -> None:
        pass


class StandingClock(Clock):
    """Time stands still. Whoever parks sees something happen that must wake it."""

    def __init__(self) -> None:
        self.meanwhile: Call = _nothing_happens

    def now(self) -> float:
        return 0.0

    def park(self, wakes: Any, seconds: float | None) -> None:
        self.meanwhile()
        assert not wakes.empty(), "not woken"
        wakes.get()

    def call_later(self, loop: Any, seconds: float, callback: Any) -> Any:
        return Never()


def _nothing_happens() -> None:
    raise AssertionError("waits, and nothing will ever happen")


class Scene:
    """A pool with two promised, up to three warm and at most five, its source, and who has what."""

    def __init__(self, *, resets: bool = False, kernel: bool = False, **options: Any) -> None:
        self.source = ResettingSource() if resets else Source()
        self.clock = StandingClock()
        self.pool: mempool.Pool[Element]
        if kernel:
            made = linux.mempool_create(
                2, lambda _mask, source: source.alloc(), lambda e, source: source.free(e), self.source
            )
            assert made is not None
            self.pool = made
        else:
            self.pool = mempool.Pool(self.source, 2, keep=3, limit=5, name="scene", **options)
        self.pool._clock = self.clock
        self.got: list[Any] = [None] * 8
        self.others: list[Element] = []

    def take_all(self) -> None:
        """Others have it all, and no more can be made."""
        self.others = [self.pool.alloc() for _ in range(5)]
        for element in self.others:
            self.pool.hand_over(element)
        self.source.alloc_raises = MemoryError

    def another_frees(self, elements: int = 1) -> Call:
        """Somebody else, who tries again when there was no memory to free with."""

        def free() -> None:
            for element in self.others[:elements]:
                try:
                    self.pool.free(element)
                except MemoryError:
                    if self.pool.core.is_out(element):
                        self.pool.free(element)

        return free

    def end(self) -> None:
        """Give back what somebody is known to have. Then nothing is out, nothing is lost, and the pool works."""
        self.source.alloc_raises = self.source.free_raises = None
        if isinstance(self.source, ResettingSource):
            self.source.reset_raises = None
        held = [element for got in self.got for element in (got if isinstance(got, list) else [got])]
        for element in held + self.others:
            if isinstance(element, Element) and self.pool.core.is_out(element):
                self.pool.free(element)
        del held
        self.got = [None] * 8
        self.others = []
        self.clock.meanwhile = _nothing_happens  # the last cycle: who looks for a deadlock looks at every pool that lives
        self.audit()
        if not self.pool.stats().closed:
            self.pool.resize(2, keep=3, limit=5)
            element = self.pool.alloc(timeout=0)
            assert element.exists
            self.pool.free(element)
            self.audit()
            self.pool.resize(keep=2)  # as it was in the beginning
            self.pool.resize(keep=3)
            assert self.pool.guarantee().held
            assert self.pool.stats().spare == 2
        self.source.made = self.source.existing()

    def audit(self) -> None:
        figures = self.pool.core.figures()
        existing = len(self.source.existing())
        assert figures["out"] == 0, f"{figures['out']} out, and nobody has them"
        assert figures["claimed"] == figures["filling"] == figures["disposing"] == figures["waiting"] == 0, figures
        assert figures["made"] - figures["disposed"] == figures["spare"] == existing, f"{existing} exist; {figures}"


def kernels_pool(source: Source) -> linux.Mempool[Element] | None:
    return linux.mempool_create(2, lambda _mask, data: data.alloc(), lambda element, data: data.free(element), source)


@dataclass
class Prepared:
    """One call: what must be done beforehand, and with what kind of pool."""

    prepare: Callable[[Scene], Call]
    options: dict[str, Any] = field(default_factory=dict)
    in_loop: bool = False  # must be made inside a task

    def scene(self, **options: Any) -> Scene:
        return Scene(**{**options, **self.options})

    def __call__(self, scene: Scene) -> Call:
        return self.prepare(scene)


CALLS: dict[str, Prepared] = {}


def call(*, in_loop: bool = False, **options: Any) -> Callable[[Callable[[Scene], Call]], Callable[[Scene], Call]]:
    def listed(prepare: Callable[[Scene], Call]) -> Callable[[Scene], Call]:
        CALLS[prepare.__name__] = Prepared(prepare, options, in_loop)
        return prepare

    return listed


class NotRaised(Exception):
    """A call that must raise has not. Where memory runs out on the way, it may have gone another way."""


def raises(error: type[BaseException], made: Call) -> Call:
    """The call, which must raise this."""

    def expected() -> None:
        try:
            made()
        except error:
            return
        raise NotRaised

    return expected


def keep(scene: Scene, place: int, made: Call) -> Call:
    """The call, which puts what it returns into this place."""

    def kept() -> None:
        scene.got[place] = made()

    return kept


def driven(routine: Callable[[], Coroutine[Any, Any, object]], meanwhile: Call = _nothing_happens) -> Call:
    """Drive a coroutine by hand from inside a task, as its loop would. meanwhile: what happens while it is parked."""

    def drive() -> None:
        coroutine = routine()
        try:
            coroutine.send(None)
            meanwhile()
            coroutine.send(None)
        except StopIteration:
            return
        finally:
            coroutine.close()
        raise AssertionError("not woken")

    return drive


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
    return raises(ValueError, lambda: scene.pool.alloc(timeout=-1))


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
    element = Element()
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
    assert isinstance(scene.source, ResettingSource)
    element = scene.got[0] = scene.pool.alloc()
    scene.source.reset_raises = Broken
    return raises(Broken, lambda: scene.pool.free(element))


@call()
def free_many(scene: Scene) -> Call:
    elements = scene.got[0] = scene.pool.alloc_many(5)
    return lambda: scene.pool.free_many(elements)


@call()
def free_many_one_twice(scene: Scene) -> Call:
    elements = scene.got[0] = scene.pool.alloc_many(3)
    return raises(mempool.DoubleFree, lambda: scene.pool.free_many([*elements, elements[0]]))


# -- leases


@call()
def lease_with(scene: Scene) -> Call:
    def made() -> None:
        with scene.pool.lease() as element:
            assert element.exists

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
        assert lease.element.exists
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
    assert lease.element.exists
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
        assert lease.element.exists
        del lease

    return made


@call()
def lease_warm_dropped(scene: Scene) -> Call:
    scene.pool.free(scene.pool.alloc())
    return lease_dropped(scene)


@call(in_loop=True)
def lease_async_with(scene: Scene) -> Call:
    async def routine() -> None:
        async with scene.pool.lease() as element:
            assert element.exists

    return driven(routine)


@call(in_loop=True)
def lease_async_by_waiting(scene: Scene) -> Call:
    async def routine() -> None:
        async with scene.pool.lease() as element:
            assert element.exists

    scene.take_all()
    return driven(routine, scene.another_frees())


@call(in_loop=True)
def lease_async_cancelled_when_served(scene: Scene) -> Call:
    async def routine() -> None:
        async with scene.pool.lease():
            raise AssertionError("cancelled before")

    scene.take_all()
    return _cancelled(scene, routine, scene.another_frees())


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
def holders(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc_many(5)
    return scene.pool.holders


@call(track="holders")
def hand_over(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    return lambda: scene.pool.hand_over(element)


@call()
def numbers_of_the_kernel(scene: Scene) -> Call:
    return lambda: (scene.pool.min_nr, scene.pool.curr_nr)


# -- beginning and end


@call()
def close(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc()
    return scene.pool.close


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


def _begin(source: Source, **options: Any) -> Call:
    """A pool of its own that is made and closed: whatever happens, its source has everything back in the end."""

    def made() -> None:
        try:
            pool = mempool.Pool(source, 3, **options)
        except BaseException:
            assert not any(map(_exists, source.made)), "a pool that could not be made keeps elements"
            raise
        again(pool.close)
        assert not any(map(_exists, source.made)), "a pool that is closed keeps elements"

    return made


def again(made: Call) -> None:
    """The call, a second time where there was no memory for the first."""
    try:
        made()
    except MemoryError:
        made()


def _exists(element: Element) -> bool:
    return element.exists


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
        assert not any(map(_exists, source.made)), "a pool that is gone keeps elements"

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


# -- mempool.linux


@call(kernel=True)
def linux_alloc(scene: Scene) -> Call:
    return keep(scene, 0, lambda: linux.mempool_alloc(scene.pool, linux.GFP_KERNEL))  # type: ignore[arg-type]


@call(kernel=True)
def linux_alloc_from_reserve(scene: Scene) -> Call:
    scene.source.alloc_raises = MemoryError
    return keep(scene, 0, lambda: linux.mempool_alloc(scene.pool, linux.GFP_ATOMIC))  # type: ignore[arg-type]


@call(kernel=True)
def linux_alloc_in_vain(scene: Scene) -> Call:
    scene.got[0] = scene.pool.alloc_many(2)
    scene.source.alloc_raises = MemoryError
    return keep(scene, 1, lambda: linux.mempool_alloc(scene.pool, linux.GFP_NOWAIT))  # type: ignore[arg-type]


@call(kernel=True)
def linux_alloc_bulk(scene: Scene) -> Call:
    scene.got[0] = [None, None]
    return lambda: linux.mempool_alloc_bulk(scene.pool, scene.got[0])  # type: ignore[arg-type]


@call(kernel=True)
def linux_free(scene: Scene) -> Call:
    element = scene.got[0] = scene.pool.alloc()
    return lambda: linux.mempool_free(element, scene.pool)  # type: ignore[arg-type]


@call(kernel=True)
def linux_free_bulk(scene: Scene) -> Call:
    elements = scene.got[0] = scene.pool.alloc_many(3)
    return lambda: linux.mempool_free_bulk(scene.pool, elements)  # type: ignore[arg-type]


@call(kernel=True)
def linux_resize(scene: Scene) -> Call:
    return lambda: linux.mempool_resize(scene.pool, 4)  # type: ignore[arg-type]


@call(kernel=True)
def linux_destroy(scene: Scene) -> Call:
    return lambda: linux.mempool_destroy(scene.pool)  # type: ignore[arg-type]


@call()
def linux_create(_scene: Scene) -> Call:
    source = Source()

    def made() -> None:
        pool = kernels_pool(source)
        again(lambda: linux.mempool_destroy(pool))
        assert not any(map(_exists, source.made)), "a pool that is closed, or could not be made, keeps elements"

    return made


# -- sources


def _open_buffers() -> mempool.Buffers:
    """Buffers that have asked the system already what it has to offer, which takes thousands of allocations."""
    source = mempool.Buffers(4096)
    source.free(source.alloc())
    return source


@call()
def buffers(_scene: Scene) -> Call:
    source = _open_buffers()

    def made() -> None:
        element = source.alloc()
        element[:1] = b"1"
        source.free(element)

    return made


@call()
def pool_of_buffers(_scene: Scene) -> Call:
    source = _open_buffers()

    def made() -> None:
        with mempool.Pool(source, 1) as pool, pool.lease() as element:
            element[:1] = b"1"

    return made


@call()
def pool_of_objects(_scene: Scene) -> Call:
    source = mempool.Objects(Element)

    def made() -> None:
        with mempool.Pool(source, 1) as pool, pool.lease() as element:
            assert element.exists

    return made


def in_a_task(function: Call) -> None:
    """Run a function inside a task of an event loop."""

    async def task() -> None:
        function()

    with asyncio.Runner() as runner:
        runner.run(task())
