"""What the threads of a child do: take the next file, read it into chunks, hash it, note what became of it.

Under the limit nothing here grows: a file's status and digest have had their places since before.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from io import FileIO
from typing import TYPE_CHECKING, Any

from mempool.cli.out_of_memory.words import Job, Status

if TYPE_CHECKING:
    from mempool import Pool

DIGEST_SIZE = 32
COMPLAINTS_MAX = 5


class TimeUpError(Exception):
    """The run is over before this file is."""


class Course:
    """Hands out one file after the other. At marks on the way something happens, before the next file.

    Both runs have the same course. It is measured in files, so that it is the same on a slow machine; in time, where
    the time does not do for all of them.

    marks: the share of the files (or of the time) from 0 to 1, and what happens there, in this order.
    """

    def __init__(self, files: int, seconds: float, marks: Iterable[tuple[float, Callable[[], None]]]) -> None:
        self._files = files
        self._seconds = seconds
        self._marks = deque(marks)
        self._given = 0
        self._turn = threading.Lock()
        self.began: float = time.monotonic()

    def begin(self) -> None:
        """The clock starts."""
        self.began = time.monotonic()

    def next(self) -> int | None:
        """The number of a file, or None: there is no more."""
        with self._turn:
            share = max(self._given / self._files, (time.monotonic() - self.began) / self._seconds)
            # Rounded down, so that even a single file meets all of them.
            while self._marks and share >= int(self._marks[0][0] * self._files) / self._files:
                self._marks.popleft()[1]()
            if share >= 1.0:
                return None
            self._given += 1
            return self._given - 1

    def check_time(self) -> None:
        """Raise TimeUpError when it is."""
        if time.monotonic() - self.began > self._seconds:
            raise TimeUpError


class Hashing:
    """The files of one run, and what became of them."""

    def __init__(self, job: Job, paths: Sequence[bytes], course: Course) -> None:
        self.pool: Pool[Any] | None = None
        self.statuses: bytearray = bytearray(job.rounds * len(paths))
        self.digests: bytearray = bytearray(job.rounds * len(paths) * DIGEST_SIZE)
        self.complaints: list[str] = []
        self._chunk_size = job.element_size
        self._paths = paths
        self._course = course
        self._hashed = [0] * job.threads  # a number per thread: adding to a shared one would lose some
        self._chunks = [0] * job.threads

    @property
    def hashed(self) -> int:
        """Bytes, so far."""
        return sum(self._hashed)

    @property
    def chunks(self) -> int:
        """Fresh bytearrays, so far."""
        return sum(self._chunks)

    def warm_up(self, thread: int) -> None:
        """Hash a file of our own, so that what a thread needs once (OpenSSL keeps a state for each) is there."""
        self._hash(os.fsencode(__file__), thread)
        self._hashed[thread] = self._chunks[thread] = 0

    def work(self, thread: int) -> None:
        """Hash files until there are no more."""
        while (number := self._course.next()) is not None:
            self.statuses[number] = self._try(number, thread)

    def _try(self, number: int, thread: int) -> Status:
        try:
            digest = self._hash(self._paths[number % len(self._paths)], thread)
        except MemoryError:
            return Status.OUT_OF_MEMORY
        except FileNotFoundError:
            return Status.VANISHED
        except OSError as error:
            return Status.OUT_OF_MEMORY if error.errno == errno.ENOMEM else Status.UNREADABLE
        except TimeUpError:
            return Status.NOT_REACHED
        except Exception as error:  # noqa: BLE001 - reported, and the run fails
            if len(self.complaints) < COMPLAINTS_MAX:
                self.complaints.append(f"{type(error).__name__}: {error}")
            return Status.BROKEN
        self.digests[number * DIGEST_SIZE : (number + 1) * DIGEST_SIZE] = digest
        return Status.DONE

    def _hash(self, path: bytes, thread: int) -> bytes:
        digest = hashlib.sha256()
        if self.pool is None:
            self._read_without_pool(path, digest, thread)
        else:
            self._read_with_pool(self.pool, path, digest, thread)
        return digest.digest()

    def _read_without_pool(self, path: bytes, digest: hashlib._Hash, thread: int) -> None:
        with open_regular(path) as file:
            length = 1
            while length:
                chunk = bytearray(self._chunk_size)
                self._chunks[thread] += 1
                length = file.readinto(chunk) or 0
                with memoryview(chunk) as whole, whole[:length] as part:
                    digest.update(part)
                self._hashed[thread] += length
                self._course.check_time()

    def _read_with_pool(self, pool: Pool[Any], path: bytes, digest: hashlib._Hash, thread: int) -> None:
        with pool.lease() as element, memoryview(element) as whole, open_regular(path) as file:
            while length := file.readinto(whole):
                with whole[:length] as part:
                    digest.update(part)
                self._hashed[thread] += length
                self._course.check_time()


def open_regular(path: bytes) -> FileIO:
    """Open for raw reading. Raises OSError for what is not a regular file any more; waits for no FIFO's writer."""
    file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
    except BaseException:
        file.close()
        raise
    return file
