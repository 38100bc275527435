"""Dask results that spill to a disk, by a worker that needs memory to free memory: `python spill_results.py FILE MIB`.

A worker keeps its tasks' results in a mapping. This one writes the oldest to FILE when it has 8 MiB. For that it needs a
buffer just when there is no memory: so the buffers are a pool's, with a reserve, which a fleet can enlarge on all workers.
"""

import sys
import zlib
from collections.abc import Iterator, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

import mempool

try:
    from distributed import Client, LocalCluster

    from mempool.fleet.dask import Fleet
except ModuleNotFoundError as missing:
    sys.exit(f"spill_results.py needs {missing.name}: pip install distributed")

BLOCK, HEADER = 2 << 20, 4  # bytes: the largest result, and its CRC-32


class SpillingResults(MutableMapping[str, Any]):
    """A worker's results: the newest in memory, the others in a file."""

    def __init__(self, file: str, bytes_max: int) -> None:
        self.file, self.bytes_max = Path(file).open("w+b", buffering=0), bytes_max  # noqa: SIM115 - for good
        self.warm: dict[str, Any] = {}  # the oldest first
        self.cold: dict[str, tuple[int, int]] = {}  # where in the file, and how long

    def __setitem__(self, key: str, result: Any) -> None:
        self.cold.pop(key, None)
        self.warm[key] = result
        sizes = {key: len(kept) for key, kept in self.warm.items() if isinstance(kept, bytes)}
        if len(sizes) > 1 and sum(sizes.values()) > self.bytes_max:
            self.spill(next(iter(sizes)))

    def spill(self, key: str) -> None:
        """Write a result out, through a buffer that is there already; only then forget it."""
        with mempool.get("spill").lease(timeout=5) as buffer, buffer[: HEADER + len(self.warm[key])] as view:
            view[:HEADER], view[HEADER:] = zlib.crc32(self.warm[key]).to_bytes(HEADER, "big"), self.warm[key]
            self.cold[key] = self.file.seek(0, 2), len(view)
            self.file.write(view)
        del self.warm[key]

    def __getitem__(self, key: str) -> Any:
        if key in self.warm:
            return self.warm[key]
        where, size = self.cold[key]
        with mempool.get("spill").lease(timeout=5) as buffer, buffer[:size] as view:
            self.file.seek(where)
            self.file.readinto(view)
            with view[HEADER:] as result:
                if zlib.crc32(result) != int.from_bytes(view[:HEADER], "big"):
                    raise OSError(f"{self.file.name}: the result {key} has changed")
                return bytes(result)

    def __delitem__(self, key: str) -> None:
        del (self.warm if key in self.warm else self.cold)[key]

    def __iter__(self) -> Iterator[str]:
        return iter([*self.warm, *self.cold])

    def __len__(self) -> int:
        return len(self.warm) + len(self.cold)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python spill_results.py FILE MIB")
    store = SpillingResults(sys.argv[1], bytes_max=8 << 20)
    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0", data=store) as farm, Client(farm) as c:
        Fleet(c).create("spill", partial(mempool.Buffers, HEADER + BLOCK), reserve=1, limit=2, timeout=5)
        results = c.map(lambda number: bytes([number % 251]) * (1 << 20), range(int(sys.argv[2])))
        total = c.submit(sum, c.map(len, results)).result()
        print(f"{len(store.cold)} results spilled, {total >> 20} MiB in all")
