"""Buffers: handles that die, views that keep memory out, poison and zeros."""

from __future__ import annotations

import array
import ctypes
import gc
import hashlib
import io
import os
import re
import socket
import struct
import threading
import traceback
import warnings
import weakref
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from exports import exported

from mempool import Buffer, Buffers, DoubleFree, ForeignElement, Pool, UseAfterFree
from mempool.testing import wait_until

np: Any = pytest.importorskip("numpy")
try:
    import pyarrow as pa
except ImportError:  # no wheel of it for this Python: all but its own views are tested
    pa = None
with_arrow = pytest.mark.skipif(pa is None, reason="pyarrow is not installed")


@pytest.fixture(params=["nothing", "identity", "holders"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool[Buffer]]:
    """A pool of two; nothing may be lost when the test is over."""
    with Pool(Buffers(4096), 2, name="frames", track=request.param) as pool:
        yield pool
        gc.collect()
        stats = pool.stats()
        assert stats.out == 0
        assert stats.made - stats.disposed == stats.spare


def dropped() -> Any:
    return pytest.warns(ResourceWarning, match="pool 'frames': a buffer was dropped while it was out")


# -- a buffer like any other


def test_a_buffer_is_a_writable_contiguous_buffer_of_bytes(pool: Pool[Buffer]) -> None:
    buffer = pool.alloc()
    assert len(buffer) == 4096
    with memoryview(exported(buffer)) as view:
        assert (view.format, view.itemsize, view.ndim, view.nbytes) == ("B", 1, 1, 4096)
        assert view.c_contiguous
        assert not view.readonly
    buffer[0] = 7
    buffer[1:4] = b"abc"
    assert bytes(buffer[:4]) == b"\x07abc"
    assert buffer[0] == 7
    buffer.fill(5)
    assert bytes(buffer) == b"\5" * 4096
    with pytest.raises(ValueError, match="0 to 255"):
        buffer.fill(256)
    pool.free(buffer)


def test_everything_that_takes_a_buffer_takes_this_one(pool: Pool[Buffer]) -> None:
    buffer = pool.alloc()
    assert io.BytesIO(b"file").readinto(exported(buffer)) == 4
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"wire")
        assert right.recv_into(exported(buffer)) == 4
    assert bytes(buffer[:4]) == b"wire"
    data = bytes(buffer)
    assert hashlib.sha256(exported(buffer)).digest() == hashlib.sha256(data).digest()
    assert zlib.crc32(exported(buffer)) == zlib.crc32(data)
    struct.pack_into("<I", exported(buffer), 0, 77)
    assert struct.unpack_from("<I", exported(buffer), 0) == (77,)
    assert np.frombuffer(exported(buffer), np.uint8)[0] == 77
    if pa is not None:
        assert pa.py_buffer(exported(buffer)).size == 4096
    assert array.array("B", exported(buffer))[0] == 77
    gc.collect()
    pool.free(buffer)


def test_memory_stays_when_handles_change(pool: Pool[Buffer]) -> None:
    """Warm memory is used again, with what the last user left in it."""
    buffer = pool.alloc()
    address = buffer.address
    buffer[0] = 9
    pool.free(buffer)
    again = pool.alloc()
    assert again is not buffer
    assert (again.address, again[0]) == (address, 9)
    pool.free(again)


# -- dead

ACCESSES: list[Callable[[Any], object]] = [
    len,
    bytes,
    lambda buffer: memoryview(exported(buffer)),
    lambda buffer: hashlib.sha256(exported(buffer)),
    lambda buffer: zlib.crc32(exported(buffer)),
    *([] if pa is None else [lambda buffer: pa.py_buffer(exported(buffer))]),
    lambda buffer: buffer[0],
    lambda buffer: buffer.__setitem__(0, 1),
    lambda buffer: buffer.address,
    lambda buffer: buffer.fill(0),
    lambda buffer: buffer.array(),
    lambda buffer: buffer.__dlpack__(),
    lambda buffer: np.frombuffer(exported(buffer), np.uint8),
    lambda buffer: io.BytesIO(b"x").readinto(exported(buffer)),
    lambda buffer: struct.pack_into("B", exported(buffer), 0, 1),
]


@pytest.mark.parametrize("reused", [False, True])
def test_after_free_every_access_is_an_error_for_ever(pool: Pool[Buffer], reused: bool) -> None:
    """Also when the memory has been handed to somebody else."""
    buffer = pool.alloc()
    pool.free(buffer)
    others = pool.alloc() if reused else None
    for access in ACCESSES:
        # Uncompiled, CPython itself says it where it looks for the buffer: "operation forbidden on released ...".
        with pytest.raises(
            (ValueError, TypeError), match=r"pool 'frames': this buffer was freed|released|not (mempool.buffer.)?Buffer"
        ):
            access(buffer)
    with pytest.raises(UseAfterFree, match="pool 'frames'"):
        len(buffer)
    assert repr(buffer) == "<Buffer of pool 'frames', freed>"
    for _ in range(2):
        with pytest.raises(DoubleFree, match="pool 'frames'"):
            pool.free(buffer)
    if others is not None:
        pool.free(others)


