"""A program on a terminal of its own (a pty), whose screen is seen through an emulator."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from typing import Self

import pyte


class OnTerminal:
    """A program on a terminal of its own, which remembers what stands on its screen."""

    def __init__(self, *arguments: str, columns: int = 120, lines: int = 16, env: dict[str, str] | None = None) -> None:
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, slave = pty.openpty()
        self.slave = slave
        self.resize(columns, lines, tell=False)
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", **(env or {})},
        )

    def resize(self, columns: int, lines: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)
        if tell:  # the kernel tells the foreground processes of the terminal; this one is in a session of its own
            os.kill(self.process.pid, signal.SIGWINCH)

    def feed(self, seconds: float = 0.05) -> None:
        poll = select.poll()  # unlike `select`, of any descriptor, however many the tests have open
        poll.register(self.master, select.POLLIN)
        while poll.poll(1000 * seconds):
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            self.raw += data
            self.stream.feed(data)
            seconds = 0

    def shows(self, condition: Callable[[list[str]], object], seconds: float = 60) -> list[str]:
        """Wait until the screen shows this."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.feed()
            if condition(self.screen.display):
                return list(self.screen.display)
        assert self.process.stderr is not None
        errors = self.process.stderr.read() if self.process.poll() is not None else b""
        raise AssertionError("\n".join(self.screen.display) + errors.decode())

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def ended(self) -> int:
        """Its status; and what it had taken is given back."""
        status = self.process.wait(60)
        self.feed()
        after = termios.tcgetattr(self.slave)
        assert after[:4] == self.before[:4], "the terminal's modes are not restored"
        assert self.raw.rstrip().endswith(b"\x1b[?25h\x1b[?1049l"), self.raw[-80:]
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        os.close(self.master)
        os.close(self.slave)
