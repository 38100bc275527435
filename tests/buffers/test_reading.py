"""pool.read: files, sockets and streams, piece by piece; every buffer is returned, however the loop ends."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import random
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

from mempool import Buffer, Buffers, DoubleFree, Pool, UseAfterFree

SIZE = 4096
DATA = random.Random(7).randbytes(10 * SIZE + 123)


def make(reserve: int = 2, **options: Any) -> Pool[Buffer]:
    return Pool(Buffers(SIZE), reserve, keep=4, limit=4, **options)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return path


def test_a_file_is_read_to_its_end(file: Path) -> None:
    """The chunks are the file, in its order; all but the last are full"""
    digest = hashlib.sha256()
    sizes = []
    with make() as pool, file.open("rb") as opened:
        for chunk in pool.read(opened):
            with chunk as view:
                digest.update(view)
                sizes.append(len(chunk))
        assert pool.out == 0
    assert digest.digest() == hashlib.sha256(DATA).digest()
    assert sizes == [SIZE] * 10 + [123]


def test_a_socket_is_read_to_its_end() -> None:
    """A chunk is what one recv_into brings."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            theirs.sendall(DATA)

    sender = threading.Thread(target=send)
    sender.start()
    received = bytearray()
    with make() as pool, ours:
        for chunk in pool.read(ours):
            with chunk as view:
                received += view
        assert pool.out == 0
    sender.join()
    assert received == DATA


def test_chunks_can_be_kept_and_released_elsewhere(file: Path) -> None:
    """A chunk that is passed on is released by whoever has it; the reader goes on with other buffers."""
    with make() as pool, file.open("rb") as opened:
        chunks = []
        received = bytearray()
        for chunk in pool.read(opened):
            chunks.append(chunk)
            if len(chunks) == 3:
                for kept in chunks:
                    received += kept.view
                    kept.release()
                chunks.clear()
        for kept in chunks:
            received += kept.view
            kept.release()
        assert pool.out == 0
    assert received == DATA


def test_a_chunk_is_over_when_it_was_released(file: Path) -> None:
    """Its view ends, a second release raises, and so does a use of its bytes."""
    with make() as pool, file.open("rb") as opened:
        chunk = next(iter(pool.read(opened)))
        view = chunk.view
        chunk.release()
        with pytest.raises(ValueError, match="released"):
            view[0]
        with pytest.raises(DoubleFree):
            chunk.release()
        with pytest.raises((DoubleFree, UseAfterFree)):
            chunk.view  # noqa: B018 - the access is the test


def test_a_chunk_that_is_still_looked_at_is_not_returned(file: Path) -> None:
    """A slice of the view that outlives the block is named; when it is gone, the chunk can be released."""
    with make() as pool, file.open("rb") as opened:
        chunk = next(iter(pool.read(opened)))
        kept = chunk.view[:10]
        with pytest.raises(BufferError, match="view"):
            chunk.release()
        assert pool.out == 1
        kept.release()
        chunk.release()
        assert pool.out == 0


def test_a_loop_that_is_left_early_returns_every_buffer(file: Path) -> None:
    """By break, and by an exception."""
    with make() as pool, file.open("rb") as opened:
        for chunk in pool.read(opened):
            with chunk:
                break
        assert pool.out == 0

        def fail() -> None:
            for chunk in pool.read(opened):
                with chunk as view:
                    view[1 // 0] = 0

        with pytest.raises(ZeroDivisionError):
            fail()
        assert pool.out == 0


class Broken(io.RawIOBase):
    def readinto(self, _buffer: Any) -> int:
        raise OSError("the disk is gone")


def test_a_file_that_fails_costs_no_buffer() -> None:
    with make() as pool:
        with pytest.raises(OSError, match="the disk is gone"):
            for _ in pool.read(Broken()):
                pass
        assert pool.out == 0


def test_a_file_without_data_now_is_an_error() -> None:
    """A pipe that does not block and is empty: BlockingIOError, and no buffer is lost."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with make() as pool, os.fdopen(reading, "rb", buffering=0) as opened, os.fdopen(writing, "wb"):
        with pytest.raises(BlockingIOError, match="nothing to read now"):
            next(iter(pool.read(opened)))
        assert pool.out == 0


@pytest.mark.parametrize("thing", [object(), "a path"])
def test_what_cannot_be_read_is_refused_at_once(thing: object) -> None:
    with make() as pool, pytest.raises(TypeError, match="readinto"):
        pool.read(thing)


# -- in event loops


def test_a_stream_of_asyncio_is_read_to_its_end() -> None:
    """StreamReader of a real connection: copied once into each buffer."""

    async def main() -> bytes:
        async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(DATA)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        received = bytearray()
        with make() as pool:
            async with server:
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                async for chunk in pool.read(reader):
                    with chunk as view:
                        received += view
                writer.close()
                await writer.wait_closed()
            assert pool.out == 0
        return bytes(received)

    assert asyncio.run(main()) == DATA


@pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)], ids=["asyncio", "trio"])
def test_a_file_is_read_in_a_worker_thread(file: Path, run: Any) -> None:
    """`async for` over a file: the disk is waited for in another thread than the loop's."""

    async def main() -> tuple[bytes, set[int]]:
        threads = set()

        class Watched(io.FileIO):
            def readinto(self, buffer: Any) -> int:
                threads.add(threading.get_ident())
                return super().readinto(buffer)

        received = bytearray()
        with make() as pool, Watched(file) as opened:
            async for chunk in pool.read(opened):
                with chunk as view:
                    received += view
            assert pool.out == 0
        return bytes(received), threads

    received, threads = run(main())
    assert received == DATA
    assert threading.get_ident() not in threads


def test_a_cancelled_reader_loses_no_buffer() -> None:
    """Cancelled while it waits for data, the reader gives its buffer back."""

    async def main() -> None:
        with make() as pool:
            reader = asyncio.StreamReader()

            async def read() -> None:
                async for chunk in pool.read(reader):
                    chunk.release()

            task = asyncio.create_task(read())
            while not pool.out:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert pool.out == 0

    asyncio.run(main())


def test_a_stream_is_not_read_by_for() -> None:
    async def main() -> None:
        with make() as pool, pytest.raises(TypeError, match="async for"):
            next(iter(pool.read(asyncio.StreamReader())))

    asyncio.run(main())


def test_a_file_whose_readinto_is_a_coroutine_is_read_to_its_end() -> None:
    """Straight into each buffer."""

    class Opened:
        def __init__(self) -> None:
            self._file = io.BytesIO(DATA)

        async def readinto(self, element: Any) -> int:
            await asyncio.sleep(0)
            return self._file.readinto(element)

    async def main() -> bytes:
        received = bytearray()
        with make() as pool:
            async for chunk in pool.read(Opened()):
                with chunk as view:
                    received += view
            assert pool.out == 0
        return bytes(received)

    assert asyncio.run(main()) == DATA
