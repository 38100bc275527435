"""Whatever bytes are found in the file: an error or an answer, soon; never a crash, a hang or a list without an end."""

from __future__ import annotations

import os
import random
import signal
import struct
import zlib
from pathlib import Path

import pytest
from shared_children import die_with_the_parent
from shared_scenes import Scene
from sweeps import LONG

from mempool.errors import PoolError
from mempool.shared import operations, words
from mempool.shared.audit import Words, audit
from mempool.shared.errors import PoolCorrupt
from mempool.shared.layout import HEADER, ROOT, VERSION

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool.shared._engine import Ticket as Owning
from mempool.shared.engine import SharedEngine

pytestmark = pytest.mark.once

#: What a field holds that somebody has chosen.
CHOSEN = [0, 1, 2, 3, 0xFF, 0xFFFF, 0xFFFFFF, 1 << 31, 1 << 62, (1 << 64) - 1]


def make(path: Path) -> SharedEngine:
    engine = SharedEngine.create(path, size=100, slots=6, reserve=2, keep=4, limit=5, places=3, clients=4)
    other = SharedEngine.attach(path)
    handles = [engine.take(), other.take(), engine.take(), engine.take(), engine.take()]
    assert None not in handles
    other.enqueue(other.ticket(2))
    engine.give([handles[0]] if handles[0] else [])
    for handle, receiver in ((handles[2], words.ANYBODY), (handles[3], 1)):
        assert handle
        assert Owning(engine._tx, 0).offer(handle, receiver, 1)
    # What is written to is a state in the middle of everything; the processes end here, so that nobody cleans up.
    engine._finalizer.detach()
    other._finalizer.detach()
    return engine


def use(path: Path) -> None:
    """Everything that a process does; errors of the pool are answers."""
    try:
        engine = SharedEngine.attach(path)
    except (PoolError, OSError, MemoryError):
        return
    for _ in range(2):
        for call in (
            engine.snapshot, engine.queue, engine.clients, engine.verify, engine.reap_dead, engine.refill,
            lambda: engine.give([h] if (h := engine.take()) else []),
            lambda: engine.enqueue(engine.ticket(2)),
            lambda: pass_on(engine), engine.offered,
            lambda: engine.resize(1, 2, 5),
            engine.close,
        ):  # fmt: skip
            try:
                call()
            except (PoolError, ValueError, TimeoutError):
                pass


def pass_on(engine: SharedEngine) -> None:
    """Offer one, adopt whatever there is."""
    handle = engine.take()
    if handle is not None:
        Owning(engine._tx, 0).offer(handle, words.ANYBODY, 0)
    for slot in range(engine.layout.slots):
        seen = engine._tx.look_at_offer(slot)
        if seen is not None:
            Owning(engine._tx, 1).end_offer(slot, seen[0], seen[2])


def survives(path: Path) -> bool:
    """Whether a process that uses this file ends by itself, within its time."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            die_with_the_parent()
            signal.alarm(20)
            use(path)
            status = 0
        except BaseException:  # noqa: BLE001 - the parent hears of it by the status
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def spoil(path: Path, chance: random.Random, control: int) -> list[tuple[int, int]]:
    """Write what nobody should have written."""
    written = []
    with path.open("r+b") as file:
        for _ in range(chance.choice([1, 1, 1, 2, 8, 64])):
            where = chance.choice([ROOT, ROOT + 8, chance.randrange(ROOT, control, 8)])
            value = chance.choice([*CHOSEN, chance.getrandbits(64), chance.getrandbits(24), chance.getrandbits(4)])
            if chance.random() < 0.5:  # one bit
                file.seek(where)
                value = struct.unpack("<Q", file.read(8))[0] ^ 1 << chance.randrange(64)
            file.seek(where)
            file.write(struct.pack("<Q", value))
            written.append((where, value))
    return written


def attack(path: Path, rounds: int, seed: int) -> None:
    engine = make(path)
    layout = engine.layout
    whole = path.read_bytes()[: layout.control_bytes]
    chance = random.Random(seed)
    for turn in range(rounds):
        written = spoil(path, chance, layout.control_bytes)
        assert survives(path), f"turn {turn} of seed {seed}: {written}"
        with path.open("r+b") as file:
            file.write(whole)


def test_bytes_that_somebody_wrote_neither_crash_nor_hang(pool_path: Path) -> None:
    """Chosen and random values, bits flipped, in the root, the intents and the words."""
    attack(pool_path, 120 if LONG else 30, seed=1)


@pytest.mark.stress
def test_many_bytes_that_somebody_wrote_neither_crash_nor_hang(pool_path: Path) -> None:
    """The same for long."""
    attack(pool_path, 10_000, seed=int.from_bytes(os.urandom(4), "little"))


@pytest.mark.parametrize("field", range(9))
def test_a_header_that_was_written_to_is_refused(pool_path: Path, field: int) -> None:
    """Its checksum tells."""
    make(pool_path)
    fields = list(HEADER.unpack(pool_path.read_bytes()[: HEADER.size]))
    fields[field] = bytes(reversed(fields[field])) if isinstance(fields[field], bytes) else fields[field] + 1
    with pool_path.open("r+b") as file:
        file.write(HEADER.pack(*fields))
    with pytest.raises(PoolCorrupt):
        SharedEngine.attach(pool_path)


@pytest.mark.parametrize(
    ("field", "value"), [(1, VERSION + 1), (2, 0), (2, 600), (3, 1 << 15), (4, 1 << 11), (5, 1 << 41), (6, 1)]
)
def test_a_header_with_a_good_checksum_that_cannot_be_is_refused(pool_path: Path, field: int, value: int) -> None:
    """Its numbers are compared with what is possible and with the size of the file."""
    make(pool_path)
    fields = list(HEADER.unpack(pool_path.read_bytes()[: HEADER.size]))
    fields[field] = value
    packed = HEADER.pack(*fields)
    with pool_path.open("r+b") as file:
        file.write(packed + struct.pack("<I", zlib.crc32(packed)))
    with pytest.raises(PoolCorrupt):
        SharedEngine.attach(pool_path)


@pytest.mark.parametrize("length", [0, 10, HEADER.size, 4096, 100_000])
def test_a_file_that_was_cut_is_refused(pool_path: Path, length: int) -> None:
    """Before anything of it is mapped."""
    make(pool_path)
    os.truncate(pool_path, length)
    with pytest.raises(PoolCorrupt):
        SharedEngine.attach(pool_path)


def test_an_audit_of_any_words_ends() -> None:
    """It follows each list for as long as there are elements."""
    chance = random.Random(1)
    objected = 0
    for _ in range(2_000):
        values = [
            chance.choice([*CHOSEN, chance.getrandbits(64), chance.getrandbits(8)])
            for _ in range(words.FIRST_SLOT + 6 + 2 * 3 + 4)
        ]
        objected += audit(Words(6, 3, 4, chance.choice(CHOSEN), values)) != []
    assert objected == 2_000


@pytest.mark.parametrize(("setup", "waiting"), [(0, 1), (2, 0), (2, 6)])
def test_a_line_and_a_number_of_those_in_it_that_contradict_each_other_are_noticed(setup: int, waiting: int) -> None:
    """Whoever joins would be before a head that is not there, or stand where nobody has a place; here in the simulation."""
    scene = Scene.make(setup)
    operations.run_look(scene.survivor)
    root, gate = scene.memory.root
    scene.memory.root = [root, gate & ~(0x7FFF << 48) | waiting << 48]
    with pytest.raises(PoolCorrupt):
        operations.run_join(scene.child, 1)
