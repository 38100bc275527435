# cython: language_level=3
"""Lease: one element that is returned when its block ends."""

from __future__ import annotations

import sys
from threading import get_ident
from types import GenericAlias
from typing import TYPE_CHECKING, Any, NoReturn

from mempool import _cython as cython
from mempool import dropped
from mempool._core.fast_path import own_methods
from mempool.errors import DoubleFree, PoolError

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.fast_path import DEFAULT, FastPath
    from mempool._core.mutex import WITHOUT_GIL, atomic_int
    from mempool._core.queueing import Queueing
    from mempool._core.transfer import Transfer, new_ticket
    from mempool.waiting import FINISHED, Routine, go_on_inside, obtain, quicken

    NEW = 0
    WAITING = 1  # on its way to an element
    HELD = 2
    RELEASING = 3
    RELEASED = 4
    DISCARDED = 5


@cython.final
@cython.no_gc  # a free list of objects that the collector knows would finalize each place only once
@cython.cclass
class Lease:
    """Holds one element of a pool and returns it at the end. Use it once: with `with`, `async with`, or `release()`.

        with pool.lease() as buf: ...
        async with pool.lease() as buf: ...
        lease = pool.lease(); use(lease.element); lease.release()

    Others call it a checkout or a guard. If a lease is dropped while it holds an element, the element is returned at once,
    with a ResourceWarning. Do not put a lease into a reference cycle (`element.lease = lease`): the collector does not know
    compiled leases, so the element would stay out for ever.
    """

    vectorcall: cython.p_void  # compiled: what `with` calls, see Shortcut
    pool: Any  # a Pool
    timeout: Any
    thing: Any
    transfer: Any  # a ticket of the pool's engine
    state: atomic_int
    linger: cython.bint

    _is_finalizing = staticmethod(sys.is_finalizing)  # here, because at the end this module's `sys` is None already

    def __init__(self, *_arguments: object, **_options: object) -> None:
        raise TypeError("a lease is taken from a pool: pool.lease()")

    @property
    def element(self) -> Any:
        """The element; the first access takes it, and waits for it if it must."""
        if self.state == NEW:
            return self._enter()
        if self.state != HELD:
            raise self._without()
        element: object = self._held()
        if element is None:
            raise self._without()
        return element

    # Without the GIL another thread may look while one lets go; and what was let go is not to die in between.

    @cython.critical_section
    def _held(self) -> Any:
        if self.transfer is None:
            return self.thing
        if isinstance(self.transfer, Transfer):  # compiled, read without the name
            transfer: Transfer = self.transfer
            return transfer.elements[0]
        return self.transfer.elements[0]

    @cython.critical_section
    def _drop_thing(self) -> Any:
        thing: object = self.thing
        self.thing = None
        return thing

    @cython.critical_section
    def _keep(self, transfer: Any) -> cython.void:
        if self.transfer is None:  # still
            self.transfer = transfer

    def __enter__(self) -> Any:
        return self._enter()

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        self._exit(exc)

    def __call__(self, *outcome: object) -> Any:
        """What `with` really calls, when compiled; see Shortcut. Without arguments `__enter__`, with them `__exit__`."""
        return self._call(outcome)

    def _call(self, outcome: tuple[Any, ...]) -> Any:
        if not outcome:
            return self._enter()
        _exc_type, exc, _traceback = outcome
        self._exit(exc)
        return None

    @classmethod
    def __class_getitem__(cls, item: Any, /) -> GenericAlias:
        """`Lease[Buffer]`: for annotations; see lease.pyi."""
        return GenericAlias(cls, item)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self.pool._called()}: a lease can be neither copied nor pickled; take another. An element must not be the "
            "result of a task: it stays out for as long as the result is kept"
        )

    def _enter(self) -> Any:
        self._use()
        element: object = self._warm()
        if element is not None:
            return element
        try:
            if cython.compiled:
                self.transfer = ticket_for_one(self.pool)
                obtain_for(self.pool, self.transfer, self.timeout)
            else:
                self.transfer = self.pool._engine.ticket(1)
                self.pool._obtain(self.transfer, self.timeout)
            self.state = HELD
        except BaseException as error:
            self.thing = self.pool._cancel_or_take_last(self.transfer, error)
            self.state = RELEASED
            if self.thing is None:
                raise
            self.transfer = None
            self.state = HELD
        return self._held()

    def __aenter__(self) -> Any:
        if cython.compiled:
            way: Entering = to_enter(cython.cast(cython.p_void, self))
            way.was_called = True
            return way
        entering: Entering = Entering.__new__(Entering)
        entering.lease = self
        entering.is_mine = False
        Routine.__init__(entering)
        return entering

    def __await__(self) -> Any:
        """Take its element in a task, and return the lease: `lease = await pool.lease()`, then `.element`, `.release()`."""
        return self.pool._hold_async(self).__await__()

    def _use_warm(self) -> bool:
        """Begin to use it. Whether it holds an element already; else it is for the caller to wait for one."""
        self._use()
        return self._warm() is not None

    def _warm(self) -> object:
        """A spare beyond the reserve, held; or None: always, uncompiled."""
        # Where there is no quick way back, that needs a transfer, which must be there before there is no memory for it.
        if cython.compiled and (self.pool.core.fast_free or self.pool._quick is not None):
            self.thing = take_warm(self.pool)
            if self.thing is not None:
                self.state = HELD
        return self.thing

    def _make_ticket(self) -> Any:
        """The ticket that will hold its element."""
        engine: Any = self.pool._engine
        ticket: Any = new_ticket(1) if isinstance(engine, Queueing) else engine.ticket(1)  # the former is what that does
        self.transfer = ticket
        return ticket

    def _cancel(self) -> None:
        """Return what it got, if anything: it waited in vain or for too long, or its caller is gone."""
        self.state = WAITING  # so that dropping it does the rest, if anything is raised here
        self._returning_transfer()
        if self.transfer is not None:
            self.pool._engine.cancel(self.transfer)
        self.state = RELEASED

    def _exit(self, exc: object) -> cython.bint:
        if self.state == DISCARDED:
            return True
        # Out of the `try`, which would save and restore the thread's exception each time.
        if cython.compiled and not WITHOUT_GIL and self.state == HELD and self._release_quickly():
            return True
        try:
            self._release(self.linger)
        except BufferError:
            if exc is None:
                raise
            self._release(True)  # the traceback keeps views alive, and must not be hidden behind them
            self.pool._explain(exc)
        return True

    def __aexit__(self, exc_type: object, exc: object, traceback: object) -> Any:
        if cython.compiled:
            way: Leaving = to_leave(cython.cast(cython.p_void, self))
            way.was_called = True
            if exc is not None:
                failed(way, exc)
            return way
        leaving: Leaving = Leaving.__new__(Leaving)
        leaving.lease = self
        leaving.error = exc
        Routine.__init__(leaving)
        return leaving

    def release(self) -> None:
        """Return the element to the pool.

        Raises DoubleFree the second time, RuntimeError if the lease never took an element, BufferError while a view of the
        buffer exists.
        """
        self._release(self.linger)

    def _end_in(self, pool: Any) -> None:
        """Have this other pool get the element at the end, of two that track nothing; see PoolQueue. One step."""
        self.pool = pool

    def discard(self) -> None:
        """Return the element as broken; see `Pool.discard`. The `with` block around this call then ends without an error."""
        if WITHOUT_GIL and not begin(self, HELD, RELEASING):  # type: ignore[name-defined]
            raise self._without()
        try:
            transfer: Any = None if self.state != HELD and not WITHOUT_GIL else self._returning_transfer()
        except BaseException:
            if WITHOUT_GIL:
                self.state = HELD
            raise
        if transfer is None or not (WITHOUT_GIL or self._is_first_to_release()):
            raise self._without()
        try:
            self.state = RELEASING
            self.pool._engine.discard(transfer)
        except PoolError:
            self.state = RELEASED
            raise
        except BaseException:
            self.state = HELD if self._returning_transfer() is not None else DISCARDED
            if not cython.compiled:
                self.__dict__.pop("releaser", None)
            raise
        self.state = DISCARDED

    def _release(self, lingering: cython.bint) -> cython.bint:
        if WITHOUT_GIL:
            return self._release_shared(lingering)
        if self.state != HELD:
            raise self._without()
        if cython.compiled and self._release_quickly():
            return True
        transfer: Any = self._returning_transfer()
        # Of two that release at once, one may; to make the transfer may have run anything. Uncompiled, the dict decides.
        if transfer is None or not self._is_first_to_release():
            raise self._without()
        # The transfer tells how far it came: after an exception, dropping the lease does the rest.
        try:
            self.state = RELEASING
            self.pool._engine.give(transfer, linger=lingering)
        except PoolError:  # freed by hand behind the lease's back
            self.state = RELEASED
            raise
        except BaseException:
            self.state = HELD if self._returning_transfer() is not None else RELEASED
            if not cython.compiled:
                self.__dict__.pop("releaser", None)
            raise
        self.state = RELEASED
        return True

    def _is_first_to_release(self) -> bool:
        return self.state == HELD and (cython.compiled or self._claim("releaser", get_ident()))

    def _release_shared(self, lingering: cython.bint) -> cython.bint:
        """`_release`, where other threads do the same at the same moment: who finds it held goes on."""
        if not begin(self, HELD, RELEASING):  # type: ignore[name-defined]
            raise self._without()
        try:
            if self.transfer is None and put_warm(self.pool, self.thing):  # type: ignore[name-defined]
                self._drop_thing()
            elif not self._hand_on():
                transfer: Any = self._returning_transfer()
                if transfer is None:
                    raise self._without()
                self.pool._engine.give(transfer, linger=lingering)
        except PoolError:  # freed by hand behind the lease's back
            self.state = RELEASED
            raise
        except BaseException:
            self.state = HELD if self._returning_transfer() is not None else RELEASED
            raise
        self.state = RELEASED
        return True

    def _release_quickly(self) -> cython.bint:
        """Compiled, of a lease that holds its element: return that without a transfer. False: nothing has happened."""
        if self.transfer is None and put_warm(self.pool, self.thing):  # type: ignore[name-defined]
            self.thing = None
            self.state = RELEASED
            return True
        return self._hand_on()

    def _hand_on(self) -> cython.bint:
        """Compiled: return the element by a quick way, whether it came by one or not. False: go the slow way."""
        if self.transfer is None:
            if not hand_on(self.pool, self.thing):  # type: ignore[name-defined]
                return False
            self._drop_thing()
        elif not self.pool.core.fast_free:
            return False  # also: an engine of another kind, with tickets of its own
        else:
            transfer: Transfer = self.transfer
            if transfer.count - transfer.first != 1:
                return False
            element: object = transfer.elements[transfer.first]
            if not put_warm(self.pool, element) and not hand_on(self.pool, element):  # type: ignore[name-defined]
                return False
            transfer.elements[transfer.first] = None
            transfer.first += 1
        self.state = RELEASED
        self.pool.core.wake_pending()
        return True

    def _without(self) -> Exception:
        """Why it has no element to use or to release."""
        if self.state == NEW:
            return RuntimeError(
                f"{self.pool._called()}: this lease never took an element, and has none to give back; "
                "enter it with `with`, or look at its `element`"
            )
        if self.state == WAITING:
            why = "waits for its element"
        elif self.state == DISCARDED:
            why = "was discarded already"
        elif self.state == RELEASED or (not WITHOUT_GIL and self.transfer is not None and self.transfer.first > 0):
            why = "was released already"
        else:
            why = "is being released"
        return DoubleFree(
            f"{self.pool._called()}: this lease {why}; it is for one caller and for once, take another with pool.lease()"
        )

    def __del__(self) -> None:
        if not cython.compiled and not hasattr(self, "state"):
            return  # interrupted while it was being made
        if WAITING <= self.state <= RELEASING and not self._is_finalizing():  # a tuple of these would need memory
            try:
                self._return()
            except (KeyboardInterrupt, MemoryError):  # Python swallows what is raised here, and nobody would come back to it
                self._return()
                raise

    def _return(self) -> None:
        transfer: Any = self._returning_transfer()
        if transfer is None:
            return  # the pool gave nothing, or has it back
        if self.state == WAITING:  # nobody has had it: whoever waited was interrupted twice
            self._cancel()
            return
        where = self.pool._taken_at(transfer.elements[transfer.first])
        try:
            self.pool._engine.give(transfer, linger=bool(self.linger))
        except BufferError:
            self._let_go()
        else:
            self.state = RELEASED
            dropped.warn(
                f"{self.pool._called()}: a lease was dropped without release{where}; use `with pool.lease()`",
                0 if cython.compiled else 2,
            )

    def _let_go(self) -> None:
        """Leave a buffer that is still viewed to itself: it is returned when the last view dies."""
        if self.transfer is not None:
            self.transfer.elements[self.transfer.first] = None  # so that it dies whatever keeps the transfer: a traceback
        self.thing = None
        self.transfer = None
        self.state = RELEASED

    def _use(self) -> cython.bint:
        if self.pool is None:
            raise TypeError("a lease is taken from a pool: pool.lease()")
        is_first: cython.bint = begin(self, NEW, WAITING) if cython.compiled else self._claim("user", object())  # type: ignore[name-defined]
        if not is_first:
            raise RuntimeError(f"{self.pool._called()}: a lease is used once; take another with pool.lease()")
        self.state = WAITING
        return True

    def _claim(self, role: str, who: object) -> bool:
        """Uncompiled: take this role. Returns False if another caller took it before."""
        return bool(self.__dict__.setdefault(role, who) == who)

    def _returning_transfer(self) -> Any:
        if self.transfer is None and self.thing is not None:
            transfer: Any = self.pool._engine.returning((self.thing,))
            if WITHOUT_GIL:
                self._keep(transfer)
            elif self.transfer is None:  # still
                self.transfer = transfer
        if self.transfer is None or self.transfer.count == self.transfer.first:
            return None
        return self.transfer


