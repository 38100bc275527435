"""Processes that do everything at random are killed and stopped at random; nothing is lost and nothing has two owners."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
from pathlib import Path

import pytest
from shared_children import die_with_the_parent
from sweeps import LONG

from mempool.errors import LineFull

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool.shared import words
from mempool.shared._engine import Ticket as Owning
from mempool.shared.engine import Handle, SharedEngine, TicketState

pytestmark = pytest.mark.once

WORKERS = 4
#: `make stress` has thousands.
KILLS = 40 if LONG else 10
STAMP = struct.Struct("QQ")
#: Where the workers leave their tokens for each other, eight each: the number, the slot, the stamp in the memory, to whom.
TOKENS, TOKEN = 1024, struct.Struct("QQ16sQ")


class Worker:
    """A process that takes, writes its name into what it took, finds it there again, and returns it."""

    def __init__(self, path: Path, number: int, seed: int, counts: mmap.mmap) -> None:
        self.random = random.Random(seed)
        self.engine = SharedEngine.attach(path)
        self.counts, self.number = memoryview(counts).cast("Q"), number
        self.held: list[tuple[Handle, bytes]] = []
        self.done = 0

    def own(self, handle: Handle) -> None:
        stamp = STAMP.pack(os.getpid(), self.random.getrandbits(64))
        for begin in (0, handle.size - len(stamp)):
            handle.view[begin : begin + len(stamp)] = stamp
        self.held.append((handle, stamp))

    def disown(self) -> None:
        handle, stamp = self.held.pop(self.random.randrange(len(self.held)))
        found = [bytes(handle.view[begin : begin + len(stamp)]) for begin in (0, handle.size - len(stamp))]
        assert found == [stamp, stamp], f"{handle} has two owners: {found}"
        self.engine.give([handle])

    def wait_in_line(self) -> None:
        ticket = self.engine.ticket(self.random.randint(1, 4))
        try:
            self.engine.enqueue(ticket)
        except LineFull:
            return
        for _ in range(self.random.randrange(3)):
            self.engine.park(ticket, 0.0005)
        if ticket.state is TicketState.SERVED:
            for handle in self.engine.check_out(ticket):
                self.own(handle)
        else:
            self.engine.cancel(ticket)

    def pass_on(self) -> None:
        """Offer one, to anybody or to a worker; whoever finds its token adopts it, or loses it with its life."""
        handle, stamp = self.held.pop(self.random.randrange(len(self.held)))
        to = (words.ANYBODY, 0)
        if self.random.random() < 0.5:
            to = self.random.choice([(client.number, client.epoch) for client in self.engine.clients()])
        number = Owning(self.engine._tx, 0).offer(handle, *to)
        if number is None:  # that one has ended
            self.held.append((handle, stamp))
            return
        assert number
        sheet = self.counts, TOKENS + 8 * TOKEN.size * self.number
        TOKEN.pack_into(sheet[0], sheet[1] + self.random.randrange(8) * TOKEN.size, number, handle.slot, stamp, to[0])

    def adopt(self) -> None:
        """What anybody has offered. A token may be old, torn, or another's."""
        at = TOKENS + self.random.randrange(8 * WORKERS) * TOKEN.size
        number, slot, stamp, _ = TOKEN.unpack_from(self.counts, at)
        ticket = Owning(self.engine._tx, 1)
        if number and ticket.end_offer(slot, number, self.random.random() < 0.1):
            (handle,) = ticket.handles
            ticket.let_go()
            found = bytes(handle.view[: len(stamp)])
            assert found == bytes(handle.view[handle.size - len(stamp) :]), f"{handle} was written to while it was offered"
            self.held.append((handle, found))

    def adopt_addressed(self) -> None:
        """Also what was addressed to it by one that is dead."""
        for slot in range(self.engine.layout.slots):
            seen = self.engine._tx.look_at_offer(slot)
            if seen is not None and seen[1] == self.engine.number:
                ticket = Owning(self.engine._tx, 1)
                if ticket.end_offer(slot, seen[0], False):
                    (handle,) = ticket.handles
                    ticket.let_go()
                    self.held.append((handle, bytes(handle.view[: STAMP.size])))

    def resize(self) -> None:
        reserve, more, most = (self.random.randrange(12) for _ in range(3))
        self.engine.resize(reserve, reserve + more, reserve + more + most + 4)

    def turn(self) -> None:
        what = self.random.random()
        if what < 0.47:
            handle = self.engine.take() if len(self.held) < 12 else None
            if handle is not None:
                self.own(handle)
        elif what < 0.90:
            if self.held:
                self.disown()
        elif what < 0.92:
            if self.held:
                self.pass_on()
        elif what < 0.94 and len(self.held) < 12:
            self.adopt()
            if self.random.random() < 0.1:
                self.adopt_addressed()
        elif what < 0.99 and len(self.held) < 12:
            self.wait_in_line()
        elif what > 0.998:
            self.resize()
        self.done += 1
        self.counts[self.number] = self.done  # one store; `pack_into` writes zeros first, and then one may be killed


