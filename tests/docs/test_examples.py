"""The examples, run as they are: with sockets on 127.0.0.1 and files on disk."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import importlib.util
import os
import pty
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self

import pytest
from books import assert_at_rest

from mempool import Buffers, Pool, PoolTimeout
from mempool.testing import ManualClock, ScriptedSource, Step, wait_until, wait_until_async

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
#: What is said once, uncompiled on Python 3.11, is none of an example's lines.
QUIET = ("-W", "ignore:mempool:RuntimeWarning")
SOON = 90  # seconds; a cluster of Dask took 20 on a full machine without the GIL


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_under_eighty_lines(path: Path) -> None:
    """What takes longer to read is not an example; and each has tests here."""
    assert len(path.read_text("utf-8").splitlines()) < 80
    assert f"# -- {path.stem}" in Path(__file__).read_text("utf-8")


def run(name: str, *arguments: object, words: str | None = None) -> subprocess.CompletedProcess[str]:
    """An example as its user runs it."""
    command = [sys.executable, "-u", str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    # Without the GIL the interpreter has reserved a GiB of addresses, on which the limit of a small machine would be lost.
    environment = os.environ | {"MIMALLOC_ARENA_RESERVE": "0"}
    return subprocess.run(command, env=environment, input=words, capture_output=True, text=True, timeout=SOON, check=False)


@pytest.mark.sample(4)
@pytest.mark.once
@pytest.mark.parametrize("name", sorted({path.stem for path in EXAMPLES.glob("*.py")} - {"resize_on_signal"}))
def test_an_example_without_arguments_says_what_it_takes(name: str) -> None:
    """One line, and no traceback."""
    if name == "loader":
        pytest.importorskip("torch")
    if name == "spill_results":
        pytest.importorskip("distributed", reason="mempool[dask] is not installed")
    done = run(name)
    assert done.returncode == 1
    assert done.stderr.startswith(f"usage: python {name}.py ")
    assert done.stderr.count("\n") == 1


def test_an_example_that_reads_its_input_says_so_at_a_terminal() -> None:
    """It would seem to hang."""
    terminal, other_end = pty.openpty()
    command = [sys.executable, *QUIET, str(EXAMPLES / "resize_on_signal.py")]
    try:
        done = subprocess.run(command, stdin=other_end, capture_output=True, text=True, timeout=SOON, check=False)
    finally:
        os.close(terminal)
        os.close(other_end)
    assert done.stderr == "usage: find . -type f | python resize_on_signal.py\n"
    assert done.returncode == 1


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
        assert_at_rest(self.there)
        assert_at_rest(self.back)

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
    """A connection that cannot be relayed is closed, and its buffers are back."""

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
    assert pool.stats().made - pool.stats().disposed <= 3
    assert_at_rest(pool)


@pytest.mark.parametrize("track", ["nothing", "holders"])
def test_the_pipeline_takes_no_wait_for_a_deadlock(tmp_path: Path, track: str) -> None:
    """The reader waits while all blocks are with the workers and the writer, whom it handed them over."""
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_bytes(bytes(300_000))
    pool = Pool(Buffers(4096), 1, limit=1, track=track)
    load("thread_pipeline").main(source, output, pool)
    assert gzip.decompress(output.read_bytes()) == source.read_bytes()
    assert_at_rest(pool)


def test_the_pipelines_reader_leaves_a_block_alone_that_it_has_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer may have returned it already."""
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_bytes(bytes(10_000))
    pool = Pool(Buffers(4096), 1, limit=1)

    class Blocks(queue.SimpleQueue[Any]):
        def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
            super().put(item, block, timeout)
            wait_until(lambda: pool.stats().out == 0)

    pipeline = load("thread_pipeline")
    monkeypatch.setattr(pipeline, "queue", SimpleNamespace(SimpleQueue=Blocks))
    pipeline.main(source, output, pool)
    assert gzip.decompress(output.read_bytes()) == source.read_bytes()
    assert_at_rest(pool)


