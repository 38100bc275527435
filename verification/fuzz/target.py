"""What is done with one input: its bytes become the file of a pool, and it says which calls read that.

An input is a head of four bytes, a program, and what the file says where it differs from an empty pool:

    1 byte   flags: whether the file's header is the input's, with which checksum, and whether the file is cut
    1 byte   how many calls; each is three bytes: which, and two that it makes of what it likes
    2 bytes  where the file is cut, in pages of 256 bytes
    then     the calls, and the bytes of the file: root, words, clients with their intents, bells, header

Errors of the pool are answers. What is raised otherwise, a crash and a call that does not end are findings.
"""

from __future__ import annotations

import mmap
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

from mempool.errors import PoolError
from mempool.shared import repair, words
from mempool.shared._engine import Ticket as Owning
from mempool.shared.engine import Handle, SharedEngine, Ticket
from mempool.shared.file import make
from mempool.shared.glance import glance_by
from mempool.shared.layout import BELL_BYTES, BELLS, CLIENT_BYTES, HEADER, ROOT, WORD, Layout
from mempool.shared.passing import Token
from mempool.shared.pool import SharedPool

LAYOUT = Layout(slots=4, places=3, clients=3, size=100)
#: What an input says of the file, in this order: where, and how many bytes.
PARTS = (
    (ROOT, 24),
    (LAYOUT.words, WORD.size * LAYOUT.word_count),
    (LAYOUT.client_records, CLIENT_BYTES * LAYOUT.clients),
    (BELLS, BELL_BYTES * LAYOUT.places),
    (0, HEADER.size + 4),
)
HEAD = struct.Struct("<BBH")
OWN_HEADER, GOOD_CHECKSUM, CUT = 1, 2, 4
CALLS_MAX = 32
INPUT_MAX = HEAD.size + 3 * CALLS_MAX + sum(size for _, size in PARTS)
ANSWERS = (PoolError, ValueError, TimeoutError, OSError, MemoryError, BufferError)


