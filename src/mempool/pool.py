"""Pool: the face of a pool in one process. Waits for threads and tasks; what is decided, `_core` decides.

How an element travels: between the books and its user it lies in the Hands of the call that moves it (see
_core/line.py). Each public call therefore ends in one of two ways: it has done what it says, or an exception flies and
`_hand_back` has sent home whatever the hands still held. The source's code, a user's `reset` and every wake-up run here,
outside of all decisions.
"""

from __future__ import annotations

import itertools
import logging
import operator
import os
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterable
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from mempool import clock, parking
from mempool._core import Hands, Quick, Reserve, Ticket
from mempool._core import line as states
from mempool._core.quick import DEFAULT
from mempool._core.reserve import HAS_ALL, IS_CLOSED, IS_FULL, TIMED_OUT, WAIT_BUCKETS
from mempool.errors import DoubleFree, ForeignElement, LineFull, PoolClosed, PoolTimeout
from mempool.guarantee import Guarantee, PoolStats

if TYPE_CHECKING:
    from mempool.lease import Lease

T = TypeVar("T")

#: Seconds. The head of the line asks the source by itself after the first, then in doubling steps up to the last
#: (kernel: every 5 s); and, whatever the news, never sooner than the third after a failure.
ASK_FIRST, ASK_LAST, ASK_SOONEST = 0.05, 5.0, 0.001
#: Elements made or disposed of in one go. Between two goes other threads' calls get their turn.
BATCH = 64

log = logging.getLogger("mempool")
_numbers = itertools.count(1)
_pools: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()


class Source(Protocol[T]):
    """Where elements come from. `alloc` may fail with MemoryError. A `reset(element)`, if there is one, runs on return."""

    def alloc(self) -> T:
        """Make an element; never None."""

    def free(self, element: T, /) -> None:
        """Dispose of an element."""


