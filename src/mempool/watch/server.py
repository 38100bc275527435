"""The socket beside a page: the one thread that answers what is asked of this process's pools, and lets them be resized.

One JSON object a line, in UTF-8; who asks must be the same user. What it knows: hello, stats, why, holders, resize, refill.
It evaluates nothing, unpickles nothing and opens nothing that it is told the name of.

A thread that answers when memory is short must not die of it: each answer that cannot be made is MEMORY_SHORT, made before;
and each turn of the loop may fail and be done again.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from types import EllipsisType
from typing import Any

from mempool import explain, lifecycle
from mempool.clock import in_words
from mempool.stats import guarantee_of, stats_of
from mempool.watch import layout
from mempool.watch.directory import WatchError
from mempool.watch.page import Page, version

log: logging.Logger = logging.getLogger("mempool.watch")

#: Bytes of a request, of an answer; clients at once; seconds for one that neither sends its request nor reads its answer.
REQUEST_MAX, ANSWER_MAX = 4096, 65536
CLIENTS_MAX = 16
PATIENCE = 0.25
BACKLOG = 128
#: Of the path of a socket, as the kernel has it.
PATH_MAX = 107
STEERINGS_KEPT = 16
MEMORY_SHORT = b'{"ok": false, "error": "MemoryError: there is no memory for an answer; ask again, or read the page"}\n'
CREDENTIALS = struct.Struct("3i")


class _RefusedError(Exception):
    """What is asked cannot be done, and nothing has changed: its message says why."""


class _Client:
    """Somebody who is connected."""

    __slots__ = ("answer", "by", "deadline", "is_busy", "received", "sent", "socket")

    def __init__(self, connection: socket.socket, by: str, now: float) -> None:
        self.socket = connection
        self.by = by
        self.received = bytearray()
        self.answer: bytes = b""
        self.sent = 0
        self.deadline = now + PATIENCE
        self.is_busy = False  # a resize for it is under way


class Server:
    """Answers on the socket of this page, in a thread, until `stop`. steer: see publish."""

    def __init__(self, page: Page, steer: Any) -> None:
        path = page.socket_path
        if len(os.fsencode(path)) > PATH_MAX:
            raise WatchError(
                f"mempool.watch: the path of a socket has at most {PATH_MAX} bytes, and {path} has more; "
                "set MEMPOOL_WATCH_DIR to a shorter one"
            )
        self.steer: Any = steer
        self.path: str = path
        self._clients: dict[int, _Client] = {}
        self._steered: deque[tuple[float, str]] = deque(maxlen=STEERINGS_KEPT)
        self._one_at_a_time = threading.Lock()
        self._done: deque[tuple[_Client, bytes]] = deque()
        self._stopping = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            os.fchmod(self._listener.fileno(), 0o600)  # before it has a name
            self._listener.bind(path)
            self._listener.listen(BACKLOG)
            self._wake_end, self._wake = socket.socketpair()
        except BaseException:
            self._listener.close()
            raise
        self._wake_end.setblocking(False)
        self._wake.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="mempool.watch", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self.forget()
            raise

    # -- the end

    def stop(self) -> None:
        """Answer nobody any more. The socket's file goes."""
        self._stopping = True
        self._rouse()
        if self._thread is not threading.current_thread():
            self._thread.join(5)
        try:
            os.unlink(self.path)
        except OSError:
            pass

    def forget(self) -> None:
        """Close what this object has open, and leave the file: in a forked child, where it is the parent's."""
        for closing in (self._listener, self._wake_end, self._wake, *(client.socket for client in self._clients.values())):
            closing.close()
        self._clients.clear()

    def _rouse(self) -> None:
        try:
            self._wake.send(b"x")
        except OSError:
            pass  # it is full of such already, or closed

    # -- the thread

    def _run(self) -> None:
        failures = 0
        while not self._stopping:
            try:
                self._turn()
                failures = 0
            except MemoryError:
                failures += 1
            except Exception:
                failures += 1
                log.exception("the socket of mempool.watch goes on after an error")
            if failures:
                time.sleep(min(0.001 * failures, 0.1))  # not to keep others from what they need to get out of this
        self.forget()

    def _turn(self) -> None:
        """Wait for something to do, and do it. May fail anywhere, and is begun anew then."""
        while self._done:
            client, answer = self._done[0]
            self._reply(client, answer)
            self._done.popleft()
        poll = select.poll()
        poll.register(self._wake_end, select.POLLIN)
        if len(self._clients) < CLIENTS_MAX:
            poll.register(self._listener, select.POLLIN)
        nearest = None
        for client in self._clients.values():
            if client.is_busy:
                continue
            poll.register(client.socket, select.POLLOUT if client.answer else select.POLLIN)
            nearest = client.deadline if nearest is None else min(nearest, client.deadline)
        events = poll.poll(None if nearest is None else max(0.0, 1000 * (nearest - time.monotonic())) + 1)
        for fd, _ in events:
            if fd == self._wake_end.fileno():
                self._wake_end.recv(4096)
            elif fd == self._listener.fileno():
                self._accept()
            elif fd in self._clients:
                self._serve(self._clients[fd])
        now = time.monotonic()
        for client in [client for client in self._clients.values() if not client.is_busy and client.deadline <= now]:
            self._drop(client)

    def _accept(self) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # an object around it is made below, safely
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)
        except BaseException:
            os.close(fd)
            raise
        try:
            connection.setblocking(False)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
            pid, uid, _ = CREDENTIALS.unpack(credentials)
            if uid != os.geteuid():
                log.warning("user %d, process %d, was refused at the socket of mempool.watch", uid, pid)
                connection.close()
                return
            self._clients[fd] = _Client(connection, f"uid {uid}, pid {pid}", time.monotonic())
        except BaseException:
            connection.close()
            raise

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.socket.fileno(), None)
        client.socket.close()

    def _serve(self, client: _Client) -> None:
        try:
            if client.answer:
                self._send(client)
                return
            data = client.socket.recv(REQUEST_MAX + 1 - len(client.received))
            client.received += data
            line, newline, rest = bytes(client.received).partition(b"\n")
            if not newline:
                if not data or len(client.received) > REQUEST_MAX:
                    self._drop(client)
                return
            client.received[:] = rest
            try:
                answer = self._answer(client, line)
            except MemoryError:
                answer = MEMORY_SHORT
            if answer is None:
                client.is_busy = True
            else:
                self._reply(client, answer)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._drop(client)
        except MemoryError:
            client.received.clear()
            self._reply(client, MEMORY_SHORT)

    def _reply(self, client: _Client, answer: bytes) -> None:
        client.is_busy = False
        client.answer = answer
        client.sent = 0
        client.deadline = time.monotonic() + PATIENCE
        try:
            self._send(client)
        except (BlockingIOError, InterruptedError):
            pass  # when it reads
        except OSError:
            self._drop(client)

    def _send(self, client: _Client) -> None:
        client.sent += client.socket.send(memoryview(client.answer)[client.sent :] if client.sent else client.answer)
        if client.sent == len(client.answer):
            client.answer = b""
            client.deadline = time.monotonic() + PATIENCE

    # -- what is asked

    def _answer(self, client: _Client, line: bytes) -> bytes | None:
        """What is said to this request; None: later."""
        try:
            # Decoded here: json.loads guesses UTF-16 of bytes.
            request = json.loads(line.decode("utf-8"))
            if not isinstance(request, dict) or not isinstance(request.get("verb"), str):
                raise _RefusedError("a request is an object with a verb")
            answer = self._do(client, request)
            return None if answer is None else encode({"ok": True, **answer})
        except _RefusedError as error:
            return encode({"ok": False, "error": str(error)})
        except (ValueError, RecursionError):
            return encode({"ok": False, "error": "a request is one JSON object in UTF-8"})
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - told to whoever asks
            return encode({"ok": False, "error": f"{type(error).__name__}: {error}"})

    def _do(self, client: _Client, request: dict[str, Any]) -> dict[str, Any] | None:
        verb = request["verb"]
        if verb == "hello":
            return {"version": version(), "layout": layout.VERSION, "pid": os.getpid()}
        if verb not in {"stats", "why", "holders", "resize", "refill"}:
            raise _RefusedError(f"no verb {verb[:40]!r}; there are hello, stats, why, holders, resize, refill")
        engine = find(request.get("pool"), request.get("number"))
        if verb == "stats":
            now = engine.snapshot()
            guarantee = guarantee_of(now)
            fields = {
                field: getattr(guarantee, field) for field in ("promised", "spare", "owed", "unfunded", "filling", "level")
            }
            return {"stats": stats_of(engine.name, now).as_dict(), "guarantee": fields}
        if verb == "why":
            return {"why": explain.why_empty(engine), "steered": self._steerings(engine)}
        if verb == "holders":
            return {"holders": [str(holder) for holder in engine.tracker.holders(engine.clock.now())]}
        if verb == "refill":
            self._begin(client, engine, engine.refill, "a refill")
            return None
        self._begin(client, engine, *_resize(engine, request))
        return None

    def _steerings(self, engine: Any) -> list[str]:
        now = time.monotonic()
        return [f"{in_words(now - when)} ago, {what}" for when, what in self._steered if what.startswith(engine.called)]

    def _begin(self, client: _Client, engine: Any, work: Callable[[], object], what: str) -> None:
        """Have this done in a thread, or where the user has it done. The answer follows."""

        def run() -> None:
            try:
                answer = self._steered_answer(engine, work, what, client.by)
            except MemoryError:
                answer = MEMORY_SHORT
            self._done.append((client, answer))
            self._rouse()

        steer = self.steer
        if callable(steer):
            steer(run)
        else:
            try:
                threading.Thread(target=run, name="mempool.watch.resize", daemon=True).start()
            except (MemoryError, RuntimeError):
                run()  # there is no memory for a thread: the others wait until it is done

    def _steered_answer(self, engine: Any, work: Callable[[], object], what: str, by: str) -> bytes:
        try:
            # Two operators do not step on each other: what one expects holds until he is done.
            with self._one_at_a_time:
                work()
                said = f"{engine.called}: {what} by {by}"
                self._steered.append((time.monotonic(), said))
            log.info("%s", said)
            guarantee = guarantee_of(engine.snapshot())
            return encode(
                {"ok": True, "promised": guarantee.promised, "spare": guarantee.spare, "unfunded": guarantee.unfunded}
            )
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - told to whoever asks
            text = str(error) if isinstance(error, _RefusedError) else f"{type(error).__name__}: {error}"
            return encode({"ok": False, "error": text})


