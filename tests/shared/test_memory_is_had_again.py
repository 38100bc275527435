"""Processes are killed, call exec, or leave a file behind: the next process works, and no memory is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared_children import Parent, child, kill_at_work

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool.shared.engine import SharedEngine
from mempool.shared.layout import CLIENT_BYTES, Layout, boot_id, open_file
from mempool.shared.pool import SharedPool

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")]

SIZE = 64 * 1024


def shared(path: Path, **options: int) -> SharedPool:
    return SharedPool(path.name, **{"size": SIZE, "reserve": 2, "keep": 2, "limit": 8, "folder": path.parent, **options})  # type: ignore[arg-type]


def hold(path: Path, count: int) -> Iterator[None]:
    """A process of the pool: holds, has offered one to anybody, waits in the line for more than there is."""

    def run(parent: Parent) -> None:
        pool = shared(path)
        held = pool.alloc_many(count)
        for buffer in held:
            buffer.fill(os.getpid() % 251)
        pool.offer(held.pop())
        engine = SharedEngine.attach(path)  # one more client, which waits
        engine.enqueue(engine.ticket(8))
        parent.tell(len(held))
        parent.wait()

    with child(run) as process:
        assert process.hear() == count - 1
        yield
        process.end(signal.SIGKILL)


def layout_of(path: Path) -> Layout:
    file, header = open_file(path)
    os.close(file)
    return header.layout


def assert_all_is_had(path: Path) -> None:
    """By the next process; and afterwards the file has the memory of its promise, and not a page more."""
    pool = shared(path)
    held = pool.alloc_many(8, timeout=30)
    for buffer in held:
        buffer.fill(1)
    pool.free_many(held)
    assert (pool.out, pool.waiting, pool.verify()) == (0, 0, [])
    assert len(pool._engine.client.clients()) == 1
    layout = layout_of(path)
    assert path.stat().st_blocks * 512 == layout.control_bytes + 2 * layout.stride
    pool.close()


def test_after_the_creator_was_killed_the_others_go_on(pool_path: Path) -> None:
    """Who has attached has all of it, and so does the next one."""
    steps = hold(pool_path, 4)
    next(steps)
    pool = shared(pool_path)
    next(steps, None)
    held = pool.alloc_many(8, timeout=30)
    pool.free_many(held)
    assert pool.verify() == []
    pool.close()
    assert_all_is_had(pool_path)


def test_a_file_that_a_reboot_left_behind_is_used(pool_path: Path) -> None:
    """On a disk or a kept tmpfs: its clients' numbers are those of other processes now, of this very one even."""
    steps = hold(pool_path, 4)
    next(steps)
    next(steps, None)
    layout = layout_of(pool_path)
    with pool_path.open("r+b") as file:
        for number, (pid, started) in enumerate(((os.getpid(), 1), (1, 5))):  # that live, and began at another time
            file.seek(layout.client_records + CLIENT_BYTES * number)
            file.write(struct.pack("<QQ", pid, started))
    assert_all_is_had(pool_path)


def test_a_copy_of_a_file_is_used(pool_path: Path) -> None:
    """As a backup brings it back: with all of its memory, and without anybody's lock."""
    steps = hold(pool_path, 4)
    next(steps)
    copy = pool_path.with_name("copy")
    copy.write_bytes(pool_path.read_bytes())
    copy.chmod(0o600)
    next(steps, None)
    pool = shared(copy)
    pool.free_many(pool.alloc_many(8, timeout=30))
    assert (pool.out, pool.verify()) == (0, [])


# -- killed at once


def work(path: Path, number: int) -> Iterator[int]:
    """A process of the group that is killed at once: the first makes the pool and holds; the others never rest."""

    def run(parent: Parent) -> None:
        pool = shared(path)
        parent.tell(os.getpid())
        if number == 0:
            kept = pool.alloc_many(2)
            pool.offer(kept.pop())
            parent.wait()
        while True:
            if number == 1:
                pool.free_many(pool.alloc_many(3))
            elif number == 2:
                pool.free(pool.recall(pool.offer(pool.alloc(), to=os.getpid())))
            else:
                pool.resize(1, keep=1, limit=6)
                pool.resize(2, keep=2, limit=8)

    with child(run) as process:
        yield process.hear()
        process.end()


@pytest.mark.parametrize("turn", range(3))
def test_after_all_were_killed_at_once_the_next_one_works(pool_path: Path, turn: int) -> None:
    """By one kill of their group: the creator, and three that take, offer, free and resize all the time."""
    kill_at_work([work(pool_path, number) for number in range(4)], lambda: shared(pool_path), 200 * (turn + 1))
    again = shared(pool_path)
    again.reclaim()
    again.resize(2, keep=2, limit=8)  # a resize was killed between two: its targets are in force
    again.close()
    assert_all_is_had(pool_path)
    assert [entry.name for entry in pool_path.parent.iterdir()] == [pool_path.name]


# -- exec

