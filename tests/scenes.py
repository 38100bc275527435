"""A scene for each public call: a pool, its source, and what a call under test has got. See every_call.py."""

from __future__ import annotations

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
