"""What is wrong with a shared pool, and how it is mended: for `mempool verify NAME --repair`.

Nobody knows what another living process is about to write, so words that do not agree are mended only where nobody uses the
pool. Then nothing is out, and the words say nothing that is worth keeping but the targets: the file is made anew, with
those, and takes the old one's name in one step. Killed in the middle, either the old one is there, or the new one.
What killed processes have left is returned at any time, by the transactions that everybody uses for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mempool.shared import clients as locks
from mempool.shared import words
from mempool.shared.audit import are_possible
from mempool.shared.engine import SharedEngine
from mempool.shared.errors import PoolCorrupt, PoolInUse
from mempool.shared.file import make
from mempool.shared.layout import ROOT, WORD, Header, Layout, check_folder, open_file

UNREADABLE = "its root, or the intent or the number that it leads to, says what cannot be: no transaction can begin"
#: A root of no client: who had opened a file before it was replaced finds out by it.
NOBODYS = (1 << 64) - 1


@dataclass(frozen=True)
class Finding:
    """How it is with a shared pool."""

    wrong: tuple[str, ...]
    """What of its words does not agree. (): all does."""
    killed: tuple[int, ...]
    """Processes that were killed, and whose elements and places are not returned yet."""
    users: tuple[int, ...]
    """Processes that use it."""
    targets: tuple[int, int, int]
    """The reserve, keep and limit that it would have after a repair."""
    targets_are_kept: bool
    """They are those that it has; else its own cannot be, and it would promise nothing until it is resized."""


def examine(path: str | os.PathLike[str]) -> Finding:
    """Look, and change nothing. Raises FileNotFoundError, PermissionError, PoolCorrupt (of the header), TimeoutError."""
    engine = SharedEngine.observe(path)
    try:
        file, layout = engine._file, engine.layout
        users = _users(file)
        killed: tuple[int, ...] = ()
        try:
            wrong = tuple(engine.verify())
            numbers = [client.number for client in engine.clients() if not locks.is_locked(file, client.number)]
            killed = tuple(client.pid for client in engine.clients() if client.number in numbers and client.pid not in users)
        except PoolCorrupt:
            wrong = (UNREADABLE,)
        targets, are_kept = _targets(file, layout)
        return Finding(wrong, killed, users, targets, are_kept)
    finally:
        engine.detach()


def reap(path: str | os.PathLike[str]) -> int:
    """Return what killed processes held, at any time. How many those were. Raises as SharedEngine.attach."""
    engine = SharedEngine.attach(path)
    try:
        return engine.reaped + engine.reap_dead()
    finally:
        engine.detach()


def make_anew(path: str | os.PathLike[str]) -> SharedEngine:
    """Another file of the same layout and targets takes this one's name, and is attached to, with what there is memory for.

    Raises PoolInUse where any process uses the old one; FileNotFoundError, PermissionError, PoolCorrupt, MemoryError.
    """
    path = Path(path)
    check_folder(path.parent)
    file, header = open_file(path)
    try:
        with _alone(path, file, header.layout):
            _replace(path, file, header)
    finally:
        os.close(file)
    engine = SharedEngine.attach(path)
    engine.refill()
    return engine


@contextlib.contextmanager
def _alone(path: Path, file: int, layout: Layout) -> Iterator[None]:
    """Hold every client's lock, so that nobody attaches, and make sure that nobody has."""
    mine = os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_CLOEXEC)  # locks belong to open files: these end with this one
    try:
        held = [number for number in range(layout.clients) if not locks.lock(mine, number)]
        users = _users(file)
        if held or users:
            who = ", ".join(f"process {pid}" for pid in users) or "a process whose number is not known here"
            raise PoolInUse(
                f"{path}: used by {who}; words that do not agree are mended only where nobody uses the pool, because nobody "
                "knows what a user is about to write: end it first"
            )
        yield
    finally:
        os.close(mine)


def _users(file: int) -> tuple[int, ...]:
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
    with mmap.mmap(file, mmap.PAGESIZE) as page:
        probe = ctypes.c_char.from_buffer(page)
        try:
            return locks.mapped_as(ctypes.addressof(probe))
        finally:
            del probe


def _targets(file: int, layout: Layout) -> tuple[tuple[int, int, int], bool]:
    word = WORD.unpack(os.pread(file, WORD.size, layout.words + WORD.size * words.TARGETS))[0]
    reserve, keep, limit = words.reserve_of(word), words.keep_of(word), words.limit_of(word)
    if are_possible(reserve, keep, limit, layout.slots):
        return (reserve, keep, limit), True
    return (0, 0, layout.slots), False


def _replace(path: Path, file: int, header: Header) -> None:
    layout = header.layout
    targets, are_kept = _targets(file, layout)
    word = WORD.unpack(os.pread(file, WORD.size, layout.words + WORD.size * words.TARGETS))[0]
    follows = are_kept and words.keep_follows(word)
    beside = path.with_name(f".{path.name}.repaired")  # no pool's name: one begins with a letter or a digit
    beside.unlink(missing_ok=True)  # of a repair that was killed
    try:
        make(beside, layout, *targets, follows=follows)
    except MemoryError:  # nobody uses it: what its elements held goes first
        _punch(file, layout)
        make(beside, layout, *targets, follows=follows)
    beside.replace(path)
    os.pwrite(file, NOBODYS.to_bytes(8, "little"), ROOT)  # whoever had opened it, and had not mapped it, gets PoolCorrupt


def _punch(file: int, layout: Layout) -> None:
    os.ftruncate(file, layout.data)
    os.ftruncate(file, layout.file_bytes)
