"""A pool that was closed for all, and that nobody uses any more, is made anew by several processes at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import Parent, child

from mempool.errors import PoolClosed
from mempool.shared.engine import SharedEngine
from mempool.shared.pool import SharedPool

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def make(path: Path) -> SharedPool:
    return SharedPool(path.name, size=4096, reserve=1, limit=1, folder=path.parent)


@pytest.mark.parametrize("step", ["attach", "observe", "unlink"])
def test_who_comes_while_another_looks_gets_the_same_new_one(
    pool_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Each had joined the old one for its look, so each took the other for one who uses it still."""
    old = make(pool_path)
    old.close_for_all()
    old.close()
    real, others = getattr(SharedEngine, step), []

    def let_another_come(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(SharedEngine, step, real)
        found = real(*arguments, **options)
        others.append(make(pool_path))
        return found

    monkeypatch.setattr(SharedEngine, step, let_another_come if step == "unlink" else staticmethod(let_another_come))
    pool = make(pool_path)
    if step == "attach":  # nobody joins what was closed
        monkeypatch.undo()
        others.append(make(pool_path))
    assert others[0]._engine.client.nonce == pool._engine.client.nonce != old._engine.client.nonce


def test_who_uses_the_closed_one_is_counted_and_who_was_killed_is_not(pool_path: Path) -> None:
    old = make(pool_path)

    def stay(parent: Parent) -> None:
        pool = make(pool_path)
        parent.tell(pool._engine.client.number)
        parent.wait()

    with child(stay) as user:
        user.hear()
        old.close_for_all()
        old.close()
        with pytest.raises(PoolClosed, match="was closed for all, and 1 process still uses it; wait until"):
            make(pool_path)
        user.end(9)
    with make(pool_path) as pool, pool.lease(timeout=20):
        assert not pool.closed
