"""Who cleans up after a killed process is told which one that was and what it had: `on_reclaim`, and `reclaim`."""

from __future__ import annotations

import errno
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import Parent, child

from mempool.shared import watcher
from mempool.shared.killed import Killed, Reclaimed
from mempool.shared.pool import SharedPool
from mempool.shared.pool_engine import PoolEngine
from mempool.testing import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def make(path: Path, **options: Any) -> SharedPool:
    return SharedPool("frames", **{"size": 4096, "reserve": 2, "keep": 2, "limit": 6, "folder": path.parent, **options})


def attach(path: Path, **options: Any) -> SharedPool:
    return SharedPool.attach("frames", folder=path.parent, **options)


def hold(path: Path, *, quarantine: bool = False) -> Callable[[Parent], None]:
    """A child that holds two, which it tells, and has offered one, which it tells, too."""

    def run(parent: Parent) -> None:
        pool = attach(path, quarantine=quarantine)
        held = pool.alloc_many(2)
        for buf in held:
            parent.tell(buf.block.region.slot)
        parent.tell(pool.offer(pool.alloc()).slot)
        parent.wait()

    return run


@pytest.mark.parametrize("quarantine", [False, True])
def test_who_reclaims_is_told_of_whom_and_what(pool_path: Path, quarantine: bool) -> None:
    """The process, and the elements by their tokens' slots: what it held, had offered, and had not adopted yet."""
    told: list[Reclaimed] = []
    pool = make(pool_path, on_reclaim=told.append)
    with child(hold(pool_path, quarantine=quarantine)) as holder:
        held, offered = sorted((holder.hear(), holder.hear())), holder.hear()
        addressed = pool.offer(pool.alloc(), to=holder.pid)
        holder.end(signal.SIGKILL)
    reclaimed = pool.reclaim()
    assert reclaimed == 1
    assert told == [reclaimed]
    killed = Killed(holder.pid, tuple(held), (offered,), (addressed.slot,), quarantine)
    assert told[0].processes == reclaimed.processes == (killed,)
    assert {token.slot for token in pool.quarantined()} == ({*held, offered} if quarantine else set())
    assert pool.reclaim() == Reclaimed() == 0


def test_who_attaches_is_told_of_those_it_has_cleaned_up_after(pool_path: Path) -> None:
    """One whose place it takes, and another one."""
    make(pool_path).close()
    with child(hold(pool_path)) as one:
        first = [one.hear() for _ in range(3)]
        with child(hold(pool_path)) as two:
            second = [two.hear() for _ in range(3)]
            two.end(signal.SIGKILL)
        one.end(signal.SIGKILL)
    told: list[Reclaimed] = []
    pool = attach(pool_path, on_reclaim=told.append)
    assert told == [2]
    assert {killed.pid: sorted((*killed.held, *killed.offered)) for killed in told[0].processes} == {
        one.pid: sorted(first),
        two.pid: sorted(second),
    }
    assert (pool.out, pool.verify()) == (0, [])


def test_a_child_of_a_fork_is_told_of_those_it_has_cleaned_up_after(pool_path: Path) -> None:
    """It attaches at its first use. What its parent was told of when that attached is not told again."""
    make(pool_path).close()
    with child(hold(pool_path)) as first:
        assert all(first.hear() >= 0 for _ in range(3))
        first.end(signal.SIGKILL)
    told: list[Reclaimed] = []
    pool = attach(pool_path, on_reclaim=told.append)
    assert [killed.pid for killed in told[0].processes] == [first.pid]

    def use(parent: Parent) -> None:
        assert pool.out == 0
        for reclaimed in told[1:]:
            for killed in reclaimed.processes:
                parent.tell(killed.pid)
        parent.tell(len(told))

    with child(use) as heir:  # there is nobody to clean up after
        assert heir.hear() == 1
        assert heir.end() == 0
    with child(hold(pool_path)) as second:
        assert all(second.hear() >= 0 for _ in range(3))
        second.end(signal.SIGKILL)
    with child(use) as heir:
        assert [heir.hear(), heir.hear()] == [second.pid, 2]
        assert heir.end() == 0
    assert len(told) == 1


