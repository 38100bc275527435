"""What must hold of a pool that nobody uses. While elements are out: `mempool.testing.assert_books`."""

from __future__ import annotations

from typing import Any

import mempool
from mempool.testing import ScriptedSource, assert_books

UNDER_WAY = ("permits", "fills", "filling", "disposing", "waiting", "lingering")


def assert_nothing_under_way(pool: mempool.Pool[Any]) -> None:
    """No caller waits, none is being served, and nothing is on its way to or from the source."""
    snapshot = pool.core.snapshot()
    left = {name: snapshot[name] for name in UNDER_WAY if snapshot[name]}
    assert left == {}, f"{pool}: {left}"


def assert_at_rest(pool: mempool.Pool[Any], source: ScriptedSource[Any] | None = None, *, spare: int | None = None) -> None:
    """Every element is accounted for, none is out, nothing is under way, and the next alloc works."""
    assert_books(pool, source, spare=spare)
    assert_nothing_under_way(pool)
    if not pool.closed:
        pool.free(pool.alloc(timeout=0))
