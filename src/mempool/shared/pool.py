"""SharedPool: a pool of memory that several processes share, behind the face of every pool."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mempool import native, registry
from mempool.base_pool import BasePool
from mempool.buffer import Buffer, fit
from mempool.errors import PoolClosed, StaleToken
from mempool.lease import adopt
from mempool.shared import killed, listing, passing
from mempool.shared.errors import ClientGone
from mempool.shared.killed import Reclaimed
from mempool.shared.passing import Token
from mempool.sizes import compared, parse_size
from mempool.tracking import TRACKERS

if TYPE_CHECKING:
    from mempool.shared.engine import SharedEngine
    from mempool.shared.pool_engine import PoolEngine

__all__ = ["SharedPool", "Token"]

#: How often a name may vanish, or come up, between two looks at it.
ATTEMPTS = 100
#: Addresses are no memory: room for a limit that is raised later.
SLOTS_FOR_LIMIT = 4


class SharedPool(BasePool[Buffer]):
    """A reserve of buffers that several processes of one user share: the same promise, one line, exact after `kill -9`.

        pool = SharedPool("frames", size="1 MiB", reserve=16, limit=64)    # in each process
        with pool.lease() as buf: ...

    The first process makes the pool, the others attach to it: to its size, and to the targets that are in force. It lives in
    `/dev/shm` (see `mempool.shared.listing.folder`) until somebody calls `unlink`, though nobody uses it. What a killed
    process held is returned by whoever waits for it or attaches, by the next call of `reclaim` or `guarantee`, and by
    `mempool.upkeep`, which needs no call. A full file system is a MemoryError, and never a SIGBUS: no element is handed out
    before it has its memory.

    name: letters, digits, ".", "_", "-".
    size: bytes of an element, a number or words such as "1 MiB"; None: as the pool that is there has it.
    reserve, keep, limit: as for `Pool`, over all processes; limit=None: as many as there are slots.
    slots: how many elements there may ever be, whatever the limit is raised to: addresses, not memory. None: four times the
        limit, and never fewer than the reserve and `keep` want.
    clients: how many processes may use it at once. places: how many callers may wait.
    timeout, max_waiting, patience: as for `Pool`, for this process.
    track: "identity", or "holders": who of this process holds what.
    on_reclaim: called with how many killed processes this one has just cleaned up after: a number that knows which they were
        and what they had, see `Reclaimed`. From whichever thread found out: one of the pool's, which must not be kept
        waiting, or the caller's of `reclaim`, `guarantee`, or of this constructor. What it raises is logged.
    quarantine: if this process is killed, what it had is not handed out again until somebody has looked at it: for elements
        that a device may still write to, or that must not be seen by others. See `quarantined`. Each process says so for
        itself.
    folder: where its file lies; None: where `mempool ls` finds it.

    Needs the compiled core, on Linux on x86-64; ImportError elsewhere. Raises ValueError where the pool that is there has
    another size, MemoryError where the reserve cannot be had (and then none is made), PoolCorrupt for a broken file,
    PermissionError for another user's, LineFull where `clients` processes use it, PoolClosed where it was closed for all and
    others still use it.
    """

    __slots__ = ("_file",)

    def __init__(
        self,
        name: str,
        size: int | str | None = "1 MiB",
        reserve: int = 16,
        *,
        keep: int | None = None,
        limit: int | None = 64,
        slots: int | None = None,
        clients: int = 64,
        places: int = 256,
        timeout: float | None = None,
        max_waiting: int | None = None,
        patience: float | None = 10.0,
        track: str | None = None,
        on_reclaim: Callable[[Reclaimed], object] | None = None,
        quarantine: bool = False,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.name = name
        self._file = listing.path_of(name) if folder is None else Path(folder) / listing.path_of(name).name
        track = track or "identity"
        if track not in {"identity", "holders"}:
            raise ValueError(f'{self._called()}: track is "identity" or "holders", not {track!r}')
        waiting_max = None if max_waiting is None else self._count("max_waiting", max_waiting)
        number = None if size is None else parse_size(size)
        reserve = self._count("reserve", reserve)
        keep_given = None if keep is None else self._count("keep", keep)
        limit = None if limit is None else self._count("limit", limit)
        most = self._slots(reserve, keep_given, limit, slots)

        from mempool.shared.pool_engine import PoolEngine, in_use
        from mempool.shared.targets import check_targets

        keep_now = 2 * reserve if keep_given is None else keep_given
        check_targets(self._called(), most, reserve, keep_now, most if limit is None else limit)

        def create() -> SharedEngine:
            if number is None:
                raise FileNotFoundError(f"{self._called()}: there is no such pool, {self._file}; make it, with its size")
            return SharedEngine.found(
                self._file,
                Layout(most, places, clients, number),
                (reserve, keep_now, most if limit is None else min(limit, most)),
                follows=keep_given is None,
                quarantines=bool(quarantine),
            )

        from mempool.shared.engine import SharedEngine
        from mempool.shared.layout import Layout

        client, is_new = self._create_or_attach(create, quarantines=bool(quarantine))
        try:
            if number is not None and client.layout.size != number:
                has, wanted = compared(client.layout.size, number)
                raise ValueError(
                    f"{self._called()}: its elements have {has}, not {wanted}; attach with that size, or use another name"
                )
            passing.let_go_of_adopted(in_use.values())  # one descriptor or more each, of pools that nobody refers to
            engine = PoolEngine(client, TRACKERS[track](), waiting_max=waiting_max, on_reclaim=on_reclaim)
            self._prepare(engine)
            super().__init__(engine, timeout=timeout, patience=patience)
            quick = engine.quick()
            if quick is not None:
                self._decide_elsewhere(quick)
            if is_new:
                engine.fill_or_raise()
            else:
                engine.refill()  # who made it may have been killed before it had filled the reserve
            registry.register(self)
            killed.tell(on_reclaim, client.reaped, engine.called)
        except BaseException:
            if is_new:
                client.close()
                self._unlink(client)
            client.detach()
            self._engine = None  # nothing is left for its finalizer to close
            raise

    def _prepare(self, engine: PoolEngine) -> None:
        """Before anything is taken or made."""

    def _unserved(self, ticket: Any) -> Exception:
        if ticket.has_lost_its_place:
            return ClientGone(
                f"{self._called()}: this call has lost its place in the line: its process was forked meanwhile, or was "
                "taken for dead; call again"
            )
        return super()._unserved(ticket)

    def _slots(self, reserve: int, keep: int | None, limit: int | None, slots: int | None) -> int:
        if slots is not None:
            return self._count("slots", slots)
        wanted = max(reserve, keep or 0, 1)
        return max(SLOTS_FOR_LIMIT * (wanted if limit is None else limit), wanted)

    def _create_or_attach(self, create: Callable[[], SharedEngine], *, quarantines: bool) -> tuple[SharedEngine, bool]:
        """This process' share, and whether the pool is new."""
        from mempool.shared.engine import SharedEngine
        from mempool.shared.file import told_if_full
        from mempool.shared.layout import PAGE

        if self._file.parent == listing.folder():
            with told_if_full(self._file, PAGE):
                self._file.parent.mkdir(mode=0o700, exist_ok=True)
        for _ in range(ATTEMPTS):
            try:
                # First without joining: of two that join what was closed, each would take the other for one who uses it.
                if not self._is_over():
                    client = SharedEngine.attach(self._file, quarantines=quarantines)
                    if not client.snapshot().closed:
                        return client, False
                    client.detach()
            except FileNotFoundError:
                try:
                    return create(), True
                except FileExistsError:
                    pass  # another process was faster
        raise FileExistsError(f"{self._called()}: {self._file} is made and removed again all the time; find out by whom")

    def _is_over(self) -> bool:
        """Whether the pool was closed for all, and nobody is left: then its name is free by now. Raises PoolClosed."""
        from mempool.shared.engine import SharedEngine

        client = SharedEngine.observe(self._file, makes_anew=True)
        try:
            if not client.snapshot().closed:
                return False
            users = client.living()
            if users:
                raise PoolClosed(
                    f"{self._called()} was closed for all, and {users} process{'es' * (users > 1)} still "
                    f"use{'s' * (users == 1)} it; wait until they have ended, or use another name"
                )
            self._unlink(client)
            return True
        finally:
            client.detach()

    @classmethod
    def attach(cls, name: str, **options: Any) -> Self:
        """The pool of this name, which another process has made. options: those that are for this process alone.

        Raises FileNotFoundError where there is none, and what the constructor raises.
        """
        return cls(name, None, 0, **options)

    def __reduce__(self) -> Any:
        """A SharedPool travels by its name: where it arrives, it is attached to."""
        return _attach, (type(self), self.name, str(self._file.parent))

    # -- passing on

    def offer(self, element: Buffer, to: int | None = None) -> Token:
        """Pass a buffer on to another process: it is dead here, and whoever adopts the token has its memory, uncopied.

            connection.send(pool.offer(buf))              # here
            with pool.adopting(connection.recv()) as buf: # there
                ...

        Send the token through any pipe, queue or socket. to: None: anybody may adopt it, and until then it is this
        process': if this one ends, it is reclaimed, and `recall` takes it back. Or the process id of one that has attached
        (in this pid namespace): nobody else can adopt it, and it is that one's from this step on, so that this one may end.

        An element that is offered is out. Raises what `free` raises: BufferError while it is viewed, DoubleFree,
        ForeignElement; ProcessLookupError where no process `to` uses the pool, ValueError where it has attached twice.
        """
        return passing.offer(self._engine, element, to)

    def adopt(self, token: Token) -> Buffer:
        """Take over what another process has offered: its buffer is this process' now, as if it had taken it. Never waits.

        Once: raises StaleToken where somebody has adopted it before, or it was recalled; where the process that owned it has
        ended, so that it was reclaimed; where it is addressed to another process; and where it is of another pool.
        PoolClosed where this process has closed the pool. (After `close_for_all`, what was offered can still be adopted.)
        """
        ticket = self._engine.ticket(1)
        try:
            passing.adopt(self._engine, ticket, token)
            buffer: Buffer = ticket.elements[0]
            return buffer
        except BaseException:
            self._engine.cancel(ticket)
            raise

    @contextlib.contextmanager
    def adopting(self, token: Token) -> Iterator[Buffer]:
        """`adopt` for `with`: at the end the buffer is freed, unless it was freed or passed on inside. Raises as `adopt`."""
        buffer = self.adopt(token)
        try:
            yield buffer
        finally:
            if buffer.is_alive():
                self.free(buffer)

    def recall(self, token: Token) -> Buffer:
        """Take back what this process has offered, addressed or not, if nobody has adopted it yet.

        Raises StaleToken where somebody has, or its receiver has ended, or another process has offered it; and as `adopt`.
        """
        ticket = self._engine.ticket(1)
        try:
            passing.adopt(self._engine, ticket, token, recalls=True)
            buffer: Buffer = ticket.elements[0]
            return buffer
        except BaseException:
            self._engine.cancel(ticket)
            raise

    def pending(self) -> list[Token]:
        """The tokens of what this process has offered and nobody has adopted yet; also of those that it has lost."""
        return passing.pending(self._engine)

    def addressed(self) -> list[Token]:
        """The tokens of what others have addressed to this process and it has not adopted yet.

        Also where the sender was killed after it had offered it, and before it had sent the token: so nothing stays behind.
        """
        return passing.addressed(self._engine)

    def quarantined(self) -> list[Token]:
        """The tokens of what killed processes had that had asked for `quarantine`. Nobody gets it before it was adopted.

            for token in pool.quarantined():
                with pool.adopting(token) as buf:   # its bytes are as the killed process left them
                    ...                             # wait until the device is done; overwrite it; or pool.discard(buf)

        Any process may adopt one, once; then it is that one's, and goes back with `free`, or to the system with `discard`.
        Until then it is out. Who ends without being killed returns what it has, and nothing of it is set aside.
        """
        return passing.quarantined(self._engine)

    @classmethod
    def of(cls, token: Token) -> SharedPool:
        """The pool of a token, in this process: one that is here, or else it is attached to now, once a process.

        For code that gets nothing but the token, such as a task of an executor. Raises StaleToken where that pool was
        removed, or made anew; and what the constructor raises.
        """
        with _attaching.lock:
            return cls._of(token)

    @classmethod
    def _of(cls, token: Token) -> SharedPool:
        pool: SharedPool
        for pool in [pool for pool in registry.pools() if isinstance(pool, SharedPool)]:
            if pool._engine.client.nonce == token.nonce and not pool._engine.is_closed_here():
                return pool
        path = Path(token.path)
        try:
            pool = cls.attach(path.name, folder=path.parent)
        except FileNotFoundError:
            raise StaleToken(f"there is no shared pool {path} any more, of which this token is; have it sent anew") from None
        if pool._engine.client.nonce != token.nonce:
            pool.close()
            raise StaleToken(f"the shared pool {path} was made anew since this token was; have it sent anew")
        _attached[token.nonce] = pool
        return pool

    # -- the end

    def close(self) -> int:
        """This process takes no more from the pool; its callers in the line get PoolClosed. The pool goes on for the others.

        Elements that this process has out are good until they are freed, and what it has offered may be adopted as long as
        it lives. May be called again. Returns how many those are: see `pending` for the latter.
        """
        self._engine.close_here()
        return int(self._engine.out_here())

    def close_for_all(self) -> int:
        """Nobody takes any more, in any process: every caller in the line gets PoolClosed, and spares go back to the system.

        What is out goes there when it is freed. Returns how many are out, over all processes.
        """
        self._engine.close()
        return int(self._engine.snapshot().out)

    def unlink(self) -> None:
        """Take the name away: the next one to use it makes a new pool.

        Who uses this one goes on; its memory goes with the last of them. Does nothing where the name is another pool's now.
        Raises TimeoutError where another process that takes it away was stopped in the midst of that.
        """
        self._unlink(self._engine.client)

    @staticmethod
    def _unlink(client: SharedEngine) -> None:
        client.unlink()

    def reclaim(self) -> Reclaimed:
        """Return what killed processes held. Returns how many those were, and what. Whoever waits does so by himself."""
        reclaimed: Reclaimed = self._engine.reclaim()
        return reclaimed

    def verify(self) -> list[str]:
        """Whether the shared words agree with each other: what does not, in words; [] is as it should be.

        Raises PoolCorrupt where they cannot be read, TimeoutError where others leave no quiet moment.
        """
        return list(self._engine.client.verify())

    # A fleet's nodes share a pool, and order its resizes by a lock of their own: it is held for the moment alone.

    def _retarget(self, reserve: int, keep: int, limit: int | None) -> bool:
        return bool(self._engine.retarget(reserve, keep, limit))

    def _settle(self, grew: bool) -> None:
        self._engine.settle(grew)

    def _fit_array(self, dtype: Any, shape: Any) -> None:
        fit(self._called(), self._engine.client.layout.size, dtype, shape)


#: What `of` has attached to, and keeps.
_attached: dict[bytes, SharedPool] = {}


class _Attaching:
    """The lock held meanwhile, so that two threads do not attach twice. A finalizer may come back."""

    __slots__ = ("lock",)  # where eventlet does not look: native.RLock

    def __init__(self) -> None:
        self.lock = native.RLock()


_attaching = _Attaching()
# In a child another thread of the parent may have it.
os.register_at_fork(after_in_child=_attaching.__init__)  # type: ignore[misc]


def _attach(kind: type[SharedPool], name: str, folder: str) -> SharedPool:
    return kind.attach(name, folder=folder)


adopt(SharedPool)
