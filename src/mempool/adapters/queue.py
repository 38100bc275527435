"""PoolQueue: a bounded last-in-first-out queue whose waiting callers are served in the order in which they came."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterable
from typing import Any, Generic, TypeVar, cast

from mempool import Lease
from mempool.errors import PoolTimeout
from mempool.pool import Pool
from mempool.sources.objects import Objects

T = TypeVar("T")


class Box(Generic[T]):
    """A place of the queue: empty, or with an item in it."""

    __slots__ = ("is_full", "item")

    def __init__(self) -> None:
        self.is_full: bool = False
        self.item: T | None = None


class PoolQueue(Generic[T]):
    """The interface of `queue.LifoQueue`, with a fair line: who waits longest is served first.

    maxsize: how many items the queue holds at most, at least 1. (A queue without a bound makes nobody wait to put; take
        `queue.LifoQueue` for that.)

    For urllib3: `HTTPConnectionPool.QueueCls = PoolQueue`. For redis-py: `BlockingConnectionPool(queue_class=PoolQueue)`.
    Raises `queue.Empty` and `queue.Full` as `queue.LifoQueue` does.

    Each place of the queue is a box, and a box is a spare of exactly one of two pools: of the empty ones or of the full
    ones. To put takes an empty box and frees it, filled, to the full ones; to get is the reverse.
    """

    #: The module whose Empty and Full are raised. It is asked when they are: some programs patch `queue`.
    _errors: Any = queue

    def __init__(self, maxsize: int) -> None:
        if maxsize < 1:
            raise ValueError(f"PoolQueue: maxsize is at least 1, not {maxsize}; without a bound, take queue.LifoQueue")
        self.maxsize: int = maxsize
        """How many items the queue holds at most."""
        boxes: list[Box[T]] = [Box() for _ in range(maxsize)]
        self._boxes = tuple(boxes)
        self._empty = _pool_of(list(boxes), "empty boxes of a PoolQueue")
        self._full = _pool_of(boxes, "full boxes of a PoolQueue")
        self._full.alloc_many(maxsize)  # all boxes begin as empty ones

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item in. block: wait while the queue is full, at most `timeout` seconds (None: for ever).

        Raises Full where there is no room in time; ValueError where the timeout is negative.
        """
        try:
            lease = self._lease(self._empty, block, timeout)
            with lease as box:
                try:
                    box.item, box.is_full = item, True
                    lease._end_in(self._full)
                except BaseException:  # an interrupt: the box is still this call's
                    box.item, box.is_full = None, False
                    lease._end_in(self._empty)
                    raise
        except PoolTimeout:
            raise self._errors.Full from None

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take out the item that was put in last. block: wait for one, at most `timeout` seconds (None: for ever).

        Raises Empty where none came in time; ValueError where the timeout is negative.
        """
        try:
            lease = self._lease(self._full, block, timeout)
            with lease as box:
                return self._emptied(lease, box)
        except PoolTimeout:
            raise self._errors.Empty from None

    def put_nowait(self, item: T) -> None:
        """`put` without waiting."""
        self.put(item, block=False)

    def get_nowait(self) -> T:
        """`get` without waiting."""
        return self.get(block=False)

    def qsize(self) -> int:
        """How many items are in the queue now."""
        return self._full.spare

    def empty(self) -> bool:
        """Whether there is no item now."""
        return self._full.spare == 0

    def full(self) -> bool:
        """Whether there is no room now."""
        return self._empty.spare == 0

    @property
    def queue(self) -> list[T]:
        """The items in the queue now, in no particular order. May be set, as that of `queue.LifoQueue`: it replaces them."""
        return [cast("T", box.item) for box in self._boxes if box.is_full]

    @queue.setter
    def queue(self, items: Iterable[T]) -> None:
        items = list(items)
        with contextlib.suppress(self._errors.Empty):
            while True:
                self.get_nowait()
        for item in items:
            self.put_nowait(item)

    def __repr__(self) -> str:
        return f"<PoolQueue of {self.maxsize}: {self.qsize()} items, {self._full.waiting} waiting>"

    # A box is in a lease while it is in neither pool, so that an interrupt between any two steps leaves it in one of them.
    # Taken by `alloc`, it was in none for good, and after so many interrupts as there are boxes everybody waited for ever.
    # test_an_interrupt_at_any_step_loses_no_place

    @staticmethod
    def _lease(pool: Pool[Box[T]], block: bool, timeout: float | None) -> Lease[Box[T]]:
        if not block:
            if pool.spare == 0:  # else the pool counts a wait, and one in vain, where nobody has waited
                raise PoolTimeout("PoolQueue: none now")
            return pool.lease(timeout=0)
        if timeout is not None and timeout < 0:
            raise ValueError("'timeout' must be a non-negative number")
        return pool.lease(timeout=timeout)

    def _emptied(self, lease: Lease[Box[T]], box: Box[T]) -> T:
        """What is in a box of the full ones, which is an empty one at the end of its lease."""
        item = cast("T", box.item)
        try:
            box.item, box.is_full = None, False
            lease._end_in(self._empty)
        except BaseException:  # as in `put`
            box.item, box.is_full = item, True
            lease._end_in(self._full)
            raise
        return item


def _pool_of(boxes: list[Box[T]], name: str) -> Pool[Box[T]]:
    """A pool of these boxes: never more, never fewer. It does not track them, because they change pools."""
    count = len(boxes)
    return Pool(Objects(boxes.pop), count, keep=count, limit=count, name=name, track="nothing", patience=None)
