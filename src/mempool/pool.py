"""Pool: the face of a pool in one process. What is decided, `_core` decides; how elements travel, traffic.py says."""

from __future__ import annotations

import collections
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, Protocol, TypeVar, cast

from mempool import clock, losses, parking, registry
from mempool._core import Hands, Reserve, Ticket
from mempool._core import line as states
from mempool._core import reserve as answers
from mempool._core.quick import WARM, adopt
from mempool.buffer import Buffer, fit
from mempool.errors import PoolTimeout, UseAfterFree
from mempool.guarantee import Guarantee, PoolStats
from mempool.holders import Holder, HolderBook, name_of
from mempool.home import Home
from mempool.leases import Leases
from mempool.mapping import in_workers
from mempool.native import get_ident
from mempool.reading import Reading
from mempool.sources import Buffers, protocol
from mempool.sources.adaptors import Adaptor
from mempool.traffic import Traffic
from mempool.waiting import NEVER, obtain

if TYPE_CHECKING:
    from mempool.lease import Lease

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")
_numbers = itertools.count(1)
#: Places of a list that malloc maps: above 32 MiB, to which its threshold rises. What was mapped once grows by moving pages;
#: what was not is copied, and from so many places on no other thread runs for milliseconds.
MAPPED, MANY = 8_388_608, 65_536


#: Addresses of elements written off that are remembered, for the message to whoever frees one after all.
WRITTEN_OFF_NAMED = 4096


class Source(Protocol[T]):
    """Where elements come from. `alloc` may fail with MemoryError.

    It may have more: `reset(element)`, called with what comes home, and `check(element)`, called with what is about to
    be handed out; an element at which one of them raises is disposed of. `level`: how its memory is guaranteed.
    `room_for(elements)`, which returns a `Room`, how many more could be made, or None: asked before many are. `regain()`,
    which brings memory to its level again where a fork took it: `Pool.refill` calls it.

    A source to which such a name means another thing says so: `pool_uses = ()`, or `pool_uses = ("reset",)` for some.
    """

    def alloc(self) -> T:
        """Make an element; never None."""

    def free(self, element: T, /) -> None:
        """Dispose of an element."""


class _Announced:
    """An iterator that yields nothing and announces so many: a list extended by it has had room for them."""

    def __init__(self, places: int) -> None:
        self.places = places

    def __iter__(self) -> Iterator[None]:
        return self

    def __length_hint__(self) -> int:
        return self.places

    def __next__(self) -> None:
        raise StopIteration


