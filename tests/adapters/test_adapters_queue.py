"""PoolQueue: the interface of queue.LifoQueue, and a line in the order of arrival. In urllib3 and redis-py, too."""

from __future__ import annotations

import contextlib
import gc
import http.server
import itertools
import queue
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
from sweeps import TELLS_LATE, Interrupter

from mempool.adapters.queue import PoolQueue
from mempool.testing import wait_until

BOTH = pytest.mark.parametrize("kind", [queue.LifoQueue, PoolQueue], ids=["LifoQueue", "PoolQueue"])
WORKERS = 8


@BOTH
def test_the_last_item_that_was_put_in_comes_out_first(kind: Callable[[int], Any]) -> None:
    """Last in, first out; None is an item like any other."""
    items = kind(3)
    for item in ("first", None, "last"):
        items.put(item)
    assert items.full()
    assert items.qsize() == 3
    assert [items.get(), items.get(), items.get_nowait()] == ["last", None, "first"]
    assert items.empty()


@BOTH
def test_an_empty_queue_and_a_full_one_say_so(kind: Callable[[int], Any]) -> None:
    """queue.Empty and queue.Full are raised at once or when the time is up; nothing has changed then."""
    items = kind(1)
    for get in (items.get_nowait, lambda: items.get(block=False), lambda: items.get(timeout=0)):
        with pytest.raises(queue.Empty):
            get()
    items.put_nowait(1)
    for put in (lambda: items.put_nowait(2), lambda: items.put(2, block=False), lambda: items.put(2, timeout=0)):
        with pytest.raises(queue.Full):
            put()
    with pytest.raises(ValueError, match="timeout"):
        items.get(timeout=-1)
    assert items.get() == 1


@BOTH
def test_what_is_in_the_queue_can_be_seen_and_replaced(kind: Callable[[int], Any]) -> None:
    """`queue` lists the items, as redis-py and SQLAlchemy's tests read it; PoolQueue has them replaced by setting it."""
    items = kind(4)
    for item in (1, 2, 3):
        items.put(item)
    assert sorted(items.queue) == [1, 2, 3]
    items.queue = [5]
    assert items.get() == 5


def test_a_queue_without_a_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="LifoQueue"):
        PoolQueue(0)


def test_repr_tells_the_state() -> None:
    items: PoolQueue[int] = PoolQueue(2)
    items.put(1)
    assert repr(items) == "<PoolQueue of 2: 1 items, 0 waiting>"


def test_the_errors_are_those_of_a_patched_queue_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some programs replace `queue.Empty`, and then catch theirs."""

    class Patched(Exception):
        pass

    items: PoolQueue[int] = PoolQueue(1)
    monkeypatch.setattr(queue, "Empty", Patched)
    with pytest.raises(Patched):
        items.get_nowait()


def test_who_waits_to_get_is_served_in_order() -> None:
    """The first to wait gets the first item that is put in, though the others wait as well."""
    items: PoolQueue[int] = PoolQueue(1)
    got: list[tuple[int, int]] = []
    with ThreadPoolExecutor(WORKERS) as executor:
        futures = []
        for number in range(WORKERS):
            futures.append(executor.submit(lambda number=number: got.append((number, items.get(timeout=20)))))
            wait_until(lambda number=number: f"{number + 1} waiting" in repr(items))
        for number in range(WORKERS):
            items.put(number, timeout=20)
            futures[number].result(20)
    assert got == [(number, number) for number in range(WORKERS)]


def test_who_waits_to_put_is_served() -> None:
    """A put into a full queue waits until an item was taken out."""
    items: PoolQueue[int] = PoolQueue(1)
    items.put(1)
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(items.put, 2, timeout=20)
        wait_until(lambda: items._empty.waiting == 1)
        assert items.get() == 1
        future.result(20)
    assert items.get() == 2


def test_what_does_not_wait_is_counted_as_no_wait() -> None:
    """SQLAlchemy asks so before each connection that it makes, and the pool's numbers told of waits in vain."""
    items: PoolQueue[int] = PoolQueue(1)
    with pytest.raises(queue.Empty):
        items.get_nowait()
    items.put(1)
    with pytest.raises(queue.Full):
        items.put_nowait(2)
    assert [pool.stats().waits_timed_out for pool in (items._empty, items._full)] == [0, 0]