def test_the_pipeline_gives_everything_back_when_the_output_cannot_be_written(tmp_path: Path) -> None:
    """A full disk ends it with the error, and all buffers are back."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(500_000))
    pool = Pool(Buffers(4096), 1, limit=2)
    before = set(threading.enumerate())  # some of an earlier test may end meanwhile
    with pytest.raises(OSError, match="No space left"):
        load("thread_pipeline").main(source, full, pool)
    assert set(threading.enumerate()) <= before
    assert_at_rest(pool)


def test_the_pipeline_runs_as_a_script(tmp_path: Path) -> None:
    """`python thread_pipeline.py input output`, and gzip reads what it wrote."""
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_bytes(os.urandom(1_000_000))
    run("thread_pipeline", source, output).check_returncode()
    assert gzip.decompress(output.read_bytes()) == source.read_bytes()


# -- hash_files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of sizes around a buffer's, in folders; some a few megabytes."""
    root = tmp_path / "tree"
    for number, size in enumerate([0, 1, 4095, 4096, 4097, 3_000_000, 2_000_000, 65536]):
        folder = root / f"folder {number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(os.urandom(size))
    return root


def files_of(tree: Path) -> list[Path]:
    return sorted(path for path in tree.rglob("*") if path.is_file())


@pytest.mark.parametrize("threads", [1, 20])
def test_files_are_hashed_in_bounded_memory(tree: Path, threads: int) -> None:
    """Every digest is right, whatever the number of threads, and the limit is never passed."""
    pool = Pool(Buffers(4096), 1, limit=3)
    digests = load("hash_files").main(tree, pool, threads)
    assert digests == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files_of(tree)}
    assert pool.stats().made - pool.stats().disposed <= 3
    assert_at_rest(pool)


def test_files_are_hashed_while_memory_is_out(tree: Path) -> None:
    """When the source has nothing more to give, the reserve alone serves all threads."""
    source: ScriptedSource[Any] = ScriptedSource(source=Buffers(4096))
    pool = Pool(source, 2)
    source.otherwise = Step.FAILS
    assert len(load("hash_files").main(tree, pool, 20)) == len(files_of(tree))
    assert source.made == 2
    assert_at_rest(pool)


def test_hashing_runs_as_a_script(tree: Path) -> None:
    """A line per file, as sha256sum writes it."""
    told = run("hash_files", tree, 4)
    assert told.stdout.splitlines() == [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}" for path in files_of(tree)
    ], told.stderr


# -- slow_consumer


def test_the_pool_says_which_consumer_keeps_the_frames(tree: Path) -> None:
    """Its name, the line where it took each frame, and since when; in words that begin with what is the matter."""
    told = run("slow_consumer", files_of(tree)[-1])
    assert told.stdout.startswith("pool 'frames': 4 promised, 0 spare, 8 out"), told.stderr
    assert "the limit of 8 is reached" in told.stdout
    keepers = re.findall(r"thread '(.*?)' has held \w+ at \w+ for ([\d.]+) s, taken at (\S+) in (\w+)", told.stdout)
    text = (EXAMPLES / "slow_consumer.py").read_text("utf-8")
    line = text[: text.index("pool.try_alloc()")].count("\n") + 1
    assert {(who, site, where) for who, _, site, where in keepers} == {
        ("motion detector", f"slow_consumer.py:{line}", "detect_motion")
    }
    assert len(keepers) == 8
    seconds = [float(held) for _, held, _, _ in keepers]
    assert seconds == sorted(seconds, reverse=True)  # the oldest first


# -- spill_cache


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit on memory is enforced on Linux only")


@pytest.fixture
def large_tree(tmp_path: Path) -> Path:
    """More than the cache's process may have; in blocks that differ."""
    root = tmp_path / "large"
    root.mkdir()
    for number in range(5):
        (root / f"{number}").write_bytes(os.urandom(9_500_000))
    return root


