"""The pools that several processes share, as rows: their file is a page already, and they need no other.

Imports what reads them only where there is one: `mempool top` stays small without.
"""

from __future__ import annotations

import os
from typing import Any

from mempool.watch.directory import WatchError
from mempool.watch.layout import BUCKETS, Figures, printable
from mempool.watch.reader import SOCKET_SUFFIX, SUFFIX, Row

#: Where a shared pool is, as commands name it: NAME@shared.
WHERE = "shared"


def folder() -> str:
    """Where their files lie; mempool.shared.listing.folder is the same."""
    return os.environ.get("MEMPOOL_SHARED_FOLDER") or f"/dev/shm/mempool-pools-{os.geteuid()}"


def rows() -> list[Row]:
    """A row for each shared pool of this user."""
    try:
        names = [entry.name for entry in os.scandir(folder()) if entry.is_file(follow_symlinks=False)]
    except OSError:
        return []
    if all(name.startswith(".") or name.endswith((SUFFIX, SOCKET_SUFFIX)) for name in names):
        return []
    try:
        from mempool.shared import listing

        return [_row(listing, name) for name in listing.names()]
    except ImportError:
        return []  # the compiled part is missing: there are none that could be read


def _row(listing: Any, name: str) -> Row:
    key = (f"{WHERE}:{name}", 1)
    try:
        look = listing.look(name)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a file is its row's to say
        return Row(printable(name), "?", WHERE, 0, None, printable(f"unreadable: {error}"), key)
    users = len(look.users)
    return Row(name, f"{users} process{'' if users == 1 else 'es'}", WHERE, 1, figures_of(look), "", key)


def figures_of(look: Any) -> Figures:
    """The figures of a shared pool. What no process counts is 0."""
    s = look.stats
    histogram = tuple(waits for _, waits in s.wait_histogram)
    return Figures(
        name=s.name,
        number=1,
        reserve=s.reserve,
        keep=s.keep,
        limit=s.limit,
        closed=s.closed,
        spare=s.spare,
        out=s.out,
        lingering=s.lingering,
        made=s.made,
        disposed=s.disposed,
        disposing=s.disposing,
        written_off=s.written_off,
        claimed=0,
        fills=0,
        starved=False,
        waiting=s.waiting,
        from_spare=s.served_from_spare,
        from_source=s.served_from_source,
        from_reserve=s.served_from_reserve,
        from_line=s.served_from_line,
        resizes=s.resizes,
        source_failures=s.source_failures,
        waits=(0, s.waits_served, 0, s.waits_cancelled, s.waits_timed_out),
        wait_histogram=histogram if len(histogram) == len(BUCKETS) + 1 else (0,) * (len(BUCKETS) + 1),
        wait_seconds_total=s.wait_seconds_total,
        wait_seconds_max=s.wait_seconds_max,
        element_bytes=look.size,
        level=None,
        said=None,
        stable=True,
    )


def why(name: str) -> str:
    """Why this pool has nothing to give; it is looked at, and nobody is asked. Raises WatchError."""
    from mempool.errors import PoolError
    from mempool.shared import listing

    try:
        look = listing.look(name)
    except (OSError, ValueError, ImportError, MemoryError, PoolError) as error:
        raise WatchError(f"the shared pool {name!r} cannot be looked at: {error}") from None
    return str(look.why)


def resize(
    name: str, reserve: int | None, *, keep: int | None, limit: int | None, expect: int | None
) -> tuple[int, Figures]:
    """Change what it promises. Returns what it promised, and its figures then. Raises WatchError."""
    from mempool.errors import PoolError
    from mempool.shared import listing

    try:
        before = listing.look(name).stats.reserve
        look = listing.resize(name, reserve, keep=keep, limit=limit, expect=expect)
    except (OSError, ValueError, ImportError, RuntimeError, MemoryError, PoolError) as error:
        raise WatchError(f"{name}@{WHERE}: {error}") from None
    return before, figures_of(look)
