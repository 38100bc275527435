"""The interpreter ends while a daemon thread is in the midst of `recv_into`, into memory of a shared pool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool.shared.pool import SharedPool

PROGRAM = """
import atexit, os, sys, threading

def pause():  # the first to be registered is the last to be called: all that is done at the end is done by then
    print("ending", flush=True)
    sys.stdin.readline()

atexit.register(pause)
from mempool.shared.pool import SharedPool

pool = SharedPool.attach(sys.argv[1], folder=sys.argv[2])
reader, writer = os.pipe()
buf = pool.alloc()

def receive():
    with buf[:] as view:
        print("held", flush=True)
        os.readv(reader, [view])

if sys.argv[3] == "thread":
    threading.Thread(target=receive, daemon=True).start()
else:
    print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(("who", "out"), [("thread", 1), ("nobody", 0)])
def test_what_a_daemon_thread_has_is_its_own_to_the_end(pool_path: Path, who: str, out: int) -> None:
    """It was returned as the interpreter began to end, and the kernel wrote what came into the next owner's memory."""
    pool = SharedPool(pool_path.name, size=4096, reserve=1, limit=1, folder=pool_path.parent)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, pool_path.name, str(pool_path.parent), who],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ending\n"
        assert pool.stats().out == out
        process.stdin.close()
        assert process.wait(60) == 0
    with pool.lease(timeout=30):
        pass
    assert pool.verify() == []
