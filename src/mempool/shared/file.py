"""How the file of a shared pool is made. How it is laid out, and opened: layout.py."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from mempool.shared import words
from mempool.shared.layout import ROOT, WORD, Layout, boot_id, map_file
from mempool.sizes import in_words

#: Where the lock of client 0 lies: far beyond the end of any file, which a lock may.
LOCKS = 1 << 62


def first_words(layout: Layout, reserve: int, keep: int, limit: int, *, follows: bool = False) -> bytes:
    """All slots are bare, all places are empty, nobody is there."""
    values = [words.make_targets(reserve, keep, limit) | follows << 63, words.make_bare_list(0, 0)]
    values += [words.make_line(words.NO_PLACE, words.NO_PLACE, 0), 0]
    following = [*range(1, layout.slots), words.NO_SLOT]
    values += [words.make_slot(words.BARE, 0, slot) for slot in following]
    for place in range(layout.places):
        behind = place + 1 if place + 1 < layout.places else words.NO_PLACE
        values += [words.make_place(words.EMPTY, 0, 0, 0), words.make_links(words.NO_PLACE, behind, words.NO_SLOT)]
    values += [words.make_client(words.ABSENT, 0)] * layout.clients
    return b"".join(WORD.pack(value, 0) for value in values)


def no_memory(path: Path, needed: int) -> MemoryError:
    """What to raise where the file system is full."""
    return MemoryError(
        f"{path}: no room for {in_words(needed)} in {path.parent}; enlarge that file system (docker run --shm-size), "
        "remove what is not used there any more, or make a smaller pool"
    )


@contextlib.contextmanager
def told_if_full(path: Path, needed: int) -> Iterator[None]:
    """MemoryError where the file system has no bytes, or no files, left."""
    try:
        yield
    except OSError as failure:
        if failure.errno not in (errno.ENOSPC, errno.EFBIG, errno.ENOMEM, errno.EDQUOT):
            raise
        raise no_memory(path, needed) from failure


def make(path: Path, layout: Layout, reserve: int, keep: int, limit: int, *, follows: bool = False) -> None:
    """Make the file. Raises FileExistsError; MemoryError where there is no room for it, and then there is no file."""
    with told_if_full(path, layout.control_bytes):  # a file needs an inode, too
        fd = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        with told_if_full(path, layout.control_bytes):
            os.ftruncate(fd, layout.file_bytes)
            os.posix_fallocate(fd, 0, layout.control_bytes)
            os.pwrite(fd, layout.header(os.urandom(16), boot_id()), 0)
            os.pwrite(fd, WORD.pack(0, words.make_gate(words.NO_SLOT, 0, 0, 0)), ROOT)
            content = memoryview(first_words(layout, reserve, keep, limit, follows=follows))
            written = 0
            while written < len(content):
                written += os.pwrite(fd, content[written:], layout.words + written)
        map_file(fd, path, layout)  # if this process may not, there is no file that it could not use
        with told_if_full(path, layout.control_bytes):
            # With a descriptor of a folder, which is not used: without one, CPython calls link(2), which follows no link.
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    finally:
        os.close(fd)