class Users:
    """Two processes' shares in the pool, and what they have."""

    def __init__(self, path: Path, mapping: mmap.mmap) -> None:
        self.path, self.mapping = path, mapping
        self.engines: list[SharedEngine] = [SharedEngine.attach(path)]
        self.held: list[tuple[SharedEngine, Handle]] = []
        self.waits: list[tuple[SharedEngine, Ticket]] = []
        self.tickets: list[Owning] = []
        self.active = 0

    @property
    def engine(self) -> SharedEngine:
        return self.engines[self.active % len(self.engines)]

    def end(self) -> None:
        self.waits.clear()
        self.tickets.clear()
        for engine in self.engines:
            engine.detach()

    # -- calls. Each has two numbers from 0 to 255

    def another(self, _a: int, _b: int) -> None:
        if len(self.engines) < 2:
            self.engines.append(SharedEngine.attach(self.path, quarantines=bool(_a & 1)))
        self.active += 1

    def take(self, _a: int, _b: int) -> None:
        if (handle := self.engine.take()) is not None:
            self.held.append((self.engine, handle))

    def give(self, a: int, _b: int) -> None:
        if self.held:
            engine, handle = self.held.pop(a % len(self.held))
            engine.give([handle])

    def join(self, a: int, _b: int) -> None:
        ticket = self.engine.ticket(1 + a % self.engine.layout.slots)
        self.waits.append((self.engine, ticket))
        self.engine.enqueue(ticket)

    def look_at_waits(self, _a: int, _b: int) -> None:
        for engine, ticket in self.waits:
            engine.poll(ticket)
            engine.park(ticket, 0)

    def cancel(self, a: int, _b: int) -> None:
        if self.waits:
            engine, ticket = self.waits.pop(a % len(self.waits))
            engine.cancel(ticket)

    def own(self, a: int, b: int) -> None:
        ticket = Owning(self.engine._tx, 1 + a % 3)
        self.tickets.append(ticket)
        if not ticket.take(b % 3):
            ticket.join()

    def look_at_tickets(self, a: int, _b: int) -> None:
        for ticket in self.tickets:
            ticket.look()
            ticket.is_first()
            if ticket.place >= 0 and a & 1:
                ticket.stand_at(a)

    def drop_a_ticket(self, a: int, b: int) -> None:
        if self.tickets:
            ticket = self.tickets.pop(a % len(self.tickets))
            if b & 1:
                ticket.give_back()

    def offer(self, a: int, b: int) -> None:
        if not self.held:
            return
        engine, handle = self.held.pop(b % len(self.held))
        receiver = words.ANYBODY if a & 1 else a % engine.layout.clients
        epoch = engine._tx.look_at_client(receiver)[1] if receiver != words.ANYBODY else 0
        Owning(engine._tx, 0).offer(handle, receiver, epoch)

    def adopt(self, a: int, b: int) -> None:
        slot = a % self.engine.layout.slots
        seen = self.engine._tx.look_at_offer(slot)
        number = seen[0] if seen is not None else b
        ticket = Owning(self.engine._tx, 1)
        if ticket.end_offer(slot, number, bool(b & 1)):
            self.tickets.append(ticket)

    def adopt_quarantined(self, a: int, _b: int) -> None:
        slot = a % self.engine.layout.slots
        number = self.engine._tx.look_at_quarantined(slot)
        ticket = Owning(self.engine._tx, 1)
        if number is not None and ticket.end_offer(slot, number, False):
            self.tickets.append(ticket)

    def reap(self, a: int, _b: int) -> None:
        self.engine.reap_dead()
        number = a % self.engine.layout.clients
        state, epoch, *_ = self.engine._tx.look_at_client(number)
        if state == words.DEAD:
            self.engine._tx.reap(number, epoch)

    def look(self, _a: int, _b: int) -> None:
        engine = self.engine
        for ask in (engine.snapshot, engine.queue, engine.clients, engine._tx.totals, engine._tx.counts):
            ask()
        glance_by(engine._tx)

    def audit(self, _a: int, _b: int) -> None:
        for ask in (self.engine.verify, self.engine.held, self.engine.offered):
            ask()

    def resize(self, a: int, b: int) -> None:
        slots = self.engine.layout.slots
        self.engine.resize(a % slots, min(slots, a % slots + b % slots), slots)

    def change(self, a: int, b: int) -> None:
        self.engine.change(a % 4 if a & 16 else None, b % 4 if b & 16 else None, a % 5 if a & 32 else None)

    def fill(self, a: int, _b: int) -> None:
        self.engine.refill()
        self.engine._tx.trim(a)
        self.engine._tx.grow_by_one(a % 4)
        self.engine._tx.pump()

    def close(self, _a: int, _b: int) -> None:
        self.engine.close()

    def leave_and_come_back(self, _a: int, _b: int) -> None:
        self.engines[self.active % len(self.engines)].detach()
        self.engines[self.active % len(self.engines)] = SharedEngine.attach(self.path)

    def examine(self, a: int, _b: int) -> None:
        if a % 16 == 0:  # it looks at every process of the machine
            repair.examine(self.path)

    def write(self, a: int, b: int) -> None:
        """Somebody writes to the file meanwhile: a word gets the value of another one, or has a bit flipped."""
        sites = [begin + 8 * i for begin, size in PARTS[:4] for i in range(size // 8)]
        where = sites[(a * 37 + b) % len(sites)]
        (value,) = struct.unpack_from("<Q", self.mapping, sites[(b * 91 + a) % len(sites)])
        struct.pack_into("<Q", self.mapping, where, value ^ 1 << (b & 63) if a & 1 else value)

    def by_the_face(self, a: int, b: int) -> None:
        """SharedPool, as a user has it: tokens, whatever they say, and what is told of a pool."""
        pool = SharedPool.attach(self.path.name, folder=self.path.parent)
        try:
            nonce = self.engine.nonce
            number = struct.unpack_from("<Q", self.mapping, LAYOUT.words + WORD.size * (b % LAYOUT.word_count) + 8)[0]
            try:
                pool.adopt(Token(str(self.path), nonce, a % 7, number, None if b & 1 else os.getpid()))
            except PoolError:
                pass
            pool.pending(), pool.addressed(), pool.quarantined(), pool.verify(), pool.stats(), pool.why_empty()
            if (buffer := pool.try_alloc()) is not None:
                pool.adopt(pool.offer(buffer))
            pool.reclaim()
        finally:
            pool.close()

    def read_a_token(self, a: int, b: int) -> None:
        Token.from_bytes(bytes(self.mapping[ROOT + a : ROOT + a + b]))


CALLS: tuple[Callable[[Users, int, int], None], ...] = (
    Users.another, Users.take, Users.give, Users.join, Users.look_at_waits, Users.cancel, Users.own, Users.look_at_tickets,
    Users.drop_a_ticket, Users.offer, Users.adopt, Users.adopt_quarantined, Users.reap, Users.look, Users.audit,
    Users.resize, Users.change, Users.fill, Users.close, Users.leave_and_come_back, Users.examine, Users.write,
    Users.by_the_face, Users.read_a_token,
)  # fmt: skip


class Target:
    """A file that becomes what each input says."""

    def __init__(self, folder: Path) -> None:
        warnings.simplefilter("ignore", ResourceWarning)  # buffers are dropped: their pools are broken
        self.path = folder / "pool"
        make(self.path, LAYOUT, 1, 2, LAYOUT.slots)
        self._file = os.open(self.path, os.O_RDWR)
        self._mapping = mmap.mmap(self._file, LAYOUT.file_bytes)
        self._empty = bytes(self._mapping[: LAYOUT.control_bytes])
        #: How many inputs could be attached to, and how many calls were made of them.
        self.attached = self.calls = 0

    def run(self, data: bytes) -> None:
        """Raises what no call may raise."""
        if len(data) < HEAD.size:
            return
        flags, count, cut = HEAD.unpack_from(data)
        count %= CALLS_MAX + 1
        program = data[HEAD.size : HEAD.size + 3 * count]
        self._write(data[HEAD.size + 3 * count :], flags)
        if flags & CUT:
            os.truncate(self._file, 256 * cut)
        try:
            users = Users(self.path, self._mapping)
        except ANSWERS:
            return
        finally:
            if flags & CUT:
                os.truncate(self._file, LAYOUT.file_bytes)
        self.attached += 1
        try:
            for i in range(0, len(program) - 2, 3):
                self.calls += 1
                try:
                    CALLS[program[i] % len(CALLS)](users, program[i + 1], program[i + 2])
                except ANSWERS:
                    pass
        finally:
            users.end()

    def _write(self, said: bytes, flags: int) -> None:
        self._mapping[: LAYOUT.control_bytes] = self._empty
        for begin, size in PARTS:
            part, said = said[:size], said[size:]
            if begin == 0:
                if not flags & OWN_HEADER:
                    break
                part = part.ljust(size, b"\0") if part else self._empty[:size]
                if flags & GOOD_CHECKSUM:
                    part = part[: HEADER.size] + struct.pack("<I", zlib.crc32(part[: HEADER.size]))
            self._mapping[begin : begin + len(part)] = part


def input_of(control: bytes, program: bytes, flags: int = 0, cut: int = 0) -> bytes:
    """The input that makes such a file, of which these are the first bytes, and makes these calls."""
    said = b"".join(control[begin : begin + size] for begin, size in PARTS)
    return HEAD.pack(flags, len(program) // 3, cut) + program + said
