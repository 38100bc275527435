"""`pool.map(function, items)`: worker threads, each call with an element of its own, results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import EllipsisType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from mempool.pool import Pool

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_workers(
    pool: Pool[T],
    function: Callable[[T, Item], Result],
    items: Iterable[Item],
    workers: int,
    timeout: float | None | EllipsisType,
) -> Iterator[Result]:
    """See `Pool.map`, whose arguments these are."""

    def call(item: Item) -> Result:
        with pool.lease(timeout=timeout) as element:
            return function(element, item)

    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, f"{pool.name}-map") as executor:
        try:
            for item in items:
                if len(pending) >= 2 * workers:  # one at work and one ahead, each
                    yield pending.popleft().result()
                pending.append(executor.submit(call, item))
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