def test_many_threads_lose_no_item() -> None:
    """Items that go round among more threads than there are items are there at the end, each once."""
    items: PoolQueue[int] = PoolQueue(4)
    for number in range(3):
        items.put(number)

    def work() -> None:
        for _ in range(500):
            items.put(items.get(timeout=30), timeout=30)

    with ThreadPoolExecutor(WORKERS) as executor:
        for future in [executor.submit(work) for _ in range(WORKERS)]:
            future.result(60)
    assert sorted(items.queue) == [0, 1, 2]
    assert items.qsize() == 3


class InTheQueue(Interrupter):
    """Interrupts PoolQueue's own code, which is compiled nowhere. That of leases has sweeps of its own."""

    def passes_over(self, frame: FrameType) -> bool:
        return not frame.f_code.co_filename.endswith("queue.py") or super().passes_over(frame)


@pytest.mark.filterwarnings("ignore:.*dropped without release:ResourceWarning")  # struck between a block and its end
@pytest.mark.parametrize("call", ["put", "get"])
def test_an_interrupt_at_any_step_loses_no_place(call: str) -> None:
    """A Ctrl-C in the midst of put or get: the item is in or out, and the queue holds as many as before."""
    for n in itertools.count(1):
        items: PoolQueue[int] = PoolQueue(2)
        items.put(1)
        before = 1
        interrupter = InTheQueue(n)
        try:
            with interrupter:
                if call == "put":
                    items.put(2)
                else:
                    items.get()
        except KeyboardInterrupt:
            pass
        at = interrupter.struck_at
        gc.collect()  # uncompiled, what was interrupted may be in a cycle
        left = items.qsize()
        assert left in {before, before + (1 if call == "put" else -1)}, at
        assert sorted(items.queue) == [1, 2][:left], at
        for number in range(left, 2):
            items.put_nowait(number)  # room for two, whatever happened
        assert items.full(), at
        assert None not in [items.get_nowait(), items.get_nowait()], at
        if at is None:
            break
    assert n > 5 or TELLS_LATE


# -- in other people's libraries


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[misc]  # a port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms for the client's acknowledgement of the head

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_arguments: object) -> None:
        pass


class Threading(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def test_urllib3_takes_its_connections_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocking pool of two connections serves eight threads, and makes no third one."""
    urllib3 = pytest.importorskip("urllib3")
    monkeypatch.setattr(urllib3.HTTPConnectionPool, "QueueCls", PoolQueue)
    with (
        serving(Threading(("127.0.0.1", 0), Hello)) as port,
        urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=2, block=True) as pool,
    ):
        assert isinstance(pool.pool, PoolQueue)
        with ThreadPoolExecutor(WORKERS) as executor:
            bodies = list(executor.map(lambda _: pool.request("GET", "/").data, range(100)))
        assert bodies == [b"hello"] * 100
        assert pool.num_connections <= 2


class Redis(socketserver.StreamRequestHandler):
    """As much of a Redis server as a client needs to connect and to ping."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                self.rfile.readline()
                words.append(self.rfile.readline().strip().upper())
            self.wfile.write(b"+PONG\r\n" if words[0] == b"PING" else b"+OK\r\n")


def test_redis_takes_its_connections_from_it() -> None:
    """redis-py's BlockingConnectionPool of two connections serves eight threads."""
    redis = pytest.importorskip("redis")
    with serving(Threading(("127.0.0.1", 0), Redis)) as port:
        connections = redis.BlockingConnectionPool(
            host="127.0.0.1", port=port, protocol=2, max_connections=2, timeout=20, queue_class=PoolQueue
        )
        client = redis.Redis(connection_pool=connections)
        with ThreadPoolExecutor(WORKERS) as executor:
            assert all(executor.map(lambda _: client.ping(), range(100)))
        client.close()
        connections.disconnect()
