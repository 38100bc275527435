"""A daemon closes all descriptors that it does not know, a shared pool's as well, and their numbers are soon strangers'.

It goes on with the pool all the same: it opens the file and locks anew. And it touches nothing of those strangers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import Parent, child, is_locked

from mempool.errors import PoolTimeout
from mempool.shared import clients
from mempool.shared.layout import MAGIC
from mempool.shared.pool import SharedPool
from mempool.testing import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def make(path: Path, **options: Any) -> SharedPool:
    return SharedPool(path.name, **{"size": 4096, "reserve": 1, "limit": 1, "folder": path.parent, **options})


def nothing() -> list[socket.socket]:
    return []


def files() -> list[Any]:
    return [tempfile.TemporaryFile() for _ in range(2)]


def sockets() -> list[socket.socket]:
    return list(socket.socketpair())


def descriptors() -> set[int]:
    """Those of this process. (The list of them is one while it is read.)"""
    return {int(entry.name) for entry in list(Path("/proc/self/fd").iterdir()) if entry.is_symlink()}


Strangers = Callable[[], list[Any]]


@contextlib.contextmanager
def lost(numbers: list[int], strangers: Strangers) -> Iterator[None]:
    """As a daemon does it: these descriptors are closed, and then their numbers are strangers'."""
    theirs = strangers()
    for number in numbers:
        os.close(number)
    for number, stranger in zip(numbers, theirs, strict=False):
        os.dup2(stranger.fileno(), number, inheritable=False)
    for stranger in theirs:
        stranger.close()
    were = [os.fstat(number) for number in numbers] if theirs else []
    try:
        yield
        assert [os.fstat(number) for number in numbers[: len(were)]] == were
    finally:
        for number in numbers[: len(were)]:
            os.close(number)


def of(pool: SharedPool) -> list[int]:
    return [pool._engine.client._file, pool._engine.client._lock]


each_use = pytest.mark.parametrize("strangers", [nothing, files, sockets])


def hold(path: Path) -> Callable[[Parent], None]:
    def run(parent: Parent) -> None:
        pool = make(path)
        buf = pool.alloc()
        parent.tell(buf.block.region.slot)
        parent.wait()

    return run


@each_use
def test_a_process_that_lost_its_descriptors_gets_what_a_killed_one_had(pool_path: Path, strangers: Strangers) -> None:
    """It waited for ever: who looked around in it had died of EBADF. And its own lock was free."""
    pool = make(pool_path)
    with lost(of(pool), strangers), child(hold(pool_path)) as holder:
        holder.hear()
        with pytest.raises(PoolTimeout):
            pool.alloc(timeout=0.5)
        assert pool.reclaim() == 0
        assert holder.end(signal.SIGKILL) == -signal.SIGKILL
        with pool.lease(timeout=20):
            pass
        other = make(pool_path)
        assert is_locked(other._engine.client, pool._engine.client.number)
        assert pool.verify() == []
        pool.close()


@each_use
def test_a_child_that_closed_what_it_inherited_attaches_by_the_name(pool_path: Path, strangers: Strangers) -> None:
    pool = make(pool_path)

    def use(parent: Parent) -> None:
        with lost([pool._engine.client._file, os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)], strangers):
            with pool.lease(timeout=20):
                parent.tell(pool._engine.client.number)
                parent.wait()
            pool.close()

    with child(use) as forked:
        number = forked.hear()
        assert is_locked(pool._engine.client, number)
        assert pool.reclaim() == 0
        forked.go()
        assert forked.end() == 0


def test_without_a_name_the_second_key_alone_tells_who_is_dead(pool_path: Path) -> None:
    pool = make(pool_path)
    with child(hold(pool_path)) as holder:
        holder.hear()
        pool.unlink()
        with lost(of(pool), nothing):
            assert pool.reclaim() == 0
            assert holder.end(signal.SIGKILL) == -signal.SIGKILL
            assert pool.reclaim() == 1
            with pool.lease(timeout=20):
                pass


@pytest.mark.parametrize("strangers", [files, sockets])
def test_who_leaves_closes_nothing_of_a_stranger(pool_path: Path, strangers: Strangers) -> None:
    """Nor in a child of a fork."""
    pool = make(pool_path)
    with lost(numbers := of(pool), strangers):
        with child(lambda _parent: [os.fstat(number) for number in numbers]) as forked:
            assert forked.end() == 0
        pool.close()


def test_what_is_mapped_has_no_descriptor_that_a_stranger_may_get(pool_path: Path) -> None:
    """Python's `mmap` had a copy of the file's, and closed it when the pool was collected, whosever that was by then."""
    before = descriptors()
    pool = make(pool_path)
    assert descriptors() - before == set(of(pool))
    with lost(of(pool), files):
        view = memoryview(pool._engine.client._tx.mapping)
        pool.close()
        del pool
        gc.collect()
        assert view[:8] == MAGIC  # it is mapped as long as somebody looks
        del view


