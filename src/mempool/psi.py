"""Where Linux says how short memory is: pressure stall information (PSI). Finds the file, reads it, sets its trigger.

In this order, over a root that tests replace:

1. what the caller names: a file in the kernel's format, or a function that returns a percentage;
2. `$MEMORY_PRESSURE_WATCH` and `$MEMORY_PRESSURE_WRITE`, as systemd sets them: a file, a FIFO, a socket; /dev/null: off;
3. the process's own control group of version 2: `memory.pressure` and `memory.events`;
4. the machine: `/proc/pressure/memory`;
5. none, with the reason.

A percentage is `some avg10`: the share of the last ten seconds in which some task stood still for want of memory.
"""

from __future__ import annotations

import base64
import binascii
import math
import os
import select
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from mempool.sizes import in_words

#: What is written into a pressure file: an event when tasks stood still for 0.2 s within 2 s, the shortest window that the
#: kernel grants to everybody.
TRIGGER = b"some 200000 2000000\0"
#: Counters of memory.events that say by themselves that memory is out; and those that do where there is no memory.pressure.
OUT_OF_MEMORY = ("oom", "oom_kill")
SHORT = ("high", "max", *OUT_OF_MEMORY)


#: Seconds between two looks: with events from the kernel, which averages by 2 s, and without.
LOOK_SECONDS, LOOK_SECONDS_BLIND = 2.0, 1.0
#: Seconds after which it is looked whether this process is in another control group.
MOVED_SECONDS = 30.0
#: Bytes of a file of the system's, at most: a page is what the kernel writes.
FILE_MAX = 65536
#: Seconds that a lost source is waited for: at first, and at most.
LOST_SECONDS, LOST_SECONDS_MAX = 1.0, 60.0


class Gone(Exception):
    """The file, or the group that it belongs to, is not there any more."""


class PressureSource:
    """One place that says how short memory is.

    name: for people. file: in the kernel's format; None: there is no figure. events: a memory.events. opens: what is polled
    for events; None: nothing. writes: what is written into it then. ask: a function that gives the figure.
    """

    def __init__(
        self,
        name: str,
        *,
        file: Path | None = None,
        events: Path | None = None,
        opens: Path | None = None,
        writes: bytes = b"",
        ask: Callable[[], float] | None = None,
    ) -> None:
        self.name = name
        self.file = file
        self.fd: int | None = None
        self.fd_events: int = 0
        self._events = events
        self._opens = opens
        self._writes = writes
        self._ask = ask
        self._socket: socket.socket | None = None
        self._is_stream = False  # a FIFO or a socket, whose bytes are the events
        self._counted: dict[str, int] = {}

    def open(self) -> None:
        """Begin to listen for events, where that can be had. Raises Gone."""
        self._counted = self._count()
        if self._opens is None:
            return
        try:
            status = self._opens.stat()
            if stat.S_ISSOCK(status.st_mode):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._socket.setblocking(False)
                self._socket.connect(str(self._opens))
                self.fd, self.fd_events, self._is_stream = self._socket.fileno(), select.POLLIN, True
                if self._writes:
                    self._socket.send(self._writes)
            elif stat.S_ISFIFO(status.st_mode):
                # For both, so that no writer's end closes it: a FIFO without writers is readable for ever.
                self.fd = os.open(self._opens, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                self.fd_events, self._is_stream = select.POLLIN, True
            elif status.st_size == 0 and hasattr(
                select, "POLLPRI"
            ):  # one of the kernel's; a copy on a disk is not written to
                self._open_trigger(self._opens)
        except FileNotFoundError as error:
            self.close()
            raise Gone(str(error)) from None
        except OSError as error:
            self.close()
            if not self.has_figure:
                raise Gone(f"{self.name}: {error}") from None
            # Not allowed, or none of the kernel's: it is read instead, more often.

    def _open_trigger(self, file: Path) -> None:
        fd = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fd, self._writes)
        except OSError:
            os.close(fd)
            raise
        self.fd, self.fd_events = fd, select.POLLPRI

    @property
    def has_figure(self) -> bool:
        """Whether `percent` can tell."""
        return self.file is not None or self._ask is not None

    def percent(self) -> float | None:
        """How short memory is now; None: only events tell. Raises Gone."""
        if self._ask is not None:
            percent = float(self._ask())
            if math.isnan(percent):
                raise Gone(f"{self.name} has returned {percent}, which is no percentage")
            return percent
        if self.file is None:
            return None
        try:
            return parse(text_of(self.file))
        except (OSError, ValueError) as error:
            raise Gone(f"{self.file}: {error}") from None

    def take_event(self, events: int) -> bool:
        """What `fd` had, as `poll` says it: whether memory is short now. Raises Gone."""
        if not events:
            return False
        if not self._is_stream:
            if events & (select.POLLERR | select.POLLNVAL | select.POLLHUP):
                raise Gone(f"{self.name}: its control group was removed")
            return bool(events & self.fd_events)
        assert self.fd is not None
        try:
            read = os.read(self.fd, 4096)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Gone(f"{self.name}: {error}") from None
        if not read:
            raise Gone(f"{self.name}: its other end was closed")
        return True

    def ran_out(self) -> str | None:
        """What memory.events counted since it was looked at last, where that says that memory is out."""
        before, self._counted = self._counted, self._count()
        for name, count in self._counted.items():
            if count > before.get(name, count):
                return f"{name} {before[name]} -> {count} in memory.events"
        return None

    def _count(self) -> dict[str, int]:
        if self._events is None:
            return {}
        wanted = OUT_OF_MEMORY if self.file is not None else SHORT
        try:
            lines = [line.split() for line in text_of(self._events).splitlines()]
            return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[0] in wanted}
        except (OSError, ValueError):
            return {}

    def close(self) -> None:
        """Listen no longer. May be called again."""
        fd, self.fd = self.fd, None
        listening, self._socket = self._socket, None
        if listening is not None:
            listening.close()
        elif fd is not None:
            os.close(fd)


