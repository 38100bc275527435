"""The quick way of a shared pool: `alloc` and `free` without a Python frame, as the slow way decides, killed anywhere."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import Parent, child
from single_steps import kill_after_change, may_trace, stand_in_line
from sweeps import LONG

from mempool._core import IMPLEMENTATION
from mempool.buffer import Buffer
from mempool.errors import DoubleFree, ForeignElement, PoolClosed, UseAfterFree
from mempool.shared import words
from mempool.shared.engine import SharedEngine
from mempool.shared.errors import ClientGone
from mempool.shared.layout import WORD
from mempool.shared.pool import SharedPool
from mempool.testing import wait_until

pytestmark = [
    pytest.mark.skipif(IMPLEMENTATION == "pure", reason="uncompiled, there is no quick way"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]
#: The child is killed after the first change and each so many'th further one.
EVERY = 1 if LONG else 18


def make(path: Path, **options: Any) -> SharedPool:
    return SharedPool(path.name, **{"size": 4096, "reserve": 3, "keep": 5, "limit": 5, "folder": path.parent, **options})


def warm(pool: SharedPool) -> SharedPool:
    """Every slot that may be had was leased here before."""
    held = []
    while (buffer := pool.try_alloc()) is not None:
        held.append(buffer)
    pool.free_many(held)
    return pool


def frames_of(act: Callable[[], object]) -> list[str]:
    """The Python functions that were called meanwhile."""
    called: list[str] = []

    def note(frame: Any, event: str, _argument: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return [name for name in called if "frames_of" not in name and "<lambda>" not in name]


def use(pool: SharedPool) -> None:
    with pool.lease():
        pass


def slots_in_file(path: Path, pool: SharedPool) -> list[tuple[int, int]]:
    """The word of each slot as it stands in the file: its value, and the number of the transaction that wrote it."""
    layout = pool._engine.client.layout
    packed = path.read_bytes()[layout.words + WORD.size * words.FIRST_SLOT :]
    return [WORD.unpack_from(packed, WORD.size * slot) for slot in range(layout.slots)]


def test_who_takes_and_gives_alone_writes_no_word(pool_path: Path) -> None:
    """Whoever looks next does that, and sees, and leaves, the same as if each word had been written at once."""
    pool = warm(make(pool_path))
    before = slots_in_file(pool_path, pool)
    for _ in range(10):
        pool.free(pool.alloc())
    held = pool.alloc()
    assert slots_in_file(pool_path, pool) == before
    observer = SharedEngine.observe(pool_path)
    assert observer.snapshot().out == pool.out == 1
    lease = held.block.region.lease
    written = [number for value, number in slots_in_file(pool_path, pool) if words.state_of(value) == words.LEASED]
    assert written == [lease]
    other = pool.alloc()  # another slot, which is not the one that was left
    pool.free(held)
    pool.free(pool.alloc())
    pool.free(other)
    assert observer.verify() == []
    assert all(words.state_of(value) != words.LEASED for value, _ in slots_in_file(pool_path, pool))
    observer.detach()


ACTS: dict[str, Callable[[SharedPool], object]] = {
    "alloc and free": lambda pool: pool.free(pool.alloc()),
    "alloc_reserved and free": lambda pool: pool.free(pool.alloc_reserved()),
    "try_alloc and free": lambda pool: pool.free(pool.try_alloc()),
}


@pytest.mark.parametrize("act", [*ACTS, "with lease()", "a lease that is released"])
def test_no_python_function_runs_where_nobody_waits(pool_path: Path, act: str) -> None:
    """A spare that is there is taken and returned without one; the figures and the shared words are as ever."""
    pool = warm(make(pool_path))

    def release() -> None:
        lease = pool.lease()
        lease.element  # noqa: B018 - it takes one
        lease.release()

    if act == "with lease()":
        assert frames_of(lambda: use(pool)) == ["use"]
    else:
        assert frames_of(release if act not in ACTS else lambda: ACTS[act](pool)) in ([], [release.__qualname__])
    stats = pool.stats()
    assert (stats.out, stats.spare) == (0, 5)
    assert pool.verify() == []


def test_what_is_taken_quickly_is_counted_as_ever(pool_path: Path) -> None:
    """Beyond the reserve from the spares, then from the reserve; `alloc_reserved`, too."""
    pool = warm(make(pool_path))
    before = pool.stats()
    held: list[Buffer] = [pool.alloc(), pool.alloc(), pool.alloc()]
    held.append(pool.alloc_reserved())  # type: ignore[arg-type]
    after = pool.stats()
    assert after.served_from_spare - before.served_from_spare == 2
    assert after.served_from_reserve - before.served_from_reserve == 2
    assert (after.out, after.spare, pool.close()) == (4, 1, 4)
    for buffer in held:
        pool.free(buffer)


def test_a_buffer_is_dead_after_a_quick_free(pool_path: Path) -> None:
    """A second free raises, as does a foreign one; a viewed buffer is not freed, and what was dropped is returned."""
    pool = warm(make(pool_path))
    buffer = pool.alloc()
    view = memoryview(buffer)
    with pytest.raises(BufferError, match="viewed through 1 view"):
        pool.free(buffer)
    assert pool.stats().out == 1
    view.release()
    del view
    pool.free(buffer)
    again = pool.alloc()  # the same memory in another handle
    assert again is not buffer
    with pytest.raises(UseAfterFree):
        buffer[0] = 1
    with pytest.raises(DoubleFree):
        pool.free(buffer)
    with pytest.raises(ForeignElement):
        pool.free(b"")  # type: ignore[arg-type]
    assert pool.stats().out == 1
    with pytest.warns(ResourceWarning, match="dropped while it was out"):
        del again
    assert (pool.stats().out, pool.stats().spare) == (0, 5)


def test_a_quick_free_serves_who_waits_in_another_process(pool_path: Path) -> None:
    """It goes to the first in line in the step that returns it."""
    pool = warm(make(pool_path))
    held = [pool.alloc() for _ in range(5)]

    def wait(parent: Parent) -> None:
        other = SharedPool.attach(pool_path.name, folder=pool_path.parent)
        buffer = other.alloc(timeout=60)
        parent.tell(1)
        other.free(buffer)

    with child(wait) as waiter:
        wait_until(lambda: pool.waiting == 1)
        assert frames_of(lambda: pool.free(held.pop())) == []
        assert waiter.hear() == 1
        assert waiter.end() == 0
    pool.free_many(held)
    assert pool.verify() == []


def assert_it_ends_with_the_last_buffer(engine: weakref.ref[object], held: list[Buffer], watcher: SharedPool) -> None:
    """This engine, to whose pool nobody refers, lives until what is held is dropped. Then its process is no client."""
    gc.collect()
    assert engine() is not None
    assert watcher.stats().out == len(held)
    with pytest.warns(ResourceWarning, match="dropped while it was out"):
        held.clear()
    gc.collect()
    assert engine() is None
    assert (watcher.stats().out, len(watcher._engine.client.clients())) == (0, 1)


def test_a_pool_lives_while_something_is_out_and_no_longer(pool_path: Path) -> None:
    """Nobody refers to it; the buffer is returned when it is dropped, and then the process is no client any more."""
    watcher = make(pool_path)
    pool = warm(make(pool_path))
    held = [pool.alloc()]
    engine = weakref.ref(pool._engine)
    del pool
    assert_it_ends_with_the_last_buffer(engine, held, watcher)


def test_a_pool_that_has_nothing_out_ends_where_it_is_dropped(pool_path: Path) -> None:
    """Without the collector: while there is a quick way, what it needs lives, and no longer."""
    watcher = make(pool_path)
    pool = warm(make(pool_path))
    pool.free(pool.alloc())
    engine = weakref.ref(pool._engine)
    gc.disable()
    try:
        del pool
        assert engine() is None
    finally:
        gc.enable()
    assert len(watcher._engine.client.clients()) == 1


class Keeper:
    """Has a pool, which refers to it in turn: a cycle, for the collector."""

    def __init__(self, path: Path) -> None:
        self.pool = warm(make(path, on_reclaim=self.hear))

    def hear(self, _reclaimed: object) -> None:
        """What a pool has that tells of it."""


def test_a_pool_in_a_cycle_ends_where_the_collector_finds_it_and_nothing_is_out(pool_path: Path) -> None:
    """The finalizer of its file refers to its client, which nobody collects: that must not keep the engine as well."""
    watcher = make(pool_path)
    keeper = Keeper(pool_path)
    engine = weakref.ref(keeper.pool._engine)
    keeper.pool.free(keeper.pool.alloc())
    held = [keeper.pool.alloc()]
    del keeper
    assert_it_ends_with_the_last_buffer(engine, held, watcher)


def test_what_another_process_sets_is_obeyed_by_the_next_quick_call(pool_path: Path) -> None:
    """What is promised, and what there is room for, is read anew where another client has committed."""
    other = make(pool_path)
    pool = warm(make(pool_path))
    for _ in range(3):
        pool.free(pool.alloc())
    before = pool.stats()
    other.resize(0, keep=0)
    held = pool.alloc()
    after = pool.stats()
    assert (after.served_from_source, after.spare) == (before.served_from_source + 1, 0)
    pool.free(held)
    assert pool.stats().spare == 0  # not kept
    other.resize(2, keep=2, limit=2)
    for expected in (before.served_from_reserve + 1, before.served_from_reserve + 2):
        pool.free(pool.alloc())
        assert pool.stats().served_from_reserve == expected


def test_who_is_taken_for_dead_hears_of_it_at_its_next_quick_call(pool_path: Path) -> None:
    """Though it has looked at its own word before."""
    other = make(pool_path)
    pool = warm(make(pool_path))
    held: Buffer | None = pool.alloc()
    pool.free(pool.alloc())
    tx, client = other._engine.client._tx, pool._engine.client._tx.me
    assert tx.reap(client, tx.look_at_client(client)[1])
    with pytest.raises(ClientGone):
        pool.free(held)
    with pytest.raises(ClientGone):
        pool.alloc()
    with pytest.warns(ResourceWarning, match="dropped while it was out"):
        held = None
    assert held is None
    assert other.verify() == []


def test_a_closed_pool_is_closed_on_the_quick_way(pool_path: Path) -> None:
    """In this process, and for all; what is out is returned, and the last one ends this process' share."""
    watcher = make(pool_path)
    pool = warm(make(pool_path))
    buffer = pool.alloc()
    assert pool.close() == 1
    with pytest.raises(PoolClosed):
        pool.alloc()
    pool.free(buffer)
    assert len(watcher._engine.client.clients()) == 1
    last = warm(watcher).alloc()
    watcher.close_for_all()
    with pytest.raises(PoolClosed):
        watcher.alloc()
    watcher.free(last)
    assert watcher.stats().out == 0