@linux
def test_a_cache_spills_when_memory_is_out_and_survives_by_its_reserve(large_tree: Path, tmp_path: Path) -> None:
    """Some blocks stay in memory, the others go to the disk, and each is what it was."""
    told = run("spill_cache", large_tree, tmp_path / "spilled")
    assert told.returncode == 0, told.stderr
    head, *lines = told.stdout.splitlines()
    warm, cold = map(int, re.findall(r"\d+", head))
    assert warm > 0
    assert cold > 0
    blocks = {}
    for path in files_of(large_tree):
        for offset in range(0, path.stat().st_size, 1 << 20):
            blocks[f"{path} {offset}"] = hashlib.sha256(path.read_bytes()[offset : offset + (1 << 20)]).hexdigest()
    assert {line.split(" ", 1)[1]: line.split(" ", 1)[0] for line in lines} == blocks
    assert len(lines) == warm + cold == len(blocks)


@pytest.mark.long_on_both
@linux
def test_without_a_reserve_the_same_cache_dies(large_tree: Path, tmp_path: Path) -> None:
    """It needs memory to free memory, and has none: so the reserve is what the test above shows."""
    told = run("spill_cache", large_tree, tmp_path / "spilled", 0)
    assert told.returncode == 1
    assert "MemoryError" in told.stderr
    assert "PoolTimeout: pool 'staging'" in told.stderr.splitlines()[-1]


def test_a_block_that_changed_on_the_disk_is_not_handed_out(tree: Path, tmp_path: Path) -> None:
    """A spilled block carries its checksum."""
    module = load("spill_cache")
    pool = Pool(Buffers(module.HEADER + module.BLOCK), 1)
    cache = module.SpillCache(pool, tmp_path / "spilled")
    with cache.file as file:
        path = files_of(tree)[-1]
        cache.put("key", path, 0)
        cache.spill()
        assert cache.warm == {}
        assert cache.read("key", bytes) == path.read_bytes()[: module.BLOCK]
        file.seek(module.HEADER)
        file.write(bytes([path.read_bytes()[0] ^ 1]))
        with pytest.raises(OSError, match="has changed"):
            cache.read("key", bytes)
    assert_at_rest(pool)


# -- resize_on_signal


