"""Adaptors: sources around a source. They are composed by wrapping one into the other.

    source = OnFailure(Limited(Buffers("1 MiB"), bytes_max="1 GiB"), gc.collect)

Each passes on what the wrapped source has for a pool beside `alloc` and `free`, see protocol.py. Nothing here
waits: alloc and free may be entered again by a finalizer or a signal handler at any moment, so counts are tokens that
move from list to list (moves.py), and a random generator or an iterator is asked in one call into C.
"""

from __future__ import annotations

import functools
import itertools
import operator
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mempool._core.base_decisions import renew_locks
from mempool.buffer import Buffer
from mempool.native import WITHOUT_GIL
from mempool.sizes import parse_size
from mempool.sources import forks, protocol
from mempool.sources.entering import was_entered
from mempool.sources.levels import LEVELS
from mempool.sources.moves import move
from mempool.sources.protocol import Room
from mempool.sources.turns import Turn

if TYPE_CHECKING:
    from mempool.sources.source import Source

T = TypeVar("T")

_ABSENT = object()
_ONCE = ((),)  # for starmap: one call without arguments
#: Keeps nothing: what extends it was done, one after the other, within one call into C.
_DONE: deque[object] = deque(maxlen=0)


# Each alloc below has the element in a list from the moment on at which it exists, by one call into C, and gives it back
# if anything is raised: no interrupt loses one. In one frame: one further in could be interrupted between its end and the
# next step of its caller.


class Adaptor(Generic[T]):
    """The base: a source that is the wrapped one. Wrap another way by overriding `alloc` or `free`.

    source: any object with `alloc()` and `free(element)`.
    """

    def __init__(self, source: Source[T]) -> None:
        self.source: Source[T] = _source(type(self).__name__, source)
        """What is wrapped."""
        if WITHOUT_GIL:
            forks.register(self)  # the last step: another thread may fork from now on

    def __getattr__(self, name: str) -> Any:
        # Asked for what this object does not have. An adaptor whose constructor failed has no source either.
        if name in protocol.OPTIONAL and "source" in self.__dict__:
            value = protocol.found(self.source, name, _ABSENT)
            if value is not _ABSENT:
                return value
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def alloc(self) -> T:
        """Make an element."""
        made: list[T] = []
        try:
            made.extend(itertools.starmap(self.source.alloc, _ONCE))
            return only(made)
        except BaseException:
            _dispose(self.source, made)
            raise

    def free(self, element: T, /) -> None:
        """Dispose of an element."""
        before: list[int] | None = None
        try:
            before = [0]
            self._end(element, before)
        except BaseException as error:
            if before is not None and not before:
                raise  # the wrapped source's own
            # The wrapped source does not have it yet, and who frees an element does not come back: so once more.
            self._end(element, [0])
            if not isinstance(error, MemoryError):
                raise

    def _end(self, element: T, before: list[int]) -> None:
        """Have the wrapped source dispose of it. `before` is emptied in the moment in which that begins."""
        free = self.source.free
        hand_on(before, free, (before.remove, free), (0, element))

    def _pin(self) -> object:
        """Before a fork: nothing."""
        return None

    def _lose(self) -> None:
        """In a child: no thread has CPython's locks of these."""
        renew_locks(self)
        renew_locks(self.source)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r})"


def _elements(number: int, do: str = "") -> str:
    """So many elements, and what they do, in words."""
    said = f"{number} element{'' if number == 1 else 's'}"
    return f"{said} {do}{'s' if number == 1 else ''}" if do else said


