"""Pools that follow the machine: `follow` moves a pool's `keep` with the memory pressure that Linux tells of.

    with follow(pool, keep=(64, 256)) as pressure:
        ...
    print(pressure.source, *pressure.log, sep="\\n")

States of a Course, which decides (times by its clock, in seconds):

    calm (<= 1 %)  --60 s of it, and patience has passed-->  one step up, and again calm
    uneasy (between)                                          nothing moves
    pressed (>= 10 %, or an event)  --10 s since the last step-->  one step down

Invariants:

1. `keep` is moved within its range only, and so is the reserve, which is moved only if `reserve=` was given. What was given
   by hand since is never undone: nothing is shrunk below it.
2. Two steps are STEP_SECONDS apart at least. A step up needs CALM_SECONDS of calm of its own.
3. A step up ends at NEAR of the level that hurt last; from there on it is one element, and NEAR_SECONDS of waiting.
4. A level that was reached by a step up, and that hurts, is a setback: the pool itself may make the pressure. The next step
   up comes after an hour then; after the next setback two, and at most four. What hurt is forgotten after FORGET_SECONDS.
5. `dry_run` takes the same decisions from the same figures and writes the same log; the pool is not called.
6. A follower refers to its pool weakly, ends when the pool is closed or gone, and never raises into anybody's call.
7. A source that is gone is looked for anew: at once, then in doubling steps up to a minute.
"""

from __future__ import annotations

import logging
import operator
import os
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mempool import native, psi
from mempool.background import NEVER, SERVICE, JobOfPool
from mempool.clock import SYSTEM_CLOCK, Clock
from mempool.errors import PoolClosed
from mempool.sizes import in_words
from mempool.sources import Buffers
from mempool.sources.adaptors import Adaptor

if TYPE_CHECKING:
    from mempool.base_pool import BasePool

__all__ = ["Pressure", "Step", "follow"]

#: Percent. At this much and more a step down; at this little and less it is calm.
PRESSED, CALM = 10.0, 1.0
#: Seconds between two steps; of calm before a step up; between two steps up near a level that hurt.
STEP_SECONDS, CALM_SECONDS, NEAR_SECONDS = 10.0, 60.0, 3600.0
#: The part of a level that hurt up to which it is grown by GROWTH of what it is.
NEAR, GROWTH = 0.9, 0.25
#: Seconds without pressure after which what hurt is forgotten: without a setback, with one.
FORGET_SECONDS, FORGET_SETBACK_SECONDS = 4 * 3600.0, 24 * 3600.0
#: Steps that the log keeps.
LOG_MAX = 1000
INTO_RANGE = "into the range"

log: logging.Logger = logging.getLogger("mempool")


@dataclass(frozen=True, slots=True)
class Step:
    """One change that pressure, or its end, has made; or would have, with `dry_run`."""

    when: float
    """Seconds, by the follower's clock."""
    why: str
    """What the system said."""
    keep: tuple[int, int]
    """`keep` before and after."""
    reserve: tuple[int, int] | None
    """The reserve before and after; None: it is not followed."""
    elements: int
    """Spares that were given back."""
    size: int | None
    """The same in bytes; None: the size of an element is not known."""

    def __str__(self) -> str:
        moved = f"keep {self.keep[0]} -> {self.keep[1]}"
        if self.reserve is not None and self.reserve[0] != self.reserve[1]:
            moved += f", reserve {self.reserve[0]} -> {self.reserve[1]}"
        if self.elements:
            given = f"{self.elements} elements" if self.size is None else in_words(self.size)
            moved += f", {given} given back"
        return f"{self.why}: {moved}"


