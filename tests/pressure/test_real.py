"""Memory pressure that is real: a process of its own, in a control group of its own, that needs more than the group has.

Needs the right to make control groups of version 2 (for `memory.pressure`), and to limit memory there or in version 1. A
trace that was recorded so is played everywhere.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mempool.testing import wait_until

pytestmark = pytest.mark.long_on_both

LIMIT = 96 << 20
MOUNT = Path("/sys/fs/cgroup")

#: What runs in the group: 48 MiB of warm spares, a hog in its turn, and a line for each thing that happens.
PROGRAM = """
import logging, mmap, os, sys, threading, time
from mempool import Buffers, Pool, psi
from mempool.pressure import follow

psi.LOOK_SECONDS = 3600.0  # nothing but the event brings a look
for group in sys.argv[2:]:
    with open(group + "/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
logging.disable(logging.WARNING)
pool = Pool(Buffers("1 MiB", level="resident"), 8, keep=48, name="frames")
pool.free_many(pool.alloc_many(48))
pressure = follow(pool, keep=(8, 48))
print("source", pressure.source, flush=True)
file = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(file).st_size
hogged = mmap.mmap(file, size, prot=mmap.PROT_READ)
sys.stdin.readline()
print("begins", time.monotonic(), flush=True)
until, seen, total = time.monotonic() + 30, 0, 0
while time.monotonic() < until and not seen:
    for place in range(0, size, 4096):
        total += hogged[place]
    for step in pressure.log[seen:]:
        print("step", step.when, step.keep[0], step.keep[1], step.size, step.why, flush=True)
    seen = len(pressure.log)
print("ends", pool.reserve, pool.spare, pool.guarantee().held, flush=True)
"""


def group_of(controller: str) -> Path | None:
    """The directory of this process's group in version 1 (its controller's) or 2 ("")."""
    for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            mount = MOUNT / controller if controller else MOUNT / "unified" if (MOUNT / "unified").is_dir() else MOUNT
            return mount / path.lstrip("/")
    return None


@contextmanager
def limited_groups() -> Iterator[list[Path]]:
    """Groups in which a process has LIMIT bytes, and whose pressure is told. Skips where they are not to be had."""
    made: list[Path] = []
    try:
        try:
            unified = group_of("")
            if unified is None:
                pytest.skip("no control groups of version 2 here")
            made.append(unified / f"mempool-test-{os.getpid()}")
            made[0].mkdir()
            (made[0] / "memory.pressure").read_text("utf-8")
            if not (made[0] / "memory.max").exists():
                beside = group_of("memory")
                if beside is None:
                    pytest.skip("the control groups here put no limit on memory")
                made.append(beside / made[0].name)
                made[1].mkdir()
                (made[1] / "memory.limit_in_bytes").write_text(str(LIMIT), "utf-8")
            else:
                (made[0] / "memory.max").write_text(str(LIMIT), "utf-8")
        except OSError as error:
            pytest.skip(f"control groups cannot be made here: {error}")
        yield made
    finally:
        for group in made:
            for line in (group / "cgroup.procs").read_text("utf-8").split() if group.exists() else ():
                with suppress(ProcessLookupError):
                    os.kill(int(line), signal.SIGKILL)
            if group.exists():
                wait_until(lambda group=group: not (group / "cgroup.procs").read_text("utf-8"))
                group.rmdir()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pressure stall information is Linux's")
def test_a_pool_in_a_group_that_runs_short_gives_its_spares_back(tmp_path: Path) -> None:
    """By the group's own figures, at the kernel's event, which alone brings a look; the reserve stays whole."""
    file = tmp_path / "hogged"
    with file.open("wb") as writing:
        for _ in range(192):
            writing.write(os.urandom(1 << 20))
        writing.flush()
        os.fsync(writing)
        os.posix_fadvise(
            writing.fileno(), 0, 0, os.POSIX_FADV_DONTNEED
        )  # else its pages are the test's own, and cost nothing
    with limited_groups() as groups:
        command = [sys.executable, "-u", "-W", "ignore", "-c", PROGRAM, str(file), *map(str, groups)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMORY_PRESSURE")}
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert child.stdin is not None
        assert child.stdout is not None
        with child, child.stdin, child.stdout:
            assert child.stdout.readline() == f"source {groups[0] / 'memory.pressure'}\n"
            fires = Trigger(groups[0])
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline().startswith("begins ")
            fires.wait()
            word, _when, before, after, size, why = child.stdout.readline().split(maxsplit=5)
            assert (word, int(before), int(after), int(size)) == ("step", 48, 24, 24 << 20)
            assert why.startswith("an event"), why
            *_, last = child.stdout.read().splitlines()
            assert last.split()[0:2] == ["ends", "8"]
            assert int(last.split()[2]) >= 8
            assert last.endswith("True")


MOVED = """
import logging, os, sys, time
from mempool import Objects, Pool
from mempool.pressure import follow
from mempool.testing import wait_until

logging.disable(logging.WARNING)
with open(sys.argv[1] + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
pool = Pool(Objects(object), 2, keep=64)
pressure = follow(pool, keep=(2, 64))
before = pressure.source  # now: once the group is gone, the thread may have left it before this line is run
print(before, pressure.fd is not None, flush=True)
sys.stdin.readline()
wait_until(lambda: pressure.source != before and pressure.is_following)
print(pressure.source, pressure.fd is not None, flush=True)
busy = time.process_time()
sys.stdin.readline()
print(time.process_time() - busy, pool.keep, len(pressure.log), flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pressure stall information is Linux's")
def test_a_group_that_is_removed_under_its_follower_is_left_at_once() -> None:
    """The kernel says POLLERR for ever then: the thread takes another source, and does not spin."""
    with limited_groups() as groups:
        home = groups[0].parent
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMORY_PRESSURE")}
        command = [sys.executable, "-u", "-W", "ignore", "-c", MOVED, str(groups[0])]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        assert child.stdin is not None
        assert child.stdout is not None
        with child, child.stdin, child.stdout:
            assert child.stdout.readline() == f"{groups[0] / 'memory.pressure'} True\n"
            (home / "cgroup.procs").write_text(str(child.pid), "utf-8")
            groups[0].rmdir()
            child.stdin.write("\n")
            child.stdin.flush()
            source, _listens = child.stdout.readline().split()
            assert source != str(groups[0] / "memory.pressure")
            assert Path(source).exists()
            began = time.monotonic()
            wait_until(lambda: time.monotonic() - began > 2)
            child.stdin.write("\n")
            child.stdin.flush()
            busy, keep, steps = child.stdout.readline().split()
            assert float(busy) < 0.5
            # What it follows now may be under pressure by itself; without a step nothing has changed.
            assert (int(keep) == 64) == (steps == "0")


class Trigger:
    """The same event of the kernel's, for the test itself."""

    def __init__(self, group: Path) -> None:
        import select

        self._fd = os.open(group / "memory.pressure", os.O_RDWR | os.O_NONBLOCK)
        os.write(self._fd, b"some 200000 2000000\0")
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLPRI)

    def wait(self) -> None:
        """Until it comes."""
        assert self._poll.poll(30_000), "no pressure within 30 s"
        os.close(self._fd)
