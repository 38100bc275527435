"""SharedPool: a pool of memory that several processes share, behind the face of every pool."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mempool import registry
from mempool.base_pool import BasePool
from mempool.buffer import Buffer, fit
from mempool.errors import PoolClosed
from mempool.lease import adopt
from mempool.shared import listing
from mempool.sources.sizes import parse_size
from mempool.tracking import TRACKERS

if TYPE_CHECKING:
    from mempool.shared.engine import SharedEngine
    from mempool.shared.pool_engine import PoolEngine

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
    process held is returned by whoever waits for it, or by the next call of `reclaim`. A full file system is a MemoryError,
    and never a SIGBUS: no element is handed out before it has its memory.

    name: letters, digits, ".", "_", "-".
    size: bytes of an element, a number or words such as "1 MiB"; None: as the pool that is there has it.
    reserve, keep, limit: as for `Pool`, over all processes; limit=None: as many as there are slots.
    slots: how many elements there may ever be, whatever the limit is raised to: addresses, not memory. None: four times the
        limit, and never fewer than the reserve and `keep` want.
    clients: how many processes may use it at once. places: how many callers may wait.
    timeout, max_waiting, patience: as for `Pool`, for this process.
    track: "identity", or "holders": who of this process holds what.
    on_reclaim: called, from a thread of the pool, with how many killed processes this one has just cleaned up after.
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
        on_reclaim: Callable[[int], object] | None = None,
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

        from mempool.shared.pool_engine import PoolEngine, check_targets

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
            )

        from mempool.shared.engine import SharedEngine
        from mempool.shared.file import Layout

        client, is_new = self._create_or_attach(create)
        try:
            if number is not None and client.layout.size != number:
                raise ValueError(
                    f"{self._called()}: its elements have {client.layout.size:,} bytes, not {number:,}; attach with that "
                    "size, or use another name"
                )
            engine = PoolEngine(client, TRACKERS[track](), waiting_max=waiting_max, on_reclaim=on_reclaim)
            self._prepare(engine)
            super().__init__(engine, timeout=timeout, patience=patience)
            if is_new:
                engine.fill_or_raise()
            else:
                engine.refill()  # who made it may have been killed before it had filled the reserve
            registry.register(self)
        except BaseException:
            if is_new:
                client.close()
                self._unlink(client)
            client.detach()
            self._engine = None  # nothing is left for its finalizer to close
            raise

    def _prepare(self, engine: PoolEngine) -> None:
        """Before anything is taken or made."""

    def _slots(self, reserve: int, keep: int | None, limit: int | None, slots: int | None) -> int:
        if slots is not None:
            return self._count("slots", slots)
        wanted = max(reserve, keep or 0, 1)
        return max(SLOTS_FOR_LIMIT * (wanted if limit is None else limit), wanted)

    def _create_or_attach(self, create: Callable[[], SharedEngine]) -> tuple[SharedEngine, bool]:
        """This process' share, and whether the pool is new."""
        from mempool.shared.engine import SharedEngine

        if self._file.parent == listing.folder():
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
        for _ in range(ATTEMPTS):
            try:
                client = SharedEngine.attach(self._file)
            except FileNotFoundError:
                try:
                    return create(), True
                except FileExistsError:
                    continue  # another process was faster
            if not client.snapshot().closed:
                return client, False
            users = len(client.clients()) - 1
            if users == 0:
                self._unlink(client)  # it was closed for all, and nobody is left: the name is free
            client.detach()
            if users > 0:
                raise PoolClosed(
                    f"{self._called()} was closed for all, and {users} process{'es' * (users > 1)} still use it; wait until "
                    "they have ended, or use another name"
                )
        raise FileExistsError(f"{self._called()}: {self._file} is made and removed again all the time; find out by whom")

    @classmethod
    def attach(cls, name: str, **options: Any) -> Self:
        """The pool of this name, which another process has made. options: those that are for this process alone.

        Raises FileNotFoundError where there is none, and what the constructor raises.
        """
        return cls(name, None, 0, **options)

    def __reduce__(self) -> Any:
        """A SharedPool travels by its name: where it arrives, it is attached to."""
        return _attach, (type(self), self.name, str(self._file.parent))

    # -- the end

    def close(self) -> int:
        """This process takes no more from the pool; its callers in the line get PoolClosed. The pool goes on for the others.

        Elements that this process has out are good until they are freed. May be called again. Returns how many those are.
        """
        self._engine.close_here()
        return len(self._engine._out)

    def close_for_all(self) -> int:
        """Nobody takes any more, in any process: every caller in the line gets PoolClosed, and spares go back to the system.

        What is out goes there when it is freed. Returns how many are out, over all processes.
        """
        self._engine.close()
        return int(self._engine.snapshot().out)

    def unlink(self) -> None:
        """Take the name away: the next one to use it makes a new pool.

        Who uses this one goes on; its memory goes with the last of them. Does nothing where the name is another pool's now.
        """
        self._unlink(self._engine.client)

    @staticmethod
    def _unlink(client: SharedEngine) -> None:
        client.unlink()

    def reclaim(self) -> int:
        """Return what killed processes held. Returns how many those were. Whoever waits does so by himself."""
        return int(self._engine.reclaim())

    def verify(self) -> list[str]:
        """Whether the shared words agree with each other: what does not, in words; [] is as it should be.

        Raises PoolCorrupt where they cannot be read, TimeoutError where others leave no quiet moment.
        """
        return list(self._engine.client.verify())

    def _fit_array(self, dtype: Any, shape: Any) -> None:
        fit(self._called(), self._engine.client.layout.size, dtype, shape)


def _attach(kind: type[SharedPool], name: str, folder: str) -> SharedPool:
    return kind.attach(name, folder=folder)


adopt(SharedPool)
