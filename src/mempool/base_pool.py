"""BasePool: every public method of a pool and the checks of its arguments. It waits and speaks; its engine decides."""

from __future__ import annotations

import functools
import numbers
import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from types import EllipsisType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NoReturn, Self, TypeVar, cast

from mempool import blocking, explain, messages, parking, waiting
from mempool._core.fast_path import WARM
from mempool.buffer import Buffer
from mempool.clock import Clock
from mempool.engine import NEVER, Engine
from mempool.errands import Errand
from mempool.errors import PoolTimeout, UseAfterFree
from mempool.lease import Leasing
from mempool.leases import Leases
from mempool.mapping import in_workers
from mempool.reading import Reading
from mempool.stats import Guarantee, PoolStats, guarantee_of, stats_of
from mempool.tracking import Holder

if TYPE_CHECKING:
    from mempool.lease import Lease

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")


class BasePool(Leasing, Generic[T]):
    """A pool, whatever its engine is: the base of `Pool`, and of pools on engines of other kinds.

    engine: what decides and holds the elements; see mempool/engine.py.
    timeout, patience, offload: as for `Pool`.
    """

    # Slots, because a __dict__ makes every `pool.alloc()` look into it first: a third of the whole call.
    __slots__ = ("name",)

    #: Whether a caller that is about to give up has garbage collected first.
    _collects: ClassVar[bool] = True
    _is_finalizing = staticmethod(sys.is_finalizing)  # here, because at the end this module's `sys` is None already

    def __init__(
        self, engine: Engine, *, timeout: float | None = None, patience: float | None = 10.0, offload: bool = False
    ) -> None:
        self.name: str = engine.name
        self._engine: Any = engine
        self._timeout: float | None = self._seconds("timeout", timeout)
        self._patience: float | None = self._seconds("patience", patience)
        self._offload: bool = bool(offload)

    if TYPE_CHECKING:
        # What FastPath and Leasing do and document, with the types that a compiled class cannot have.
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
        ticket = self._engine.ticket(1)
        try:
            await waiting.obtain(self, ticket, timeout)
            return cast("T", ticket.elements[0])
        except BaseException:
            self._engine.cancel(ticket)
            raise

    def alloc_many(self, n: int, *, timeout: float | None | Literal["default"] = "default") -> list[T]:
        """Take `n` elements together: all of them or none.

        If they are not there, the caller waits in the line (the wait queue). The pool gathers elements for it as they are
        returned, and nobody overtakes it. `n` may be larger than the reserve; then the pool promises nothing, and serves
        what the source can make.

        Raises ValueError if `n` exceeds the limit, at once or when a resize lowers the limit; and what `alloc` raises.
        Kernel: mempool_alloc_bulk.
        """
        ticket = self._engine.ticket(self._many(n))
        try:
            self._obtain(ticket, timeout)
            elements: list[T] = ticket.elements
            return elements
        except BaseException:
            self._engine.cancel(ticket)
            raise

    async def alloc_many_async(self, n: int, *, timeout: float | None | Literal["default"] = "default") -> list[T]:
        """`alloc_many` for a task of an event loop."""
        ticket = self._engine.ticket(self._many(n))
        try:
            await waiting.obtain(self, ticket, timeout)
            elements: list[T] = ticket.elements
            return elements
        except BaseException:
            self._engine.cancel(ticket)
            raise

    def lease_many(
        self, n: int, *, timeout: float | None | Literal["default"] = "default", linger: bool = False
    ) -> Leases[T]:
        """Lease `n` elements that are returned together: for `with`, for `async with`, or held; see Leases.

            with pool.lease_many(3) as frames:  # a list
                ...

        n, timeout: as for `alloc_many`. linger: as for `free`, at the end. Raises ValueError at once when `n` exceeds the
        limit; entering raises what `alloc_many` raises.
        """
        self._check_timeout(timeout)
        return Leases(self, self._many(n), timeout, bool(linger))

    def _many(self, n: int) -> int:
        n = self._count("n", n)
        limit = self._engine.snapshot().limit
        if limit is None:
            limit = sys.maxsize
        if n > max(1, limit):  # one may be waited for, as in `alloc`, until a limit of 0 is raised
            raise messages.too_many(self._called(), n, f"limit is {limit}")
        return n

    # -- how a call gets what it wants

    # Whoever hands elements to a user does it in one frame that made the ticket and cancels it if anything is raised: a
    # frame further in could be interrupted between its own end and its caller's next step.

    def _obtain(self, ticket: Any, timeout: float | None | Literal["default"]) -> None:
        """Fill the ticket and check it out. Parks the thread where it must wait."""
        if blocking.obtain(self, ticket, timeout):
            return
        engine = self._engine
        now = engine.clock.now
        deadline = self._deadline(timeout, now)
        if not engine.try_take(ticket, ask_source=True, may_wait=True):
            parker = parking.parker_here(engine.clock)
            one = "`await pool.alloc_async()` or `async with pool.lease()`"
            many = "`await pool.alloc_many_async(n)` or `async with pool.lease_many(n)`"
            # With timeout=0, as where a loop's callback must not wait, nothing stands still.
            key = explain.note_standstill(engine, one if ticket.wanted == 1 else many) if deadline > now() else None
            try:
                waiting.Wait(self, ticket, parker, now, deadline).park(parker)
            finally:
                engine.under_way.pop(key, None)
        engine.check_out(ticket)

    async def _obtain_elsewhere(self, ticket: Any, timeout: float | None | Literal["default"]) -> None:
        """`waiting.obtain` for a task that is not parked as those of asyncio are, or for which a thread asks the source."""
        engine = self._engine
        parker = parking.task_parker_here(engine.clock)
        deadline = self._deadline(timeout, parker.now)
        if self._offload and engine.checking(ticket) is not None:
            await self._serve_checked(ticket, parker, deadline)
        else:
            await self._serve(ticket, parker, deadline)
        engine.check_out(ticket)

    async def _serve_checked(self, ticket: Any, parker: Any, deadline: float) -> None:
        """`_serve`, and have a thread make the source's check, however long that takes."""
        engine = self._engine
        # A ticket of its own, which the thread has while it checks. What that has is the task's only when the thread has
        # ended: a task that left before leaves it to the thread, which resets it and takes it back.
        served, errand = engine.ticket(ticket.wanted), None
        try:
            await self._serve(served, parker, deadline)
            errand = Errand(engine.checking(served), parker.wake, functools.partial(engine.cancel, served))
            parker.on_gone = functools.partial(engine.abandon, served)
            errand.begin()
            while not errand.is_over():
                await parker.park(None)
            errand.result()
            engine.pass_on(served, ticket)
        finally:
            parker.on_gone = None
            if errand is None or errand.leave():
                engine.cancel(served)

    async def _serve(self, ticket: Any, parker: Any, deadline: float) -> None:
        """Fill the ticket of a task, which waits where it must."""
        began = parker.now()
        if self._offload:
            served = await self._try_offloaded(ticket, parker, deadline)
        else:
            served = self._engine.try_take(ticket, ask_source=True, may_wait=True)
        if not served:
            wait = waiting.Wait(self, ticket, parker, parker.now, deadline, began=began, offload=self._offload)
            try:
                while (seconds := wait.step()) != waiting.SETTLED:
                    await parker.park(None if seconds == NEVER else seconds)
            finally:
                wait.end()

    async def _try_offloaded(self, ticket: Any, parker: Any, deadline: float) -> bool:
        """`try_take` for a task, whose loop goes on while a thread asks the source: until the deadline, no longer."""
        engine = self._engine
        ready: bool | None = engine.take_ready(ticket, may_wait=True)
        if ready is not None:
            return ready
        # A ticket of the thread's own, which it fills while the task may leave. What it has is the task's only when the
        # thread has ended; who left before finds it in the line or among the spares.
        asking = engine.ticket(ticket.wanted - (ticket.count - ticket.first))
        errand = Errand(functools.partial(engine.ask, asking), parker.wake, functools.partial(engine.cancel, asking))
        parker.on_gone = functools.partial(engine.abandon, asking)
        try:
            errand.begin()
            while not errand.is_over():
                seconds = deadline - parker.now()
                if seconds <= 0:
                    break
                await parker.park(None if deadline == NEVER else seconds)
            else:
                errand.result()
                engine.pass_on(asking, ticket)
        finally:
            parker.on_gone = None
            if errand.leave():
                engine.cancel(asking)
        return bool(engine.try_take(ticket, ask_source=False))

    # What a Wait asks of its pool.

    def _find_deadlock(self, ticket: Any, has_deadline: bool) -> None:
        explain.raise_deadlock(self._engine, ticket, has_deadline)

    def _unserved(self, ticket: Any) -> Exception:
        return explain.unserved(self._engine, ticket)

    def _deadline(self, timeout: float | None | Literal["default"], now: Callable[[], float]) -> float:
        """One absolute deadline per call, which nothing extends."""
        seconds = self._timeout if timeout == "default" else self._seconds("timeout", timeout)
        return NEVER if seconds is None else now() + seconds

    async def _in_a_thread(self, work: Callable[[], Any]) -> Any:
        """Have a thread make this call, while the loop goes on. A task that is cancelled does not stop it."""
        parker = parking.task_parker_here(self._engine.clock)
        errand = Errand(work, parker.wake)
        try:
            errand.begin()
            while not errand.is_over():
                await parker.park(None)
            return errand.result()
        finally:
            errand.leave()

    async def _hold_async(self, lease: Any) -> Any:
        """`await` a lease: it is held, and its task releases it."""
        await lease.__aenter__()
        return lease

    # -- freeing

    def free_many(self, elements: Iterable[T], *, linger: bool = False) -> int:
        """Return elements to the pool, all or none. Returns how many it kept or gave to waiting callers.

        linger: as for `free`; what lingers is not counted. What a thread is to reset first (see `offload`) is.

        Raises what `free` raises. Kernel: mempool_free_bulk.
        """
        return int(self._engine.give(self._engine.returning(list(elements)), linger=bool(linger)))

    def _free_slowly(self, element: Any, linger: bool) -> None:
        self._engine.give(self._engine.returning((element,)), linger=bool(linger))

    def array(self, shape: Any, dtype: Any = "uint8", *, timeout: float | None | Literal["default"] = "default") -> Any:
        """Make a NumPy array over a buffer of this pool. The buffer is returned when the array and all its views are gone.

        shape, dtype: as for `Buffer.array`. timeout: as for `alloc`. For pools of `Buffers`; needs `mempool[numpy]`.

        Raises ValueError where it does not fit into an element, TypeError where elements are no buffers, and what `alloc`
        raises.
        """
        self._fit_array(dtype, shape)  # before anything is taken, or waited for
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

    def _fit_array(self, dtype: Any, shape: Any) -> None:
        """Raise ValueError where such an array does not fit into an element, if that is known before there is one."""

    def discard(self, element: T) -> None:
        """Return an element that is broken (invalidate it): the source's free is called, and nobody gets it again.

        A new one is made where the reserve needs it, as by `refill`: what the source cannot make now is unfunded. The
        element's `reset` is not called. In a lease, call `lease.discard()`, so that its end does not free it again.

        Raises what `free` raises, and what the source's alloc raises that is not MemoryError.
        """
        self._engine.discard(self._engine.returning((element,)))

    def write_off(self, lost: T | Holder) -> None:
        """Declare that an element is lost and will never be returned. The pool no longer counts it.

        lost: the element, or what `holders()` says of it where nobody has it at hand. There is room under the limit for
        another; a new one is made where the reserve needs it, as by `refill`. The source's free is not called, because the
        holder may still be using the memory; that of a `Buffer` goes back to the source when the last one drops it. Who
        frees it after all gets ForeignElement.

        Raises DoubleFree and ForeignElement as `free`, and what the source's alloc raises that is not MemoryError.
        """
        self._engine.write_off(lost)

    def write_off_all(self) -> int:
        """`write_off` all that is out, whoever holds it. Returns how many.

        For the child of a fork, where what the parent's threads hold is never returned and counts against the limit: call
        it before anything is taken there, and while no other call of this pool is under way. What the forking thread holds
        is among it; with `track="holders"`, `write_off` each of `holders()` that does not live spares that.
        """
        return int(self._engine.write_off_all())

    def _taken_at(self, element: Any) -> str:
        site = self._engine.tracker.site_of(element)
        return "" if site is None else f", taken at {site}"

    def _explain(self, error: object) -> None:
        """Tell whoever sees this exception what its traceback keeps."""
        try:
            error.add_note(  # type: ignore[attr-defined]  # every BaseException's
                f"{self._called()}: the lease is over, but a view in this traceback keeps its buffer, which is returned "
                "when the traceback is dropped, at the latest with the next gc.collect()"
            )
        except (AttributeError, MemoryError, TypeError):
            pass  # of a user's class that has no notes; or there is no memory for one

    # -- resizing

    def resize(
        self, reserve: int | None = None, *, keep: int | None = None, limit: int | None | EllipsisType = ...
    ) -> Guarantee:
        """Change the reserve, `keep` or the limit of a pool in use. Returns what is promised and covered afterwards.

        reserve: the new reserve (minimum size); None: as before.
        keep: how many spares stay warm (max idle); None: as before. A `keep` that was given once stays, but is raised to the
            reserve where it is less. One that never was given is always twice the reserve.
        limit: the new limit (max size); None: no limit; left out: as before.

        All targets change at one moment. Of several resizes, the last to reach that moment wins. Then, without a lock:

        - a grow: the source makes elements until the reserve is full or memory runs out, and callers in the line
          are served first. If the source says that it has no room for all of them, it makes none. What is lacking is
          unfunded; `refill` makes as much of it as it can.
        - a shrink: spares beyond `keep` are disposed of.

        A caller that waits in `alloc_many` for more than a lowered limit allows gets ValueError.

        Raises ValueError or TypeError for impossible targets, MemoryError if there is no memory for the list of places
        (kernel: -ENOMEM), PoolClosed. Nothing has changed then. Kernel: mempool_resize.
        """
        if reserve is not None:
            reserve = self._count("reserve", reserve)
        if keep is not None:
            keep = self._count("keep", keep)
        if limit is not None and limit is not ...:
            limit = self._count("limit", limit)
        self._engine.resize(reserve, keep, limit)
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
        self._engine.refill()
        return self.guarantee()

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
        held: tuple[Holder, ...] = self._engine.tracker.holders(self._engine.clock.now())
        return held

    def hand_over(self, element: T) -> None:
        """Declare that another thread or task will free this element. Its taker is no longer named as its holder.

        Call it before you pass the element on, through a queue for example. The element then has no holder until somebody
        calls `take_over` or frees it. Does nothing unless `track="holders"`.
        """
        self._engine.tracker.hand_over(element)

    def take_over(self, element: T) -> None:
        """Declare that the caller holds this element from now on, and that nobody else will free it.

        The counterpart of `hand_over`. From now on `holders()` and `why_empty()` name the caller, and the element counts as
        the caller's when a DeadlockError is decided. Does nothing unless `track="holders"`, or if the element is not out.
        """
        self._engine.tracker.take_over(element, self._engine.clock.now())

    def why_empty(self) -> str:
        """Explain in a paragraph why callers wait: what is out, who holds it, what the source said, and the way out."""
        return explain.why_empty(self._engine)

    def guarantee(self) -> Guarantee:
        """Return what the pool promises now, and what covers it.

        With `track="holders"`, an object that its user has dropped without giving it back is written off by this, where
        its type allows weak references and has no finalizer; otherwise it counts as owed until `write_off`.
        """
        self._engine.notice_lost()
        return guarantee_of(self._engine.snapshot())

    def stats(self) -> PoolStats:
        """Return the pool's numbers, all of one moment."""
        return stats_of(self.name, self._engine.snapshot())

    @property
    def reserve(self) -> int:
        """How many elements the pool promises (the minimum size)."""
        return int(self._engine.snapshot().reserve)

    @property
    def keep(self) -> int:
        """How many spares stay warm (max idle)."""
        return int(self._engine.snapshot().keep)

    @property
    def limit(self) -> int | None:
        """How many elements may exist at once (max size); None: as many as the source makes."""
        limit: int | None = self._engine.snapshot().limit
        return limit

    @property
    def spare(self) -> int:
        """Elements in the pool now (idle)."""
        return int(self._engine.snapshot().spare)

    @property
    def out(self) -> int:
        """Elements that users have now (in use), or that are on the way there or back."""
        return int(self._engine.snapshot().out)

    @property
    def waiting(self) -> int:
        """Callers in the line (the wait queue) now."""
        return int(self._engine.snapshot().waiting)

    @property
    def closed(self) -> bool:
        """Whether the pool is closed and hands out nothing any more."""
        return bool(self._engine.snapshot().closed)

    @property
    def min_nr(self) -> int:
        """The kernel's name for the reserve."""
        return self.reserve

    @property
    def curr_nr(self) -> int:
        """The kernel's name for the spares: elements in the pool's hands."""
        return self.spare

    def __repr__(self) -> str:
        s = self._engine.snapshot()
        return (
            f"<Pool {self.name!r} reserve={s.reserve}: {s.spare} spare, {s.out} out, "
            f"{s.waiting} in line{', closed' if s.closed else ''}>"
        )

    @property
    def _clock(self) -> Clock:
        """By which every wait is measured."""
        clock: Clock = self._engine.clock
        return clock

    @_clock.setter
    def _clock(self, clock: Clock) -> None:
        self._engine.clock = clock

    # -- closing

    def close(self) -> int:
        """Hand out nothing any more: every caller in the line gets PoolClosed, spares are disposed of.

        Elements still out are disposed of when they are freed. May be called again. Returns how many are still out.
        """
        self._engine.close()
        return int(self._engine.snapshot().out)

    def drain(self, timeout: float | None | Literal["default"] = "default") -> None:
        """Wait until no element is out. Raises PoolTimeout if some are when the time is up.

        With `track="holders"`, DeadlockError where the caller holds an element in a `with` block, or a task does whose event
        loop this call stops: nobody could ever return it. `await pool.drain_async()` stops no loop.
        """
        engine = self._engine
        parker = parking.parker_here(engine.clock)
        now = engine.clock.now
        deadline = self._deadline(timeout, now)
        if engine.snapshot().out == 0:
            return
        key = explain.note_standstill(engine, "`await pool.drain_async()`") if deadline > now() else None
        try:
            explain.raise_undrainable(engine, deadline != NEVER)
            for seconds in self._drain(parker, now, deadline):
                parker.park(seconds)
        finally:
            engine.under_way.pop(key, None)

    async def drain_async(self, timeout: float | None | Literal["default"] = "default") -> None:
        """`drain` for a task of an event loop, which goes on."""
        parker = parking.task_parker_here(self._engine.clock)
        for seconds in self._drain(parker, parker.now, self._deadline(timeout, parker.now)):
            await parker.park(seconds)

    def _drain(self, parker: parking.Waker, now: Callable[[], float], deadline: float) -> Iterator[float | None]:
        """Yields how many seconds to park, at most; None: until woken."""
        engine = self._engine
        ticket = engine.ticket(0)
        try:
            while not engine.watch_drained(ticket, parker):
                if engine.is_ending():
                    raise messages.ending(self._called())
                time = now()
                if time >= deadline:
                    raise PoolTimeout(f"{self._called()}: {messages.still_out(engine.snapshot().out)}")
                yield None if deadline == NEVER else deadline - time
        finally:
            engine.watch_drained(ticket, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None:
        await self._in_a_thread(self._close_and_finish)

    def _close_and_finish(self) -> None:
        self.close()
        self._engine.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._called()}: a pool can be neither copied nor pickled; share it, or make another")

    def __del__(self) -> None:
        # A pool whose constructor failed has no engine yet.
        if not self._is_finalizing() and getattr(self, "_engine", None) is not None:
            try:
                self.close()
            except UseAfterFree:
                pass  # the collector found pool and spares together, and some of these have been returned before
            except (KeyboardInterrupt, MemoryError):
                self.close()
                raise

    # -- arguments

    def _called(self) -> str:
        return messages.called(self.name)

    def _count(self, what: str, number: int) -> int:
        try:
            number = operator.index(number)
        except TypeError:
            raise TypeError(f"{self._called()}: {what} is a whole number, not {number!r}") from None
        if number < 0:
            raise ValueError(f"{self._called()}: {what} cannot be negative, {number} is; 0 is the least")
        return number

    def _check_timeout(self, timeout: float | None | Literal["default"]) -> None:
        if timeout != "default":
            self._seconds("timeout", timeout)

    def _seconds(self, what: str, seconds: float | None) -> float | None:
        if seconds is None:
            return None
        if isinstance(seconds, (int, float, numbers.Real)) and seconds >= 0:
            try:
                return float(seconds)
            except OverflowError:
                return float("inf")
        raise ValueError(f"{self._called()}: {what} is a number of seconds, 0 or more, or None for ever, not {seconds!r}")
