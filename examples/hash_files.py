"""Hash every file below a folder in bounded memory: `python hash_files.py FOLDER [threads]`, like sha256sum.

Each thread leases one buffer for one file. However many threads there are, no more memory is used than the pool's limit;
however short memory is, the reserve keeps some of them going.
"""

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mempool import Buffers, Pool


def digest(path: Path, pool: Pool) -> str:
    """The SHA-256 of a file, read through one buffer of the pool."""
    hasher = hashlib.sha256()
    with pool.lease() as buffer, path.open("rb", buffering=0) as file, buffer[:] as view:
        while length := file.readinto(view):
            hasher.update(view[:length])
    return hasher.hexdigest()


def main(folder: Path, pool: Pool, threads: int = 8) -> dict[Path, str]:
    """The digests of all files below `folder`."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    with ThreadPoolExecutor(threads) as executor:
        return dict(zip(paths, executor.map(digest, paths, [pool] * len(paths)), strict=True))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python hash_files.py FOLDER [threads]")
    with Pool(Buffers("256 KiB"), reserve=2, limit=16, name="chunks") as chunks:
        for path, hexdigest in main(Path(sys.argv[1]), chunks, *map(int, sys.argv[2:])).items():
            print(hexdigest, path, sep="  ")
