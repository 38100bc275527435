"""The pools that several processes share, as rows: their file is a page already, and they need no other.

Imports what reads them only where there is one: `mempool top` stays small without.
"""

from __future__ import annotations

import os
from typing import Any

from mempool.watch.directory import WatchError
from mempool.watch.layout import Figures, printable
from mempool.watch.reader import SOCKET_SUFFIX, SUFFIX, Row

#: Where a shared pool is, as commands name it: NAME@shared.
WHERE = "shared"


def folder() -> str:
    """Where their files lie; mempool.shared.glance.folder is the same."""
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
        from mempool.shared import glance

        return [_row(glance, name) for name in glance.names()]
    except ImportError:
        return []  # the compiled part is missing: there are none that could be read


def _row(glance: Any, name: str) -> Row:
    key = (f"{WHERE}:{name}", 1)
    try:
        seen, size, users = glance.glance(name)
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a file is its row's to say
        return Row(printable(name), "?", WHERE, 0, None, printable(f"unreadable: {error}"), key)
    return Row(name, f"{users} process{'' if users == 1 else 'es'}", WHERE, 1, figures_of(name, seen, size), "", key)


def figures_of(name: str, seen: Any, size: int) -> Figures:
    """The figures of a shared pool. What only a process itself can know is 0."""
    found: dict[str, Any] = seen._asdict() | {"waits": seen.waits[:5]}
    del found["offered"]
    found |= dict.fromkeys(("lingering", "disposing", "written_off", "claimed", "fills", "source_failures"), 0)
    return Figures(name=name, number=1, element_bytes=size, starved=False, level=None, said=None, stable=True, **found)


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
    from mempool.shared import glance, listing

    try:
        before = glance.glance(name)[0].reserve
        listing.resize(name, reserve, keep=keep, limit=limit, expect=expect)
        seen, size, _ = glance.glance(name)
    except (OSError, ValueError, ImportError, RuntimeError, MemoryError, PoolError) as error:
        raise WatchError(f"{name}@{WHERE}: {error}") from None
    return before, figures_of(name, seen, size)
