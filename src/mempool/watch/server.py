"""The socket beside a page: the one thread that answers what is asked of this process's pools, and lets them be resized.

One JSON object a line, in UTF-8; who asks must be the same user. What it knows: hello, stats, why, holders, resize, refill.
It evaluates nothing, unpickles nothing and opens nothing that it is told the name of.

A thread that answers when memory is short must not die of it: each answer that cannot be made is MEMORY_SHORT, made before;
and each turn of the loop may fail and be done again.
"""

from __future__ import annotations

import _socket  # and neither `socket` nor `select.poll`: what gevent and eventlet patch waits on a hub, see Server.start
import contextlib
import errno
import json
import logging
import os
import select
import socket
import stat
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from types import EllipsisType
from typing import Any

from mempool import explain, lifecycle, native
from mempool._core import IMPLEMENTATION, sockets
from mempool.clock import in_words
from mempool.engine import UnexpectedReserveError
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
#: Bytes that are sent at once: their number is one that Python need not make. See `_send`.
PIECE = 256
#: Seconds after which a job that is under way is looked at though nobody has said that it is done.
LOOK_AGAIN = 1.0
#: Seconds between a turn that failed and the next, after so many failures.
PAUSES = (0.0, 0.001, 0.002, 0.005, 0.02, 0.1)
#: Answers that need no memory. `done`: it has happened all the same, or may have.
MEMORY_SHORT = b'{"ok": false, "error": "MemoryError: there is no memory for an answer; ask again, or read the page"}\n'
DONE = (
    b'{"ok": false, "done": true, "error": "it is done, and there is no memory to tell what came of it: look at the page"}\n'
)
INTERRUPTED = b'{"ok": false, "done": true, "error": "it was interrupted; look at the page for what came of it"}\n'
CREDENTIALS = struct.Struct("3i")


class _RefusedError(Exception):
    """What is asked cannot be done, and nothing has changed: its message says why."""


class _Job:
    """A resize or a refill that somebody has asked for: done in another thread, answered in the socket's."""

    __slots__ = ("answer", "once")

    def __init__(self) -> None:
        self.answer: bytes | None = None
        self.once = [None]  # whoever takes it does the job


class _Client:
    """Somebody who is connected."""

    __slots__ = ("answer", "by", "deadline", "fd", "job", "request", "sent", "short", "socket")

    def __init__(self, connection: _socket.socket, fd: int, by: str, now: float) -> None:
        self.socket = connection
        self.fd = fd
        self.by = by
        self.request = b""
        self.answer: bytes = b""
        self.sent = 0
        self.deadline = now + PATIENCE
        self.job: _Job | None = None  # under way
        self.short = False  # an answer could not be made: MEMORY_SHORT is due


