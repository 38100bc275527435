"""The shared pools of this user, seen from outside: for commands and monitors, which look without joining.

    names()        the pools there are
    look(name)     one of them, of one moment: its `PoolStats`, why it is empty, who uses it, who waits
    look_at(path)  the same of a file anywhere
    resize(name, reserve=...)   joins for as long as that takes

Looking changes nothing that a user could notice: it takes no client's place, no lock and no element. It finishes a
transaction that a killed process has left half written, as everybody does who reads.

Importing this module needs nothing. Where the compiled part is missing, its functions raise ImportError, with the way out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mempool import messages
from mempool.engine import Snapshot
from mempool.shared import glance
from mempool.shared.glance import NAME, names
from mempool.stats import PoolStats, stats_of

if TYPE_CHECKING:
    from mempool.shared.engine import SharedEngine


@dataclass(frozen=True)
class User:
    """A process that uses a pool."""

    number: int
    """Its place among the clients of the file."""
    pid: int
    """As it said when it joined; in its own pid namespace."""
    command: str
    """What /proc calls it; "" where it is gone, or in another pid namespace."""
    held: int
    """Elements that it holds."""
    offered: int
    """Elements that it has offered to anybody, and that nobody has adopted yet."""
    addressed: int
    """Elements that were offered to it, and that it has not adopted yet."""
    is_dead: bool
    """It was killed, and what it held is being reclaimed."""

    def __str__(self) -> str:
        state = ", which was killed and is being reclaimed," if self.is_dead else ""
        command = f" ({self.command})" if self.command else ""
        passed = f", has offered {self.offered}" if self.offered else ""
        passed += f", has {self.addressed} to adopt" if self.addressed else ""
        return f"process {self.pid}{command}{state} holds {self.held}{passed}"

    def has_any(self) -> bool:
        """Whether any element is its."""
        return self.held + self.offered + self.addressed > 0


@dataclass(frozen=True)
class Waiter:
    """One caller in the line of a pool."""

    pid: int
    """Its process."""
    wanted: int
    """Elements that it waits for."""
    gathered: int
    """Elements that it has already: only the first in line gathers."""


@dataclass(frozen=True)
class Look:
    """A shared pool of one moment."""

    name: str
    """Its name: that of its file."""
    path: Path
    """Its file."""
    size: int
    """Bytes of an element."""
    slots: int
    """How many elements there may ever be: as many as the file has addresses for."""
    memory: int
    """Bytes of memory that the file takes now."""
    stats: PoolStats
    """Its figures, over all processes."""
    why: str
    """What `SharedPool.why_empty` says: one paragraph a person can act on."""
    users: tuple[User, ...]
    """The processes that use it."""
    line: tuple[Waiter, ...]
    """Who waits, first come, first served."""


def folder() -> Path:
    """Where the shared pools of this user lie: /dev/shm/mempool-pools-UID."""
    return Path(glance.folder())


def path_of(name: str) -> Path:
    """The file of the pool of this name. Raises ValueError for what is no name."""
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        raise ValueError(
            f"a shared pool is named by up to 200 letters, digits, '.', '_' and '-', and begins with a letter or a digit; "
            f"not {name!r}"
        )
    return folder() / name


def look(name: str) -> Look:
    """Look at the pool of this name.

    Raises FileNotFoundError; PoolCorrupt for a file that is none, or broken; PermissionError; MemoryError; ImportError.
    """
    return look_at(path_of(name))


def look_at(path: str | os.PathLike[str]) -> Look:
    """Look at the pool in this file. Raises as `look`."""
    from mempool.shared.engine import SharedEngine

    engine = SharedEngine.observe(path)
    try:
        now, held, clients, queue = engine_snapshot(engine), engine.held(), engine.clients(), engine.queue()
        offered = engine.offered()
    finally:
        engine.detach()
    users = tuple(
        User(
            client.number,
            client.pid,
            _command(client.pid),
            held.get(client.number, 0),
            *offered.get(client.number, (0, 0)),
            client.is_dead,
        )
        for client in clients
    )
    return Look(
        engine.name,
        engine.path,
        engine.layout.size,
        engine.layout.slots,
        engine.path.stat().st_blocks * 512,
        stats_of(engine.name, now),
        messages.why_empty(messages.called(engine.name), now, [], [user for user in users if user.has_any()], []),
        users,
        tuple(Waiter(place.pid, place.wanted, place.granted) for place in queue),
    )


def resize(
    name: str,
    reserve: int | None = None,
    *,
    keep: int | None = None,
    limit: int | None = None,
    expect: int | None = None,
) -> Look:
    """Change the promise of the pool of this name, live, and look at it then.

    reserve, limit: None: as it is. keep: None: as it is, or twice the reserve where nobody has given one.
    expect: the reserve that it must have at the moment of the change: of two who steer, the second is refused.

    Joins for as long as that takes.

    Raises ValueError, PoolClosed, and as `look`; LineFull where as many processes use the pool as it was made for.
    """
    from mempool.shared.engine import SharedEngine

    engine = SharedEngine.attach(path_of(name))
    try:
        engine.change(reserve, keep, limit, expect=expect)
    finally:
        engine.detach()
    return look(name)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def engine_snapshot(engine: SharedEngine) -> Snapshot:
    """The figures of a shared pool in the words of every pool's. What only a process itself can know is 0."""
    g = glance.glance_by(engine._tx)
    owed = 0 if g.closed else min(max(0, g.reserve - g.spare), g.out)
    found: dict[str, Any] = g._asdict()
    found |= dict.fromkeys(("lingering", "disposing", "written_off", "being_made", "filling", "source_failures"), 0)
    return Snapshot(owed=owed, source_said=None, source_rests=0.0, level=None, **found)


__all__ = ["Look", "User", "Waiter", "folder", "look", "look_at", "names", "path_of", "resize"]
