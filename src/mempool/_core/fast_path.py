# cython: language_level=3
"""FastPath: `alloc` and `free` as users call them, without a Python frame where they are quick.

The base of Leasing (lease.py) and so of every pool, which adds the slow path: asking the source, waiting, errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mempool import _cython as cython

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython

if not cython.compiled:  # compiled, the .pxd beside this file says the same
    from mempool._core.deciding import put_in, take_out
    from mempool._core.decisions import Decisions
    from mempool._core.outstanding import Outstanding
    from mempool._core.state import State

#: Take the pool's own timeout. A word, because what reads signatures (FastAPI) takes Ellipsis for what must be given.
DEFAULT = "default"


class Quick:
    """How an engine of another kind than the local one takes and gives back without a Python frame, compiled."""

    def take(self, at_last: cython.bint) -> Any:
        """A spare, checked out: a bare pointer that owns it; NULL: go the slow way. at_last: also of the reserve."""
        return cython.NULL

    def put(self, element: Any) -> cython.bint:
        """Take back an element that is out. False: go the slow way, nothing has happened."""
        return False

    def state(self, ticket: Any) -> cython.Py_ssize_t:
        """That of this ticket, which is one of the engine's."""
        return ticket.state  # type: ignore[no-any-return]

    def sleep(self, wakes: Any, seconds: cython.double) -> cython.bint:
        """Have this thread sleep on what the engine has put into its parker, at most so long; see LockParker.sleep."""
        return False

    def check_out(self, ticket: Any) -> cython.bint:
        """As the engine's. False: go the slow way, nothing has happened."""
        return False

    def leave(self, ticket: Any, place: Any, outcome: cython.Py_ssize_t, seconds: cython.double) -> cython.bint:
        """`dequeue` of this ticket, if it was served. False: go the slow way, nothing has happened."""
        return False