class Server:
    """Answers on the socket of this page, in a thread, from `start` until `stop`. steer: see publish."""

    def __init__(self, page: Page, steer: Any) -> None:
        path = page.socket_path
        if len(os.fsencode(path)) > PATH_MAX:
            raise WatchError(
                f"mempool.watch: the path of a socket has at most {PATH_MAX} bytes, and {path} has more; "
                "set MEMPOOL_WATCH_DIR to a shorter one"
            )
        self.steer: Any = steer
        self._page = page
        self.path: str = path
        self._clients: dict[int, _Client] = {}
        self._steered: deque[tuple[float, str]] = deque(maxlen=STEERINGS_KEPT)
        self._stopping = False
        self._has_lost = False
        # Where each piece of a request arrives, so that receiving needs no memory.
        self._piece = bytearray(PIECE)
        self._open: list[tuple[_socket.socket, int]] = []  # each with its inode
        # Of a descriptor for one more client where the process has no more; and then there is none for him either.
        self._spare: tuple[_socket.socket, int] | None = None
        self._is_deaf = False
        # The thread has this lock from its beginning to its end. `_has_begun` is its own word: who starts it may be
        # interrupted before he knows. It may even begin after `stop`, and then closes what is closed already.
        self._alive: Any = native.Lock()
        self._has_begun = False
        self._ident = 0
        self._is_started = False

    def start(self) -> None:
        """Begin. Whatever it raises, `stop` closes what is open by then."""
        self.listen()
        # A thread of the system's, also where `threading` makes greenlets. A greenlet answers nobody while another does not
        # give way; lives on in the child of a fork, beside sockets that are closed there; and to begin one runs others,
        # inside of os.fork, before the child knows that it is one. See tests/watch/test_under_greenlets.py.
        native.start_thread(self._run, "mempool.watch")
        self._is_started = True

    def listen(self) -> None:
        """Open the socket."""
        # Each at once in a list that `forget` knows: an interrupt in between finds it there.
        self._keep(_socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC))
        self._listener, self._inode = self._open[0]
        os.fchmod(self._listener.fileno(), 0o600)  # before it has a name
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # of a start of this process that was interrupted
        try:
            self._listener.bind(self.path)
        except OSError as error:
            raise WatchError(error.errno, f"mempool.watch: no socket can be made at {self.path}: {error.strerror}") from None
        self._listener.listen(BACKLOG)
        self._keep(*_socket.socketpair())
        (self._wake_end, _), (self._wake, self._wake_inode) = self._open[1:]
        self._wake_end.setblocking(False)
        self._wake.setblocking(False)
        self._have_spare()

    def _keep(self, *sockets_: _socket.socket) -> None:
        self._open.extend([(one, os.fstat(one.fileno()).st_ino) for one in sockets_])

    def _have_spare(self) -> None:
        if self._spare is None:
            with contextlib.suppress(OSError):
                spare = _socket.socket(socket.AF_UNIX)
                self._spare = (spare, os.fstat(spare.fileno()).st_ino)

    @property
    def lives(self) -> bool:
        """Whether its thread still answers."""
        return self._is_started and not self._stopping

    # -- the end

    def stop(self) -> None:
        """Answer nobody any more. The socket's file goes."""
        self._stopping = True
        self._rouse()
        if self._has_begun and self._ident != native.get_ident():
            if self._alive.acquire(timeout=5):
                self._alive.release()
        else:
            self.forget()
        try:
            os.unlink(self.path)
        except OSError:
            pass

    def forget(self) -> None:
        """Close what this object has open, and leave the file: in a forked child, where it is the parent's."""
        if self._has_lost:
            self._close_lost()
        for one, inode in (*self._open, *([] if self._spare is None else [self._spare])):
            close_own(one, inode)
        for client in self._clients.values():
            client.socket.close()
        self._spare = None
        self._clients.clear()

    def _rouse(self) -> None:
        try:
            if os.fstat(self._wake.fileno()).st_ino == self._wake_inode:  # and not a file that has its number now
                self._wake.send(b"x")
        except (AttributeError, OSError, MemoryError):
            pass  # not there yet, full of such already, or closed; while a job is under way the thread looks by itself

    # -- the thread

    def _run(self) -> None:
        self._alive.acquire()
        self._has_begun = True
        try:
            while not self._stopping:
                try:
                    self._turns()
                except MemoryError:  # not even for a pause: the same again
                    pass
        finally:
            self._stopping = True
            try:
                self.forget()
            finally:
                self._alive.release()

    def _turns(self) -> None:
        """Turns, and a pause after each that fails: others need time to get out of a lack of memory."""
        failures = 0
        self._ident = native.get_ident()
        while not self._stopping:
            try:
                self._turn()
                failures = 0
                continue
            except MemoryError:
                pass
            except Exception:
                if not self._is_there():
                    log.warning(
                        "the socket of mempool.watch was closed by somebody else, as daemons close what they do not know: "
                        "nobody can steer until mempool.watch.publish(steer=True) is called again"
                    )
                    self._stopping = True
                    self._page.tell_socket(False)
                    return
                log.exception("the socket of mempool.watch goes on after an error")
            failures = min(failures + 1, len(PAUSES) - 1)
            native.sleep(PAUSES[failures])

    def _turn(self) -> None:
        """Wait for something to do, and do it. May fail anywhere, and is begun anew then."""
        if self._has_lost:
            self._close_lost()
            return
        for client in list(self._clients.values()):
            due = MEMORY_SHORT if client.short else client.job.answer if client.job is not None else None
            if due is not None:
                self._reply(client, due)
                return
            if client.job is None and not client.answer and b"\n" in client.request:  # it had sent several lines at once
                self._do_next(client)
                return
        assert native.poll is not None
        poll = native.poll()
        poll.register(self._wake_end, select.POLLIN)
        nearest = None
        if self._is_deaf:
            self._is_deaf = False  # after this turn; until then whoever waits would only be seen again and again
            nearest = time.monotonic() + PAUSES[-1]
        elif len(self._clients) < CLIENTS_MAX:
            poll.register(self._listener, select.POLLIN)
        for client in self._clients.values():
            if client.job is not None:
                # Nothing but a hang-up, which makes room for others. And soon again: its thread may fail to wake this one.
                poll.register(client.socket, 0)
                deadline = time.monotonic() + LOOK_AGAIN
            else:
                poll.register(client.socket, select.POLLOUT if client.answer else select.POLLIN)
                deadline = client.deadline
            nearest = deadline if nearest is None else min(nearest, deadline)
        events = poll.poll(None if nearest is None else max(0.0, 1000 * (nearest - time.monotonic())) + 1)
        for fd, event in events:
            if fd == self._wake_end.fileno():
                if event & select.POLLNVAL or not self._is_there():
                    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                self._wake_end.recv(4096)
            elif fd == self._listener.fileno():
                self._accept()
            elif fd in self._clients:
                client = self._clients[fd]
                if client.job is None:
                    self._serve(client)
                elif event & (select.POLLHUP | select.POLLERR):
                    self._drop(client)
        now = time.monotonic()
        for client in [client for client in self._clients.values() if client.job is None and client.deadline <= now]:
            self._drop(client)

    def _is_there(self) -> bool:
        """Whether nobody else has closed what this listens to."""
        try:
            return all(os.fstat(one.fileno()).st_ino == inode for one, inode in self._open)
        except OSError:
            return False

    def _next(self) -> int:
        """The descriptor of whoever has connected. Where the process has none left, the one kept for that; -1: no more."""
        for _ in range(2):
            try:
                return sockets.accept(self._listener, self._inode)
            except OSError as error:
                if error.errno not in {errno.EMFILE, errno.ENFILE}:
                    raise
                if self._spare is None:
                    break
            spare, self._spare = self._spare, None
            close_own(*spare)
        self._is_deaf = True
        return -1

    def _accept(self) -> None:
        """Whoever connects. If there is no memory for him, he is cut off, and `client.ask` tries again."""
        connection = None
        try:
            fd = self._next()
            if fd < 0:
                return
            connection = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
            if IMPLEMENTATION == "pure":
                connection.setblocking(False)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
            pid, uid, _ = CREDENTIALS.unpack(credentials)
            if uid != os.geteuid():
                log.warning("user %d, process %d, was refused at the socket of mempool.watch", uid, pid)
                connection.close()
                return
            client = _Client(connection, fd, f"uid {uid}, pid {pid}", time.monotonic())
            self._clients[fd] = client
        except (BlockingIOError, ConnectionError, InterruptedError):
            if connection is not None:
                connection.close()
        except BaseException:
            if connection is None:
                self._has_lost = self._is_there()
            else:
                connection.close()
            raise
        else:
            self._serve(client)  # it has sent its request, most often: so it need not wait for another turn of the GIL

    def _close_lost(self) -> None:
        """Close what was accepted and lost: without memory for its address, CPython forgets a descriptor."""
        known = {self._listener.fileno(), *self._clients}
        for name in os.listdir("/proc/self/fd"):
            fd = int(name)
            try:
                if fd in known or not stat.S_ISSOCK(os.fstat(fd).st_mode):
                    continue
                with contextlib.closing(_socket.socket(fileno=os.dup(fd))) as found:
                    is_lost = found.family == socket.AF_UNIX and found.getsockname() == self.path
                if is_lost:
                    os.close(fd)
            except OSError:
                pass  # the list of descriptors itself; or somebody has closed it meanwhile
        self._has_lost = False

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.fd, None)
        client.socket.close()
        self._have_spare()

    def _serve(self, client: _Client) -> None:
        try:
            if client.answer:
                self._send(client)
            else:
                self._receive(client)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._drop(client)

    def _receive(self, client: _Client) -> None:
        """Receive, and do what is asked once it is there. What memory is short for is answered with MEMORY_SHORT.

        Once, and never before the whole request is there: a second answer would be taken for that to the next request.
        """
        got = sockets.receive(client.socket, self._piece)  # at most PIECE: see `_send`
        if not got:
            self._drop(client)
            return
        try:
            client.request += self._piece[:got]
        except MemoryError:
            if self._piece.find(b"\n", 0, got) < 0:
                self._drop(client)  # what it has sent is lost, and the rest would be nonsense
            else:
                client.request = b""
                client.short = True  # needs no memory, as the reply in the next turn does
            return
        self._do_next(client)

    def _do_next(self, client: _Client) -> None:
        """Do what the first line asks, if it is there."""
        if b"\n" not in client.request:
            if len(client.request) > REQUEST_MAX:
                self._drop(client)
            return
        try:
            line, _, rest = client.request.partition(b"\n")
            if len(line) > REQUEST_MAX:
                self._drop(client)
                return
            client.request = rest
            answer = self._answer(client, line)
        except MemoryError:
            client.request = b""
            client.short = True
            return
        if answer is not None:
            self._reply(client, answer)

    def _reply(self, client: _Client, answer: bytes) -> None:
        deadline = time.monotonic() + PATIENCE  # first: the rest needs no memory, so an answer is begun once
        client.answer = answer
        client.sent = 0
        client.deadline = deadline
        client.short = False
        client.job = None
        try:
            self._send(client)
        except (BlockingIOError, InterruptedError):
            pass  # when it reads
        except OSError:
            self._drop(client)

    def _send(self, client: _Client) -> None:
        while client.sent < len(client.answer):
            piece = client.answer[client.sent : client.sent + PIECE]
            after = client.sent + len(piece)
            # The number that this returns is one of those that Python has already, so if memory is short, nothing is sent.
            if sockets.send(client.socket, piece) != len(piece):
                self._drop(client)  # a socket of this kind takes all of so few bytes, or none
                return
            client.sent = after
        deadline = time.monotonic() + PATIENCE
        client.answer = b""
        client.deadline = deadline

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
        job = _Job()

        def run() -> None:
            try:
                job.once.pop()
            except IndexError:
                return  # a thread may have begun though Python had no memory to say so: then this is the second time
            answer = INTERRUPTED
            try:
                answer = self._steered_answer(engine, work, what, client.by)
            except MemoryError:
                answer = MEMORY_SHORT
            finally:
                job.answer = answer  # also if it was interrupted, where it runs in the user's thread
                self._rouse()

        client.job = job
        try:
            if callable(self.steer):
                self.steer(run)
            else:
                _in_a_thread(run)
        except BaseException:
            client.job = None
            raise

    def _steered_answer(self, engine: Any, work: Callable[[], object], what: str, by: str) -> bytes:
        try:
            work()
        except UnexpectedReserveError as error:
            return encode({"ok": False, "error": str(error)})
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - told to whoever asks
            text = str(error) if isinstance(error, _RefusedError) else f"{type(error).__name__}: {error}"
            return encode({"ok": False, "error": text})
        try:
            said = f"{engine.called}: {what} by {by}"
            self._steered.append((time.monotonic(), said))
            log.info("%s", said)
            guarantee = guarantee_of(engine.snapshot())
            return encode(
                {"ok": True, "promised": guarantee.promised, "spare": guarantee.spare, "unfunded": guarantee.unfunded}
            )
        except MemoryError:
            return DONE


def close_own(one: _socket.socket, inode: int) -> None:
    """Close this, if nobody else has: its number may be another file's."""
    try:
        if one.fileno() < 0 or os.fstat(one.fileno()).st_ino == inode:
            one.close()
        else:
            one.detach()
    except OSError:
        one.detach()


def _in_a_thread(run: Callable[[], object]) -> None:
    """Run this in a thread. Where there is no memory for one: here, and the others wait until it is done."""
    try:
        # Not threading.Thread, whose `start` waits for ever for a thread that had no memory to say that it has begun.
        native.start_new_thread(lambda: _run_named(run), ())
    except (MemoryError, RuntimeError):
        run()


def _run_named(run: Callable[[], object]) -> None:
    try:
        threading.current_thread().name = "mempool.watch.resize"  # as it is told who resizes
    except MemoryError:
        pass
    run()


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
        engine.resize(reserve, keep, limit, expect=expect)

    return work, f"a resize to {', '.join(targets)}, from {engine.snapshot().reserve},"


def _count(request: dict[str, Any], what: str) -> int | None:
    number = request.get(what)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**62:
        raise _RefusedError(f"{what} is a whole number, 0 or more, not {number!r}"[:200])
    return number
