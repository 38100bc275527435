"""Buffers that are returned by other ways than free: from leases, as garbage, with their pool. Copies are refused."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from typing import Any

import pytest

pytest.importorskip("numpy")

import test_buffers
from test_buffers import VIEWS, dropped, every_view

from mempool import Buffer, Buffers, DoubleFree, Pool
from mempool._core import IMPLEMENTATION

pool = test_buffers.pool  # the fixture


@every_view
@pytest.mark.parametrize("handle", ["dropped before", "garbage too"])
def test_a_view_that_is_garbage_in_a_circle_lets_the_memory_be_returned(pool: Pool[Buffer], kind: str, handle: str) -> None:
    """The collector takes the view apart while what it looks through is garbage as well."""
    buffer = pool.alloc()
    circle: list[Any] = [VIEWS[kind](buffer)]
    circle.append(circle)
    if handle == "garbage too":
        circle.append(buffer)
    del buffer
    gc.collect()
    with dropped():
        del circle
        gc.collect()
    assert pool.stats().out == 0


def test_what_garbage_still_looks_at_is_not_returned(pool: Pool[Buffer]) -> None:
    """A finalizer of the same garbage may use a view, and keep it."""
    kept: list[Any] = []

    class Last:
        def __init__(self, view: memoryview) -> None:
            self.view = view
            self.circle = self

        def __del__(self) -> None:
            self.view[0] = 99
            kept.append(self.view)

    buffer = pool.alloc()
    last = Last(buffer[:])
    del buffer
    del last
    gc.collect()
    assert pool.stats().out == 1
    assert kept[0][0] == 99
    with dropped():
        kept.clear()
        gc.collect()
    assert pool.stats().out == 0


def test_nothing_of_a_pool_can_be_copied(pool: Pool[Buffer]) -> None:
    """A copy would be a second owner."""
    with pool.lease() as buffer, pool.lease() as other:
        lease = pool.lease()
        for what in (pool, lease, buffer, other):
            for way in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="neither copied nor pickled"):
                    way(what)


def test_a_lease_of_a_buffer_that_is_still_viewed_raises_and_may_be_released_later(pool: Pool[Buffer]) -> None:
    lease = pool.lease()
    with pytest.raises(BufferError, match="1 view"), lease as buffer:
        view = buffer[:]
    assert pool.stats().out == 1
    del view, buffer
    lease.release()
    assert pool.stats().out == 0
    with pytest.raises(DoubleFree):
        lease.release()


def test_an_error_in_a_lease_is_not_hidden_behind_its_views(pool: Pool[Buffer]) -> None:
    """The traceback keeps the view alive; the buffer lingers, and is returned with it. Nobody did wrong: no warning."""
    try:
        with pool.lease() as buffer:
            view = buffer[:]
            raise LookupError(view)
    except LookupError:
        assert pool.stats().out == pool.stats().lingering == 1
        del view, buffer
    gc.collect()
    assert pool.stats().out == 0


def test_a_lease_of_a_task_that_is_still_viewed_raises_and_may_be_released_later(pool: Pool[Buffer]) -> None:
    async def main() -> None:
        lease = pool.lease()
        with pytest.raises(BufferError, match="1 view"):
            async with lease as buffer:
                view = buffer[:]
        assert pool.stats().out == 1
        del view, buffer
        lease.release()

    asyncio.run(main())
    assert pool.stats().out == 0


def test_an_error_in_a_lease_of_a_task_is_not_hidden_behind_its_views(pool: Pool[Buffer]) -> None:
    async def main() -> None:
        try:
            async with pool.lease() as buffer:
                view = buffer[:]
                raise LookupError(view)
        except LookupError:
            assert pool.stats().out == pool.stats().lingering == 1
            del view, buffer

    asyncio.run(main())
    gc.collect()
    assert pool.stats().out == 0


def test_a_dropped_lease_whose_buffer_is_viewed_leaves_it_to_the_view(pool: Pool[Buffer]) -> None:
    lease = pool.lease()
    view = lease.element[:]
    del lease
    assert pool.stats().out == 1
    with dropped():
        del view
    assert pool.stats().out == 0


@pytest.mark.skipif(IMPLEMENTATION == "compiled", reason="compiled, the collector does not know buffers")
def test_spares_that_are_garbage_before_their_pool_trouble_nobody(recwarn: pytest.WarningsRecorder) -> None:
    """The collector may run their finalizers in any order."""
    pool = Pool(Buffers(4096), 2)
    for spare in [thing for thing in gc.get_objects() if type(thing) is Buffer and thing.block.owner is pool.core.owner]:
        spare.block.source.free(spare)  # what its finalizer does when the pool is as good as gone
    pool.__del__()
    assert pool.stats().spare == 0
    assert not recwarn.list


def test_a_view_in_the_same_garbage_as_its_freed_handle_ends_the_lingering(pool: Pool[Buffer]) -> None:
    """The collector may empty the handle before the view looks away."""
    buffer = pool.alloc()
    circle: list[Any] = [buffer, buffer[:]]
    circle.append(circle)
    pool.free(buffer, linger=True)
    del buffer, circle
    gc.collect()
    assert pool.stats().out == pool.stats().lingering == 0
