"""`make soak-shared`, or `python -m verification.soak_shared [SECONDS]`: all that can be done with one SharedPool, for long.

Workers take, gather, wait in the line, lease, resize, offer and adopt; they fork children that use the pool in their turn.
Each writes its name into the memory that it has, and finds it there again. They are killed and stopped at any moment, and
replaced. Every few seconds the books of the pool must agree; every half minute all workers are killed, and then nothing may
be out, no page of memory may be lost, and this process may have no more descriptors and hardly more memory than before.

Status 1 where anything was not so, with the seed; what a worker said is above.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

from mempool import Buffer
from mempool.errors import LineFull, PoolTimeout, StaleToken
from mempool.shared import repair
from mempool.shared.pool import SharedPool, Token

WORKERS = 4
SIZE, SLOTS = 8192, 96
STAMP = struct.Struct("<QQ")
#: A record of the pipe that tokens go through. A pipe hands over whole what is this short, whoever is killed.
RECORD = struct.Struct("<16s16sH400s")
LOOK_SECONDS, REST_SECONDS = 2.0, 30.0
#: What this process may have more than after the first rest.
RSS_MORE_MAX = 24 << 20
#: Operations, forks of children, tokens sent, tokens adopted, waits that ended with elements, waits that did not.
FIGURES = ("operations", "forks", "offered", "adopted", "recalled", "gathered", "timeouts", "resizes", "released")
libc = ctypes.PyDLL(None)  # does not let go of the GIL: a child of its fork runs on


class Wrong(Exception):
    """Something was not as it must be."""


class Figures:
    """Counts of one worker's, in memory that all share; nobody else writes them.

    By one store each: `struct.pack_into` writes zeros first, and who is killed between the two has counted nothing at all.
    """

    def __init__(self, memory: mmap.mmap, number: int) -> None:
        self.cells, self.begin = memoryview(memory).cast("Q"), len(FIGURES) * number

    def add(self, name: str) -> None:
        self.cells[self.begin + FIGURES.index(name)] += 1


def stamp_of(buffer: Buffer) -> tuple[bytes, bytes]:
    with memoryview(buffer) as view:
        return bytes(view[: STAMP.size]), bytes(view[SIZE - STAMP.size : SIZE])


class Worker:
    def __init__(self, folder: Path, seed: int, figures: Figures, tokens: tuple[int, int], pids: mmap.mmap) -> None:
        self.random, self.figures, self.pids = random.Random(seed), figures, pids
        self.read, self.write = tokens
        self.pool = SharedPool.attach("soak", folder=folder, quarantine=seed % 4 == 0)
        self.held: list[tuple[Buffer, bytes]] = []

    def own(self, buffer: Buffer) -> None:
        stamp = STAMP.pack(os.getpid(), self.random.getrandbits(64))
        with memoryview(buffer) as view:
            view[: STAMP.size] = view[SIZE - STAMP.size : SIZE] = stamp
        self.held.append((buffer, stamp))

    def pop(self) -> tuple[Buffer, bytes]:
        buffer, stamp = self.held.pop(self.random.randrange(len(self.held)))
        found = stamp_of(buffer)
        if found != (stamp, stamp):
            raise Wrong(f"{buffer!r} has two owners: {stamp!r} was written, {found} is there")
        return buffer, stamp

    # -- what it does

    def take(self) -> None:
        with suppress(PoolTimeout, LineFull):
            self.own(self.pool.alloc(timeout=self.random.choice([0, 0.001, 0.02])))

    def gather(self) -> None:
        try:
            for buffer in self.pool.alloc_many(self.random.randint(2, 4), timeout=0.02):
                self.own(buffer)
            self.figures.add("gathered")
        except (PoolTimeout, LineFull, ValueError):  # ValueError: more than the limit is now
            self.figures.add("timeouts")

    def free(self) -> None:
        if self.held:
            self.pool.free(self.pop()[0])
            self.figures.add("released")

    def free_some(self) -> None:
        self.pool.free_many([self.pop()[0] for _ in range(min(3, len(self.held)))])

    def lease(self) -> None:
        with suppress(PoolTimeout, LineFull), self.pool.lease(timeout=0.001) as buffer:
            self.own(buffer)
            _, stamp = self.held.pop()
            if stamp_of(buffer) != (stamp, stamp):
                raise Wrong(f"{buffer!r} of a lease has two owners")

    def offer(self) -> None:
        if not self.held:
            return
        buffer, stamp = self.pop()
        to = None
        if self.random.random() < 0.4:
            to = struct.unpack_from("Q", self.pids, 8 * self.random.randrange(WORKERS))[0] or None
        try:
            token = self.pool.offer(buffer, to=to)
        except ProcessLookupError:
            self.held.append((buffer, stamp))
            return
        self.figures.add("offered")
        if self.random.random() < 0.2:
            with suppress(StaleToken):
                self.held.append((self.pool.recall(token), stamp))
                self.figures.add("recalled")
            return
        data = bytes(token)
        with suppress(BlockingIOError):  # the pipe is full: it is lost, and `pending` or `addressed` tells of it
            os.write(self.write, RECORD.pack(stamp, bytes(16), len(data), data))

    def adopt(self) -> None:
        try:
            record = os.read(self.read, RECORD.size)
        except BlockingIOError:
            self.adopt_what_is_left()
            return
        stamp, _, length, data = RECORD.unpack(record)
        with suppress(StaleToken):
            buffer = self.pool.adopt(Token.from_bytes(data[:length]))
            self.figures.add("adopted")
            if stamp_of(buffer) != (stamp, stamp):
                raise Wrong(f"{buffer!r} was written to while it was offered: {stamp!r}, {stamp_of(buffer)}")
            self.held.append((buffer, stamp))

    def adopt_what_is_left(self) -> None:
        left = [*self.pool.addressed(), *self.pool.quarantined()]
        left += [] if self.random.random() < 0.9 else self.pool.pending()
        for token in left[:4]:
            with suppress(StaleToken):
                self.pool.free(self.pool.recall(token) if token in self.pool.pending() else self.pool.adopt(token))

    def resize(self) -> None:
        reserve = self.random.randrange(13)
        self.pool.resize(reserve, limit=reserve + self.random.randrange(4, 40))
        self.figures.add("resizes")

    def fork(self) -> None:
        """A child that uses the pool, and then ends or is killed; its parent waits for it or does not."""
        self.figures.add("forks")
        # In C only where there is no other thread: if one waits for the GIL, the child waits for that one, which it has not.
        is_alone = len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 - a Path says the same in more words
        pid = libc.fork() if is_alone and self.random.random() < 0.5 else os.fork()
        if pid == 0:
            self.be_a_child()
        if self.random.random() < 0.5:
            os.waitpid(pid, 0)

    def be_a_child(self) -> None:
        status = 70
        try:
            libc.prctl(1, signal.SIGKILL)
            self.random.seed(os.getpid())
            self.held.clear()  # what its parent has
            self.figures = Figures(mmap.mmap(-1, 4096), 0)  # its parent counts on, and one of them would undo the other's
            for _ in range(self.random.randrange(8)):
                self.random.choice([self.take, self.take, self.free, self.offer, self.adopt])()
            end = self.random.random()
            if end < 0.4:
                os.kill(os.getpid(), signal.SIGKILL)
            if end < 0.7:
                while self.held:
                    self.free()
                self.pool.close()
            status = 0
        except BaseException:  # noqa: BLE001 - whoever looks for it hears of it
            traceback.print_exc()
            os.kill(os.getppid(), signal.SIGUSR1)  # the parent ends, too, and is looked at
        finally:
            os._exit(status)

    def turn(self) -> None:
        weights = {
            self.take: 40, self.free: 38, self.gather: 4, self.free_some: 4, self.lease: 6, self.offer: 3, self.adopt: 4,
            self.resize: 0.3, self.fork: 0.3,
        }  # fmt: skip
        (what,) = self.random.choices(list(weights), list(weights.values()))
        if len(self.held) < 10 or what not in (self.take, self.gather, self.adopt):
            what()
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        self.figures.add("operations")


def run_worker(*arguments: object) -> None:
    status = 70
    try:
        libc.prctl(1, signal.SIGKILL)
        warnings.simplefilter("ignore", ResourceWarning)  # a child drops what its parent has
        worker = Worker(*arguments)  # type: ignore[arg-type]
        while True:
            worker.turn()
    except BaseException:  # noqa: BLE001 - the supervisor hears of it by the status
        traceback.print_exc()
    finally:
        os._exit(status)


class Soak:
    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed, self.random = folder, seed, random.Random(seed)
        self.pool = SharedPool("soak", SIZE, 8, limit=40, slots=SLOTS, clients=64, places=32, folder=folder)
        self.path = folder / "soak"
        self.memory, self.pids = mmap.mmap(-1, 4096), mmap.mmap(-1, 4096)
        self.tokens = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.workers = [0] * WORKERS
        self.kills = self.stops = self.looks = self.rests = 0
        self.longest = 0.0
        self.first: tuple[int, int] | None = None

    def start(self, number: int) -> None:
        seed = self.random.getrandbits(32)
        arguments = self.folder, seed, Figures(self.memory, number), self.tokens, self.pids
        self.workers[number] = os.fork() or run_worker(*arguments) or 0
        struct.pack_into("Q", self.pids, 8 * number, self.workers[number])

    def kill_children(self) -> None:
        """Of workers that were killed: one that was forked in C holds its parent's lock, too, until it ends."""
        for pid in repair.examine(self.path).users:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill(self, number: int) -> None:
        pid, self.workers[number] = self.workers[number], 0
        struct.pack_into("Q", self.pids, 8 * number, 0)
        os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != -signal.SIGKILL:
            raise Wrong(f"worker {pid} has ended by itself, with status {status}")
        self.kills += 1

    def use(self) -> None:
        """This process goes on, whoever is stopped. What it waits for here is a decision, and no element."""
        began = time.monotonic()
        buffer = self.pool.try_alloc()
        if buffer is not None:
            with memoryview(buffer) as view:
                view[: STAMP.size] = STAMP.pack(os.getpid(), 0)
            if stamp_of(buffer)[0] != STAMP.pack(os.getpid(), 0):
                raise Wrong(f"{buffer!r} has two owners")
            self.pool.free(buffer)
        self.longest = max(self.longest, time.monotonic() - began)

    def step(self) -> None:
        for number in range(WORKERS):
            if self.workers[number] == 0:
                self.start(number)
        for _ in range(self.random.randrange(200)):
            self.use()
        number = self.random.randrange(WORKERS)
        if self.random.random() < 0.5:
            os.kill(self.workers[number], signal.SIGSTOP)
            for _ in range(self.random.randrange(400)):
                self.use()
            os.kill(self.workers[number], signal.SIGCONT)
            self.stops += 1
        else:
            self.kill(number)
        time.sleep(self.random.random() * 0.02)  # of the workers' time, and not of anything that is waited for

    def look(self) -> None:
        self.pool.reclaim()
        for _ in range(50):
            with suppress(TimeoutError):
                wrong = self.pool.verify()
                if wrong:
                    raise Wrong(f"the books do not agree: {wrong}")
                self.looks += 1
                return

    def rest(self) -> None:
        """All are killed; what they had comes back."""
        for number in range(WORKERS):
            if self.workers[number]:
                self.kill(number)
        self.kill_children()
        end = time.monotonic() + 60
        while True:
            self.pool.reclaim()
            for token in self.pool.quarantined():
                self.pool.free(self.pool.adopt(token))
            for token in self.pool.addressed():
                self.pool.free(self.pool.adopt(token))
            if self.pool.stats().out == 0 and self.pool.stats().waiting == 0:
                break
            if time.monotonic() > end:
                raise Wrong(f"not all came back, {repair.examine(self.path)}: {self.pool.why_empty()}")
            time.sleep(0.01)
        with suppress(BlockingIOError):
            while True:
                os.read(self.tokens[0], RECORD.size)  # stale, all of them
        self.pool.resize(8, limit=40)
        if self.pool.verify():
            raise Wrong(f"the books do not agree at rest: {self.pool.verify()}")
        stats = self.pool.stats()
        layout = self.pool._engine.client.layout
        used, wanted = self.path.stat().st_blocks * 512, layout.control_bytes + stats.spare * layout.stride
        if used != wanted:
            raise Wrong(f"{used} bytes of memory are used, {wanted} are accounted for")
        self.rests += 1
        self.look_at_myself()

    def look_at_myself(self) -> None:
        descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
        if self.first is None:
            self.first = descriptors, rss
        if descriptors > self.first[0] or rss > self.first[1] + RSS_MORE_MAX:
            raise Wrong(f"this process has {descriptors} descriptors and {rss} bytes; it had {self.first}")

    def told(self) -> str:
        sums = [
            sum(struct.unpack_from("Q", self.memory, 8 * (len(FIGURES) * n + i))[0] for n in range(WORKERS))
            for i in range(len(FIGURES))
        ]
        told = ", ".join(f"{name} {number}" for name, number in zip(FIGURES, sums, strict=True))
        did = f"{self.kills} kills, {self.stops} stops, {self.looks} looks, {self.rests} rests"
        return f"{did}; {told}; longest call {1e3 * self.longest:.0f} ms"

    def run(self, seconds: float) -> None:
        began = time.monotonic()
        looked = rested = began
        while (now := time.monotonic()) < began + seconds:
            self.step()
            if now > looked + LOOK_SECONDS:
                looked = now
                self.look()
            if now > rested + REST_SECONDS:
                rested = now
                self.rest()
                print(f"{now - began:6.0f} s: {self.told()}", flush=True)
        self.rest()
        print(f"{time.monotonic() - began:6.0f} s: {self.told()}", flush=True)

    def end(self) -> None:
        for pid in filter(None, self.workers):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m verification.soak_shared", description=__doc__)
    options.add_argument("seconds", nargs="?", type=float, default=1800)
    options.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    chosen = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mempool-soak-", dir="/dev/shm"))
    soak = Soak(folder, chosen.seed)
    try:
        soak.run(chosen.seconds)
    except Wrong as wrong:
        print(f"WRONG: {wrong}\nseed {chosen.seed}; {soak.told()}")
        return 1
    finally:
        soak.end()
        shutil.rmtree(folder)
    print(f"nothing was lost, and nothing had two owners; seed {chosen.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
