"""`pool.map(function, items)`: worker threads, each call with an element of its own, results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_workers(
    pool: Any,
    function: Callable[[T, Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    timeout: float | None | Literal["default"],
    linger: bool,
) -> Iterator[Result]:
    """See `Pool.map`, whose arguments these are."""

    def call(item: Item) -> Result:
        with pool.lease(timeout=timeout, linger=linger) as element:
            return function(element, item)

    def ahead() -> int:
        """How many calls may be under way, or done and not yet asked for."""
        # Results that keep their elements: where memory is out there are no others than the reserve, and the consumer has
        # one result in its hands while it asks for the next. One more ahead, and a call could wait for what only a later
        # result would give back. `test_results_that_look_at_their_elements_do_not_use_up_the_reserve`
        return min(2 * workers, max(1, pool.reserve - 1)) if linger else 2 * workers  # one at work and one ahead, each

    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, f"{pool.name}-map") as executor:
        try:
            for item in items:
                while len(pending) >= ahead():
                    yield pending.popleft().result()
                pending.append(executor.submit(call, item))
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
