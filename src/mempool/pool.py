"""Pool: the pool of one process, and its options."""

from __future__ import annotations

import itertools
import os
import sys
from typing import Any, TypeVar

from mempool import registry
from mempool._core.base_decisions import renew_locks
from mempool.base_pool import BasePool
from mempool.buffer import fit
from mempool.lease import adopt
from mempool.local.engine import LocalEngine
from mempool.sources import Buffers, protocol
from mempool.sources.adaptors import Adaptor
from mempool.sources.source import Source
from mempool.tracking import TRACKERS

T = TypeVar("T")
_numbers = itertools.count(1)


class Pool(BasePool[T]):
    """A reserve of elements that can always be had, even when making new ones fails.

    source: where elements come from (the factory), an object with `alloc()` and `free(element)`.
    reserve: how many elements the pool promises (the minimum size). They are made before the constructor returns.
    keep: how many spares stay warm (max idle), at least `reserve`; None: always twice the reserve.
    limit: how many elements may exist at once (max size); None: as many as the source makes.
    name: for messages and statistics; None: a number.
    timeout: what a call waits at most when it does not say; seconds, None: for ever.
    max_waiting: how many callers may stand in the line (the wait queue); one more raises LineFull; None: any number.
    track: "identity": a double or a foreign free raises; "nothing": not looked at; "holders": also who holds what since
        when, and deadlocks raise, see `holders()`; None: what the environment variable MEMPOOL_TRACK says, else
        "identity".
    patience: seconds after which a wait is logged, once; None: never.
    offload: when a task needs an element (`alloc_async`, `alloc_many_async`, `async with pool.lease()`), a thread asks the
        source, and the event loop goes on; for a source that takes long. The timeout then bounds its time, too. A thread
        also makes the check (the wipe of `zero="alloc"`, the look of `poison`), whose task waits however long it takes.
        Likewise a thread resets what `free`, `free_many`, leases and cancelled tasks return where an event loop runs (the
        wipe of `zero="free"` and `poison`): until then it is out, and after it serves the line or becomes a spare. A thread
        disposes of the surplus, too, and makes what `discard` and `write_off` make anew. What the source raises there is
        logged. `close` disposes of the spares before it returns; `async with pool` leaves that to a thread, too, and ends
        when all of it is done.

    Raises MemoryError when the source cannot make the reserve: before it makes anything, where it can say so; else what it
    made is disposed of. TypeError for a source that does not fit. Kernel: mempool_create.
    """

    __slots__ = ()

    #: Elements made or disposed of in one batch. Between two batches other threads' calls get their turn.
    _batch_max: int = 64
    #: Whether a source that has failed is left alone for a while.
    _rests: bool = True

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
        if track not in TRACKERS:
            raise ValueError(f'{self._called()}: track is "identity", "nothing" or "holders", not {track!r}')
        engine = LocalEngine(
            self.name,
            source,
            TRACKERS[track](),
            waiting_max=sys.maxsize if max_waiting is None else self._count("max_waiting", max_waiting),
            batch_max=self._batch_max,
            rests=self._rests,
            offload=bool(offload),
        )
        super().__init__(engine, timeout=timeout, patience=patience, offload=offload)
        self._decide_quickly(engine.core)
        engine.begin(
            self._count("reserve", reserve),
            None if keep is None else self._count("keep", keep),
            None if limit is None else self._count("limit", limit),
        )
        try:
            registry.register(self)
        except BaseException:
            self.close()
            raise

    def _fit_array(self, dtype: Any, shape: Any) -> None:
        source: Any = self._engine.supply.source
        while isinstance(source, Adaptor):
            source = source.source
        if isinstance(source, Buffers):
            fit(self._called(), source.size, dtype, shape)


adopt(Pool)


def _after_fork_in_child() -> None:
    """All threads that use a pool look for its engine, and without the GIL CPython locks the pool for that."""
    renew_locks(*registry.tables())
    renew_locks(*registry.pools())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
