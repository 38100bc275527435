"""Buffers(memory=...): buffers in memory of somebody else's: shared memory, a file, a bytearray."""

from __future__ import annotations

import gc
import mmap
import subprocess
import sys
from collections import deque
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest

from mempool import Buffer, Buffers, Pool, PoolTimeout, UseAfterFree
from mempool.sources import BufferRegion

SIZE = 4096


class Pieces:
    """Pieces of any buffer."""

    def __init__(self, whole: Any, size: int = SIZE) -> None:
        self.size = size
        with memoryview(whole) as view:
            self.free = deque(BufferRegion(view[i : i + size]) for i in range(0, len(view), size))

    def take(self) -> BufferRegion:
        try:
            return self.free.pop()
        except IndexError:
            raise MemoryError("all pieces are taken") from None

    def give(self, region: BufferRegion) -> None:
        self.free.append(region)


def test_a_pool_lives_in_any_buffer() -> None:
    """What is written into a buffer lies in the memory that was given; all regions are given back in the end."""
    whole = bytearray(4 * SIZE)
    pieces = Pieces(whole)
    with Pool(Buffers(memory=pieces), 2, limit=4) as pool:
        buf = pool.alloc()
        assert len(buf) == SIZE
        buf.fill(7)
        assert whole.count(7) == SIZE
        assert pool.guarantee().level is None
        pool.free(buf)
        with pytest.raises(UseAfterFree):
            buf[0]
    assert len(pieces.free) == 4


def test_a_region_has_at_least_one_byte() -> None:
    """And may have no more than one; memory whose regions have none is refused at once."""
    with Pool(Buffers(memory=Pieces(bytearray(2), size=1)), 2) as pool:
        buf = pool.alloc()
        assert len(buf) == 1
        pool.free(buf)
    empty = Pieces(bytearray(1), size=1)
    empty.size = 0
    with pytest.raises(TypeError, match="the bytes of each region"):
        Buffers(memory=empty)


def test_when_the_memory_is_used_up_the_reserve_is_there() -> None:
    """take raises MemoryError; callers wait for each other, as with any source that fails."""
    with Pool(Buffers(memory=Pieces(bytearray(2 * SIZE))), 2) as pool:
        first, second = pool.alloc(), pool.alloc()
        with pytest.raises(PoolTimeout, match="all pieces are taken"):
            pool.alloc(timeout=0)
        pool.free(first)
        pool.free(second)
    with pytest.raises(MemoryError, match="all pieces are taken"):
        Pool(Buffers(memory=Pieces(bytearray(2 * SIZE))), 3)


def test_another_process_sees_what_is_written_into_shared_memory() -> None:
    """multiprocessing.shared_memory as the memory of a pool; another process reads it by its name."""
    shared = SharedMemory(create=True, size=2 * SIZE)
    try:
        pool: Pool[Buffer] = Pool(Buffers(memory=Pieces(shared.buf)), 2)
        buf = pool.alloc()
        buf[:5] = b"hello"
        offset = buf.address - BufferRegion(shared.buf).address
        code = (
            "import sys; from multiprocessing import resource_tracker as t; t.register = lambda *a: None;"
            "from multiprocessing.shared_memory import SharedMemory; s = SharedMemory(sys.argv[1]); o = int(sys.argv[2]);"
            "print(bytes(s.buf[o:o+5]).decode()); s.close()"
        )
        said = subprocess.run(
            [sys.executable, "-c", code, shared.name, str(offset)], capture_output=True, text=True, check=True, timeout=60
        )
        assert said.stdout.strip() == "hello"
        pool.free(buf)
        pool.close()
        del pool, buf
        gc.collect()
    finally:
        shared.close()
        shared.unlink()


def test_a_pool_in_a_file_writes_into_it(tmp_path: Path) -> None:
    """A file by mmap: what was written is there when the pool is gone."""
    path = tmp_path / "data"
    path.write_bytes(bytes(2 * SIZE))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as whole:
        pool: Pool[Buffer] = Pool(Buffers(memory=Pieces(whole)), 2)
        for buf in (pool.alloc(), pool.alloc()):
            buf.fill(ord("x"))
            pool.free(buf)
        pool.close()
        del pool, buf
        gc.collect()
    assert path.read_bytes() == b"x" * (2 * SIZE)


def test_views_keep_the_memory() -> None:
    """A view that outlives its pool looks at memory that is still there, and at nobody else's."""
    whole = bytearray(SIZE)
    pool: Pool[Buffer] = Pool(Buffers(memory=Pieces(whole)), 1)
    buf = pool.alloc()
    view = buf[:]
    with pytest.raises(BufferError):
        pool.free(buf)
    pool.close()
    del pool
    view[0] = 1
    assert whole[0] == 1
    with pytest.raises(BufferError):
        whole.append(0)  # a bytearray that is looked at keeps its place
    view.release()


def test_the_memory_decides_on_the_rest() -> None:
    pieces = Pieces(bytearray(SIZE))
    with pytest.raises(TypeError, match="leave them out"):
        Buffers(SIZE, memory=pieces)
    with pytest.raises(TypeError, match="leave them out"):
        Buffers(memory=pieces, level="locked")
    with pytest.raises(TypeError, match="how large"):
        Buffers()


def test_zero_and_poison_work_on_any_memory() -> None:
    whole = bytearray(b"x" * SIZE)
    with Pool(Buffers(memory=Pieces(whole), zero="alloc"), 1) as pool, pool.lease() as buf:
        assert not any(buf[:])
    with Pool(Buffers(memory=Pieces(whole), poison=True), 1) as pool:
        assert whole[0] == 0x6B


@pytest.mark.parametrize("missing", ["take", "give", "size"])
def test_what_cannot_give_regions_is_refused(missing: str) -> None:
    class Lacking(Pieces):
        pass

    pieces = Lacking(bytearray(SIZE))
    setattr(pieces, missing, None)
    with pytest.raises(TypeError, match=missing):
        Buffers(memory=pieces)


def test_a_region_must_be_writable() -> None:
    with pytest.raises(TypeError):
        BufferRegion(bytes(10))
