"""The creator is killed, or a file was left behind: the next process works, and no memory is lost."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared_children import Parent, child

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool.shared.engine import SharedEngine
from mempool.shared.layout import CLIENT_BYTES, Layout, open_file
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
