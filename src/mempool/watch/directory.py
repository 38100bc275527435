"""Where pages lie: one directory a user, that nobody else can read, in memory.

Imports nothing of the package: `mempool top` loads it without the pools.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping


class WatchError(OSError):
    """A pool cannot be published, or not be reached: the message tells the way out."""


def directory(environ: Mapping[str, str] = os.environ) -> str:
    """`$MEMPOOL_WATCH_DIR`, else `$XDG_RUNTIME_DIR/mempool`, else `/dev/shm/mempool-<uid>`."""
    given = environ.get("MEMPOOL_WATCH_DIR")
    if given:
        return given
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return os.path.join(runtime, "mempool")
    return f"/dev/shm/mempool-{os.geteuid()}"


def file_system(device: int) -> str | None:
    """The kind of the file system with this device number; None: unknown."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                mount, _, rest = line.partition(" - ")
                fields = mount.split()
                if len(fields) > 2 and fields[2] == wanted:
                    return rest.split()[0]
    except (OSError, IndexError):
        pass
    return None


def why_unfit(status: os.stat_result) -> str | None:
    """Why nobody should keep pages in what has this status; None: it is fit."""
    if not stat.S_ISDIR(status.st_mode):
        return "is no directory (a link to one is none either)"
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid} and not to {os.geteuid()}"
    if stat.S_IMODE(status.st_mode) != 0o700:
        return f"has mode {stat.S_IMODE(status.st_mode):04o}; others could read or put something there: chmod 0700 it"
    kind = file_system(status.st_dev)
    if kind not in {"tmpfs", "ramfs", None}:
        return (
            f"lies on {kind}; on a disk a store may wait for write-back just when memory is short: "
            "set MEMPOOL_WATCH_DIR to a directory on tmpfs, such as one under /dev/shm or /run/user"
        )
    return None


def open_directory(path: str, *, create: bool = False) -> int:
    """A descriptor of this directory. Raises WatchError where it is unfit, FileNotFoundError where there is none."""
    if create:
        try:
            os.mkdir(path, 0o700)
            os.chmod(path, 0o700)  # whatever the umask
        except FileExistsError:
            pass
        except OSError as error:
            raise WatchError(
                error.errno,
                f"mempool.watch: {path} cannot be made: {error.strerror}; set MEMPOOL_WATCH_DIR to a directory on tmpfs",
            ) from None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        try:
            why = why_unfit(os.lstat(path))
        except OSError:  # not even looked at, because of what is on the way there
            why = None
        why = why or f"cannot be opened: {error.strerror}; set MEMPOOL_WATCH_DIR to a directory on tmpfs"
        raise WatchError(error.errno, f"mempool.watch: {path} {why}") from None
    why_not = why_unfit(os.fstat(fd))
    if why_not is not None:
        os.close(fd)
        raise WatchError(f"mempool.watch: {path} {why_not}")
    return fd
