"""A caller that is about to give up has garbage collected once: what was dropped in reference cycles comes back."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mempool import Buffer, Buffers, Objects, Pool, PoolTimeout, garbage
from mempool.linux import GFP_KERNEL, mempool_alloc, mempool_create_kmalloc_pool
from mempool.testing import ManualClock, wait_until


@pytest.fixture(autouse=True)
def _quiet_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody else collects: thresholds out of reach, and no rest from the last look."""
    monkeypatch.setattr(garbage, "_rest_until", float("-inf"))
    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(1_000_000)
    yield
    gc.set_threshold(*before)


def drop_in_a_cycle(element: Any) -> None:
    cycle: list[Any] = [element]
    cycle.append(cycle)


def empty(**options: Any) -> Pool[Buffer]:
    """A pool whose two buffers were both dropped in cycles."""
    pool = Pool(Buffers(4096), 2, limit=2, **options)
    for _ in range(2):
        drop_in_a_cycle(pool.alloc())
    assert pool.out == 2
    return pool


@pytest.mark.filterwarnings("ignore:.*dropped while it was out:ResourceWarning")
def test_buffers_that_were_dropped_in_cycles_end_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look returns both, for a thread and for many at once."""
    with empty() as pool:
        pool.free(pool.alloc(timeout=0.2))
        assert pool.out == 0
    # The look has its rest, which is long where collections are slow: without the GIL each is one of all objects.
    monkeypatch.setattr(garbage, "_rest_until", float("-inf"))
    with empty() as pool:
        pool.free_many(pool.alloc_many(2, timeout=0.2))
        assert pool.out == 0


@pytest.mark.filterwarnings("ignore:.*dropped while it was out:ResourceWarning")
def test_a_wait_of_a_task_looks_as_well() -> None:
    async def main() -> None:
        with empty() as pool:
            pool.free(await pool.alloc_async(timeout=0.2))
            assert pool.out == 0

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore:.*dropped while it was out:ResourceWarning")
def test_a_wait_without_end_looks_after_a_second() -> None:
    """It never gives up, so it would wait for ever."""
    with empty() as pool:
        pool.free(pool.alloc(timeout=None))
        assert pool.out == 0


def test_after_a_look_there_is_none_for_nine_times_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]

    def collect() -> None:
        now[0] += 2.0

    monkeypatch.setattr(gc, "collect", collect)
    monkeypatch.setattr(garbage, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert garbage.look()
    for moment, looks in ((12.0, False), (29.5, False), (30.0, True), (49.5, False)):
        now[0] = moment
        assert garbage.look() == looks


def test_a_wait_that_goes_on_looks_after_a_second_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most waits are over by then, and a look costs all threads their time."""
    clock = ManualClock()
    looks: list[float] = []
    monkeypatch.setattr(garbage, "look", lambda: looks.append(clock.now()))
    pool: Pool[Any] = clock.attach(Pool(Objects(object), 0, limit=1, patience=None))
    element, began = pool.alloc(), clock.now()
    waiting = threading.Thread(target=lambda: pool.free(pool.alloc(timeout=None)))
    waiting.start()
    clock.wait_until_parked(1)
    wait_until(lambda: clock.advance(0.25) or looks)
    pool.free(element)
    waiting.join(60)
    assert [when - began >= 1.0 for when in looks] == [True]


def test_a_wait_looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more than a tenth of the time is spent so, whoever waits."""
    looks: list[None] = []
    monkeypatch.setattr(gc, "collect", lambda: looks.append(None))
    with Pool(Buffers(4096), 1, limit=1) as pool:
        buf = pool.alloc()
        with pytest.raises(PoolTimeout):
            pool.alloc(timeout=0.1)
        assert len(looks) == 1
        for _ in range(100):  # a caller that polls
            with pytest.raises(PoolTimeout):
                pool.alloc(timeout=0)
        assert len(looks) == 1
        monkeypatch.setattr(garbage, "_rest_until", float("inf"))
        with pytest.raises(PoolTimeout):
            pool.alloc(timeout=0.1)
        assert len(looks) == 1
        pool.free(buf)


def test_a_program_without_a_collector_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """gc.disable() is respected."""
    looks: list[None] = []
    monkeypatch.setattr(gc, "collect", lambda: looks.append(None))
    gc.disable()
    try:
        with Pool(Buffers(4096), 1, limit=1) as pool:
            buf = pool.alloc()
            with pytest.raises(PoolTimeout):
                pool.alloc(timeout=0.1)
            pool.free(buf)
    finally:
        gc.enable()
    assert looks == []


def test_the_kernels_pool_collects_nothing() -> None:
    """mempool.linux does what the kernel does."""
    pool = mempool_create_kmalloc_pool(1, 64)
    assert pool is not None
    assert not pool._collects
    element = mempool_alloc(pool, GFP_KERNEL)
    pool.free(element)
    pool.close()
