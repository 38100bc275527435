"""The file of a shared pool: where what lies, how it is made, and how much of it is believed.

    0        header, 4 KiB: never changed, read once, compared with its checksum
    4096     the root, and beside it who asks the others to hold back
    4160     bells, 4 bytes for each place in the line
    then     1,280 bytes for each client, then 16 bytes for each word
    then     2 MiB aligned: the slots, whole pages each

All before the slots has memory from the beginning; a slot has it while it is not bare. The file has its full size from the
beginning, too, so no address ever changes. It becomes visible when it is complete, under its name, in one step.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from mempool.shared import words
from mempool.shared.errors import PoolCorrupt

MAGIC = b"mempool\x01"
VERSION = 2
#: magic, version, slots, places, clients, bytes of a slot, bytes of the file, a number that no other file has
HEADER = struct.Struct("<8s6Q16s")
PAGE = 4096
ROOT = PAGE
BELLS = ROOT + 64
CLIENT_BYTES = 1280
WORD = struct.Struct("<QQ")
ALIGNMENT = 2 << 20
#: Where the lock of client 0 lies: far beyond the end of any file, which a lock may.
LOCKS = 1 << 62


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


@dataclass(frozen=True)
class Layout:
    """What a file consists of. Everything follows from the first four, so nothing else of a header is believed."""

    slots: int
    places: int
    clients: int
    size: int

    def __post_init__(self) -> None:
        for name, most in (("slots", words.SLOTS_MAX), ("places", words.PLACES_MAX), ("clients", words.CLIENTS_MAX)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"a shared pool has 1 to {most:,} {name}, not {getattr(self, name):,}")
        if not 1 <= self.size <= 1 << 40:
            raise ValueError(f"an element has 1 byte to 1 TiB, not {self.size:,} bytes")

    @property
    def stride(self) -> int:
        """From one slot to the next."""
        return _up(self.size, PAGE)

    @property
    def client_records(self) -> int:
        """Where they begin."""
        return _up(BELLS + 4 * self.places, PAGE)

    @property
    def words(self) -> int:
        """Where they begin."""
        return self.client_records + CLIENT_BYTES * self.clients

    @property
    def word_count(self) -> int:
        """Of all kinds."""
        return words.FIRST_SLOT + self.slots + 2 * self.places + self.clients

    @property
    def control_bytes(self) -> int:
        """What has memory from the beginning."""
        return _up(self.words + WORD.size * self.word_count, PAGE)

    @property
    def data(self) -> int:
        """Where the slots begin."""
        return _up(self.control_bytes, ALIGNMENT)

    @property
    def file_bytes(self) -> int:
        """The size of the file, most of which is holes."""
        return self.data + self.slots * self.stride

    def offsets(self) -> dict[str, int]:
        """For the engine."""
        names = ("slots", "places", "clients", "size", "stride", "client_records", "words", "data")
        return {"root": ROOT, "bells": BELLS, **{name: getattr(self, name) for name in names}}

    def header(self, nonce: bytes) -> bytes:
        """With its checksum."""
        packed = HEADER.pack(MAGIC, VERSION, self.slots, self.places, self.clients, self.size, self.file_bytes, nonce)
        return packed + struct.pack("<I", zlib.crc32(packed))

    def first_words(self, reserve: int, keep: int, limit: int, *, follows: bool = False) -> bytes:
        """All slots are bare, all places are empty, nobody is there."""
        values = [words.make_targets(reserve, keep, limit) | follows << 63, words.make_bare_list(0, 0)]
        values += [words.make_line(words.NO_PLACE, words.NO_PLACE, 0), 0]
        following = [*range(1, self.slots), words.NO_SLOT]
        values += [words.make_slot(words.BARE, 0, slot) for slot in following]
        for place in range(self.places):
            behind = place + 1 if place + 1 < self.places else words.NO_PLACE
            values += [words.make_place(words.EMPTY, 0, 0, 0), words.make_links(words.NO_PLACE, behind, words.NO_SLOT)]
        values += [words.make_client(words.ABSENT, 0)] * self.clients
        return b"".join(WORD.pack(value, 0) for value in values)


@dataclass(frozen=True)
class Header:
    """What a file says of itself, as far as it was found to be possible."""

    layout: Layout
    nonce: bytes


def no_memory(path: Path, needed: int) -> MemoryError:
    """What to raise where the file system is full."""
    return MemoryError(
        f"{path}: no room for {needed:,} bytes in {path.parent}; enlarge that file system (docker run --shm-size), "
        "remove what is not used there any more, or make a smaller pool"
    )


def make(path: Path, layout: Layout, reserve: int, keep: int, limit: int, *, follows: bool = False) -> None:
    """Make the file. Raises FileExistsError; MemoryError where there is no room for it, and then there is no file."""
    fd = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.ftruncate(fd, layout.file_bytes)
            os.posix_fallocate(fd, 0, layout.control_bytes)
            os.pwrite(fd, layout.header(secrets.token_bytes(16)), 0)
            os.pwrite(fd, WORD.pack(0, words.make_gate(words.NO_SLOT, 0, 0, 0)), ROOT)
            content = memoryview(layout.first_words(reserve, keep, limit, follows=follows))
            written = 0
            while written < len(content):
                written += os.pwrite(fd, content[written:], layout.words + written)
        except OSError as failure:
            if failure.errno not in (errno.ENOSPC, errno.EFBIG, errno.ENOMEM, errno.EDQUOT):
                raise
            raise no_memory(path, layout.control_bytes) from failure
        # With a descriptor of a folder, which is not used: without one, CPython calls link(2), which does not follow this.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    finally:
        os.close(fd)


def check_folder(folder: Path) -> None:
    """Raises PermissionError unless only this user can put files there: a shared pool believes its file's owner."""
    found = folder.stat(follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(
            f"{folder}: shared pools live in a folder that belongs to this user and that nobody else can write to; "
            f"make one with mode 0700 and name it, or: chmod 700 {folder}"
        )


def open_file(path: Path) -> tuple[int, Header]:
    """Open an existing file and read its header. Raises FileNotFoundError, PermissionError, PoolCorrupt."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return fd, _read_header(fd, path)
    except BaseException:
        os.close(fd)
        raise


def _read_header(fd: int, path: Path) -> Header:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{path}: not a regular file of this user")
    packed = os.pread(fd, HEADER.size + 4, 0)
    told = packed[: HEADER.size]
    if len(packed) < HEADER.size + 4 or zlib.crc32(told) != struct.unpack("<I", packed[HEADER.size :])[0]:
        raise PoolCorrupt(f"{path}: not a shared pool, or its header was written to; remove it")
    magic, version, slots, places, clients, size, file_bytes, nonce = HEADER.unpack(told)
    if magic != MAGIC or version != VERSION:
        raise PoolCorrupt(f"{path}: made by another version (layout {version}, not {VERSION}); end its users and remove it")
    try:
        layout = Layout(slots, places, clients, size)
    except ValueError as wrong:
        raise PoolCorrupt(f"{path}: {wrong}; remove it") from None
    if not file_bytes == layout.file_bytes == found.st_size:
        raise PoolCorrupt(f"{path}: {found.st_size:,} bytes, not the {layout.file_bytes:,} of its header; remove it")
    return Header(layout, nonce)


def map_file(fd: int, path: Path, layout: Layout) -> mmap.mmap:
    """The whole file. Raises MemoryError where this process may not map as much."""
    try:
        return mmap.mmap(fd, layout.file_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as failure:
        if failure.errno != errno.ENOMEM:
            raise
        raise MemoryError(
            f"{path}: this process may not map {layout.file_bytes:,} bytes (ulimit -v); "
            "they are addresses, not memory: raise that limit, or make the pool with fewer slots"
        ) from failure
    except OverflowError as failure:
        raise MemoryError(f"{path}: {layout.file_bytes:,} bytes are more than there are addresses") from failure
