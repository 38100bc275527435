"""A process that gevent or eventlet has patched uses a shared pool beside others: a greenlet that waits stops no other."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import Parent, child

from mempool.shared.pool import SharedPool
from mempool.testing import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

#: A greenlet takes what there is, while another one goes on; the main one holds it until it is told to end.
PROGRAM = """
import sys, warnings
warnings.simplefilter("ignore")
library, order, name, folder = sys.argv[1:]
if order == "mempool first":
    from mempool.shared.pool import SharedPool
    pool = SharedPool.attach(name, folder=folder)
if library == "gevent":
    from gevent import monkey, sleep, spawn
    monkey.patch_all()
else:
    import eventlet
    from eventlet import sleep, spawn
    eventlet.monkey_patch()
if order == "patched first":
    from mempool.shared.pool import SharedPool
    pool = SharedPool.attach(name, folder=folder)
got = []
spawn(lambda: got.append(pool.alloc(timeout=60)))
turns = 0
while not got:
    sleep(0.001)  # sleeps: so that the others have their turns
    turns += 1
    if turns == 100:
        print("a hundred turns", flush=True)
print("served", flush=True)
import os
os.read(0, 1)
"""


@pytest.fixture(params=["gevent", "eventlet"])
def library(request: pytest.FixtureRequest) -> str:
    """Skipped here, before a test has an element, which the exception would keep."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed; it has no release for each Python")
    return str(request.param)


@contextmanager
def green(library: str, order: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, library, order, path.name, str(path.parent)]
    environment = os.environ | {"EVENTLET_NO_GREENDNS": "yes", "PYTHON_GIL": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        end = threading.Timer(60, process.kill)  # one that hangs is heard no more
        end.start()
        try:
            yield process
        finally:
            end.cancel()
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def make(path: Path, **options: Any) -> SharedPool:
    return SharedPool(path.name, size=4096, reserve=1, limit=1, folder=path.parent, **options)


@pytest.mark.sample(2)
@pytest.mark.parametrize("order", ["mempool first", "patched first"])
def test_who_looks_around_for_greenlets_stops_none(pool_path: Path, library: str, order: str) -> None:
    """It was a greenlet, and slept at the bell without giving way: the whole process stood still, for ever."""
    pool = make(pool_path)
    held = pool.alloc()
    with green(library, order, pool_path) as process:
        assert line(process) == "a hundred turns"
        pool.free(held)
        assert line(process) == "served"
        served: list[Any] = []
        waiter = threading.Thread(target=lambda: served.append(pool.alloc(timeout=60)))
        waiter.start()
        wait_until(lambda: pool.waiting == 1)
        process.kill()
        waiter.join(60)
        pool.free(served[0])
    assert (pool.out, pool.waiting, pool.verify()) == (0, 0, [])


def test_a_greenlet_has_what_a_killed_process_held(pool_path: Path, library: str) -> None:
    pool = make(pool_path)

    def hold(parent: Parent) -> None:
        kept = pool.alloc()
        parent.tell(kept.block.region.slot)
        parent.wait()

    with child(hold) as holder:
        holder.hear()
        with green(library, "patched first", pool_path) as process:
            assert line(process) == "a hundred turns"
            holder.end(signal.SIGKILL)
            assert line(process) == "served"