def test_two_pools_of_one_file_close_their_own(pool_path: Path) -> None:
    """The second one's descriptors have the numbers of those that the first one lost."""
    pool = make(pool_path)
    with lost(numbers := of(pool), nothing):
        other = make(pool_path)
        assert set(of(other)) & set(numbers)
        pool.close()
        for number in of(other):
            os.fstat(number)
        other.close()


def _senders() -> list[int]:
    """The descriptors of sockets by which this process tells loops of others."""
    found = []
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as end:
                    if (end.family, end.type, end.getsockname()) == (socket.AF_UNIX, socket.SOCK_DGRAM, ""):
                        found.append(number)
    return found


def test_a_loop_is_told_through_nobody_elses_socket(pool_path: Path) -> None:
    """A connected TCP socket takes what is sent to any address: four bytes of ours were in a stranger's stream."""
    pool, other = make(pool_path), make(pool_path)

    async def serve_one() -> None:
        held = other.alloc()
        task = asyncio.create_task(pool.alloc_async(timeout=20))
        while pool.waiting == 0:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        other.free(held)
        pool.free(await task)

    asyncio.run(serve_one())
    numbers = _senders()
    assert numbers
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = socket.create_connection(server.getsockname())
        there, _ = server.accept()
    with here, there:
        for number in numbers:
            os.dup2(here.fileno(), number, inheritable=False)
        asyncio.run(serve_one())
        for number in numbers:
            os.close(number)
        here.close()
        assert there.recv(100) == b""


def test_who_lost_its_lock_takes_it_again_though_another_one_has_it_for_a_moment(pool_path: Path) -> None:
    """That one just looks whether it lives. It went on without a lock to its end: for who does not see it, it was dead."""
    pool = make(pool_path)
    client = pool._engine.client
    looker = os.open(pool_path, os.O_RDWR | os.O_CLOEXEC)
    try:
        with lost(of(pool), nothing):
            assert clients.lock(looker, client.number)
            assert pool.reclaim() == 0
            clients.unlock(looker, client.number)
            assert pool.reclaim() == 0
            assert clients.is_locked(looker, client.number)
            pool.close()
    finally:
        os.close(looker)


def _pidfds() -> set[int]:
    found = set()
    for number in descriptors():
        with contextlib.suppress(OSError):
            if "\nPid:" in Path(f"/proc/self/fdinfo/{number}").read_text():
                found.add(number)
    return found


@each_use
def test_who_watches_processes_closes_nothing_of_a_stranger(pool_path: Path, strangers: Strangers) -> None:
    """It closed what had the number of a pidfd by then: a log, a connection. Or it ended with a traceback."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("no pidfd here")
    pool = make(pool_path)
    with child(hold(pool_path)) as holder:
        holder.hear()
        before = _pidfds()
        waiter = threading.Thread(target=lambda: pool.free(pool.alloc(timeout=60)))
        waiter.start()
        wait_until(lambda: _pidfds() - before)
        with lost(list(_pidfds() - before), strangers):
            assert holder.end(signal.SIGKILL) == -signal.SIGKILL
            waiter.join(60)
            wait_until(lambda: not any("watcher" in thread.name for thread in threading.enumerate()))
    pool.close()


@pytest.mark.parametrize("error", [OSError, MemoryError, KeyboardInterrupt])
def test_a_door_that_fails_while_its_socket_is_looked_at_leaves_none_open(
    pool_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """It stayed open as long as the process. A loop without a door is woken by a thread; other errors are the caller's."""

    def fail(_number: int) -> os.stat_result:
        raise error

    pool = make(pool_path)
    loop = asyncio.new_event_loop()
    before = descriptors()
    with monkeypatch.context() as patched, contextlib.suppress(MemoryError, KeyboardInterrupt):
        patched.setattr(os, "fstat", fail)
        assert pool._engine._doors.of(loop) is None
    assert descriptors() == before
    loop.close()
    pool.close()


def _is_open(descriptor: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(os.fstat(descriptor))
    return False


def test_who_watches_processes_closes_theirs_where_no_descriptor_is_to_be_had(pool_path: Path) -> None:
    """It opened a file to see whether it was a pidfd still; where that failed, the pidfd was kept until the process' end."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("no pidfd here")
    pool = make(pool_path)
    with child(hold(pool_path)) as holder:
        holder.hear()
        before = _pidfds()
        waiter = threading.Thread(target=lambda: pool.free(pool.alloc(timeout=60)))
        waiter.start()
        wait_until(lambda: _pidfds() - before)
        (watched,) = _pidfds() - before
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            assert holder.end(signal.SIGKILL) == -signal.SIGKILL
            wait_until(lambda: not _is_open(watched))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            waiter.join(60)
    pool.close()


@each_use
def test_a_door_that_is_lost_closes_nothing_of_a_stranger(pool_path: Path, strangers: Strangers) -> None:
    """A child that was forked in C may close all that it does not know before it looks at the pool."""
    pool = make(pool_path)
    loop = asyncio.new_event_loop()
    door = pool._engine._doors.of(loop)
    assert door is not None
    with lost([door._socket.number], strangers):
        pool._engine._doors.close_inherited()
    loop.close()
    pool.close()