def text_of(file: Path) -> str:
    """What a small file holds. Raises OSError, and ValueError for what is no text or no small file.

    Never waits: what lies at the path of a file may be a FIFO by now, or a device without an end.
    """
    fd = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        read = bytearray()
        while piece := os.read(fd, FILE_MAX):
            read += piece
            if len(read) > FILE_MAX:
                raise ValueError(f"it is longer than {in_words(FILE_MAX)}")
        return read.decode("utf-8")
    finally:
        os.close(fd)


def parse(text: str) -> float:
    """`some avg10` of a pressure file. ValueError: it is none."""
    for line in text.splitlines():
        kind, *figures = line.split() or [""]
        if kind == "some":
            for figure in figures:
                name, _, value = figure.partition("=")
                if name == "avg10" and not math.isnan(percent := float(value)):
                    return percent
    raise ValueError("no 'some avg10=' in it; is it a file of pressure stall information?")


def find(
    named: str | os.PathLike[str] | Callable[[], float] | None, root: Path, environment: Mapping[str, str]
) -> PressureSource | str:
    """The first source that there is; or why there is none, in words. Raises ValueError for a named one that is none."""
    if named is not None:
        return _named(named)
    watched = environment.get("MEMORY_PRESSURE_WATCH", "")
    if watched:
        return _of_systemd(watched, environment.get("MEMORY_PRESSURE_WRITE", ""), root)
    group = own_group(root)
    if group is not None:
        file, events = group / "memory.pressure", group / "memory.events"
        if _is_read(file):
            shown = "/" / file.relative_to(root)
            return PressureSource(str(shown), file=file, events=events, opens=file, writes=TRIGGER)
        if _is_read(events):
            return PressureSource(str("/" / events.relative_to(root)), events=events)
    file = root / "proc/pressure/memory"
    if _is_read(file):
        return PressureSource("/proc/pressure/memory", file=file, opens=file, writes=TRIGGER)
    return (
        "no source: this system has no pressure stall information, which needs Linux 4.20 or newer with CONFIG_PSI and "
        "without psi=0; name a file or a function as `source`"
    )


def _named(named: str | os.PathLike[str] | Callable[[], float]) -> PressureSource:
    if callable(named):
        return PressureSource(f"{getattr(named, '__qualname__', named)}()", ask=named)
    file = Path(named)
    try:
        parse(text_of(file))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is no source of memory pressure: {error}") from None
    return PressureSource(str(file), file=file, opens=file, writes=TRIGGER)


def _of_systemd(watched: str, written: str, root: Path) -> PressureSource | str:
    """See MEMORY_PRESSURE in systemd's documentation. What it names is what there is: nothing else is looked for."""
    if watched == "/dev/null":
        return "no source: turned off, $MEMORY_PRESSURE_WATCH is /dev/null"
    path = root / watched.lstrip("/")
    try:
        writes = base64.b64decode(written, validate=True) if written else b""
    except binascii.Error:
        return f"no source: $MEMORY_PRESSURE_WRITE is no base64: {written!r}"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"no source: $MEMORY_PRESSURE_WATCH is {watched}: {error.strerror}"
    name = f"{watched} ($MEMORY_PRESSURE_WATCH)"
    if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
        return PressureSource(name, opens=path, writes=writes)
    if not _is_read(path):
        return f"no source: $MEMORY_PRESSURE_WATCH is {watched}, which is no file of pressure stall information"
    return PressureSource(name, file=path, events=path.with_name("memory.events"), opens=path, writes=writes or TRIGGER)


