"""A scene for each public call: a pool, its source, and what a call under test has got. See every_call.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from books import assert_nothing_under_way
from clocks import StandingClock, nothing_happens

import mempool
from mempool import linux
from mempool.sources import Memory, Region
from mempool.testing import assert_books

Call = Callable[[], object]


class Disposable:
    """Knows whether it was disposed of, which takes no memory to note."""

    __slots__ = ("exists",)

    def __init__(self) -> None:
        self.exists = True


class Broken(Exception):
    """What a source raises that is no lack of memory."""


class Source:
    """Makes elements and remembers them; fails or raises when it is told to."""

    def __init__(self) -> None:
        self.made: list[Disposable] = []
        self.alloc_raises: type[Exception] | None = None
        self.free_raises: type[Exception] | None = None

    def alloc(self) -> Disposable:
        if self.alloc_raises is not None:
            raise self.alloc_raises
        element = Disposable()
        self.made.append(element)
        return element

    def free(self, element: Disposable) -> None:
        assert element.exists, "disposed of twice"
        element.exists = False
        if self.free_raises is not None:
            raise self.free_raises

    def existing(self) -> list[Disposable]:
        return [element for element in self.made if element.exists]


class ResettingSource(Source):
    """One whose elements are reset when they are returned."""

    reset_raises: type[Exception] | None = None

    def reset(self, _element: Disposable) -> None:
        if self.reset_raises is not None:
            raise self.reset_raises


class CheckingSource(Source):
    """One whose elements are looked at before they are handed out."""

    check_raises: type[Exception] | None = None

    def check(self, _element: Disposable) -> None:
        if self.check_raises is not None:
            raise self.check_raises


class BufferSource(mempool.Buffers):
    """Buffers of which the same is known: the blocks it has made, and when to fail."""

    free_raises: type[Exception] | None = None  # never set

    def __init__(self, size: int = 4096, **options: Any) -> None:
        super().__init__(size, **options)
        open_up(self._memory)
        self.made: list[Any] = []
        self.alloc_raises: type[Exception] | None = None

    def alloc(self) -> mempool.Buffer:
        if self.alloc_raises is not None:
            raise self.alloc_raises
        buffer = super().alloc()
        self.made.append(buffer.block)
        return buffer

    def existing(self) -> list[Any]:
        blocks = [block for block in self.made if block.region is not None]
        look_through(self._memory, [block.region for block in blocks])
        return blocks


def open_up(memory: Memory) -> None:
    """As if it had asked the system already what there is and what it got, which takes thousands of allocations."""
    memory._credit = 1 << 30
    memory._was_verified = True


def look_through(memory: Memory, regions: Iterable[Region]) -> None:
    """Each place of the memory that these regions are not in is free."""
    taken = list(regions)
    blocks = {region._block for region in taken if region._block is not None} | set(memory._open)
    used = sum(block.places - len(block.free) - len(block.last) for block in blocks)
    assert used == len(taken), f"{used} places in use, {len(taken)} regions"


def exists(element: Any) -> bool:
    """Whether it can be used: an element that was not disposed of, a buffer whose handle is not dead."""
    return bool(element.is_alive() if isinstance(element, mempool.Buffer) else element.exists)


class Scene:
    """A pool with two promised, up to three warm and at most five, its source, and who has what.

    buffers: options of Buffers, for a pool of them. around: makes an adaptor of the source, which the pool then asks.
    """

    def __init__(
        self,
        *,
        resets: bool = False,
        checks: bool = False,
        kernel: bool = False,
        buffers: dict[str, Any] | None = None,
        around: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        self.source: Any
        if buffers is not None:
            self.source = BufferSource(**buffers)
        else:
            self.source = ResettingSource() if resets else CheckingSource() if checks else Source()
        #: What the pool asks.
        self.adaptor = self.source if around is None else around(self.source)
        self.clock = StandingClock()
        self.pool: Any
        self.targets: dict[str, Any]
        if kernel:
            self.pool = kernels_pool(self.source)
            assert self.pool is not None
            self.targets = {"keep": 2, "limit": None}
        else:
            self.targets = {"keep": 3, "limit": 5}
            self.pool = mempool.Pool(self.adaptor, 2, keep=3, limit=5, name="scene", **options)
        self.pool._clock = self.clock
        self.tracks = options.get("track") != "nothing"
        self.offloads = options.get("offload", False)
        self.got: list[Any] = [None] * 8
        #: What came from the source and not from the pool.
        self.made: list[Any] = [None]
        self.others: list[Any] = []
        #: What else there is to look at when all is over.
        self.at_end: list[Call] = []

    def take_all(self) -> None:
        """Others have it all, and no more can be made."""
        self.others = [self.pool.alloc() for _ in range(5)]
        for element in self.others:
            self.pool.hand_over(element)
        self.source.alloc_raises = MemoryError

    def another_frees(self, elements: int = 1) -> Call:
        """Somebody else, who tries again when there was no memory to free with."""
        todo = iter(self.others)
        first = iter([True])

        def free() -> None:
            # Where a reset had no memory, the element is gone, and who waits for it waits for another.
            assert next(first, False) or hasattr(self.source, "reset"), "woken in vain"
            for element in islice(todo, elements):
                try:
                    self.pool.free(element)
                except MemoryError:
                    if exists(element) and self._is_out(element):
                        self.pool.free(element)

        return free

    def end(self) -> None:
        """Give back what somebody is known to have. Then nothing is out, nothing is lost, and the pool works."""
        for what in ("alloc_raises", "free_raises", "reset_raises", "check_raises"):
            if hasattr(self.source, what):
                setattr(self.source, what, None)
        looks, self.at_end = self.at_end, []
        for look in looks:
            look()
        self._give_back()
        self.clock.meanwhile = nothing_happens  # the last cycle: who looks for a deadlock looks at every pool that lives
        self.audit()
        if not self.pool.stats().closed:
            self.pool.resize(2, **self.targets)
            if hasattr(self.source, "reset"):
                self.pool.refill()  # in place of those of which nobody knows in what state they are
            self.clock.time += 1  # a source that has failed is asked again
            element = self.pool.alloc(timeout=0)
            assert exists(element)
            self.pool.free(element)
            self.audit()
            self.pool.resize(keep=2)  # as it was in the beginning
            self.pool.resize(**self.targets)
            assert self.pool.guarantee().held
            assert self.pool.stats().spare == 2
        self.source.made = self.source.existing()

    def _give_back(self) -> None:
        for element in self.made:
            if element is not None and exists(element):
                self.adaptor.free(element)
        held = [element for got in self.got for element in (got if isinstance(got, list) else [got])]
        for element in held + self.others:
            if isinstance(element, Disposable | mempool.Buffer) and exists(element) and self._is_out(element):
                self.pool.free(element)
        self.made = [None]
        self.got = [None] * 8
        self.others = []

    def _is_out(self, element: Any) -> bool:
        if self.tracks:
            return bool(self.pool.core.is_out(element))
        return self.pool.stats().out > 0 and not self.pool.core.is_spare(element)

    def audit(self) -> None:
        if self.offloads:
            self.pool._engine.finish()
        assert_nothing_under_way(self.pool)
        assert_books(self.pool, spare=len(self.source.existing()))
        self._audit_adaptor({id(element) for element in self.source.existing()})

    def _audit_adaptor(self, existing: set[int]) -> None:
        """What it remembers is true: of Limited how many there are, of Logged and Fallback which."""
        counted = getattr(self.adaptor, "existing", len(existing))
        assert callable(counted) or counted == len(existing), f"{len(existing)} exist, and Limited counts {counted}"
        known = set(getattr(self.adaptor, "_known", existing))
        assert known == existing, f"{len(existing)} exist, and Logged knows {len(known)}"
        assert set(getattr(self.adaptor, "_seconds", ())) <= existing, "Fallback knows what does not exist"


def kernels_pool(source: Source) -> linux.Mempool[Disposable] | None:
    return linux.mempool_create(2, lambda _mask, data: data.alloc(), kernels_free, source)


def kernels_free(element: Disposable, source: Source) -> None:
    """Source.free, in one frame: to enter another may need memory, too."""
    assert element.exists, "disposed of twice"
    element.exists = False
    if source.free_raises is not None:
        raise source.free_raises


@dataclass
class Prepared:
    """One call: what must be done beforehand, and with what kind of pool."""

    prepare: Callable[[Scene], Call]
    options: dict[str, Any] = field(default_factory=dict)
    in_loop: bool = False  # must be made inside a task
    is_long: bool = False  # only `make stress` makes it, because it takes long and others do much the same

    def scene(self, **options: Any) -> Scene:
        return Scene(**{**options, **self.options})

    def __call__(self, scene: Scene) -> Call:
        return self.prepare(scene)


CALLS: dict[str, Prepared] = {}


def listed(
    name: str, prepare: Callable[[Scene], Call], *, in_loop: bool = False, is_long: bool = False, **options: Any
) -> None:
    """Write a call down."""
    assert name not in CALLS, name
    CALLS[name] = Prepared(prepare, options, in_loop, is_long)


def call(**options: Any) -> Callable[[Callable[[Scene], Call]], Callable[[Scene], Call]]:
    """Write it down by its own name."""

    def write_down(prepare: Callable[[Scene], Call]) -> Callable[[Scene], Call]:
        listed(prepare.__name__, prepare, **options)
        return prepare

    return write_down


def again(made: Call) -> None:
    """The call, a second time where there was no memory for the first."""
    try:
        made()
    except MemoryError:
        made()


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


def each(*calls: Call) -> Call:
    """One after the other."""

    def made() -> None:
        for one in calls:
            one()

    return made


def in_time(made: Call) -> Call:
    """A call with timeout=0 that need not wait, but must where the source had no memory to make enough."""

    def timed() -> None:
        try:
            made()
        except mempool.PoolTimeout:
            raise NotRaised from None

    return timed


def keep(scene: Scene, place: int, made: Call) -> Call:
    """The call, which puts what it returns into this place."""

    def kept() -> None:
        scene.got[place] = made()

    return kept


def driven(routine: Callable[[], Coroutine[Any, Any, object]], meanwhile: Call = nothing_happens) -> Call:
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


def cancelled(routine: Callable[[], Coroutine[Any, Any, object]], meanwhile: Call = lambda: None) -> Call:
    """The same, and after what happens while it is parked it is cancelled."""
    cancellation = asyncio.CancelledError()

    def cancel() -> None:
        coroutine = routine()
        try:
            coroutine.send(None)
            meanwhile()
            coroutine.throw(cancellation)
        except asyncio.CancelledError:
            return
        finally:
            coroutine.close()
        raise AssertionError("not cancelled")

    return cancel


def in_a_task(function: Call) -> None:
    """Run a function inside a task of an event loop."""

    async def task() -> None:
        function()

    with asyncio.Runner() as runner:
        runner.run(task())