class _Level:
    """One number that is moved: within a range, and never below what was given by hand."""

    __slots__ = ("floor", "hi", "hurt", "lo", "value")

    def __init__(self, lo: int, hi: int, value: int) -> None:
        self.lo = lo
        self.hi = hi
        self.value = value
        self.floor = 0  # what was given by hand since
        self.hurt: int | None = None  # the value at which pressure began

    def lowest(self) -> int:
        return max(self.lo, self.floor)

    def down(self) -> int:
        return min(self.value, max(self.lowest(), self.value // 2))

    def up(self) -> int:
        """The next value; the same: there is none."""
        grown = self.value + max(1, int(self.value * GROWTH))
        if self.hurt is not None and self.value < self.hi:
            near = int(self.hurt * NEAR)
            grown = self.value + 1 if self.value >= near else min(grown, near)
        return max(self.value, min(grown, self.hi))

    def is_near(self) -> bool:
        return self.hurt is not None and self.value >= int(self.hurt * NEAR)


class Course:
    """Decides from figures and time alone: see the states and invariants above."""

    def __init__(self, levels: list[_Level]) -> None:
        self.levels = levels
        self._calm_since: float | None = None
        self._pressed_at: float | None = None
        self._stepped_at = -NEVER
        self._went_up = False  # the last step
        self._went_down = False
        self._setbacks = 0

    def decide(self, now: float, percent: float | None, is_event: bool) -> list[int] | None:
        """The next value of each level; None: nothing moves. percent None: only events tell."""
        is_pressed = is_event or (percent is not None and percent >= PRESSED)
        if is_pressed:
            self._pressed_at = now
        if is_pressed or (percent is not None and percent > CALM):
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        self._forget(now)
        if now - self._stepped_at < STEP_SECONDS:
            return None
        if is_pressed:
            return self._changed([level.down() for level in self.levels])
        if self._calm_since is None or now - max(self._calm_since, self._stepped_at) < CALM_SECONDS:
            return None
        if now - max(self._stepped_at, self._pressed_at or -NEVER) < self._patience():
            return None
        return self._changed([level.up() for level in self.levels])

    def _changed(self, values: list[int]) -> list[int] | None:
        return None if values == [level.value for level in self.levels] else values

    def _patience(self) -> float:
        hours = 0 if self._setbacks == 0 else min(4, 2 ** (self._setbacks - 1))
        near = NEAR_SECONDS if any(level.is_near() and level.value < level.hi for level in self.levels) else 0.0
        return max(near, hours * 3600.0)

    def _forget(self, now: float) -> None:
        seconds = FORGET_SETBACK_SECONDS if self._setbacks else FORGET_SECONDS
        if self._pressed_at is not None and now - self._pressed_at >= seconds:
            self._pressed_at = None
            self._setbacks = 0
            for level in self.levels:
                level.hurt = None

    def begin(self, values: list[int]) -> None:
        """The first values, which nothing has led to."""
        for level, value in zip(self.levels, values, strict=True):
            level.value = value

    def stepped(self, now: float, values: list[int]) -> None:
        """These values are in force."""
        is_down = values < [level.value for level in self.levels]
        if is_down and not self._went_down:
            # A second step down in a row tells nothing of the level that it leaves: the pressure began higher up. So that
            # one long burst does not keep the pool small for hours, only the first step marks its level as one that hurt.
            self._setbacks += self._went_up
            for level in self.levels:
                level.hurt = level.value
        for level, value in zip(self.levels, values, strict=True):
            level.value = value
        self._went_down, self._went_up = is_down, not is_down
        self._stepped_at = now

    def moved_by_hand(self) -> None:
        """What the levels are now, nobody has grown to step by step."""
        self._went_down = self._went_up = False


class Pressure(JobOfPool):
    """What `follow` returns: a follower at work, until `close`, the end of its `with` block or of its pool."""

    __slots__ = ("_lock",)  # where eventlet does not look: native.RLock

    # Of Job, for type checkers.
    is_over: bool
    next_at: float
    fd: int | None
    fd_events: int
    call: Callable[[Callable[[], object]], object] | None

    def __init__(
        self,
        pool: BasePool[Any],
        keep: tuple[int, int],
        reserve: tuple[int, int] | None,
        *,
        dry_run: bool,
        watch: psi.Watch,
        clock: Clock,
        call: Callable[[Callable[[], object]], object] | None,
    ) -> None:
        super().__init__(pool)
        self._dry_run = dry_run
        self._watch = watch
        self._clock = clock
        self.call = call
        self._lock = native.RLock()  # `look` is also called by users
        self._log: deque[Step] = deque(maxlen=LOG_MAX)
        now = pool._engine.snapshot()
        self._keep = _Level(keep[0], keep[1], now.keep)
        self._reserve = None if reserve is None else _Level(reserve[0], reserve[1], now.reserve)
        self._course = Course([level for level in (self._keep, self._reserve) if level is not None])
        self._seen = now
        self._given: int | None = None  # the `keep` that we have given last
        self._spare_max = now.spare  # with dry_run: more would not be there any more
        self.fd, self.fd_events = watch.fd, watch.fd_events
        if watch.is_found:
            self._enter_range(pool)

    # -- looking

    @property
    def source(self) -> str:
        """Which file, function or socket is followed; "no source: ..." and the reason where there is none."""
        return self._watch.name

    @property
    def log(self) -> tuple[Step, ...]:
        """The steps taken, oldest first; the last thousand."""
        return tuple(self._log)

    @property
    def is_following(self) -> bool:
        """Whether there is a source, and neither the follower nor its pool has ended."""
        return not self.is_over and self._watch.is_found

    def __repr__(self) -> str:
        return f"<Pressure on pool {self._name!r}: {'over' if self.is_over else self.source}; {len(self._log)} steps>"

    # -- the end

    def _end(self) -> None:
        with self._lock:
            self._watch.close()
            self.fd = None

    def _after_fork(self) -> None:
        self._lock = native.RLock()
        self._watch.after_fork()
        self.fd, self.next_at = None, 0.0

    # -- at work

    def look(self) -> None:
        """Look at the source now and take the step that is due, as the thread does by itself every one or two seconds.

        For tests that hold the clock, and for programs that want no thread: see `follow`.
        """
        self._look(0)

    def _run(self, events: int) -> None:
        self._look(events)
        self.next_at = time.monotonic() + self._watch.seconds()

    def _look(self, events: int) -> None:
        with self._lock:
            pool = self._pool()
            if self.is_over or pool is None or pool.closed:
                self.is_over = True
                return
            now = self._clock.now()
            was_found = self._watch.is_found
            try:
                reading = self._watch.look(now, events)
            finally:
                self.fd, self.fd_events = self._watch.fd, self._watch.fd_events
            if was_found and not self._watch.is_found:
                log.warning("pool %r: memory pressure is not followed for now: %s", self._name, self.source)
            if reading is not None:
                self._react(pool, reading, now)

    def _react(self, pool: BasePool[Any], reading: psi.Reading, now: float) -> None:
        percent, event = reading
        for _ in range(3):  # a resize by hand at this very moment is looked at, and wins
            self._note_manual(pool)
            values = self._course.decide(now, percent, event is not None)
            if values is None:
                return
            why = event if event is not None else "calm" if percent is None else f"some avg10 = {percent:.1f} %"
            if self._step(pool, values, now, why):
                return

    def _note_manual(self, pool: BasePool[Any]) -> None:
        """Whoever has resized the pool since the last look has the last word."""
        before, s = self._seen, pool._engine.snapshot()
        self._seen = s
        if s.resizes == before.resizes:
            return
        if self._reserve is not None and s.reserve != before.reserve:
            self._reserve.floor = self._reserve.value = s.reserve
            self._course.moved_by_hand()
        # A keep that the pool works out by itself, from the reserve and from what we gave, is none that was given by hand.
        by_itself = 2 * s.reserve if self._given is None else max(self._given, s.reserve)
        if s.keep in (before.keep, by_itself):
            self._keep.value = max(self._keep.value, s.reserve) if self._dry_run else s.keep
        else:
            self._keep.floor = self._keep.value = s.keep
            self._course.moved_by_hand()

    def _step(self, pool: BasePool[Any], values: list[int], now: float, why: str) -> bool:
        """Take one step. False: a resize by hand came between."""
        before = pool._engine.snapshot()
        reserve = before.reserve
        if self._reserve is not None:
            reserve = values[1] = values[1] if before.limit is None else min(values[1], before.limit)
        keep = values[0] = max(values[0], reserve)
        is_move = values != [level.value for level in self._course.levels]
        if not is_move and why != INTO_RANGE:
            return True
        spare = min(before.spare, self._spare_max) if self._dry_run else before.spare
        if not self._dry_run and not self._resize(pool, None if self._reserve is None else reserve, keep):
            return False
        if is_move:
            self._spare_max = min(self._spare_max, keep)
            self._write(pool, why, now, (keep, reserve), spare)
        self._course.stepped(now, values) if why != INTO_RANGE else self._course.begin(values)
        return True

    def _resize(self, pool: BasePool[Any], reserve: int | None, keep: int) -> bool:
        resizes = pool._engine.snapshot().resizes
        try:
            pool.resize(reserve, keep=keep)
        except ValueError:
            return False  # between our look and this moment the reserve was raised, or the limit lowered
        except PoolClosed:
            self.is_over = True
            return False
        except Exception:  # a source's free, when all is done; or no memory for the list of places
            log.exception("pool %r: a resize for memory pressure has raised", self._name)
            if pool._engine.snapshot().resizes == resizes:
                return False
        self._given = keep
        now = pool._engine.snapshot()
        # Ours is one resize; any other one since then is somebody's, and its targets shall be seen.
        self._seen = self._seen._replace(
            resizes=resizes + 1, keep=keep, reserve=self._seen.reserve if reserve is None else reserve
        )
        if now.resizes == resizes + 1:
            self._seen = now
        return True

    def _write(self, pool: BasePool[Any], why: str, now: float, after: tuple[int, int], spare: int) -> None:
        keep, reserve = after
        elements = max(0, spare - keep) if keep < self._keep.value else 0
        size = element_size(pool)
        moved = None if self._reserve is None else (self._reserve.value, reserve)
        step = Step(now, why, (self._keep.value, keep), moved, elements, None if size is None else elements * size)
        self._log.append(step)
        log.info("pool %r%s: %s", self._name, " (dry run)" if self._dry_run else "", step)

    def _enter_range(self, pool: BasePool[Any]) -> None:
        """At the beginning: what is outside of its range goes to the nearest end of it, and `keep` is given from now on."""
        values = [min(max(level.value, level.lo), level.hi) for level in self._course.levels]
        self._step(pool, values, self._clock.now(), INTO_RANGE)


def element_size(pool: BasePool[Any]) -> int | None:
    """Bytes of an element, where elements are buffers of one size; else None."""
    layout: Any = getattr(getattr(pool._engine, "client", None), "layout", None)  # of a SharedPool
    if layout is not None:
        return int(layout.size)
    source: Any = getattr(getattr(pool._engine, "supply", None), "source", None)
    while isinstance(source, Adaptor):
        source = source.source
    return source.size if isinstance(source, Buffers) else None


# By identity, and not a WeakSet: that is run over in Python, and fails where another thread adds one meanwhile.
_followers: weakref.WeakValueDictionary[int, Pressure] = weakref.WeakValueDictionary()


def follow(
    pool: BasePool[Any],
    keep: tuple[int, int],
    reserve: tuple[int, int] | None = None,
    dry_run: bool = False,
    *,
    source: str | os.PathLike[str] | Callable[[], float] | None = None,
    thread: bool = True,
    call: Callable[[Callable[[], object]], object] | None = None,
    root: str | os.PathLike[str] = "/",
    clock: Clock | None = None,
) -> Pressure:
    """Move a pool's `keep` with the memory pressure of the machine, between two ends, until the end of the `with` block.

        with follow(pool, keep=(64, 256)) as pressure:
            serve()

    keep: the least and the most spares to keep warm. Pressure halves `keep`, and the system gets back what is beyond it;
        calm lets it grow again. It is never below the reserve.
    reserve: the least and the most to promise. None: the reserve stays as it is; a promise that goes away under pressure is
        none.
    dry_run: take the same decisions, write the same log, and leave the pool alone.
    source: a file of pressure stall information, or a function that returns a percentage; None: what systemd names in
        `$MEMORY_PRESSURE_WATCH`, else the control group of this process, else `/proc/pressure/memory`. Where there is none,
        nothing moves, and `pressure.source` and a warning in the log say why.
    thread: False: nothing runs by itself, and the program calls `pressure.look()`.
    call: makes the looks run elsewhere, like an event loop's `call_soon_threadsafe`, for a source that must be called there.
    root, clock: for tests: where the files of the system are, and the time.

    The pool is referred to weakly; the follower ends with it. What is given by hand meanwhile, `pool.resize(keep=...)`, is
    not undone by pressure. Raises ValueError where a range or `source` makes no sense, or the pool is followed already.
    """
    clock = SYSTEM_CLOCK if clock is None else clock
    called = pool._called()
    now = pool._engine.snapshot()
    keep = _range(called, "keep", keep)
    if reserve is not None:
        reserve = _range(called, "reserve", reserve)
        if reserve[1] > keep[1]:
            raise ValueError(f"{called}: a reserve of {reserve[1]} needs as many to be kept; keep ends at {keep[1]}")
    elif keep[1] < now.reserve:
        raise ValueError(
            f"{called}: keep is never below the reserve of {now.reserve}; a range up to {keep[1]} moves nothing"
        )
    others = [other for reference in _followers.valuerefs() if (other := reference()) is not None]
    if any(other._pool() is pool and not other.is_over for other in others):
        raise ValueError(f"{called}: memory pressure is followed already; close that follower first")
    pressure = Pressure(
        pool,
        keep,
        reserve,
        dry_run=dry_run,
        watch=psi.Watch(source, Path(root), os.environ, clock.now()),
        clock=clock,
        call=call,
    )
    if not pressure.is_following:
        log.warning("pool %r: memory pressure is not followed: %s", pool.name, pressure.source)
    _followers[id(pressure)] = pressure
    if thread:
        SERVICE.add(pressure)
    return pressure


def _range(called: str, what: str, ends: tuple[int, int]) -> tuple[int, int]:
    try:
        lo, hi = (operator.index(end) for end in ends)
    except (TypeError, ValueError):
        raise TypeError(f"{called}: {what} is two whole numbers, the least and the most, not {ends!r}") from None
    if not 0 <= lo <= hi:
        raise ValueError(f"{called}: {what}=({lo}, {hi}) is no range; give the least, 0 or more, before the most")
    return lo, hi
