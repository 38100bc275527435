"""A tmpfs that is full: MemoryError or fewer elements, never SIGBUS. Each test mounts its own, where that is allowed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shared_children import Parent, child, kill_at_work

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool.errors import PoolTimeout, StaleToken
from mempool.shared import repair, words
from mempool.shared.engine import Handle, SharedEngine
from mempool.shared.layout import WORD, open_file
from mempool.shared.pool import SharedPool
from mempool.testing import wait_until

MEBIBYTE = 1 << 20


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A tmpfs of 32 MiB, or as big as the test says."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={getattr(request, 'param', '32m')},mode=0700", "mempool-test", folder],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"may not mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield folder / "pool"
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, leave: int) -> None:
    """Leave so many bytes of the file system."""
    found = os.statvfs(folder)
    with (folder / "others").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - leave)


def write_all(handles: list[Handle]) -> None:
    for handle in handles:
        handle.view[:] = b"x" * handle.size


def test_a_reserve_that_does_not_fit_is_unfunded(small: Path) -> None:
    """What fits is there, every byte of it can be written, and the rest comes with a refill when there is room."""
    engine = SharedEngine.create(small, size=MEBIBYTE, slots=64, reserve=40, places=16, clients=4)
    now = engine.snapshot()
    assert 25 <= now.spare < 32
    assert now.unfunded == 40 - now.made
    handles = [handle for handle in iter(engine.take, None) if handle]
    assert len(handles) == now.made
    write_all(handles)
    engine.give(handles[:10])
    assert engine.resize(5, 5, 64).unfunded == 0
    assert engine.verify() == []


def test_nothing_more_is_had_where_others_have_filled_it(small: Path) -> None:
    """Then the reserve is handed out, then there is None; a part of an element's memory is not left behind."""
    engine = SharedEngine.create(small, size=4 * MEBIBYTE, slots=16, reserve=2, places=16, clients=4)
    fill(small.parent, leave=MEBIBYTE)
    used = small.stat().st_blocks
    handles = [engine.take(), engine.take()]
    assert None not in handles
    assert engine.take() is None
    assert small.stat().st_blocks == used
    assert engine.resize(4).unfunded == 2
    write_all([handle for handle in handles if handle])
    (small.parent / "others").unlink()
    assert engine.refill().unfunded == 0
    assert engine.verify() == []


def test_a_pool_that_does_not_fit_is_not_made(small: Path) -> None:
    """MemoryError, and there is no file and no memory used up."""
    fill(small.parent, leave=64 * 1024)
    with pytest.raises(MemoryError, match="no room"):
        SharedEngine.create(small, size=4096, slots=8, reserve=1)
    assert not small.exists()
    found = os.statvfs(small.parent)
    assert found.f_bavail * found.f_frsize >= 64 * 1024


def test_attaching_needs_no_memory_of_the_file_system(small: Path) -> None:
    """All that clients write has had its memory since the file was made."""
    first = SharedEngine.create(small, size=4096, slots=8, reserve=2, places=16, clients=8)
    fill(small.parent, leave=0)
    others = [SharedEngine.attach(small) for _ in range(7)]
    for engine in others:
        engine.take()
        ticket = engine.ticket(2)
        engine.enqueue(ticket)
    assert first.snapshot().waiting > 0
    for engine in others:
        engine.detach()
    assert first.snapshot().waiting == 0
    assert first.verify() == []


def test_addresses_that_are_not_allowed_are_said_to_be_that(pool_path: Path) -> None:
    """RLIMIT_AS below the size of the file: MemoryError that names the limit."""
    script = f"""
import resource
from mempool.shared.engine import SharedEngine
SharedEngine.create({str(pool_path)!r}, size=1 << 20, slots=4096, reserve=1).detach()
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    SharedEngine.attach({str(pool_path)!r})
except MemoryError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "ulimit -v" in done.stdout


def test_a_pool_that_may_not_be_mapped_is_not_made(pool_path: Path) -> None:
    """RLIMIT_AS below what it would span: MemoryError that names the way out, and no file is left that is of no use here."""
    script = f"""
import resource
from mempool import SharedPool
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
options = dict(size="1 MiB", reserve=4, folder={str(pool_path.parent)!r})
try:
    SharedPool("frames", limit=1024, **options)
except MemoryError as error:
    print(error)
with SharedPool("frames", limit=64, **options) as pool:  # as the message says
    pool.free_many(pool.alloc_many(8))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "ulimit -v" in done.stdout
    assert "fewer slots (slots=, or a lower limit=)" in done.stdout


