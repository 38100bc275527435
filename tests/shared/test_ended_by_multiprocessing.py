"""A process of multiprocessing that ends by itself was not killed, though it ends by `os._exit`."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool import lifecycle
from mempool.errors import PoolClosed
from mempool.shared.pool import SharedPool
from mempool.testing import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def make(path: Path, **options: Any) -> SharedPool:
    return SharedPool(path.name, size=4096, reserve=2, limit=4, folder=path.parent, quarantine=True, **options)


def keep_one(pool: SharedPool) -> None:
    _kept.append(pool)
    _kept.append(pool.alloc(timeout=20))


_kept: list[Any] = []


def keep_one_in_a_thread(pool: SharedPool) -> None:
    keep_one(pool)
    threading.Thread(target=threading.Event().wait, daemon=True).start()


@pytest.mark.parametrize("kind", ["fork", "forkserver", "spawn"])
def test_it_returns_what_it_has(pool_path: Path, kind: str) -> None:
    """It was taken for killed: `on_reclaim` was told so, and what it had was set aside, or out until somebody looked."""
    told: list[object] = []
    pool = make(pool_path, on_reclaim=told.append)
    process = multiprocessing.get_context(kind).Process(target=keep_one, args=(pool,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert (pool.stats().out, len(pool._engine.client.clients())) == (0, 1)
    assert (pool.reclaim(), told, pool.quarantined()) == (0, [], [])


def test_a_worker_of_an_executor_returns_what_it_has(pool_path: Path) -> None:
    pool = make(pool_path)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        executor.submit(keep_one, pool).result(60)
        assert pool.stats().out == 1
    assert (pool.stats().out, pool.reclaim(), pool.quarantined()) == (0, 0, [])


class Last:
    """It is told when all engines have been told that this process ends."""

    def __init__(self) -> None:
        self.is_told = threading.Event()

    def finish(self, patience: float | None = None) -> None:
        self.is_told.set()

    def after_fork(self, survivor: int) -> None:
        pass


def hold_in_a_thread(pool: SharedPool, frees: bool) -> None:
    """It holds an element until this process joins it."""
    is_held, last = threading.Event(), Last()

    def hold() -> None:
        buf = pool.alloc(timeout=20)
        is_held.set()
        last.is_told.wait(60)
        if frees:
            pool.free(buf)
        else:
            _kept.append(buf)

    _kept.append(pool)
    threading.Thread(target=hold).start()
    is_held.wait(60)
    lifecycle.unfinished[last] = None


@pytest.mark.parametrize("frees", [True, False], ids=["freed", "kept"])
@pytest.mark.parametrize("kind", ["fork", "forkserver"])
def test_what_a_thread_has_that_outlives_the_work_is_returned(pool_path: Path, kind: str, frees: bool) -> None:
    """multiprocessing joins it and ends; the process was taken for killed, and what it had was set aside."""
    told: list[object] = []
    pool = make(pool_path, on_reclaim=told.append)
    process = multiprocessing.get_context(kind).Process(target=hold_in_a_thread, args=(pool, frees))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert (pool.stats().out, len(pool._engine.client.clients())) == (0, 1)
    assert (pool.reclaim(), told, pool.quarantined()) == (0, [], [])


def wait_in_a_thread(pool: SharedPool, daemon: bool) -> None:
    def wait() -> None:
        with pytest.raises(PoolClosed):
            pool.alloc(timeout=60)

    _kept.append(pool)
    threading.Thread(target=wait, daemon=daemon).start()
    wait_until(lambda: pool.waiting == 1)


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "joined"])
def test_a_thread_that_waits_at_the_end_leaves_the_line(pool_path: Path, daemon: bool) -> None:
    """Its process was taken for killed."""
    pool = make(pool_path)
    held = pool.alloc_many(4)
    process = multiprocessing.get_context("fork").Process(target=wait_in_a_thread, args=(pool, daemon))
    process.start()
    process.join(60)
    assert (process.exitcode, pool.waiting, len(pool._engine.client.clients())) == (0, 0, 1)
    pool.free_many(held)


def test_what_another_thread_may_still_write_to_is_set_aside(pool_path: Path) -> None:
    pool = make(pool_path)
    process = multiprocessing.get_context("fork").Process(target=keep_one_in_a_thread, args=(pool,))
    process.start()
    process.join(60)
    assert pool.stats().out == 1
    assert pool.reclaim() == 1
    assert len(pool.quarantined()) == 1
