"""How an element travels: between the books, the source and its user. The private half of Pool; pool.py is the public.

Between the books and its user an element lies in the Hands of the call that moves it (see _core/line.py). Each call
therefore ends in one of two ways: it has done what it says, or an exception flies and `_hand_back` has sent home
whatever the hands still held. The source's code, a user's `reset` and every wake-up run here, outside of all decisions.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections import deque
from collections.abc import Callable
from itertools import count, repeat, starmap
from operator import call, setitem
from typing import Any, ClassVar, Literal

from mempool import losses, parking, registry
from mempool._core import Hands, Ticket
from mempool._core.reserve import IS_CLOSED, IS_FULL, IS_TOO_MANY
from mempool.buffer import Buffer, entrust, has_lost, prepare, renew
from mempool.clock import SYSTEM_CLOCK
from mempool.errands import Errand, outside_this_package
from mempool.errors import DeadlockError, DeadlockTimeout, DoubleFree, ForeignElement, LineFull
from mempool.holders import Standstill, find_deadlock, name_of
from mempool.native import get_ident
from mempool.sources import protocol
from mempool.sources.entering import room_for_a_frame, was_entered
from mempool.sources.moves import move
from mempool.sources.protocol import Room
from mempool.telling import Telling
from mempool.waiting import NEVER, SETTLED, Wait

#: Seconds. A source that has failed is left alone for the first, then in doubling steps up to the second while it goes on
#: failing: whoever finds a spare of the reserve takes that, without asking before.
REST_FIRST, REST_LAST = 0.001, 0.05
#: A source's free that could not even be entered so many times in a row has lost its element.
ENTERED_IN_VAIN = 3
#: Seconds. A go that takes longer is large enough.
GO_SECONDS = 0.001

log: logging.Logger = logging.getLogger("mempool")


class Traffic(Telling):
    """Everything a pool does that is not quick."""

    # Slots, because a __dict__ makes every `pool.alloc()` look into it first: a third of the whole call.
    __slots__ = (
        "_asked_at",
        "_check",
        "_fills",
        "_lost",
        "_offload",
        "_patience",
        "_recovering",
        "_reset",
        "_rest_seconds",
        "_source",
        "_timeout",
    )

    #: Elements made or disposed of in one go. Between two goes other threads' calls get their turn.
    _batch_max: ClassVar[int] = 64
    #: Whether a source that has failed is left alone for a while.
    _rests: ClassVar[bool] = True
    #: Whether a caller that is about to give up has garbage collected first.
    _collects: ClassVar[bool] = True

    _asked_at: float
    _check: Callable[[Any], object] | None
    _fills: dict[Hands, int]  # those under way, and the ident of their thread
    _lost: deque[Hands]
    _offload: bool  # for tasks, the source's calls run in a thread
    _patience: float | None
    _recovering: deque[int]
    _reset: Callable[[Any], object] | None
    _rest_seconds: float  # how long the last rest of the source was, or is; 0: it has not failed since it last worked
    _source: Any
    _timeout: float | None

    # -- from the books to a user

    # Whoever hands elements to a user does it in one frame that made the hands and gives them back if anything flies:
    # a frame further in could be interrupted between its own end and its caller's next step.

    def _new_ticket(self, wanted: int) -> Ticket:
        return Ticket(wanted)

    def _obtain(self, ticket: Ticket, timeout: float | None | Literal["default"]) -> None:
        """Fill the ticket and sign it out. Parks the thread where it must wait."""
        now = self._clock.now
        deadline = self._deadline(timeout, now)
        if not self._try(ticket, ask=True, may_wait=True):
            place = parking.parker_here(self._clock)
            one = "`await pool.alloc_async()` or `async with pool.lease()`"
            many = "`await pool.alloc_many_async(n)` or `async with pool.lease_many(n)`"
            token = self._note_standstill(one if ticket.wanted == 1 else many)
            wait = Wait(self, ticket, place, now, deadline)
            try:
                while (seconds := wait.step()) != SETTLED:
                    place.park(None if seconds == NEVER else seconds)
            finally:
                try:
                    wait.end()
                finally:
                    self._standstill.pop(token, None)
        self._sign_out(ticket)

    async def _obtain_elsewhere(self, ticket: Ticket, timeout: float | None | Literal["default"]) -> None:
        """`waiting.obtain` for a task that is not parked as those of asyncio are, or for which a thread asks the source."""
        place = parking.task_parker_here(self._clock)
        deadline = self._deadline(timeout, place.now)
        began = place.now()
        if self._offload:
            served = await self._try_offloaded(ticket, place, deadline)
        else:
            served = self._try(ticket, ask=True, may_wait=True)
        if not served:
            wait = Wait(self, ticket, place, place.now, deadline, began=began, offload=self._offload)
            try:
                while (seconds := wait.step()) != SETTLED:
                    await place.park(None if seconds == NEVER else seconds)
            finally:
                wait.end()
        self._sign_out(ticket)

    async def _try_offloaded(self, ticket: Ticket, place: Any, deadline: float) -> bool:
        """`_try` for a task, whose loop goes on while a thread asks the source: until the deadline, no longer."""
        if self.core.is_closed():
            raise self._closed()
        if self.core.take(ticket, False):
            return True
        if self.core.waiting():
            ticket.defer()
            return False
        if self._rest_seconds and self._clock.now() < self._rests_until and self.core.take(ticket, True):
            return True
        # Hands of the thread's own, which it fills while the task may leave. What they hold is the task's only when the
        # thread has ended; who left before finds it in the line or on the shelf.
        asking = Hands(ticket.missing())
        ask = functools.partial(self._ask, asking, asking.wanted, for_caller=True)
        errand = Errand(ask, place.wake, functools.partial(self._hand_back, asking))
        place.on_gone = functools.partial(self._lose, asking)
        try:
            errand.begin()
            while not errand.is_over():
                seconds = deadline - place.now()
                if seconds <= 0:
                    break
                await place.park(None if deadline == NEVER else seconds)
            else:
                errand.result()
                self.core.pass_on(asking, ticket)
        finally:
            place.on_gone = None
            if errand.leave():
                self._hand_back(asking)
        if self.core.is_closed():
            raise self._closed()
        return ticket.missing() == 0 or self.core.take(ticket, True)

    async def _in_a_thread(self, work: Callable[[], Any]) -> Any:
        """Have a thread make this call, while the loop goes on. A task that is cancelled does not stop it."""
        place = parking.task_parker_here(self._clock)
        errand = Errand(work, place.wake)
        try:
            errand.begin()
            while not errand.is_over():
                await place.park(None)
            return errand.result()
        finally:
            errand.leave()

    def _note_standstill(self, instead: str) -> object:
        """Warn that this call stops an event loop, if it is made where one runs. Returns a token, or None."""
        stopped = parking.stopped_here()
        if not stopped:
            return None
        token, task = object(), parking.task_here()
        who = "a callback" if task is None else name_of(task)
        what = f"{who} waits in a call that stops its event loop; use {instead} {'in a task' if task is None else 'there'}"
        said = f"{self._called()}: {what}"
        log.warning(said)
        warnings.warn(said, RuntimeWarning, stacklevel=outside_this_package())
        self._standstill[token] = Standstill(what, parking.current_owner(), tuple(stopped))
        return token

    async def _hold_async(self, lease: Any) -> Any:
        """`await` a lease: it is held, and its task releases it."""
        await lease.__aenter__()
        return lease

    def _try(self, hands: Hands, *, ask: bool, may_wait: bool = False) -> bool:
        """All that can be had without waiting: a spare beyond the reserve, the source, the reserve, in this order."""
        if may_wait and self.core.must_line_up(hands):
            return False
        if self.core.is_closed():
            raise self._closed()
        if not ask:
            return self.core.take(hands, True)
        if self.core.take(hands, False):
            return True
        if may_wait and self.core.waiting():
            hands.defer()
            return False  # those who wait come first
        if self._rest_seconds and self._clock.now() < self._rests_until and self.core.take(hands, True):
            return True
        self._ask(hands, hands.missing(), for_caller=True)
        if self.core.is_closed():  # meanwhile: whoever has closed the pool was not told of this element
            raise self._closed()
        return hands.missing() == 0 or self.core.take(hands, True)

    def _sign_out(self, hands: Hands) -> None:
        """What these hands hold is the user's from now on."""
        if self._check is not None:
            hands.checked = True
            try:
                for element in hands.held():
                    self._check(element)
            except Exception as error:
                if not isinstance(error, MemoryError):  # which says nothing about an element
                    self.core.condemn(hands)  # all of them: who has spoilt one is not to be trusted with the rest
                raise
        # The book first: where an element is lost whose address this one has, nobody shall find that one's entry for it.
        if self._book is not None:
            self._book.record(hands.held(), self._clock.now())
        self.core.sign_out(hands)

    def _send_home(self, hands: Hands, *, again: bool = False) -> None:
        self.core.leave(hands)
        self.core.arrive(hands, False)
        self.core.retract(hands)
        if self._book is not None:
            self._book.forget(hands.held())
        if hands.checked and not hands.condemned and self._reset is not None:
            # What a check leaves behind (zeros, in place of a pattern) is not what it wants to find the next time.
            try:
                for element in hands.held():
                    self._reset(element)
                hands.checked = False
            except BaseException as error:
                if again or not isinstance(error, MemoryError):
                    self.core.condemn(hands)
                    self._dispose(hands)
                raise
        if has_lost(hands):
            self.core.condemn(hands)
        self.core.give(hands)
        self._dispose(hands)
        if hands.wanted > 1 and isinstance(hands, Ticket):
            self._dispose_surplus()  # what it had gathered and nobody else waits for

    # -- from and to the source

    def _ask(self, hands: Hands, elements: int, *, for_caller: bool) -> None:
        """Ask the source for so many elements. When memory runs out there are fewer in the hands, or none."""
        try:
            if self.core.claim(hands, elements) > 0:
                self._call_source(hands, for_caller)
        except MemoryError as error:
            self.core.arrive(hands, for_caller)  # again, in case it was that which had too little
            self._note_failure(error)

    def _call_source(self, hands: Hands, for_caller: bool) -> None:
        try:
            hands.arrivals.extend([None] * hands.claims)
            # One call into C: what the source returns lies in the hands before any exception can fly. Into places that
            # are there already, because a list that has to grow may find no memory for that.
            asking = starmap(self._source.alloc, repeat((), hands.claims))
            any(map(setitem, repeat(hands.arrivals), count(), asking))
            self._check_arrivals(hands)
        finally:
            self._arrive(hands, for_caller)
        if hands.twice is not None:
            raise self._returned_twice(self._source, hands.twice)

    def _arrive(self, hands: Hands, for_caller: bool) -> None:
        works = self._rest_seconds and hands.arrivals and hands.arrivals[0] is not None
        self.core.arrive(hands, for_caller)
        if works:
            self._end_rest()

    def _check_arrivals(self, hands: Hands) -> None:
        # Not above: CPython needs memory to enter a handler from far down in its function, and where there is none
        # it tries for ever.
        if any(element is None for element in hands.arrivals):
            raise TypeError(
                f"{self._called()}: the source's alloc returned None or raised StopIteration; raise MemoryError where "
                "nothing can be had"
            )

    def _note_failure(self, error: MemoryError) -> None:
        self._source_failures += 1
        self._source_said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self._asked_at = self._clock.now()
        if self._rests:
            self._rest(self._asked_at)

    def _rest(self, now: float) -> None:
        """Leave the source alone for a while. The reserve is there for this, and an exception costs 100 times as much."""
        if now < self._rests_until:
            return  # several failed at the same time, or somebody found no spare: that is one failure
        self._rest_seconds = min(2 * self._rest_seconds, REST_LAST) or REST_FIRST
        self._rests_until = now + self._rest_seconds
        if self._clock is SYSTEM_CLOCK:  # another's time the quick path cannot tell
            self._rest_quickly(self._rest_seconds)

    def _end_rest(self) -> None:
        """The source has worked."""
        self._rest_seconds = 0.0
        self._rests_until = -NEVER
        self._rest_quickly(0)

    def _dispose(self, hands: Hands, fill: Hands | None = None) -> None:
        """Call the source's free for what these hands hold. Goes on to the last whatever flies; then raises the first."""
        errors: list[BaseException] = []
        vain = 0
        while hands.first < hands.count:
            if not hands.entered:
                vain += 1
                try:
                    free = self._source.free
                    # One call into C: `entered` has an entry from the moment on at which the source's free is called.
                    hands.entered.extend(map(call, (room_for_a_frame, free), (None, hands.elements[hands.first])))
                except BaseException as error:  # noqa: BLE001 - raised below, when all is disposed of
                    if hands.entered and not was_entered(free, error):
                        hands.entered.clear()
                    errors.append(error)
            if hands.entered or vain == ENTERED_IN_VAIN:
                vain = 0
                self.core.dispose_of(hands, fill)
        if errors:
            raise errors[0]

    def _take_lost(self) -> Hands:
        """In a child of a fork: the spares whose memory stayed with the parent. (What is out goes when it is freed.)"""
        hands = Hands(self.core.figures()["spare"])
        self.core.take_lost(hands)
        return hands

    def _require_room(self) -> None:
        """Raise MemoryError where the source says that what the reserve lacks cannot be had. Nothing has been made then.

        Else the machine would be filled to the brim, for a promise that is not kept in the end.
        """
        f = self.core.figures()
        lacking: int = min(f["reserve"] - f["spare"] - f["filling"], f["limit"] - (f["made"] - f["disposed"] + f["claimed"]))
        room_for = protocol.found(self._source, "room_for")
        if room_for is None or lacking <= 0:
            return
        room = room_for(lacking)
        if isinstance(room, Room) and room.elements < lacking:
            raise MemoryError(
                f"{self._called()}: a reserve of {f['reserve']} lacks {lacking}, and there is room for {room.elements}: "
                f"{room.why}; none was made. Promise fewer or smaller elements"
            )

    def _has_room(self) -> bool:
        """The same for a resize, which then makes nothing; `refill` makes what can be had."""
        try:
            self._require_room()
        except MemoryError as error:
            self._note_failure(error)
            return False
        return True

    def _new_fill(self) -> Hands:
        """What stands for a resize or refill in the books: under way from `begin_fill` to `_end_fill`."""
        fill = Hands(0)
        self._fills[fill] = get_ident()
        return fill

    def _fill(self, *, beyond_out: bool, all_or_raise: bool = False, fill: Hands | None = None) -> None:
        """Make elements until the reserve is full, or (beyond_out) would be if all that is out came home.

        fill: has begun already, as a part of the decision that made it necessary.
        """
        own = self._new_fill() if fill is None else fill
        try:
            self.core.begin_fill(own)
            batch = 1
            while True:
                hands = Hands(batch)
                began = self._clock.now()
                try:
                    if not self.core.claim_to_fill(hands, beyond_out, own):
                        return
                    self._call_source(hands, False)
                    self._hand_back(hands)
                except BaseException as error:
                    self._hand_back(hands)
                    if not isinstance(error, MemoryError):
                        raise
                    self._note_failure(error)
                    if all_or_raise:
                        raise self._all_or_nothing(error) from error
                    return
                # Cheap elements come in larger batches; dear ones one by one, so that a waiter gets each at once.
                if self._clock.now() - began < GO_SECONDS:
                    batch = min(2 * batch, self._batch_max)
        finally:
            self._end_fill(own, forget=fill is None)

    def _all_or_nothing(self, error: MemoryError) -> MemoryError:
        f = self.core.figures()
        said = str(error) or "the source ran out of memory"
        return MemoryError(
            f"{self._called()}: {f['made']} of {f['reserve']} elements were made, and are disposed of: {said}"
        )

    def _dispose_surplus(self, fill: Hands | None = None) -> None:
        """Goes on to the last whatever the source raises; then raises the first. (An interrupt ends it.)"""
        errors: list[Exception] = []
        while True:
            hands = Hands(self._batch_max)
            try:
                if not self.core.surplus(hands):
                    break
                self._dispose(hands, fill)
            except BaseException as error:
                self._hand_back(hands)
                if not isinstance(error, Exception) or not hands.count:
                    raise
                errors.append(error)
        if errors:
            raise errors[0]

    # -- waiting

    def _check_joined(self, ticket: Ticket, answer: int, has_deadline: bool) -> None:
        """Raise what the answer of `join` means, or that a ticket which stands in line now can never be served."""
        if answer == IS_CLOSED:
            raise self._closed()
        if answer == IS_TOO_MANY:
            raise self._too_many(ticket.wanted, "the limit has just been lowered")
        if answer == IS_FULL:
            raise LineFull(f"{self._called()}: {self._in_line()} already, as max_waiting allows; try again later")
        if self._book is None or ticket.is_settled():
            return
        # Only now, in line: of two who close a circle at the same moment, the later to line up sees the other.
        deadlock = find_deadlock(self, ticket.owner, registry.pools())
        if deadlock is not None and deadlock.is_certain and not ticket.is_settled():
            kind = DeadlockTimeout if has_deadline else DeadlockError
            raise kind(
                f"{self._called()}: nobody can ever serve this caller. {'; '.join(deadlock.lines)}. Take all you need at "
                "once with alloc_many, or take from several pools in one order"
            )

    def _ask_for_line(self, ticket: Ticket) -> None:
        """The head of the line asks the source; what comes goes to the line in its order."""
        hands = Hands(max(1, ticket.wanted - self.core.figures()["spare"]))
        hands.ask_for(ticket)
        try:
            self._ask(hands, hands.wanted, for_caller=False)
            self._hand_back(hands)
        except BaseException:
            self._hand_back(hands)
            self.core.leave(ticket)
            self._dispose_surplus()  # what was laid by for it, see Books.kept_for_line
            raise

    def _lose(self, ticket: Hands) -> None:
        """The loop of this ticket's caller is closed: what it got goes to the next. Many may be lost one after another."""
        self._lost.append(ticket)
        # An inbox, because handing back may find the next in line lost, too, and this call is at its bottom.
        errors: list[Exception] = []
        while self._lost:
            token: deque[int] = deque()
            try:
                move(self._recovering, token)
                if not token:
                    break  # whoever has it sees to this one, too
                while self._lost:
                    try:
                        self._hand_back(self._lost[0])
                    except Exception as error:  # noqa: BLE001 - raised below, when all are home
                        errors.append(error)
                    self._lost.popleft()
            finally:
                move(token, self._recovering)
        if errors:
            raise errors[0]

    def _deadline(self, timeout: float | None | Literal["default"], now: Callable[[], float]) -> float:
        """One absolute deadline per call, which nothing extends."""
        seconds = self._timeout if timeout == "default" else self._seconds("timeout", timeout)
        return NEVER if seconds is None else now() + seconds

    # -- home

    def _free_slowly(self, element: Any, linger: bool) -> None:
        hands = Hands(1)
        hands.hold(element)
        self._bring_home(hands, lingering=bool(linger))

    def _bring_home(self, hands: Hands, *, renewing: bool = True, broken: bool = False, lingering: bool = False) -> int:
        """Take what these hands hold back from its user. Returns how many were kept. May be done again, to finish it.

        renewing: the handles of buffers die; see buffer.py. broken: nobody else shall get them. lingering: what is viewed
        goes out again, kept by its views.
        """
        total = hands.count - hands.first
        if not total:
            return 0
        is_reset = self._reset is None and not broken
        known: list[Any] = []
        hands.checked = False  # a user has had them since
        try:
            if not hands.are_owners():
                unfit = prepare(hands, self.core.home, lingering) if renewing else None
                if unfit is not None:
                    raise self._unfit(unfit, hands)
                if not self.core.sign_in(hands):
                    raise self._not_out(hands.held())
            if self._book is not None:
                known = self._book.forget(hands.held())
            if renewing:
                viewed = renew(hands, lingering)
                if viewed is not None:
                    self._put_out(hands, known)
                    raise self._unfit(viewed, hands)
            if lingering:
                self._linger(hands)
                total = hands.count - hands.first
            if broken:
                self.core.condemn(hands)
            elif self._reset is not None:
                for element in hands.held():
                    self._reset(element)
                is_reset = True
            if has_lost(hands):
                self.core.condemn(hands)  # in a child of a fork: there is no memory to keep
            self.core.give(hands)
            kept = total - (hands.count - hands.first)
            self._dispose(hands)
        except BaseException:
            try:
                self._end_bringing(hands, known, is_reset, renewing, lingering)
            except MemoryError:
                self._end_bringing(hands, known, is_reset, renewing, lingering)
            raise
        return kept

    def _discard(self, hands: Hands) -> None:
        """What these hands hold is broken: dispose of it, and make it anew where the promise needs it."""
        fill = self._new_fill()
        try:
            self.core.begin_fill(fill)  # before: what is about to be made anew is never unfunded
            self._bring_home(hands, broken=True)
            self._fill(beyond_out=True, fill=fill)
        finally:
            self._end_fill(fill)

    def _notice_lost(self) -> None:
        """With track="holders": see losses.notice."""
        if self._book is not None:
            losses.notice(self, self._book)

    def _end_bringing(self, hands: Hands, known: list[Any], is_reset: bool, renewing: bool, lingering: bool) -> None:
        """Something flew: either these elements are the user's as before, or they go home."""
        self.core.undo_sign_in(hands)
        if hands.are_owners():
            if self._book is not None:  # while the handles are those it knows
                known = known or self._book.forget(hands.held())
            if renewing and renew(hands, lingering) is not None:
                self._put_out(hands, known)
                return
            if lingering:
                self._linger(hands)
            if not is_reset:
                self.core.condemn(hands)  # nobody knows what state it is in
            self._send_home(hands)

    def _linger(self, hands: Hands) -> None:
        """What views keep goes out again, and comes home when they are gone: see `_recover`. May be done again."""
        self.core.linger(hands)
        if hands.first:
            self._remember_lingering(hands)
            entrust(hands)
            hands.let_go()

    def _put_out(self, hands: Hands, known: list[Any]) -> None:
        """Somebody views one of these elements: they are their user's again."""
        if self._book is not None:
            self._book.restore(hands.held(), known)
        self.core.put_out(hands)

    def _recover(self, dropped: list[Buffer]) -> str:
        """A buffer that is out was dropped. Called by its finalizer, where what flies is swallowed. Returns a warning.

        The list holds it until it is taken over here; from then on nobody else comes back to it.
        """
        hands = Hands(1)
        hands.hold(dropped[0])
        lingered = dropped[0].lingers
        hands.lingering = int(lingered)
        where = ""
        try:
            buffer = dropped.pop()
            # The hands know it now. This handle may be one that goes to the shelf, below.
            buffer.lingers = False
            self._lingering.pop(id(buffer), None)
            where = self._taken_at(buffer)
            self._bring_home(hands)
        except KeyboardInterrupt:
            dropped.clear()
            self._bring_home(hands)
            raise
        except MemoryError:
            self._bring_home(hands, renewing=False)  # nobody else has this handle, so it may go home itself
        except (DoubleFree, ForeignElement):
            self._source.free(buffer)  # it never arrived here
            return ""
        if lingered:
            return ""  # as it was asked for
        return f"{self._called()}: a buffer was dropped while it was out{where}; free it, or use `with pool.lease()`"
