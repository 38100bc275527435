"""A second engine behind the face of a pool: the decisions of plain_decisions.py under one lock. It proves the seam.

For plain objects, threads and tasks of one process; slow and simple. test_plain_engine.py runs the whole contract over it.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

from plain_decisions import (
    GROWN,
    IS_CLOSED,
    IS_FULL,
    IS_TOO_MANY,
    KEEP_TOO_LOW,
    LIMIT_TOO_LOW,
    MANY,
    PlainDecisions,
    PlainTransfer,
)

from mempool import lifecycle, messages
from mempool.base_pool import BasePool
from mempool.clock import SYSTEM_CLOCK, Clock
from mempool.engine import NEVER, WAIT_BUCKETS, WAITING, Snapshot, Waker
from mempool.errors import DoubleFree, ForeignElement, LineFull, PoolClosed
from mempool.sources import protocol
from mempool.tracking import TRACKERS, Holder

#: No machine has memory for a list of more.
PLACES_MAX = 2**40
#: Seconds: when the head of the line asks by itself, first and at last, and after news; and how long a source rests.
ASK_FIRST, ASK_LAST, ASK_SOONEST, REST_FIRST, REST_LAST = 0.05, 5.0, 0.001, 0.001, 0.05


@dataclass(eq=False)
class PlainTicket(PlainTransfer):
    """A ticket, as the face knows it."""

    owner: Any = None
    wake: Callable[[], object] = lambda: None
    retry_now: bool = False
    is_out: bool = False  # what it has is the user's
    ask_after: float = ASK_FIRST
    ask_at: float | None = None
    rest_until: float = 0.0
    elements: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.elements = self.held  # the very list

    @property
    def first(self) -> int:
        """Its elements begin here."""
        return 0

    @property
    def count(self) -> int:
        """Its elements end here."""
        return len(self.held)

    def is_settled(self) -> bool:
        """No longer waiting."""
        return self.state != WAITING


class PlainEngine:
    """An Engine, see mempool/engine.py for what each call promises."""

    def __init__(self, name: str, source: Any, tracker: Any, waiting_max: int) -> None:
        self.name = name
        self.called: str = messages.called(name)
        self.clock: Clock = SYSTEM_CLOCK
        self.tracker: Any = tracker
        self.under_way: dict[tuple[int, object], str] = {}
        self._source = source
        self._check = protocol.found(source, "check")
        self._reset = protocol.found(source, "reset")
        self._lock = threading.RLock()  # its decisions never call what could come back here; a finalizer might
        self._state = PlainDecisions()
        self._state.waiting_max = waiting_max
        self._out: dict[int, Any] = {}
        self._written_off: set[int] = set()
        self._lost = 0
        self._waits = [0] * 8
        self._histogram = [0] * (len(WAIT_BUCKETS) + 1)
        self._seconds = self._seconds_max = 0.0
        self._failures = 0
        self._said: str | None = None
        self._failed_at = self._rests_until = -NEVER
        self._rest_seconds = 0.0
        self._watching: dict[PlainTicket, None] = {}

    @contextlib.contextmanager
    def _deciding(self) -> Iterator[PlainDecisions]:
        """Decide under the lock; then wake whom it concerns, outside of it."""
        with self._lock:
            try:
                yield self._state
            finally:
                told, self._state.to_wake = self._state.to_wake, []
                for ticket in told:
                    ticket.retry_now = True  # type: ignore[attr-defined]
        for ticket in told:
            ticket.wake()  # type: ignore[attr-defined]

    def _closed(self) -> PoolClosed:
        return messages.closed(self.called) if self._state.closed else messages.ending(self.called)

    def begin(self, reserve: int, keep: int | None, limit: int | None) -> None:
        """Set the first targets and make the reserve."""
        try:
            self.resize(reserve, keep, limit, all_or_raise=True)
            lifecycle.register(self)
        except BaseException:
            self.close()
            raise

    # -- the source

    def _rests(self) -> bool:
        return self._rest_seconds > 0 and self.clock.now() < self._rests_until

    def _note_failure(self, error: MemoryError) -> None:
        now = self.clock.now()
        self._failures += 1
        self._said = f"MemoryError: {error}" if str(error) else "MemoryError"
        self._failed_at = now
        if now >= self._rests_until:
            self._rest_seconds = min(2 * self._rest_seconds, REST_LAST) or REST_FIRST
            self._rests_until = now + self._rest_seconds

    def _call_source(self, transfer: PlainTransfer, *, for_caller: bool) -> None:
        """Ask as often as this transfer may. Raises what the source raises."""
        made: list[Any] = []
        try:
            for _ in range(transfer.permits):
                element = self._source.alloc()
                if element is None:
                    raise TypeError(f"{self.called}: the source's alloc returned None; raise MemoryError instead")
                if any(element is other for other in (*made, *self._state.spares, *self._out.values())):
                    raise messages.returned_twice(self.called, self._source, element)
                made.append(element)
        finally:
            with self._deciding() as state:
                state.complete(transfer, made, for_caller)
            if made:
                self._rest_seconds, self._rests_until = 0.0, -NEVER

    def _ask(self, transfer: PlainTransfer, elements: int, *, for_caller: bool) -> None:
        with self._deciding() as state:
            granted = state.permit(transfer, elements)
        if granted > 0:
            try:
                self._call_source(transfer, for_caller=for_caller)
            except MemoryError as error:
                self._note_failure(error)

    def _dispose(self, transfer: PlainTransfer, fill: PlainTransfer | None = None) -> None:
        """Call the source's free for all that this transfer holds; then raise the first error."""
        errors = []
        while transfer.held:
            try:
                self._source.free(transfer.held[0])
            except Exception as error:  # noqa: BLE001 - raised below, when all are disposed of
                errors.append(error)
            with self._deciding() as state:
                state.disposed_one(transfer, PlainTransfer(0) if fill is None else fill)
        if errors:
            raise errors[0]

    def _dispose_surplus(self, fill: PlainTransfer | None = None, idle: int | None = None) -> int:
        errors = []
        taken = 0
        while idle is None or taken < idle:
            transfer = PlainTransfer(64 if idle is None else min(64, idle - taken))
            with self._deciding() as state:
                taken += state.evict(transfer, idle is not None)
            if not transfer.held:
                break
            try:
                self._dispose(transfer, fill)
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)
        if errors:
            raise errors[0]
        return taken

    def _fill(self, fill: PlainTransfer, *, beyond_out: bool, all_or_raise: bool = False, until: float = NEVER) -> None:
        try:
            with self._deciding() as state:
                state.begin_fill(fill)
            while True:
                transfer = PlainTicket(1)
                with self._deciding() as state:
                    if not state.permit_fill(transfer, beyond_out, fill):
                        return
                try:
                    self._call_source(transfer, for_caller=False)
                except MemoryError as error:
                    self._note_failure(error)
                    if all_or_raise:
                        raise MemoryError(
                            f"{self.called}: {self._state.made} of {self._state.reserve} elements were made, and are "
                            f"disposed of: {error}"
                        ) from error
                    return
                finally:
                    self.cancel(transfer)
                if self.clock.now() >= until:
                    return
        finally:
            with self._deciding() as state:
                state.end_fill(fill)

    # -- taking

    def ticket(self, wanted: int) -> PlainTicket:
        """See Engine."""
        return PlainTicket(wanted)

    def take_ready(self, ticket: PlainTicket, *, may_wait: bool) -> bool | None:
        """See Engine."""
        with self._deciding() as state:
            if state.closed:
                raise self._closed()
            if state.take_spares(ticket, False):
                return True
            if may_wait and state.line:
                ticket.refused = True
                return False
            if self._rests() and state.take_spares(ticket, True):
                return True
        return None

    def ask(self, ticket: PlainTicket) -> None:
        """See Engine."""
        self._ask(ticket, ticket.missing, for_caller=True)

    def try_take(self, ticket: PlainTicket, *, ask_source: bool, may_wait: bool = False) -> bool:
        """See Engine."""
        if ask_source:
            ready = self.take_ready(ticket, may_wait=may_wait)
            if ready is not None:
                return ready
            self.ask(ticket)
        with self._deciding() as state:
            if state.closed:
                raise self._closed()
            return not ticket.missing or state.take_spares(ticket, True)

    def pass_on(self, giver: PlainTicket, receiver: PlainTicket) -> None:
        """See Engine."""
        with self._lock:
            while giver.held and receiver.missing:
                receiver.held.append(giver.held.pop(0))

    def checking(self, ticket: PlainTicket) -> None:
        """See Engine. (`check_out` does it.)"""

    def check_out(self, ticket: PlainTicket) -> None:
        """See Engine."""
        if self._check is not None:
            try:
                for element in ticket.held:
                    self._check(element)
            except Exception:
                with self._deciding() as state:
                    state.mark_surplus(ticket)
                raise
        with self._lock:
            self._out.update((id(element), element) for element in ticket.held)
            ticket.is_out = True
        self.tracker.record(ticket.held, self.clock.now())

    # -- the line

    def enqueue(self, ticket: PlainTicket, waker: Waker) -> None:
        """See Engine."""
        self.notice_lost()
        ticket.owner, ticket.wake, ticket.may_be_gone = waker.owner, waker.wake, waker.may_be_gone
        ticket.thread = threading.get_ident()
        with self._deciding() as state:
            was_refused = ticket.refused and not state.line
            answer = state.join(ticket, ticket.wanted)
            if was_refused and state.line[:1] == [ticket] and state.room > 0:
                ticket.retry_now = True
            waiting = len(state.line)
        if answer == IS_CLOSED:
            raise self._closed()
        if answer == IS_TOO_MANY:
            raise messages.too_many(self.called, ticket.wanted, "the limit has just been lowered")
        if answer == IS_FULL:
            raise LineFull(f"{self.called}: {messages.in_line(waiting)} already, as max_waiting allows; try again later")

    def poll(self, ticket: PlainTicket, now: float, begin: Callable[[Callable[[], object]], object] | None = None) -> float:
        """See Engine."""
        with self._lock:
            if self._state.line[:1] != [ticket]:
                return NEVER
        if ticket.ask_at is None:
            ticket.ask_at, ticket.rest_until = now + ticket.ask_after, now
        soonest = ticket.ask_at
        if ticket.retry_now:
            soonest = max(ticket.rest_until, now + max(0.0, self._failed_at + ASK_SOONEST - self.clock.now()))
        due = min(soonest, ticket.ask_at)
        if now < due:
            return due
        if now >= ticket.ask_at:
            ticket.ask_after = min(2 * ticket.ask_after, ASK_LAST)
            ticket.ask_at = now + ticket.ask_after
        else:
            ticket.retry_now = False
        (begin or operator.call)(lambda: self._ask_for_head(ticket, now))
        return now

    def _ask_for_head(self, ticket: PlainTicket, now: float) -> None:
        began = self.clock.now()
        transfer = PlainTicket(ticket.wanted, asks_for=ticket)
        try:
            self._ask(transfer, transfer.wanted, for_caller=False)
        except BaseException:
            self.cancel(transfer)
            with self._deciding() as state:
                state.withdraw(ticket)
            self._dispose_surplus()
            raise
        self.cancel(transfer)
        ticket.rest_until = now + 2 * (self.clock.now() - began)
        ticket.ask_at = max(ticket.ask_at or 0.0, ticket.rest_until)

    def dequeue(self, ticket: PlainTicket, waker: Waker, outcome: int | None, seconds: float) -> None:
        """See Engine."""
        with self._deciding() as state:
            state.withdraw(ticket)
            if outcome is not None:
                self._waits[outcome] += 1
                self._histogram[sum(seconds > bound for bound in WAIT_BUCKETS)] += 1
                self._seconds += seconds
                self._seconds_max = max(self._seconds_max, seconds)
        ticket.owner = waker.on_gone = None  # as the task may have the lease, and that its ticket

    def queue(self) -> Sequence[Any]:
        """See Engine."""
        with self._lock:
            return list(self._state.line)

    # -- giving back

    def cancel(self, ticket: PlainTicket) -> None:
        """See Engine."""
        with self._deciding() as state:
            state.withdraw(ticket)
            for element in ticket.held:
                self._out.pop(id(element), None)
            state.take_back(ticket)
        self.tracker.forget(ticket.held)
        self._dispose(ticket)
        self._dispose_surplus()

    def abandon(self, ticket: PlainTicket) -> None:
        """See Engine."""
        self.cancel(ticket)

    def returning(self, elements: Sequence[Any]) -> PlainTicket:
        """See Engine."""
        ticket = PlainTicket(len(elements), held=list(elements))
        ticket.is_out = True
        return ticket

    def _check_in(self, ticket: PlainTicket) -> None:
        """What this ticket has is its user's no more; or raise, and nothing has changed."""
        with self._lock:
            elements = ticket.held
            alive = [id(element) in self._out and self._out[id(element)] is element for element in elements]
            if not all(alive) or len(set(map(id, elements))) < len(elements):
                if self.tracker.knows_identity or len(elements) > len(self._out) or None in elements:
                    raise self._not_out(elements)
                for element in elements:  # nobody looks: one is as good as another
                    self._out.pop(id(element), None) or self._out.popitem()
            else:
                for element in elements:
                    del self._out[id(element)]
            ticket.is_out = False
        self.tracker.forget(ticket.held)

    def _not_out(self, elements: Iterable[Any]) -> Exception:
        seen: set[int] = set()
        for element in elements:
            what = messages.describe(element)
            if id(element) in self._written_off and id(element) not in self._out:
                return ForeignElement(f"{self.called}: this {what} was written off; drop it")
            if id(element) in seen or any(element is spare for spare in self._state.spares):
                return DoubleFree(f"{self.called}: this {what} was freed already and is a spare; free an element once")
            if id(element) not in self._out:
                return ForeignElement(
                    f"{self.called}: this {what} is not out of this pool: it never was this pool's, or it was freed and "
                    "disposed of already; free an element once, to the pool that gave it"
                )
            seen.add(id(element))
        return ForeignElement(f"{self.called}: None is no element")

    def give(self, ticket: PlainTicket, *, linger: bool = False, broken: bool = False) -> int:
        """See Engine. What is no Buffer never lingers."""
        if not ticket.held:
            return 0
        if ticket.is_out:
            self._check_in(ticket)
        total = ticket.count
        try:
            if self._reset is not None and not broken:
                for element in ticket.held:
                    self._reset(element)
        except BaseException:
            broken = True
            raise
        finally:
            with self._deciding() as state:
                state.mark_surplus(ticket) if broken else state.take_back(ticket)
            kept = total - ticket.count
            self._dispose(ticket)
        return kept

    def discard(self, ticket: PlainTicket) -> None:
        """See Engine."""
        fill = PlainTransfer(0)
        with self._deciding() as state:
            state.begin_fill(fill)
        try:
            self.give(ticket, broken=True)
            self._fill(fill, beyond_out=True)
        finally:
            with self._deciding() as state:
                state.end_fill(fill)

    # -- what is lost

    def write_off(self, lost: Any) -> None:
        """See Engine."""
        fill = PlainTransfer(0)
        with self._deciding() as state:
            if isinstance(lost, Holder):
                if not self.tracker.holds(lost):
                    raise ForeignElement(f"{self.called}: {lost.element} is not held by {lost.who} any more")
                self.tracker.drop(lost)
                address = lost.address
                self._out.pop(address, None)
            else:
                self._check_in(self.returning([lost]))
                address = id(lost)
            self._written_off.add(address)
            self._lose(state, 1)
            state.begin_fill(fill)
        self._fill(fill, beyond_out=True)

    def write_off_all(self) -> int:
        """See Engine."""
        with self._deciding() as state:
            lost = len(self._out)
            self._written_off.update(self._out)
            self._out.clear()
            self.tracker.clear()
            self._lose(state, lost)
        self._fill(PlainTransfer(0), beyond_out=True)
        return lost

    def _lose(self, state: PlainDecisions, elements: int) -> None:
        state.disposed += elements
        self._lost += elements
        state.after_return()
        state.retry_head_now()

    def notice_lost(self) -> None:
        """See Engine: with holders, what nobody refers to any more."""
        for holder in self.tracker.gone(self.clock.now()):
            with self._deciding() as state:
                self.tracker.drop(holder)
                if self._out.pop(holder.address, None) is not None:
                    self._lose(state, 1)

    # -- the targets

    def resize(
        self, reserve: int | None, keep: int | None, limit: int | None | EllipsisType, *, all_or_raise: bool = False
    ) -> None:
        """See Engine."""
        if max(keep or 0, 2 * (reserve or 0)) > PLACES_MAX:
            raise MemoryError(f"{self.called}: a list of {max(keep or 0, 2 * (reserve or 0))} places cannot be had")
        fill = PlainTransfer(0)
        most = MANY if limit is None else None if limit is ... else limit
        with self._deciding() as state:
            answer = state.retarget(reserve, keep, most, MANY, fill)  # type: ignore[arg-type]
        if answer == IS_CLOSED:
            raise self._closed()
        if answer == KEEP_TOO_LOW:
            raise ValueError(f"{self.called}: keep {keep} is below the reserve of {reserve}; keep at least the reserve")
        if answer == LIMIT_TOO_LOW:
            raise ValueError(f"{self.called}: a limit of {limit} cannot hold the reserve of {reserve}; raise the limit")
        try:
            if answer == GROWN:
                self._fill(fill, beyond_out=False, all_or_raise=all_or_raise)
        finally:
            self._dispose_surplus(fill)
        if fill.filling:
            self._fill(fill, beyond_out=True)

    def refill(self, seconds: float = NEVER) -> None:
        """See Engine."""
        self._fill(PlainTransfer(0), beyond_out=True, until=self.clock.now() + seconds)

    def trim(self, spares: int) -> int:
        """See Engine."""
        return self._dispose_surplus(idle=spares)

    # -- looking

    def snapshot(self) -> Snapshot:
        """See Engine."""
        with self._lock:
            state, spare = self._state, len(self._state.spares)
            lacking = max(0, state.reserve - spare)
            owed = 0 if state.closed else min(lacking, state.out)
            goes_on = state.fills or (state.starved and (state.permits or state.disposing))
            return Snapshot(
                reserve=state.reserve,
                keep=state.keep,
                limit=None if state.limit == MANY else state.limit,
                closed=state.closed,
                spare=spare,
                out=state.out,
                lingering=0,
                made=state.made,
                disposed=state.disposed,
                disposing=state.disposing,
                written_off=self._lost,
                being_made=state.permits,
                owed=owed,
                filling=lacking - owed if goes_on and not state.closed else 0,
                waiting=len(state.line),
                from_spare=state.from_spare,
                from_source=state.from_source,
                from_reserve=state.from_reserve,
                from_line=state.from_line,
                resizes=state.resizes,
                waits=tuple(self._waits),
                wait_histogram=tuple(self._histogram),
                wait_seconds_total=self._seconds,
                wait_seconds_max=self._seconds_max,
                source_failures=self._failures,
                source_said=self._said,
                source_rests=max(0.0, self._rests_until - self.clock.now()),
                level=protocol.found(self._source, "level"),
            )

    def remarks(self) -> list[str]:
        """See Engine."""
        return []

    def watch_drained(self, ticket: PlainTicket, waker: Waker | None) -> bool:
        """See Engine."""
        with self._deciding() as state:
            if waker is not None:
                ticket.wake, ticket.owner = waker.wake, waker.owner
            return state.watch_drain(ticket, waker is not None)

    # -- the end

    def close(self) -> None:
        """See Engine."""
        with self._deciding() as state:
            state.close()
        self._dispose_surplus()

    def finish(self) -> None:
        """See Engine. It has no thread."""

    def is_ending(self) -> bool:
        """See Engine."""
        return self._state.dismissed

    def end_waiting(self) -> None:
        """See Engine."""
        with self._deciding() as state:
            state.dismiss()

    def after_fork(self) -> None:
        """See Engine."""
        self._lock = threading.RLock()
        with self._deciding() as state:
            state.after_fork(threading.get_ident(), 0)


class PlainPool(BasePool[Any]):
    """A pool on a PlainEngine, with the options of `Pool`."""

    _numbers = itertools.count(1)

    def __init__(
        self,
        source: Any,
        reserve: int,
        *,
        keep: int | None = None,
        limit: int | None = None,
        name: str | None = None,
        max_waiting: int | None = None,
        track: str | None = None,
        **options: Any,
    ) -> None:
        self.name = name or f"plain-{next(self._numbers)}"
        protocol.require(self._called(), source)
        if (track or "identity") not in TRACKERS:
            raise ValueError(f"{self._called()}: there is no track={track!r}")
        waiting_max = sys.maxsize if max_waiting is None else self._count("max_waiting", max_waiting)
        engine = PlainEngine(self.name, source, TRACKERS[track or "identity"](), waiting_max)
        super().__init__(engine, **options)
        engine.begin(
            self._count("reserve", reserve),
            None if keep is None else self._count("keep", keep),
            None if limit is None else self._count("limit", limit),
        )
