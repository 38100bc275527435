"""`mempool demo --shared`: files go through four processes by a shared pool, while one is killed every 200 ms.

Two processes read blocks of files into shared buffers, two hash them; what goes from one to the other is a token. The
parent hands out blocks, collects digests, kills, and resizes the pool in between. A block that was lost with a killed
process is handed out again. In the end every digest is compared with hashlib's, and the memory must be back.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import selectors
import shutil
import signal
import socket
import stat
import struct
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from mempool.errors import PoolTimeout, StaleToken
from mempool.shared.pool import SharedPool, Token
from mempool.sizes import in_words

BLOCK = 256 * 1024  # bytes: an element
#: So many are read, over and over.
BLOCKS_MAX = 2000
#: What the pool promises and allows, in turn: (reserve, keep, limit).
TARGETS = ((4, 4, 8), (12, 16, 24), (2, 2, 4))
#: Seconds: of work, between two kills, two resizes; until a block counts as lost; and what all of it may take.
WORK, KILL_EVERY, RESIZE_EVERY, LOST_AFTER, MOST = 6.0, 0.2, 0.5, 1.0, 29.0
#: How many blocks are under way at once.
AHEAD = 24
#: A job is a number: of a block. An answer is that, whether there is a digest, and the digest.
JOB, ANSWER = struct.Struct("<Q"), struct.Struct("<Q?16s")


@dataclass(frozen=True)
class Block:
    """A part of a file."""

    path: str
    offset: int
    changed_at: int
    """When the file was changed the last time, in ns."""

    def read_into(self, view: memoryview) -> int:
        """Its bytes; how many there were."""
        with open(self.path, "rb", buffering=0) as file:  # noqa: PTH123 - made for each block
            file.seek(self.offset)
            return int(file.readinto(view) or 0)

    def digest(self) -> bytes | None:
        """As it is without a pool. None: the file was changed meanwhile."""
        try:
            with open(self.path, "rb") as file:  # noqa: PTH123 - as above
                file.seek(self.offset)
                found = hashlib.blake2b(file.read(BLOCK), digest_size=16).digest()
                return found if os.fstat(file.fileno()).st_mtime_ns == self.changed_at else None
        except OSError:
            return None


def find_blocks(root: Path) -> list[Block]:
    """The blocks of the regular files below this path, BLOCKS_MAX at most."""
    blocks: list[Block] = []
    for path in _files(root):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and os.access(path, os.R_OK):
                blocks += [Block(str(path), at, found.st_mtime_ns) for at in range(0, max(1, found.st_size), BLOCK)]
        if len(blocks) >= BLOCKS_MAX:
            break
    return blocks[:BLOCKS_MAX]


def _files(root: Path) -> Iterator[Path]:
    """One by one: a large tree is not walked to its end."""
    if root.is_file():
        yield root
    for folder, folders, names in os.walk(root):
        folders.sort()
        yield from (Path(folder) / name for name in sorted(names))


def hash_bytes(view: memoryview) -> bytes:
    """What a hashing process finds."""
    return hashlib.blake2b(view, digest_size=16).digest()


# -- the processes. Each may be killed between any two of these lines, and within them.


def read(pool: SharedPool, blocks: list[Block], jobs: socket.socket, tokens: socket.socket) -> None:
    """Blocks into shared buffers, which are passed on."""
    while job := jobs.recv(JOB.size):
        (number,) = JOB.unpack(job)
        try:
            buf = pool.alloc(timeout=5)
        except PoolTimeout:
            continue  # the parent hands it out again
        length = 0
        with contextlib.suppress(OSError), buf[:] as view:
            length = blocks[number % len(blocks)].read_into(view)
        tokens.send(job + JOB.pack(length) + bytes(pool.offer(buf)))


def digest(pool: SharedPool, tokens: socket.socket, answers: socket.socket) -> None:
    """Digests of what was read."""
    while packet := tokens.recv(4096):
        number, length = struct.unpack_from("<QQ", packet)
        try:
            with pool.adopting(Token.from_bytes(packet[16:])) as buf, buf[:length] as view:
                found = hash_bytes(view)
        except StaleToken:  # the one that had read it was killed
            answers.send(ANSWER.pack(number, False, bytes(16)))
        else:
            answers.send(ANSWER.pack(number, True, found))


@dataclass
class Farm:
    """The parent's side: who runs, what is under way, what has come."""

    pool: SharedPool
    blocks: list[Block]
    pairs: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    running: list[tuple[int, str]] = field(default_factory=list)
    under_way: dict[int, float] = field(default_factory=dict)
    digests: dict[int, set[bytes]] = field(default_factory=dict)
    again: deque[int] = field(default_factory=deque)
    answered: int = 0
    killed: int = 0
    reclaimed: int = 0
    stale: int = 0
    lost: int = 0
    resized: int = 0
    failed: int = 0
    jobs: socket.socket = field(init=False)
    answers: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
        self.jobs = self.pairs[0][0]
        self.answers = self.pairs[2][1]
        self.jobs.setblocking(False)
        self.answers.setblocking(False)

    def start(self, what: str) -> None:
        """Fork a process that reads, or one that hashes. It ends when nobody sends it anything any more."""
        pid = os.fork()
        if pid == 0:
            self._run(what)
        self.running.append((pid, what))

    def _run(self, what: str) -> NoReturn:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's
            (jobs_in, jobs), (tokens_in, tokens), (answers_in, answers) = self.pairs
            for end in (jobs_in, answers, *((tokens, answers_in) if what == "reads" else (jobs, tokens_in))):
                end.close()
            if what == "reads":
                read(self.pool, self.blocks, jobs, tokens_in)
            else:
                digest(self.pool, tokens, answers_in)
            status = 0
        except BaseException:  # noqa: BLE001 - the parent hears of it by the status
            traceback.print_exc()
        finally:
            os._exit(status)

    def kill(self, number: int) -> None:
        """Kill one of those that run, and return what it held."""
        pid, what = self.running.pop(number)
        self._end(pid)
        self.killed += 1
        self.reclaimed += self.pool.reclaim()
        self.start(what)

    def _end(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        self.failed += os.waitstatus_to_exitcode(status) != -signal.SIGKILL

    def hand_out(self, fresh: Iterator[int]) -> None:
        """Blocks, first those that were lost, as long as few are under way."""
        now = time.monotonic()
        for number, since in list(self.under_way.items()):
            if now - since > LOST_AFTER:
                del self.under_way[number]
                self.again.append(number)
                self.lost += 1
        while len(self.under_way) < AHEAD:
            following = self.again.popleft() if self.again else next(fresh, None)
            if following is None:
                return
            try:
                self.jobs.send(JOB.pack(following))
            except BlockingIOError:
                self.again.appendleft(following)
                return
            self.under_way[following] = now

    def collect(self) -> None:
        """All answers that are there."""
        with contextlib.suppress(BlockingIOError):
            while packet := self.answers.recv(ANSWER.size):
                number, is_there, found = ANSWER.unpack(packet)
                known = self.under_way.pop(number, None) is not None
                if not is_there:
                    self.stale += 1
                    if known:
                        self.again.append(number)
                    continue
                self.answered += known
                self.digests.setdefault(number % len(self.blocks), set()).add(found)

    def end(self) -> None:
        """Kill all."""
        for pid, _ in self.running:
            self._end(pid)
        self.running.clear()
        for pair in self.pairs:
            for end in pair:
                end.close()


def run(root: Path, console: Console, *, seconds: float = WORK) -> list[str]:
    """Run it; returns the faults."""
    began = time.monotonic()
    blocks = find_blocks(root)
    if not blocks:
        raise FileNotFoundError(f"there is no file to be read in {root}")
    folder = Path(tempfile.mkdtemp(prefix="mempool-demo-", dir="/dev/shm"))
    reserve, keep, limit = TARGETS[0]
    try:
        pool = SharedPool("demo", size=BLOCK, reserve=reserve, keep=keep, limit=limit, slots=64, folder=folder)
        file = folder / "demo"
        control = file.stat().st_blocks * 512 - reserve * BLOCK
        console.print(
            f"{len(blocks):,} blocks of {root}; 2 processes read, 2 hash, one of them is killed every 200 ms",
            highlight=False,
        )
        farm = Farm(pool, blocks)
        try:
            for what in ("reads", "reads", "hashes", "hashes"):
                farm.start(what)
            with _shown(console, farm, began) as show:
                _work(farm, time.monotonic() + seconds, began + MOST - 3, show)
        finally:
            farm.end()
        return _judge(farm, console, lambda: file.stat().st_blocks * 512 - control, began)
    finally:
        shutil.rmtree(folder)


def _work(farm: Farm, until: float, at_last: float, show: Callable[[], None]) -> None:
    """Until the time is up, and then until everything that is under way has come."""
    now = time.monotonic()
    killing, resizing = now + KILL_EVERY, now + RESIZE_EVERY
    victims, targets, numbers = itertools.cycle((0, 2, 1, 3)), itertools.cycle((*TARGETS[1:], TARGETS[0])), itertools.count()
    fresh = iter(lambda: next(numbers) if time.monotonic() < until else None, None)
    with selectors.DefaultSelector() as selector:
        selector.register(farm.answers, selectors.EVENT_READ)
        while now < at_last:
            farm.hand_out(fresh)
            if not farm.under_way and not farm.again and now >= until:
                return
            selector.select(0.02)
            farm.collect()
            now = time.monotonic()
            if killing <= now < until:
                farm.kill(next(victims))
                killing = now + KILL_EVERY
            if resizing <= now:
                reserve, keep, limit = next(targets)
                farm.pool.resize(reserve, keep=keep, limit=limit)
                farm.resized += 1
                resizing = now + RESIZE_EVERY
            show()


def _judge(farm: Farm, console: Console, memory: Callable[[], int], began: float) -> list[str]:
    """What was promised, and whether it was kept."""
    faults: list[str] = []

    def check(is_right: bool, text: str) -> None:
        console.print(Text(f"{'ok   ' if is_right else 'FAULT'} {text}", "" if is_right else "red"))
        if not is_right:
            faults.append(text)

    pool = farm.pool
    pool.reclaim()
    for token in pool.pending():  # none: the parent offers nothing
        pool.free(pool.recall(token))
    expected = {number: farm.blocks[number].digest() for number in farm.digests}
    right = sum({expected[number]} == found for number, found in farm.digests.items())
    changed = sum(found is None for found in expected.values())
    missing = len(farm.under_way) + len(farm.again)
    check(missing == 0, f"{farm.answered:,} blocks went through; {missing} are missing")
    check(
        right + changed == len(expected) and right > 0,
        f"{right:,} of {len(expected) - changed:,} digests are hashlib's"
        + (f"; {changed} files changed meanwhile" if changed else ""),
    )
    check(
        farm.killed > 0,
        f"{farm.killed} processes killed; {farm.stale + farm.lost} blocks were lost with them, and came again",
    )
    check(farm.failed == 0, f"{farm.failed} processes ended by themselves")
    check(farm.resized > 0, f"{farm.resized} times resized meanwhile")
    wrong = pool.verify()
    check(
        pool.out == 0 and pool.stats().offered == 0 and not wrong,
        f"{pool.out} elements are out; the words agree: {not wrong}",
    )
    pool.resize(0, keep=0)
    left = memory()
    check(left == 0, f"{in_words(left)} of elements are left in /dev/shm")
    pool.close()
    took = time.monotonic() - began
    check(took <= MOST + 1, f"it took {took:.0f} s; {MOST + 1:.0f} are the most")
    return faults


@contextlib.contextmanager
def _shown(console: Console, farm: Farm, began: float) -> Iterator[Callable[[], None]]:
    """A live view on a terminal; elsewhere a line a second. No thread of it runs: the parent forks."""
    told = began
    if not console.is_terminal:

        def say() -> None:
            nonlocal told
            if time.monotonic() - told >= 1.0:
                told = time.monotonic()
                console.print(_figures(farm, began), soft_wrap=True, highlight=False)

        yield say
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show() -> None:
            nonlocal told
            if time.monotonic() - told >= 0.05:
                told = time.monotonic()
                live.update(Group(*_picture(farm, began)), refresh=True)

        yield show


def _figures(farm: Farm, began: float) -> str:
    stats = farm.pool.stats()
    return (
        f"{time.monotonic() - began:5.1f} s  {farm.answered:,} blocks, {farm.answered * BLOCK >> 20:,} MiB at most; "
        f"{farm.killed} killed, {farm.stale + farm.lost} blocks again; {stats.reserve} promised, {stats.spare} spare, "
        f"{stats.out} out, {stats.offered} of them on the way, {stats.waiting} in line, limit {stats.limit}"
    )


def _picture(farm: Farm, began: float) -> Iterator[Text]:
    stats = farm.pool.stats()
    yield Text(_figures(farm, began))
    held = max(0, stats.out - stats.offered)
    room = max(0, (stats.limit or 0) - stats.out - stats.spare)
    bar = Text("pool   ")
    for number, sign, style in (
        (held, "█", "cyan"),
        (stats.offered, "▶", "yellow"),
        (stats.spare, "█", "green"),
        (room, "·", "dim"),
    ):
        bar.append(sign * number, style)
    yield bar
    for pid, what in farm.running:
        yield Text(f"{pid:>7}  {what}")