def test_a_buffer_of_another_pool_is_foreign(pool: Pool[Buffer]) -> None:
    with Pool(Buffers(4096), 1) as other:
        buffer = other.alloc()
        with pytest.raises(ForeignElement, match="pool 'frames'"):
            pool.free(buffer)
        assert len(buffer) == 4096
        other.free(buffer)


def test_one_buffer_twice_in_one_call_is_an_error_and_changes_nothing(pool: Pool[Buffer]) -> None:
    one, two = pool.alloc_many(2)
    with pytest.raises(DoubleFree):
        pool.free_many([one, two, one])
    assert pool.stats().out == 2
    assert pool.free_many([one, two]) == 2


# -- views


VIEWS: dict[str, Callable[[Buffer], Any]] = {
    "memoryview": lambda buffer: memoryview(exported(buffer)),
    "a slice of a slice": lambda buffer: buffer[5:100][2:7],
    "numpy": lambda buffer: np.frombuffer(exported(buffer), np.uint8),
    "array": lambda buffer: buffer.array("float64", (4, 8))[1:],
    "dlpack": np.from_dlpack,
    "arrow": lambda buffer: pa.py_buffer(exported(buffer)),
    "ctypes": lambda buffer: ctypes.c_char.from_buffer(exported(buffer)),
}
every_view = pytest.mark.parametrize("kind", [pytest.param(kind, marks=[with_arrow] * (kind == "arrow")) for kind in VIEWS])


@every_view
def test_a_view_keeps_a_buffer_from_being_freed(pool: Pool[Buffer], kind: str) -> None:
    """BufferError says how many views there are and changes nothing; freeing again after the view is gone works."""
    buffer = pool.alloc()
    view = VIEWS[kind](buffer)
    for _ in range(2):
        with pytest.raises(BufferError, match=re.escape("pool 'frames': this buffer is still viewed through 1 view")):
            pool.free(buffer)
    assert pool.stats().out == 1
    assert len(buffer) == 4096
    more = buffer[:]
    with pytest.raises(BufferError, match="2 views"):
        pool.free_many([buffer])
    del view, more
    gc.collect()
    pool.free(buffer)
    assert pool.stats().out == 0


@every_view
def test_a_view_that_outlives_its_handle_keeps_the_memory_out(pool: Pool[Buffer], kind: str) -> None:
    """Until the view dies; then it is returned by itself."""
    buffer = pool.alloc()
    view = VIEWS[kind](buffer)
    del buffer
    gc.collect()
    assert pool.stats().out == 1
    with dropped():
        del view
        gc.collect()
    assert pool.stats().out == 0


def test_with_holders_the_error_says_what_the_views_are() -> None:
    with Pool(Buffers(4096), 1, name="frames", track="holders") as pool:
        buffer = pool.alloc()
        kept = [buffer.array("uint16", (3, 5)), buffer[:9]]
        with pytest.raises(BufferError) as caught:
            pool.free(buffer)
        assert "numpy.ndarray of shape (3, 5)" in str(caught.value)
        assert "memoryview of shape (9,)" in str(caught.value)
        traceback.clear_frames(caught.tb)
        kept.clear()
        pool.free(buffer)


@with_arrow
def test_with_holders_the_error_says_what_pyarrow_has() -> None:
    with Pool(Buffers(4096), 1, name="frames", track="holders") as pool:
        buffer = pool.alloc()
        arrow = pa.py_buffer(exported(buffer))
        with pytest.raises(BufferError, match=r"pyarrow\.lib\.Buffer of 4 KiB"):
            pool.free(buffer)
        del arrow
        pool.free(buffer)


def test_all_or_nothing_when_one_of_many_is_viewed(pool: Pool[Buffer]) -> None:
    buffers = pool.alloc_many(3)
    view = buffers[1][:]
    with pytest.raises(BufferError):
        pool.free_many(buffers)
    assert [len(buffer) for buffer in buffers] == [4096] * 3
    assert pool.stats().out == 3
    del view
    pool.free_many(buffers)


# -- dropped


def test_a_dropped_buffer_is_returned_by_itself(pool: Pool[Buffer]) -> None:
    buffer = pool.alloc()
    address = buffer.address
    with dropped():
        del buffer
    assert pool.stats().out == 0
    again = pool.alloc()
    assert again.address == address
    with dropped():  # a second time, too
        del again
    assert pool.stats().out == 0


