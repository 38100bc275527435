"""Several processes fill one reserve: each makes what the others are not making, and goes on where one was killed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import Child, Parent, child

from mempool import Buffer
from mempool.shared import repair
from mempool.shared.engine import SharedEngine
from mempool.shared.pool import SharedPool
from mempool.shared.ticket import Ticket
from mempool.testing import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


class Slow:
    """Memory whose maker waits until it is told to go on."""

    def __init__(self, tx: Any, parent: Any) -> None:
        self.tx, self.parent = tx, parent

    def make(self, slot: int) -> bool:
        self.parent.tell(slot)
        self.parent.wait()
        return bool(self.tx.populate_here(slot))

    def drop(self, slot: int) -> None:
        self.tx.punch_here(slot)


def make(path: Path, limit: int = 8) -> SharedPool:
    return SharedPool("frames", 4096, 0, keep=limit, limit=limit, folder=path.parent)


def fill_slowly(path: Path) -> Callable[[Parent], None]:
    """A child that promises one, and is in the middle of making it."""

    def run(parent: Parent) -> None:
        pool = SharedPool.attach("frames", folder=path.parent)
        tx = pool._engine._tx
        tx.memory = Slow(tx, parent)
        pool.resize(1)

    return run


def test_two_processes_make_no_more_than_is_promised(pool_path: Path) -> None:
    """What another process is making is neither out nor unfunded, and is not made once more."""
    pool = make(pool_path)
    with child(fill_slowly(pool_path)) as other:
        other.hear()
        guarantee = pool.resize(3)
        assert (guarantee.spare, guarantee.filling, guarantee.owed, guarantee.unfunded) == (2, 1, 0, 0)
        assert (pool.out, pool.verify()) == (0, [])
        other.go()
        assert other.end() == 0
    stats = pool.stats()
    assert (stats.spare, stats.made) == (3, 3)
    assert pool.guarantee().held


def test_who_reaps_goes_on_with_what_a_killed_process_was_making(pool_path: Path) -> None:
    """Nobody else makes it: those who came meanwhile have left it to that one."""
    pool = make(pool_path)
    with child(fill_slowly(pool_path)) as other:
        other.hear()
        pool.resize(3)
        other.end(signal.SIGKILL)
    assert pool.reclaim() == 1
    assert (pool.stats().spare, pool.out, pool.guarantee().held, pool.verify()) == (3, 0, True, [])


def test_who_takes_the_place_of_a_killed_one_goes_on_with_what_that_was_making(pool_path: Path) -> None:
    """The same by one that attaches: `mempool reap` does."""
    make(pool_path).close()
    with child(fill_slowly(pool_path)) as other:
        other.hear()
        other.end(signal.SIGKILL)
    file = pool_path.with_name("frames")
    assert repair.reap(file) == 1
    engine = SharedEngine.observe(file)
    now = engine.snapshot()
    assert (now.reserve, now.spare, now.made, now.filling, engine.verify()) == (1, 1, 1, 0, [])
    engine.detach()


def test_a_child_that_was_forked_in_the_middle_of_a_fill_is_in_the_middle_of_none(pool_path: Path) -> None:
    """Else it would tell for ever that what the reserve lacks is being made, and nobody makes it."""
    pool = make(pool_path)
    tx = pool._engine._tx

    def look(parent: Parent) -> None:
        parent.wait()
        guarantee = pool.guarantee()
        parent.tell(10 * guarantee.filling + guarantee.unfunded)

    with ExitStack() as children:
        others: list[Child] = []

        class Forking(Slow):
            def make(self, slot: int) -> bool:
                others.append(children.enter_context(child(look)))
                return False

        tx.memory = Forking(tx, None)
        pool.resize(1)
        tx.memory = None
        assert (pool.guarantee().filling, pool.guarantee().unfunded) == (0, 1)
        others[0].go()
        assert (others[0].hear(), others[0].end()) == (1, 0)


def test_what_one_gives_back_to_the_system_is_neither_spare_nor_out(pool_path: Path) -> None:
    pool = make(pool_path)
    pool.resize(keep=1)
    held = pool.alloc_many(4)
    tx, seen = pool._engine._tx, []

    class Looking(Slow):
        def drop(self, slot: int) -> None:
            stats = pool.stats()
            seen.append((stats.spare, stats.out, stats.disposing))
            super().drop(slot)

    tx.memory = Looking(tx, None)
    pool.free(held.pop())
    pool.free(held.pop())
    assert seen == [(1, 2, 1)]
    pool.free_many(held)
    assert seen == [(1, 2, 1), (1, 1, 1), (1, 0, 1)]


def test_what_another_process_is_making_keeps_nobody_in_line_waiting(pool_path: Path) -> None:
    """It may be stopped in the middle: for the line each makes its own, as far as the limit allows."""
    pool = make(pool_path, limit=2)
    held = pool.alloc()
    with child(fill_slowly(pool_path)) as other:
        other.hear()
        served: list[Buffer] = []
        waiter = threading.Thread(target=lambda: served.append(pool.alloc(timeout=30)))
        waiter.start()
        wait_until(lambda: pool.waiting == 1)
        pool.resize(limit=3)
        waiter.join(40)
        assert len(served) == 1
        other.go()
        assert other.end() == 0
    pool.free_many([held, *served])
    assert pool.verify() == []


def test_a_resize_while_another_caller_lines_up(pool_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The callers of this process are looked at one by one; who comes or goes meanwhile disturbs nobody."""
    pool = make(pool_path, limit=1)
    held = pool.alloc()
    served: list[Buffer] = []
    waiter = threading.Thread(target=lambda: served.append(pool.alloc(timeout=30)))
    waiter.start()
    wait_until(lambda: pool.waiting == 1)
    waiting = pool._engine._waiting
    newcomer = pool._engine.ticket(1)

    def come(_ticket: Ticket) -> bool:
        waiting[newcomer] = None
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Ticket, "is_first", come)
        pool.resize(limit=2)
    waiter.join(40)
    assert newcomer in waiting
    del waiting[newcomer]
    assert len(served) == 1
    pool.free_many([held, *served])
    assert (pool.out, pool.verify()) == (0, [])
