"""Real programs of other people that let go of a buffer a moment after the lease: with linger each run of many is clean."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from exports import exported

from mempool import Buffer, Buffers, Pool
from mempool.testing import wait_until

RUNS = 300
PART = 4096

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning")


@pytest.fixture
def pool() -> Iterator[Pool[Buffer]]:
    """Of four buffers, which all are returned."""
    with Pool(Buffers("64 KiB"), 4, limit=4, timeout=20, name="shared") as pool:
        yield pool
        gc.collect()
        wait_until(lambda: pool.stats().out == 0)
        assert (pool.stats().spare, pool.stats().lingering) == (4, 0)


def test_arrow_reads_a_parquet_file_out_of_a_lease(pool: Pool[Buffer]) -> None:
    """Its threads let go of the buffer a moment after `read_table` has returned."""
    pa: Any = pytest.importorskip("pyarrow")
    pq: Any = pytest.importorskip("pyarrow.parquet")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"number": list(range(1000)), "word": ["word"] * 1000}), sink)
    file = sink.getvalue().to_pybytes()
    for _ in range(RUNS):
        with pool.lease(linger=True) as buffer:
            buffer[: len(file)] = file
            table = pq.read_table(pa.BufferReader(pa.py_buffer(exported(buffer))[: len(file)]))
        assert table.num_rows == 1000
        del table


def test_an_arrow_array_that_looks_is_named(pool: Pool[Buffer]) -> None:
    """One level down: a table's columns, their chunks, and the buffers of these."""
    pa: Any = pytest.importorskip("pyarrow")
    buffer = pool.alloc()
    array = pa.Array.from_buffers(pa.uint8(), 16, [None, pa.py_buffer(exported(buffer))])
    table = pa.table({"numbers": array})
    with Pool(Buffers("64 KiB"), 1, name="watched", track="holders") as watched:
        element = watched.alloc()
        column = pa.table({"numbers": pa.Array.from_buffers(pa.uint8(), 16, [None, pa.py_buffer(exported(element))])})
        with pytest.raises(BufferError, match=r"pyarrow\.lib\.Table"):
            watched.free(element)
        del column
        watched.free(element)
    del array, table
    pool.free(buffer)


class Received(asyncio.BufferedProtocol):
    """Each piece is received into a buffer of its own, which is freed in `buffer_updated`, where the loop still has it."""

    def __init__(self, pool: Pool[Buffer], done: Callable[[], None]) -> None:
        self.pool, self.done = pool, done
        self.bytes = 0
        self.buffer: Buffer | None = None

    def get_buffer(self, _sizehint: int) -> Any:
        self.buffer = self.pool.alloc(timeout=0)
        return self.buffer[:PART]

    def buffer_updated(self, nbytes: int) -> None:
        buffer, self.buffer = self.buffer, None
        assert buffer is not None
        assert bytes(buffer[:nbytes]) == b"x" * nbytes
        self.pool.free(buffer, linger=True)
        self.bytes += nbytes

    def connection_lost(self, _error: Exception | None) -> None:
        if self.buffer is not None:
            self.pool.free(self.buffer, linger=True)
        self.done()


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_buffered_protocol_frees_what_its_loop_still_has(pool: Pool[Buffer], kind: str) -> None:
    new_loop: Callable[[], Any] = (
        asyncio.new_event_loop if kind == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    )

    async def main() -> int:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        protocols: list[Received] = []

        def accepted() -> Received:
            protocols.append(Received(pool, ended.set))
            return protocols[-1]

        server = await loop.create_server(accepted, "127.0.0.1", 0)
        async with server:
            _reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for _ in range(RUNS):
                writer.write(b"x" * PART)
                await writer.drain()
            writer.close()
            await writer.wait_closed()
            await ended.wait()
        return protocols[0].bytes

    loop = new_loop()
    try:
        assert loop.run_until_complete(main()) == RUNS * PART
    finally:
        loop.close()


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_transport_that_still_sends_after_drain(pool: Pool[Buffer], kind: str) -> None:
    """`drain` returns while the transport holds what it could not send yet."""
    new_loop: Callable[[], Any] = (
        asyncio.new_event_loop if kind == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    )

    async def main() -> int:
        received = 0
        ended = asyncio.Event()

        async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal received
            while data := await reader.read(1 << 16):
                received += len(data)
            writer.close()
            ended.set()

        server = await asyncio.start_server(read, "127.0.0.1", 0)
        async with server:
            _reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for _ in range(RUNS):
                async with pool.lease(linger=True) as buffer:
                    writer.write(buffer[:])
                    await writer.drain()
            writer.close()
            await writer.wait_closed()
            await ended.wait()
        return received

    loop = new_loop()
    try:
        assert loop.run_until_complete(main()) == RUNS * (64 << 10)
    finally:
        loop.close()


def test_a_streaming_response_whose_generator_yields_slices(pool: Pool[Buffer]) -> None:
    """Served by uvicorn; each response is whole."""
    uvicorn: Any = pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def pieces() -> Any:
        async with pool.lease(linger=True) as buffer:
            for number in range(3):
                buffer[:PART] = bytes([number]) * PART
                yield buffer[:PART]
                await asyncio.sleep(0)

    async def stream(_request: Any) -> Any:
        return StreamingResponse(pieces())

    app = Starlette(routes=[Route("/", stream)])
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        for _ in range(RUNS):
            with socket.create_connection(listener.getsockname()) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                parts = []
                while part := client.recv(1 << 16):
                    parts.append(part)
            answer = b"".join(parts)
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.count(b"\2") == PART  # the last piece, whole
            assert answer.endswith(b"\r\n0\r\n\r\n")
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.mark.parametrize("copied", [True, False])
def test_a_middleware_that_sends_a_piece_after_the_next_is_asked_for(pool: Pool[Buffer], copied: bool) -> None:
    """Its task has the slice while the generator goes on: a copy is whole, and a slice that has ended is told of."""
    pytest.importorskip("starlette")
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    filled: list[int] = []

    async def pieces() -> Any:
        async with pool.lease() as buffer:
            for number in range(3):
                buffer[:PART] = bytes([number]) * PART
                filled.append(number)
                with buffer[:PART] as piece:
                    yield bytes(piece) if copied else piece

    async def stream(_request: Any) -> Any:
        return StreamingResponse(pieces())

    async def go_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    requests: list[dict[str, Any]] = [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[bytes] = []

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            # Until the generator has gone on, as with a client that reads slowly.
            while len(filled) < min(3, len(sent) + 2):  # noqa: ASYNC110 - it knows of no event
                await asyncio.sleep(0)
            sent.append(bytes(message["body"]))

    async def receive() -> dict[str, Any]:
        return requests.pop() if requests else await asyncio.Future()

    app = Starlette(routes=[Route("/", stream)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=go_on)])
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "http_version": "1.1"}
    if copied:
        asyncio.run(app(scope, receive, send))
        assert sent == [bytes([number]) * PART for number in range(3)]
    else:
        with pytest.raises(ValueError, match="released memoryview"):
            asyncio.run(app(scope, receive, send))
        assert sent == []
