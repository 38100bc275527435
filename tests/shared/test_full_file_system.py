"""A tmpfs that is full: MemoryError or fewer elements, never SIGBUS. Each test mounts its own, where that is allowed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool.errors import PoolTimeout
from mempool.shared.engine import Handle, SharedEngine
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
