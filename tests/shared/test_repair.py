"""A file whose words do not agree: what is found, what a repair would do, and what it does; while it must not, nothing."""

from __future__ import annotations

import os
import random
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from shared_children import Parent, child
from sweeps import LONG

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from test_hostile_bytes import spoil

from mempool.shared import anew, repair, words
from mempool.shared.engine import SharedEngine
from mempool.shared.errors import PoolCorrupt, PoolInUse
from mempool.shared.layout import CLIENT_BYTES, ROOT, Layout, open_file
from mempool.shared.pool import SharedPool

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")]

Damage = Callable[[Layout], tuple[int, int]]


def word(layout: Layout, number: int) -> int:
    return layout.words + 16 * number


#: Where what is written: the offset, and eight bytes.
DAMAGES: dict[str, Damage] = {
    "a slot in no state": lambda layout: (word(layout, words.FIRST_SLOT), 9),
    "a slot of nobody's": lambda layout: (word(layout, words.FIRST_SLOT), words.make_slot(words.LEASED, 3, words.NO_SLOT)),
    "a count of bare slots": lambda layout: (word(layout, words.BARE_LIST), words.make_bare_list(0, 7)),
    "a list of spares without an end": lambda layout: (ROOT + 8, words.make_gate(0xABCDEF, 2, 0, 0)),
    "a line that leads outside": lambda layout: (word(layout, words.LINE), words.make_line(900, 901, 0)),
    "offers that nobody made": lambda layout: (word(layout, words.OFFERS), 5),
    "targets that cannot be": lambda layout: (word(layout, words.TARGETS), words.make_targets(6, 2, 3)),
    "a root of nobody's": lambda layout: (ROOT, (1 << 64) - 1),
    "a number from the future": lambda layout: (word(layout, words.TARGETS) + 8, 1 << 50),
    "an intent without an end": lambda layout: (layout.client_records + 64 + 8, 99),
}


def write(path: Path, at: int, value: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack("<Q", value))


def leave_behind(path: Path) -> Layout:
    """A pool that one process has made, used and left; another was killed with what it had."""

    def hold(parent: Parent) -> None:
        pool = SharedPool("pool", size=5000, reserve=2, keep=3, limit=6, slots=8, folder=path.parent, clients=4, places=4)
        held = pool.alloc_many(3)
        pool.offer(held.pop())
        parent.tell(len(held))
        parent.wait()

    with child(hold) as process:
        assert process.hear() == 2
        process.end(signal.SIGKILL)
    file, header = open_file(path)
    os.close(file)
    return header.layout


def unsettle_intents(path: Path, layout: Layout) -> None:
    """No intent is marked as applied, so that whoever begins reads the one that the root names."""
    for client in range(layout.clients):
        for buffer in range(2):
            write(path, layout.client_records + CLIENT_BYTES * client + 64 + 400 * buffer, (1 << 60) + 1)


def is_as_new(path: Path, targets: tuple[int, int, int], slots: int = 8) -> None:
    """All of it can be had, and every byte written."""
    pool = SharedPool("pool", size=None, reserve=0, folder=path.parent)
    try:
        assert (pool.reserve, pool.keep, pool.limit) == (*targets[:2], None if targets[2] == slots else targets[2])
        assert (pool.out, pool.waiting, pool.verify()) == (0, 0, [])
        assert pool.guarantee().held
        held = list(iter(pool.try_alloc, None))
        assert len(held) == targets[2]
        for buffer in held:
            buffer.fill(7)
        pool.free_many(held)
        assert (pool.out, pool.verify()) == (0, [])
    finally:
        pool.close()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pool_that_nobody_uses_is_made_anew(pool_path: Path, damage: str) -> None:
    """With the targets that it has, where those can be; and no memory of the old one is left."""
    layout = leave_behind(pool_path)
    if damage == "an intent without an end":
        unsettle_intents(pool_path, layout)
    write(pool_path, *DAMAGES[damage](layout))
    found = repair.examine(pool_path)
    assert found.wrong
    assert found.users == ()
    assert found.targets_are_kept is (damage != "targets that cannot be")
    assert found.targets == ((2, 3, 6) if found.targets_are_kept else (0, 0, 8))
    inode = pool_path.stat().st_ino
    repair.make_anew(pool_path).detach()
    assert pool_path.stat().st_ino != inode
    assert pool_path.stat().st_blocks * 512 == layout.control_bytes + found.targets[0] * layout.stride
    assert [entry.name for entry in pool_path.parent.iterdir()] == ["pool"]
    is_as_new(pool_path, found.targets)


