"""Everything that the socket's thread does, with each of its allocations failed in turn, and interrupted before each step.

Here without its thread: the test takes its turns.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from children import in_child
from sweeps import Interrupter

from mempool import IMPLEMENTATION, Objects, Pool, watch
from mempool.testing import wait_until
from mempool.watch import publishing, server
from mempool.watch.server import Server

#: A socket that was interrupted on its way into its place is closed as it goes, which Python tells.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
testcapi = pytest.importorskip("_testcapi")

REQUESTS = (
    b'{"verb": "hello"}\n',
    b'{"verb": "stats", "number": 1}\n',
    b'{"verb": "why", "pool": "frames"}\n',
    b'{"verb": "holders", "number": 1}\n',
    b'{"verb": "refill", "number": 1}\n',
    b'{"verb": "resize", "number": 1, "reserve": 3, "keep": 9, "limit": 9}\n',
    b'{"verb": "resize", "number": 1, "reserve": 1, "expect": 77}\n',
    b'{"verb": "resize"}\n',
    b"nonsense\n",
    b"x" * 5000,
    b"",
)
#: So many answers in a row that no failed allocation has changed: none is left that could be failed.
QUIET = 40
#: `make long` fails each of them.
STRIDE = 1 if os.environ.get("MEMPOOL_LONG") == "1" else 13
#: Of steps: uncompiled, each call has many more.
STEPS = STRIDE if IMPLEMENTATION == "compiled" else 7 * STRIDE


def inline(run: Callable[[], object]) -> None:
    """Where a resize runs: here, so that its allocations and steps are swept as well."""
    run()


@contextmanager
def opened() -> Iterator[Server]:
    """A server that is open and has no thread."""
    watch.publish()
    pool = Pool(Objects(object), 2, name="frames", track="holders")
    held = pool.alloc()
    page = publishing._published.page
    assert page is not None
    running = Server(page, inline)
    running.listen()
    try:
        yield running
    finally:
        running.stop()
        # CPython 3.11 loses references where memory runs out, to this server too, and its page would stay mapped for good.
        vars(running).clear()
        pool.free(held)


@pytest.fixture
def by_hand(folder: Path) -> Iterator[Server]:
    with opened() as running:
        yield running


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Asker:
    """A client whose request is on its way before anything is disturbed."""

    def __init__(self, path: str, request: bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.received = b""
        self.ended = False
        if request:
            self.socket.sendall(request)
        else:
            self.socket.shutdown(socket.SHUT_WR)

    def listen(self) -> bool:
        """Whether there is an answer, or an end."""
        try:
            while data := self.socket.recv(65536):
                self.received += data
            self.ended = True
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.ended = True
        return self.ended or self.received.endswith(b"\n")


def turns_until_answered(running: Server, asker: Asker, most: int = 40) -> int:
    """Take turns, as the thread does. How many failed for want of memory."""
    failed = 0
    for _ in range(most):
        if asker.listen():
            return failed
        try:
            running._turn()
        except MemoryError:
            failed += 1
    raise AssertionError("nobody answers")


def turns(running: Server) -> None:
    """A turn accepts and answers. What a resize has come to is told in another."""
    running._turn()
    for client in list(running._clients.values()):
        if client.job is not None:
            running._turn()


def undisturbed(running: Server, request: bytes) -> bytes:
    asker = Asker(running.path, request)
    turns_until_answered(running, asker)
    asker.socket.close()
    while running._clients:
        running._turn()
    return asker.received


#: What is told where CPython itself fails for want of memory, and has forgotten to raise MemoryError.
FORGOTTEN = b"SystemError: error return without exception set"


@pytest.mark.skipif(
    (3, 12) <= sys.version_info[:3] <= (3, 13, 0),
    reason="CPython 3.12 and 3.13.0 lose references where memory runs out, and crash after many such calls",
)
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request[:30].decode().strip() or "no request")
def test_whatever_allocation_fails_there_is_an_answer_or_the_one_prepared_and_nothing_leaks(
    folder: Path, request_: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the accept on. Then one is failed after the other until none is left that changes anything.

    In a child, which has no other thread: the allocation that failed was pytest-xdist's at times, and the worker ended.
    """

    def check() -> None:
        with opened() as by_hand:
            fail_each(by_hand, request_, monkeypatch)

    assert in_child(check) == ""