@pytest.mark.parametrize("small", ["64m"], indirect=True)
def test_in_a_container_of_the_usual_size_the_way_out_is_named(small: Path) -> None:
    """64 MiB, as Docker gives: a promise that does not fit is refused; one that fits is kept, with every byte of it."""
    with pytest.raises(MemoryError, match=r"docker run --shm-size\), or promise less"):
        SharedPool("frames", size="1 MiB", reserve=80, limit=100, folder=small.parent)
    assert list(small.parent.iterdir()) == []
    with SharedPool("frames", size="1 MiB", reserve=48, folder=small.parent) as pool:
        held = pool.alloc_many(56)
        for buf in held:
            buf.fill(1)
        with pytest.raises(PoolTimeout, match="its file system is full"):
            pool.alloc_many(8, timeout=0.01)
        pool.free_many(held)
        assert pool.guarantee().held


def shared(small: Path, **options: Any) -> SharedPool:
    return SharedPool("pool", **{"size": MEBIBYTE, "reserve": 4, "limit": 64, "folder": small.parent, **options})


def test_a_pool_whose_reserve_does_not_fit_is_not_made(small: Path) -> None:
    """MemoryError that says what to do; neither the file nor its memory is left."""
    with pytest.raises(MemoryError, match="shm-size"):
        shared(small, reserve=40)
    assert list(small.parent.iterdir()) == []
    assert os.statvfs(small.parent).f_bfree * 4096 > 31 * MEBIBYTE


def test_a_shared_pool_goes_on_with_what_there_is(small: Path) -> None:
    """alloc has the reserve, then waits; a grow is unfunded, until there is room; each byte handed out can be written."""
    pool = shared(small)
    fill(small.parent, 2 * MEBIBYTE)
    held = []
    while (buf := pool.try_alloc()) is not None:
        buf.fill(7)
        held.append(buf)
    assert 4 <= len(held) <= 6
    with pytest.raises(PoolTimeout, match="its file system is full"):
        pool.alloc(timeout=0)
    grown = pool.resize(20)
    assert (grown.held, grown.unfunded) == (False, 20 - len(held))
    waiter = threading.Thread(target=lambda: held.append(pool.alloc(timeout=30)))
    waiter.start()
    wait_until(lambda: pool.waiting == 1)
    (small.parent / "others").unlink()
    waiter.join(30)
    held[-1].fill(8)
    assert pool.refill().held
    pool.free_many(held)
    assert (pool.out, pool.verify()) == (0, [])


def overwork(small: Path, number: int) -> Iterator[int]:
    """A process that never rests: it asks for more than there is room for. It tells its number, and is killed by others."""

    def run(parent: Parent) -> None:
        pool = shared(small)
        parent.tell(os.getpid())
        while True:
            if number == 0:
                pool.resize(20)
                pool.resize(4)
            held = list(iter(pool.try_alloc, None))
            for buf in held:
                buf.fill(number)
            if held:
                pool.offer(held.pop())
            for token in pool.pending():
                with contextlib.suppress(StaleToken):  # another one was faster
                    held.append(pool.adopt(token))
            pool.free_many(held)

    with child(run) as process:
        yield process.hear()
        assert process.end() == -signal.SIGKILL


