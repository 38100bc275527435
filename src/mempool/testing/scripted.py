"""ScriptedSource: a source that does as it is told, call by call."""

from __future__ import annotations

import enum
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeAlias, TypeVar

from mempool.buffer import identity_of
from mempool.sources.source import Source
from mempool.testing.waiting import wait_until

T = TypeVar("T")

#: Seconds of real time after which a call that nobody releases gives up.
HELD_SECONDS_MAX = 60


class Step(enum.Enum):
    """What a call of a scripted source does."""

    WORKS = "works"
    """It makes an element, or disposes of one."""
    FAILS = "fails"
    """It raises MemoryError."""
    RAISES = "raises"
    """It raises SourceBroken."""
    SLOW = "slow"
    """It blocks until `ScriptedSource.release` says how it ends."""


Action: TypeAlias = Step | Callable[[], object]


class SourceBroken(RuntimeError):
    """What a source raises that is broken, and not merely out of memory."""


class Element:
    """An element that can be told apart, and referred to weakly."""

    def __init__(self, number: int) -> None:
        self.number = number
        """Its place among all that its source has made; the first is 1."""

    def __repr__(self) -> str:
        return f"<element {self.number}>"


def _checked(script: Iterable[Action]) -> list[Action]:
    """These steps, which are steps."""
    steps = list(script)
    for step in steps:
        if not isinstance(step, Step) and not callable(step):
            raise TypeError(f"a step of a ScriptedSource is a Step, as Step.FAILS, or a function, not {step!r}")
    return steps