def own_group(root: Path) -> Path | None:
    """The directory of this process's control group of version 2; None: it is in none that can be seen."""
    try:
        lines = text_of(root / "proc/self/cgroup").splitlines()
    except (OSError, ValueError):
        return None
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None:
        return None
    mount = root / "sys/fs/cgroup"
    if (mount / "unified").is_dir():  # beside version 1
        mount = mount / "unified"
    directory = mount / path.lstrip("/")
    if path != "/" and directory.is_dir():
        return directory
    # In a container the path is often that of the host, and the group itself stands at the root. The machine's own root has
    # no type: what it says, /proc says.
    return mount if (mount / "cgroup.type").exists() else None


def _is_read(file: Path) -> bool:
    """Whether it can be read, and is what it shall be. (With psi=0 it is there, and to read it is EOPNOTSUPP.)"""
    try:
        text = text_of(file)
        return file.name == "memory.events" or parse(text) >= 0
    except (OSError, ValueError):
        return False


class Reading(NamedTuple):
    """What the system says at one moment."""

    percent: float | None
    """`some avg10`; None: the source tells of events only."""
    event: str | None
    """What happened, where something did that means pressure whatever the average is."""


class Watch:
    """The source as it is now: opened, read, and looked for anew when it is gone. Not for two threads at once."""

    def __init__(
        self,
        named: str | os.PathLike[str] | Callable[[], float] | None,
        root: Path,
        environment: Mapping[str, str],
        now: float,
    ) -> None:
        """Raises ValueError where what is named is no source."""
        self._named = named
        self._root = root
        self._environment = environment
        self._source: PressureSource | None = None
        self._why = ""
        self._tried_at = now
        self._wait_seconds = 0.0  # before the next try; 0: the source has been there for long
        self._take(find(named, root, environment), now)
        if self._source is None:
            self._wait_seconds = LOST_SECONDS_MAX

    @property
    def name(self) -> str:
        """What is followed; "no source: ..." where there is nothing."""
        return self._why if self._source is None else self._source.name

    @property
    def is_found(self) -> bool:
        """Whether there is a source."""
        return self._source is not None

    @property
    def fd(self) -> int | None:
        """To be polled."""
        return None if self._source is None else self._source.fd

    @property
    def fd_events(self) -> int:
        """For what."""
        return 0 if self._source is None else self._source.fd_events

    def seconds(self) -> float:
        """When to look next."""
        if self._source is None:
            return self._wait_seconds
        return LOOK_SECONDS if self._source.fd is not None else LOOK_SECONDS_BLIND

    def look(self, now: float, events: int) -> Reading | None:
        """What the system says now; None: there is no source now. events: what `fd` had."""
        if self._source is None:
            if now - self._tried_at >= self._wait_seconds:
                self._find(now)
        elif self._named is None and now - self._tried_at >= MOVED_SECONDS:
            self._follow_the_process(now)
        source = self._source
        if source is None:
            return None
        try:
            was_event = source.take_event(events)
            percent = source.percent()
        except Gone as error:
            self._lose(error, now)
            return None
        event = source.ran_out()
        if event is None and was_event:
            event = "an event" if percent is None else f"an event, some avg10 = {percent:.1f} %"
        return Reading(percent, event)

    def _take(self, found: PressureSource | str, now: float) -> None:
        self._tried_at = now
        if isinstance(found, str):
            self._why = found
            return
        try:
            found.open()
            self._source = found
        except Gone as error:
            self._why = f"no source: {error}"

    def _find(self, now: float) -> None:
        self._wait_seconds = min(max(2 * self._wait_seconds, LOST_SECONDS), LOST_SECONDS_MAX)
        try:
            self._take(find(self._named, self._root, self._environment), now)
        except ValueError as error:
            self._tried_at, self._why = now, f"no source: {error}"

    def _follow_the_process(self, now: float) -> None:
        self._wait_seconds = 0.0  # it has been there for long
        found = find(None, self._root, self._environment)
        self._tried_at = now
        if self.name != (found if isinstance(found, str) else found.name):
            self.close()
            self._take(found, now)

    def _lose(self, error: Gone, now: float) -> None:
        self.close()
        self._why = f"no source: {error}"
        self._tried_at = now
        if self._wait_seconds == 0:
            self._find(now)  # at once; but what is lost as soon as it is found is waited for

    def close(self) -> None:
        """Listen no longer; the next look begins anew."""
        source, self._source = self._source, None
        if source is not None:
            self._why = f"no source: {source.name} is closed"
            source.close()

    def after_fork(self) -> None:
        """In the child the descriptor is shared with the parent, and an event that one takes the other does not get."""
        self.close()
        self._wait_seconds = 0.0
