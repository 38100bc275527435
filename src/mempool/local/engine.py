"""LocalEngine: the engine of a pool in one process. It moves elements between the state, the source and their users.

What is decided, `_core` decides. Between the state and its user an element lies in the Transfer of the call that moves it
(see _core/transfer.py). Each call therefore ends in one of two ways: it has done what it says, or something is raised and
`cancel` has taken back whatever the transfer still held. The source's code and every wake-up run here and in supply.py,
outside of all decisions.
"""

from __future__ import annotations

import functools
import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from types import EllipsisType
from typing import Any

from mempool import lifecycle, messages, parking
from mempool._core import Decisions, Queueing, Ticket, Transfer
from mempool._core import decisions as answers
from mempool._core.base_decisions import renew_locks
from mempool.clock import SYSTEM_CLOCK, Clock
from mempool.engine import NEVER, Snapshot, Tracker, UnderWay, UnexpectedReserveError, Waker
from mempool.errors import LineFull, PoolClosed
from mempool.local import losses
from mempool.local.offloading import Offload
from mempool.local.owner import Owner
from mempool.local.returning import Returning
from mempool.local.supply import Supply
from mempool.native import get_ident
from mempool.sources import protocol
from mempool.tracking import name_of

#: Seconds. A batch that takes longer is large enough.
BATCH_SECONDS = 0.001
#: Places of a list that malloc maps: above 32 MiB, to which its threshold rises. What was mapped once grows by moving pages;
#: what was not is copied, and from so many places on no other thread runs for milliseconds.
MAPPED, MANY = 8_388_608, 65_536
log: logging.Logger = logging.getLogger("mempool")


class _Announced:
    """An iterator that yields nothing and announces so many: a list extended by it has had room for them."""

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def __iter__(self) -> Iterator[None]:
        return self

    def __length_hint__(self) -> int:
        return self.slots

    def __next__(self) -> None:
        raise StopIteration