def new_lease(pool: Any, timeout: Any, linger: cython.bint) -> Lease:
    """The way to make one: without the cost of a call to `Lease`."""
    if cython.compiled:
        return lease_of(pool, timeout, linger)
    lease: Lease = Lease.__new__(Lease)
    lease.pool = pool
    lease.timeout = timeout
    lease.linger = linger
    lease.thing = None
    lease.transfer = None
    lease.state = NEW
    return lease


class Leasing(FastPath):
    """Pools that lease: the base of BasePool. Here and not in fast_path.py, on which a lease is built."""

    def lease(self, *, timeout: Any = "default", linger: bool = False) -> Lease:
        """Lease an element, which is returned at the end: for `with`, for `async with`, or held; see Lease.

        timeout: as for alloc. linger: as for free, at the end of the lease.
        """
        if timeout is not DEFAULT:
            self._check_timeout(timeout)  # type: ignore[attr-defined]
        return new_lease(self, timeout, linger)


def adopt(pool_type: type) -> None:
    """Make the quick methods this pool type's own, and not inherited."""
    own_methods(pool_type, FastPath, "alloc", "try_alloc", "alloc_reserved", "free")
    if cython.compiled:
        pool_type.lease = shorten_method(pool_type, Leasing.__dict__["lease"], cython.address(quick_lease), usual_lease)


