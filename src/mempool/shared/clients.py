"""Who is dead: the lock that a process holds as long as it lives, and whether it still maps the file.

A client holds a lock on a byte of its own, far beyond the end of the file. It is a lock of an *open file description*: a
process cannot lose it by closing another descriptor of the same file, and the kernel drops it when the last descriptor goes,
however the process ends. It is never unlocked where it might be shared: in a child of a fork, F_UNLCK would drop the
parent's lock, so a child closes what it inherited and nothing else.

A free byte proves little by itself: a process may have closed every descriptor that it did not know (daemons do). Hence the
second key: does that process still map this file? It tells death, exec and a reused number apart from a living process
without its descriptors, which is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mempool.shared.file import LOCKS

FLOCK = struct.Struct("hh4xqqi4x")
F_OFD_GETLK = 36
F_OFD_SETLK = 37
#: How often, and after how many seconds each, it is tried to be alone with a name: a second in all.
NAME_ATTEMPTS, NAME_PAUSE = 1000, 0.001


def lock(fd: int, client: int) -> bool:
    """Take a client's byte, for as long as this open file lives. False: another one has it."""
    return _lock(fd, client, 1)


def lock_all(fd: int, clients: int) -> bool:
    """Take the bytes of so many clients in one step, all or none."""
    return _lock(fd, 0, clients)


def _lock(fd: int, first: int, count: int) -> bool:
    try:
        fcntl.fcntl(fd, F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, LOCKS + first, count, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


def unlock(fd: int, client: int) -> None:
    """Let go of a byte that this very process has just locked, and has told nobody of."""
    fcntl.fcntl(fd, F_OFD_SETLK, FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, LOCKS + client, 1, 0))


def unlock_all(fd: int) -> None:
    """Let go of all that this very process has locked by this open file.

    To close it is not enough: a child that another thread has just forked may not have known that it had it, and would keep
    the locks as long as it lives. See test_a_child_forked_while_another_thread_leaves_keeps_no_lock.
    """
    fcntl.fcntl(fd, F_OFD_SETLK, FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, LOCKS, 0, 0))


def is_locked(fd: int, client: int) -> bool:
    """Whether another open file holds a client's byte. (One's own lock is not seen.)"""
    told = fcntl.fcntl(fd, F_OFD_GETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, LOCKS + client, 1, 0))
    kind: int = FLOCK.unpack(told)[0]
    return kind != fcntl.F_UNLCK


def locked_at_once(fd: int, clients: int) -> int:
    """How many of so many bytes another open file has taken in one step: 0: none is taken; all: by `lock_all`."""
    told = fcntl.fcntl(fd, F_OFD_GETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, LOCKS, clients, 0))
    kind, _, _, count, _ = FLOCK.unpack(told)
    return 0 if kind == fcntl.F_UNLCK else int(count)


@contextlib.contextmanager
def taking_the_name(path: Path) -> Iterator[None]:
    """Who takes the name of this file away is alone from its look to the deed.

    Of two at once, the second would take it from the pool that has been made anew since its look, and then there would be
    two pools of one name. Raises FileNotFoundError; TimeoutError where another one, who may be stopped, does not end.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        for _ in range(NAME_ATTEMPTS):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(NAME_PAUSE)
        else:
            raise TimeoutError(f"{path}: another process is taking this name away, and does not end; is it stopped?")
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # a child of a fork may have it, too
    finally:
        os.close(file)


@dataclass(frozen=True)
class Process:
    """What a client tells of itself when it attaches."""

    pid: int
    started: int
    pid_namespace: int


def start_time(pid: int) -> int | None:
    """In ticks since the machine began. None: there is no such process, or nobody may know."""
    try:
        told = Path(f"/proc/{pid}/stat").read_bytes()
        return int(told.rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def this_process() -> Process:
    """For the client's record. Zeros where /proc is missing: then the lock alone decides."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - a Path says the same in more words
    except OSError:
        return Process(os.getpid(), 0, 0)
    return Process(os.getpid(), start_time(os.getpid()) or 0, namespace)


def mapped_as(address: int) -> bytes | None:
    """How /proc/PID/maps names the file that is mapped here at this address: its device and inode. None: it does not say.

    Read off and not worked out, because some file systems give another device there than stat does.
    """
    try:
        lines = Path("/proc/self/maps").read_bytes().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(None, 5)
        begin, _, end = fields[0].partition(b"-")
        if int(begin, 16) <= address < int(end, 16):
            return b" ".join(fields[3:5])
    return None


def spans_of(file: bytes) -> list[tuple[int, int]]:
    """Where this very process maps the file: from where, up to where."""
    spans = []
    for line in Path("/proc/self/maps").read_bytes().splitlines():
        fields = line.split(None, 5)
        if b" ".join(fields[3:5]) == file:
            begin, _, end = fields[0].partition(b"-")
            spans.append((int(begin, 16), int(end, 16)))
    return spans


def still_maps(process: Process, file: bytes | None, here: Process) -> bool:
    """Whether the process that wrote this record maps the file. False as well where its number belongs to another one."""
    if file is None or process.pid_namespace != here.pid_namespace or here.pid_namespace == 0:
        return False  # its number means nothing here, so the lock alone decides
    now = start_time(process.pid)
    if now is not None and now != process.started:
        return False
    try:
        lines = Path(f"/proc/{process.pid}/maps").read_bytes().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True  # alive, and not to be looked into
    return any(b" ".join(line.split(None, 5)[3:5]) == file for line in lines)
