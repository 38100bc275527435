"""The figures of this user's shared pools at a glance: without joining, and without the larger modules of Python.

    names()         the pools there are
    glance(name)    the figures of one of them, of one moment

For `mempool top`, which people leave open: it imports neither the pools nor what their other views (listing.py) are made of.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mempool.namedtuples import NamedTuple
from mempool.shared.layout import FROM_LINE, HISTOGRAM, MADE, OUTCOMES, RESIZES, check_folder, map_file, open_file

if TYPE_CHECKING:
    from mempool.shared._engine import Transaction

#: A name is a file's name, and is read by people and shells.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class Glance(NamedTuple):
    """The figures of a shared pool, over all processes. What only a process itself can know is not among them."""

    reserve: int
    keep: int
    limit: int | None
    """None: as many as the file has addresses for."""
    closed: bool
    spare: int
    """What the first in line has gathered included: it is out once that one has all it wants."""
    out: int
    offered: int
    """The part of `out` that was offered, and that nobody has adopted yet."""
    waiting: int
    made: int
    """Ever."""
    disposed: int
    """Ever."""
    from_spare: int
    from_source: int
    from_reserve: int
    from_line: int
    resizes: int
    waits: tuple[int, ...]
    """By outcome, as in engine.py."""
    wait_histogram: tuple[int, ...]
    wait_seconds_total: float
    wait_seconds_max: float


def folder() -> str:
    """Where the shared pools of this user lie: /dev/shm/mempool-pools-UID."""
    return os.environ.get("MEMPOOL_SHARED_FOLDER") or f"/dev/shm/mempool-pools-{os.geteuid()}"


def names() -> list[str]:
    """The names of this user's shared pools, sorted. What else lies in the folder is left out."""
    try:
        # Pages of mempool.watch lie there, too.
        return sorted(
            entry.name
            for entry in os.scandir(folder())
            if NAME.fullmatch(entry.name) and entry.is_file() and not entry.name.endswith(".page")
        )
    except FileNotFoundError:
        return []


def glance(name: str) -> tuple[Glance, int, int]:
    """The figures of the pool of this name, the bytes of an element, and how many processes use it.

    Raises FileNotFoundError; PoolCorrupt for a file that is none, or broken; PermissionError; MemoryError; ImportError.
    """
    from mempool.shared._engine import CONSTANTS, Transaction

    path = f"{folder()}/{name}"
    check_folder(folder())
    fd, header = open_file(path)
    try:
        mapping = map_file(fd, path, header.layout)
    finally:
        os.close(fd)
    tx = Transaction(mapping, f"shared pool {name!r}", header.layout.offsets(), header.nonce)
    absent = CONSTANTS["ABSENT"]
    users = sum(tx.look_at_client(number)[0] != absent for number in range(header.layout.clients))
    return glance_by(tx), header.layout.size, users


def glance_by(tx: Transaction) -> Glance:
    """The figures of the pool that this client uses, or looks at. Raises PoolCorrupt."""
    from mempool.shared._engine import CONSTANTS

    reserve, keep, limit, existing, spares, waiting, closed, _, gathered, offered, *_ = tx.look()
    counts: Sequence[int]
    counts, nanoseconds, longest = tx.totals()
    spare = spares + gathered
    made = max(counts[MADE], existing)  # counted a moment later than it exists
    return Glance(
        reserve,
        max(keep, reserve),
        None if limit >= tx.slots else limit,
        closed,
        spare,
        max(0, existing - spare),
        offered,
        waiting,
        made,
        made - existing,
        counts[CONSTANTS["FROM_SPARES"]],
        counts[CONSTANTS["FROM_SOURCE"]],
        counts[CONSTANTS["FROM_RESERVE"]],
        counts[FROM_LINE],
        counts[RESIZES],
        tuple(counts[OUTCOMES:HISTOGRAM]),
        tuple(counts[HISTOGRAM:]),
        nanoseconds / 1e9,
        longest / 1e9,
    )