def test_what_is_raised_by_who_is_told_is_logged_and_stops_nobody(pool_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Twice: the thread that looks around for those who wait goes on."""
    called: list[int] = []

    def fail(reclaimed: Reclaimed) -> None:
        called.append(int(reclaimed))
        raise RuntimeError("not this time")

    def hold_all(parent: Parent) -> None:
        held = attach(pool_path).alloc_many(6)
        parent.tell(len(held))
        parent.wait()

    pool = make(pool_path, on_reclaim=fail)
    for turn in (1, 2):
        served: list[Any] = []
        with child(hold_all) as holder:
            assert holder.hear() == 6
            waiter = threading.Thread(target=lambda served=served: served.append(pool.alloc(timeout=30)))
            waiter.start()
            wait_until(lambda: pool.waiting == 1)
            holder.end(signal.SIGKILL)
            waiter.join(40)
        assert len(served) == 1
        wait_until(lambda turn=turn: len(called) == turn)
        pool.free(served[0])
    wait_until(lambda: sum("on_reclaim has failed" in record.getMessage() for record in caplog.records) == 2)
    assert (pool.out, pool.verify()) == (0, [])


def test_who_looks_around_goes_on_after_a_failure(pool_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There was no memory for a moment, or no descriptor; and no thread for a watcher. Its end was that of every look: who
    waited for what a killed process had waited for ever.
    """
    pool = make(pool_path, reserve=3, keep=3, limit=3)
    look_around, failures = PoolEngine.look_around, [MemoryError(), OSError(errno.EMFILE, "too many open files")]

    def fail_at_first(engine: PoolEngine) -> None:
        if failures:
            raise failures.pop()
        look_around(engine)

    def no_thread(*_arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(PoolEngine, "look_around", fail_at_first)
    monkeypatch.setattr(watcher, "begin", no_thread)
    with child(hold(pool_path)) as holder:
        for _ in range(3):
            holder.hear()
        threading.Timer(0.05, holder.end, (signal.SIGKILL,)).start()
        with pool.lease(timeout=20):
            assert failures == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_ends_the_thread_ends_no_later_look(pool_path: Path) -> None:
    ended: list[threading.Thread] = []

    def leave(_reclaimed: Reclaimed) -> None:
        ended.append(threading.current_thread())
        sys.exit()

    pool = make(pool_path, reserve=3, keep=3, limit=3, on_reclaim=leave)
    for turn in range(2):
        with child(hold(pool_path)) as holder:
            for _ in range(3):
                holder.hear()
            waiter = threading.Thread(target=lambda: pool.free(pool.alloc(timeout=20)))
            waiter.start()
            wait_until(lambda: pool.waiting == 1)
            assert holder.end(signal.SIGKILL) == -signal.SIGKILL
            waiter.join()
        wait_until(lambda turn=turn: len(ended) > turn)  # told last, when the waiter has been served
        ended[-1].join()
        assert len(ended) == turn + 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_ends_the_thread_leaves_nobody_alone(pool_path: Path) -> None:
    """Who waited already when the callback ended the thread waited in vain for what the next killed process had."""
    ended: list[threading.Thread] = []
    served: list[int] = []

    def leave(_reclaimed: Reclaimed) -> None:
        ended.append(threading.current_thread())
        sys.exit()

    def take() -> None:
        held = pool.alloc_many(3, timeout=30)
        served.append(len(held))
        wait_until(lambda: len(served) == 2)
        pool.free_many(held)

    pool = make(pool_path, on_reclaim=leave)
    with child(hold(pool_path)) as first, child(hold(pool_path)) as second:
        for holder in (first, second):
            for _ in range(3):
                holder.hear()
        waiters = [threading.Thread(target=take) for _ in range(2)]
        for waiter in waiters:
            waiter.start()
        wait_until(lambda: pool.waiting == 2)
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
        wait_until(lambda: len(ended) == 1)
        ended[0].join()
        assert second.end(signal.SIGKILL) == -signal.SIGKILL
        for waiter in waiters:
            waiter.join(60)
    wait_until(lambda: len(ended) == 2)
    ended[1].join()
    assert served == [3, 3]
    pool.close()
