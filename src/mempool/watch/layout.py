"""The layout of a page: a header of one process, then one slot of figures for each of its pools.

Shared by whoever writes a page and whoever reads one, so it imports nothing of the package that knows a pool: `mempool top`
loads it without them. The compiled writer, `mirror_state` in _core/state.pxd, and the uncompiled one, in _core/mirror.py,
write the words in the order of FIGURES; test_every_field_of_the_statistics_is_on_the_page compares both with the pool's
statistics.

A page is other people's bytes. `parse` believes nothing: each number has a range, each text loses what a terminal would
obey, and what does not fit becomes a row that says "unreadable".
"""

from __future__ import annotations

import struct
from typing import Final

from mempool.namedtuples import NamedTuple

MAGIC: Final = b"mempool\0"
#: Raised whenever a byte changes its meaning. A reader shows what is newer as "newer, layout N".
VERSION: Final = 1
HEADER_BYTES: Final = 1024
SLOT_BYTES: Final = 640
#: Of a page, and the most that is ever read of one.
PAGE_BYTES: Final = 64 * 1024
SLOTS: Final = (PAGE_BYTES - HEADER_BYTES) // SLOT_BYTES
#: Upper bounds, in seconds, of the buckets in which waits are counted; engine.WAIT_BUCKETS is the same.
BUCKETS: Final = (*(mantissa * 10**exponent / 1e5 for exponent in range(7) for mantissa in (1, 2, 5)), 100.0)
#: The words of a slot after the sequence number, which is odd while they change.
FIGURES: Final = (
    "number",  # of the pool in its process, from 1; 0: the slot is free
    "reserve",
    "keep",
    "limit",  # -1: none
    "closed",
    "spare",
    "made",
    "disposed",
    "disposing",
    "written_off",
    "claimed",
    "fills",
    "starved",
    "lingering",
    "waiting",
    "from_spare",
    "from_source",
    "from_reserve",
    "from_line",
    "resizes",
    "source_failures",
    "waits_0",  # by outcome, as in engine.py: waiting (none), served, closed, withdrawn, timed out
    "waits_1",
    "waits_2",
    "waits_3",
    "waits_4",
    *(f"bucket_{bucket}" for bucket in range(len(BUCKETS) + 1)),
    "wait_seconds_total",  # a double, as is the next
    "wait_seconds_max",
    "element_bytes",  # 0: unknown
)
WORDS: Final = struct.Struct(f"<q{FIGURES.index('wait_seconds_total')}q2dq")
#: After the words: the texts of a slot, and their lengths in bytes.
NAME_AT: Final = 448
NAME_BYTES: Final = 96
LEVEL_AT: Final = NAME_AT + NAME_BYTES
LEVEL_BYTES: Final = 24
SAID_AT: Final = LEVEL_AT + LEVEL_BYTES
SAID_BYTES: Final = SLOT_BYTES - SAID_AT
assert WORDS.size <= NAME_AT
#: magic, layout version, header bytes, slot bytes, slots in use (the highest), pid, start time in clock ticks, boot id,
#: version of mempool, argv0, pools that found no slot, whether there is a socket, since when (seconds of the epoch).
HEADER: Final = struct.Struct("<8sIIIIqq36s20s128sqqd")
#: Where, in a header, a number lies that changes.
SLOTS_USED_AT: Final = 20
WITHOUT_SLOT_AT: Final = struct.calcsize("<8sIIIIqq36s20s128s")
SOCKET_AT: Final = WITHOUT_SLOT_AT + 8
NUMBER_MAX: Final = 2**62
SECONDS_MAX: Final = 1e12


class UnreadableError(Exception):
    """What was read is no page, or none of this layout."""


class Header(NamedTuple):
    """Whose page it is."""

    pid: int
    """In the process's own namespace."""
    start: int
    """When it began, in clock ticks since the machine did."""
    boot: str
    """Which boot of the machine that was."""
    version: str
    """Of mempool."""
    argv0: str
    """The program."""
    without_slot: int
    """Pools that found no room on the page."""
    has_socket: bool
    """Whether the process takes commands."""
    since: float
    """When it was published, in seconds of the epoch."""


class Figures(NamedTuple):
    """The numbers of one pool, all of one moment; `spare` and what was served of it may be one call newer."""

    name: str
    number: int
    """Of the pool in its process, from 1."""
    reserve: int
    keep: int
    limit: int | None
    closed: bool
    spare: int
    out: int
    lingering: int
    made: int
    disposed: int
    disposing: int
    written_off: int
    claimed: int
    fills: int
    starved: bool
    waiting: int
    from_spare: int
    from_source: int
    from_reserve: int
    from_line: int
    resizes: int
    source_failures: int
    waits: tuple[int, ...]
    wait_histogram: tuple[int, ...]
    wait_seconds_total: float
    wait_seconds_max: float
    element_bytes: int
    level: str | None
    said: str | None
    """With what the source failed the last time."""
    stable: bool
    """False: its writer was in the middle of a step whenever it was read, or stopped there."""

    @property
    def owed(self) -> int:
        """The part of the reserve that what is out will refill."""
        return 0 if self.closed else min(max(0, self.reserve - self.spare), max(0, self.out))

    @property
    def filling(self) -> int:
        """The part of the reserve that a resize or a refill is making; as LocalEngine.snapshot says it."""
        if self.spare >= self.reserve:
            return 0
        delayed = self.starved and (self.claimed or self.disposing)
        lacking = max(0, self.reserve - self.spare)
        return lacking - self.owed if not self.closed and (self.fills or delayed) else 0

    @property
    def unfunded(self) -> int:
        """The part of the reserve that not even every return would fill."""
        if self.spare >= self.reserve:
            return 0
        return self.reserve - self.spare - self.owed - self.filling

    @property
    def served(self) -> int:
        """Elements handed out, ever."""
        return self.from_spare + self.from_source + self.from_reserve + self.from_line

    @property
    def limit_reached(self) -> bool:
        """Whether the source may not be asked for more."""
        return self.limit is not None and self.made - self.disposed + self.claimed >= self.limit