@pytest.mark.long_on_both
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals here")
def test_a_signal_resizes_the_worker_while_it_works(tree: Path) -> None:
    """Twice up, once down, between the lines that it is fed; every checksum is right, and nothing is left behind."""
    paths = files_of(tree) * 20
    command = [sys.executable, *QUIET, "-u", str(EXAMPLES / "resize_on_signal.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as worker:  # type: ignore[call-overload]
        try:
            assert worker.stderr.readline() == "ready\n"
            said = []
            for number, some in zip([signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2, None], batches(paths, 4), strict=True):
                worker.stdin.write("".join(f"{path}\n" for path in some))
                worker.stdin.flush()
                if number is not None:
                    worker.send_signal(number)
                    said.append(worker.stderr.readline())
            printed, errors = worker.communicate(timeout=SOON)
        finally:
            worker.kill()
    assert [int(re.findall(r"promised=(\d+)", line)[0]) for line in said] == [4, 8, 4]
    assert errors == ""
    crcs = {path: f"{zlib.crc32(path.read_bytes()):08x}  {path}" for path in paths}
    assert sorted(printed.splitlines()) == sorted(crcs[path] for path in paths)


def batches(paths: list[Path], n: int) -> list[list[Path]]:
    size = len(paths) // n
    return [paths[i * size : (i + 1) * size] for i in range(n)]


@pytest.mark.long_on_both
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals here")
def test_a_file_that_is_not_there_is_a_line_and_not_the_end(tree: Path) -> None:
    """The worker goes on with the next."""
    path = files_of(tree)[-1]
    told = run("resize_on_signal", words=f"{tree / 'missing'}\n{path}\n")
    crc = f"{zlib.crc32(path.read_bytes()):08x}"
    assert sorted(told.stdout.splitlines()) == sorted([f"No such file or directory  {tree / 'missing'}", f"{crc}  {path}"])


# -- arrays


@pytest.mark.parametrize("size", [0, 4, 4096, 4098, 300_000])
def test_samples_are_halved_in_place_and_written(tmp_path: Path, size: int) -> None:
    """Each sample is half of what it was, block by block, and no view keeps a buffer."""
    np = pytest.importorskip("numpy")
    source, target = tmp_path / "sound", tmp_path / "half"
    source.write_bytes(os.urandom(size))
    pool = Pool(Buffers(4096), 1, limit=1)
    blocks = list(load("arrays").halve(source, target, pool))
    before = np.frombuffer(source.read_bytes()[: size // 4 * 4], "<i2").reshape(-1, 2)
    after = np.frombuffer(target.read_bytes(), "<i2").reshape(-1, 2)
    assert (after == before // 2).all()
    assert after.shape == before.shape
    assert len(blocks) == -(-(size // 4) // 1024)
    peaks = [np.abs(after[i : i + 1024].astype("i4")).max(axis=0).tolist() for i in range(0, len(after), 1024)]
    assert [list(block.peaks) for block in blocks] == peaks
    assert_at_rest(pool)


@pytest.mark.parametrize("library", ["numpy", "pyarrow"])
def test_a_block_is_exported_whole_by_either_library(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Arrow's buffer, or where there is no Arrow, by DLPack."""
    pytest.importorskip("numpy")
    pytest.importorskip(library)
    module = load("arrays")
    if library == "numpy":
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    words = os.urandom(5000)
    pool = Pool(Buffers(8192), 1)
    with pool.lease() as buffer:
        buffer[:5000] = words
        assert module.export(buffer, 5000) == words
    assert_at_rest(pool)


@pytest.mark.long_on_both
def test_samples_run_as_a_script(tmp_path: Path) -> None:
    """A line per block, and a file beside the first."""
    pytest.importorskip("numpy")
    (tmp_path / "sound").write_bytes(b"\x00\x10\x00\xf0" * 20_000)
    told = run("arrays", tmp_path / "sound")
    assert told.stdout.splitlines()[0].startswith("2048 2048 "), told.stderr
    assert (tmp_path / "sound.half").read_bytes() == b"\x00\x08\x00\xf8" * 20_000


# -- decode_farm


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Six moving pictures of five grey frames each, the level of each frame known; all formats lossless."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pytest.importorskip("distributed", reason="mempool[dask] is not installed")
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(6):
        frames = [image.new("L", (64, 48), color=20 * number + second) for second in range(5)]
        name = folder / f"{number}.{('gif', 'png')[number % 2]}"
        frames[0].save(name, save_all=True, append_images=frames[1:])
    return folder


@pytest.mark.long
def test_a_farm_decodes_every_clip_while_its_pools_are_resized(clips: Path) -> None:
    """Two worker processes; the brightness of each clip is that of its frames, and the resize reaches both."""
    told = run("decode_farm", clips)
    assert told.returncode == 0, told.stderr
    found = sorted((line.split() for line in told.stdout.splitlines()), key=lambda words: words[-1])
    assert found == [
        ["5", "frames", f"{20 * number + 2:.2f}", str(path)] for number, path in enumerate(sorted(clips.iterdir()))
    ]
    assert re.search(r"^revision \d+: 2 applied$", told.stderr, re.MULTILINE)


# -- spill_results


def test_results_spill_through_the_reserve_while_memory_is_out(tmp_path: Path) -> None:
    """The source of the buffers has nothing more to give: the one of the reserve serves every spill, and every read."""
    pytest.importorskip("distributed", reason="mempool[dask] is not installed")
    module = load("spill_results")
    source: ScriptedSource[Any] = ScriptedSource(source=Buffers(module.HEADER + module.BLOCK))
    pool = Pool(source, 1, name="spill")
    source.otherwise = Step.FAILS
    store = module.SpillingResults(str(tmp_path / "file"), bytes_max=2000)
    results = {f"task-{number}": os.urandom(700) for number in range(10)}
    with store.file as file:
        store.update(results)
        store["figure"] = 7
        assert len(store.cold) == 8
        assert dict(store) == results | {"figure": 7}
        file.seek(4)
        file.write(bytes([results["task-0"][0] ^ 1]))
        with pytest.raises(OSError, match="task-0 has changed"):
            store["task-0"]
    assert source.made == 1
    assert_at_rest(pool)


def test_without_a_reserve_the_same_store_cannot_spill(tmp_path: Path) -> None:
    """It needs memory to free memory, and has none; what it had is still there."""
    pytest.importorskip("distributed", reason="mempool[dask] is not installed")
    module = load("spill_results")
    source: ScriptedSource[Any] = ScriptedSource(source=Buffers(module.HEADER + module.BLOCK))
    source.otherwise = Step.FAILS
    clock = ManualClock()
    pool = clock.attach(Pool(source, 0, name="spill"))
    store = module.SpillingResults(str(tmp_path / "file"), bytes_max=1000)
    with store.file, ThreadPoolExecutor(1) as thread:
        store["first"] = bytes(700)
        second = thread.submit(store.__setitem__, "second", bytes(700))
        clock.wait_until_parked(1)
        clock.advance(6)
        with pytest.raises(PoolTimeout, match="'spill'"):
            second.result(SOON)
        assert (len(store.warm), len(store.cold)) == (2, 0)
    assert pool.stats().waits_timed_out == 1


@pytest.mark.long_on_both
def test_spilling_runs_as_a_script(tmp_path: Path) -> None:
    """A worker of Dask keeps its results in it, and every one can be had."""
    pytest.importorskip("distributed", reason="mempool[dask] is not installed")
    told = run("spill_results", tmp_path / "file", 20)
    assert re.fullmatch(r"\d+ results spilled, 20 MiB in all\n", told.stdout), told.stderr
    assert int(told.stdout.split()[0]) >= 10


# -- camera


@pytest.mark.long_on_both
def test_frames_are_passed_on_while_workers_are_killed() -> None:
    """Every frame that was seen is right, and no frame is lost to the pool."""
    pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")
    told = run("camera", 1.5)
    assert told.returncode == 0, told.stderr
    found = re.fullmatch(r"(\d+) frames seen, 0 wrong; (\d+) workers killed; 0 frames are still out\n", told.stdout)
    assert found, told.stdout + told.stderr
    assert int(found[1]) > 0
    assert int(found[2]) > 0


# -- loader


@pytest.mark.long_on_both
def test_workers_of_a_torch_loader_fill_shared_buffers(tmp_path: Path) -> None:
    """Seven batches, in order, more than there are buffers for two workers at once; an empty file, and a longer one."""
    pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")
    pytest.importorskip("torch")
    before = set(Path("/dev/shm").glob("**/loader-*"))
    contents = [os.urandom(50 * number) for number in range(103)]
    contents[70] = os.urandom(5000)
    for number, content in enumerate(contents):
        (tmp_path / f"{number:03}").write_bytes(content)
    told = run("loader", tmp_path)
    assert told.returncode == 0, told.stderr
    expected = [contents[at : at + 16] for at in range(0, 103, 16)]
    assert told.stdout.splitlines() == [
        f"batch {number}: {len(batch)} files, {sum(sum(content[:4096]) for content in batch)}"
        for number, batch in enumerate(expected)
    ]
    assert set(Path("/dev/shm").glob("**/loader-*")) <= before


# -- read_ahead


@pytest.mark.long_on_both
def test_workers_of_an_executor_fill_shared_buffers(tmp_path: Path) -> None:
    """More files than buffers, one of them empty and one larger than a buffer."""
    pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")
    contents = [os.urandom(1000 * number) for number in range(20)] + [os.urandom((1 << 20) + 7)]
    for number, content in enumerate(contents):
        (tmp_path / str(number)).write_bytes(content)
    told = run("read_ahead", tmp_path)
    assert told.returncode == 0, told.stderr
    expected = {f"{zlib.crc32(content[: 1 << 20]):08x}  {tmp_path / str(n)}" for n, content in enumerate(contents)}
    assert set(told.stdout.splitlines()) == expected
