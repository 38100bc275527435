"""Child processes that use a shared pool: forked, and ended or killed by the test."""

from __future__ import annotations

import os
import signal
import struct
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mempool.shared.clients
from mempool.testing import wait_until


@dataclass
class Child:
    """What it tells, one number a line, is read with `hear`; it goes on when it is told `go`."""

    pid: int
    told: int
    go_on: int

    def hear(self) -> int:
        number: int = struct.unpack("q", os.read(self.told, 8))[0]
        return number

    def go(self) -> None:
        os.write(self.go_on, b".")

    def end(self, by: int | None = None) -> int:
        """Wait for its end, or bring it about. Its status."""
        if by is not None:
            os.kill(self.pid, by)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


class Parent:
    """What a child has of its parent."""

    def __init__(self, tell: int, go_on: int) -> None:
        self._tell, self._go_on = tell, go_on

    def tell(self, number: int) -> None:
        os.write(self._tell, struct.pack("q", number))

    def wait(self) -> None:
        os.read(self._go_on, 1)


@contextmanager
def child(run: Callable[[Parent], object]) -> Iterator[Child]:
    """Fork; the child runs this and ends with 0, or with 70 where anything is raised. It is killed if it still lives."""
    told, tell = os.pipe()
    heard, go_on = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            die_with_the_parent()
            run(Parent(tell, heard))
            status = 0
        except BaseException:  # noqa: BLE001 - the parent hears of it by the status
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(tell)
    os.close(heard)
    process = Child(pid, told, go_on)
    try:
        yield process
    finally:
        os.close(told)
        os.close(go_on)
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # it has ended, and was waited for


def die_with_the_parent() -> None:
    """A test run that is killed leaves nobody behind who uses a pool for ever."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def is_locked(engine: object, client: int) -> bool:
    """Whether a process holds this client's lock."""
    return mempool.shared.clients.is_locked(engine._lock, client)  # type: ignore[attr-defined]


def kill_at_work(workers: list[Iterator[int]], attach: Callable[[], Any], changes: int) -> None:
    """Kill all at once, by their group, when their pool has changed so often since the last one began.

    workers: generators that begin a process, give its number, and then wait for its end.
    attach: gives the pool as this process has it, once all have begun; it is closed before they are killed.
    """
    pids = [next(worker) for worker in workers]
    for pid in pids:
        os.setpgid(pid, pids[0])
    pool = attach()
    version = pool._engine.client.snapshot().version
    wait_until(lambda: pool._engine.client.snapshot().version - version > changes)  # they are at work
    pool.close()
    os.killpg(pids[0], signal.SIGKILL)
    for worker in workers:
        next(worker, None)
