"""`mempool.upkeep`: what a pool would otherwise need somebody to remember, done by the process's one background thread.

Each look, once a second, does what was asked for, in this order:

    garbage   callers wait, elements are out, and nobody was served since the last look: the garbage is collected, once per
              standstill, because buffers that were dropped in a reference cycle are out until then
    refill    something is unfunded: it is made, in turns of REFILL_SECONDS; after a turn that the source ended there is none
              for 1 s, then twice as long each time, up to a minute, until the source works again
    idle      spares beyond the reserve that were there at all looks of the last `idle` seconds go back to the source
    held      elements that have been out for `held_warning` seconds are told of, each once

Invariants:

1. Nothing of it runs before `upkeep` is called; one thread does it for all pools, the same as for memory pressure.
2. It asks the pool for its figures without a lock, joins no line and takes no element: no caller waits for it. A turn of the
   refill serves callers in the line as any refill does.
3. The reserve is never trimmed, nor what is laid by for a caller in the line. `keep` is not changed.
4. The pool is referred to weakly, and the upkeep ends with it.
5. What the source raises is logged and tried again later; it is raised into nobody's call.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mempool import garbage as collector
from mempool import native
from mempool.background import SERVICE, JobOfPool
from mempool.clock import SYSTEM_CLOCK, Clock, in_words
from mempool.engine import NEVER, Snapshot
from mempool.errors import PoolClosed
from mempool.stats import guarantee_of

if TYPE_CHECKING:
    from mempool.base_pool import BasePool

__all__ = ["Upkeep", "upkeep"]

#: Seconds of a turn of the refill: so long other pools, and memory pressure, wait for the thread.
REFILL_SECONDS = 0.2
#: Seconds between two turns after the source has failed: at first, and at most.
RETRY_SECONDS, RETRY_SECONDS_MAX = 1.0, 60.0
#: Holders that one look names; more are counted.
NAMED_MAX = 5

log: logging.Logger = logging.getLogger("mempool")


class Upkeep(JobOfPool):
    """What `upkeep` returns: at work until `close`, the end of its `with` block or of its pool."""

    __slots__ = ("_lock",)  # where eventlet does not look: native.RLock

    # Of Job, for type checkers.
    is_over: bool
    next_at: float
    call: Callable[[Callable[[], object]], object] | None

    def __init__(
        self,
        pool: BasePool[Any],
        *,
        refill: bool,
        idle: float | None,
        held_warning: float | None,
        garbage: bool,
        every: float,
        clock: Clock,
        call: Callable[[Callable[[], object]], object] | None,
    ) -> None:
        super().__init__(pool)
        self._clock = clock
        self._every = every
        self.call = call
        self._lock = native.RLock()  # `look` is also called by users
        self._refills = refill
        self._idle = idle
        self._held_seconds = held_warning
        self._collects = garbage
        self._seen: Snapshot = pool._engine.snapshot()
        self._has_collected = False
        self._retry_at, self._retry_seconds = -NEVER, 0.0
        self._said: str | None = None  # the last error of the source's that was logged
        self._spare_min: deque[tuple[float, int]] = deque(
            [(clock.now(), self._seen.spare)]
        )  # least spares, by tenths of `idle`
        self._told: set[tuple[int, float]] = set()  # holders by address and beginning
        self._served: deque[tuple[float, int]] = deque([(clock.now(), served(self._seen))])
        self._has_told = False

    def __repr__(self) -> str:
        return f"<Upkeep of pool {self._name!r}{': over' if self.is_over else ''}>"

    def _after_fork(self) -> None:
        self._lock = native.RLock()
        self._told.clear()  # what the parent's threads hold is told of again: here nobody will return it
        self._has_told = False

    def look(self) -> None:
        """Do what is due now, as the thread does by itself.

        For tests that hold the clock, and for programs that want no thread: see `upkeep`.
        """
        self._look()

    def _run(self, events: int) -> None:
        is_unfinished = self._look()
        self.next_at = time.monotonic() + (0.0 if is_unfinished else self._every)

    def _look(self) -> bool:
        """Whether there is more of it to do at once."""
        with self._lock:
            pool = self._pool()
            if self.is_over or pool is None or pool.closed:
                self.is_over = True
                return False
            engine, now = pool._engine, self._clock.now()
            before, s = self._seen, engine.snapshot()
            if self._collects:
                self._collect(before, s)
            if self._held_seconds is not None:
                self._tell_held(engine, s, now, self._held_seconds)
            goes_on = self._refills and self._refill(engine, now)
            if self._idle is not None:
                self._trim(engine, before, s, now, self._idle)
            self._seen = engine.snapshot()
            return goes_on

    # -- garbage

    def _collect(self, before: Snapshot, s: Snapshot) -> None:
        stands_still = before.waiting > 0 and s.waiting > 0 and s.out > 0 and served(s) == served(before)
        if stands_still and not self._has_collected:
            collector.look()
        self._has_collected = stands_still

    # -- refill

    def _refill(self, engine: Any, now: float) -> bool:
        engine.notice_lost()
        before = engine.snapshot()
        unfunded = guarantee_of(before).unfunded
        if unfunded <= 0:
            self._retry_seconds, self._retry_at, self._said = 0.0, -NEVER, None
            return False
        if now < self._retry_at:
            return False
        try:
            engine.refill(REFILL_SECONDS)
        except PoolClosed:
            return False
        except Exception as error:
            if repr(error) != self._said:
                self._said = repr(error)
                log.exception("pool %r: its source has raised while upkeep refilled it", self._name)
        after = engine.snapshot()
        left = guarantee_of(after).unfunded
        if left <= 0:
            log.info("pool %r: refilled, %d were unfunded", self._name, unfunded)
            return False
        if after.made > before.made and after.source_failures == before.source_failures and self._said is None:
            return True  # its time was up
        self._retry_seconds = min(max(2 * self._retry_seconds, RETRY_SECONDS), RETRY_SECONDS_MAX)
        self._retry_at = now + self._retry_seconds
        return False

    # -- idle

    def _trim(self, engine: Any, before: Snapshot, s: Snapshot, now: float, idle: float) -> None:
        least = self._spare_min
        # Who was not served from spares found none beyond the reserve, perhaps between two looks. Else a pool that is busy
        # by bursts would be trimmed and filled in turns.
        spare = s.spare if not_from_spare(s) == not_from_spare(before) else min(s.spare, s.reserve)
        if now - least[-1][0] >= idle / 10:
            least.append((now, spare))
        else:
            least[-1] = (least[-1][0], min(least[-1][1], spare))
        while len(least) > 1 and least[1][0] <= now - idle:
            least.popleft()
        if least[0][0] > now - idle:
            return  # the beginning is not as long ago as that
        spares = min(spare for _, spare in least) - s.reserve
        if spares > 0 and s.waiting == 0:
            self._spare_min = deque((at, spare - spares) for at, spare in least)  # what comes from now on is not idle yet
            try:
                trimmed = engine.trim(spares)
                log.info("pool %r: %d spares were idle for %s, and are given back", self._name, trimmed, in_words(idle))
            except Exception:  # a source's free, when all is done
                log.exception("pool %r: its source has raised while upkeep gave back idle spares", self._name)

    # -- held

    def _tell_held(self, engine: Any, s: Snapshot, now: float, seconds: float) -> None:
        if engine.tracker.knows_holders:
            self._tell_holders(engine, seconds)
        else:
            self._tell_count(s, now, seconds)

    def _tell_holders(self, engine: Any, seconds: float) -> None:
        holders = [holder for holder in engine.tracker.holders(engine.clock.now()) if holder.seconds >= seconds]
        new = [holder for holder in holders if (holder.address, holder.since) not in self._told]
        self._told = {(holder.address, holder.since) for holder in holders}
        for holder in new[:NAMED_MAX]:
            log.warning("pool %r: held for more than %s: %s", self._name, in_words(seconds), holder)
        if len(new) > NAMED_MAX:
            log.warning(
                "pool %r: %d more are held for more than %s; see holders()",
                self._name,
                len(new) - NAMED_MAX,
                in_words(seconds),
            )

    def _tell_count(self, s: Snapshot, now: float, seconds: float) -> None:
        """Where nobody knows who holds what: of what is out now, so much was handed out before that time at least."""
        while len(self._served) > 1 and self._served[1][0] <= now - seconds:
            self._served.popleft()
        then, served_then = self._served[0]
        if now - self._served[-1][0] >= seconds / 20:
            self._served.append((now, served(s)))
        if now - then < seconds:
            return
        held = s.out - (served(s) - served_then)
        if held > 0 and not self._has_told:
            log.warning(
                'pool %r: at least %d elements have been out for more than %s; make the pool with track="holders" to be '
                "told who took them where",
                self._name,
                held,
                in_words(seconds),
            )
        self._has_told = held > 0


def served(s: Snapshot) -> int:
    """How many elements were handed out since the pool began."""
    return s.from_spare + s.from_source + s.from_reserve + s.from_line


def not_from_spare(s: Snapshot) -> int:
    """How many of them while there was no spare beyond the reserve."""
    return s.from_source + s.from_reserve + s.from_line


# By identity, and not a WeakSet: that is run over in Python, and fails where another thread adds one meanwhile.
_kept: weakref.WeakValueDictionary[int, Upkeep] = weakref.WeakValueDictionary()


def upkeep(
    pool: BasePool[Any],
    *,
    refill: bool = True,
    idle: float | None = None,
    held_warning: float | None = None,
    garbage: bool = True,
    every: float = 1.0,
    thread: bool = True,
    call: Callable[[Callable[[], object]], object] | None = None,
    clock: Clock | None = None,
) -> Upkeep:
    """Have a background thread look after a pool, until `close`, the end of the `with` block, or the end of the pool.

        upkeep(pool, idle=300, held_warning=60)

    One thread looks after all pools of the process; none runs before this is called.

    refill: make what is unfunded, as `pool.refill()`: again after 1 s where the source fails, then in doubling steps up to a
        minute.
    idle: seconds after which spares that nobody used are given back, down to the reserve. None: `keep` stays warm. A use
        that begins and ends between two looks is seen only where it took all spares beyond the reserve.
    held_warning: seconds after which an element that is out is told of in the log, once: who took it and where with
        `track="holders"`, how many without. None: never.
    garbage: collect garbage, once, where callers wait in vain while elements are out: before the first of them gives up.
    every: seconds between two looks.
    thread: False: nothing runs by itself, and the program calls `look()` of what is returned.
    call: makes the looks run elsewhere, like an event loop's `call_soon_threadsafe`, for a source that must be called there.
    clock: for tests: the time.

    The pool is referred to weakly. Raises ValueError where a number makes no sense, or the pool is looked after already.
    """
    called = pool._called()
    for what, seconds in (("idle", idle), ("held_warning", held_warning), ("every", every)):
        pool._seconds(what, seconds)
    if not every:
        raise ValueError(f"{called}: every is a number of seconds above 0, not {every!r}")
    others = [other for reference in _kept.valuerefs() if (other := reference()) is not None]
    if any(other._pool() is pool and not other.is_over for other in others):
        raise ValueError(f"{called}: it is looked after already; close that upkeep first")
    kept = Upkeep(
        pool,
        refill=refill,
        idle=idle,
        held_warning=held_warning,
        garbage=garbage,
        every=every,
        clock=SYSTEM_CLOCK if clock is None else clock,
        call=call,
    )
    _kept[id(kept)] = kept
    if thread:
        SERVICE.add(kept)
    return kept
