"""Handles of buffers: who may make, free and search them."""

from __future__ import annotations

import weakref

import pytest

import mempool
from mempool import Buffers, DoubleFree, Pool, UseAfterFree
from mempool._core import Transfer


def test_a_buffer_that_another_thread_is_freeing_is_freed_twice() -> None:
    """It is out no more, and its handle not dead yet: "never was this pool's" was said of it."""
    pool = Pool(Buffers(64), 1)
    buffer = pool.alloc()
    transfer = Transfer(1)
    transfer.hold(buffer)
    assert pool.core.check_in(transfer)  # so far the other has come
    with pytest.raises(DoubleFree):
        pool.free(buffer)
    pool.core.undo_check_in(transfer)
    pool.free(buffer)
    assert pool.stats().out == 0


def test_a_source_refuses_the_buffer_of_another_and_leaves_it_alone() -> None:
    ours, theirs = Buffers(64), Buffers(64, zero="free")
    buffer = ours.alloc()
    buffer.fill(7)
    with pytest.raises(ValueError, match="of another source"):
        theirs.free(buffer)
    assert bytes(buffer) == bytes([7]) * 64
    ours.free(buffer)


def test_what_only_a_pool_makes_cannot_be_made_otherwise() -> None:
    """Compiled, it would have pointed nowhere."""
    for kind in (mempool.Buffer, mempool.Lease):
        with pytest.raises(TypeError):
            kind(4096)
    with pytest.raises((TypeError, AttributeError)):
        _ = mempool.Lease.__new__(mempool.Lease).element
    for call in (lambda pool: pool.alloc(), lambda pool: pool.free(object())):
        with pytest.raises(AttributeError):
            call(Pool.__new__(Pool))


def test_the_search_for_views_leaves_what_locals_gave_alone() -> None:
    pool = Pool(Buffers(64), 1, track="holders")
    buffer = pool.alloc()
    view = buffer[:]
    mine = locals()
    with pytest.raises(BufferError, match="memoryview"):
        pool.free(buffer)
    assert mine["view"] is view
    mine.clear()
    view.release()
    pool.free(buffer)


def test_a_handle_that_is_used_again_is_as_new() -> None:
    """What a handle had in a former life, a view, a weak reference, a user who let it linger, is not seen in the next."""
    pool = Pool(Buffers(64), 2)
    for _ in range(200):
        freed, referred, viewed = pool.alloc_many(3)
        references = [weakref.ref(referred), weakref.ref(viewed)]
        view = viewed[:]
        pool.free(viewed, linger=True)
        pool.free_many([freed, referred])
        del freed, referred, viewed
        del view
        assert [reference() for reference in references] == [None, None]
        fresh = pool.alloc_many(3)
        assert [weakref.getweakrefcount(buffer) for buffer in fresh] == [0, 0, 0]
        assert [(len(buffer), buffer.views(), buffer.lingers) for buffer in fresh] == [(64, 0, False)] * 3
        pool.free_many(fresh)
        with pytest.raises(UseAfterFree):
            fresh[0][0]
    many = pool.alloc_many(200)  # more than are kept to be used again
    pool.free_many(many)
    del many
    many = pool.alloc_many(200)
    assert len({id(buffer) for buffer in many}) == len({buffer.block.address() for buffer in many}) == 200
    pool.free_many(many)
    assert pool.stats().out == 0


def test_a_handle_that_has_ended_keeps_no_memory() -> None:
    """It lies ready to be used again, and the memory that it was of goes as soon as it did."""
    source: Buffers = Buffers(64)
    kept = []
    for _ in range(100):
        buffer = source.alloc()
        kept.append(weakref.ref(buffer.block.region))
        source.free(buffer)
        del buffer
    assert [reference for reference in kept if reference() is not None] == []
