"""A pool that was closed for all, and that nobody uses any more, is made anew by several processes at once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import Parent, child

from mempool.errors import PoolClosed
from mempool.shared import clients
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


def test_of_two_that_take_the_name_away_the_second_takes_no_new_ones(
    pool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had looked before the first one made the pool anew, so there were two pools of one name."""
    pool, other = make(pool_path), make(pool_path)
    unlink, anew = Path.unlink, []

    def let_another_come(path: Path, **options: Any) -> None:
        monkeypatch.setattr(Path, "unlink", unlink)
        monkeypatch.setattr(clients, "NAME_ATTEMPTS", 1)
        with contextlib.suppress(TimeoutError):
            other.unlink()
            anew.append(make(pool_path))
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", let_another_come)
    pool.unlink()
    anew.append(make(pool_path))
    assert len({one._engine.client.nonce for one in anew}) == 1
    other.unlink()  # another pool's name is left alone
    assert pool_path.exists()


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
