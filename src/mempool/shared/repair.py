"""What is wrong with a shared pool, and how it is mended: for `mempool verify NAME --repair`.

Nobody knows what another living process is about to write, so words that do not agree are mended only where nobody uses the
pool. Then nothing is out, and the words say nothing that is worth keeping but the targets: the file is made anew, with
those, and takes the old one's name in one step. Killed in the middle, either the old one is there, or the new one.
What killed processes have left is returned at any time, by the transactions that everybody uses for that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mempool.shared import clients as locks
from mempool.shared.anew import alone, replace, targets_of, users_of
from mempool.shared.engine import SharedEngine
from mempool.shared.errors import PoolCorrupt
from mempool.shared.layout import check_folder, open_file

UNREADABLE = "its root, or the intent or the number that it leads to, says what cannot be: no transaction can begin"


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
    """Look, and change nothing; what is in force and was left unwritten is written.

    Raises FileNotFoundError, PermissionError, PoolCorrupt (of the header), TimeoutError.
    """
    engine = SharedEngine.observe(path)
    try:
        file, layout = engine._file, engine.layout
        users = users_of(file)
        killed: tuple[int, ...] = ()
        try:
            wrong = tuple(engine.verify())
            numbers = [client.number for client in engine.clients() if not locks.is_locked(file, client.number)]
            killed = tuple(client.pid for client in engine.clients() if client.number in numbers and client.pid not in users)
        except PoolCorrupt:
            wrong = (UNREADABLE,)
        targets, are_kept = targets_of(file, layout)
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
        with alone(path, file, header.layout):
            replace(path, file, header)
    finally:
        os.close(file)
    engine = SharedEngine.attach(path)
    engine.refill()
    return engine
