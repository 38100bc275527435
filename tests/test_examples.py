"""The examples, run as they are: with sockets on 127.0.0.1 and files on disk."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import importlib.util
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest
from sweeps import audit

from mempool import Buffers, Pool
from mempool.testing import wait_until_async

EXAMPLES = Path(__file__).parent.parent / "examples"
SOON = 20  # seconds


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_under_sixty_lines(path: Path) -> None:
    """What takes longer to read is not an example."""
    assert len(path.read_text().splitlines()) < 60


# -- tcp_relay


class Relay:
    """A relay before a server that echoes, in a loop of its own; `async with` it."""

    def __init__(self, limit: int, **options: Any) -> None:
        self.there, self.back = (Pool(Buffers(4096), 1, limit=limit, **options) for _ in range(2))

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._echo, "127.0.0.1", 0)
        ports: list[int] = []
        target = self.server.sockets[0].getsockname()
        self.task = asyncio.ensure_future(load("tcp_relay").main(0, target, self.there, self.back, ports.append))
        await wait_until_async(lambda: ports or self.task.done())
        self.port = ports[0]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        self.server.close()
        audit(self.there)
        audit(self.back)

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while block := await reader.read(10_000):
                writer.write(block)
                await writer.drain()
        writer.close()

    async def echo(self, words: bytes) -> bytes:
        """Send and receive at the same time, to the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)

        async def send() -> None:
            writer.write(words)
            await writer.drain()
            writer.write_eof()

        _, answer = await asyncio.gather(send(), reader.read(-1))
        writer.close()
        return answer


def test_the_relay_moves_both_directions_of_many_connections_through_few_buffers() -> None:
    """Ten connections of a megabyte each through three buffers a direction: all is moved, and no more is made."""
    words = [os.urandom(1_000_000) for _ in range(10)]

    async def main() -> None:
        async with Relay(limit=3) as relay:
            assert await asyncio.wait_for(asyncio.gather(*map(relay.echo, words)), SOON) == words
            for pool in (relay.there, relay.back):
                assert pool.stats().made - pool.stats().disposed <= 3
            assert relay.there.stats().waits_served >= 7

    asyncio.run(main())


def test_the_relay_lets_a_connection_wait_in_line_until_there_is_a_buffer() -> None:
    """With the one buffer taken, the next connection is accepted and not read; it goes on when the first has gone."""

    async def main() -> None:
        async with Relay(limit=1) as relay:
            _, first = await asyncio.open_connection("127.0.0.1", relay.port)
            await wait_until_async(lambda: relay.there.stats().out == 1)
            second = asyncio.ensure_future(relay.echo(b"second"))
            await wait_until_async(lambda: relay.there.stats().waiting == 1)
            first.close()
            assert await asyncio.wait_for(second, SOON) == b"second"

    asyncio.run(main())


def test_the_relay_refuses_a_connection_when_the_line_is_full() -> None:
    """Overload ends at the door, and disturbs nobody who stands inside."""

    async def main() -> None:
        async with Relay(limit=1, max_waiting=0) as relay:
            _, first = await asyncio.open_connection("127.0.0.1", relay.port)
            await wait_until_async(lambda: relay.there.stats().out == 1)
            reader, refused = await asyncio.open_connection("127.0.0.1", relay.port)
            assert await asyncio.wait_for(reader.read(), SOON) == b""
            refused.close()
            first.close()
            await wait_until_async(lambda: relay.there.stats().out == 0)
            assert await asyncio.wait_for(relay.echo(b"third"), SOON) == b"third"

    asyncio.run(main())


def test_the_relay_survives_a_target_that_is_not_there() -> None:
    """A connection that cannot be relayed is closed, and its buffers are home."""

    async def main() -> None:
        async with Relay(limit=1) as relay:
            relay.server.close()
            for _ in range(3):
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(relay.echo(b"nobody"), SOON) == b""
            await wait_until_async(lambda: relay.there.stats().out == relay.back.stats().out == 0)

    asyncio.run(main())


def test_the_relay_runs_as_a_script() -> None:
    """It says its port, and relays."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = [str(part) for part in server.getsockname()]
        command = [sys.executable, "-u", str(EXAMPLES / "tcp_relay.py"), "0", *where]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                port = int(process.stdout.readline())
                with socket.create_connection(("127.0.0.1", port), SOON) as client, server.accept()[0] as accepted:
                    client.sendall(b"hello")
                    assert accepted.recv(100) == b"hello"
                    accepted.sendall(b"welcome")
                    assert client.recv(100) == b"welcome"
            finally:
                process.kill()


# -- thread_pipeline


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 500_000])
def test_the_pipeline_compresses_a_file_in_bounded_memory(tmp_path: Path, size: int) -> None:
    """Whatever the size, the output is the input, and no more than the limit was ever made."""
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_bytes(os.urandom(size))
    pool = Pool(Buffers(4096), 1, limit=3)
    load("thread_pipeline").main(source, output, pool, workers=3)
    assert gzip.decompress(output.read_bytes()) == source.read_bytes()
    assert pool.stats().made <= 3
    audit(pool)


@pytest.mark.parametrize("track", ["nothing", "holders"])
def test_the_pipeline_takes_no_wait_for_a_deadlock(tmp_path: Path, track: str) -> None:
    """The reader waits while all blocks are with the workers and the writer, whom it handed them over."""
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_bytes(bytes(300_000))
    pool = Pool(Buffers(4096), 1, limit=1, track=track)
    load("thread_pipeline").main(source, output, pool)
    assert gzip.decompress(output.read_bytes()) == source.read_bytes()
    audit(pool)


def test_the_pipeline_gives_everything_back_when_the_output_cannot_be_written(tmp_path: Path) -> None:
    """A full disk ends it with the error, and all buffers are home."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(500_000))
    pool = Pool(Buffers(4096), 1, limit=2)
    threads = threading.active_count()
    with pytest.raises(OSError, match="No space left"):
        load("thread_pipeline").main(source, full, pool)
    assert threading.active_count() == threads
    audit(pool)


def test_the_pipeline_runs_as_a_script(tmp_path: Path) -> None:
    """`python thread_pipeline.py input output`, and gzip reads what it wrote."""
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_bytes(os.urandom(1_000_000))
    command = [sys.executable, str(EXAMPLES / "thread_pipeline.py"), str(source), str(output)]
    subprocess.run(command, check=True, timeout=SOON)
    assert gzip.decompress(output.read_bytes()) == source.read_bytes()
