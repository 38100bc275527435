"""What a killed process had is set aside, if it wanted so, until somebody has looked at it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from frames import SIZE, attach, make
from shared_children import Parent, child

import mempool
from mempool.errors import PoolTimeout, StaleToken
from mempool.testing import ManualClock

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def hold(path: Path, *, quarantine: bool, offer: int = 0) -> Callable[[Parent], None]:
    """A child that holds two which it has written to, offers so many more, and waits for its end."""

    def run(parent: Parent) -> None:
        pool = attach(path, quarantine=quarantine)
        held = pool.alloc_many(2)
        for buf in held:
            buf.fill(7)
        for _ in range(offer):
            pool.offer(pool.alloc())
        parent.tell(pool._engine.client.number)
        parent.wait()
        pool.close()
        pool.free_many(held)

    return run


def test_what_a_killed_process_had_waits_to_be_looked_at(pool_path: Path) -> None:
    """Nobody is handed it; its bytes are as they were; whoever adopts it frees it, or gives its memory back."""
    told: list[int] = []
    pool = make(pool_path, on_reclaim=told.append)
    with child(hold(pool_path, quarantine=True, offer=1)) as holder:
        holder.hear()
        assert pool.quarantined() == []
        holder.end(signal.SIGKILL)
    assert pool.reclaim() == 1
    assert told == [1]
    tokens = pool.quarantined()
    assert len({token.slot for token in tokens}) == 3
    assert (pool.out, pool.stats().offered, pool.verify()) == (3, 0, [])
    mine = pool.alloc()
    with pytest.raises(PoolTimeout, match=r"3 are in quarantine, because a process was killed that had them: adopt"):
        pool.alloc(timeout=0)
    with pool.adopting(tokens[0]) as buf:
        assert bytes(buf) in {b"\7" * SIZE, b"\0" * SIZE}
    with pytest.raises(StaleToken):
        pool.adopt(tokens[0])
    with pytest.raises(StaleToken):
        pool.recall(tokens[1])
    pool.discard(pool.adopt(tokens[1]))
    other = attach(pool_path)
    other.free(other.adopt(tokens[2]))
    pool.free(mine)
    assert (pool.out, pool.quarantined(), pool.verify()) == (0, [], [])


@pytest.mark.parametrize("quarantine", [False, True])
def test_who_ends_by_itself_or_did_not_ask_for_it_has_nothing_set_aside(pool_path: Path, quarantine: bool) -> None:
    pool = make(pool_path)
    with child(hold(pool_path, quarantine=quarantine)) as holder:
        holder.hear()
        if quarantine:
            holder.go()
            assert holder.end() == 0
        else:
            holder.end(signal.SIGKILL)
    pool.reclaim()
    assert (pool.out, pool.quarantined(), pool.verify()) == (0, [], [])


def test_who_attaches_in_its_place_does_not_get_it(pool_path: Path) -> None:
    """The number of a dead one is used again; what that one had is set aside all the same, what the new one has is not."""
    pool = make(pool_path)
    with child(hold(pool_path, quarantine=True)) as holder:
        number = holder.hear()
        holder.end(signal.SIGKILL)
    with child(hold(pool_path, quarantine=False)) as successor:
        assert successor.hear() == number
        assert len(pool.quarantined()) == 2
        successor.end(signal.SIGKILL)
    pool.reclaim()
    assert (len(pool.quarantined()), pool.out) == (2, 2)
    for token in pool.quarantined():
        pool.free(pool.adopt(token))
    assert (pool.out, pool.verify()) == (0, [])


@pytest.mark.parametrize("look_after", [True, False])
def test_what_a_killed_process_had_comes_back_without_a_call(pool_path: Path, look_after: bool) -> None:
    """Where a process looks after the pool with `upkeep`, or asks what is guaranteed; nobody waits and nobody takes."""
    pool = make(pool_path)
    kept = mempool.upkeep(pool, thread=False, clock=ManualClock())
    with child(hold(pool_path, quarantine=False)) as holder:
        holder.hear()
        holder.end(signal.SIGKILL)
    assert pool.out == 2
    if look_after:
        kept.look()
    else:
        assert pool.guarantee().held
    assert (pool.out, pool.verify()) == (0, [])
