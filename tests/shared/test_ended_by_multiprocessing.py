"""A process of multiprocessing that ends by itself was not killed, though it ends by `os._exit`."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool.shared.pool import SharedPool

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


def test_what_another_thread_may_still_write_to_is_set_aside(pool_path: Path) -> None:
    pool = make(pool_path)
    process = multiprocessing.get_context("fork").Process(target=keep_one_in_a_thread, args=(pool,))
    process.start()
    process.join(60)
    assert pool.stats().out == 1
    assert pool.reclaim() == 1
    assert len(pool.quarantined()) == 1
