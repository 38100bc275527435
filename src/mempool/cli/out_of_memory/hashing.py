"""What the workers of a child do: take the next file, read it into a buffer, hash it, note what became of it.

The three runs differ in where the buffer comes from, and in nothing else. Under the limit nothing here grows: a file's
status and digest have had their places since before.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import FileIO
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from mempool.buffer import exported
from mempool.cli.out_of_memory.words import Job, Run, Status

if TYPE_CHECKING:
    from mempool import Pool

DIGEST_SIZE = 32
COMPLAINTS_MAX = 5


class TimeUpError(Exception):
    """The run is over before this file is."""


class Mark(NamedTuple):
    """Something that happens on the way."""

    share: float
    """Of the files (or of the time), from 0 to 1."""
    happens: Callable[[], None]
    in_a_lull: bool = False
    """Only when nobody has a file, and so nobody a buffer: the work pauses for a moment."""


class Course:
    """Hands out one file after the other. At marks on the way something happens, before the next file.

    All runs have the same course. It is measured in files, so that it is the same on a slow machine; in time, where
    the time does not do for all of them.
    """

    def __init__(self, files: int, seconds: float, marks: Iterable[Mark]) -> None:
        self._files = files
        self._seconds = seconds
        self._marks = deque(marks)
        self._given = 0
        self.in_work: int = 0
        self.waiting: int = 0
        self._turn = threading.Condition()
        self.began: float = time.monotonic()

    def begin(self) -> None:
        """The clock starts."""
        self.began = time.monotonic()

    def next(self) -> int | None:
        """The number of a file, or None: there is no more. Say `done` when it is."""
        with self._turn:
            while self._marks and self._share() >= int(self._marks[0].share * self._files) / self._files:
                if self._marks[0].in_a_lull and self.in_work:
                    self.waiting += 1
                    self._turn.wait()
                    self.waiting -= 1
                else:
                    self._marks.popleft().happens()
            if self._share() >= 1.0:
                return None
            self._given += 1
            self.in_work += 1
            return self._given - 1

    def done(self) -> None:
        """The file, and its buffer, are out of somebody's hands."""
        with self._turn:
            self.in_work -= 1
            if not self.in_work:
                self._turn.notify_all()

    def check_time(self) -> None:
        """Raise TimeUpError when it is."""
        if time.monotonic() - self.began > self._seconds:
            raise TimeUpError

    def _share(self) -> float:
        # A mark's share is rounded down to whole files, so that even a single file meets all of them.
        return max(self._given / self._files, (time.monotonic() - self.began) / self._seconds)


