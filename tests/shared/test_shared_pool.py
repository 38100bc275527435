"""SharedPool with real processes: who is killed loses nothing, one line for all, close, fork, and what a name means."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from frames import SIZE, attach, make, other_folder
from shared_children import Parent, child

from mempool.errors import DoubleFree, ForeignElement, PoolClosed, PoolTimeout, UseAfterFree
from mempool.shared import lookout, watcher
from mempool.shared.pool import SharedPool
from mempool.shared.pool_engine import PoolEngine
from mempool.testing import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def bytes_used(path: Path) -> int:
    return path.with_name("frames").stat().st_blocks * 512


# -- one process


def test_elements_are_buffers_that_are_dead_after_free(pool_path: Path) -> None:
    """Views are watched, a second free and a foreign one raise, and what is dropped is returned."""
    pool = make(pool_path)
    buf = pool.alloc()
    assert len(buf) == SIZE
    buf[:5] = b"hello"
    view = buf[:5]
    with pytest.raises(BufferError, match="viewed through 1 view"):
        pool.free(buf)
    view.release()
    del view
    pool.free(buf)
    with pytest.raises(UseAfterFree):
        len(buf)
    with pytest.raises(DoubleFree):
        pool.free(buf)
    with make(pool_path.with_name("other"), folder=other_folder(pool_path)) as other:
        foreign = other.alloc()
        with pytest.raises(ForeignElement):
            pool.free(foreign)
        other.free(foreign)
    dropped = pool.alloc()
    with pytest.warns(ResourceWarning, match="dropped while it was out"):
        del dropped
    assert (pool.out, pool.spare) == (0, 2)


def test_what_lingers_is_returned_with_its_last_view(pool_path: Path) -> None:
    """`free(buf, linger=True)`, and an array, which is nothing but that."""
    pool = make(pool_path)
    buf = pool.alloc()
    view = buf[:8]
    pool.free(buf, linger=True)
    assert (pool.out, pool.stats().lingering) == (1, 1)
    with pytest.raises(UseAfterFree):
        len(buf)
    view.release()
    del view
    assert (pool.out, pool.stats().lingering) == (0, 0)
    pytest.importorskip("numpy")
    array = pool.array((4, 256), "int64")
    array[:] = 7
    assert (pool.out, int(array.sum())) == (1, 7 * 1024)
    with pytest.raises(ValueError, match="takes"):
        pool.array((4, 257), "int64")
    del array
    assert pool.out == 0


def test_threads_and_tasks_stand_in_one_line(pool_path: Path) -> None:
    """First come, first served, whoever they are."""
    pool = make(pool_path, limit=2)
    held = pool.alloc_many(2)
    order: list[str] = []

    def wait_in_thread() -> None:
        with pool.lease():
            order.append("thread")

    async def wait_in_task() -> None:
        async with pool.lease():
            order.append("task")

    thread = threading.Thread(target=wait_in_thread)
    thread.start()
    wait_until(lambda: pool.waiting == 1)
    loop = threading.Thread(target=lambda: asyncio.run(wait_in_task()))
    loop.start()
    wait_until(lambda: pool.waiting == 2)
    pool.free(held.pop())
    thread.join(60)
    loop.join(60)
    assert order == ["thread", "task"]
    pool.free_many(held)


def test_resize_is_live_and_du_follows(pool_path: Path) -> None:
    """Memory is there when a grow returns, and gone when a shrink does."""
    pool = make(pool_path, size=1 << 20)
    empty = bytes_used(pool_path) - (2 << 20)
    assert pool.resize(8, limit=16).spare == 8
    assert bytes_used(pool_path) == empty + (8 << 20)
    pool.resize(1, keep=1)
    assert bytes_used(pool_path) == empty + (1 << 20)
    with pytest.raises(MemoryError, match="has addresses for 16"):
        pool.resize(17, limit=None)


# -- several processes


def test_another_process_sees_what_was_promised_and_what_is_out(pool_path: Path) -> None:
    """It attaches to the size and the targets that are in force; another size raises."""
    pool = make(pool_path)
    buf = pool.alloc()

    def use(parent: Parent) -> None:
        other = attach(pool_path)
        stats = other.stats()
        assert (stats.reserve, stats.keep, stats.limit, stats.out) == (2, 2, 4, 1)
        buf = other.alloc()
        assert len(buf) == SIZE
        with pytest.raises(ValueError, match=r"8 KiB, not 4 KiB"):
            make(pool_path, size=4096)
        parent.tell(other.out)
        parent.wait()

    with child(use) as process:
        assert process.hear() == 2
        assert pool.out == 2
        process.go()
        assert process.end() == 0
    wait_until(lambda: pool.reclaim() + pool.out == 1)
    pool.free(buf)


def hold_all(path: Path) -> Any:
    def run(parent: Parent) -> None:
        pool = attach(path)
        held = pool.alloc_many(4)
        for buf in held:
            buf.fill(7)
        parent.tell(len(held))
        parent.wait()

    return run


def test_who_waits_has_what_a_killed_process_held(pool_path: Path) -> None:
    """Without anybody's help, and first come, first served; `on_reclaim` is told."""
    told: list[int] = []
    pool = make(pool_path, on_reclaim=told.append)
    with child(hold_all(pool_path)) as process:
        assert process.hear() == 4
        with pytest.raises(PoolTimeout):
            pool.alloc(timeout=0)
        served: list[Any] = []
        waiter = threading.Thread(target=lambda: served.append(pool.alloc_many(3, timeout=30)))
        waiter.start()
        wait_until(lambda: pool.waiting == 1)
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
        waiter.join(30)
    assert len(served[0]) == 3
    wait_until(lambda: told)  # whoever has looked around tells it when all is reclaimed, and the waiter has its own before
    assert told == [1]
    pool.free_many(served[0])
    assert (pool.out, pool.spare, pool.verify()) == (0, 2, [])


