"""The inputs of the fuzzer that `make fuzz-shared` runs: real files, changed at random, and the calls that read them.

Here without coverage: so what the fuzzer does with an input goes on to work.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from sweeps import LONG

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")
from shared_children import die_with_the_parent

fuzz = pytest.importorskip("verification.fuzz.target", reason="the tests run without the rest of the tree")

pytestmark = pytest.mark.once
#: Seconds after which an input counts as a hang.
HANGS = 60


def changed(chance: random.Random, data: bytes) -> bytes:
    """Other calls, and other numbers of 8 bytes."""
    new = bytearray(data)
    new[0] &= chance.choice([0, 1, 3, 7])
    begin = fuzz.HEAD.size + 3 * (new[1] % (fuzz.CALLS_MAX + 1))
    for i in range(fuzz.HEAD.size, begin):
        if chance.random() < 0.3:
            new[i] = chance.randrange(256)
    numbers = (len(new) - begin) // 8
    for _ in range(chance.choice([0, 1, 1, 2, 4, 16])):
        where, other = (begin + 8 * chance.randrange(min(numbers, chance.choice([37, numbers]))) for _ in range(2))
        value = int.from_bytes(new[where : where + 8], "little") ^ 1 << chance.randrange(64)
        new[where : where + 8] = chance.choice(
            [value.to_bytes(8, "little"), bytes(8), bytes(new[other : other + 8]), b"\xff" * 8]
        )
    return bytes(new)


def tried(folder: Path, inputs: list[bytes]) -> tuple[int, int, int]:
    """In a process of its own: its status, how many could be attached to, and how many calls were made of them."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            die_with_the_parent()
            target = fuzz.Target(folder)
            for data in inputs:
                signal.alarm(HANGS)
                target.run(data)
            os.write(tell, b"%d %d" % (target.attached, target.calls))
            status = 0
        except BaseException:  # noqa: BLE001 - the parent hears of it by the status
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(tell)
    _, status = os.waitpid(pid, 0)
    attached, calls = (os.read(told, 100) or b"0 0").split()
    os.close(told)
    return os.waitstatus_to_exitcode(status), int(attached), int(calls)


def test_real_files_changed_at_random_are_answers(pool_path: Path) -> None:
    """Files of pools in the middle of everything, and any calls."""
    from verification.fuzz.seeds import inputs

    folder = pool_path.parent
    (folder / "seeds").mkdir(mode=0o700)
    real = list(inputs(folder / "seeds"))
    assert len(real) >= 10
    chance = random.Random(1)
    made = [*real, *(changed(chance, data) for _ in range(10 if LONG else 3) for data in real)]
    status, attached, calls = tried(folder, made)
    assert status == 0
    assert len(made) // 4 < attached < len(made)
    assert calls > attached