def test_who_drains_hears_of_the_last_quick_free(pool_path: Path) -> None:
    """While somebody waits for all to be back, a free tells him."""
    pool = warm(make(pool_path))
    buffer = pool.alloc()
    drain = threading.Thread(target=pool.drain)
    drain.start()
    wait_until(lambda: bool(pool._engine._draining))
    assert "PoolEngine._after_return" in frames_of(lambda: pool.free(buffer))
    drain.join(60)
    assert not drain.is_alive()
    warm(pool)
    assert frames_of(lambda: pool.free(pool.alloc())) == []


def test_a_child_of_a_fork_takes_its_own(pool_path: Path) -> None:
    """The parent's buffer is neither the child's to look at nor to free; the child's own are quick again."""
    pool = warm(make(pool_path))
    mine = pool.alloc()
    mine[0] = 7

    def run(parent: Parent) -> None:
        with pytest.raises(UseAfterFree):
            mine[0] = 8
        buffer = pool.alloc()
        buffer[0] = 9
        pool.free(buffer)
        warm(pool)
        assert frames_of(lambda: pool.free(pool.alloc())) == []
        parent.tell(pool._engine.client.number)

    with child(run) as process:
        assert process.hear() == 1
        assert process.end() == 0
    assert mine[0] == 7
    pool.free(mine)
    assert pool.verify() == []
    pool.reclaim()
    assert (pool.stats().out, pool.stats().spare) == (0, 5)


