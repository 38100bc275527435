"""Connection pools for SQLAlchemy (2.0 and newer): its QueuePool with a fair line.

    engine = sqlalchemy.create_engine(url, poolclass=MempoolPool, pool_size=5, max_overflow=0)
    engine = sqlalchemy.ext.asyncio.create_async_engine(url, poolclass=AsyncMempoolPool)

All options of QueuePool mean what they mean there. Connections are used last in, first out, so that few are kept warm;
callers that wait are served first come, first served. With `pool_size=0` (no limit) nobody waits, and the queue is
SQLAlchemy's own.
"""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool
from sqlalchemy.util import queue as sqlalchemy_queue

from mempool.adapters.queue import PoolQueue
from mempool.errors import PoolTimeout

try:
    from sqlalchemy.util import await_only
except ImportError:  # renamed in 2.1
    from sqlalchemy.util import await_ as await_only

T = TypeVar("T")


class _Queue(PoolQueue[T]):
    """A PoolQueue with SQLAlchemy's own errors and its second argument."""

    _errors = sqlalchemy_queue
    use_lifo = True

    def __init__(self, maxsize: int = 0, use_lifo: bool = True) -> None:
        super().__init__(maxsize)


class _AsyncQueue(_Queue[T]):
    """The same where a wait is one of a task."""

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        try:
            return super().get(False)
        except self._errors.Empty:
            if not block:
                raise
        lease = self._full.lease(timeout=timeout)
        try:
            await_only(self._full._hold_async(lease))
        except PoolTimeout:
            raise self._errors.Empty from None
        try:
            return self._emptied(lease, lease.element)
        finally:
            lease.release()


def _queue_of(fair: type[_Queue[Any]], unbounded: type[Any]) -> Any:
    """What makes the queue of a pool: a fair one, or SQLAlchemy's where there is no bound."""

    def make(maxsize: int = 0, use_lifo: bool = True) -> Any:
        return fair(maxsize, use_lifo) if maxsize > 0 else unbounded(maxsize, use_lifo)

    return staticmethod(make)


class MempoolPool(QueuePool):
    """SQLAlchemy's QueuePool whose waiting threads are served first come, first served. `poolclass=MempoolPool`."""

    _queue_class = _queue_of(_Queue, sqlalchemy_queue.Queue)


class AsyncMempoolPool(AsyncAdaptedQueuePool):
    """The same for `create_async_engine`: waiting tasks are served first come, first served."""

    _queue_class = _queue_of(_AsyncQueue, sqlalchemy_queue.AsyncAdaptedQueue)