@pytest.mark.long_on_both
@pytest.mark.parametrize("turn", range(3))
def test_where_there_is_no_room_all_are_killed_at_once_and_the_next_one_works(small: Path, turn: int) -> None:
    """By one kill of their group. The next has each byte there is; then the file has the memory of its promise alone."""
    first = shared(small)
    promised, free_before = small.stat().st_blocks, os.statvfs(small.parent).f_bfree
    fill(small.parent, 3 * MEBIBYTE + MEBIBYTE // 2)
    kill_at_work([overwork(small, number) for number in range(3)], lambda: first, 100 * (turn + 1))
    with shared(small) as pool:
        pool.reclaim()
        assert pool.resize(4, keep=4, limit=64).held  # a resize was killed: its targets were in force
        held = list(iter(pool.try_alloc, None))
        assert len(held) == 4 + 3
        for buf in held:
            buf.fill(9)
        with pytest.raises(PoolTimeout, match="its file system is full"):
            pool.alloc(timeout=0)
        pool.free_many(held)
        assert (pool.out, pool.waiting, pool.verify()) == (0, 0, [])
        assert small.stat().st_blocks == promised
    (small.parent / "others").unlink()
    assert os.statvfs(small.parent).f_bfree == free_before
    assert list(small.parent.iterdir()) == [small]


# -- what is done to a pool from outside, while there is no room


def damage(pool: Path) -> None:
    """Its words do not agree any more: offers are counted that nobody has made."""
    file, header = open_file(pool)
    os.pwrite(file, WORD.pack(5, 0), header.layout.words + WORD.size * words.OFFERS)
    os.close(file)


def command(small: Path, *arguments: str) -> tuple[int, str]:
    """The command `mempool`, in a process of its own: its status, which no signal is, and what it has said."""
    pytest.importorskip("click")
    done = subprocess.run(
        [sys.executable, "-m", "mempool", *arguments],
        env=os.environ | {"MEMPOOL_SHARED_FOLDER": str(small.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.long_on_both
def test_a_pool_is_repaired_where_there_is_no_room_for_another(small: Path) -> None:
    """Its elements' memory goes first: nobody has any of it. Then the reserve is had again."""
    shared(small, limit=8).close()
    damage(small)
    fill(small.parent, leave=0)
    status, told = command(small, "verify", "pool", "--repair")
    assert (status, told.endswith("pool: all agrees\n")) == (0, True), told
    pool = SharedPool.attach("pool", folder=small.parent)
    assert pool.guarantee().held
    for buf in pool.alloc_many(4):
        buf.fill(3)
        pool.free(buf)
    assert pool.verify() == []
    pool.close()
    assert sorted(entry.name for entry in small.parent.iterdir()) == ["others", "pool"]


@pytest.mark.long_on_both
def test_where_not_even_its_words_have_room_a_repair_says_so_and_can_be_done_later(small: Path) -> None:
    """A MemoryError that names the way out; the old file is as it was."""
    shared(small, reserve=0, limit=8).close()
    damage(small)
    fill(small.parent, leave=0)
    before = small.read_bytes()
    status, told = command(small, "verify", "pool", "--repair")
    assert status == 1
    assert "no room for" in told
    assert "enlarge that file system (docker run --shm-size)" in told
    assert small.read_bytes() == before
    assert sorted(entry.name for entry in small.parent.iterdir()) == ["others", "pool"]
    (small.parent / "others").unlink()
    assert command(small, "verify", "pool", "--repair")[0] == 0
    assert repair.examine(small).wrong == ()


@pytest.mark.long_on_both
def test_a_repair_that_finds_no_room_hands_out_nothing_without_memory(small: Path) -> None:
    """It has given the elements' memory back by then, and that was not enough: a write to one would be a SIGBUS."""
    shared(small, size=4096, limit=8).close()
    damage(small)
    fill(small.parent, leave=0)
    status, told = command(small, "verify", "pool", "--repair")
    assert (status, "no room for" in told) == (1, True), told
    with (small.parent / "others").open("ab", buffering=0) as others, contextlib.suppress(OSError):
        while others.write(bytes(4096)):  # somebody else is faster
            pass
    script = f"""
import mempool
pool = mempool.SharedPool.attach("pool", folder={str(small.parent)!r})
while (buf := pool.try_alloc()) is not None:
    buf.fill(1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "PoolCorrupt" in done.stderr) == (1, True), done.stderr
    (small.parent / "others").unlink()
    assert command(small, "verify", "pool", "--repair")[0] == 0
    assert SharedPool.attach("pool", folder=small.parent).guarantee() == shared(small, size=4096).guarantee()
    assert repair.examine(small).targets == (4, 8, 8)


@pytest.mark.long_on_both
def test_whoever_comes_to_a_full_file_system_has_the_reserve(small: Path) -> None:
    """Attaching, taking, and what commands do need no room; growing says how much there is none for."""
    pool = shared(small, limit=8)
    fill(small.parent, leave=0)
    with SharedPool.attach("pool", folder=small.parent) as other:
        held = other.alloc_many(4)
        for buf in held:
            buf.fill(1)
        assert pool.try_alloc() is None
        with pytest.raises(PoolTimeout, match="its file system is full"):
            pool.alloc(timeout=0)
        other.free_many(held)
    for arguments in (["verify", "pool"], ["ls"], ["why", "pool"], ["reap", "pool"]):
        status, told = command(small, *arguments)
        assert status == 0, told
    status, told = command(small, "resize", "pool", "--reserve", "8")
    assert (status, "4 unfunded: memory ran out" in told) == (0, True), told
    assert (pool.guarantee().unfunded, pool.verify()) == (4, [])
    pool.close()
    assert command(small, "rm", "pool")[0] == 0


@pytest.mark.parametrize("small", ["32m,nr_inodes=4"], indirect=True)
def test_a_file_system_without_room_for_a_file_is_a_memory_error(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are there, and no inode; that is the same to who makes a pool. Nothing is left."""
    made = []
    with contextlib.suppress(OSError):
        for number in range(9):
            (small.parent / str(number)).touch()
            made.append(number)
    assert 0 < len(made) < 9
    with pytest.raises(MemoryError, match="enlarge that file system"):
        shared(small)
    monkeypatch.setenv("MEMPOOL_SHARED_FOLDER", str(small.parent / "pools"))
    with pytest.raises(MemoryError, match="enlarge that file system"):  # not even for the folder
        SharedPool("pool", size=MEBIBYTE, reserve=4)
    assert len(list(small.parent.iterdir())) == len(made)
    (small.parent / "0").unlink()
    with shared(small) as pool:
        assert pool.guarantee().held
