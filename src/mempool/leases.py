"""`pool.lease_many(n)`: many elements that are returned together, by themselves."""

from __future__ import annotations

import sys
from collections.abc import Generator
from types import TracebackType
from typing import Any, Generic, Literal, NoReturn, TypeVar

from mempool import dropped
from mempool.errors import DoubleFree, PoolError
from mempool.native import get_ident
from mempool.waiting import obtain

T = TypeVar("T")
#: As of a Lease, whose compiled module does not tell them.
NEW, WAITING, HELD, RELEASING, RELEASED = range(5)


class Leases(Generic[T]):
    """Holds several elements of a pool, all or none, and returns them together. Use it once.

        with pool.lease_many(3) as frames: ...  # a list
        async with pool.lease_many(3) as frames: ...
        leases = await pool.lease_many(3); use(leases.elements); leases.release()

    At the end all elements are returned, even if you have changed the list. If you have freed one of them by hand, the
    others are returned, and the end raises. If the object is dropped while it holds elements, they are returned, with a
    ResourceWarning.
    """

    __slots__ = ("_claims", "_each", "_linger", "_pool", "_state", "_ticket", "_timeout", "_wanted")

    _is_finalizing = staticmethod(sys.is_finalizing)  # here, because at the end this module's `sys` is None already

    def __init__(self, pool: Any, n: int, timeout: float | None | Literal["default"], linger: bool) -> None:
        self._pool = pool
        self._wanted = n
        self._timeout = timeout
        self._linger = linger
        self._ticket: Any = None
        self._each: list[Any] | None = None  # the same elements one by one, where they cannot be returned together
        self._claims: dict[str, object] = {}
        self._state: int = NEW

    @property
    def elements(self) -> list[T]:
        """The elements; the first access takes them, and waits for them if it must."""
        if self._state == NEW:
            return self.__enter__()
        if self._state != HELD or self._ticket is None:
            raise self._without()
        return self._held()

    def __enter__(self) -> list[T]:
        ticket = self._use()
        try:
            self._pool._obtain(ticket, self._timeout)
            self._state = HELD
            return self._held()
        except BaseException:
            self._cancel()
            raise

    async def __aenter__(self) -> list[T]:
        ticket = self._use()
        try:
            await obtain(self._pool, ticket, self._timeout)
            self._state = HELD
            return self._held()
        except BaseException:
            self._cancel()
            raise

    def __await__(self) -> Generator[Any, None, Leases[T]]:
        """Take the elements in a task, and return this: then `.elements`, `.release()`."""
        yield from self.__aenter__().__await__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._release(self._linger)
        except BufferError:
            if exc is None:
                raise
            self._release(True)  # the traceback keeps views alive, and must not be hidden behind them
            self._pool._explain(exc)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    def release(self) -> None:
        """Return all elements. Raises DoubleFree the second time, RuntimeError when it never took any, BufferError while
        somebody views one of the buffers: then all are still held.
        """
        self._release(self._linger)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._pool._called()}: leases can be neither copied nor pickled; take others")

    def __del__(self) -> None:
        # Without a state it was interrupted while it was being made.
        if WAITING <= getattr(self, "_state", NEW) <= RELEASING and not self._is_finalizing():
            try:
                self._return_dropped()
            except BaseException:  # Python swallows what is raised here, and nobody would come back to it
                self._return_dropped()
                raise

    def _use(self) -> Any:
        """The ticket that will hold the elements; the one caller that gets it is the one that uses them."""
        if self._state != NEW or not self._claim("user", object()):
            raise RuntimeError(f"{self._pool._called()}: leases are used once; take others with pool.lease_many(n)")
        self._ticket = ticket = self._pool._engine.ticket(self._wanted)
        self._state = WAITING
        return ticket

    def _claim(self, role: str, who: object) -> bool:
        """Take this role. Returns False if another caller took it before."""
        return self._claims.setdefault(role, who) == who

    def _cancel(self) -> None:
        """It waited in vain, or for too long."""
        if self._ticket is not None:
            self._pool._engine.cancel(self._ticket)
        self._state = RELEASED

    def _held(self) -> list[T]:
        ticket = self._ticket
        return [] if ticket is None else ticket.elements[ticket.first : ticket.count]

    def _holds(self) -> bool:
        return self._ticket is not None and self._ticket.count > self._ticket.first

    def _release(self, lingering: bool) -> None:
        ticket = self._ticket
        # Of two that release at once, one may.
        if self._state != HELD or ticket is None or not self._claim("releaser", get_ident()):
            raise self._without()
        # The ticket tells how far it came: after an exception, dropping this object does the rest.
        try:
            self._state = RELEASING
            self._pool._engine.give(ticket, linger=lingering)
        except PoolError:  # one was freed by hand behind its back
            try:
                self._return_each(lingering)
            except BaseException:  # cut short it would leave the others out, with a state in which nobody may release them
                self._return_each(lingering)
                raise
            finally:
                self._state = RELEASED
            raise
        except BaseException:
            self._state = HELD if self._holds() else RELEASED
            self._claims.pop("releaser", None)
            raise
        self._state = RELEASED

    def _return_each(self, lingering: bool) -> None:
        """Return what can be returned. May be done again: the transfer know what was."""
        if self._each is None:
            self._each = [self._pool._engine.returning((element,)) for element in self._held()]
        for transfer in self._each:
            try:
                self._pool._engine.give(transfer, linger=lingering)
            except (PoolError, BufferError):
                pass  # freed before; or viewed, and is returned when the last view ends

    def _return_dropped(self) -> None:
        if not self._holds() or self._ticket is None:
            return  # the pool gave nothing, or has it back
        if self._state == WAITING:  # nobody has had it: whoever waited was interrupted twice
            self._cancel()
            return
        where = self._pool._taken_at(self._ticket.elements[self._ticket.first])
        try:
            if self._each is None:
                self._pool._engine.give(self._ticket, linger=self._linger)
        except (PoolError, BufferError):
            self._return_each(self._linger)
        else:
            if self._each is not None:
                self._return_each(self._linger)
        self._state = RELEASED
        dropped.warn(
            f"{self._pool._called()}: {self._wanted} leased elements were dropped without release{where}; use "
            "`with pool.lease_many(n)`",
            2,
        )

    def _without(self) -> Exception:
        """Why it has no elements to use or to release."""
        if self._state == NEW:
            return RuntimeError(
                f"{self._pool._called()}: these leases never took an element, and have none to give back; enter them with "
                "`with`, or look at their `elements`"
            )
        why = {WAITING: "wait for their elements", RELEASED: "were released already"}.get(self._state, "are being released")
        return DoubleFree(
            f"{self._pool._called()}: these leases {why}; they are for one caller and for once, take others with "
            "pool.lease_many(n)"
        )
