"""Reader, workers, writer: `python thread_pipeline.py input output` compresses a file of any size in bounded memory.

A block travels from thread to thread in one buffer of the pool. The reader takes it, the writer gives it back, and when
all are on their way the reader waits in the pool's line: nothing else limits the queues, and nothing else has to.
"""

import queue
import sys
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from mempool import Buffers, Lease, Pool


def compress(buffer: object, length: int) -> bytes:
    """What a worker does to a block: a gzip member of its own, so that the members make one file."""
    packer = zlib.compressobj(wbits=31)
    with buffer[:] as view:  # which is gone before the writer frees the buffer
        return packer.compress(view[:length]) + packer.flush()


def write(file: BinaryIO, blocks: "queue.SimpleQueue[tuple[Lease, Future[bytes]] | None]") -> None:
    """The writer: each block in its turn, and its buffer back, whatever became of it."""
    failed: Exception | None = None
    for lease, done in iter(blocks.get, None):
        try:
            compressed = done.result()  # from here on no worker reads the buffer any more
            if failed is None:
                file.write(compressed)
        except Exception as error:  # noqa: BLE001 - raised below, when all is back
            failed = error
        finally:
            lease.release()
    if failed is not None:
        raise failed


def main(source: Path, output: Path, pool: Pool, workers: int = 2) -> None:
    blocks: queue.SimpleQueue = queue.SimpleQueue()
    with source.open("rb") as file, output.open("wb") as into, ThreadPoolExecutor(workers + 1) as threads:
        written = threads.submit(write, into, blocks)
        try:
            while True:
                lease = pool.lease()  # which is returned by itself if the file cannot be read
                size, length = len(lease.element), file.readinto(lease.element[:])
                pool.hand_over(lease.element)  # the writer will free it
                blocks.put((lease, threads.submit(compress, lease.element, length)))
                if length < size:  # the lease is the writer's by now, and may be over
                    break
        finally:
            blocks.put(None)
    written.result()


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python thread_pipeline.py INPUT OUTPUT")
    with Pool(Buffers("256 KiB"), reserve=4, limit=16, name="blocks") as buffers:
        main(Path(sys.argv[1]), Path(sys.argv[2]), buffers)
