"""Asking a process by the socket beside its page. Imports nothing of the package but what `mempool top` loads without it."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import time
from typing import Any

from mempool.watch.layout import printable

#: Seconds: a process that has not answered by then is told to be silent.
PATIENCE = 1.0
#: Seconds between two attempts to connect, while the process has no room for another.
RETRY = 0.005
ANSWER_MAX = 65536
#: What must not be asked twice by itself.
CHANGES = frozenset({"resize", "refill"})
HELLO = b'{"verb": "hello"}\n'
CREDENTIALS = struct.Struct("3i")


class NoAnswerError(Exception):
    """The process is there, takes commands, and does not answer what came of it."""


class RefusedError(Exception):
    """The process answered that it cannot be done: its message says why."""


class _CutOffError(Exception):
    """The connection was closed before there was an answer."""


def ask(path: str, verb: str, *, patience: float = PATIENCE, **request: Any) -> dict[str, Any]:
    """Ask the process with this socket. Raises NoAnswerError, and RefusedError.

    A process that has no memory for another client cuts it off. What only asks is asked again then. What changes something
    is not: it may have been done. So that comes second on a connection whose other end has answered already.
    """
    deadline = time.monotonic() + patience
    line = json.dumps({"verb": verb, **request}).encode() + b"\n"
    try:
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
                _connect(connection, path, deadline)
                try:
                    if verb not in CHANGES:
                        return _understood(_exchange(connection, line, deadline))
                    _exchange(connection, HELLO, deadline)
                except _CutOffError as error:
                    if time.monotonic() + RETRY >= deadline:
                        raise NoAnswerError(str(error)) from None
                    time.sleep(RETRY)
                    continue
                return _understood(_exchange(connection, line, deadline))
    except _CutOffError as error:
        raise NoAnswerError(str(error)) from None
    except TimeoutError:
        raise NoAnswerError(f"it does not answer within {patience:g} s") from None
    except OSError as error:
        raise NoAnswerError(f"it does not answer: {error.strerror}") from None


def _exchange(connection: socket.socket, line: bytes, deadline: float) -> bytes:
    """The answer to this line."""
    received = b""
    try:
        _until(connection, deadline)
        connection.sendall(line)
        while not received.endswith(b"\n"):
            _until(connection, deadline)
            data = connection.recv(65536)
            if not data:
                raise _CutOffError("it closed the connection without an answer")
            received += data
            if len(received) > ANSWER_MAX:
                raise NoAnswerError("its answer is too long")
    except ConnectionError as error:
        raise _CutOffError(f"it does not answer: {error.strerror}") from None
    return received


def _understood(received: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(received.decode("utf-8"))
    except (ValueError, RecursionError):
        raise NoAnswerError("its answer is no JSON") from None
    if not isinstance(answer, dict):
        raise NoAnswerError("its answer is no object")
    if answer.get("ok") is not True:
        error = printable(str(answer.get("error", "it gives no reason")), 4096)
        raise NoAnswerError(error) if answer.get("done") else RefusedError(error)
    return answer


def _until(connection: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)


def _connect(connection: socket.socket, path: str, deadline: float) -> None:
    # Not with a timeout: connect() to a local socket whose backlog is full fails with EAGAIN at once then.
    connection.setblocking(False)
    while True:
        try:
            connection.connect(path)
            break
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EINTR}:
                raise NoAnswerError(f"nobody answers at its socket: {error.strerror}") from None
        if time.monotonic() + RETRY >= deadline:
            raise NoAnswerError("it does not answer: its socket is full of others who wait")
        time.sleep(RETRY)
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    if CREDENTIALS.unpack(credentials)[1] != os.geteuid():
        raise NoAnswerError("another user answers at its socket")
