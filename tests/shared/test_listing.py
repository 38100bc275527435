"""The shared pools of a user, seen from outside without joining."""

from __future__ import annotations

import os
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool.shared import listing
from mempool.shared.engine import SharedEngine
from mempool.shared.errors import PoolCorrupt
from mempool.shared.pool import SharedPool


@pytest.fixture
def listed(pool_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the listed pools is the test's own."""
    monkeypatch.setenv("MEMPOOL_SHARED_FOLDER", str(pool_path.parent))
    return pool_path


def test_the_pools_of_a_folder_are_named(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted; what is no pool's name is left out; no folder at all has none."""
    SharedEngine.create(listed.with_name("b"), size=4096, slots=4, reserve=1)
    SharedEngine.create(listed.with_name("a"), size=4096, slots=4, reserve=1)
    listed.with_name(".hidden").touch()
    assert listing.names() == ["a", "b"]
    monkeypatch.setenv("MEMPOOL_SHARED_FOLDER", str(listed.parent / "none"))
    assert listing.names() == []


def test_who_looks_is_no_client_and_changes_nothing(listed: Path) -> None:
    """Figures, users and the line of one moment; no client more, before and after."""
    engine = SharedEngine.create(listed, size=5000, slots=4, reserve=2, keep=2, limit=3)
    held = [engine.take(), engine.take(), engine.take()]
    ticket = engine.ticket(2)
    engine.enqueue(ticket)
    before = engine.snapshot()
    seen = listing.look(listed.name)
    assert engine.snapshot() == before
    assert [client.pid for client in engine.clients()] == [os.getpid()]
    assert (seen.name, seen.path, seen.size, seen.slots) == (listed.name, listed, 5000, 4)
    assert (seen.stats.reserve, seen.stats.keep, seen.stats.limit, seen.stats.spare, seen.stats.out) == (2, 2, 3, 0, 3)
    assert [(user.pid, user.held, user.is_dead) for user in seen.users] == [(os.getpid(), 3, False)]
    assert [(waiter.pid, waiter.wanted, waiter.gathered) for waiter in seen.line] == [(os.getpid(), 2, 0)]
    assert "1 caller in line" in seen.why
    assert f"process {os.getpid()}" in seen.why
    assert "holds 3" in seen.why
    assert seen.memory >= 3 * 8192
    engine.cancel(ticket)
    for handle in held:
        assert handle is not None
        engine.give([handle])


def test_a_resize_from_outside_joins_only_for_its_time(listed: Path) -> None:
    """It has memory for what it promises when it returns, and leaves no client behind."""
    engine = SharedEngine.create(listed, size=4096, slots=8, reserve=1)
    assert listing.resize(listed.name, 4).stats.spare == 4
    assert [client.pid for client in engine.clients()] == [os.getpid()]
    with pytest.raises(ValueError, match="reserve=9"):
        listing.resize(listed.name, 9)
    assert engine.snapshot().reserve == 4


@pytest.mark.parametrize("name", ["", "../pool", "a/b", ".hidden", "a" * 300, "a b"])
def test_what_is_no_name_is_no_path(name: str) -> None:
    """A name never leads out of the folder."""
    with pytest.raises(ValueError, match="is named by"):
        listing.path_of(name)


def test_what_is_no_pool_says_so(listed: Path) -> None:
    """FileNotFoundError, or PoolCorrupt."""
    with pytest.raises(FileNotFoundError):
        listing.look("missing")
    listed.write_bytes(b"no pool")
    with pytest.raises(PoolCorrupt, match="not a shared pool"):
        listing.look(listed.name)


def test_a_resize_from_outside_leaves_what_it_was_not_asked_to_change(listed: Path) -> None:
    """A keep that nobody has given goes on to follow the reserve."""
    pool = SharedPool(listed.name, size=4096, reserve=1, limit=16, folder=listed.parent)
    listing.resize(listed.name, 3)
    assert (pool.reserve, pool.keep, pool.limit) == (3, 6, 16)
    pool.resize(2)
    assert pool.keep == 4


def test_whoever_looks_looks_into_the_same_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mempool ls` and `mempool top` do not import what makes the pools, and name its folder themselves."""
    from mempool.watch import shared_pools

    monkeypatch.delenv("MEMPOOL_SHARED_FOLDER", raising=False)
    assert shared_pools.folder() == str(listing.folder())


def test_what_is_out_is_what_exists_and_is_not_spare(listed: Path) -> None:
    """Two of four are out, one of five, and so on: no two figures are mistaken for each other."""
    with SharedPool("pool", size=5000, reserve=4, keep=8, folder=listed.parent) as pool:
        held = []
        for out in range(1, 5):
            held.append(pool.alloc_reserved())
            figures = listing.glance.glance("pool")[0]
            assert (figures.spare, figures.out) == (4 - out, out)
        pool.free_many(held)


def test_only_the_folder_of_all_pools_is_made(listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For this user alone. One that a program names and that is not there is a mistake, and is told."""
    monkeypatch.setenv("MEMPOOL_SHARED_FOLDER", str(listed.with_name("missing")))
    with SharedPool("pool", size=5000, reserve=1):
        assert listed.with_name("missing").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileNotFoundError):
        SharedPool("pool", size=5000, reserve=1, folder=listed.with_name("other"))
    assert not listed.with_name("other").exists()


@pytest.mark.parametrize("slots", [8, 1000])
def test_a_limit_is_told_where_it_is_less_than_there_are_addresses(listed: Path, slots: int) -> None:
    """As many as the file has addresses for is no limit, whatever number that is."""
    with SharedPool("pool", size=5000, reserve=1, limit=slots, slots=slots, folder=listed.parent) as pool:
        assert listing.glance.glance("pool")[0].limit is None
        pool.resize(limit=slots - 1)
        assert listing.glance.glance("pool")[0].limit == slots - 1


def test_what_the_first_in_line_has_gathered_is_spare_still(listed: Path) -> None:
    """Nobody has it before that one has all it wants."""
    engine = SharedEngine.create(listed, size=5000, slots=4, reserve=1, keep=2, limit=3)
    held = [engine.take(), engine.take(), engine.take()]
    ticket = engine.ticket(3)
    engine.enqueue(ticket)
    for number in (1, 2):
        handle = held.pop()
        assert handle is not None
        engine.give([handle])
        figures = listing.glance.glance("pool")[0]
        assert (figures.spare, figures.out, figures.waiting) == (number, 3 - number, 1)
    seen = listing.look("pool")
    for part, name in ((seen, "name"), (seen.users[0], "pid"), (seen.line[0], "gathered")):
        with pytest.raises(FrozenInstanceError):  # it is what was seen
            setattr(part, name, None)
    engine.cancel(ticket)
    engine.detach()