ANEW = """
import os, sys
from mempool import SharedPool
pool = SharedPool("pool", size=65536, reserve=2, keep=2, limit=8, folder=sys.argv[1])
held = pool.alloc_many(7, timeout=60)
pool.offer(held.pop())
if len(sys.argv) == 2:
    os.execv(sys.executable, [sys.executable, *sys.argv, "again"])
pool.free_many(held)
pool.free(pool.recall(pool.pending()[0]))
print(pool.out, len(pool._engine.client.clients()), pool.verify())
pool.close()
"""


def test_a_program_that_begins_anew_by_exec_has_what_it_had(pool_path: Path, tmp_path: Path) -> None:
    """Its number and its start are the same, and it maps the file again: what it had before is returned all the same."""
    script = tmp_path / "anew.py"
    script.write_text(ANEW)
    told = subprocess.run(
        [sys.executable, str(script), str(pool_path.parent)], capture_output=True, text=True, timeout=60, check=False
    )
    assert told.stdout == "0 1 []\n", told.stderr
    assert_all_is_had(pool_path)


def test_a_share_without_its_descriptors_is_alive_beside_another_of_its_process(pool_path: Path) -> None:
    """Of the very process that looks: what it has is its own as long as it lives."""
    one, two = SharedEngine.create(pool_path, size=SIZE, slots=8, reserve=2, clients=4), SharedEngine.attach(pool_path)
    handle = one.take()
    assert handle
    for descriptor in (one._lock, one._file):  # as a daemon does
        os.close(descriptor)
    assert two.reap_dead() == 0
    three = SharedEngine.attach(pool_path)
    assert three.number == 2
    one.give([handle])
    one._lock = one._file = -1
    tx = one._tx
    one._finalizer.detach()
    del one
    assert two.reap_dead() == 0  # its mapping is there still: a thread of it may be in the middle of something
    del tx, handle
    assert two.reap_dead() == 1
    assert len(two.clients()) == 2
    assert two.verify() == []


# -- another boot


def set_boot(path: Path, boot: bytes) -> None:
    """As if the file had been made since the machine was started another time."""
    file, header = open_file(path)
    os.pwrite(file, header.layout.header(header.nonce, boot), 0)
    os.close(file)


def leave_behind(path: Path) -> None:
    """A file of an earlier boot, of whose words only a part was written to the disk."""
    steps = hold(path, 4)
    next(steps)
    next(steps, None)
    layout = layout_of(path)
    set_boot(path, bytes(range(16)))
    with path.open("r+b") as file:
        file.seek(layout.words + 16 * 4)
        file.write(bytes(16 * layout.slots))  # all slots bare, in a list without an end; the counts say otherwise


def test_a_file_of_an_earlier_boot_is_made_anew(pool_path: Path) -> None:
    """With the targets that it had; whatever its words say. Its elements' memory goes back."""
    leave_behind(pool_path)
    assert SharedEngine.observe(pool_path).verify() != []
    inode = pool_path.stat().st_ino
    pool = SharedPool.attach(pool_path.name, folder=pool_path.parent)
    assert (pool.reserve, pool.keep, pool.limit, pool.verify()) == (2, 2, 8, [])
    assert pool.guarantee().held
    pool.close()
    assert pool_path.stat().st_ino != inode
    assert_all_is_had(pool_path)
    assert [entry.name for entry in pool_path.parent.iterdir()] == [pool_path.name]


def test_all_who_come_at_once_after_a_boot_have_one_pool(pool_path: Path) -> None:
    """One of them makes it anew, and the others wait for that."""
    leave_behind(pool_path)

    def come(parent: Parent) -> None:
        parent.tell(0)
        parent.wait()
        pool = SharedPool.attach(pool_path.name, folder=pool_path.parent)
        parent.tell(int.from_bytes(pool._engine.client.nonce[:7], "little"))
        parent.wait()
        pool.close()

    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(child(come)) for _ in range(6)]
        for process in processes:
            process.hear()
        for process in processes:
            process.go()
        assert len({process.hear() for process in processes}) == 1
        for process in processes:
            process.go()
        assert [process.end() for process in processes] == [0] * 6
    assert_all_is_had(pool_path)


def test_who_was_killed_while_it_made_it_anew_is_in_nobodys_way(pool_path: Path) -> None:
    """Its half file goes, and so does the lock by which the others waited for it."""
    leave_behind(pool_path)
    (pool_path.parent / f".{pool_path.name}.repaired").write_bytes(b"half")
    assert_all_is_had(pool_path)
    assert [entry.name for entry in pool_path.parent.iterdir()] == [pool_path.name]


def test_a_file_that_is_used_is_not_made_anew_whatever_boot_it_tells_of(pool_path: Path) -> None:
    """A container may say of itself that it is another machine."""
    steps = hold(pool_path, 4)
    next(steps)
    inode = pool_path.stat().st_ino
    set_boot(pool_path, bytes(range(16)))
    pool = shared(pool_path)
    assert (pool.out, pool_path.stat().st_ino) == (4, inode)
    pool.close()
    next(steps, None)


def test_the_machine_says_which_boot_it_is() -> None:
    """So that the tests above look at what is real."""
    assert len(boot_id()) == 16
    assert any(boot_id())