class Limited(Adaptor[T]):
    """Bounds how many elements, or bytes, of the source exist at once. Beyond that, alloc raises MemoryError.

    elements_max: how many elements may exist.
    bytes_max: how many bytes they may have together, as a number or in words. The size of an element must be known.
    size: bytes of an element, if the source has no `size` of its own.

    Unlike a pool's `limit`, the bound holds for all pools that share this source. An element that a pool has written off
    counts until the source's free is called for it: for a `Buffer`, when its last holder drops it; else never.
    """

    def __init__(
        self,
        source: Source[T],
        *,
        bytes_max: int | str | None = None,
        elements_max: int | None = None,
        size: int | str | None = None,
    ) -> None:
        super().__init__(source)
        if (bytes_max is None) == (elements_max is None):
            raise TypeError("Limited: give either bytes_max or elements_max")
        if elements_max is not None:
            self.elements_max: int = min(operator.index(elements_max), sys.maxsize)
            """How many elements may exist at once."""
            if self.elements_max < 0:
                raise ValueError(f"Limited: elements_max is at least 0, not {elements_max}")
        elif bytes_max is not None:
            known = size if size is not None else protocol.found(source, "size")
            if known is None:
                raise ValueError(f"Limited: bytes_max needs the size of an element, and {source!r} has no size; say size=")
            self.elements_max = min(parse_size(bytes_max) // parse_size(known), sys.maxsize)
        # A permit is a token: one that was never used, or one that an element left behind.
        self._fresh = iter(range(self.elements_max))
        self._free: deque[int] = deque()
        self._turn = Turn(self._free)

    @property
    def existing(self) -> int:
        """Elements that exist now."""
        return self.elements_max - operator.length_hint(self._fresh) - len(self._free)

    def room_for(self, elements: int) -> Room | None:
        """How many more could be made, if not so many: the limit's rest, or what the wrapped source says."""
        wrapped = protocol.found(self.source, "room_for")
        room = None if wrapped is None else wrapped(elements)
        left = max(0, self.elements_max - self.existing)
        if left < elements and (room is None or left <= room.elements):
            return Room(left, f"Limited has {self.existing} of at most {_elements(self.elements_max)}")
        return room

    def alloc(self) -> T:
        """Make an element, if one more may exist."""
        permit: deque[int] = deque()
        made: list[T] = []
        try:
            move(self._free, permit)
            if not permit:
                if WITHOUT_GIL:  # a range cannot be asked by several threads there
                    with self._turn.lock():
                        permit.extend(itertools.islice(self._fresh, 1))
                else:
                    permit.extend(itertools.islice(self._fresh, 1))
            if not permit:
                move(self._free, permit)  # none is fresh any more, so only what was returned meanwhile counts
            if not permit:
                raise MemoryError(f"Limited: {_elements(self.elements_max, 'exist')} already, as many as may be")
            made.extend(itertools.starmap(self.source.alloc, _ONCE))
            return only(made)
        except BaseException:
            move(permit, self._free)
            _dispose(self.source, made)
            raise

    def _end(self, element: T, before: list[int]) -> None:
        permit = [0] if self.existing > 0 else []  # until it is back, which the last step says
        free = self.source.free
        steps = (before.remove, free, self._free.extend, permit.__delitem__)
        try:
            hand_on(before, free, steps, (0, element, permit, slice(None)))
        except BufferError:  # somebody views it: it exists, and will be freed again
            raise
        except BaseException:
            if not before:  # and if it was not done
                try:
                    self._free.extend(permit)
                except MemoryError:
                    self._free.extend(permit)
            raise


class Faulty(Adaptor[T]):
    """Raises MemoryError on purpose, to test what happens then. Modelled on the kernel's fault injection.

    probability: the probability that an alloc fails, 0 to 1.
    every: every n-th alloc fails; 0: none does.
    next: how many of the next allocs fail; `fail_next` sets it again.
    times: how many failures there may be altogether; None: any number.
    seed: the same seed gives the same random failures.
    """

    def __init__(
        self,
        source: Source[T],
        *,
        probability: float = 0.0,
        every: int = 0,
        next: int = 0,  # noqa: A002 - the word for it, and keyword-only
        times: int | None = None,
        seed: int | str | None = None,
    ) -> None:
        super().__init__(source)
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"Faulty: probability is 0 to 1, not {probability!r}")
        self.probability: float = float(probability)
        """The probability that an alloc fails. May be changed at any time."""
        self.every: int = _count("Faulty: every", every)
        """Every n-th alloc fails; 0: none does. May be changed at any time."""
        self._calls = itertools.count(1)
        self._due: Iterator[None] = itertools.repeat(None, _count("Faulty: next", next))
        self._budget = itertools.repeat(None) if times is None else itertools.repeat(None, _count("Faulty: times", times))
        self._random = random.Random(seed)
        self._failures: deque[int] = deque(maxlen=1)
        self._failed = itertools.count(1)

    @property
    def failures(self) -> int:
        """How often it has failed on purpose."""
        return max(self._failures, default=0)

    def fail_next(self, n: int = 1) -> None:
        """Make the next `n` allocs fail. Replaces what `next` or an earlier call said."""
        self._due = itertools.repeat(None, _count("Faulty: n", n))

    def alloc(self) -> T:
        """Fail, or make an element."""
        call = next(self._calls)
        due = next(self._due, self) is None
        if not due and self.every:
            due = call % self.every == 0
        if not due and self.probability:
            due = self._random.random() < self.probability
        if due and next(self._budget, self) is None:
            self._failures.extend(itertools.islice(self._failed, 1))
            raise MemoryError(f"Faulty: alloc {call} fails on purpose")
        made: list[T] = []
        try:
            made.extend(itertools.starmap(self.source.alloc, _ONCE))
            return only(made)
        except BaseException:
            _dispose(self.source, made)
            raise


