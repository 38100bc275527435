"""Tasks whose loop was closed while they stood in the line: what they were served with goes on to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from callers import SOON, Caller

from mempool import Objects, Pool
from mempool.local import returning
from mempool.testing import wait_until_async


@pytest.fixture
def lost_task() -> Iterator[Callable[..., None]]:
    """Makes a task that stands in the line of a loop that is closed, for `n` elements."""
    tasks: list[Any] = []

    def lose(pool: Pool[Any], n: int = 1) -> None:
        loop = asyncio.new_event_loop()

        async def main() -> None:
            before = pool.stats().waiting
            tasks.append(asyncio.ensure_future(pool.alloc_many_async(n)))
            await wait_until_async(lambda: pool.stats().waiting > before)

        loop.run_until_complete(main())
        loop.close()
        tasks[-1]._log_destroy_pending = False

    yield lose
    for task in tasks:
        task.get_coro().close()  # here, and not in the midst of another test


def test_lost_tasks_are_seen_to_although_one_interrupt_struck(
    lost_task: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever saw to them held a lock, and the interrupt came between the lock and the `try`."""
    pool: Pool[Any] = Pool(Objects(bytearray), 1, limit=1, patience=None)
    element = pool.alloc()
    lost_task(pool)
    move = returning.move

    def move_and_interrupt(*what: Any) -> None:
        move(*what)
        monkeypatch.setattr(returning, "move", move)
        raise KeyboardInterrupt

    monkeypatch.setattr(returning, "move", move_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.free(element)
    assert pool.try_alloc() is not None


def test_what_one_lost_task_had_goes_past_two_more(lost_task: Callable[..., None]) -> None:
    """Each is served and found lost while the one before it is seen to."""
    pool: Pool[Any] = Pool(Objects(bytearray), 2, limit=2, patience=None)
    held = pool.alloc_many(2)
    lost_task(pool, 2)
    lost_task(pool)
    lost_task(pool)
    pool.free_many(held)
    assert len(pool.alloc_many(2, timeout=0)) == 2


def test_of_what_lost_tasks_had_all_is_disposed_of_and_the_first_error_raised(lost_task: Callable[..., None]) -> None:
    class Broken(Objects[Any]):
        freed = 0

        def free(self, element: Any, /) -> None:
            self.freed += 1
            raise OSError(f"broken {self.freed}")

    pool: Pool[Any] = Pool(Broken(bytearray), 0, keep=0, limit=2, patience=None)
    held = pool.alloc_many(2)
    lost_task(pool, 2)
    lost_task(pool)
    lost_task(pool)
    with pytest.raises(OSError, match="broken 1"):
        pool.free_many(held)
    assert (pool.stats().out, pool.stats().disposed) == (0, 2)


def test_who_is_served_behind_two_lost_tasks_is_woken_though_the_source_breaks(lost_task: Callable[..., None]) -> None:
    class Broken(Objects[Any]):
        def free(self, element: Any, /) -> None:
            raise OSError("broken")

    pool: Pool[Any] = Pool(Broken(bytearray), 0, keep=0, limit=3, patience=None)
    held = pool.alloc_many(3)
    lost_task(pool)
    lost_task(pool)
    anna = Caller("Anna")
    waiting = anna.waits(pool)
    with pytest.raises(OSError, match="broken"):
        pool.free_many(held)
    assert waiting.result(SOON) is not None
    anna.ends()