def encode(answer: dict[str, Any]) -> bytes:
    """One line, and not too long: the longest list loses its end, and says so."""
    line = json.dumps(answer).encode() + b"\n"
    while len(line) > ANSWER_MAX:
        longest = max(answer, key=lambda name: len(answer[name]) if isinstance(answer[name], (list, str)) else 0)
        if not answer[longest]:
            return b'{"ok": false, "error": "the answer is too long"}\n'
        kept = len(answer[longest]) // 2
        answer = {**answer, longest: answer[longest][:kept], "left_off": True}
        line = json.dumps(answer).encode() + b"\n"
    return line


def find(name: object, number: object) -> Any:
    """The engine of the pool that is meant. Raises _RefusedError."""
    if name is None and number is None:
        raise _RefusedError("tell which pool: its name, or its number")
    found = []
    for engine in lifecycle.engines():
        core: Any = getattr(engine, "core", None)
        slot = core.slot() if hasattr(core, "slot") else None
        if slot is not None and (number is None or slot.number == number) and (name is None or engine.name == name):
            found.append(engine)
    if len(found) == 1:
        return found[0]
    if not found:
        raise _RefusedError(f"there is no pool {name!r} here" + ("" if number is None else f" with number {number!r}"))
    raise _RefusedError(f"{len(found)} pools are called {name!r} here; tell its number, too")


def _resize(engine: Any, request: dict[str, Any]) -> tuple[Callable[[], object], str]:
    """The resize that is asked for, and what is said of it. Raises _RefusedError."""
    reserve, keep = _count(request, "reserve"), _count(request, "keep")
    expect = _count(request, "expect")
    limit: int | None | EllipsisType = ...
    if "limit" in request:
        limit = None if request["limit"] is None else _count(request, "limit")
    if reserve is None and keep is None and limit is ...:
        raise _RefusedError("a resize needs a reserve, a keep or a limit")
    targets = [f"{target} {request[target]}" for target in ("reserve", "keep", "limit") if target in request]

    def work() -> None:
        now = engine.snapshot().reserve
        if expect is not None and now != expect:
            raise _RefusedError(f"{engine.called}: the reserve is {now} and not {expect}, as expected; nothing has changed")
        engine.resize(reserve, keep, limit)

    return work, f"a resize to {', '.join(targets)}, from {engine.snapshot().reserve},"


def _count(request: dict[str, Any], what: str) -> int | None:
    number = request.get(what)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**62:
        raise _RefusedError(f"{what} is a whole number, 0 or more, not {number!r}"[:200])
    return number