class OnFailure(Adaptor[T]):
    """When the source fails, calls a function that may free memory, then asks the source again.

    callback: a function without arguments. It is called in the allocating thread after the source's alloc has raised
        MemoryError, and returns true if another try is worth it. Examples: `gc.collect`, which returns how much it has
        found; `lambda: cache.clear() or True`. If it raises, alloc raises the same.
    tries: how often it is called during one alloc, at most.

    If the callback itself allocates, it is not called for that: it would call itself for ever.
    """

    def __init__(self, source: Source[T], callback: Callable[[], object], *, tries: int = 8) -> None:
        super().__init__(source)
        if not callable(callback):
            raise TypeError(f"OnFailure: callback is a function that may find memory, not {callback!r}")
        self._callback = callback
        self._tries = _count("OnFailure: tries", tries)
        self._asked = threading.local()

    def alloc(self) -> T:
        """Make an element, with the callback's help where it is needed."""
        made: list[T] = []
        questions = 0
        try:
            while True:
                try:
                    made.extend(itertools.starmap(self.source.alloc, _ONCE))
                    return only(made)
                except MemoryError:
                    if made or questions == self._tries or not self._ask():
                        raise
                questions += 1
        except BaseException:
            _dispose(self.source, made)
            raise

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        return value if name != "room_for" else functools.partial(self._room_for, value)

    def _room_for(self, wrapped: Callable[[int], Room | None], elements: int) -> Room | None:
        """As alloc does: the callback may find what is lacking, and is asked before anything is made."""
        questions = 0
        while True:
            room = wrapped(elements)
            if room is None or room.elements >= elements or questions == self._tries or not self._ask():
                return room
            questions += 1

    def _ask(self) -> bool:
        if getattr(self._asked, "is_running", False):
            return False
        self._asked.is_running = True
        try:
            return bool(self._callback())
        finally:
            self._asked.is_running = False


class Translated(Adaptor[T]):
    """Turns other exceptions of the source's alloc into MemoryError, so that the pool uses its reserve.

    errors: exception classes, one or more: `OSError`, a driver's own error, the PoolTimeout of a pool behind the source.

    A pool uses its reserve only after a MemoryError; any other exception of a source reaches the caller. The MemoryError
    carries the name and the text of the original exception, which is its `__cause__`.
    """

    def __init__(self, source: Source[T], *errors: type[Exception]) -> None:
        super().__init__(source)
        if not errors or not all(isinstance(error, type) and issubclass(error, Exception) for error in errors):
            raise TypeError(
                f"Translated: say which exceptions mean that there is no memory, such as OSError; not {errors!r}"
            )
        self.errors: tuple[type[Exception], ...] = errors
        """The exceptions that become MemoryError."""

    def alloc(self) -> T:
        """Make an element."""
        made: list[T] = []
        try:
            try:
                made.extend(itertools.starmap(self.source.alloc, _ONCE))
            except MemoryError:
                raise
            except self.errors as error:
                raise MemoryError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
            return only(made)
        except BaseException:
            _dispose(self.source, made)
            raise

    def __repr__(self) -> str:
        return f"Translated({self.source!r}, {', '.join(error.__name__ for error in self.errors)})"


