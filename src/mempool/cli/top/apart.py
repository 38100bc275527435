"""Doing something in a child: what it imports goes with it, and `mempool top` stays small."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import NoReturn

from mempool.watch.directory import WatchError


def in_a_child(work: Callable[[], str]) -> str:
    """What this returns, worked out in a forked child. Raises WatchError as it does, or if the child is killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _work_and_end(work, writing)
    os.close(writing)
    told = b""
    try:
        while data := os.read(reading, 65536):
            told += data
    finally:
        os.close(reading)
        os.waitpid(child, 0)
    text = told[1:].decode("utf-8", "replace")
    if told[:1] == b"+":
        return text
    raise WatchError(text or "it ended without an answer")


def _work_and_end(work: Callable[[], str], writing: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGWINCH):
            signal.signal(ending, signal.SIG_DFL)  # the terminal is the parent's to give back
        try:
            told = "+" + work()
        except Exception as error:  # noqa: BLE001 - told to the user
            told = f"-{error}"
        data = told.encode("utf-8", "replace")
        while data:
            data = data[os.write(writing, data) :]
    finally:
        os._exit(0)
