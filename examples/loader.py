"""A torch DataLoader whose workers fill shared buffers: `python loader.py FOLDER`.

A batch is the beginnings of some files. It stays where a worker has read it: the worker sends a token, and the loop looks
at the same memory as a tensor. Each batch is the loop's from the moment on in which it is offered, so no worker that ends,
or is killed, takes one along.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import mempool

try:
    import torch
    from torch.utils.data import DataLoader, Dataset
except ModuleNotFoundError as missing:
    sys.exit(f"loader.py needs {missing.name}: pip install torch")

FILES, BYTES = 16, 4096  # a batch: so many files, and so many bytes of each
WORKERS, AHEAD = 2, 2  # each worker may be so many batches ahead


class Batches(Dataset[tuple[int, mempool.Token]]):
    """Item i is the i-th batch: how many files are in it, and its token. The pool goes to each worker by its name."""

    def __init__(self, paths: list[Path], pool: mempool.SharedPool, reader: int) -> None:
        self.paths, self.pool, self.reader = paths, pool, reader

    def __len__(self) -> int:
        return (len(self.paths) + FILES - 1) // FILES

    def __getitem__(self, number: int) -> tuple[int, mempool.Token]:
        paths = self.paths[number * FILES : (number + 1) * FILES]
        batch = self.pool.alloc(timeout=60)
        try:
            batch.fill(0)
            for row, path in enumerate(paths):
                with path.open("rb", buffering=0) as file, batch[row * BYTES : (row + 1) * BYTES] as part:
                    file.readinto(part)
            return len(paths), self.pool.offer(batch, to=self.reader)
        finally:
            if batch.is_alive():
                self.pool.free(batch)


def sums(folder: Path) -> Iterator[tuple[int, int]]:
    """Of each batch: how many files there are, and the sum of all bytes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    limit = WORKERS * AHEAD + 1  # all that the workers may be ahead, and the one that the loop looks at
    with mempool.SharedPool(f"loader-{os.getpid()}", size=FILES * BYTES, reserve=2, limit=limit) as pool:
        try:
            batches = Batches(paths, pool, os.getpid())
            for count, token in DataLoader(batches, batch_size=None, num_workers=WORKERS, prefetch_factor=AHEAD):
                with pool.adopting(token) as batch:
                    rows = torch.from_dlpack(batch).view(FILES, BYTES)[:count]
                    total = int(rows.sum())
                    del rows  # nothing looks at a batch that goes back
                yield count, total
        finally:
            pool.unlink()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python loader.py FOLDER")
    for number, (count, total) in enumerate(sums(Path(sys.argv[1]))):
        print(f"batch {number}: {count} files, {total}")
