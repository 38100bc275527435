"""The socket beside a page: off unless it is asked for, and it answers whatever is thrown at it, however short memory is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import without_the_gil
from children import in_child
from programs import BY_DEFAULT, Program

from mempool import IMPLEMENTATION, Objects, Pool, watch
from mempool.engine import UnexpectedReserveError
from mempool.local.engine import LocalEngine
from mempool.testing import wait_until
from mempool.watch import client, server
from mempool.watch.directory import WatchError

#: The server's own; of those of these tests it has more: see conftest.py.
PATIENCE = server.PATIENCE


def socket_path() -> str:
    (process,) = watch.processes()
    return process._page.socket_path


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def raw(path: str, *pieces: bytes, wait: float = 60) -> bytes:
    """What is answered to these bytes, up to the end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(wait)
        connection.connect(path)
        received = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            while data := connection.recv(65536):
                received += data
                if received.endswith(b"\n"):
                    break
        except (BrokenPipeError, ConnectionResetError):
            pass
        return received


# -- who may, and what


def test_there_is_no_socket_unless_it_is_asked_for(folder: Path) -> None:
    watch.publish()
    pool = Pool(Objects(object), 1, name="quiet")
    assert not Path(socket_path()).exists()
    with pytest.raises(watch.NoAnswer, match="MEMPOOL_WATCH=steer"):
        watch.find("quiet").resize(2)
    assert pool.reserve == 1


def test_the_socket_is_this_users_alone(folder: Path) -> None:
    watch.publish(steer=True)
    assert Path(socket_path()).stat().st_mode & 0o777 == 0o600


def test_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Even where the directory lets him in."""
    watch.publish(steer=True)
    Pool(Objects(object), 1, name="mine")
    path = socket_path()
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    folder.chmod(0o755)
    Path(path).chmod(0o666)
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(12345)
            answered = raw(path, b'{"verb": "hello"}\n')
            os._exit(7 if answered == b"" else 8)
        except BaseException:  # noqa: BLE001 - in a child of a test
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert "user 12345" in caplog.text
    folder.chmod(0o700)


def test_a_resize_is_done_logged_and_kept_for_why(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="mempool.watch")
    watch.publish(steer=True)
    pool = Pool(Objects(object), 2, name="frames")
    answer = watch.find("frames").resize(5, keep=9, limit=20)
    assert (answer["promised"], answer["spare"], answer["unfunded"]) == (5, 5, 0)
    assert (pool.reserve, pool.keep, pool.limit) == (5, 9, 20)
    assert (
        f"pool 'frames': a resize to reserve 5, keep 9, limit 20, from 2, by uid {os.geteuid()}, pid {os.getpid()}"
        in caplog.text
    )
    assert "a resize to reserve 5" in watch.find("frames").why()
    for _ in range(20):
        watch.find("frames").resize(5)
    assert watch.find("frames").why().count("a resize to") == server.STEERINGS_KEPT


def test_what_is_expected_guards_against_two_operators(folder: Path) -> None:
    """Both saw 2; the second is told that it is so no more."""
    watch.publish(steer=True)
    pool = Pool(Objects(object), 2, name="frames")
    first, second = watch.find("frames"), watch.find("frames")
    first.resize(8, expect=2)
    with pytest.raises(watch.Refused, match=r"the reserve is 8 and not 2, as expected; nothing has changed"):
        second.resize(4, expect=2)
    assert pool.reserve == 8


def test_what_is_expected_is_compared_in_the_decision_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with one in the process who calls `pool.resize`: in the last moment before the change, after the request."""
    watch.publish(steer=True)
    pool = Pool(Objects(object), 2, name="frames")
    new_slots = LocalEngine._new_slots

    def interfered(engine: LocalEngine, slots: int) -> list[None]:
        monkeypatch.setattr(LocalEngine, "_new_slots", new_slots)
        pool.resize(5)
        return new_slots(engine, slots)

    view = watch.find("frames")
    monkeypatch.setattr(LocalEngine, "_new_slots", interfered)
    with pytest.raises(watch.Refused, match=r"the reserve is 5 and not 2, as expected; nothing has changed"):
        view.resize(8, expect=2)
    assert (pool.reserve, pool.stats().resizes) == (5, 1)