def test_what_was_killed_is_found_and_returned(pool_path: Path) -> None:
    """Words that agree need no repair; what the killed one had is returned by the way that everybody goes."""
    leave_behind(pool_path)
    found = repair.examine(pool_path)
    assert (found.wrong, found.users, len(found.killed)) == ((), (), 1)
    inode = pool_path.stat().st_ino
    assert repair.reap(pool_path) == 1
    assert repair.examine(pool_path).killed == ()
    assert pool_path.stat().st_ino == inode
    is_as_new(pool_path, (2, 3, 6))


def attach(path: Path, *, loses_descriptors: bool) -> Callable[[Parent], None]:
    def run(parent: Parent) -> None:
        engine = SharedEngine.attach(path)
        assert engine.take()
        if loses_descriptors:  # as a daemon does; it goes on to use the memory
            for descriptor in (engine._lock, engine._file):
                os.close(descriptor)
        parent.tell(os.getpid())
        parent.wait()

    return run


@pytest.mark.parametrize("loses_descriptors", [False, True])
def test_a_pool_that_is_used_is_left_alone(pool_path: Path, loses_descriptors: bool) -> None:
    """PoolInUse names the process, also one that has lost its lock; not a byte has changed."""
    layout = leave_behind(pool_path)
    with child(attach(pool_path, loses_descriptors=loses_descriptors)) as process:
        pid = process.hear()
        write(pool_path, *DAMAGES["a count of bare slots"](layout))
        assert repair.examine(pool_path).users == (pid,)  # who looks writes what is in force, and was left unwritten
        before, inode = pool_path.read_bytes(), pool_path.stat().st_ino
        with pytest.raises(PoolInUse, match=f"process {pid}"):
            repair.make_anew(pool_path)
        assert (pool_path.read_bytes(), pool_path.stat().st_ino) == (before, inode)
        process.end(signal.SIGKILL)
    repair.make_anew(pool_path).detach()
    is_as_new(pool_path, (2, 3, 6))


def test_nobody_attaches_in_the_middle_of_a_repair(pool_path: Path) -> None:
    """All places are taken meanwhile; who had opened the file before finds that it is nobody's now."""
    layout = leave_behind(pool_path)
    file, header = open_file(pool_path)
    late = SharedEngine(pool_path, os.open(f"/proc/self/fd/{file}", os.O_RDWR), header.layout, header.nonce)
    write(pool_path, *DAMAGES["a count of bare slots"](layout))
    with anew.alone(pool_path, file, header.layout), pytest.raises(Exception, match="4 processes use this pool already"):
        SharedEngine.attach(pool_path)
    os.close(file)
    repair.make_anew(pool_path).detach()
    with pytest.raises(PoolCorrupt):
        late.snapshot()
    late.detach()


def test_a_repair_that_was_killed_is_done_again(pool_path: Path) -> None:
    """It leaves a file that no pool has as its name."""
    layout = leave_behind(pool_path)
    write(pool_path, *DAMAGES["a root of nobody's"](layout))
    (pool_path.parent / ".pool.repaired").write_bytes(b"half")
    repair.make_anew(pool_path).detach()
    is_as_new(pool_path, (2, 3, 6))


def test_whatever_was_written_a_repaired_pool_works(pool_path: Path) -> None:
    """Chosen and random values in the root, the intents and the words; the header is right, or there is no repair."""
    chance = random.Random(5)
    layout = leave_behind(pool_path)
    mended = 0
    for _ in range(200 if LONG else 20):
        spoil(pool_path, chance, layout.control_bytes)
        found = repair.examine(pool_path)
        if found.wrong:
            repair.make_anew(pool_path).detach()
            mended += 1
        else:
            repair.reap(pool_path)
        assert repair.examine(pool_path).wrong == ()
        is_as_new(pool_path, found.targets)
    assert mended > 10


def test_who_uses_a_pool_and_looks_at_it_is_not_one_that_was_killed(pool_path: Path) -> None:
    """It is no other process that maps the file, and its lock says that it lives."""
    with SharedPool("pool", size=5000, reserve=1, folder=pool_path.parent):
        assert repair.examine(pool_path).killed == ()


def test_a_file_has_its_name_until_another_one_takes_it(pool_path: Path) -> None:
    """Whichever of the two was there first."""
    paths = [pool_path.with_name("one"), pool_path.with_name("other")]
    files = [os.open(path, os.O_RDWR | os.O_CREAT) for path in paths]
    try:
        assert [[anew._is_named(path, file) for file in files] for path in paths] == [[True, False], [False, True]]
    finally:
        for file in files:
            os.close(file)