class FastPath:
    """`alloc`, `free` and `lease` of a pool."""

    core: Decisions
    state: State
    outstanding: Outstanding
    tracks: cython.bint
    _quick: Quick | None  # None: of the local engine, whose state is here
    # BasePool's, and here because compiled code reads them in no time.
    _engine: Any
    _timeout: Any
    _patience: Any
    _offload: Any

    def __cinit__(self) -> None:
        # So that the gates of the fast path are shut until `_decide_quickly`, whoever calls before; and for ever, where the
        # engine is of another kind.
        self.core = Decisions(False, False, False)
        self.state = State()

    def _decide_quickly(self, core: Decisions) -> None:
        """Let the fast path work on the state of this core."""
        self.core = core
        self.state = core.state
        self.outstanding = core.outstanding
        self.tracks = core.tracks

    def _decide_elsewhere(self, quick: Quick) -> None:
        """Let the fast path go this way, of an engine of another kind."""
        self._quick = quick

    def alloc(self, *, timeout: Any = "default") -> Any:
        """Take an element. Never None: a spare beyond the reserve, else from the source, else the reserve, else waits.

        timeout: seconds to wait at most; None: for ever; "default": the pool's own. It bounds the wait in the line,
            and not the time of a source that is asked; for a slow one see `alloc_reserved`, `keep` and `offload`.

        Raises PoolTimeout, PoolClosed, LineFull, DeadlockError, or what the source raises that is not MemoryError.
        Kernel: mempool_alloc.
        """
        if timeout is not DEFAULT:
            self._check_timeout(timeout)  # type: ignore[attr-defined]  # a wrong one is told of also here
        if cython.compiled:
            if WITHOUT_GIL:
                bare: cython.p_void = take_held(self, False)
                if bare != cython.NULL:
                    return mempool_owned(bare)
            else:
                element: object = take_warm(self)
                if element is not None:
                    return element
        ticket: Any = None
        try:
            if cython.compiled:
                ticket = ticket_for_one(self)
                obtain_for(self, ticket, timeout)
            else:
                ticket = self._engine.ticket(1)
                if not (self.core.fast_alloc and take_out(self.core, ticket)):
                    self._obtain(ticket, timeout)  # type: ignore[attr-defined]
            return ticket.elements[0]
        except BaseException as error:
            last: Any = self._cancel_or_take_last(ticket, error)
            if last is None:
                raise
        return last  # not above: Cython crashes on a return from there when the error has no traceback

    def try_alloc(self) -> Any:
        """`alloc` without the line: None when nothing is to be had now. Kernel: an alloc that may not sleep.

        While others wait, it can have what the source gives but never a spare. It takes as long as the source takes, where
        that is asked; `alloc_reserved` never asks. Raises PoolClosed, or what the source
        raises that is not MemoryError.
        """
        if cython.compiled:
            if WITHOUT_GIL:
                bare: cython.p_void = take_held(self, False)
                if bare != cython.NULL:
                    return mempool_owned(bare)
            else:
                element: object = take_warm(self)
                if element is not None:
                    return element
        transfer: Any = None
        try:
            transfer = self._engine.ticket(1)
            return self._alloc_now(transfer, True)
        except BaseException as error:
            last: Any = self._cancel_or_take_last(transfer, error)
            if last is None:
                raise
        return last  # see alloc

    def alloc_reserved(self) -> Any:
        """A spare, or None; never calls the source. Kernel: mempool_alloc_preallocated. Raises PoolClosed."""
        if cython.compiled:
            if WITHOUT_GIL:
                bare: cython.p_void = take_held(self, True)
                if bare != cython.NULL:
                    return mempool_owned(bare)
            else:
                element: object = take_at_last(self)
                if element is not None:
                    return element
        transfer: Any = None
        try:
            transfer = self._engine.ticket(1)
            return self._alloc_now(transfer, False)
        except BaseException as error:
            last: Any = self._cancel_or_take_last(transfer, error)
            if last is None:
                raise
        return last  # see alloc

    def _alloc_now(self, transfer: Any, ask: bool) -> Any:
        """One element without waiting, or None. ask: the source, too.

        The caller made the transfer and empties it if this fails: an interrupt that strikes as this returns finds only him.
        """
        engine: Any = self._engine
        if not engine.try_take(transfer, ask_source=ask):
            return None
        engine.check_out(transfer)
        return transfer.elements[0]

    def _cancel_or_take_last(self, transfer: Any, error: BaseException) -> Any:
        """A call that was to take one element has failed: what it got is returned. None: the error is to be raised again.

        Or an element, when memory was lacking, compiled. The source's lack was dealt with before, so this was one of the
        small objects that an orderly call needs; a spare can be had without any. (A task could not even be resumed.)
        """
        if transfer is not None:
            self._engine.cancel(transfer)
        if cython.compiled and isinstance(error, MemoryError):
            return take_at_last(self)
        return None

    def free(self, element: Any, *, linger: bool = False) -> None:
        """Return an element to the pool.

        The first caller in the line gets it. If nobody waits, it becomes a spare while `spare < keep`; otherwise the source
        disposes of it. Never blocks. May be called from anywhere: finalizers, weakref callbacks, signal handlers, any
        thread, any loop.

        linger: accept a buffer that is still viewed. Its handle dies at once; its memory is returned when the last view
            ends. Elements that are no Buffer are freed as without it.

        Raises DoubleFree, ForeignElement (unless `track="nothing"`), BufferError while a view of the buffer exists, and what
        the source's free raises. Kernel: mempool_free.
        """
        if cython.compiled:
            if put_warm(self, element):
                return
            if hand_on(self, element):
                self.core.wake_pending()
                return
        elif self.core.fast_free and put_in(self.core, element):
            return
        self._free_slowly(element, linger)  # type: ignore[attr-defined]


SHUT = Decisions(False, False, False)

if cython.compiled:
    have_gates_shut_at_last()  # type: ignore[name-defined]  # in the .pxd; before the types that inherit it are made
else:
    FastPath.core = SHUT  # as __cinit__ says
    FastPath._quick = None


@cython.final
@cython.cclass
class Warm:
    """`WARM[pool]`: a spare that `alloc` would take at once, compiled, checked out; else None.

    A subscription and not a call, for a coroutine that returns it. After a call, an interrupt can be raised before what it
    returned has a name, and the element would be lost; from a subscription to the end of `return` there is no such place.
    """

    def __getitem__(self, pool: FastPath) -> Any:
        if cython.compiled:
            return take_warm(pool)
        return None


WARM = Warm()


def own_methods(pool_type: type, base: type, *names: str) -> None:
    """Make methods of a compiled base this type's own: CPython specializes only calls of the exact type."""
    if cython.compiled:
        for name in names:
            setattr(pool_type, name, own_method(pool_type, name, base.__dict__[name]))
