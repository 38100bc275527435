"""Somebody writes nonsense into the file while two processes use it: errors and answers, and neither crashes nor hangs.

Only bytes are written here. Who makes the file shorter takes pages away from those who map it: a SIGBUS in any program.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import die_with_the_parent
from test_hostile_bytes import make, spoil, use

pytestmark = pytest.mark.once
#: Seconds after which a process that has not come back from its calls is ended by its alarm.
HANGS = 20


@contextmanager
def user(path: Path) -> Iterator[tuple[int, int]]:
    """A process that uses the file over and over, and says so each time with a byte; its pid, and where it says it."""
    said, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.close(said)
            die_with_the_parent()
            while True:
                signal.alarm(HANGS)
                use(path)
                os.write(say, b".")
        except BaseException:  # noqa: BLE001 - the parent hears of it by the status
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(say)
    try:
        yield pid, said
    finally:
        os.close(said)


def rounds(path: Path, number: int, seed: int) -> None:
    engine = make(path)
    control = engine.layout.control_bytes
    whole = path.read_bytes()[:control]
    chance = random.Random(seed)
    with user(path) as one, user(path) as two:
        try:
            for turn in range(number):
                for _ in range(chance.randrange(1, 12)):
                    written = spoil(path, chance, control)
                    os.sched_yield()
                for _, said in (one, two):
                    assert os.read(said, 1) == b".", f"turn {turn} of seed {seed}: one has ended; last written: {written}"
                with path.open("r+b") as file:
                    file.write(whole)
        finally:
            ends = []
            for pid, _ in (one, two):
                os.kill(pid, signal.SIGKILL)
                ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    assert ends == [-signal.SIGKILL] * 2, f"seed {seed}: one has ended by itself"


def test_two_processes_work_on_while_somebody_writes_to_their_file(pool_path: Path) -> None:
    """Chosen values and flipped bits, in the root, the intents and the words, under those who read them."""
    rounds(pool_path, 40, seed=3)


@pytest.mark.stress
def test_two_processes_work_on_while_somebody_writes_to_their_file_for_long(pool_path: Path) -> None:
    """The same for long."""
    rounds(pool_path, 3_000, seed=int.from_bytes(os.urandom(4), "little"))