def test_an_index_that_was_forged_is_corruption_on_the_quick_way(pool_path: Path) -> None:
    """The first spare is beyond the file: PoolCorrupt, and no address of it is touched."""
    from mempool.shared.errors import PoolCorrupt
    from mempool.shared.layout import ROOT

    pool = warm(make(pool_path))
    mapping = memoryview(pool._engine.client._tx.mapping)
    mapping[ROOT + 8 : ROOT + 11] = b"\xfe\xff\x7f"  # the first spare, in the gate
    with pytest.raises(PoolCorrupt):
        pool.alloc()


# -- killed


def part_of(act: str) -> Callable[[Path], Callable[[], object]]:
    def make_ready(path: Path) -> Callable[[], object]:
        pool = warm(SharedPool.attach(path.name, folder=path.parent))
        held = [pool.alloc(), pool.alloc()]
        acts: dict[str, Callable[[], object]] = {
            "alloc": lambda: held.append(pool.alloc()),
            "free": lambda: pool.free(held[0]),
            "lease": lambda: use(pool),
        }
        return acts[act]

    return make_ready


@pytest.mark.skipif(not may_trace(), reason="may not trace its children here")
@pytest.mark.parametrize(("act", "beside_a_line"), [("alloc", False), ("free", False), ("free", True), ("lease", False)])
def test_killed_after_any_change_on_the_quick_way(pool_path: Path, act: str, beside_a_line: bool) -> None:
    """All invariants hold at once, and everything that it had is had again after it was reaped."""
    pool = make(pool_path)
    engine = pool._engine.client
    for changes in range(1, 60, EVERY):
        mine: list[Any] = []
        ticket = engine.ticket(1)

        def begin(mine: list[Any] = mine, ticket: Any = ticket) -> None:
            if beside_a_line:
                stand_in_line(engine, mine, ticket)

        goes_on = kill_after_change(engine, pool_path, part_of(act), changes, begin)
        assert engine.verify() == [], f"after change {changes}"
        engine.reap_dead()
        assert engine.verify() == [], f"after change {changes}, reaped"
        engine.cancel(ticket)
        engine.give(mine)
        now = engine.snapshot()
        assert (now.out, now.waiting, len(engine.clients())) == (0, 0, 1), f"after change {changes}"
        if not goes_on:
            assert changes > 3  # at the least: which word, what becomes of it, and the swap
            return
    raise AssertionError("it never ends")