class Hashing:
    """The files of one run, and what became of them."""

    def __init__(self, job: Job, paths: Sequence[bytes], course: Course) -> None:
        self.pool: Pool[Any] | None = None
        self.queue: SimpleQueue[bytearray] = SimpleQueue()
        self.statuses: bytearray = bytearray(job.rounds * len(paths))
        self.digests: bytearray = bytearray(job.rounds * len(paths) * DIGEST_SIZE)
        self.complaints: list[str] = []
        self.in_use_max: int = 0
        self.files_of_the_task: int = 0
        self._job = job
        self._paths = paths
        self._course = course
        # A number per worker: adding to a shared one would lose some.
        self._hashed = [0] * job.workers
        self._reads = [0] * job.workers
        self._in_use = [0] * job.workers
        self._waited_max = [0.0] * job.workers

    @property
    def hashed(self) -> int:
        """Bytes, so far."""
        return sum(self._hashed)

    @property
    def reads(self) -> int:
        """Reads, so far."""
        return sum(self._reads)

    @property
    def waited_max(self) -> float:
        """Seconds that anybody has waited for a buffer, at most."""
        return max(self._waited_max)

    def borrow(self) -> AbstractContextManager[Any]:
        """A buffer for one file. All that the three runs do not have in common is here."""
        match self._job.run:
            case Run.BYTEARRAY:
                return nullcontext(bytearray(self._job.buffer_size))
            case Run.POOL:
                assert self.pool is not None
                return self.pool.lease()
            case Run.QUEUE:
                return self._borrow_from_queue()

    @contextmanager
    def _borrow_from_queue(self) -> Iterator[bytearray]:
        buffer = self.queue.get()
        try:
            yield buffer
        finally:
            self.queue.put(buffer)

    def warm_up(self, worker: int) -> None:
        """Hash a file of our own, so that what a thread needs once (OpenSSL keeps a state for each) is there."""
        self._read(os.fsencode(__file__), bytearray(1 << 16), worker)
        self._hashed[worker] = self._reads[worker] = 0

    def work(self, worker: int) -> None:
        """Hash files until there are no more."""
        while (number := self._course.next()) is not None:
            try:
                self._keep(number, self._hash(number, worker))
            except Exception as error:  # noqa: BLE001 - noted
                self._note(number, worker, error)
            finally:
                self._course.done()

    async def work_as_a_task(self, worker: int, beside: Executor) -> None:
        """The same in an event loop, on the same pool: while the task stands in the line, its loop goes on."""
        assert self.pool is not None
        call = asyncio.get_running_loop().run_in_executor
        while (number := await call(beside, self._course.next)) is not None:
            try:
                asked = time.perf_counter()
                async with self.pool.lease() as buffer:
                    self._begin_use(worker, asked)
                    digest = await call(beside, self._read, self._path(number), buffer, worker)
                    self._in_use[worker] = 0
                self._keep(number, digest)
                self.files_of_the_task += 1
            except Exception as error:  # noqa: BLE001 - noted
                self._note(number, worker, error)
            finally:
                self._course.done()

    def _hash(self, number: int, worker: int) -> bytes:
        # A call of its own, so that nothing refers to a bytearray of run A any more once its file is done.
        asked = time.perf_counter()
        with self.borrow() as buffer:
            self._begin_use(worker, asked)
            digest = self._read(self._path(number), buffer, worker)
            self._in_use[worker] = 0
        return digest

    def use_after_return(self) -> str | None:
        """A planted mistake: a buffer is used after it was returned and handed out again.

        The name of the error that says so, or None: there was none.
        """
        match self._job.run:
            case Run.BYTEARRAY:
                return None
            case Run.QUEUE:
                returned = self.queue.get()
                self.queue.put(returned)
                while (another := self.queue.get()) is not returned:
                    self.queue.put(another)
                self.queue.put(another)
            case Run.POOL:
                assert self.pool is not None
                returned = self.pool.alloc()
                self.pool.free(returned)
                another = self.pool.alloc()
                self.pool.free(another)
        try:
            returned[0] = 1
        except Exception as error:  # noqa: BLE001 - whichever it is
            return type(error).__name__
        return None

    def _path(self, number: int) -> bytes:
        return self._paths[number % len(self._paths)]

    def _begin_use(self, worker: int, asked: float) -> None:
        self._waited_max[worker] = max(self._waited_max[worker], time.perf_counter() - asked)
        self._in_use[worker] = 1
        self.in_use_max = max(self.in_use_max, sum(self._in_use))

    def _keep(self, number: int, digest: bytes) -> None:
        self.digests[number * DIGEST_SIZE : (number + 1) * DIGEST_SIZE] = digest
        self.statuses[number] = Status.DONE

    def _note(self, number: int, worker: int, error: Exception) -> None:
        self._in_use[worker] = 0
        match error:
            case MemoryError():
                status = Status.OUT_OF_MEMORY
            case FileNotFoundError():
                status = Status.VANISHED
            case OSError():
                status = Status.OUT_OF_MEMORY if error.errno == errno.ENOMEM else Status.UNREADABLE
            case TimeUpError():
                status = Status.NOT_REACHED
            case _:  # reported, and the run fails
                status = Status.BROKEN
                if len(self.complaints) < COMPLAINTS_MAX:
                    self.complaints.append(f"{type(error).__name__}: {error}")
        self.statuses[number] = status

    def _read(self, path: bytes, buffer: Any, worker: int) -> bytes:
        digest = hashlib.sha256()
        with memoryview(exported(buffer)) as whole, open_regular(path) as file:
            length = len(whole)
            while length:
                if length == len(whole):  # a shorter read was the last one, as far as anybody can tell
                    time.sleep(self._job.latency)
                    self._reads[worker] += 1
                length = file.readinto(whole) or 0
                with whole[:length] as part:
                    digest.update(part)
                self._hashed[worker] += length
                self._course.check_time()
        return digest.digest()


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