class LocalEngine(Queueing):
    """Decides for one pool, and does what was decided. See Engine in engine.py for what is promised of each call.

    batch_max: elements made or disposed of in one batch; between two, other threads' calls get their turn. rests: whether a
    source that has failed is left alone for a while. offload: whether a thread calls the source where an event loop runs, in
    calls that do not need its answer.
    """

    __slots__ = (
        "_batch_max",
        "called",
        "cancel",
        "giving",
        "name",
        "supply",
        "under_way",
    )

    _is_finalizing = staticmethod(sys.is_finalizing)  # here, because at the end this module's `sys` is None already

    def __init__(
        self,
        name: str,
        source: Any,
        tracker: Tracker,
        *,
        waiting_max: int = sys.maxsize,
        batch_max: int = 64,
        rests: bool = True,
        offload: bool = False,
    ) -> None:
        self.name: str = name
        self.called: str = messages.called(name)
        self.under_way: dict[tuple[int, object], UnderWay] = {}
        self._batch_max = batch_max
        owner = Owner(name, source)
        quick = not tracker.knows_holders
        check, reset = protocol.found(source, "check"), protocol.found(source, "reset")
        core = Decisions(tracker.knows_identity, quick and check is None, quick and reset is None, owner)
        super().__init__(core, tracker, SYSTEM_CLOCK)
        self.core.set_waiting_max(min(waiting_max, sys.maxsize))
        self.supply: Supply = Supply(self.core, self.called, source, SYSTEM_CLOCK, rests=rests, batch_max=batch_max)
        self.giving: Returning = Returning(self.core, self.called, self.supply, tracker)
        if offload:
            self.supply.offload = Offload(self.core, self.called, self.giving.fills)
        owner.belongs_to(self.giving)
        #: See Engine. No method, because that would be a frame more, which needs memory.
        self.cancel: Callable[[Transfer], None] = self.giving.cancel

    def begin(self, reserve: int, keep: int | None, limit: int | None) -> None:
        """Set the first targets and make the reserve. Raises MemoryError if it cannot be made; it is closed then."""
        try:
            self._retarget(*self._targets(reserve, keep, limit))
            self.supply.require_room()
            self._fill(beyond_out=False, all_or_raise=True)
            lifecycle.register(self)
        except BaseException:
            self.close()
            raise

    def track_by(self, tracker: Tracker) -> None:
        """Record what is out in another way, while nothing is."""
        super().track_by(tracker)
        self.giving.tracker = tracker

    @property
    def clock(self) -> Clock:
        """By which the source rests, and since when elements are held."""
        clock: Clock = self._clock
        return clock

    @clock.setter
    def clock(self, clock: Clock) -> None:
        self._clock = self.supply.clock = clock
        self.supply.end_rest()  # it was counted by the other clock

    # -- from the state to a user

    def _take_or_ask(self, ticket: Transfer, ask_source: bool, may_wait: bool) -> bool:
        if not ask_source:
            if self.core.is_closed():
                raise self._closed()
            return self.core.take_spares(ticket, True)
        ready = self.take_ready(ticket, may_wait=may_wait)
        if ready is not None:
            return ready
        self.supply.ask(ticket, ticket.missing(), for_caller=True)
        if self.core.is_closed():  # meanwhile: whoever has closed the pool was not told of this element
            raise self._closed()
        return ticket.missing() == 0 or self.core.take_spares(ticket, True)

    def take_ready(self, ticket: Transfer, *, may_wait: bool) -> bool | None:
        """See Engine."""
        if self.core.is_closed():
            raise self._closed()
        if self.core.take_spares(ticket, False):
            return True
        if may_wait and self.core.waiting():
            ticket.defer()
            return False  # those who wait come first
        if self.supply.is_resting() and self.core.take_spares(ticket, True):
            return True
        return None

    def _closed(self) -> PoolClosed:
        return messages.closed(self.called) if self.core.is_closed() else messages.ending(self.called)

    def ask(self, ticket: Transfer) -> None:
        """See Engine."""
        self.supply.ask(ticket, ticket.missing(), for_caller=True)

    def pass_on(self, giver: Transfer, receiver: Transfer) -> None:
        """See Engine."""
        self.core.pass_on(giver, receiver)

    def checking(self, ticket: Transfer) -> Callable[[], object] | None:
        """See Engine."""
        return None if self.supply.check is None else functools.partial(self._check_in_thread, ticket)

    def _check_in_thread(self, transfer: Transfer) -> None:
        try:
            self._check(transfer)
        except BaseException:
            self.cancel(transfer)  # here, because that resets it or disposes of it
            raise

    def _check(self, transfer: Transfer) -> None:
        transfer.checked = True
        try:
            for element in transfer.held():
                self.supply.check(element)  # type: ignore[misc]  # it is not None
        except Exception as error:
            if not isinstance(error, MemoryError):  # which says nothing about an element
                self.core.mark_surplus(transfer)  # all of them: who has spoilt one is not to be trusted with the rest
            raise

    def _check_out_slowly(self, transfer: Transfer) -> None:
        if self.supply.check is not None and not transfer.checked:
            self._check(transfer)
        # The tracker first: where an element is lost whose address this one has, nobody shall find that one's entry for it.
        if self.tracker.knows_holders:
            self.tracker.record(transfer.held(), self._clock.now())
        self.core.check_out(transfer)

    # -- the line

    def _refused(self, ticket: Ticket, answer: int) -> Exception:
        """Why this ticket does not stand in the line."""
        if answer == answers.IS_TOO_MANY:
            return messages.too_many(self.called, ticket.wanted, "the limit has just been lowered")
        if answer == answers.IS_FULL:
            in_line = messages.in_line(self.core.waiting())
            return LineFull(f"{self.called}: {in_line} already, as max_waiting allows; try again later")
        return self._closed()

    def _seconds_after_failure(self, seconds: float) -> float:
        """How many of so many seconds after the last failure of the source are left."""
        return self.supply.failed_at + seconds - self.clock.now()

    def _ask_for_head(self, ticket: Ticket, now: float) -> None:
        if self.supply.offload is not None:
            self.supply.offload.resume()
        began = self._clock.now()
        self._ask_for_line(ticket)
        # What is returned while the head is inside the source goes to those behind it. So that the head has its turn, too, a
        # slow source is left alone for as long as it took.
        ticket.rest_until = now + 2 * (self._clock.now() - began)
        ticket.ask_at = max(ticket.ask_at, ticket.rest_until)

    def _ask_for_line(self, ticket: Ticket) -> None:
        """The head of the line asks the source; what comes goes to the line in its order."""
        transfer = Transfer(max(1, ticket.wanted - self.core.snapshot()["spare"]))
        transfer.ask_for(ticket)
        try:
            self.supply.ask(transfer, transfer.wanted, for_caller=False)
            self.cancel(transfer)
        except BaseException:
            self.cancel(transfer)
            self.core.cancel(ticket)
            self.supply.dispose_surplus()  # what was laid by for it, see State.kept_for_line
            raise

    # -- back

    def abandon(self, ticket: Transfer) -> None:
        """See Engine."""
        self.giving.abandon(ticket)

    def returning(self, elements: Sequence[Any]) -> Transfer:
        """See Engine."""
        transfer = Transfer(len(elements))
        for element in elements:
            transfer.hold(element)
        return transfer

    def give(self, ticket: Transfer, *, linger: bool = False) -> int:
        """See Engine."""
        return self.giving.give(ticket, lingering=linger)

    def discard(self, transfer: Transfer) -> None:
        """What this transfer holds is broken: dispose of it, and make it anew where the promise needs it."""
        fill = self._new_fill()
        try:
            self.core.begin_fill(fill)  # before: what is about to be made anew is never unfunded
            self.giving.give(transfer, broken=True)
            self._make_anew(fill)
        finally:
            self._end_making(fill)

    def _make_anew(self, fill: Transfer) -> None:
        """Make what the reserve lacks; if the pool offloads, in a thread where an event loop would stand still meanwhile."""
        offload = self.supply.offload
        if offload is None or not offload.fill(fill, self._make_in_thread):
            self._fill(beyond_out=True, fill=fill)

    def _make_in_thread(self, fill: Transfer) -> None:
        self.giving.fills[fill] = get_ident()
        try:
            if not lifecycle.is_ending():  # else nobody would use what is made
                self._fill(beyond_out=True, fill=fill)
        finally:
            self.giving.end_fill(fill)

    def _end_making(self, fill: Transfer) -> None:
        """End a fill, whatever was raised, unless a thread has taken it over."""
        if self.supply.offload is None or not self.supply.offload.has(fill):
            self.giving.end_fill(fill)

    # -- what is lost

    def write_off(self, lost: Any) -> None:
        """See Engine."""
        fill = self._new_fill()
        try:
            self.core.begin_fill(fill)
            losses.write_off(self.giving, lost)
            self._make_anew(fill)
        finally:
            self._end_making(fill)

    def write_off_all(self) -> int:
        """See Engine."""
        fill = self._new_fill()
        try:
            self.core.begin_fill(fill)
            lost = losses.write_off_all(self.giving)
            self._make_anew(fill)
        finally:
            self._end_making(fill)
        return lost

    def notice_lost(self) -> None:
        """See Engine. With track="holders": objects that their users have dropped."""
        losses.notice(self.giving)

    # -- more, and fewer

    def resize(
        self, reserve: int | None, keep: int | None, limit: int | None | EllipsisType, *, expect: int | None = None
    ) -> None:
        """See Engine. expect: the reserve that there must be at the moment of the change; else UnexpectedReserveError."""
        wanted = [f"{what} {number}" for what, number in (("reserve", reserve), ("keep", keep)) if number is not None]
        if limit is not ...:
            wanted.append(f"limit {limit}")
        token = (get_ident(), object())
        by = name_of(parking.current_owner())
        what = f"a resize to {', '.join(wanted) or 'the same targets'} by {by} is under way"
        self.under_way[token] = UnderWay(what)
        fill = self._new_fill()
        try:
            grew = self._retarget(*self._targets(reserve, keep, limit), fill, expect)
            try:
                if grew and self.supply.has_room():
                    self.core.expect_reserve()
                    self._fill(beyond_out=False, fill=fill)
            finally:
                self.giving.end_fill(fill, forget=False)
                self.supply.dispose_surplus(fill, here=True)
            if fill.filling:
                # Another fill ended while what was disposed of here took its room under the limit: this goes on with it.
                self._fill(beyond_out=True, fill=fill)
        finally:
            self.giving.end_fill(fill)
            self.under_way.pop(token, None)

    def refill(self, seconds: float = NEVER) -> None:
        """See Engine."""
        self.supply.regain()
        self._fill(beyond_out=True, until=self._clock.now() + seconds)

    def trim(self, spares: int) -> int:
        """See Engine."""
        return self.supply.dispose_surplus(here=True, idle=spares)

    def _targets(self, reserve: int | None, keep: int | None, limit: int | None | EllipsisType) -> tuple[int, int, int]:
        most = sys.maxsize if limit is None else answers.UNCHANGED if limit is ... else limit
        return (
            answers.UNCHANGED if reserve is None else reserve,
            answers.UNCHANGED if keep is None else keep,
            min(most, sys.maxsize),
        )

    def _retarget(
        self, reserve: int, keep: int, limit: int, fill: Transfer | None = None, expect: int | None = None
    ) -> bool:
        """Change the targets at one moment. Returns whether the reserve grew. Raises, and then nothing has changed."""
        # Enough, whatever other resizes make of the target that is not given here: they bring places for it.
        slots = self._new_slots(max(keep, 2 * reserve))
        answer = self.core.retarget(reserve, keep, limit, slots, fill, answers.UNCHANGED if expect is None else expect)
        now = self.core.snapshot()
        if answer == answers.UNEXPECTED:
            found = now["reserve"]
            changed = "has been changed meanwhile" if found == expect else f"is {found} and not {expect}, as expected"
            raise UnexpectedReserveError(f"{self.called}: the reserve {changed}; nothing has changed")
        reserve = now["reserve"] if reserve == answers.UNCHANGED else reserve
        if answer == answers.IS_CLOSED:
            raise self._closed()
        if answer == answers.KEEP_TOO_LOW:
            raise ValueError(f"{self.called}: keep {keep} is below the reserve of {reserve}; keep at least the reserve")
        if answer == answers.LIMIT_TOO_LOW:
            limit = now["limit"] if limit == answers.UNCHANGED else limit
            raise ValueError(
                f"{self.called}: a limit of {limit} cannot hold the reserve of {reserve}; raise the limit or lower "
                "the reserve"
            )
        return answer == answers.GROWN

    def _new_slots(self, slots: int) -> list[None]:
        if slots <= self.core.capacity():
            return []
        try:
            room: list[None] = []
            try:
                room.extend(_Announced(slots if slots < MANY else max(slots, MAPPED)))
            except MemoryError:
                room.extend(_Announced(slots))  # fails at once, where the list would fail in the end
            # In pieces: as one, a list of millions would keep every other thread from running for milliseconds.
            while len(room) < slots:
                room.extend(itertools.repeat(None, min(8192, slots - len(room))))
            return room
        except (OverflowError, MemoryError):
            raise MemoryError(f"{self.called}: a list of {slots} places cannot be had; keep fewer") from None

    def _new_fill(self) -> Transfer:
        """What stands for a resize or refill in the state: under way from `begin_fill` to `_end_fill`."""
        fill = Transfer(0)
        self.giving.fills[fill] = get_ident()
        return fill

    def _fill(
        self, *, beyond_out: bool, all_or_raise: bool = False, fill: Transfer | None = None, until: float = NEVER
    ) -> None:
        """Make elements until the reserve is full, or (beyond_out) would be if all that is out were returned.

        fill: has begun already, as a part of the decision that made it necessary. until: when to leave the rest unfunded.
        """
        own = self._new_fill() if fill is None else fill
        try:
            self.core.begin_fill(own)
            batch = 1
            while True:
                transfer = Transfer(batch)
                began = self._clock.now()
                try:
                    if not self.core.permit_fill(transfer, beyond_out, own):
                        return
                    self.supply.call(transfer, False)
                    self.cancel(transfer)
                except BaseException as error:
                    self.cancel(transfer)
                    if not isinstance(error, MemoryError):
                        raise
                    self.supply.note_failure(error)
                    if all_or_raise:
                        raise self._all_or_nothing(error) from error
                    return
                if self._clock.now() >= until:
                    return
                # Cheap elements come in larger batches; dear ones one by one, so that a waiter gets each at once.
                if self._clock.now() - began < BATCH_SECONDS:
                    batch = min(2 * batch, self._batch_max)
        finally:
            self.giving.end_fill(own, forget=fill is None)

    def _all_or_nothing(self, error: MemoryError) -> MemoryError:
        f = self.core.snapshot()
        said = str(error) or "the source ran out of memory"
        return MemoryError(f"{self.called}: {f['made']} of {f['reserve']} elements were made, and are disposed of: {said}")

    # -- looking

    def queue(self) -> list[Ticket]:
        """See Engine."""
        return self.core.queue()

    def snapshot(self) -> Snapshot:
        """See Engine."""
        f = self.core.snapshot()
        lacking = max(0, f["reserve"] - f["spare"])
        owed = 0 if f["closed"] else min(lacking, max(0, f["out"]))
        # A fill goes on until nothing is lacking, so the rest is what it will make; and one that ended for want of room
        # under the limit is gone on with by whoever takes that room.
        delayed = f["starved"] and (f["permits"] or f["disposing"])
        filling = lacking - owed if not f["closed"] and (f["fills"] or delayed) else 0
        return Snapshot(
            reserve=f["reserve"],
            keep=f["keep"],
            limit=None if f["limit"] == sys.maxsize else f["limit"],
            closed=f["closed"],
            spare=f["spare"],
            out=f["out"],
            lingering=f["lingering"],
            made=f["made"],
            disposed=f["disposed"],
            disposing=f["disposing"],
            written_off=f["written_off"],
            being_made=f["permits"],
            owed=owed,
            filling=filling,
            waiting=f["waiting"],
            from_spare=f["from_spare"],
            from_source=f["from_source"],
            from_reserve=f["from_reserve"],
            from_line=f["from_line"],
            resizes=f["resizes"],
            waits=tuple(f["waits"]),
            wait_histogram=tuple(f["wait_histogram"]),
            wait_seconds_total=f["wait_seconds_total"],
            wait_seconds_max=f["wait_seconds_max"],
            source_failures=f["source_failures"],
            source_said=self.supply.said,
            source_rests=max(0.0, self.supply.rests_until - self._clock.now()),
            level=self.supply.level,
            replaced=f["replaced"],
        )

    def remarks(self) -> list[str]:
        """See Engine."""
        lingering = self.core.snapshot()["lingering"]
        remarks = [self.giving.tell_lingering(lingering)] if lingering else []
        resetting = 0 if self.supply.offload is None else self.supply.offload.being_reset()
        return [*remarks, f"a thread resets {resetting} that were freed"] if resetting else remarks

    # -- the end

    def close(self) -> None:
        """See Engine."""
        self.core.close()
        self.supply.dispose_surplus(here=True)

    def finish(self) -> None:
        """See Engine."""
        if self.supply.offload is not None:
            self.supply.offload.finish()

    def watch_drained(self, ticket: Ticket, waker: Waker | None) -> bool:
        """See Engine."""
        if waker is not None:
            ticket.set_waiter(waker.wake, None, get_ident())
        return bool(self.core.watch_drain(ticket, waker is not None))

    def is_ending(self) -> bool:
        """See Engine."""
        return self.core.is_dismissed()

    def end_waiting(self) -> None:
        """See Engine."""
        self.core.dismiss()

    def after_fork(self) -> Callable[[], None] | None:
        """See Engine. Its lock cannot be left locked: there is none, and without the GIL those of its tables are new."""
        renew_locks(self)
        renew_locks(self.supply, self.giving, self.tracker)
        renew_locks(self.supply.source)
        renew_locks(self.under_way, self.giving.fills)
        self.tracker.after_fork()
        self.giving.after_fork()
        survivor = get_ident()
        for token in list(self.under_way):
            if token[0] != survivor:
                self.under_way.pop(token, None)
        for fill, thread in list(self.giving.fills.items()):
            if thread != survivor:
                self.giving.fills.pop(fill, None)
        # The spares whose memory stayed with the parent. (What is out goes when it is freed.)
        lost = Transfer(self.core.snapshot()["spare"])
        self.core.evict_lost(lost)
        self.core.after_fork(survivor, sum(fill.filling for fill in self.giving.fills))
        return functools.partial(self.supply.dispose, lost, here=True) if lost.count else None
