"""The terminal of `mempool top`: taken, drawn on line by line where a line has changed, and given back whatever ends it."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import tty
from types import FrameType, TracebackType
from typing import Self

ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"
LEAVE = "\x1b[0m\x1b[?25h\x1b[?1049l"
ENDINGS = (signal.SIGTERM, signal.SIGHUP)


#: A key: a letter, or what a key without one sends, such as an arrow: ESC [ A, or ESC O A.
KEY = re.compile(r"\x1b(?:\[[0-9;]*[@-~]|O[@-~])|.", re.DOTALL)


def keys_of(typed: str) -> list[str]:
    """Each key of what has arrived: who types fast, or pastes, sends many together."""
    return [f"\x1b[{key[2:]}" if key.startswith("\x1bO") else key for key in KEY.findall(typed)]


class Terminal:
    """The whole screen, from `with` to its end, which gives it back whatever was raised."""

    def __init__(self) -> None:
        self._input: int = sys.stdin.fileno()
        self._output: int = sys.stdout.fileno()
        self._before: list[object] | None = None
        self._drawn: list[str] = []
        self._wake_end, self._wake = os.pipe()
        self._size: tuple[int, int] | None = None
        self._typed: list[str] = []  # keys that were sent together

    def __enter__(self) -> Self:
        os.set_blocking(self._wake, False)
        os.set_blocking(self._wake_end, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for ending in ENDINGS:
            signal.signal(ending, self._end)
        signal.signal(signal.SIGWINCH, self._resized)
        signal.signal(signal.SIGTSTP, self._suspend)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for one in (*ENDINGS, signal.SIGINT, signal.SIGTSTP):
            signal.signal(one, signal.SIG_IGN)  # a second Ctrl-C must not end the giving back
        signal.set_wakeup_fd(-1)
        self._give_back()

    def _take(self) -> None:
        if self._before is None:
            self._before = termios.tcgetattr(self._input)
        tty.setcbreak(self._input)
        self._write(ENTER)
        self._drawn = []
        self._size = None

    def _give_back(self) -> None:
        try:
            self._write(LEAVE)
            if self._before is not None:
                termios.tcsetattr(self._input, termios.TCSADRAIN, self._before)  # type: ignore[arg-type]
        except (OSError, termios.error):
            pass  # it is gone: SIGHUP

    def _end(self, number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def _resized(self, _number: int, _frame: FrameType | None) -> None:
        self._size = None
        self._drawn = []

    def _suspend(self, _number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal, and `fg` brings this one back."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()

    def _write(self, text: str) -> None:
        data = text.encode("utf-8", "replace")
        while data:
            try:
                data = data[os.write(self._output, data) :]
            except BlockingIOError:
                select.select([], [self._output], [], 1)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        if self._size is None:
            try:
                size = os.get_terminal_size(self._output)
                self._size = (max(1, size.columns), max(1, size.lines))
            except OSError:
                self._size = (80, 24)
        return self._size

    def draw(self, lines: list[str]) -> None:
        """Show these lines: only what has changed is written, in one go."""
        if len(lines) != len(self._drawn):
            self._drawn = []
        changed = ["\x1b[2J"] if not self._drawn else []
        for number, line in enumerate(lines):
            if not self._drawn or self._drawn[number] != line:
                changed.append(f"\x1b[{number + 1};1H{line}\x1b[K")
        self._drawn = lines
        if changed:
            self._write("".join(changed))

    def key(self, seconds: float) -> str | None:
        """The next key, as the terminal sends it; None: none, or the screen has another size; "": no more come."""
        if not self._typed and (what := self._read(seconds)) is not None:
            self._typed = keys_of(what)
            if not what:
                return ""
        return self._typed.pop(0) if self._typed else None

    def _read(self, seconds: float) -> str | None:
        ready, _, _ = select.select([self._input, self._wake_end], [], [], max(0.0, seconds))
        if self._wake_end in ready:
            try:
                os.read(self._wake_end, 4096)
            except BlockingIOError:
                pass
        if self._input not in ready:
            return None
        try:
            return os.read(self._input, 64).decode("utf-8", "replace")
        except OSError:
            return ""
