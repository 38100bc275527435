"""Which files, and their digests as hashlib sees them."""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mempool.cli.out_of_memory.hashing import DIGEST_SIZE, open_regular
from mempool.cli.out_of_memory.words import Status

#: Folders inside the standard library's that are not of it.
NOT_STANDARD = {b"site-packages", b"dist-packages"}


@dataclass
class Tree:
    """The regular files below a path, in the order of their names."""

    root: Path
    paths: list[bytes] = field(default_factory=list)
    states: list[tuple[int, int]] = field(default_factory=list)
    """Size in bytes and time of the last change in ns of each, to know one that is changed while we read."""
    size: int = 0
    """Bytes in all."""
    skipped: int = 0
    """Symbolic links, FIFOs, sockets, devices."""
    unreadable_folders: int = 0


@dataclass(frozen=True)
class Comparison:
    """The digests of a run beside hashlib's."""

    compared: int
    equal: int
    changed: int
    """Not compared: the file was changed, or has vanished, since the tree was read."""
    different: list[str]
    """Paths whose digests should be equal and are not."""


def standard_library() -> Path:
    """The folder of the running Python's own."""
    return Path(sysconfig.get_path("stdlib"))


def find_files(root: Path, saw: Callable[[int], None]) -> Tree:
    """Walk the tree; tells `saw` now and then how many there are. Follows no symbolic link below the root."""
    tree = Tree(root)
    is_standard = root.resolve() == standard_library().resolve()
    for path, state in sorted(_walk(tree, os.fsencode(root), NOT_STANDARD if is_standard else set(), saw)):
        tree.paths.append(path)
        tree.states.append((state.st_size, state.st_mtime_ns))
        tree.size += state.st_size
    return tree


def _walk(
    tree: Tree, root: bytes, without: set[bytes], saw: Callable[[int], None]
) -> Iterator[tuple[bytes, os.stat_result]]:
    if not os.path.isdir(root):  # noqa: PTH112 - bytes
        yield os.path.realpath(root), os.stat(root)  # noqa: PTH116 - bytes
        return

    def unreadable(_error: OSError) -> None:
        tree.unreadable_folders += 1

    count = 0
    for folder, folders, names in os.walk(root, onerror=unreadable):
        tree.skipped += sum(os.path.islink(os.path.join(folder, name)) for name in folders)  # noqa: PTH114, PTH118 - bytes
        folders[:] = [name for name in folders if name not in without]
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 - bytes
            try:
                state = os.lstat(path)
            except OSError:
                continue  # vanished since its folder was read
            if stat.S_ISREG(state.st_mode):
                yield path, state
                count += 1
            else:
                tree.skipped += 1
        saw(count)


def compare(tree: Tree, statuses: bytes, digests: bytes, saw: Callable[[int], None]) -> Comparison:
    """Hash whole files with hashlib and no limit, all that the run has done, and compare."""
    files = len(tree.paths)
    done = [number for number, status in enumerate(statuses) if status == Status.DONE]
    wanted = sorted({number % files for number in done})
    truth: dict[int, bytes | None] = {}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for number, digest in zip(wanted, threads.map(lambda n: _digest(tree, n), wanted), strict=True):
            truth[number] = digest
            saw(len(truth))
    equal, changed, different = 0, 0, []
    for number in done:
        expected = truth[number % files]
        if expected is None:
            changed += 1
        elif expected == digests[number * DIGEST_SIZE : (number + 1) * DIGEST_SIZE]:
            equal += 1
        else:
            different.append(os.fsdecode(tree.paths[number % files]))
    return Comparison(len(done) - changed, equal, changed, different)


def _digest(tree: Tree, number: int) -> bytes | None:
    try:
        with open_regular(tree.paths[number]) as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            state = os.fstat(file.fileno())
    except OSError:
        return None
    return digest if (state.st_size, state.st_mtime_ns) == tree.states[number] else None
