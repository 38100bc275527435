"""What looks after a pool in one process looks after one that several share, too."""

from __future__ import annotations

import os
import select
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

import mempool
from mempool.pressure import follow
from mempool.shared import clients, watcher, words
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


def test_who_may_not_be_looked_into_is_taken_for_alive(pool_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its elements are not another's before its end is certain. One that has no maps any more has ended."""
    read_bytes, here, failures = Path.read_bytes, clients.this_process(), [PermissionError(), FileNotFoundError()]

    def read(path: Path) -> bytes:
        if path.name == "maps":
            raise failures[0]
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert clients.still_maps(here, b"00:00 0", here)
    failures.reverse()
    assert not clients.still_maps(here, b"00:00 0", here)


class OneOther:
    """An engine's client beside which there is one other: this process, and in the pid namespace that it tells."""

    number = 0
    layout = SimpleNamespace(clients=2)

    def __init__(self, namespace: int) -> None:
        self._here = clients.Process(os.getpid(), 0, 1000)
        self._tx = self
        self._namespace = namespace

    def look_at_client(self, _number: int) -> tuple[int, int, int, int, int]:
        return words.LIVE, 7, os.getpid(), 0, self._namespace


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the kernel tells of no end")
def test_only_a_process_whose_number_means_something_here_is_watched() -> None:
    """One of another pid namespace has a number that is another's here: that one's end would say nothing."""
    for namespace, is_watched in ((1000, True), (1001, False), (999, False)):
        poller, watched = select.poll(), dict[tuple[int, int], int]()
        watcher._look(OneOther(namespace), watched, poller)
        assert list(watched) == [(1, 7)]
        assert (watched[1, 7] >= 0) is is_watched
        watcher._forget(watched, (1, 7), poller)
