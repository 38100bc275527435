"""Files that were cut or had bits flipped are opened and used, while two processes work with the pool that they copy.

Each copy is made of what the file says at that very moment, in the middle of the two's transactions.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
from pathlib import Path

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import die_with_the_parent
from test_hostile_bytes import use
from test_storm import run_worker

from mempool.shared.engine import SharedEngine
from mempool.shared.layout import HEADER, Layout
from mempool.testing.waiting import wait_until

pytestmark = pytest.mark.once
WORKERS = 2
#: Seconds after which a process that has not come back from its calls is ended by its alarm.
HANGS = 60
#: So many files for each part of the test; `make stress` has ten of the large.
FEW, MANY = 150, 10_000


def cut(chance: random.Random, layout: Layout) -> int:
    """At which byte."""
    return chance.choice(
        [
            chance.randrange(HEADER.size + 4),
            chance.randrange(layout.control_bytes),
            chance.randrange(layout.data, layout.file_bytes),
            layout.file_bytes - 1,
            chance.choice([0, 4096, layout.words, layout.control_bytes, layout.data]),
        ]
    )


def flip(chance: random.Random, control: bytearray) -> None:
    """Some bits, wherever they are: one in many files of the header, which refuses then."""
    for _ in range(chance.choice([1, 1, 2, 4, 16, 64])):
        where = chance.randrange(HEADER.size + 4) if chance.random() < 0.02 else chance.randrange(4096, len(control))
        control[where] ^= 1 << chance.randrange(8)


def read_copies(path: Path, number: int, seed: int, told: mmap.mmap) -> None:
    """The third process. It says which file it is at, and how many of them were cut."""
    status = 70
    try:
        die_with_the_parent()
        chance = random.Random(seed)
        pool = SharedEngine.observe(path)
        layout, copy = pool.layout, path.with_name("copy")
        for turn in range(number):
            signal.alarm(HANGS)
            control = bytearray(memoryview(pool._tx.mapping)[: layout.control_bytes])
            length = layout.file_bytes
            if is_cut := chance.random() < 0.5:
                length = cut(chance, layout)
            else:
                flip(chance, control)
            copy.write_bytes(control[:length])
            os.truncate(copy, length)
            use(copy)
            copy.unlink()
            struct.pack_into("QQ", told, 0, turn + 1, struct.unpack_from("Q", told, 8)[0] + is_cut)
        status = 0
    except BaseException:  # noqa: BLE001 - the parent hears of it by the status
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def try_files(path: Path, number: int, seed: int) -> None:
    engine = SharedEngine.create(path, size=4096, slots=48, reserve=8, keep=16, limit=40, places=8, clients=8)
    counts, told = mmap.mmap(-1, 4096), mmap.mmap(-1, 4096)
    workers = [os.fork() or run_worker(path, i, seed + i, counts) or 0 for i in range(WORKERS)]
    reader = 0
    try:
        wait_until(lambda: min(struct.unpack_from("QQ", counts, 0)) > 0)  # both are at work
        before = struct.unpack_from("QQ", counts, 0)
        reader = os.fork() or read_copies(path, number, seed, told) or 0
        status = os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1])
        reader = 0
    finally:
        if reader:  # the test's time is over: nobody reads on in a folder that is gone
            os.kill(reader, signal.SIGKILL)
            os.waitpid(reader, 0)
        ends = []
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
            ends.append(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
    done, are_cut = struct.unpack_from("QQ", told, 0)
    assert status == 0, f"file {done} of seed {seed}; it is {path.with_name('copy')}"
    assert done == number
    assert 0 < are_cut < number
    assert ends == [-signal.SIGKILL] * WORKERS, f"seed {seed}: one has ended by itself"
    assert sum(struct.unpack_from("QQ", counts, 0)) > sum(before)
    engine.reap_dead()  # the second to be killed may have done so for the first
    assert len(engine.clients()) == 1
    assert engine.verify() == []


def test_broken_files_are_used_beside_two_processes_that_work(pool_path: Path) -> None:
    """Errors and answers; and those two notice nothing."""
    try_files(pool_path, FEW, seed=5)


@pytest.mark.stress
@pytest.mark.timeout(3600)  # some 5 ms a file, alone on two processors; 25 on a machine that does ten other things
@pytest.mark.parametrize("part", range(10))
def test_a_hundred_thousand_broken_files_beside_two_processes_that_work(pool_path: Path, part: int) -> None:
    """In ten parts."""
    try_files(pool_path, MANY, seed=1_000 + part)
