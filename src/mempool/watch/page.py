"""The page of this process: its file, made so that nobody sees half of it, and its slots.

The file is made without a name, filled, locked and only then linked. Its lock (of the open file, not of the process) lasts
as long as the process, whatever kills it, and in no child: that is how a reader knows who lives.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import sys
import time
import weakref
from typing import Any

from mempool._core import IMPLEMENTATION
from mempool._core.mirror import Mapping
from mempool.watch import layout
from mempool.watch.directory import WatchError, open_directory
from mempool.watch.reader import LOCK, SOCKET_SUFFIX, SUFFIX, is_locked


def start_of(pid: int | str = "self") -> int:
    """When this process began, in clock ticks since the machine did; 0: unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def boot_id() -> str:
    """Which boot of the machine this is."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def program() -> str:
    """What this process is called: the file of its main program, or its module."""
    arguments = getattr(sys, "orig_argv", [])
    argv0 = (getattr(sys, "argv", None) or [""])[0]
    if "-m" in arguments[:-1] and argv0 in {"-m", ""}:
        return str(arguments[arguments.index("-m") + 1])
    if os.path.basename(argv0) == "__main__.py":
        return os.path.basename(os.path.dirname(argv0)) or "python"
    return os.path.basename(argv0) or "python"


class Slot:
    """A pool's place on a page. The pool's state keeps it, and it is free again when that is gone."""

    __slots__ = ("__weakref__", "at", "index", "number", "page")

    def __init__(self, page: Page, index: int, number: int) -> None:
        self.page: Page = page
        self.index: int = index
        self.number: int = number
        self.at: int = layout.slot_at(index)

    @property
    def mapping(self) -> Mapping:
        """The memory in which it lies."""
        return self.page.mapping

    def name(self, name: str, element_bytes: int, level: str | None) -> None:
        """What does not change. The slot is in use from now on."""
        store = self.mapping.store
        store(self.at + layout.NAME_AT, layout.cut(name, layout.NAME_BYTES).ljust(layout.NAME_BYTES, b"\0"))
        store(self.at + layout.SAID_AT, bytes(layout.SAID_BYTES))
        store(self.at + layout.WORDS.size - 8, element_bytes.to_bytes(8, "little"))
        self.level(level)
        store(self.at + 8, self.number.to_bytes(8, "little"))

    def level(self, level: str | None) -> None:
        """How its memory is guaranteed now."""
        text = layout.cut(level or "", layout.LEVEL_BYTES).ljust(layout.LEVEL_BYTES, b"\0")
        self.mapping.store(self.at + layout.LEVEL_AT, text)

    def say(self, said: str) -> None:
        """With what its source has just failed. Does nothing where there is no memory for these words."""
        try:
            text = layout.cut(said, layout.SAID_BYTES).ljust(layout.SAID_BYTES, b"\0")
            self.mapping.store(self.at + layout.SAID_AT, text)
        except MemoryError:
            pass

    def __del__(self) -> None:
        self.page.free(self)


class Page:
    """The file of this process's figures, from its making until `close`, a fork, or the end of the process."""

    def __init__(self, folder: str) -> None:
        self.folder: str = folder
        self.pid: int = os.getpid()
        self.without_slot: int = 0
        self._number: int = 0
        self._used: int = 0
        self._free: list[int] = []
        self._left_out: dict[int, tuple[weakref.ref[object], weakref.finalize[[int], object]]] = {}
        start = start_of()
        self.stem: str = f"{self.pid}-{start}-{secrets.token_hex(4)}"
        directory = open_directory(folder, create=True)
        try:
            sweep(directory)
            self.fd: int = self._new_file(directory)
            self._inode: int = os.fstat(self.fd).st_ino
            try:
                header = layout.HEADER.pack(
                    layout.MAGIC,
                    layout.VERSION,
                    layout.HEADER_BYTES,
                    layout.SLOT_BYTES,
                    0,
                    self.pid,
                    start,
                    boot_id().encode(),
                    layout.cut(version(), 20),
                    layout.cut(program(), 128),
                    0,
                    0,
                    time.time(),
                )
                os.pwrite(self.fd, header, 0)
                fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, LOCK)
                self.mapping: Mapping = Mapping(self.fd, layout.PAGE_BYTES)
                # By way of /proc, because a link by descriptor alone needs a capability.
                os.link(
                    f"/proc/self/fd/{self.fd}",
                    self.stem + SUFFIX,
                    src_dir_fd=directory,
                    dst_dir_fd=directory,
                    follow_symlinks=True,
                )
            except BaseException:
                os.close(self.fd)
                raise
        finally:
            os.close(directory)

    def _new_file(self, directory: int) -> int:
        try:
            fd = os.open(f"/proc/self/fd/{directory}", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise WatchError(error.errno, f"mempool.watch: no page can be made in {self.folder}: {error.strerror}") from None
        try:
            os.fchmod(fd, 0o600)  # whatever the umask
            os.posix_fallocate(fd, 0, layout.PAGE_BYTES)  # now, and not when a decision stores into it
        except OSError as error:
            os.close(fd)
            if error.errno != errno.ENOSPC:
                raise
            raise WatchError(
                error.errno,
                f"mempool.watch: {self.folder} has no room for a page of {layout.PAGE_BYTES // 1024} KiB; remove something "
                "there, or set MEMPOOL_WATCH_DIR to another directory on tmpfs",
            ) from None
        return fd

    def new_slot(self) -> Slot | None:
        """A slot for another pool; None: the page is full."""
        self._number += 1
        if self._free:
            index = self._free.pop()
        elif self._used < layout.SLOTS:
            index = self._used
            self._used += 1
            self.mapping.store(layout.SLOTS_USED_AT, self._used.to_bytes(4, "little"))
        else:
            return None
        return Slot(self, index, self._number)

    def leave_out(self, engine: object) -> None:
        """Tell of a pool that has no slot, as long as it lives or until it has one."""
        gone = weakref.finalize(engine, self._forget_left_out, id(engine))
        gone.atexit = False
        self._left_out[id(engine)] = (weakref.ref(engine), gone)
        self._tell_left_out(1)

    def take_left_out(self) -> Any:
        """A pool that was left out, if one lives and there is a slot again; None: there is none of either."""
        while self._left_out and (self._free or self._used < layout.SLOTS):
            _, (left_out, gone) = self._left_out.popitem()
            engine = left_out()
            if engine is not None and gone.detach() is not None:
                self._tell_left_out(-1)
                return engine
        return None

    def _forget_left_out(self, key: int) -> None:
        self._left_out.pop(key, None)
        self._tell_left_out(-1)

    def _tell_left_out(self, more: int) -> None:
        self.without_slot += more
        if self.fd >= 0:
            self.mapping.store(layout.WITHOUT_SLOT_AT, self.without_slot.to_bytes(8, "little"))

    def free(self, slot: Slot) -> None:
        """Nobody stores into this slot any more."""
        self.mapping.store(slot.at + 8, bytes(8))
        self._free.append(slot.index)

    def tell_socket(self, has_socket: bool) -> None:
        """Say whether this process takes commands."""
        self.mapping.store(layout.SOCKET_AT, int(has_socket).to_bytes(8, "little"))

    @property
    def path(self) -> str:
        """Of the page."""
        return os.path.join(self.folder, self.stem + SUFFIX)

    @property
    def socket_path(self) -> str:
        """Of the socket beside it."""
        return os.path.join(self.folder, self.stem + SOCKET_SUFFIX)

    def close(self) -> None:
        """Nobody finds this page any more. What pools still store into it is lost."""
        if self.pid != os.getpid():
            return  # the parent's
        for path in (self.path, self.socket_path):
            try:
                os.unlink(path)
            except OSError:
                pass
        if self.fd >= 0:
            self.mapping.let_go()
            close_own(self.fd, self._inode)
            self.fd = -1

    def leave_to_parent(self) -> None:
        """In a forked child: the file and its lock are the parent's. (Compiled, libc has closed it already.)"""
        if IMPLEMENTATION == "pure":
            self.mapping.let_go()
            close_own(self.fd, self._inode)
        self.fd = -1


def close_own(fd: int, inode: int) -> None:
    """Close this if it is still what it was: a daemon closes what it does not know, and another file gets the number."""
    try:
        if os.fstat(fd).st_ino == inode:
            os.close(fd)
    except OSError:
        pass


def version() -> str:
    """Of mempool, which imports this module."""
    return str(getattr(sys.modules.get("mempool"), "__version__", ""))


def sweep(directory: int) -> int:
    """Unlink the pages of the dead, and their sockets. Returns how many."""
    swept = 0
    for name in os.listdir(directory):
        if name.endswith(SUFFIX):
            swept += unlink_if_dead(directory, name)
    return swept


def unlink_if_dead(directory: int, name: str) -> bool:
    """Unlink this page if nobody holds its lock: it has one before it has a name, and no second page gets this name.

    The lock is looked at and not taken: whoever read the page meanwhile would take its process for one that lives again, and
    count what that did a second time.
    """
    try:
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return False
    try:
        if is_locked(fd):
            return False
        mine, there = os.fstat(fd), os.stat(name, dir_fd=directory, follow_symlinks=False)
        if (mine.st_ino, mine.st_dev) != (there.st_ino, there.st_dev) or mine.st_uid != os.geteuid():
            return False
        os.unlink(name, dir_fd=directory)
        try:
            os.unlink(name.removesuffix(SUFFIX) + SOCKET_SUFFIX, dir_fd=directory)
        except OSError:
            pass
        return True
    except OSError:
        return False  # somebody else was faster
    finally:
        os.close(fd)


def publishable(engine: Any) -> bool:
    """Whether an engine of this kind can mirror its figures. (A SharedPool's file is a page already.)"""
    return hasattr(getattr(engine, "core", None), "mirror_to")
