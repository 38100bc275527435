"""A child of a fork attaches at its first use, whatever that is, and whichever number its process has."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import Parent, child

from mempool.shared.pool import SharedPool

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def make(path: Path, **options: Any) -> SharedPool:
    return SharedPool(path.name, **{"size": 4096, "reserve": 2, "limit": 4, "folder": path.parent, **options})


FIRST_USES: dict[str, Callable[[SharedPool], object]] = {
    "verify": lambda pool: pool.verify(),
    "reclaim": lambda pool: pool.reclaim(),
    "queue": lambda pool: pool._engine.client.queue(),
    "clients": lambda pool: pool._engine.client.clients(),
    "held": lambda pool: pool._engine.client.held(),
    "trim": lambda pool: pool._engine.trim(0),
    "refill": lambda pool: pool.refill(),
    "pending": lambda pool: pool.pending(),
    "quarantined": lambda pool: pool.quarantined(),
}


@pytest.mark.parametrize("first", FIRST_USES)
def test_whatever_is_used_first(pool_path: Path, first: str) -> None:
    """`verify` told the child that it was one, and to attach anew."""
    pool = make(pool_path)

    def use(_parent: Parent) -> None:
        FIRST_USES[first](pool)
        assert len(pool._engine.client.clients()) == 2

    with child(use) as forked:
        assert forked.end() == 0


def test_the_first_use_returns_what_killed_processes_had(pool_path: Path) -> None:
    """`reclaim` did nothing, and said that there was nothing to do."""
    pool = make(pool_path)

    def hold(parent: Parent) -> None:
        pool.alloc()
        parent.tell(0)
        parent.wait()

    def clean(_parent: Parent) -> None:
        pool.reclaim()
        assert pool.stats().out == 0

    with child(hold) as holder:
        holder.hear()
        assert holder.end(signal.SIGKILL) == -signal.SIGKILL
    with child(clean) as forked:
        assert forked.end() == 0
    assert pool.stats().out == 0


def test_a_child_that_has_the_number_of_an_ancestor(pool_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers come again, and in a pid namespace of its own a child of process 1 is process 1. It was taken for the parent,
    and told for ever to attach anew.
    """
    pool = make(pool_path)
    kept, number = pool.alloc(), os.getpid()

    def use(_parent: Parent) -> None:
        monkeypatch.setattr(os, "getpid", lambda: number)
        with pool.lease(timeout=20):
            assert pool.stats().out == 2
        assert pool._engine.client.number == 1
        pool.close()

    with child(use) as forked:
        assert forked.end() == 0
    pool.free(kept)
    assert (pool.stats().out, pool.verify()) == (0, [])
    assert len(pool._engine.client.clients()) == 1
