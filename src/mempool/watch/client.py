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
CREDENTIALS = struct.Struct("3i")


class NoAnswerError(Exception):
    """The process is there, takes commands, and does not answer."""


class RefusedError(Exception):
    """The process answered that it cannot be done: its message says why."""


def ask(path: str, verb: str, *, patience: float = PATIENCE, **request: Any) -> dict[str, Any]:
    """Ask the process with this socket. Raises NoAnswerError, and RefusedError."""
    deadline = time.monotonic() + patience
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        _connect(connection, path, deadline)
        line = json.dumps({"verb": verb, **request}).encode() + b"\n"
        try:
            _until(connection, deadline)
            connection.sendall(line)
            received = b""
            while not received.endswith(b"\n"):
                _until(connection, deadline)
                data = connection.recv(65536)
                if not data:
                    raise NoAnswerError("it closed the connection without an answer")
                received += data
                if len(received) > ANSWER_MAX:
                    raise NoAnswerError("its answer is too long")
        except TimeoutError:
            raise NoAnswerError(f"it does not answer within {patience:g} s") from None
        except OSError as error:
            raise NoAnswerError(f"it does not answer: {error.strerror}") from None
    return _understood(received)


def _understood(received: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(received.decode("utf-8"))
    except (ValueError, RecursionError):
        raise NoAnswerError("its answer is no JSON") from None
    if not isinstance(answer, dict):
        raise NoAnswerError("its answer is no object")
    if answer.get("ok") is not True:
        raise RefusedError(printable(str(answer.get("error", "it gives no reason")), 4096))
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
