"""Containers: clients in pid namespaces of their own, and a /dev/shm as small as Docker's.

Each test makes real namespaces with `unshare`, and is skipped, with what that says, where it may not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import Parent, child

from mempool import Buffer
from mempool.shared.pool import SharedPool
from mempool.testing import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

#: In a pid namespace: a child goes on, under the number that it is given. The first process there stays as long as it does.
AS_NUMBER = """
import os, sys
def become(number):
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(number - 1))
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        os._exit(0)
    assert os.getpid() == number, (os.getpid(), number)
"""
#: Hold so many, and do what each line says, until there are no more.
CLIENT = """
import os, sys
from pathlib import Path
from mempool.shared.passing import Token
from mempool.shared.pool import SharedPool
pool = SharedPool.attach("frames", folder=Path(sys.argv[1]))
held = pool.alloc_many(int(sys.argv[2]))
print(os.getpid(), os.stat("/proc/self/ns/pid").st_ino, flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


class Inner:
    """A client in a pid namespace of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._tell, self._hear = process.stdin, process.stdout
        said = self._hear.readline()
        if not said:
            pytest.skip(f"no pid namespace can be made here: {process.communicate()[1]}")
        #: Its number there, and of which namespace that is.
        self.pid, self._namespace = map(int, said.split())

    def ask(self, what: str) -> str:
        print(what, file=self._tell, flush=True)
        return self._hear.readline().strip()

    def kill(self) -> None:
        """It, and not who has started it."""
        here = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        os.kill(next(filter(self._is, here)), signal.SIGKILL)

    def _is(self, number: int) -> bool:
        """Whether it has this number here."""
        try:
            status = Path(f"/proc/{number}/status").read_text()
            namespace = os.stat(f"/proc/{number}/ns/pid").st_ino  # noqa: PTH116 - a Path says the same in more words
        except OSError:
            return False  # it has just ended
        numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
        return namespace == self._namespace and int(numbers[-1]) == self.pid


@contextmanager
def client_in_a_namespace(path: Path, holds: int, *before: str) -> Iterator[Inner]:
    program = "\n".join([*before, CLIENT])
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", program]
    command += [str(path.parent), str(holds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield Inner(process)
    finally:
        process.kill()
        process.communicate()


def make(path: Path) -> SharedPool:
    return SharedPool("frames", 4096, 2, keep=2, limit=6, folder=path.parent)


def test_who_waits_has_what_was_held_by_one_killed_in_another_pid_namespace(pool_path: Path) -> None:
    """Its number there, 1, is here that of a process which lives as long as the machine."""
    pool = make(pool_path)
    with client_in_a_namespace(pool_path, 6) as other:
        assert (other.pid, pool.out) == (1, 6)
        served: list[Buffer] = []
        waiter = threading.Thread(target=lambda: served.append(pool.alloc(timeout=30)))
        waiter.start()
        wait_until(lambda: pool.waiting == 1)
        assert pool.reclaim() == 0  # it lives
        other.kill()
        waiter.join(40)
    assert len(served) == 1
    wait_until(lambda: pool.out == 1)  # served by the first that came back
    pool.free(served[0])
    assert pool.verify() == []


def test_one_whose_number_is_nobodys_in_the_other_namespace_lives(pool_path: Path) -> None:
    """Each looks for the dead; neither takes the other for one. What is killed here is reclaimed from there."""
    pool = make(pool_path)
    mine = pool.alloc()
    unused = next(number for number in range(30_000, 40_000) if not Path(f"/proc/{number}").exists())
    with client_in_a_namespace(pool_path, 2, AS_NUMBER, f"become({unused})") as other:
        assert other.pid == unused
        assert pool.reclaim() == 0
        assert other.ask("int(pool.reclaim())") == "0"

        def hold(parent: Parent) -> None:
            kept = SharedPool.attach("frames", folder=pool_path.parent)
            held = kept.alloc_many(2)
            parent.tell(len(held))
            parent.wait()

        with child(hold) as one:
            assert one.hear() == 2
            assert other.ask(f"(pool.out, os.path.exists('/proc/{one.pid}'))") == "(5, False)"
            assert other.ask("int(pool.reclaim())") == "0"
            one.end(signal.SIGKILL)
        assert other.ask("[killed.pid for killed in pool.reclaim().processes]") == str([one.pid])
        assert pool.out == 3
        assert other.ask("pool.free_many(held)").isdigit()
        assert pool.out == 1
    pool.reclaim()
    pool.free(mine)
    assert (pool.out, pool.verify()) == (0, [])


def test_two_of_one_number_are_two(pool_path: Path) -> None:
    """A client in another pid namespace that has this process' number: neither lives, dies or is meant with the other."""
    pool = make(pool_path)
    mine = pool.alloc()
    with client_in_a_namespace(pool_path, 3, AS_NUMBER, f"become({os.getpid()})") as other:
        assert other.pid == os.getpid()
        token = pool.offer(mine, to=os.getpid())
        assert other.ask("len(pool.addressed())") == "0"
        mine = pool.adopt(token)
        assert other.ask("int(pool.reclaim())") == "0"
        assert pool.reclaim() == 0
        other.kill()
        wait_until(pool.reclaim, timeout=30)
        assert pool.out == 1  # which is this process'
    pool.free(mine)
    assert (pool.out, pool.verify()) == (0, [])


def test_a_number_of_another_pid_namespace_is_no_address(pool_path: Path) -> None:
    """It would be another process here; what is offered to anybody is adopted there."""
    pool = make(pool_path)
    with client_in_a_namespace(pool_path, 1) as other:
        buf = pool.alloc()
        buf[:4] = b"here"
        with pytest.raises(ProcessLookupError, match=r"no process 1 .*in this pid namespace.*offer it to anybody"):
            pool.offer(buf, to=other.pid)
        assert buf.is_alive()
        token = bytes(pool.offer(buf))
        assert other.ask(f"bytes(pool.adopt(Token.from_bytes({token!r}))[:4])") == "b'here'"


# -- /dev/shm as in a container that was started without --shm-size

SMALL = """
import os
from pathlib import Path
from mempool.shared.pool import SharedPool
def used():
    found = os.statvfs("/dev/shm")
    return (found.f_blocks - found.f_bfree) * found.f_frsize >> 20
try:
    SharedPool("large", "1 MiB", reserve=80, limit=100)
except MemoryError as error:
    print(error)
print(used(), list(Path("/dev/shm").glob("*/large")))
pool = SharedPool("frames", "1 MiB")  # as it is made without a word of sizes
print(pool.guarantee().held, used())
held = pool.alloc_many(40)
for buf in held:
    buf.fill(1)
guarantee = pool.resize(100, limit=200)
print(guarantee.unfunded > 30, guarantee.spare + 40 < 64, pool.verify())
pool.free_many(held)
print(pool.resize(16, keep=16, limit=64).held, used())
pool.close_for_all()
print(used())
"""


def test_a_dev_shm_of_64_mib_has_room_for_the_defaults_and_what_is_too_much_names_the_way_out() -> None:
    """As Docker has it. Nobody dies of SIGBUS, and what does not fit leaves nothing behind."""
    mount = 'mount -t tmpfs -o size=64m shm /dev/shm && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-c", SMALL]
    environment = {key: value for key, value in os.environ.items() if key != "MEMPOOL_SHARED_FOLDER"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    if "unshare:" in ended.stderr or "mount:" in ended.stderr:
        pytest.skip(f"nothing can be mounted here: {ended.stderr}")
    assert ended.returncode == 0, ended.stderr
    refused, left, made, grown, shrunk, closed = ended.stdout.splitlines()
    assert "docker run --shm-size" in refused
    assert (int(left.split()[0]) <= 1, left.partition(" ")[2]) == (True, "[]")
    assert made.split()[0] == "True"
    assert 16 <= int(made.split()[1]) <= 18
    assert grown == "True True []"
    assert shrunk.split()[0] == "True"
    assert 16 <= int(shrunk.split()[1]) <= 18
    assert int(closed) <= 2
