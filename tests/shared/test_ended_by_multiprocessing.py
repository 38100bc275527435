"""A process of multiprocessing that ends by itself was not killed, though it ends by `os._exit`."""

from __future__ import annotations

import _thread
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool import lifecycle, native
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


class Slowly(list[threading.Thread]):
    """Where it is noted that all threads ended: so slowly that a main thread that waits for nobody ends the process."""

    def append(self, ending: threading.Thread) -> None:
        threading.Event().wait(0.5)
        super().append(ending)


def hold_until_slowly_joined(pool: SharedPool) -> None:
    native.at_rest = Slowly()
    is_held, last = threading.Event(), Last()

    def hold() -> None:
        _kept.append(pool.alloc(timeout=20))
        is_held.set()
        last.is_told.wait(60)

    _kept.append(pool)
    threading.Thread(target=hold, daemon=False).start()
    is_held.wait(60)
    lifecycle.unfinished[last] = None


def test_what_a_thread_has_is_returned_in_a_process_forked_by_a_daemon_thread(pool_path: Path) -> None:
    """As the next worker of a multiprocessing.Pool is. Its main thread is a daemon, and so are those that it starts.

    Nobody waited for the thread that returns all at the end, and the process was taken for killed.
    """
    told: list[object] = []
    pool = make(pool_path, on_reclaim=told.append)
    process = multiprocessing.get_context("fork").Process(target=hold_until_slowly_joined, args=(pool,))
    handler = threading.Thread(target=process.start, daemon=True)
    handler.start()
    handler.join(60)
    process.join(60)
    assert process.exitcode == 0
    assert (pool.stats().out, len(pool._engine.client.clients())) == (0, 1)
    assert (pool.reclaim(), told, pool.quarantined()) == (0, [], [])


class Late(threading.Thread):
    """It is listed, but begins no sooner than somebody has tried to join it."""

    def __init__(self) -> None:
        super().__init__(daemon=False)
        self.is_tried = threading.Event()

    def _bootstrap(self) -> None:
        self.is_tried.wait(60)
        super()._bootstrap()  # type: ignore[misc]

    def join(self, timeout: float | None = None) -> None:
        try:
            super().join(timeout)
        finally:
            self.is_tried.set()


def keep_one_beside_a_start(pool: SharedPool) -> None:
    keep_one(pool)
    late = Late()
    _thread.start_new_thread(late.start, ())  # not one that is listed: while such a one lives, what is out stays out
    wait_until(lambda: late in threading.enumerate())


def test_a_thread_that_is_being_started_at_the_end_is_waited_for(pool_path: Path) -> None:
    """It cannot be joined yet. Who waited for it ended with RuntimeError, and the process was taken for killed."""
    pool = make(pool_path)
    process = multiprocessing.get_context("fork").Process(target=keep_one_beside_a_start, args=(pool,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert (pool.stats().out, len(pool._engine.client.clients()), pool.quarantined()) == (0, 1, [])


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
