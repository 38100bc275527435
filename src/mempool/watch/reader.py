"""Reading pages from outside: which processes show pools, and their figures. Asks no process for anything.

Imports nothing of the package but what `mempool top` loads without the pools.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterator, Sequence

from mempool.namedtuples import NamedTuple
from mempool.watch import layout
from mempool.watch.directory import directory as default_directory
from mempool.watch.directory import open_directory
from mempool.watch.layout import Figures, Header, Unreadable, UnreadableError

#: struct flock of Linux on a 64-bit machine; and the lock by which the owner of a page lives: of its first byte.
FLOCK = struct.Struct("hhqqi4x")
LOCK = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
SUFFIX, SOCKET_SUFFIX = ".page", ".sock"
#: How often a slot is read again whose figures change meanwhile.
TRIES = 4


class Page(NamedTuple):
    """What was read of one process."""

    path: str
    header: Header | None
    """None: the page is unreadable, see `why`."""
    pools: tuple[Figures, ...]
    unreadable: tuple[Unreadable, ...]
    """Slots that cannot be believed."""
    why: str
    """Why the page is unreadable: "newer, layout 2", for example."""

    @property
    def stem(self) -> str:
        """By which page and socket of a process are told from others."""
        return os.path.basename(self.path).removesuffix(SUFFIX)

    @property
    def pid(self) -> int:
        """Of the process; where the page cannot be read, as its file says."""
        if self.header is not None:
            return self.header.pid
        digits = self.stem.partition("-")[0]
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0

    @property
    def socket_path(self) -> str:
        """Where it takes commands, if it does."""
        return self.path.removesuffix(SUFFIX) + SOCKET_SUFFIX

    @property
    def has_socket(self) -> bool:
        """Whether it says that it takes commands."""
        return self.header is not None and self.header.has_socket


def is_locked(fd: int) -> bool:
    """Whether the owner of this page lives."""
    kind: int = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, LOCK))[0]
    return kind != fcntl.F_UNLCK


def read(fd: int, path: str) -> Page:
    """The page in this file. Never raises for what is in it."""
    try:
        head = os.pread(fd, layout.HEADER_BYTES, 0)
        header, used = layout.parse_header(head)
    except UnreadableError as error:
        return Page(path, None, (), (), str(error))
    length = layout.slot_at(used)
    found: dict[int, Figures | Unreadable | None] = {}
    wanted = list(range(used))
    for attempt in range(TRIES):
        # What lies between two equal sequence numbers that are even is of one moment.
        before, page, after = os.pread(fd, length, 0), os.pread(fd, length, 0), os.pread(fd, length, 0)
        unsteady = []
        for slot in wanted:
            sequence = layout.sequence(before, slot)
            stable = sequence % 2 == 0 and sequence == layout.sequence(after, slot)
            if stable or attempt == TRIES - 1:
                found[slot] = layout.parse_slot(page, slot, stable=stable)
            else:
                unsteady.append(slot)
        wanted = unsteady
        if not wanted:
            break
    slots = [found[slot] for slot in range(used)]
    pools = tuple(slot for slot in slots if isinstance(slot, Figures))
    return Page(path, header, pools, tuple(slot for slot in slots if isinstance(slot, Unreadable)), "")


def open_page(name: str, directory: int) -> int | None:
    """A descriptor of this file if it can be one of ours, else None."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
        return fd
    os.close(fd)
    return None


class Reader:
    """Reads all pages of a directory, again and again."""

    def __init__(self, directory: str | None = None) -> None:
        self.directory: str = default_directory() if directory is None else directory
        self._read: dict[str, tuple[bytes, Page]] = {}

    def pages(self, *, dead: bool = False) -> Iterator[Page]:
        """Of each process that lives (dead: that does not), by pid. Raises WatchError where the directory is unfit."""
        try:
            folder = open_directory(self.directory)
        except FileNotFoundError:
            return
        try:
            names = sorted((name for name in os.listdir(folder) if name.endswith(SUFFIX)), key=_by_pid)
            for name in names:
                fd = open_page(name, folder)
                if fd is None:
                    continue
                try:
                    if is_locked(fd) != dead:
                        yield self._page(fd, name)
                except OSError:
                    pass  # of a file system that does not do what it promised
                finally:
                    os.close(fd)
        finally:
            os.close(folder)

    def _page(self, fd: int, name: str) -> Page:
        """What this file says. One that says the same as the last time is not understood anew."""
        raw = os.pread(fd, layout.HEADER_BYTES, 0)
        raw += os.pread(fd, layout.used_bytes(raw), layout.HEADER_BYTES)  # no more: it is kept, one of each process
        known = self._read.get(name)
        # The same bytes, and no step between them: the sequence numbers are among them.
        if known is not None and known[0] == raw and all(pool.stable for pool in known[1].pools):
            return known[1]
        page = read(fd, os.path.join(self.directory, name))
        if len(self._read) > 1000:
            self._read.clear()
        self._read[name] = (raw, page)
        return page


def _by_pid(name: str) -> tuple[int, str]:
    digits = name.partition("-")[0]
    return (int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0, name)


#: In the key of a row that stands for all pools that a page has no room for. Slots that cannot be read have others.
WITHOUT_SLOT = -1000


class Row(NamedTuple):
    """One pool as the tools show it, wherever its figures come from."""

    pool: str
    process: str
    """The program."""
    where: str
    """Which of the processes of that name: a pid, or what a source of rows calls it. Together with `number` unique."""
    number: int
    figures: Figures | None
    """None: unreadable, see `why`."""
    why: str
    key: tuple[str, int]
    """By which it is the same pool the next time."""

    @property
    def target(self) -> str:
        """How commands name it."""
        return f"{self.pool}@{self.where}"


def rows_of(pages: Sequence[Page]) -> list[Row]:
    """A row for each pool, and for each page or slot that cannot be read."""
    rows = []
    for page in pages:
        where, process = str(page.pid), page.header.argv0 if page.header is not None else "?"
        if page.header is None:
            rows.append(Row("?", process, where, 0, None, page.why, (page.stem, 0)))
        rows += [Row(pool.name, process, where, pool.number, pool, "", (page.stem, pool.number)) for pool in page.pools]
        rows += [
            Row("?", process, where, 0, None, f"unreadable: {slot.why}", (page.stem, -1 - place))
            for place, slot in enumerate(page.unreadable)
        ]
        if page.header is not None and page.header.without_slot:
            more = page.header.without_slot
            why = f"{more} more pool{'' if more == 1 else 's'} not shown: its page has room for {layout.SLOTS}"
            rows.append(Row("...", process, where, 0, None, why, (page.stem, WITHOUT_SLOT)))
    return rows