def test_a_dropped_buffer_says_where_it_was_taken() -> None:
    with Pool(Buffers(64), 1, name="frames", track="holders") as pool:
        buffer = pool.alloc()
        with pytest.warns(ResourceWarning, match=r"taken at test_buffers\.py:\d+ in test_a_dropped"):
            del buffer
        assert pool.holders() == ()


def test_a_weak_reference_does_not_see_the_next_user(pool: Pool[Buffer]) -> None:
    buffer = pool.alloc()
    reference = weakref.ref(buffer)
    with dropped():
        del buffer
    assert reference() is None


def test_a_dropped_buffer_serves_the_line(pool: Pool[Buffer]) -> None:
    pool.resize(limit=2)
    one, two = pool.alloc_many(2)
    served: list[Buffer] = []
    waiter = threading.Thread(target=lambda: served.append(pool.alloc()))
    waiter.start()
    wait_until(lambda: pool.stats().waiting == 1)
    pool.hand_over(one)
    with dropped():
        del one
    waiter.join(60)
    pool.free_many([two, *served])


def test_a_buffer_dropped_after_its_pool_gives_its_memory_back() -> None:
    source = Buffers(4096)
    pool = Pool(source, 2)
    buffer = pool.alloc()
    view = buffer[:]
    del pool
    gc.collect()
    view[0] = 1
    del view
    assert buffer[0] == 1
    del buffer
    gc.collect()
    again = source.alloc()  # the source works without a pool
    source.free(again)
    with pytest.raises(UseAfterFree):
        len(again)
    again = source.alloc()
    del again


def test_buffers_still_out_are_disposed_of_when_their_pool_is_closed(pool: Pool[Buffer]) -> None:
    one, two = pool.alloc_many(2)
    assert pool.close() == 2
    pool.free(one)
    with dropped():
        del two
    assert pool.stats().out == 0
    assert pool.stats().made == pool.stats().disposed


# -- helpers


def test_an_array_shares_the_memory(pool: Pool[Buffer]) -> None:
    with pool.lease() as buffer:
        numbers = buffer.array("int32", (16, 16))
        numbers[:] = 3
        assert numbers.flags.writeable
        assert struct.unpack_from("i", exported(buffer), 4 * 255) == (3,)
        assert buffer.array("uint8").shape == (4096,)
        assert buffer.array("float64").shape == (512,)
        assert buffer.array("float64", 5).shape == (5,)
        assert buffer.array("u1", (0, 9)).shape == (0, 9)
        with pytest.raises((ValueError, TypeError), match=r"pool 'frames'.* takes 8 KiB, this buffer has 4 KiB"):
            buffer.array("int32", (2048,))
        with pytest.raises(ValueError, match="pool 'frames'"):
            buffer.array("int32", (-1, -1))
        del numbers


def test_dlpack_shares_the_memory(pool: Pool[Buffer]) -> None:
    with pool.lease() as buffer:
        assert buffer.__dlpack_device__() == (1, 0)
        shared = np.from_dlpack(buffer)
        buffer[3] = 44
        assert shared[3] == 44
        del shared


def test_torch_shares_the_memory(pool: Pool[Buffer]) -> None:
    torch: Any = pytest.importorskip("torch")
    with pool.lease() as buffer:
        tensor = torch.from_dlpack(buffer)
        tensor[3] = 44
        assert buffer[3] == 44
        assert torch.frombuffer(exported(buffer), dtype=torch.uint8)[3] == 44
        del tensor
        gc.collect()


# -- many threads, and other processes


def test_threads_never_see_each_others_bytes() -> None:
    """Each writes its number over the whole buffer, waits for nobody, and finds it unchanged."""
    pool = Pool(Buffers(1024), 2, limit=4)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(300):
            with pool.lease() as buffer:
                buffer.fill(number)
                if bytes(buffer) != bytes([number]) * 1024:
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert pool.stats().out == 0
    pool.close()


def test_of_many_who_free_one_buffer_one_succeeds(pool: Pool[Buffer]) -> None:
    for _ in range(100):
        buffer = pool.alloc()
        start = threading.Barrier(3)
        outcomes: list[object] = []

        def free(buffer: Buffer = buffer, start: threading.Barrier = start, outcomes: list[object] = outcomes) -> None:
            start.wait()
            try:
                outcomes.append(pool.free(buffer))
            except DoubleFree as error:
                outcomes.append(error)

        threads = [threading.Thread(target=free) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert outcomes.count(None) == 1
        assert len(outcomes) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_has_its_own_copy(pool: Pool[Buffer]) -> None:
    buffer = pool.alloc()
    buffer.fill(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            buffer.fill(2)
            pool.free(buffer)
            with pool.lease() as mine:
                status = 0 if mine[0] == 2 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bytes(buffer) == b"\1" * 4096
    pool.free(buffer)