def fail_each(by_hand: Server, request: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    # CPython 3.15 says so where it lacks memory to end an object, which it then does all the same.
    unheard: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: unheard.append(raised.exc_value))
    kind = json.loads(told)["ok"] if (told := undisturbed(by_hand, request)) else None
    gc.collect()
    before = descriptors()
    quiet = short = cut_off = 0
    for fails in range(0, 4000, STRIDE):
        asker = Asker(by_hand.path, request)
        testcapi.set_nomemory(fails, fails + 1)
        failed: MemoryError | None = None
        try:
            turns(by_hand)
        except MemoryError as error:
            failed = error
        finally:
            testcapi.remove_mem_hooks()
        turns_until_answered(by_hand, asker)
        answers = [json.loads(line) for line in asker.received.splitlines()]
        if not answers and kind is not None:  # it was cut off, before it was anybody
            assert failed is None or "_accept" in {frame.name for frame in traceback.extract_tb(failed.__traceback__)}, fails
            cut_off += 1
        else:
            assert len(answers) == (kind is not None), (fails, asker.received)
        is_short = bool(answers) and (asker.received in {server.MEMORY_SHORT, server.DONE} or FORGOTTEN in asker.received)
        assert is_short or not answers or answers[0]["ok"] is kind, (fails, asker.received)
        short += is_short
        asker.socket.close()
        while by_hand._clients:
            by_hand._turn()
        quiet = 0 if failed or is_short else quiet + 1
        if quiet >= QUIET / STRIDE:
            break
    else:
        raise AssertionError("there is no end of allocations")
    assert descriptors() == before
    assert short > 0 or kind is None
    assert cut_off < 60
    assert [error for error in unheard if not isinstance(error, MemoryError)] == []
    assert undisturbed(by_hand, b'{"verb": "hello"}\n').startswith(b'{"ok": true')


@pytest.mark.long_on_both
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request[:30].decode().strip() or "no request")
def test_an_interrupt_before_any_step_leaves_nothing_open_and_nobody_half_answered(folder: Path, request_: bytes) -> None:
    """The thread ends then, and closes what it has; `publish` again begins another."""
    watch.publish()
    pool = Pool(Objects(object), 2, name="frames", track="holders")
    page = publishing._published.page
    assert page is not None
    gc.collect()
    before = descriptors()
    for n in range(1, 40_000, STEPS):
        running = Server(page, inline)
        running.listen()
        asker = Asker(running.path, request_)
        disturbed = Interrupter(n)
        try:
            with disturbed:
                turns(running)
        except KeyboardInterrupt:
            pass
        running.stop()
        assert asker.listen(), f"{disturbed.struck_at}: who asks waits for ever"
        whole, _, half = asker.received.rpartition(b"\n")  # half an answer is none: the connection ends after it
        assert all(json.loads(line) for line in whole.splitlines()), disturbed.struck_at
        assert not half or asker.ended
        asker.socket.close()
        del running
        assert descriptors() == before, disturbed.struck_at
        if disturbed.struck_at is None:
            break
    else:
        raise AssertionError("there is no end of steps")
    assert pool.refill().held
    watch.publish(steer=True)
    assert watch.find("frames").why()


def test_an_interrupt_before_any_step_of_publish_leaves_a_socket_or_none_and_the_next_is_whole(folder: Path) -> None:
    """Switched on and off; whatever is left half done is finished, or closed, by the next call."""
    watch.publish()
    pool = Pool(Objects(object), 1, name="frames")
    gc.collect()
    before = descriptors()
    for n in range(1, 40_000, STEPS):
        disturbed = Interrupter(n)
        try:
            with disturbed:
                watch.publish(steer=True)
                watch.publish(steer=False)
        except KeyboardInterrupt:
            pass
        watch.publish(steer=True)
        assert watch.find("frames").why(patience=10), disturbed.struck_at
        watch.publish(steer=False)
        assert not Path(publishing._published.page.socket_path).exists()  # type: ignore[union-attr]
        wait_until(lambda: not any(thread.name == "mempool.watch" for thread in threading.enumerate()))
        assert descriptors() == before, disturbed.struck_at
        if disturbed.struck_at is None:
            break
    else:
        raise AssertionError("there is no end of steps")
    del pool


def test_a_resize_that_is_interrupted_where_it_runs_is_answered(by_hand: Server) -> None:
    """In the user's thread, by Ctrl-C: whoever asked is told, and his place is free for the next."""
    jobs: list[Callable[[], object]] = []
    by_hand.steer = jobs.append
    for n in range(1, 40_000, STEPS):
        asker = Asker(by_hand.path, b'{"verb": "resize", "number": 1, "reserve": 3}\n')
        while not jobs:
            by_hand._turn()
        disturbed = Interrupter(n)
        try:
            with disturbed:
                jobs.pop()()
        except KeyboardInterrupt:
            pass
        if (
            disturbed.struck_at is not None
            and "server.py" in disturbed.struck_at
            and not next(iter(by_hand._clients.values())).job.answer
        ):
            asker.socket.close()  # before its first step: who asked gives up, and that is noticed
        else:
            turns_until_answered(by_hand, asker)
            answer = json.loads(asker.received)
            assert answer["ok"] or answer.get("done"), (disturbed.struck_at, answer)
            asker.socket.close()
        while by_hand._clients:
            by_hand._turn()
        if disturbed.struck_at is None:
            break
    else:
        raise AssertionError("there is no end of steps")


def test_who_hangs_up_while_a_resize_is_under_way_makes_room_for_others(by_hand: Server) -> None:
    """Its job may never be done: a loop that was closed before it ran it."""
    by_hand.steer = lambda run: None
    for _ in range(3 * server.CLIENTS_MAX):
        asker = Asker(by_hand.path, b'{"verb": "resize", "number": 1, "reserve": 3}\n')
        while not any(client.job for client in by_hand._clients.values()):
            by_hand._turn()
        asker.socket.close()
        while by_hand._clients:
            by_hand._turn()
    assert undisturbed(by_hand, b'{"verb": "hello"}\n').startswith(b'{"ok": true')