class Fallback(Adaptor[T]):
    """Asks a second source when the first one fails. Each element is returned to the source that made it.

    first, second: two sources whose elements a user can treat alike. `level` is the weaker of their levels, `size` the
        larger of their sizes.

    Elements may be of any type: they are told apart by identity, and a `Buffer` by its memory, which outlives its handle.
    """

    def __init__(self, first: Source[T], second: Source[T]) -> None:
        self.second: Source[T] = _source("Fallback", second)
        """What is asked when the first fails."""
        # Only those of the second. No reference: an element that its user loses is destroyed as usual, and its number
        # stands for whatever is made at its place later, which alloc then says anew.
        self._seconds: set[int] = set()
        super().__init__(first)

    def __getattr__(self, name: str) -> Any:
        if name not in protocol.OPTIONAL or "second" not in self.__dict__:
            return super().__getattr__(name)
        values = [protocol.found(source, name, _ABSENT) for source in (self.source, self.second)]
        found = [value for value in values if value is not _ABSENT]
        if not found or (name == "room_for" and len(found) < 2):
            raise AttributeError(f"'Fallback' object has no attribute {name!r}")
        if name == "size":
            return max(found)
        if name == "level":
            return min(found, key=LEVELS.index) if len(found) == 2 and set(found) <= set(LEVELS) else None
        return {"reset": self._reset, "check": self._check, "room_for": self._room_for, "regain": self._regain}[name]

    def alloc(self) -> T:
        """Make an element, by the first source or else by the second."""
        made: list[T] = []
        maker = self.source
        try:
            try:
                made.extend(itertools.starmap(maker.alloc, _ONCE))
            except MemoryError:
                if made:
                    raise  # it could not even be taken note of
                maker = self.second
                made.extend(itertools.starmap(maker.alloc, _ONCE))
                self._seconds.add(key_of(only(made)))
            else:
                self._seconds.discard(key_of(only(made)))
            return only(made)
        except BaseException:
            _dispose(maker, made)
            raise

    def _end(self, element: T, before: list[int]) -> None:
        key = key_of(element)
        maker = self._maker(element)
        free = maker.free
        try:
            # Forgotten before: once it is disposed of, its number may stand for another.
            hand_on(before, free, (before.remove, self._seconds.discard, free), (0, key, element))
        except BaseException as error:
            if (before or isinstance(error, BufferError)) and maker is self.second:
                self._seconds.add(key)  # it exists: it was not even handed on, or somebody views it and frees it again
            raise

    def _maker(self, element: T) -> Source[T]:
        return self.second if key_of(element) in self._seconds else self.source

    def _reset(self, element: T) -> None:
        reset = protocol.found(self._maker(element), "reset")
        if reset is not None:
            reset(element)

    def _check(self, element: T) -> None:
        check = protocol.found(self._maker(element), "check")
        if check is not None:
            check(element)

    def _regain(self) -> None:
        for source in (self.source, self.second):
            protocol.found(source, "regain", _nothing_to_do)()

    def _lose(self) -> None:
        super()._lose()
        renew_locks(self.second, self._seconds)

    def _room_for(self, elements: int) -> Room | None:
        rooms = [protocol.found(source, "room_for")(elements) for source in (self.source, self.second)]
        if any(room is None or room.elements >= elements for room in rooms):
            return None
        # They may have their memory from the same place, so this errs on the large side.
        return Room(sum(room.elements for room in rooms), "; ".join(dict.fromkeys(room.why for room in rooms)))

    def __repr__(self) -> str:
        return f"Fallback({self.source!r}, {self.second!r})"


def _source(name: str, source: Source[T]) -> Source[T]:
    protocol.require(name, source)
    return source


def _nothing_to_do() -> None:
    """For a source that has no memory to bring to its level."""


def _count(what: str, number: int) -> int:
    if operator.index(number) < 0:
        raise ValueError(f"{what} is at least 0, not {number}")
    return operator.index(number)


def only(made: list[T]) -> T:
    """What an alloc has made. There is nothing where it raised StopIteration, which ends the call into C, and no more."""
    if not made:
        raise TypeError("the source's alloc raised StopIteration; raise MemoryError where nothing can be had")
    return made[0]


def in_order(steps: tuple[Callable[[Any], object], ...], things: tuple[Any, ...]) -> None:
    """Call each with its thing, within one call into C: no interrupt strikes between two of them."""
    # Without the GIL, each thread in a deque of its own: `extend` holds its lock while the source's code runs.
    done: deque[object] = deque(maxlen=0) if WITHOUT_GIL else _DONE
    done.extend(map(operator.call, steps, things))


def hand_on(
    before: list[int],
    free: Callable[[Any], object],
    steps: tuple[Callable[[Any], object], ...],
    things: tuple[Any, ...],
) -> None:
    """`in_order` of steps that empty `before` and then call `free`. Filled again where that was not even entered."""
    try:
        in_order(steps, things)
    except BaseException as error:
        if not before and not was_entered(free, error):
            before.append(0)
        raise


def _dispose(source: Source[T], made: list[T]) -> None:
    while made:
        source.free(made.pop())


def key_of(element: object) -> int:
    """By what an element is known while it exists. A Buffer's handle changes, its block does not."""
    return id(element.block if isinstance(element, Buffer) else element)