@cython.final
@cython.cclass
class Entering(Routine):
    """What `async with` a lease awaits first. Until it has returned the element, that is the lease's and goes back.

    Compiled, it is also what `async with` calls before: see ShortcutInTask.
    """

    vectorcall: cython.p_void
    lease: Lease
    was_called: atomic_int
    is_mine: cython.bint

    def __call__(self, *arguments: object) -> Any:
        """As a bound `__aenter__` that was called before, or with other arguments than `async with` has."""
        return Lease.__aenter__(self.lease, *arguments)

    def _go_on(self, sent: Any) -> Any:
        if self.inner is None:
            if self.lease._use_warm():
                self.is_mine = True
                return FINISHED
            self.is_mine = True
            self.inner = obtain(self.lease.pool, self.lease._make_ticket(), self.lease.timeout)
            if cython.compiled:
                track(cython.cast(cython.p_void, self))  # from now on it may be part of a cycle
        yielded: object = go_on_inside(self.inner, sent)
        if yielded is FINISHED:
            self.lease.state = HELD
        return yielded

    def _outcome(self) -> Any:
        return self.lease._held()

    def _cancel(self) -> cython.void:
        if self.is_mine:  # else another uses it
            self.lease._cancel()


@cython.final
@cython.cclass
class Leaving(Routine):
    """What `async with` a lease awaits last; compiled, also what it calls before."""

    vectorcall: cython.p_void
    lease: Lease
    was_called: atomic_int
    error: Any

    def __call__(self, *outcome: Any) -> Any:
        """As a bound `__aexit__` that was called before, or with other arguments than `async with` has."""
        return Lease.__aexit__(self.lease, *outcome)

    def _go_on(self, sent: Any) -> Any:
        self.lease._exit(self.error)
        return FINISHED


