"""A worker that is resized while it runs: `find . -type f | python resize_on_signal.py`, and `kill -USR1 PID` meanwhile.

It prints the CRC-32 of each file that it is told of. Each file needs a buffer of the pool, so the pool's limit is how
many are read at once. SIGUSR1 doubles it and SIGUSR2 halves it, from the signal handler itself: no call of the pool is
in the handler's way, whatever the thread that it interrupts was doing, and elements beyond the new limit go when they
are returned.
"""

import signal
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

from mempool import Buffers, Pool

THREADS = 32
pool = Pool(Buffers("64 KiB"), reserve=2, keep=2, limit=2, name="worker")


def resize(number: int, _frame: FrameType | None) -> None:
    """What a signal does: reserve, keep and limit change at one moment."""
    now = pool.stats().reserve
    size = min(2 * now, THREADS) if number == signal.SIGUSR1 else max(now // 2, 1)
    print(pool.resize(size, keep=size, limit=size), file=sys.stderr, flush=True)


def checksum(name: str) -> None:
    """Print a line for a file."""
    try:
        with pool.lease() as buffer, Path(name).open("rb", buffering=0) as file, buffer[:] as view:
            crc = 0
            while length := file.readinto(view):
                crc = zlib.crc32(view[:length], crc)
    except OSError as error:
        sys.stdout.write(f"{error.strerror}  {name}\n")
    else:
        sys.stdout.write(f"{crc:08x}  {name}\n")
    sys.stdout.flush()


def main() -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, resize)
    print("ready", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(THREADS) as threads:
        for line in sys.stdin:
            threads.submit(checksum, line.rstrip("\n"))


if __name__ == "__main__":
    if sys.stdin.isatty():
        sys.exit("usage: find . -type f | python resize_on_signal.py")
    main()
