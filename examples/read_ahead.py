"""Processes that read files into shared buffers, ahead of one that uses them: `python read_ahead.py FOLDER`.

What comes back from an executor is a token, and the bytes stay where a worker has read them. There are eight buffers, so the
workers wait when they are eight files ahead, and memory has a bound however large the folder is. The files are taken as they
come: who takes them in order must have a buffer for each that may come too early.
"""

import os
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import mempool

SIZE = 1 << 20  # bytes: of larger files the beginning
pool: mempool.SharedPool  # in a worker


def attach(name: str) -> None:
    """First in each worker."""
    global pool  # noqa: PLW0603 - the pool of this process
    pool = mempool.SharedPool.attach(name)


def read(path: Path, reader: int) -> tuple[Path, int, mempool.Token]:
    """In a worker: the file's bytes, addressed to the process that wants them."""
    buf = pool.alloc(timeout=60)
    try:
        with path.open("rb", buffering=0) as file, buf[:] as view:
            length = file.readinto(view)
        return path, length, pool.offer(buf, to=reader)  # the reader's from here on, though this worker should end
    finally:
        if buf.is_alive():
            pool.free(buf)


def checksums(folder: Path, workers: int = 3) -> Iterator[tuple[Path, int]]:
    """The CRC of each file, as they come."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    name = f"read-ahead-{os.getpid()}"
    with mempool.SharedPool(name, size=SIZE, reserve=2, limit=8) as buffers:
        try:
            with ProcessPoolExecutor(workers, get_context("spawn"), initializer=attach, initargs=(name,)) as executor:
                for done in as_completed([executor.submit(read, path, os.getpid()) for path in paths]):
                    path, length, token = done.result()
                    with buffers.adopting(token) as buf, buf[:length] as view:
                        crc = zlib.crc32(view)
                    yield path, crc
        finally:
            buffers.unlink()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python read_ahead.py FOLDER")
    for path, crc in checksums(Path(sys.argv[1])):
        print(f"{crc:08x}  {path}")