class Unreadable(NamedTuple):
    """A slot that cannot be believed."""

    why: str


def printable(text: bytes | str, most: int = 200) -> str:
    """A text of somebody else's, without what a terminal would obey, or what turns the direction of writing."""
    if isinstance(text, bytes):
        text = text.split(b"\0", 1)[0].decode("utf-8", "replace")
    text = text[:most]
    if text.isprintable():
        return text
    # Not printable: C0, DEL, C1, line separators, marks of direction, lone surrogates, letters of private use.
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def cut(text: str, most: int) -> bytes:
    """A text in so many bytes at most, and never half a letter."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore").encode()


def slot_at(slot: int) -> int:
    """Where this slot begins."""
    return HEADER_BYTES + slot * SLOT_BYTES


def used_bytes(header: bytes) -> int:
    """How many bytes of slots follow this header; of a header that cannot be believed: at most those of a page."""
    used = int.from_bytes(header[SLOTS_USED_AT : SLOTS_USED_AT + 4], "little")
    return min(used, SLOTS) * SLOT_BYTES


def parse_header(page: bytes) -> tuple[Header, int]:
    """Whose page this is, and how many slots of it are in use. Raises UnreadableError."""
    if len(page) < HEADER_BYTES or page[:8] != MAGIC:
        raise UnreadableError("no page of mempool")
    (_, version, header_bytes, slot_bytes, used, pid, start, boot, of, argv0, without, socket, since) = HEADER.unpack_from(
        page
    )
    if version != VERSION:
        raise UnreadableError(f"{'newer' if version > VERSION else 'older'}, layout {version}")
    if header_bytes != HEADER_BYTES or slot_bytes != SLOT_BYTES or used > SLOTS:
        raise UnreadableError("its header contradicts itself")
    if not (0 < pid < 2**31 and 0 <= start < NUMBER_MAX and 0 <= without < NUMBER_MAX and 0 <= since < SECONDS_MAX):
        raise UnreadableError("a number of its header is out of range")
    header = Header(
        pid, start, printable(boot), printable(of), printable(argv0) or "python", without, bool(socket), float(since)
    )
    return header, used


def sequence(page: bytes, slot: int) -> int:
    """The sequence number of this slot."""
    at = slot_at(slot)
    return int.from_bytes(page[at : at + 8], "little") if len(page) >= at + 8 else -1


def parse_slot(page: bytes, slot: int, *, stable: bool) -> Figures | Unreadable | None:
    """The figures of a slot; None: it is free."""
    at = slot_at(slot)
    if len(page) < at + SLOT_BYTES:
        return Unreadable("the page ends before it")
    words = WORDS.unpack_from(page, at)
    if words[1] == 0:
        return None
    *_, total, longest, element_bytes = words
    limit = words[4]
    if not 0 <= element_bytes < NUMBER_MAX or limit < -1:
        return Unreadable("a number is out of range")
    if not (0.0 <= total < SECONDS_MAX and 0.0 <= longest < SECONDS_MAX):  # false for nan, too
        return Unreadable("a time is out of range")
    if min(words[1:4]) < 0 or min(words[5:50]) < 0:
        return Unreadable("a number is negative")
    if max(words[1:50]) >= NUMBER_MAX:
        return Unreadable("a number is out of range")
    out = words[7] - words[8] - words[9] - words[6]
    if out < 0:
        if stable:
            return Unreadable("its numbers contradict each other")
        out = 0
    # In the order of the fields: by keyword it takes three times as long, and `top` does it for each pool in each frame.
    return Figures._make(
        (
            printable(page[at + NAME_AT : at + NAME_AT + NAME_BYTES]),
            words[1],
            words[2],
            words[3],
            None if limit < 0 else limit,
            bool(words[5]),
            words[6],
            out,
            words[14],
            *words[7:11],
            words[11],
            words[12],
            bool(words[13]),
            words[15],
            *words[16:22],
            words[22:27],
            words[27:50],
            total,
            longest,
            element_bytes,
            (printable(page[at + LEVEL_AT : at + LEVEL_AT + LEVEL_BYTES]) or None) if page[at + LEVEL_AT] else None,
            (printable(page[at + SAID_AT : at + SAID_AT + SAID_BYTES]) or None) if page[at + SAID_AT] else None,
            stable,
        )
    )