class _Held:
    """A call that blocks."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.outcome: Action = Step.WORKS

    def wait(self) -> Action:
        if not self.released.wait(HELD_SECONDS_MAX):
            raise AssertionError("a slow call of a ScriptedSource was never released; call release() or open()")
        return self.outcome


class ScriptedSource(Generic[T]):
    """A source whose every call works, fails, raises or blocks as the script says, and which knows what exists.

        source = ScriptedSource(Step.WORKS, Step.FAILS)     # the first alloc works, the second fails, then all work
        source.then(Step.SLOW)                              # one more after those
        source.otherwise = Step.FAILS                       # what alloc does when the script is at its end
        source.then_free(Step.RAISES)                       # the same for free

    script: for each call of `alloc` a Step, or a function, which is called in the middle of it; what it raises, the call
        raises, otherwise it works.
    otherwise: what `alloc` does when the script is at its end.
    source: where the elements really come from; None: they are `Element`s. Its alloc must make another object each time:
        where it returns one that exists already, this alloc raises AssertionError.

    A step that is none is a TypeError where it is given.

    Nothing here sleeps: a slow call blocks until the test releases it. May be used from any number of threads, and from
    within its own calls.
    """

    reset: Callable[[T], object]
    """The real source's, if it has one."""
    check: Callable[[T], object]
    """The same."""

    def __init__(self, *script: Action, otherwise: Action = Step.WORKS, source: Source[T] | None = None) -> None:
        self.otherwise = otherwise
        self.otherwise_free = Step.WORKS
        self.log: list[str] = []
        """One line per call, when it ended: "alloc works", "alloc fails", "free works" ..."""
        self.alloc_calls: int = 0
        """How often `alloc` was called."""
        self.free_calls: int = 0
        """How often `free` was called."""
        self.made: int = 0
        """Elements made."""
        self.disposed: int = 0
        """Elements disposed of."""
        self.wrong: list[str] = []
        """What the pool did wrong: elements it gave to `free` that did not exist (any more)."""
        self._source: Source[Any] | None = source
        for hook in ("reset", "check"):
            if hasattr(source, hook):
                setattr(self, hook, getattr(source, hook))
        self._script: deque[Action] = deque(_checked(script))
        self._free_script: deque[Action] = deque()
        self._lock = threading.RLock()  # may be entered again by a finalizer
        self._existing: dict[int, T] = {}
        self._numbers = itertools.count(1)
        self._held: list[_Held] = []
        self._is_open = False

    # -- what the test says

    @property
    def otherwise(self) -> Action:
        """What `alloc` does when its script is at its end."""
        return self._otherwise

    @otherwise.setter
    def otherwise(self, action: Action) -> None:
        (self._otherwise,) = _checked([action])

    @property
    def otherwise_free(self) -> Action:
        """What `free` does when its script is at its end."""
        return self._otherwise_free

    @otherwise_free.setter
    def otherwise_free(self, action: Action) -> None:
        (self._otherwise_free,) = _checked([action])

    def then(self, *script: Action) -> None:
        """Let alloc do this too, after what it was told before."""
        self._script.extend(_checked(script))

    def then_free(self, *script: Action) -> None:
        """The same for free."""
        self._free_script.extend(_checked(script))

    def release(self, outcome: Action = Step.WORKS) -> None:
        """Let the call that has been blocked the longest go on and end in this way. Waits until there is one.

        Raises ValueError for SLOW: a call that is to go on blocking is not released.
        """
        _checked([outcome])
        if outcome is Step.SLOW:
            raise ValueError("a call that is released goes on: it works, fails, raises or calls a function, and is not slow")
        self.wait_until_held()
        with self._lock:
            held = self._held.pop(0)
        held.outcome = outcome
        held.released.set()

    def open(self) -> None:
        """The play is over: every blocked call goes on, and every call works from now on."""
        with self._lock:
            self._is_open = True
            held, self._held = self._held, []
        for call in held:
            call.released.set()

    def wait_until_held(self, calls: int = 1, timeout: float = 30) -> None:
        """Wait, in real time, until so many calls are blocked."""
        wait_until(lambda: len(self._held) >= calls, timeout)

    # -- what the test asks

    @property
    def existing(self) -> list[T]:
        """The elements that were made and not disposed of, in the order in which they were made."""
        with self._lock:
            return list(self._existing.values())

    @property
    def held(self) -> int:
        """How many calls are blocked."""
        return len(self._held)

    def has(self, elements: Iterable[T]) -> bool:
        """Whether all of these exist."""
        return all(identity_of(element) in self._existing for element in elements)

    # -- what the pool asks

    def alloc(self) -> T:
        """Make an element, or do what the script says instead."""
        with self._lock:
            self.alloc_calls += 1
            action = self._script.popleft() if self._script else self.otherwise
        self._act("alloc", action)
        element: T = self._source.alloc() if self._source is not None else Element(next(self._numbers))  # type: ignore[assignment]
        with self._lock:
            if identity_of(element) in self._existing:
                raise AssertionError(
                    f"the alloc of {self._source!r} returned {element!r}, which it has made before and which still exists; "
                    "it must make another object each time"
                )
            self.made += 1
            self._existing[identity_of(element)] = element
        return element

    def free(self, element: T, /) -> None:
        """Dispose of an element, whatever the script says: it is gone even if the call raises."""
        with self._lock:
            self.free_calls += 1
            action = self._free_script.popleft() if self._free_script else self.otherwise_free
            if self._existing.pop(identity_of(element), None) is None:
                self.wrong.append(f"free({element!r}): there is no such element")
                raise AssertionError(self.wrong[-1])
        try:
            self._act("free", action)
        finally:
            with self._lock:
                self.disposed += 1
            if self._source is not None:
                self._source.free(element)

    def _act(self, call: str, action: Action) -> None:
        with self._lock:
            if self._is_open:
                action = Step.WORKS
            elif action is Step.SLOW:
                held = _Held()
                self._held.append(held)
        if action is Step.SLOW:
            action = held.wait()
        self.log.append(f"{call} {action.value if isinstance(action, Step) else 'calls'}")
        if action is Step.FAILS:
            raise MemoryError("the script says so")
        if action is Step.RAISES:
            raise SourceBroken("the script says so")
        if not isinstance(action, Step):
            action()

    def __repr__(self) -> str:
        return f"<ScriptedSource: {self.made} made, {self.disposed} disposed of, {self.held} calls held>"
