"""A cache that needs memory to free memory: `python spill_cache.py FOLDER SPILL [reserve]`.

It keeps the blocks of all files below FOLDER in memory until there is none left, then writes the oldest to SPILL. For that
it needs a buffer, and to ask for one when memory has run out is too late. Try a reserve of 0.
"""

import hashlib
import resource
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mempool import Buffers, Pool

T = TypeVar("T")
BLOCK, HEADER = 1 << 20, 8  # bytes; a header is a length and a CRC-32


class SpillCache:
    """Blocks by key: in memory as long as there is some, then in a file."""

    def __init__(self, pool: Pool, file: Path) -> None:
        self.pool = pool
        self.file = file.open("w+b", buffering=0)
        self.warm: dict[object, bytes] = {}  # the oldest first
        self.cold: dict[object, int] = {}  # where in the file

    def put(self, key: object, path: Path, offset: int) -> None:
        """Keep a block of a file, at the price of older ones if need be."""
        while True:
            try:
                with path.open("rb", buffering=0) as file:
                    file.seek(offset)
                    self.warm[key] = file.read(BLOCK)
                return
            except MemoryError:
                if not self.warm:
                    raise
                self.spill()

    def spill(self) -> None:
        """Write the oldest block out and forget it. The memory that this needs is reserved."""
        key, block = next(iter(self.warm.items()))
        with self.pool.lease() as buffer, buffer[:] as view:
            view[:HEADER] = len(block).to_bytes(4, "big") + zlib.crc32(block).to_bytes(4, "big")
            view[HEADER : HEADER + len(block)] = block
            self.cold[key] = self.file.seek(0, 2)
            self.file.write(view)
        del self.warm[key]

    def read(self, key: object, use: Callable[[bytes | memoryview], T]) -> T:
        """What `use` makes of a block, wherever it is."""
        if key in self.warm:
            return use(self.warm[key])
        with self.pool.lease() as buffer, buffer[:] as view:
            self.file.seek(self.cold[key])
            self.file.readinto(view)
            with view[HEADER : HEADER + int.from_bytes(view[:4], "big")] as block:
                if zlib.crc32(block) != int.from_bytes(view[4:HEADER], "big"):
                    raise OSError(f"{self.file.name}: the block {key} has changed")
                return use(block)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python spill_cache.py FOLDER SPILL [reserve]")
    folder, spilled, reserve = Path(sys.argv[1]), Path(sys.argv[2]), int((sys.argv[3:] or ["1"])[0])
    staging = Pool(Buffers(HEADER + BLOCK), reserve=reserve, keep=max(reserve, 1), timeout=0.5, name="staging")
    cache = SpillCache(staging, spilled)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 24 * BLOCK, -1))  # a small machine, for the example's sake
    for path in filter(Path.is_file, sorted(folder.rglob("*"))):
        for offset in range(0, path.stat().st_size, BLOCK):
            cache.put((str(path), offset), path, offset)
    print(f"{len(cache.warm)} blocks in memory, {len(cache.cold)} spilled")
    for key in [*cache.warm, *cache.cold]:
        print(cache.read(key, lambda block: hashlib.sha256(block).hexdigest()), *key)