class Pool(Quick, Generic[T]):
    """A reserve of elements that can always be had, even when making new ones fails.

    source: where elements come from, an object with `alloc()` and `free(element)`.
    reserve: how many elements the pool promises. They are made before the constructor returns.
    keep: how many spares stay warm, at least `reserve`; None: twice the reserve, and it follows the reserve.
    limit: how many elements may exist at once; None: as many as the source makes.
    name: for messages and statistics; None: a number.
    timeout: what a call waits at most when it does not say; seconds, None: for ever.
    max_waiting: how many callers may stand in the line; one more raises LineFull; None: any number.
    track: "identity": a double or a foreign free raises; "nothing": not looked at; "holders": see `holders()`.
    patience: seconds after which a wait is logged, once.

    Raises MemoryError when the source cannot make the reserve; what it made is disposed of. Kernel: mempool_create.
    """

    # Slots, because a __dict__ makes every `pool.alloc()` look into it first: a third of the whole call.
    __slots__ = (
        "_asked_at",
        "_clock",
        "_keep_given",
        "_patience",
        "_reset",
        "_source",
        "_source_failures",
        "_source_said",
        "_timeout",
        "name",
    )

    def __init__(
        self,
        source: Source[T],
        reserve: int,
        *,
        keep: int | None = None,
        limit: int | None = None,
        name: str | None = None,
        timeout: float | None = None,
        max_waiting: int | None = None,
        track: str = "identity",
        patience: float = 10.0,
    ) -> None:
        self.name = name if name is not None else f"pool-{next(_numbers)}"
        if not (callable(getattr(source, "alloc", None)) and callable(getattr(source, "free", None))):
            raise TypeError(f"{self._called()}: a source has alloc() and free(element); {source!r} has not")
        if track not in ("identity", "nothing"):
            raise ValueError(f'{self._called()}: track is "identity" or "nothing", not {track!r}')
        self._source = source
        self._reset: Callable[[T], object] | None = getattr(source, "reset", None)
        self._keep_given = keep is not None
        self._timeout = self._seconds("timeout", timeout)
        self._patience = self._seconds("patience", patience)
        self._clock = clock.SYSTEM_CLOCK
        self._asked_at = float("-inf")
        self._source_said: str | None = None
        self._source_failures = 0
        super().__init__(Reserve(tracks=track != "nothing", quick=self._reset is None))
        targets = self._targets(reserve, keep, limit)
        waiting_max = sys.maxsize if max_waiting is None else self._count("max_waiting", max_waiting)
        self.core.set_waiting_max(waiting_max)
        self._retarget(targets)
        try:
            self._fill(beyond_out=False, all_or_raise=True)
        except BaseException:
            self.close()
            raise
        _pools.add(self)

    if TYPE_CHECKING:
        # What Quick does, with the types that a compiled class cannot have.
        def alloc(self, *, timeout: float | None | EllipsisType = DEFAULT) -> T: ...
        async def alloc_async(self, *, timeout: float | None | EllipsisType = DEFAULT) -> T: ...
        def free(self, element: T) -> None: ...
        def lease(self, *, timeout: float | None | EllipsisType = DEFAULT) -> Lease: ...

    # -- allocating

    def try_alloc(self) -> T | None:
        """`alloc` without the line: None when nothing is to be had now. Kernel: an alloc that may not sleep.

        While others wait, it can have what the source gives but never a spare. Raises PoolClosed, or what the source
        raises that is not MemoryError.
        """
        return self._try_one(ask=True)

    def alloc_reserved(self) -> T | None:
        """A spare, or None; never calls the source. Kernel: mempool_alloc_preallocated. Raises PoolClosed."""
        return self._try_one(ask=False)

    def _try_one(self, *, ask: bool) -> T | None:
        hands = Hands(1)
        try:
            if self._try(hands, ask=ask):
                self.core.sign_out(hands)
                return hands.elements[0]  # type: ignore[no-any-return]
            return None
        except BaseException:
            self._hand_back(hands)
            raise

    def alloc_many(self, n: int, *, timeout: float | None | EllipsisType = DEFAULT) -> list[T]:
        """Take `n` elements, all or none. In the line, they are gathered as they come home; nobody overtakes.

        More than the reserve is served as far as the source can, without a promise. Raises ValueError at once when `n`
        exceeds the limit, and what `alloc` raises. Kernel: mempool_alloc_bulk.
        """
        ticket = self._new_ticket(self._many(n))
        self._obtain(ticket, timeout)
        return ticket.elements

    async def alloc_many_async(self, n: int, *, timeout: float | None | EllipsisType = DEFAULT) -> list[T]:
        """`alloc_many` for a task of an event loop."""
        ticket = self._new_ticket(self._many(n))
        await self._obtain_async(ticket, timeout)
        return ticket.elements

    def _many(self, n: int) -> int:
        n = self._count("n", n)
        limit = self.core.figures()["limit"]
        if n > limit:
            raise ValueError(f"{self._called()}: {n} elements at once can never be had, limit is {limit}; raise the limit")
        return n

    def _alloc_slowly(self, timeout: float | None | EllipsisType) -> T:
        ticket = self._new_ticket(1)
        self._obtain(ticket, timeout)
        return ticket.elements[0]  # type: ignore[no-any-return]

    async def _alloc_slowly_async(self, timeout: float | None | EllipsisType) -> T:
        ticket = self._new_ticket(1)
        await self._obtain_async(ticket, timeout)
        return ticket.elements[0]  # type: ignore[no-any-return]

    def _new_ticket(self, wanted: int) -> Ticket:
        return Ticket(wanted)

    def _obtain(self, ticket: Ticket, timeout: float | None | EllipsisType) -> None:
        """Fill the ticket and sign it out, or raise and leave it empty. Parks the thread where it must wait."""
        try:
            deadline = self._deadline(timeout)
            if not self._try(ticket, ask=True, may_wait=True):
                place = parking.ThreadPlace(self._clock)
                for seconds in self._wait(ticket, place, deadline):
                    place.park(seconds)
            self.core.sign_out(ticket)
        except BaseException:
            self._hand_back(ticket)
            raise

    async def _obtain_async(self, ticket: Ticket, timeout: float | None | EllipsisType) -> None:
        """The same for a task."""
        try:
            deadline = self._deadline(timeout)
            if not self._try(ticket, ask=True, may_wait=True):
                place = parking.task_place(self._clock)
                for seconds in self._wait(ticket, place, deadline):
                    await place.park(seconds)
            self.core.sign_out(ticket)
        except BaseException:
            self._hand_back(ticket)
            raise

    def _try(self, hands: Hands, *, ask: bool, may_wait: bool = False) -> bool:
        """All that can be had without waiting: a spare beyond the reserve, the source, the reserve, in this order."""
        if self.core.is_closed():
            raise self._closed()
        if not ask:
            return self.core.take(hands, True)
        if self.core.take(hands, False):
            return True
        if may_wait and self.core.waiting():
            return False  # those who wait come first
        self._ask(hands, hands.missing(), for_caller=True)
        return hands.missing() == 0 or self.core.take(hands, True)

    def _hand_back(self, hands: Hands) -> None:
        """Send home what these hands hold. May be done again after an exception cut it short."""
        self.core.leave(hands)
        self.core.arrive(hands, False)
        self.core.give(hands)
        self._dispose(hands)

    # -- the source

    def _ask(self, hands: Hands, elements: int, *, for_caller: bool) -> None:
        """Ask the source for so many elements. When memory runs out there are fewer in the hands, or none."""
        try:
            if self.core.claim(hands, elements) > 0:
                self._call_source(hands, for_caller)
        except MemoryError as error:
            self._note_failure(error)

    def _call_source(self, hands: Hands, for_caller: bool) -> None:
        try:
            # One call into C: what the source returns lies in the hands before any exception can fly.
            hands.arrivals.extend(itertools.starmap(self._source.alloc, itertools.repeat((), hands.claims)))
            if any(element is None for element in hands.arrivals):
                hands.arrivals[:] = [element for element in hands.arrivals if element is not None]
                raise TypeError(
                    f"{self._called()}: the source's alloc returned None; raise MemoryError where nothing can be had"
                )
        finally:
            self.core.arrive(hands, for_caller)

    def _note_failure(self, error: MemoryError) -> None:
        self._source_failures += 1
        self._source_said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self._asked_at = self._clock.now()

    def _dispose(self, hands: Hands) -> None:
        """Call the source's free for what these hands hold. Goes on to the last whatever flies; then raises the first."""
        errors: list[BaseException] = []
        while hands.first < hands.count:
            done: list[object] = []
            try:
                # One call into C: `done` has an entry from the moment on at which the source's free was entered.
                element = hands.elements[hands.first]
                done.extend(map(operator.call, (id, self._source.free), (None, element)))
            except BaseException as error:
                errors.append(error)
            del element
            if done:
                self.core.dispose_of(hands)
        if errors:
            raise errors[0]

    # -- waiting

    def _wait(
        self, ticket: Ticket, place: parking.Place, deadline: float | None
    ) -> Generator[float | None, None, None]:
        """Stand in the line until the ticket is served. Yields how many seconds to park, at most; None: until woken.

        The caller that parks may be thrown out of it by any exception; then this generator is closed, and withdraws.
        """
        core, now = self.core, self._clock.now
        began = now()
        outcome = states.WITHDRAWN
        ticket.set_waiter(place.wake, place.owner, place.thread)
        try:
            answer = core.join(ticket, [None] * ticket.wanted if ticket.wanted > core.capacity() else [])
            if answer == IS_CLOSED:
                raise self._closed()
            if answer == IS_FULL:
                raise LineFull(f"{self._called()}: {self._in_line()} already, as max_waiting allows; try again later")
            if answer == HAS_ALL:
                outcome = states.SERVED
                return
            ask_after, ask_at, warn_at = ASK_FIRST, None, began + (self._patience or 0.0)
            while not ticket.is_settled():
                time = now()
                if deadline is not None and time >= deadline:
                    outcome = TIMED_OUT
                    raise PoolTimeout(self._timeout_text(time - began))
                if self._patience is not None and time >= warn_at:
                    warn_at = float("inf")
                    log.warning("a caller has waited for %.1f s. %s", time - began, self._why_empty())
                if core.is_first(ticket):
                    if ask_at is None:
                        ask_at = time + ask_after
                    if ticket.take_prod():
                        ask_at = min(ask_at, max(time, self._asked_at + ASK_SOONEST))
                    if time >= ask_at:
                        self._ask_for_line(ticket)
                        ask_after = min(2 * ask_after, ASK_LAST)
                        ask_at = now() + ask_after
                        continue
                until = [t for t in (deadline, ask_at, warn_at) if t is not None and t != float("inf")]
                yield max(0.0, min(until) - time) if until else None
            if ticket.state == states.CLOSED:
                raise self._closed()
            if ticket.state == states.WITHDRAWN:
                raise self._closed()
            outcome = states.SERVED
        finally:
            core.leave(ticket)
            if ticket.state == states.SERVED:
                outcome = states.SERVED if outcome == states.WITHDRAWN else outcome
            self._count_wait(outcome, now() - began)

    def _ask_for_line(self, ticket: Ticket) -> None:
        """The head of the line asks the source; what comes goes to the line in its order."""
        hands = Hands(max(1, ticket.wanted - self.core.figures()["spare"]))
        try:
            self._ask(hands, hands.wanted, for_caller=False)
        finally:
            self._hand_back(hands)

    def _count_wait(self, outcome: int, seconds: float) -> None:
        bucket = sum(seconds > bound for bound in WAIT_BUCKETS)
        self.core.count_wait(outcome, bucket, seconds)

    def _deadline(self, timeout: float | None | EllipsisType) -> float | None:
        """One absolute deadline per call, which nothing extends."""
        seconds = self._timeout if timeout is DEFAULT else self._seconds("timeout", timeout)
        return None if seconds is None else self._clock.now() + seconds

    # -- freeing

    def free_many(self, elements: Iterable[T]) -> int:
        """Give elements back. All must be out, else nothing happens. Returns how many the pool kept or handed on.

        Raises what `free` raises. Kernel: mempool_free_bulk.
        """
        elements = list(elements)
        hands = Hands(len(elements))
        for element in elements:
            hands.hold(element)
        return self._bring_home(hands)

    def _free_slowly(self, element: T) -> None:
        hands = Hands(1)
        hands.hold(element)
        self._bring_home(hands)

    def _bring_home(self, hands: Hands) -> int:
        """Take what these hands hold back from its user. Returns how many were kept. May be done again, to finish it."""
        total = hands.count - hands.first
        if not total:
            return 0
        is_reset = self._reset is None
        try:
            if not hands.are_owners() and not self.core.sign_in(hands):
                raise self._not_out(hands.held())
            if self._reset is not None:
                for element in hands.held():
                    self._reset(element)
                is_reset = True
            self.core.give(hands)
            kept = total - (hands.count - hands.first)
            self._dispose(hands)
        except BaseException:
            if hands.are_owners():
                if not is_reset:
                    self.core.condemn(hands)  # nobody knows what state it is in
                self._hand_back(hands)
            raise
        return kept

    def _not_out(self, elements: list[T]) -> Exception:
        element = next((e for e in elements if not self.core.is_out(e)), elements[0])
        what = f"{type(element).__name__} at {id(element):#x}"
        if self.core.is_spare(element) or sum(e is element for e in elements) > 1:
            return DoubleFree(
                f"{self._called()}: this {what} was freed already and is a spare; free an element once, or use a lease"
            )
        return ForeignElement(
            f"{self._called()}: this {what} is not out of this pool: it never was this pool's, or it was freed and "
            "disposed of already; free an element once, to the pool that gave it"
        )

    # -- resizing

    def resize(
        self, reserve: int | None = None, *, keep: int | None = None, limit: int | None | EllipsisType = DEFAULT
    ) -> Guarantee:
        """Change the promise, live. Returns what is promised and covered when it is done.

        All targets change at one moment; the last resize to reach its moment wins. Then, outside of any lock, a grow
        makes elements until the reserve is full or memory runs out, serving callers in the line on the way, and a shrink
        disposes of the spares beyond `keep`. A `keep` that was given once stays, but is never below the reserve; one
        that never was follows at twice the reserve. limit=None: no limit.

        Raises ValueError or TypeError for what makes no sense, MemoryError when not even the list of places can be had
        (kernel: -ENOMEM), PoolClosed; nothing has changed then. Kernel: mempool_resize.
        """
        if self.core.is_closed():
            raise self._closed()
        figures = self.core.figures()
        reserve = figures["reserve"] if reserve is None else self._count("reserve", reserve)
        if keep is None:
            keep_now = max(figures["keep"], reserve) if self._keep_given else None
        else:
            keep_now = keep
        if limit is DEFAULT:
            limit = None if figures["limit"] == sys.maxsize else figures["limit"]
        targets = self._targets(reserve, keep_now, limit)
        if keep is not None:
            self._keep_given = True
        grew = self._retarget(targets)
        try:
            if grew:
                self._fill(beyond_out=False)
        finally:
            self._dispose_surplus()
        return self.guarantee()

    def refill(self) -> Guarantee:
        """Try to make what is unfunded. Returns what is promised and covered then."""
        self._fill(beyond_out=True)
        return self.guarantee()

    def _targets(self, reserve: int, keep: int | None, limit: int | None) -> tuple[int, int, int]:
        reserve = self._count("reserve", reserve)
        keep = 2 * reserve if keep is None else self._count("keep", keep)
        if keep < reserve:
            raise ValueError(f"{self._called()}: keep {keep} is below the reserve of {reserve}; keep at least the reserve")
        if limit is None:
            return reserve, keep, sys.maxsize
        limit = self._count("limit", limit)
        if limit < reserve:
            raise ValueError(
                f"{self._called()}: a limit of {limit} cannot hold the reserve of {reserve}; raise the limit or lower "
                "the reserve"
            )
        return reserve, keep, limit

    def _retarget(self, targets: tuple[int, int, int]) -> bool:
        reserve, keep, limit = targets
        try:
            places = [None] * keep if keep > self.core.capacity() else []
        except OverflowError:
            raise MemoryError(f"{self._called()}: no list is long enough for {keep} places") from None
        return self.core.retarget(reserve, keep, limit, places)

    def _fill(self, *, beyond_out: bool, all_or_raise: bool = False) -> None:
        """Make elements until the reserve is full, or (beyond_out) would be if all that is out came home."""
        batch = 1
        while True:
            hands = Hands(batch)
            began = self._clock.now()
            try:
                if not self.core.claim_to_fill(hands, beyond_out):
                    return
                self._call_source(hands, False)
            except MemoryError as error:
                self._note_failure(error)
                if all_or_raise:
                    raise
                return
            finally:
                self._hand_back(hands)
            # Cheap elements come in larger batches; dear ones one by one, so that a waiter gets each at once.
            if self._clock.now() - began < 0.001:
                batch = min(2 * batch, BATCH)

    def _dispose_surplus(self) -> None:
        while True:
            hands = Hands(BATCH)
            try:
                if not self.core.surplus(hands):
                    return
            finally:
                self._dispose(hands)

    # -- looking

    def guarantee(self) -> Guarantee:
        """What is promised now, and what covers it."""
        figures = self.core.figures()
        lacking = max(0, figures["reserve"] - figures["spare"])
        owed = min(lacking, max(0, figures["out"]))
        return Guarantee(figures["reserve"], figures["spare"], owed, lacking - owed)

    def stats(self) -> PoolStats:
        """What the pool is and has done, all of one moment."""
        f = self.core.figures()
        return PoolStats(
            name=self.name,
            reserve=f["reserve"],
            keep=f["keep"],
            limit=None if f["limit"] == sys.maxsize else f["limit"],
            spare=f["spare"],
            out=f["out"],
            disposing=f["disposing"],
            made=f["made"],
            disposed=f["disposed"],
            waiting=f["waiting"],
            closed=bool(f["closed"]),
            served_from_spare=f["from_spare"],
            served_from_source=f["from_source"],
            served_from_reserve=f["from_reserve"],
            served_from_line=f["from_line"],
            resizes=f["resizes"],
            source_failures=self._source_failures,
            waits_served=f["waits"][states.SERVED],
            waits_timed_out=f["waits"][TIMED_OUT],
            waits_cancelled=f["waits"][states.WITHDRAWN] + f["waits"][states.CLOSED],
            wait_seconds_total=f["wait_seconds_total"],
            wait_seconds_max=f["wait_seconds_max"],
            wait_histogram=tuple(zip((*WAIT_BUCKETS, float("inf")), f["wait_histogram"], strict=True)),
        )

    @property
    def min_nr(self) -> int:
        """The kernel's name for the reserve."""
        return int(self.core.figures()["reserve"])

    @property
    def curr_nr(self) -> int:
        """The kernel's name for the spares: elements in the pool's hands."""
        return int(self.core.figures()["spare"])

    def __repr__(self) -> str:
        f = self.core.figures()
        closed = ", closed" if f["closed"] else ""
        return (
            f"<Pool {self.name!r} reserve={f['reserve']}: {f['spare']} spare, {f['out']} out, "
            f"{f['waiting']} in line{closed}>"
        )

    # -- closing

    def close(self) -> int:
        """Hand out nothing any more: every caller in the line gets PoolClosed, spares are disposed of.

        Elements still out are disposed of when they are freed. May be called again. Returns how many are still out.
        """
        self.core.close()
        self._dispose_surplus()
        return int(self.core.figures()["out"])

    def drain(self, timeout: float | None | EllipsisType = DEFAULT) -> None:
        """Wait until no element is out. Raises PoolTimeout if some are when the time is up."""
        deadline = self._deadline(timeout)
        place = parking.ThreadPlace(self._clock)
        ticket = Ticket(0)
        ticket.set_waiter(place.wake, place.owner, place.thread)
        try:
            while not self.core.watch_drain(ticket, True):
                time = self._clock.now()
                if deadline is not None and time >= deadline:
                    raise PoolTimeout(f"{self._called()}: {self.core.figures()['out']} elements are still out; free them")
                place.park(None if deadline is None else deadline - time)
        finally:
            self.core.watch_drain(ticket, False)

    def __enter__(self) -> Pool[T]:
        return self

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A pool whose constructor failed has no core yet.
        if getattr(self, "core", None) is not None and not sys.is_finalizing():
            self.close()

    # -- words for messages

    def _called(self) -> str:
        return f"pool {self.name!r}"

    def _closed(self) -> PoolClosed:
        return PoolClosed(f"{self._called()} is closed and hands out nothing any more; make another")

    def _in_line(self) -> str:
        waiting = self.core.waiting()
        return f"{waiting} caller{'' if waiting == 1 else 's'} in line"

    def _taken_at(self, element: T) -> str:
        return ""

    def _timeout_text(self, seconds: float) -> str:
        return f"waited {seconds:.3f} s in vain. {self._why_empty()}"

    def _why_empty(self) -> str:
        f = self.core.figures()
        said = f"the source failed {self._source_failures} times, last with {self._source_said}"
        return (
            f"{self._called()}: {f['out']} elements out, {f['spare']} spare of a reserve of {f['reserve']}, "
            f"{self._in_line()}; {said if self._source_said else 'the source has not failed'}"
            + (f"; the limit of {f['limit']} is reached" if f["made"] - f["disposed"] >= f["limit"] else "")
            + ". Free what is out, raise the reserve or the limit, or wait longer"
        )

    def _count(self, what: str, number: int) -> int:
        try:
            number = operator.index(number)
        except TypeError:
            raise TypeError(f"{self._called()}: {what} is a whole number, not {number!r}") from None
        if number < 0:
            raise ValueError(f"{self._called()}: {what} cannot be negative, {number} is; 0 is the least")
        return number

    def _seconds(self, what: str, seconds: float | None) -> float | None:
        if seconds is None:
            return None
        if isinstance(seconds, (int, float)) and seconds >= 0:
            return float(seconds)
        raise ValueError(f"{self._called()}: {what} is a number of seconds, 0 or more, or None for ever, not {seconds!r}")


def _after_fork_in_child() -> None:
    """The child has working pools: the line holds none but the forking thread. (No lock can be left locked: none is.)"""
    for pool in list(_pools):
        pool.core.after_fork(threading.get_ident())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
