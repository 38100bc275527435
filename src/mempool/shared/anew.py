"""A file that nobody uses is made anew, in place of the old one: with its layout and its targets, and with nothing out.

For a repair, and for what an earlier boot has left. Whoever does it holds the locks of all clients, taken in one step.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mempool.shared import clients as locks
from mempool.shared import words
from mempool.shared._engine import Mapping
from mempool.shared.audit import are_possible
from mempool.shared.errors import PoolInUse
from mempool.shared.file import make
from mempool.shared.layout import PAGE, ROOT, WORD, Header, Layout, open_file

#: How often, and after how many seconds each, it is looked whether another process has made a file anew: 10 s in all.
BOOT_ATTEMPTS, BOOT_PAUSE = 2000, 0.005
#: A root of no client: who had opened a file before it was replaced finds out by it.
NOBODYS = (1 << 64) - 1


def make_anew_after_boot(path: Path) -> None:
    """The file was made before the machine was started the last time: it is made anew, by one of those who come at once.

    Where it is used all the same, it is left alone: a container may say of itself that it is another machine. Raises as
    `make_anew`, but for PoolInUse.
    """
    for _ in range(BOOT_ATTEMPTS):
        file, header = open_file(path)
        try:
            clients = header.layout.clients
            locked = locks.locked_at_once(file, clients)
            if not header.is_of_an_earlier_boot() or 0 < locked < clients:
                return
            if locked == 0:
                with contextlib.suppress(PoolInUse), alone(path, file, header.layout):
                    replace(path, file, header)
                    return
        finally:
            os.close(file)
        time.sleep(BOOT_PAUSE)  # another one is making it anew, or just looks at it


@contextlib.contextmanager
def alone(path: Path, file: int, layout: Layout) -> Iterator[None]:
    """Hold every client's lock, so that nobody attaches, and make sure that nobody has."""
    mine = os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_CLOEXEC)  # locks belong to open files: these end with this one
    try:
        is_free = locks.lock_all(mine, layout.clients)
        if is_free and not _is_named(path, file):
            raise PoolInUse(f"{path}: another process has just made it anew, or removed it; look again")
        users = users_of(file)
        if users or not is_free:
            who = ", ".join(f"process {pid}" for pid in users) or "a process whose number is not known here"
            raise PoolInUse(
                f"{path}: used by {who}; words that do not agree are mended only where nobody uses the pool, because nobody "
                "knows what a user is about to write: end it first"
            )
        yield
    finally:
        locks.unlock_all(mine)  # a child of a fork may have it, too
        os.close(mine)


def _is_named(path: Path, file: int) -> bool:
    """Whether this is the file of this name still."""
    try:
        named, mine = path.stat(follow_symlinks=False), os.fstat(file)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino)


def users_of(file: int) -> tuple[int, ...]:
    """The other processes that map this file, whatever its words say. Those of other pid namespaces are not seen here."""
    mapping = _name_in_maps(file)
    users = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            lines = Path(entry.path, "maps").read_bytes().splitlines()
            if any(b" ".join(line.split(None, 5)[3:5]) == mapping for line in lines):
                users.append(int(entry.name))
    return tuple(sorted(users))


def _name_in_maps(file: int) -> bytes | None:
    page = Mapping(file, PAGE)
    return locks.mapped_as(page.address)


def targets_of(file: int, layout: Layout) -> tuple[tuple[int, int, int], bool]:
    """The targets that its words tell of, and whether those can be; else such as promise nothing."""
    word = WORD.unpack(os.pread(file, WORD.size, layout.words + WORD.size * words.TARGETS))[0]
    reserve, keep, limit = words.reserve_of(word), words.keep_of(word), words.limit_of(word)
    if are_possible(reserve, keep, limit, layout.slots):
        return (reserve, keep, limit), True
    return (0, 0, layout.slots), False


def replace(path: Path, file: int, header: Header) -> None:
    """Another file takes the name of this one, which the caller has for itself.

    Raises MemoryError; then this one is there still, and is nobody's, if its elements' memory went first.
    """
    layout = header.layout
    targets, are_kept = targets_of(file, layout)
    word = WORD.unpack(os.pread(file, WORD.size, layout.words + WORD.size * words.TARGETS))[0]
    follows = are_kept and words.keep_follows(word)
    beside = path.with_name(f".{path.name}.repaired")  # no pool's name: one begins with a letter or a digit
    beside.unlink(missing_ok=True)  # of a repair that was killed
    try:
        make(beside, layout, *targets, follows=follows)
    except MemoryError:
        if os.fstat(file).st_blocks * 512 <= layout.control_bytes:
            raise  # its elements have none
        # Nobody uses it: what its elements held goes first. If that is not enough, nobody shall write to what is not there:
        # on a full file system that is a SIGBUS.
        _make_nobodys(file)
        _punch(file, layout)
        make(beside, layout, *targets, follows=follows)
    beside.replace(path)
    _make_nobodys(file)  # whoever had opened it, and had not mapped it, gets PoolCorrupt


def _make_nobodys(file: int) -> None:
    os.pwrite(file, NOBODYS.to_bytes(8, "little"), ROOT)


def _punch(file: int, layout: Layout) -> None:
    os.ftruncate(file, layout.data)
    os.ftruncate(file, layout.file_bytes)