class Pool(Traffic, Generic[T]):
    """A reserve of elements that can always be had, even when making new ones fails.

    source: where elements come from, an object with `alloc()` and `free(element)`.
    reserve: how many elements the pool promises. They are made before the constructor returns.
    keep: how many spares stay warm, at least `reserve`; None: twice the reserve, and it follows the reserve.
    limit: how many elements may exist at once; None: as many as the source makes.
    name: for messages and statistics; None: a number.
    timeout: what a call waits at most when it does not say; seconds, None: for ever.
    max_waiting: how many callers may stand in the line; one more raises LineFull; None: any number.
    track: "identity": a double or a foreign free raises; "nothing": not looked at; "holders": also who holds what since
        when, and deadlocks raise, see `holders()`; None: what the environment variable MEMPOOL_TRACK says, else
        "identity".
    patience: seconds after which a wait is logged, once; None: never.
    offload: when a task needs an element (`alloc_async`, `alloc_many_async`, `async with pool.lease()`), a thread asks the
        source, and the event loop goes on; for a source that takes long. The timeout then bounds its time, too.

    Raises MemoryError when the source cannot make the reserve: before it makes anything, where it can say so; else what it
    made is disposed of. TypeError for a source that does not fit. Kernel: mempool_create.
    """

    __slots__ = ()

    _is_finalizing = staticmethod(sys.is_finalizing)  # here, because at the end this module's `sys` is None already

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
        track: str | None = None,
        patience: float | None = 10.0,
        offload: bool = False,
    ) -> None:
        self.name: str = name if name is not None else f"pool-{next(_numbers)}"
        protocol.require(self._called(), source)
        track = track or os.environ.get("MEMPOOL_TRACK") or "identity"
        if track not in ("identity", "nothing", "holders"):
            raise ValueError(f'{self._called()}: track is "identity", "nothing" or "holders", not {track!r}')
        self._source = source
        self._reset = protocol.found(source, "reset")
        self._check = protocol.found(source, "check")
        self._book = HolderBook() if track == "holders" else None
        self._fills = {}
        self._written_off = collections.deque(maxlen=WRITTEN_OFF_NAMED)
        self._resizing = {}
        self._standstill = {}
        self._offload = bool(offload)
        self._lingering = {}
        self._lost = collections.deque()
        self._recovering = collections.deque([0])
        self._timeout = self._seconds("timeout", timeout)
        self._patience = self._seconds("patience", patience)
        self._clock = clock.SYSTEM_CLOCK
        self._asked_at = self._rests_until = -NEVER
        self._rest_seconds = 0.0
        self._source_said = None
        self._source_failures = 0
        waiting_max = sys.maxsize if max_waiting is None else min(self._count("max_waiting", max_waiting), sys.maxsize)
        targets = self._targets(self._count("reserve", reserve), keep, limit)
        quick_alloc = self._check is None and self._book is None
        quick_free = self._reset is None and self._book is None
        super().__init__(Reserve(track != "nothing", quick_alloc, quick_free, Home(self, source)))
        self.core.set_waiting_max(waiting_max)
        self._retarget(*targets)
        try:
            self._require_room()
            self._fill(beyond_out=False, all_or_raise=True)
            registry.register(self)
        except BaseException:
            self.close()
            raise

    if TYPE_CHECKING:
        # What Quick does and documents, with the types that a compiled class cannot have.
        def alloc(self, *, timeout: float | None | Literal["default"] = "default") -> T: ...  # noqa: D102
        def try_alloc(self) -> T | None: ...  # noqa: D102
        def alloc_reserved(self) -> T | None: ...  # noqa: D102
        def free(self, element: T, *, linger: bool = False) -> None: ...  # noqa: D102
        def lease(  # noqa: D102
            self, *, timeout: float | None | Literal["default"] = "default", linger: bool = False
        ) -> Lease[T]: ...

    # -- allocating

    async def alloc_async(self, *, timeout: float | None | Literal["default"] = "default") -> T:
        """`alloc` for a task of an event loop. Does not yield to the loop when there is no need to wait."""
        if timeout != "default":
            self._check_timeout(timeout)
        element: T | None = WARM[self]
        if element is not None:
            return element
        ticket = self._new_ticket(1)
        try:
            await obtain(self, ticket, timeout)
            return cast("T", ticket.elements[0])
        except BaseException:
            self._hand_back(ticket)
            raise

    def alloc_many(self, n: int, *, timeout: float | None | Literal["default"] = "default") -> list[T]:
        """Take `n` elements, all or none. In the line, they are gathered as they come home; nobody overtakes.

        More than the reserve is served as far as the source can, without a promise. Raises ValueError at once when `n`
        exceeds the limit, or does so when a resize lowers it; and what `alloc` raises. Kernel: mempool_alloc_bulk.
        """
        ticket = self._new_ticket(self._many(n))
        try:
            self._obtain(ticket, timeout)
            return ticket.elements
        except BaseException:
            self._hand_back(ticket)
            raise

    async def alloc_many_async(self, n: int, *, timeout: float | None | Literal["default"] = "default") -> list[T]:
        """`alloc_many` for a task of an event loop."""
        ticket = self._new_ticket(self._many(n))
        try:
            await obtain(self, ticket, timeout)
            return ticket.elements
        except BaseException:
            self._hand_back(ticket)
            raise

    def lease_many(
        self, n: int, *, timeout: float | None | Literal["default"] = "default", linger: bool = False
    ) -> Leases[T]:
        """`n` elements that are returned together: for `with`, for `async with`, or held; see Leases.

            with pool.lease_many(3) as frames:  # a list
                ...

        n, timeout: as for `alloc_many`. linger: as for `free`, at the end. Raises ValueError at once when `n` exceeds the
        limit; entering raises what `alloc_many` raises.
        """
        self._check_timeout(timeout)
        return Leases(self, self._many(n), timeout, bool(linger))

    def _many(self, n: int) -> int:
        n = self._count("n", n)
        limit = self.core.figures()["limit"]
        if n > max(1, limit):  # one may be waited for, as in `alloc`, until a limit of 0 is raised
            raise self._too_many(n, f"limit is {limit}")
        return n

    # -- freeing

    def free_many(self, elements: Iterable[T], *, linger: bool = False) -> int:
        """Give elements back. All must be out, else nothing happens. Returns how many the pool kept or handed on.

        linger: as for `free`; what lingers is not counted.

        Raises what `free` raises. Kernel: mempool_free_bulk.
        """
        elements = list(elements)
        hands = Hands(len(elements))
        for element in elements:
            hands.hold(element)
        return self._bring_home(hands, lingering=bool(linger))

    def array(self, shape: Any, dtype: Any = "uint8", *, timeout: float | None | Literal["default"] = "default") -> Any:
        """A NumPy array over a buffer of this pool, which comes home when the array and all its views are gone.

        shape, dtype: as for `Buffer.array`. timeout: as for `alloc`. For pools of `Buffers`; needs `mempool[numpy]`.

        Raises ValueError where it does not fit into an element, TypeError where elements are no buffers, and what `alloc`
        raises.
        """
        source = self._source
        while isinstance(source, Adaptor):
            source = source.source
        if isinstance(source, Buffers):
            fit(self._called(), source.size, dtype, shape)  # before anything is taken, or waited for
        element: Any = self.alloc(timeout=timeout)
        array = None
        try:
            if type(element) is not Buffer:
                raise TypeError(f"{self._called()}: an array needs a pool of Buffers, not of {type(element).__name__}")
            array = element.array(dtype, shape)
            self.free(cast("T", element), linger=True)
        except BaseException:
            del array
            if type(element) is not Buffer or element.is_alive():
                self.free(element, linger=True)
            raise
        return array

    def discard(self, element: T) -> None:
        """Give back an element that is broken: the source's free is called, and nobody gets it again.

        It is made anew where the promise needs it, as by `refill`: what the source cannot make now is unfunded. The
        element's `reset` is not called. In a lease, call `lease.discard()`, so that its end does not free it again.

        Raises what `free` raises, and what the source's alloc raises that is not MemoryError.
        """
        hands = Hands(1)
        hands.hold(element)
        self._discard(hands)

    def write_off(self, lost: T | Holder) -> None:
        """Say that an element is lost with its holder and never comes home: it exists no more, as far as the pool goes.

        lost: the element, or what `holders()` says of it where nobody has it at hand. There is room under the limit for
        another; it is made anew where the promise needs it, as by `refill`. The source's free is not called, because the
        holder may still be using the memory; that of a `Buffer` goes back to the source when the last one drops it. Who
        frees it after all gets ForeignElement.

        Raises DoubleFree and ForeignElement as `free`, and what the source's alloc raises that is not MemoryError.
        """
        fill = self._new_fill()
        try:
            self.core.begin_fill(fill)
            losses.write_off(self, lost)
            self._fill(beyond_out=True, fill=fill)
        finally:
            self._end_fill(fill)

    def write_off_all(self) -> int:
        """`write_off` all that is out, whoever holds it. Returns how many.

        For the child of a fork, where what the parent's threads hold never comes home and counts against the limit: call
        it before anything is taken there, and while no other call of this pool is under way. What the forking thread holds
        is among it; with `track="holders"`, `write_off` each of `holders()` that does not live spares that.
        """
        fill = self._new_fill()
        try:
            self.core.begin_fill(fill)
            lost = losses.write_off_all(self)
            self._fill(beyond_out=True, fill=fill)
        finally:
            self._end_fill(fill)
        return lost

    # -- resizing

    def resize(
        self, reserve: int | None = None, *, keep: int | None = None, limit: int | None | EllipsisType = ...
    ) -> Guarantee:
        """Change the promise, live. Returns what is promised and covered when it is done.

        All targets change at one moment; the last resize to reach its moment wins. Then, outside of any lock, a grow
        makes elements until the reserve is full or memory runs out, serving callers in the line on the way, and a shrink
        disposes of the spares beyond `keep`. A `keep` that was given once stays, but is never below the reserve; one
        that never was follows at twice the reserve. limit=None: no limit. Who waits in `alloc_many` for more than a lowered
        limit allows gets ValueError. A grow for which the source says that there is no room makes nothing, and is unfunded;
        `refill` makes what can be had of it.

        Raises ValueError or TypeError for what makes no sense, MemoryError when not even the list of places can be had
        (kernel: -ENOMEM), PoolClosed; nothing has changed then. Kernel: mempool_resize.
        """
        wanted = [f"{what} {number}" for what, number in (("reserve", reserve), ("keep", keep)) if number is not None]
        if limit is not ...:
            wanted.append(f"limit {limit}")
        token = (get_ident(), object())
        self._resizing[token] = f"to {', '.join(wanted) or 'the same targets'} by {name_of(parking.current_owner())}"
        fill = self._new_fill()
        try:
            grew = self._retarget(*self._targets(reserve, keep, limit), fill)
            try:
                if grew and self._has_room():
                    self.core.expect_reserve()
                    self._fill(beyond_out=False, fill=fill)
            finally:
                self._end_fill(fill, forget=False)
                self._dispose_surplus(fill)
            if fill.filling:
                # Another fill ended while what was disposed of here took its room under the limit: this goes on with it.
                self._fill(beyond_out=True, fill=fill)
        finally:
            self._end_fill(fill)
            self._resizing.pop(token, None)
        return self.guarantee()

    async def resize_async(
        self, reserve: int | None = None, *, keep: int | None = None, limit: int | None | EllipsisType = ...
    ) -> Guarantee:
        """`resize` for a task of an event loop: a thread makes and disposes of elements, and the loop goes on.

        A task that is cancelled meanwhile does not stop the resize.
        """
        resize = functools.partial(self.resize, reserve, keep=keep, limit=limit)
        return cast("Guarantee", await self._in_a_thread(resize))

    async def refill_async(self) -> Guarantee:
        """`refill` for a task of an event loop; see `resize_async`."""
        return cast("Guarantee", await self._in_a_thread(self.refill))

    def refill(self) -> Guarantee:
        """Try to make what is unfunded. Returns what is promised and covered then.

        In a forked child it also brings memory from before the fork to its level again, as far as the source can.
        """
        regain = protocol.found(self._source, "regain")
        if regain is not None:
            try:
                regain()
            except MemoryError as error:
                self._note_failure(error)
        self._fill(beyond_out=True)
        return self.guarantee()

    def _targets(self, reserve: int | None, keep: int | None, limit: int | None | EllipsisType) -> tuple[int, int, int]:
        most: int
        if limit is None:
            most = sys.maxsize
        elif limit is ...:
            most = answers.UNCHANGED
        else:
            most = min(self._count("limit", limit), sys.maxsize)
        return (
            answers.UNCHANGED if reserve is None else self._count("reserve", reserve),
            answers.UNCHANGED if keep is None else self._count("keep", keep),
            most,
        )

    def _retarget(self, reserve: int, keep: int, limit: int, fill: Hands | None = None) -> bool:
        """Change the targets at one moment. Returns whether the reserve grew. Raises, and then nothing has changed."""
        # Enough, whatever other resizes make of the target that is not given here: they bring places for it.
        answer = self.core.retarget(reserve, keep, limit, self._places(max(keep, 2 * reserve)), fill)
        now = self.core.figures()
        reserve = now["reserve"] if reserve == answers.UNCHANGED else reserve
        if answer == answers.IS_CLOSED:
            raise self._closed()
        if answer == answers.KEEP_TOO_LOW:
            raise ValueError(f"{self._called()}: keep {keep} is below the reserve of {reserve}; keep at least the reserve")
        if answer == answers.LIMIT_TOO_LOW:
            limit = now["limit"] if limit == answers.UNCHANGED else limit
            raise ValueError(
                f"{self._called()}: a limit of {limit} cannot hold the reserve of {reserve}; raise the limit or lower "
                "the reserve"
            )
        return answer == answers.GROWN

    def _places(self, places: int) -> list[None]:
        if places <= self.core.capacity():
            return []
        try:
            room: list[None] = []
            try:
                room.extend(_Announced(places if places < MANY else max(places, MAPPED)))
            except MemoryError:
                room.extend(_Announced(places))  # fails at once, where the list would fail in the end
            # In pieces: as one, a list of millions would keep every other thread from running for milliseconds.
            while len(room) < places:
                room.extend(itertools.repeat(None, min(8192, places - len(room))))
            return room
        except (OverflowError, MemoryError):
            raise MemoryError(f"{self._called()}: a list of {places} places cannot be had; keep fewer") from None

    # -- what everybody wrote by hand

    def read(self, file: Any, *, timeout: float | None | Literal["default"] = "default") -> Reading:
        """Read a file, a socket or a stream to its end, piece by piece, each in a buffer of this pool.

            for chunk in pool.read(file):
                with chunk as view:  # a memoryview of what was read; the buffer is returned at the end of the block
                    digest.update(view)

        file: with `for`, what has `readinto` (a file opened with "rb") or `recv_into` (a blocking socket); with
            `async for`, what has a coroutine `readinto` or `read` (asyncio.StreamReader: copied once), or a file, which is
            read in a worker thread.
        timeout: as for `alloc`, for each buffer.

        A chunk is as long as one call of the file's makes it. For pools of `Buffers`, or of any element that can be read
        into. Raises what `lease` and the file raise.
        """
        return Reading(self, file, timeout)

    def map(
        self,
        function: Callable[[T, Item], Result],
        items: Iterable[Item],
        *,
        workers: int | None = None,
        timeout: float | None | Literal["default"] = "default",
        linger: bool = False,
    ) -> Iterator[Result]:
        """Call `function(element, item)` for each item in worker threads; yields the results in the order of the items.

        workers: how many threads; None: as many as the pool promises elements, at least one.
        timeout: as for `alloc`, for the element of each call.
        linger: a result may look at its element (a slice, an array), which is returned when the last view ends. For a loop
            that keeps one result at a time: so many calls are under way as the pool promises elements, less that one.

        Items are taken as results are: never more than two for each worker are under way. Without `linger`, a call whose
        result looks at a buffer raises BufferError. Ended early (an error, `break`),
        it waits for the calls that run and begins no other.
        """
        workers = max(1, self.reserve) if workers is None else self._count("workers", workers)
        if workers < 1:
            raise ValueError(f"{self._called()}: map needs at least one worker")
        if linger and self.reserve < 2:
            raise ValueError(
                f"{self._called()}: map with linger=True needs a reserve of 2, one for a call while you look at the last "
                f"result; it is {self.reserve}"
            )
        return in_workers(self, function, items, workers=workers, timeout=timeout, linger=bool(linger))

    # -- looking

    def holders(self) -> tuple[Holder, ...]:
        """Who holds which element, since when, taken where; oldest first. Empty unless `track="holders"`."""
        return () if self._book is None else self._book.holders(self._clock.now())

    def hand_over(self, element: T) -> None:
        """Say that another thread or task will free this element, so that its taker is not held for its holder.

        An element on its way through a queue to a worker is nobody's until it is taken over or freed. Does nothing unless
        `track="holders"`.
        """
        if self._book is not None:
            self._book.disown(element)

    def take_over(self, element: T) -> None:
        """Say that the caller is the holder of this element from now on, and that nobody else will free it.

        The counterpart of `hand_over`: `holders()` and `why_empty()` name the caller, since now, and it counts for
        DeadlockError. Does nothing unless `track="holders"`, nor for an element that is not out.
        """
        if self._book is not None:
            self._book.take_over(element, self._clock.now())

    def why_empty(self) -> str:
        """One paragraph a person can act on: what is promised, out and awaited, who holds what, what the source said."""
        return self._why_empty()

    def guarantee(self) -> Guarantee:
        """What is promised now, and what covers it.

        With `track="holders"`, an object that its user has dropped without giving it back is written off by this, where
        its type allows weak references and has no finalizer; otherwise it counts as owed until `write_off`.
        """
        self._notice_lost()
        figures = self.core.figures()
        lacking = max(0, figures["reserve"] - figures["spare"])
        owed = 0 if figures["closed"] else min(lacking, max(0, figures["out"]))
        rest = lacking - owed
        # A fill goes on until nothing is lacking, so the rest is what it will make; and one that ended for want of room
        # under the limit is gone on with by whoever takes that room.
        delayed = figures["starved"] and (figures["claimed"] or figures["disposing"])
        filling = rest if not figures["closed"] and (figures["fills"] or delayed) else 0
        level = protocol.found(self._source, "level")
        return Guarantee(figures["reserve"], figures["spare"], owed, rest - filling, filling=filling, level=level)

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
            lingering=f["lingering"],
            disposing=f["disposing"],
            made=f["made"],
            disposed=f["disposed"],
            written_off=f["written_off"],
            waiting=f["waiting"],
            closed=bool(f["closed"]),
            served_from_spare=f["from_spare"],
            served_from_source=f["from_source"],
            served_from_reserve=f["from_reserve"],
            served_from_line=f["from_line"],
            resizes=f["resizes"],
            source_failures=self._source_failures,
            waits_served=f["waits"][states.SERVED],
            waits_timed_out=f["waits"][answers.TIMED_OUT],
            waits_cancelled=f["waits"][states.WITHDRAWN] + f["waits"][states.CLOSED],
            wait_seconds_total=f["wait_seconds_total"],
            wait_seconds_max=f["wait_seconds_max"],
            wait_histogram=tuple(zip((*answers.WAIT_BUCKETS, float("inf")), f["wait_histogram"], strict=True)),
        )

    @property
    def reserve(self) -> int:
        """How many elements the pool promises."""
        return int(self.core.figures()["reserve"])

    @property
    def keep(self) -> int:
        """How many spares stay warm."""
        return int(self.core.figures()["keep"])

    @property
    def limit(self) -> int | None:
        """How many elements may exist at once; None: as many as the source makes."""
        limit = int(self.core.figures()["limit"])
        return None if limit == sys.maxsize else limit

    @property
    def spare(self) -> int:
        """Elements in the pool's hands now."""
        return int(self.core.figures()["spare"])

    @property
    def out(self) -> int:
        """Elements in users' hands now, or on the way there or back."""
        return int(self.core.figures()["out"])

    @property
    def waiting(self) -> int:
        """Callers in the line now."""
        return int(self.core.figures()["waiting"])

    @property
    def closed(self) -> bool:
        """Whether the pool is closed and hands out nothing any more."""
        return bool(self.core.figures()["closed"])

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

    def drain(self, timeout: float | None | Literal["default"] = "default") -> None:
        """Wait until no element is out. Raises PoolTimeout if some are when the time is up."""
        place = parking.parker_here(self._clock)
        now = self._clock.now
        deadline = self._deadline(timeout, now)
        if self.core.figures()["out"] == 0:
            return
        token = self._note_standstill("`await pool.drain_async()`")
        try:
            for seconds in self._drain(place, now, deadline):
                place.park(seconds)
        finally:
            self._standstill.pop(token, None)

    async def drain_async(self, timeout: float | None | Literal["default"] = "default") -> None:
        """`drain` for a task of an event loop, which goes on."""
        place = parking.task_parker_here(self._clock)
        for seconds in self._drain(place, place.now, self._deadline(timeout, place.now)):
            await place.park(seconds)

    def _drain(self, place: parking.Waker, now: Callable[[], float], deadline: float) -> Iterator[float | None]:
        """Yields how many seconds to park, at most; None: until woken."""
        ticket = Ticket(0)
        ticket.set_waiter(place.wake, place.owner, get_ident())
        try:
            while not self.core.watch_drain(ticket, True):
                if self.core.is_dismissed():
                    raise self._ending()
                time = now()
                if time >= deadline:
                    raise PoolTimeout(f"{self._called()}: {self._still_out()}")
                yield None if deadline == NEVER else deadline - time
        finally:
            self.core.watch_drain(ticket, False)

    async def __aenter__(self) -> Pool[T]:
        return self

    async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None:
        await self._in_a_thread(self.close)

    def __enter__(self) -> Pool[T]:
        return self

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._called()}: a pool can be neither copied nor pickled; share it, or make another")

    def __del__(self) -> None:
        # A pool whose constructor failed has no core yet.
        if not self._is_finalizing() and getattr(self, "core", None) is not None:
            try:
                self.close()
            except UseAfterFree:
                pass  # the collector found pool and spares together, and some of these have gone home before
            except (KeyboardInterrupt, MemoryError):
                self.close()
                raise


adopt(Pool)
