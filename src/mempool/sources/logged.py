"""Logged: what is asked of a source, line by line in a file; and replay, which asks it again."""

from __future__ import annotations

import csv
import functools
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from mempool.buffer import exported
from mempool.sources import protocol
from mempool.sources.adaptors import Adaptor, hand_on, key_of, only
from mempool.sources.entering import was_entered

if TYPE_CHECKING:
    from mempool.sources.source import Source

T = TypeVar("T")

#: The columns. An element's number counts from 1; it is empty where an alloc failed.
COLUMNS = ("time", "thread", "action", "element", "size")
#: What stands in the column `action`: an element was made, disposed of, or could not be had; or alloc raised another error.
ALLOC, FREE, FAIL, ERROR = "alloc", "free", "fail", "error"
#: The end of a line of which only a part could be written.
TORN = "?"


class Logged(Adaptor[T]):
    """Writes each call of the source to a CSV file, which `replay` can repeat.

    to: a path, which is appended to; or an open file, whose descriptor is written to.

        time      seconds since 1970
        thread    its number in Python
        action    alloc: an element was made; free: it is disposed of; fail: alloc raised MemoryError; error: another one
        element   its number, the first is 1; nothing for fail and error
        size      bytes of the element; nothing where nobody knows

    Each line is written by one system call. So the file is complete up to the moment at which a process dies, and finalizers
    and signal handlers may write, too. If a line cannot be written (the disk is full), the caller goes on, and `lines_lost`
    counts the line. A line that was written in part ends with a question mark; `replay` skips it.
    """

    def __init__(self, source: Source[T], *, to: str | os.PathLike[str] | IO[Any]) -> None:
        super().__init__(source)
        self._lent: IO[Any] | None = None
        self._path: str | os.PathLike[str] | None = None
        if isinstance(to, str | os.PathLike):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._file: int = os.open(to, flags, 0o666)
            self._path = to
        else:
            to.flush()
            self._file = to.fileno()
            self._lent = to
        self._numbers = itertools.count(1)
        self._known: dict[int, tuple[str, str]] = {}  # by identity; as in Fallback, without references
        self._lost: deque[int] = deque(maxlen=1)
        self._losses = itertools.count(1)
        self._is_torn = self._ends_torn()
        if not self._has_lines():
            self._write(",".join(COLUMNS))

    @property
    def lines_lost(self) -> int:
        """Lines that could not be written."""
        return max(self._lost, default=0)

    def alloc(self) -> T:
        """Make an element, and write it down."""
        made: list[T] = []
        try:
            made.extend(itertools.starmap(self.source.alloc, ((),)))
            number, size = str(next(self._numbers)), self._size_of(only(made))
            self._known[key_of(made[0])] = number, size
            self._write_line(ALLOC, number, size)
            return made[0]
        except BaseException as error:
            if made:
                self.free(made.pop())
            else:
                size = str(protocol.found(self.source, "size", ""))
                self._write_line(FAIL if isinstance(error, MemoryError) else ERROR, "", size)
            raise

    def _end(self, element: T, before: list[int]) -> None:
        key = key_of(element)
        number, size = known = self._known.get(key, ("", ""))
        # Before it is free: what another thread makes of its memory stands below it, and a replay needs no more at once.
        self._write_line(FREE, number, size)
        free = self.source.free
        try:
            hand_on(before, free, (before.remove, functools.partial(self._known.pop, key), free), (0, None, element))
        except BaseException as error:
            if before or isinstance(error, BufferError):
                self._known[key] = known  # it exists: it was not even handed on, or somebody views it and frees it again
            raise

    def close(self) -> None:
        """Write no more; closes the file if it was opened here. What is asked later counts as lost lines."""
        file, self._file = self._file, -1
        if self._lent is None and file >= 0:
            os.close(file)

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            self.close()

    def _size_of(self, element: T) -> str:
        size = protocol.found(self.source, "size")
        if size is None:
            try:
                size = memoryview(exported(element)).nbytes
            except TypeError:
                return ""
        return str(size)

    def _has_lines(self) -> bool:
        try:
            return os.fstat(self._file).st_size > 0
        except OSError:
            return False

    def _ends_torn(self) -> bool:
        """Whether another process ended, or its disk was full, in the midst of the last line."""
        try:
            file = os.open(self._path, os.O_RDONLY) if self._path is not None else os.dup(self._file)
            try:
                return os.pread(file, 1, max(0, os.fstat(file).st_size - 1)) not in (b"", b"\n")
            finally:
                os.close(file)
        except (OSError, AttributeError):
            return False  # it cannot be read: a pipe, or no system that reads at a place

    def _write_line(self, action: str, number: str, size: str) -> None:
        self._write(f"{time.time():.6f},{threading.get_ident()},{action},{number},{size}")

    def _write(self, line: str) -> None:
        try:
            if self._lent is not None and self._lent.closed:
                raise OSError  # its number may be another file's by now
            data = f"{TORN}\n{line}\n" if self._is_torn else f"{line}\n"
            written = os.write(self._file, data.encode())
            self._is_torn = written < len(data) and (written > 0 or self._is_torn)
            if written < len(data):
                raise OSError
        except OSError:
            self._lost.extend(itertools.islice(self._losses, 1))


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of a replay."""

    allocs: int
    """Elements that were had."""
    frees: int
    """Elements that were given back, as the log says."""
    failures: int
    """Allocs that raised MemoryError."""
    left: int
    """Elements that the log does not free; they were given back at the end."""
    seconds: float
    """How long it took."""


def replay(file: str | os.PathLike[str] | Iterable[str], source: Source[Any]) -> Replay:
    """Repeat the calls in a log of `Logged` on a source or a pool, in the order of the log, as fast as possible.

    file: its path, or its lines. The times and threads in the log are ignored: all calls are made in the calling thread.

    If an alloc fails now, it is counted, and its free is left out. An alloc that failed in the log is tried, too; if it
    works now, the element is returned at once. At the end, even after an error, all elements are returned. If a number comes
    again (another process wrote it), the earlier element is returned first. Raises ValueError if this is no log.
    """
    if isinstance(file, str | os.PathLike):
        with Path(file).open(encoding="ascii", newline="") as lines:
            return _replay((line for line in lines if line.endswith("\n")), source)  # all but a torn last one
    return _replay(file, source)


def _replay(lines: Iterable[str], source: Source[Any]) -> Replay:
    rows = csv.reader(lines)
    if tuple(next(rows, ())) != COLUMNS:
        raise ValueError(f"this is no log of Logged: its first line is not {','.join(COLUMNS)}")
    out: dict[str, Any] = {}
    allocs = frees = failures = left = 0
    began = time.perf_counter()
    try:
        for row in rows:
            if row and row[-1].endswith(TORN):
                continue
            if len(row) != len(COLUMNS) or row[2] not in (ALLOC, FREE, FAIL, ERROR):
                raise ValueError(f"line {rows.line_num} of the log is none of Logged's: {row}")
            _, _, action, number, _ = row
            if action == FREE:
                if number in out:
                    _free(source, out, number)
                    frees += 1
                continue
            if number in out:
                left += 1
                _free(source, out, number)
            try:
                element = source.alloc()
            except MemoryError:
                failures += 1
                continue
            allocs += 1
            out[number] = element
            if action != ALLOC:
                _free(source, out, number)
        left += len(out)
    finally:
        seconds = time.perf_counter() - began
        # Goes on to the last whatever is raised; then raises the first. Here: another function might not be entered.
        errors: list[BaseException] = []
        errors_max = len(out) + 3
        while out and len(errors) < errors_max:
            try:
                _free(source, out, next(iter(out)))
            except BaseException as error:  # noqa: BLE001 - raised below
                errors.append(error)
        if errors:
            raise errors[0]
    return Replay(allocs, frees, failures, left, seconds)


def _free(source: Source[Any], out: dict[str, Any], number: str) -> None:
    """Give this element back. It stays where it was if the source's free was not even entered."""
    element, free = out[number], source.free
    try:
        del out[number]
        free(element)
    except BaseException as error:
        if not was_entered(free, error):
            out[number] = element
        raise
