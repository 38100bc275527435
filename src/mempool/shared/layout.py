"""How the file of a shared pool is laid out, and how it is opened. How it is made: file.py.

    0        header, 4 KiB: never changed, read once, compared with its checksum
    4096     the root, and beside it who asks the others to hold back
    4160     bells, 8 bytes for each place in the line
    then     1,280 bytes for each client, then 16 bytes for each word
    then     2 MiB aligned: the slots, whole pages each

All before the slots has memory from the beginning; a slot has it while it is not bare. The file has its full size from the
beginning, too, so no address ever changes. It becomes visible when it is complete, under its name, in one step.

Imports nothing but small modules: `mempool top` loads it without the pools.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import struct
import zlib
from typing import TYPE_CHECKING, Self

from mempool.namedtuples import NamedTuple
from mempool.shared.errors import PoolCorrupt
from mempool.sizes import compared, in_words

if TYPE_CHECKING:
    from mempool.shared._engine import Mapping

MAGIC = b"mempool\x01"
VERSION = 5
#: magic, version, slots, places, clients, bytes of a slot, bytes of the file, a number that no other file has, boot_id()
HEADER = struct.Struct("<8s6Q16s16s")
PAGE = 4096
ROOT = PAGE
BELLS = ROOT + 64
BELL_BYTES = 8
CLIENT_BYTES = 1280
WORD = struct.Struct("<QQ")
ALIGNMENT = 2 << 20
#: words.py has the same, and needs the compiled core or its stand-in; tests/shared/test_words.py compares them.
SLOTS_MAX, PLACES_MAX, CLIENTS_MAX, FIRST_SLOT = (1 << 21) - 1, (1 << 15) - 1, (1 << 11) - 1, 4
#: Where a client counts what, after the origins of decisions.py; _engine.pyx has the same.
FROM_LINE, MADE, RESIZES, OUTCOMES, HISTOGRAM = 3, 4, 5, 6, 12


@functools.cache
def boot_id() -> bytes:
    """Since when this machine runs, as a number; zeros: it does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123 - as in check_folder
            return bytes.fromhex(file.read().strip().replace("-", ""))[:16].ljust(16, b"\0")
    except (OSError, ValueError):
        return bytes(16)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


class _Numbers(NamedTuple):
    slots: int
    places: int
    clients: int
    size: int


class Layout(_Numbers):
    """What a file consists of. Everything follows from its four numbers, so nothing else of a header is believed."""

    __slots__ = ()

    def __new__(cls, slots: int, places: int, clients: int, size: int) -> Self:
        """Raises ValueError for numbers that no file can have."""
        for name, number, most in (
            ("slots", slots, SLOTS_MAX),
            ("places", places, PLACES_MAX),
            ("clients", clients, CLIENTS_MAX),
        ):
            if not 1 <= number <= most:
                raise ValueError(f"a shared pool has 1 to {most:,} {name}, not {number:,}")
        if not 1 <= size <= 1 << 40:
            raise ValueError(f"an element has 1 byte to 1 TiB, not {compared(size, 1 << 40)[0]}")
        return super().__new__(cls, slots, places, clients, size)

    @property
    def stride(self) -> int:
        """From one slot to the next."""
        return _up(self.size, PAGE)

    @property
    def client_records(self) -> int:
        """Where they begin."""
        return _up(BELLS + BELL_BYTES * self.places, PAGE)

    @property
    def words(self) -> int:
        """Where they begin."""
        return self.client_records + CLIENT_BYTES * self.clients

    @property
    def word_count(self) -> int:
        """Of all kinds."""
        return FIRST_SLOT + self.slots + 2 * self.places + self.clients

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

    def header(self, nonce: bytes, boot: bytes) -> bytes:
        """With its checksum."""
        packed = HEADER.pack(MAGIC, VERSION, self.slots, self.places, self.clients, self.size, self.file_bytes, nonce, boot)
        return packed + struct.pack("<I", zlib.crc32(packed))


class Header(NamedTuple):
    """What a file says of itself, as far as it was found to be possible."""

    layout: Layout
    nonce: bytes
    boot: bytes
    """`boot_id()` when it was made."""

    def is_of_an_earlier_boot(self) -> bool:
        """Whether the machine was started anew since. False where nobody can know."""
        return self.boot != boot_id() and any(self.boot) and any(boot_id())


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raises PermissionError unless only this user can put files there: a shared pool believes its file's owner."""
    found = os.stat(folder, follow_symlinks=False)  # noqa: PTH116 - pathlib is none of the small modules
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(
            f"{folder}: shared pools live in a folder that belongs to this user and that nobody else can write to; "
            f"make one with mode 0700 and name it, or: chmod 700 {folder}"
        )


def open_file(path: str | os.PathLike[str]) -> tuple[int, Header]:
    """Open an existing file and read its header. Raises FileNotFoundError, PermissionError, PoolCorrupt."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return fd, _read_header(fd, path)
    except BaseException:
        os.close(fd)
        raise


def _read_header(fd: int, path: str | os.PathLike[str]) -> Header:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{path}: not a regular file of this user")
    packed = os.pread(fd, HEADER.size + 4, 0)
    told = packed[: HEADER.size]
    if len(packed) < HEADER.size + 4 or zlib.crc32(told) != struct.unpack("<I", packed[HEADER.size :])[0]:
        raise PoolCorrupt(f"{path}: not a shared pool, or its header was written to; remove it")
    magic, version, slots, places, clients, size, file_bytes, nonce, boot = HEADER.unpack(told)
    if magic != MAGIC or version != VERSION:
        raise PoolCorrupt(f"{path}: made by another version (layout {version}, not {VERSION}); end its users and remove it")
    try:
        layout = Layout(slots, places, clients, size)
    except ValueError as wrong:
        raise PoolCorrupt(f"{path}: {wrong}; remove it") from None
    if not file_bytes == layout.file_bytes == found.st_size:
        has, wanted = compared(found.st_size, layout.file_bytes)
        raise PoolCorrupt(f"{path}: {has}, not the {wanted} of its header; remove it")
    return Header(layout, nonce, boot)


def map_file(fd: int, path: str | os.PathLike[str], layout: Layout) -> Mapping:
    """The whole file. Raises MemoryError where this process may not map as much."""
    from mempool.shared._engine import Mapping

    try:
        return Mapping(fd, layout.file_bytes)
    except OSError as failure:
        if failure.errno != errno.ENOMEM:
            raise
        raise MemoryError(
            f"{path}: this process may not map {in_words(layout.file_bytes)} (ulimit -v); "
            "they are addresses, not memory: raise that limit, or make the pool with fewer slots (slots=, or a lower limit=)"
        ) from failure
    except OverflowError as failure:
        raise MemoryError(f"{path}: {in_words(layout.file_bytes)} are more than there are addresses") from failure