quicken(Entering)
quicken(Leaving)


@cython.final
@cython.cclass
class Shortcut:
    """In a compiled Lease's place for `__enter__` and `__exit__`: gives `with` the lease itself to call.

    CPython before 3.14 makes an object of each bound method that `with` calls, twice per block: a third of the whole.
    """

    method: Any

    def __get__(self, lease: Any, _type: Any) -> Any:
        return self.method if lease is None else lease


@cython.final
@cython.cclass
class ShortcutInTask:
    """The same for `__aenter__` and `__aexit__`: gives `async with` what it will await, which is called and gives itself.

    The first time; whoever keeps it as a bound method and calls it again gets another.
    """

    method: Any
    leaves: cython.bint

    def __get__(self, lease: Any, _type: Any) -> Any:
        return self.method if lease is None else self.method.__get__(lease)


def shorten() -> None:
    """Put shortcuts into Lease in the place of the methods that `with` and `async with` call."""
    if cython.compiled:
        shorten_calls()
        for name in ("__enter__", "__exit__"):
            shortcut: Shortcut = Shortcut.__new__(Shortcut)
            shortcut.method = Lease.__dict__[name]
            mempool_put_into_type(Lease, name, shortcut)
        for name in ("__aenter__", "__aexit__"):
            to_task: ShortcutInTask = ShortcutInTask.__new__(ShortcutInTask)
            to_task.method = Lease.__dict__[name]
            to_task.leaves = name == "__aexit__"
            mempool_put_into_type(Lease, name, to_task)


if cython.compiled:
    use_free_lists()
if sys.version_info < (3, 14):
    shorten()
