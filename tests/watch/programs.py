"""Processes of their own that show pools: each says when it has begun, and lives until it is told to end, or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from types import TracebackType
from typing import Self

from mempool.watch import PoolView

#: Seconds that whoever asks why waits for an answer, if nothing else is said. In these tests it is more: see conftest.py.
BY_DEFAULT = PoolView.why.__kwdefaults__["patience"]

PRELUDE = """
import os, signal, sys, threading, time
import mempool, mempool.watch
from mempool import Objects, Pool

def ready(*words):
    print("ready", os.getpid(), *words, flush=True)
    sys.stdin.readline()
"""


class Program:
    """A Python program under test: its body ends in `ready()`, which returns when it is left."""

    def __init__(self, body: str, *options: str, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, *options, "-c", PRELUDE + textwrap.dedent(body)]
        environment = {**os.environ, **(env or {})}
        # A pipe for what it says on its way out, too: who inherits the test's own would keep it open for ever.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def wait_ready(self) -> list[str]:
        """What it says when it has begun."""
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        assert words[:1] == ["ready"], (words, self.process.communicate())
        return words[2:]

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        """Have it stand still, as a program does that hangs."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def end(self) -> str:
        """Let it go on to its end; what it said meanwhile."""
        out, errors = self.process.communicate("\n", timeout=60)
        assert self.process.returncode == 0, errors
        return out + errors

    def __enter__(self) -> Self:
        self.wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
