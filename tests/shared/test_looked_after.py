"""What looks after a pool in one process looks after one that several share, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

import mempool
from mempool.pressure import follow
from mempool.shared.pool import SharedPool
from mempool.testing import ManualClock


def shared(path: Path, **options: Any) -> SharedPool:
    return SharedPool("frames", size="64 KiB", reserve=4, keep=64, limit=64, folder=path.parent, **options)


def test_a_shared_pool_follows_memory_pressure(pool_path: Path) -> None:
    """Its keep is that of all processes; a resize by another of them is one by hand."""
    percent = [50.0]
    clock = ManualClock()
    with shared(pool_path) as pool, shared(pool_path) as other:
        pool.free_many(pool.alloc_many(60))
        pressure = follow(pool, (8, 64), source=lambda: percent[-1], thread=False, clock=clock)
        pressure.look()
        assert (other.keep, other.spare, other.reserve) == (32, 32, 4)
        (step,) = pressure.log
        assert step.size == step.elements * 65536 > 0
        other.resize(keep=40)
        for _ in range(20):
            clock.advance(10)
            pressure.look()
        assert pool.keep == 40


def test_a_shared_pool_is_refilled_and_trimmed(pool_path: Path) -> None:
    """Its idle spares go back to the system, down to the reserve of all."""
    clock = ManualClock()
    with shared(pool_path) as pool:
        kept = mempool.upkeep(pool, idle=30, thread=False, clock=clock)
        pool.free_many(pool.alloc_many(60))
        for _ in range(40):
            clock.advance(1)
            kept.look()
        assert (pool.spare, pool.keep) == (4, 64)
        assert pool.guarantee().held