CALLS: dict[str, Callable[[SharedPool], object]] = {
    "alloc": SharedPool.alloc,
    "refill": SharedPool.refill,
    "close_for_all": SharedPool.close_for_all,
    "resize": lambda pool: pool.resize(1),
    "trim": lambda pool: pool._engine.trim(1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_whatever_is_asked_of_a_share_that_was_closed_says_so(pool_path: Path, call: Callable[[SharedPool], object]) -> None:
    """PoolClosed: the process has left, and nobody has taken it for dead. The pool goes on for the others."""
    pool, other = make(pool_path), attach(pool_path)
    pool.close()
    with pytest.raises(PoolClosed):
        call(pool)
    other.free(other.alloc(timeout=60))
    assert not other.closed


def test_the_kernel_tells_of_the_end_of_a_process(pool_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits need not look around by himself: were it not told, the waiter would sleep for an hour."""
    monkeypatch.setattr(lookout, "SLICE", 3600.0)
    pool = make(pool_path)
    before = set(threading.enumerate())
    with child(hold_all(pool_path)) as process:
        assert process.hear() == 4
        served: list[Any] = []
        waiter = threading.Thread(target=lambda: served.append(pool.alloc(timeout=30)))
        waiter.start()
        wait_until(lambda: [t for t in set(threading.enumerate()) - before if t.name == "mempool-frames-watcher"])
        process.end(signal.SIGKILL)
        waiter.join(20)
    assert len(served) == 1
    pool.free(served.pop())
    pool._engine._tx.ring()  # the listener, too, would sleep for an hour
    wait_until(lambda: set(threading.enumerate()) <= before)
    assert (pool.out, pool.verify()) == (0, [])


def test_a_process_that_has_ended_before_it_is_watched_is_told_of(pool_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends between the last look of who waits and the moment from which on the kernel would tell."""
    monkeypatch.setattr(lookout, "SLICE", 3600.0)
    pool = make(pool_path)
    look, look_around = watcher._look, PoolEngine.look_around
    looks: list[None] = []

    def counted(engine: PoolEngine) -> None:
        look_around(engine)
        looks.append(None)

    monkeypatch.setattr(PoolEngine, "look_around", counted)
    with child(hold_all(pool_path)) as process:
        assert process.hear() == 4

        def look_late(*arguments: Any) -> None:
            if not process_has_ended:
                wait_until(lambda: len(looks) > 1)
                process.end(signal.SIGKILL)
                process_has_ended.append(True)
            look(*arguments)

        process_has_ended: list[bool] = []
        monkeypatch.setattr(watcher, "_look", look_late)
        served: list[Any] = []
        waiter = threading.Thread(target=lambda: served.append(pool.alloc(timeout=30)), daemon=True)
        waiter.start()
        waiter.join(20)
    assert len(served) == 1
    pool.free(served.pop())
    pool._engine._tx.ring()  # the lookout, too, would sleep for an hour
    wait_until(lambda: pool.out == 0)  # it may still be at what that process had besides
    assert (pool.out, pool.verify()) == (0, [])


def test_a_process_that_is_killed_in_line_leaves_it(pool_path: Path) -> None:
    """Whoever stands behind it is served."""
    pool = make(pool_path, limit=2)
    held = pool.alloc_many(2)

    def wait(_parent: Parent) -> None:
        attach(pool_path).alloc_many(2)

    with child(wait) as process:
        wait_until(lambda: pool.waiting == 1)
        served: list[Any] = []
        waiter = threading.Thread(target=lambda: served.append(pool.alloc(timeout=30)))
        waiter.start()
        wait_until(lambda: pool.waiting == 2)
        process.end(signal.SIGKILL)
        pool.free(held.pop())
        waiter.join(30)
    assert len(served) == 1
    pool.free_many([*held, *served])
    assert (pool.out, pool.waiting, pool.verify()) == (0, 0, [])


def test_when_all_are_killed_the_next_one_works_and_no_memory_is_lost(pool_path: Path) -> None:
    """The creator first, and the last one, too."""

    def create(parent: Parent) -> None:
        pool = make(pool_path)
        held = pool.alloc_many(3)
        parent.tell(len(held))
        parent.wait()

    def take(parent: Parent) -> None:
        held = attach(pool_path).alloc()
        parent.tell(len(held))
        parent.wait()

    with child(create) as creator:
        assert creator.hear() == 3
        with child(take) as last:
            assert last.hear() == SIZE
            used = bytes_used(pool_path)
            creator.end(signal.SIGKILL)
            last.end(signal.SIGKILL)
    pool = attach(pool_path)
    pool.reclaim()
    assert (pool.out, pool.spare, pool.verify()) == (0, 2, [])
    assert bytes_used(pool_path) == used - 2 * SIZE
    held = pool.alloc_many(4, timeout=0)
    pool.free_many(held)


# -- close, and names


def test_close_ends_the_share_of_this_process_and_nobody_elses(pool_path: Path) -> None:
    """What it has out is good until it is freed; then it is no client any more."""
    pool, other = make(pool_path), attach(pool_path)
    buf = pool.alloc()
    assert pool.close() == 1
    assert pool.closed
    with pytest.raises(PoolClosed):
        pool.alloc()
    buf[:3] = b"yes"
    assert len(other._engine.client.clients()) == 2
    pool.free(buf)
    assert len(other._engine.client.clients()) == 1
    assert pool.close() == 0
    assert other.spare == 2


def test_close_ends_the_waits_of_this_process(pool_path: Path) -> None:
    """They get PoolClosed; the line goes on without them."""
    pool, other = make(pool_path, limit=2), attach(pool_path)
    held = other.alloc_many(2)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            pool.alloc()
        except PoolClosed as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_until(lambda: other.waiting == 1)
    pool.close()
    waiter.join(60)
    assert len(errors) == 1
    assert other.waiting == 0
    other.free_many(held)


def test_close_for_all_gives_the_memory_back_and_frees_the_name(pool_path: Path) -> None:
    """Who attaches then, when nobody is left, makes a new pool."""
    pool = make(pool_path)
    assert pool.close_for_all() == 0
    with pytest.raises(PoolClosed):
        make(pool_path)
    pool.close()
    with make(pool_path) as again:
        assert (again.spare, again.closed) == (2, False)


def test_a_pool_that_cannot_have_its_reserve_is_not_made(pool_path: Path) -> None:
    """Bad targets, too; no file is left."""
    with pytest.raises(ValueError, match="keep 1 is below"):
        make(pool_path, keep=1)
    with pytest.raises(FileNotFoundError):
        attach(pool_path)
    assert list(pool_path.parent.iterdir()) == []


def test_a_pool_is_sent_by_its_name(pool_path: Path) -> None:
    """Pickled, it is attached to where it arrives."""
    pool = make(pool_path)
    other = pickle.loads(pickle.dumps(pool))
    assert (other.name, len(pool._engine.client.clients())) == ("frames", 2)


def test_a_child_of_a_fork_has_a_share_of_its_own(pool_path: Path) -> None:
    """What its parent has out is dead there, and stays the parent's."""
    pool = make(pool_path)
    buf = pool.alloc()

    def use(parent: Parent) -> None:
        with pytest.raises(UseAfterFree):
            len(buf)
        pool.free(buf)  # does nothing: there is nothing of it here
        mine = pool.alloc()
        parent.tell(pool.out)
        parent.wait()
        pool.free(mine)

    with child(use) as process:
        assert process.hear() == 2
        buf[:2] = b"ok"
        process.go()
        assert process.end() == 0
    assert bytes(buf[:2]) == b"ok"
    pool.free(buf)
    wait_until(lambda: pool.reclaim() + pool.out == 0)
    assert pool.verify() == []
    assert os.getpid() in {client.pid for client in pool._engine.client.clients()}