def test_of_all_who_expect_the_same_one_is_served_and_no_step_is_lost(folder: Path) -> None:
    """Operators and threads of the process, each of whom raises by one what it has seen."""
    watch.publish(steer=True)
    pool = Pool(Objects(object), 0, name="frames")
    engine: Any = pool._engine
    began = threading.Barrier(4)

    def raise_it(resize: Callable[[int, int], object]) -> None:
        began.wait()
        done = 0
        while done < 25:
            seen = pool.reserve
            try:
                resize(seen + 1, seen)
                done += 1
            except (watch.Refused, UnexpectedReserveError):
                pass

    def from_outside(reserve: int, expect: int) -> None:
        watch.find("frames").resize(reserve, expect=expect)

    def from_within(reserve: int, expect: int) -> None:
        engine.resize(reserve, None, ..., expect=expect)

    ways = (from_outside, from_within, from_outside, from_within)
    threads = [threading.Thread(target=raise_it, args=(way,)) for way in ways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.reserve == 100
    assert pool.guarantee().held


@pytest.mark.parametrize(
    "bad", [{"reserve": -1}, {"reserve": 2.5}, {"reserve": True}, {"keep": "9"}, {"reserve": 2**80}, {}]
)
def test_a_resize_that_makes_no_sense_changes_nothing(folder: Path, bad: dict[str, Any]) -> None:
    watch.publish(steer=True)
    pool = Pool(Objects(object), 2, name="frames")
    with pytest.raises(watch.Refused):
        client.ask(socket_path(), "resize", number=1, **bad)
    with pytest.raises(watch.Refused, match="limit of 1 cannot hold"):
        watch.find("frames").resize(limit=1)
    assert (pool.reserve, pool.keep, pool.limit) == (2, 4, None)


def test_refill_stats_holders_and_hello(folder: Path) -> None:
    watch.publish(steer=True)
    pool = Pool(Objects(object), 2, name="frames", track="holders")
    element = pool.alloc()
    assert watch.find("frames").refill()["promised"] == 2
    assert "MainThread" in watch.find("frames").holders()[0]
    stats = client.ask(socket_path(), "stats", number=1)
    assert stats["stats"] == json.loads(json.dumps(pool.stats().as_dict()))
    assert stats["guarantee"]["owed"] == pool.guarantee().owed
    assert client.ask(socket_path(), "hello")["pid"] == os.getpid()
    pool.free(element)


def test_a_resize_runs_where_the_user_has_it_run(folder: Path) -> None:
    """`loop.call_soon_threadsafe`: in the loop's thread."""

    class Source:
        threads: ClassVar[list[int]] = []

        def alloc(self) -> object:
            self.threads.append(threading.get_ident())
            return object()

        def free(self, element: object) -> None:
            pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        watch.publish(steer=loop.call_soon_threadsafe)
        pool = Pool(Source(), 1, name="looped")
        await asyncio.to_thread(lambda: watch.find("looped").resize(3))
        assert pool.reserve == 3
        assert set(Source.threads) == {threading.get_ident()}

    asyncio.run(main())
    held = Pool(Objects(object), 1, name="later")
    with pytest.raises(watch.Refused, match="closed"):
        watch.find("later").resize(2)
    assert held.reserve == 1


def test_two_pools_of_one_name_are_told_apart_by_number(folder: Path) -> None:
    watch.publish(steer=True)
    first, second = Pool(Objects(object), 1, name="twin"), Pool(Objects(object), 2, name="twin")
    with pytest.raises(WatchError, match=r"2 pools are meant by 'twin': twin#1@\d+, twin#2@\d+"):
        watch.find("twin")
    watch.find(f"twin#2@{os.getpid()}").resize(7)
    assert (first.reserve, second.reserve) == (1, 7)
    with pytest.raises(watch.Refused, match="2 pools are called"):
        client.ask(socket_path(), "why", pool="twin")


# -- hostility


@pytest.mark.parametrize(
    "request_",
    [
        b"\n",
        b"[]\n",
        b"{}\n",
        b'{"verb": 1}\n',
        b'{"verb": "eval"}\n',
        b'{"verb": "why"}\n',
        b'{"verb": "why", "number": 99}\n',
        b'{"verb": "why", "number": []}\n',
        '{"verb": "hello"}\n'.encode("utf-16"),
        b"\xff\xfe\xfa\n",
        b"[" * 4000 + b"\n",
        b'{"verb": "resize", "number": 1, "reserve": 1e999}\n',
        b'{"verb": "resize", "number": 1, "limit": NaN}\n',
    ],
)
def test_nonsense_is_answered_with_an_error(folder: Path, request_: bytes) -> None:
    watch.publish(steer=True)
    pool = Pool(Objects(object), 1, name="frames")
    answer = raw(socket_path(), request_)
    assert json.loads(answer.decode("utf-8"))["ok"] is False
    assert watch.find("frames").why()
    assert pool.reserve == 1


def test_a_request_that_is_too_long_ends_the_connection(folder: Path) -> None:
    watch.publish(steer=True)
    pool = Pool(Objects(object), 1, name="frames")
    assert raw(socket_path(), b"x" * 5000, b"\n") == b""
    assert watch.find("frames").why()
    del pool


def test_an_answer_that_is_too_long_loses_the_end_of_its_list() -> None:
    answer = server.encode({"ok": True, "holders": ["a holder of an element"] * 20_000})
    assert len(answer) <= server.ANSWER_MAX
    told = json.loads(answer)
    assert told["left_off"] is True
    assert 1000 < len(told["holders"]) < 20_000


def test_thousands_of_hostile_connections_leak_nothing_and_the_next_is_answered(folder: Path) -> None:
    """And 16 half-open ones, which are all there may be at once."""
    rounds = 3_000 if os.environ.get("MEMPOOL_LONG") == "1" else 400
    body = "mempool.watch.publish(steer=True)\npool = Pool(Objects(object), 1, name='frames')\nready()"
    draw = random.Random(16)
    with Program(body) as program:
        path = socket_path()
        assert watch.find("frames").why()
        before = open_files(program.pid)
        for number in range(rounds):
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(2)
                connection.connect(path)
                kind = number % 4
                if kind == 0:
                    connection.sendall(draw.randbytes(draw.randrange(1, 6000)))
                elif kind == 1:
                    connection.sendall(b'{"verb": "why", "number": 1}\n' * 3)  # and reads nothing
                elif kind == 2:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass
            finally:
                connection.close()

        def ask_behind_half_open_ones() -> None:
            with contextlib.ExitStack() as half_open:
                for _ in range(16):
                    connection = half_open.enter_context(socket.socket(socket.AF_UNIX))
                    connection.connect(path)
                    connection.sendall(b'{"verb"')
                assert watch.find("frames").why(patience=60)

        assert best(ask_behind_half_open_ones, 0.5 * SLACK) < 0.5 * SLACK
        wait_until(lambda: open_files(program.pid) <= before)


#: A machine that does other things as well.
SLACK = 6


def best(call: Callable[[], object], enough: float) -> float:
    """The fewest seconds that it took, in as many tries as a full machine needs until it took less than enough."""
    seconds = float("inf")
    for _ in range(30):
        began = time.perf_counter()
        call()
        seconds = min(seconds, time.perf_counter() - began)
        if seconds < enough:
            break
    return seconds


def test_a_client_that_does_not_read_holds_nobody_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", PATIENCE)
    watch.publish(steer=True)
    pool = Pool(Objects(object), 1, name="frames", track="holders")
    held = [pool.alloc() for _ in range(1000)]
    with socket.socket(socket.AF_UNIX) as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        silent.connect(socket_path())
        for _ in range(50):
            silent.sendall(b'{"verb": "holders", "number": 1}\n')
        assert watch.find("frames").why(patience=10)
        # Dropped when its patience is over.
        silent.settimeout(10)
        wait_until(lambda: len(watch.publishing._published.server._clients) == 0, timeout=60)
    pool.free_many(held)


def test_a_client_waits_for_its_turn_where_the_backlog_is_full(folder: Path) -> None:
    """connect() to a local socket fails with EAGAIN at once then: it is tried again until the deadline."""
    folder.mkdir(mode=0o700)
    path = str(folder / "full.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        fillers = []
        while True:
            filler = socket.socket(socket.AF_UNIX)
            filler.setblocking(False)
            fillers.append(filler)
            try:
                filler.connect(path)
            except BlockingIOError:
                break
        with pytest.raises(watch.NoAnswer, match="full of others"):
            client.ask(path, "hello", patience=0.1)

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if connection.recv(100):
                        connection.sendall(b'{"ok": true}\n')
                        return

        for filler in fillers:
            filler.close()
        thread = threading.Thread(target=serve)
        thread.start()
        assert client.ask(path, "hello", patience=20) == {"ok": True}
        thread.join()


def test_the_backlog_holds_a_crowd() -> None:
    assert server.BACKLOG >= 128


def test_a_process_that_cuts_everybody_off_is_asked_until_the_time_is_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no longer."""
    seconds = iter(range(1000, 1100))
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda _seconds: None))
    monkeypatch.setattr(client, "_connect", lambda *_given: None)
    asked: list[bytes] = []

    def cut_off(_connection: object, line: bytes, _deadline: float) -> bytes:
        asked.append(line)
        raise client._CutOffError("it closed the connection without an answer")

    monkeypatch.setattr(client, "_exchange", cut_off)
    with pytest.raises(client.NoAnswerError, match="closed the connection"):
        client.ask(str(folder / "socket"), "why", patience=4.5)
    assert len(asked) == 5


def test_a_resize_is_run_though_its_thread_cannot_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack() -> None:
        raise MemoryError

    monkeypatch.setattr(server.threading, "current_thread", lack)
    run: list[str] = []
    server._run_named(lambda: run.append("run"))
    assert run == ["run"]


def test_a_stale_socket_is_told_as_no_answer(folder: Path) -> None:
    """After SIGKILL the file stays, and refuses."""
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "stale.sock"))
    with pytest.raises(watch.NoAnswer, match="Connection refused"):
        client.ask(str(folder / "stale.sock"), "hello")


# -- how soon


def test_why_is_answered_while_four_threads_are_busy(folder: Path) -> None:
    body = """
    mempool.watch.publish(steer=True)
    pool = Pool(Objects(object), 1, name="frames")
    def work():
        while True:
            sum(range(1000))
    for _ in range(4):
        threading.Thread(target=work, daemon=True).start()
    ready()
    """
    with Program(body):
        assert best(lambda: watch.find("frames").why(patience=60), 0.25 * SLACK) < 0.25 * SLACK


@pytest.mark.skipif(IMPLEMENTATION == "pure", reason="uncompiled, each call of a socket lets go of the GIL")
@pytest.mark.skipif(without_the_gil.IS_OFF, reason="it counts turns of the GIL, which nobody waits for here")
def test_an_answer_needs_one_turn_of_the_gil(folder: Path) -> None:
    """Where others compute, each turn is a lottery of 5 ms and more. Here it takes half a second, and so can be counted."""
    body = """
    mempool.watch.publish(steer=True)
    pool = Pool(Objects(object), 1, name="frames", track="holders")
    held = [pool.alloc() for _ in range(100)]  # an answer of many pieces
    def work():
        while True:
            sum(range(1000))
    sys.setswitchinterval(0.5)
    print("ready", os.getpid(), flush=True)
    work()
    """
    told: list[list[str]] = []
    with Program(body):
        # Two turns take a second on any machine. One takes more than half of it where others have the processor meanwhile.
        assert best(lambda: told.append(watch.find("frames").holders(patience=30)), 2 * 0.5) < 2 * 0.5
    assert len(told[-1]) == 100


def test_a_process_that_is_stopped_does_not_answer(folder: Path) -> None:
    """After a second it is said to be silent, and its figures are told from its page."""
    body = "mempool.watch.publish(steer=True)\npool = Pool(Objects(object), 3, name='frames')\nready()"
    with Program(body) as program:
        program.stop()
        with pytest.raises(watch.NoAnswer, match="does not answer within 1 s"):
            watch.find("frames").why(patience=BY_DEFAULT)
        assert watch.find("frames").stats().reserve == 3


# -- when memory is short


@pytest.mark.skipif(
    (3, 12) <= sys.version_info[:3] <= (3, 13, 0),
    reason="CPython 3.12 and 3.13.0 lose references where memory runs out, and crash after many such calls",
)
def test_an_answer_or_prepared_bytes_whatever_allocation_fails(folder: Path) -> None:
    """Each allocation of an answer is failed in turn, and the server lives: the next is answered in full.

    In a child, which has no other thread: the allocation that failed was pytest-xdist's at times, and the worker ended.
    """
    testcapi = pytest.importorskip("_testcapi")

    def check() -> None:
        watch.publish(steer=True)
        pool = Pool(Objects(object), 2, name="frames", track="holders")
        element = pool.alloc()
        running = watch.publishing._published.server
        asking = server._Client(socket.socket(), -1, "uid 0, pid 0", 0.0)

        def answer(request: bytes) -> Any:
            try:
                return running._answer(asking, request)
            except MemoryError:
                return server.MEMORY_SHORT

        for request in (
            b'{"verb": "why", "number": 1}',
            b'{"verb": "stats", "number": 1}',
            b'{"verb": "holders", "number": 1}',
        ):
            expected = answer(request)
            short = 0
            for fails in range(3000):
                testcapi.set_nomemory(fails, fails + 1)
                try:
                    got = answer(request)
                finally:
                    testcapi.remove_mem_hooks()
                assert json.loads(got)["ok"] in {True, False}
                short += got == server.MEMORY_SHORT
                if fails > 50 and len(got) == len(expected) and not short_again(testcapi, answer, request, fails):
                    break
            assert short > 10
        asking.socket.close()
        pool.free(element)
        assert watch.find("frames").why()

    assert in_child(check) == ""


def short_again(testcapi: Any, answer: Callable[[bytes], bytes], request: bytes, fails: int) -> bool:
    """Whether an allocation after this one, if it fails, still spoils the answer."""
    for later in (1, 7, 31, 101):
        testcapi.set_nomemory(fails + later, fails + later + 1)
        try:
            if answer(request) == server.MEMORY_SHORT:
                return True
        finally:
            testcapi.remove_mem_hooks()
    return False


def test_the_thread_survives_a_lack_of_memory_and_answers(folder: Path) -> None:
    body = """
    import resource
    mempool.watch.publish(steer=True)
    pool = Pool(mempool.Buffers("64 KiB"), 2, name="frames")
    mempool.watch.find("frames").why()
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (4 << 20), -1))
    hog, size, said = [None] * 100_000, 1 << 20, f"ready {os.getpid()}\\n".encode()
    number = 0
    while size >= 512 and number < len(hog):
        try:
            hog[number] = bytearray(size)
            number += 1
        except MemoryError:
            size //= 2
    os.write(1, said)
    os.read(0, 1)
    del hog
    print("over", pool.reserve)
    """
    with Program(body) as program:
        answers = []
        for _ in range(20):
            try:
                answers.append(watch.find("frames").why(patience=10))
            except watch.Refused as error:
                answers.append(str(error))
        assert all("promised" in answer or "MemoryError" in answer for answer in answers), answers
        assert "over 2" in program.end()


# -- forks and paths


def test_a_forked_child_has_a_socket_of_its_own(folder: Path) -> None:
    body = """
    mempool.watch.publish(steer=True)
    pool = Pool(Objects(object), 1, name="frames")
    pid = os.fork()
    if pid == 0:
        ready()
        os._exit(0)
    os.waitpid(pid, 0)
    """
    with Program(body) as program:
        (child,) = [process.pid for process in watch.processes() if process.pid != program.pid]
        watch.find(f"frames@{child}").resize(6)
        assert watch.find(f"frames@{child}").stats().reserve == 6
        assert watch.find(f"frames@{program.pid}").stats().reserve == 1
        assert "1 promised" in watch.find(f"frames@{program.pid}").why(patience=10)


def test_a_path_that_is_too_long_for_a_socket_is_told_with_the_way_out(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    deep = folder / ("d" * 90)
    with pytest.raises(WatchError, match=r"at most 107 bytes.*MEMPOOL_WATCH_DIR"):
        watch.publish(steer=True, directory=str(deep))
    assert not any(thread.name == "mempool.watch" for thread in threading.enumerate())


def test_steering_can_be_switched_off_and_on(folder: Path) -> None:
    watch.publish(steer=True)
    pool = Pool(Objects(object), 1, name="switched")
    path = socket_path()
    assert watch.find("switched").why()
    watch.publish(steer=False)
    assert not Path(path).exists()
    # Its work is over by now; `threading` knows of it until its last steps are.
    wait_until(lambda: not any(thread.name == "mempool.watch" for thread in threading.enumerate()))
    watch.publish(steer=True)
    assert watch.find("switched").resize(3)["promised"] == 3
    assert pool.reserve == 3