def run_worker(path: Path, number: int, seed: int, counts: mmap.mmap) -> None:
    status = 70
    try:
        die_with_the_parent()
        worker = Worker(path, number, seed, counts)
        while True:
            worker.turn()
    except BaseException:  # noqa: BLE001 - the parent hears of it by the status
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def storm(path: Path, kills: int, seed: int) -> tuple[int, int, int, int]:
    """(operations, kills, stops, finished in the place of others)."""
    chance = random.Random(seed)
    engine = SharedEngine.create(path, size=4096, slots=48, reserve=8, keep=16, limit=40, places=16, clients=16)
    counts = mmap.mmap(-1, 4096)
    workers: list[int] = [0] * WORKERS
    killed = stopped = operations = 0

    def end(number: int) -> None:
        nonlocal operations
        os.kill(workers[number], signal.SIGKILL)
        _, status = os.waitpid(workers[number], 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "a worker ended by itself"
        workers[number] = 0
        operations += struct.unpack_from("Q", counts, 8 * number)[0]
        struct.pack_into("Q", counts, 8 * number, 0)

    try:
        while killed < kills:
            for number in range(WORKERS):
                if workers[number] == 0:
                    child_seed = chance.getrandbits(32)
                    workers[number] = os.fork() or run_worker(path, number, child_seed, counts) or 0
            for _ in range(chance.randrange(60)):  # time passes, and the survivor is one of those who work
                handle = engine.take()
                if handle is not None:
                    engine.give([handle])
                os.sched_yield()
            number = chance.randrange(WORKERS)
            if chance.random() < 0.4:
                os.kill(workers[number], signal.SIGSTOP)
                for _ in range(chance.randrange(200)):
                    handle = engine.take()
                    if handle is not None:
                        engine.give([handle])
                os.kill(workers[number], signal.SIGCONT)
                stopped += 1
            else:
                end(number)
                engine.reap_dead()
                killed += 1
    finally:
        for number in range(WORKERS):
            if workers[number]:
                end(number)
    engine.reap_dead()
    assert engine.verify() == []
    for slot in range(engine.layout.slots):
        seen = engine._tx.look_at_offer(slot)
        if seen is not None:  # addressed to the survivor
            assert Owning(engine._tx, 1).end_offer(slot, seen[0], seen[2])
    engine.resize(8, 16, 40)
    now = engine.snapshot()
    assert (now.out, now.waiting, len(engine.clients())) == (0, 0, 1)
    return operations, killed, stopped, engine._tx.counts()[1]


def test_nothing_is_lost_in_a_storm(pool_path: Path) -> None:
    """Some kills."""
    operations, killed, _, _ = storm(pool_path, KILLS, seed=1)
    assert killed == KILLS
    assert operations > KILLS


@pytest.mark.stress
def test_nothing_is_lost_in_a_long_storm(pool_path: Path) -> None:
    """Its figures are printed."""
    print("operations, kills, stops, helped:", storm(pool_path, 3_000, seed=int.from_bytes(os.urandom(4), "little")))
