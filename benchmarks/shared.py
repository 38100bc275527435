"""A pool that several processes share, beside what else moves memory between them.

One process with elements at hand; two that hammer; more slots; eight processes that share two elements; how long until a
killed process' element is had by the next one in line, and until a waiter runs.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

from mempool.benchmarks import peers
from mempool.benchmarks.measure import (
    ROUNDS,
    ROUNDS_QUICK,
    Point,
    Row,
    Target,
    in_rounds,
    in_words,
    jain,
    ratios,
    row_of,
    slices_of,
)
from mempool.benchmarks.twin import Twin
from mempool.benchmarks.uncontended import warm

from mempool import Pool
from mempool.sources import Buffers

GROUP = "shared"
SIZE = 4096
PAIR = "SharedPool: alloc + free"
LOCKED = "mp.Lock + a stack in shared memory"
PAIRS = 400  # a burst: some tens of microseconds, so that both have a processor throughout now and then
SPAWN = multiprocessing.get_context("spawn")
WITHIN = 30.0  # seconds


def run(*, quick: bool) -> Iterator[Row]:
    """All rows."""
    try:
        with shared(64) as pool:
            yield from _alone(pool, quick=quick)
    except ImportError as error:
        yield Row(GROUP, PAIR, "Pool(Buffers)", note=str(error).split(":")[0])
        return
    yield from _growth(quick=quick)
    yield from _hammering(quick=quick)
    yield from _fairness(quick=quick)
    yield from _after_a_kill(quick=quick)
    yield from _waking(quick=quick)


@contextmanager
def shared(slots: int, made: int = 16, **options: Any) -> Iterator[Any]:
    """A pool in which so many elements are made, each of which was out once in this process."""
    from mempool import SharedPool

    made = min(made, slots)
    name = f"bench-{os.getpid()}-{slots}"
    options = {"size": SIZE, "reserve": made // 2, "keep": made, "limit": made, "slots": slots, **options}
    pool = SharedPool(name, **options)
    try:
        _use_all(pool)
        yield pool
    finally:
        pool.unlink()
        pool.close()


def _use_all(pool: Any) -> None:
    pool.free_many(list(iter(pool.try_alloc, None)))


# -- one process


class Locked:
    """What the standard library has for it: a stack of free slots in shared memory, behind a lock of multiprocessing's."""

    def __init__(self, slots: int, made: int) -> None:
        self.lock: Any = SPAWN.Lock()
        self.count: Any = SPAWN.RawValue("q", made)
        self.free_slots: Any = SPAWN.RawArray("q", range(slots))

    def alloc(self) -> int | None:
        """A slot; None: there is none."""
        with self.lock:
            count = self.count.value
            if count == 0:
                return None
            self.count.value = count - 1
            slot: int = self.free_slots[count - 1]
            return slot

    def free(self, slot: int) -> None:
        """Put it back."""
        with self.lock:
            self.free_slots[self.count.value] = slot
            self.count.value += 1


def _of_kickmsg() -> peers.Peer:
    import kickmsg  # type: ignore[import-not-found,unused-ignore]

    name = f"bench-{os.getpid()}"
    settings = kickmsg.Config()
    settings.max_payload_size, settings.pool_size = SIZE, 64
    settings.max_subscribers, settings.sub_ring_capacity = 1, 8
    region = kickmsg.SharedRegion.create(name, kickmsg.ChannelType.PubSub, settings)
    region.unlink()
    publisher = kickmsg.Publisher(region)
    return peers.Peer("allocate()", {"allocate": publisher.allocate, "region": region})


def _of_iceoryx2() -> peers.Peer:
    import iceoryx2 as iox2  # type: ignore[import-untyped,unused-ignore]

    iox2.set_log_level(iox2.LogLevel.Error)  # it would tell that it has no file of settings
    node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
    name = iox2.ServiceName.new(f"mempool-bench-{os.getpid()}")
    service = node.service_builder(name).publish_subscribe(iox2.Slice[ctypes.c_uint8]).create()
    publisher = service.publisher_builder().initial_max_slice_len(SIZE).create()
    return peers.Peer("loan(4096).delete()", {"loan": publisher.loan_slice_uninit, "keeps": (node, service)})


def _of_queue() -> peers.Peer:
    queue = SPAWN.Queue()
    queue.put(0)
    return peers.bound(queue.get, queue.put)


def _of_semaphore() -> peers.Peer:
    semaphore = SPAWN.Semaphore(16)
    return peers.Peer("acquire(); release()", {"acquire": semaphore.acquire, "release": semaphore.release})


def _of_messages() -> peers.Peer:
    def pair() -> None:
        memory: Any = SharedMemory(create=True, size=SIZE)
        memory.buf[0] = 1
        memory.close()
        memory.unlink()

    return peers.Peer("pair()", {"pair": pair})


def _of_lock() -> peers.Peer:
    twin = Locked(64, 16)
    return peers.bound(twin.alloc, twin.free)


#: How many times as long as ours they take, at least.
OTHERS: dict[str, tuple[Callable[[], peers.Peer], float | None]] = {
    "mp.Semaphore: acquire + release, no element": (_of_semaphore, None),
    "kickmsg: allocate + drop": (_of_kickmsg, 1.5),
    "iceoryx2: loan + delete": (_of_iceoryx2, 6),
    LOCKED: (_of_lock, 8),
    "mp.Queue: get + put": (_of_queue, 80),
    "SharedMemory: one a message": (_of_messages, 150),
}


def _alone(pool: Any, *, quick: bool) -> Iterator[Row]:
    buffers: Pool[Any] = Pool(Buffers(SIZE), 8)
    buffers.free_many(buffers.alloc_many(16))
    objects = warm("identity")
    ours: dict[str, tuple[peers.Peer, float]] = {
        "Pool(Buffers)": (peers.bound(buffers.alloc, buffers.free), 1.8),
        "Pool(Objects)": (peers.bound(objects.alloc, objects.free), 2.5),
        "deque.pop + append": (peers.of_deque(), 3),
    }
    lease, beside = "SharedPool: with lease()", "Pool(Buffers): with lease()"
    ways = {PAIR: peers.bound(pool.alloc, pool.free), **{name: peer for name, (peer, _) in ours.items()}}
    ways[lease] = peers.Peer("with lease(): pass", {"lease": pool.lease})
    ways[beside] = peers.Peer("with lease(): pass", {"lease": buffers.lease})
    missing: dict[str, str] = {}
    for name, (make, _) in OTHERS.items():
        try:
            ways[name] = make()
        except Exception as error:  # noqa: BLE001 - a peer that cannot take part is named, with its reason
            missing[name] = f"{'not installed here' if isinstance(error, ImportError) else type(error).__name__}: {error}"
    slices = {name: slices_of(peer.statement, quick=quick, **peer.names) for name, peer in ways.items()}
    seconds = in_rounds(slices, ROUNDS_QUICK if quick else ROUNDS)

    def versus(what: str, beside: str, target: Target | None) -> Row:
        note = f"{in_words(min(seconds[what]))} : {in_words(min(seconds[beside]))}"
        point = Point(what, 0.0, statistics.median(seconds[what]))
        return row_of(GROUP, what, beside, ratios(seconds, what, beside), target=target, note=note, point=point)

    for name, (_, bound) in ours.items():
        yield versus(PAIR, name, Target(bound))
    yield versus(lease, beside, None)
    for name, (_, least) in OTHERS.items():
        target = None if least is None else Target(least, at_most=False)
        if name in missing:
            yield Row(GROUP, name, PAIR, target=target, note=missing[name])
        else:
            yield versus(name, PAIR, target)


def _growth(*, quick: bool) -> Iterator[Row]:
    many = 4_096 if quick else 65_536
    few, empty, full = "64 slots", f"{many:,} slots, 16 made", f"{many:,} slots, all but one out"
    with shared(64) as small, shared(many) as large, shared(many + 1, many, size=64) as whole:
        held = [whole.alloc() for _ in range(many - 1)]
        slices = {
            name: slices_of("free(alloc())", quick=quick, alloc=pool.alloc, free=pool.free)
            for name, pool in ((few, small), (empty, large), (full, whole))
        }
        seconds = in_rounds(slices, ROUNDS_QUICK if quick else ROUNDS)
        whole.free_many(held)
    for what in (empty, full):
        note = f"{in_words(min(seconds[what]))} : {in_words(min(seconds[few]))}"
        yield row_of(GROUP, what, few, ratios(seconds, what, few), target=Target(1.2), note=note)


# -- two that hammer


def _pin(number: int) -> None:
    """Each process to a processor of its own, where there are enough."""
    if hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {mine[number % len(mine)]})


def _in_bursts(me: int, begun: Any, bursts: int, told: Any, what: Any) -> None:
    """One of some processes: bursts that begin together. Tells of each when it began and ended, and the time it had."""
    _pin(me)
    if isinstance(what, str):
        from mempool import SharedPool

        what = SharedPool.attach(what)
        _use_all(what)
    else:
        what = what.opened()
    alloc, free = what.alloc, what.free
    rows = []
    for burst in range(1, bursts + 1):
        begun[me] = burst
        until = time.monotonic() + 0.2
        while min(begun) < burst and time.monotonic() < until:
            pass
        began, had = time.monotonic(), time.thread_time()
        for _ in repeat(None, PAIRS):
            free(alloc())
        rows.append((began, time.monotonic(), time.thread_time() - had))
    begun[me] = bursts + 1_000_000
    told.send(rows)


def _seconds_a_pair(what: Any, processes: int, bursts: int) -> list[float]:
    """Of those bursts in which each had a processor of its own throughout.

    So of nothing that sleeps where it meets the other one, as a lock of multiprocessing's does: it has no processor then.
    """
    begun = SPAWN.RawArray("q", processes)
    pipes = [SPAWN.Pipe(duplex=False) for _ in range(processes)]
    children = [
        SPAWN.Process(target=_in_bursts, args=(me, begun, bursts, tell, what), daemon=True)
        for me, (_, tell) in enumerate(pipes)
    ]
    for each in children:
        each.start()
    rows = []
    until = time.monotonic() + WITHIN
    for (told, _), each in zip(pipes, children, strict=True):
        if told.poll(max(0.0, until - time.monotonic())):
            rows.append(told.recv())
        else:
            each.kill()
        each.join()
    if len(rows) < processes:
        return []  # each burst waits for whoever has no processor: the machine is full
    clean = []
    for burst in zip(*rows, strict=True):
        together = min(end for _, end, _ in burst) - max(begin for begin, _, _ in burst)
        if all(had > 0.8 * (end - begin) and together > 0.7 * (end - begin) for begin, end, had in burst):
            clean.append(statistics.mean((end - begin) / PAIRS for begin, end, _ in burst))
    return clean


def _hammering(*, quick: bool) -> Iterator[Row]:
    what, beside, lock = "SharedPool: two hammering, each pair", "alone, the same way", "a lock-based twin in C, two"
    if (os.cpu_count() or 1) < 2:
        yield Row(GROUP, what, beside, target=Target(8), note="needs a second processor")
        return
    ours: list[list[float]] = [[], []]
    twins: list[float] = []
    missing = ""
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2 if quick else 4):
            with shared(64) as pool:
                for processes in (1, 2):
                    ours[processes - 1] += _seconds_a_pair(pool.name, processes, 300 if quick else 1000)
            try:
                twins += _seconds_a_pair(Twin(Path(folder), 64, 16, SIZE), 2, 300 if quick else 1000)
            except ImportError as error:
                missing = str(error)
    if not all(ours):
        yield Row(GROUP, what, beside, target=Target(8), note="no burst in which both had a processor: the machine is full")
        return
    alone, two = (statistics.median(each) for each in ours)
    spread = [each / alone for each in ours[1]]
    note = f"{in_words(two)} : {in_words(alone)}; {len(ours[1])} bursts"
    yield row_of(GROUP, what, beside, spread, target=Target(8), note=note)
    if not twins:
        yield Row(GROUP, what, lock, target=Target(0.5), note=missing or "no burst in which both had a processor")
        return
    twin = statistics.median(twins)
    note = f"{in_words(two)} : {in_words(twin)}; {len(twins)} bursts"
    yield row_of(GROUP, what, lock, [each / twin for each in ours[1]], target=Target(0.5), note=note)


# -- eight that share two


def _take_turns(begin: Any, over: Any, seconds: float, told: Any, what: Any) -> None:
    take: Callable[[], Any]
    give: Callable[[Any], Any]
    if isinstance(what, str):
        from mempool import SharedPool

        pool = SharedPool.attach(what)
        take, give = pool.alloc, pool.free
    else:
        take, give = what.acquire, lambda _: what.release()
    told.send("ready")
    while begin.value == 0.0:
        time.sleep(0.001)
    time.sleep(max(0.0, begin.value - time.monotonic()))
    turns, longest, until = 0, 0.0, begin.value + seconds
    while (asked := time.monotonic()) < until:
        had = take()
        longest = max(longest, time.monotonic() - asked)
        time.sleep(0.001)
        give(had)
        turns += 1
    told.send((turns, longest))
    over.wait(WITHIN)  # the end of a process takes the others' time, who may still wait


def _turns(what: Any, seconds: float) -> tuple[float, float]:
    """Jain's index, and the longest wait in turns of 4 ms, of 8 processes that share 2 elements for so long."""
    begin, over = SPAWN.RawValue("d", 0.0), SPAWN.Event()
    pipes = [SPAWN.Pipe(duplex=False) for _ in range(8)]
    children = [SPAWN.Process(target=_take_turns, args=(begin, over, seconds, tell, what), daemon=True) for _, tell in pipes]
    for each in children:
        each.start()
    for told, _ in pipes:
        if told.poll(WITHIN):
            told.recv()
    begin.value = time.monotonic() + 0.1
    rows = [told.recv() for told, _ in pipes if told.poll(WITHIN)]
    over.set()
    for each in children:
        each.join(WITHIN)
    return jain([turns for turns, _ in rows]), max(longest for _, longest in rows) / 0.004


def _fairness(*, quick: bool) -> Iterator[Row]:
    seconds, rounds = (1.0, 1) if quick else (2.0, 3)
    ours, theirs = [], []
    for _ in range(rounds):
        with shared(64, 2, reserve=2) as pool:
            ours.append(_turns(pool.name, seconds))
        theirs.append(_turns(SPAWN.Semaphore(2), seconds))
    name, semaphore = "SharedPool: 8 processes, 2 elements, each held 1 ms", "mp.Semaphore: the same"
    for what, rows, fair, wait in (
        (name, ours, Target(0.999, at_most=False), Target(2)),
        (semaphore, theirs, None, None),
    ):
        yield row_of(GROUP, f"{what}: Jain's index", "1 is fair", [fairness for fairness, _ in rows], unit="", target=fair)
        yield row_of(GROUP, f"{what}: longest wait", "4 ms", [turns for _, turns in rows], unit="turns", target=wait)


# -- death


def _hold(name: str, told: Any) -> None:
    from mempool import SharedPool

    pool = SharedPool.attach(name)
    held = pool.alloc()
    told.send(os.getpid())
    told.poll(None)
    pool.free(held)


def _after_a_kill(*, quick: bool) -> Iterator[Row]:
    milliseconds = []
    with shared(4, 1) as pool:
        for _ in range(5 if quick else 15):
            here, there = SPAWN.Pipe()
            holder = SPAWN.Process(target=_hold, args=(pool.name, there), daemon=True)
            holder.start()
            pid = here.recv()
            served: list[float] = []

            def wait(served: list[float] = served) -> None:
                buffer = pool.alloc()
                served.append(time.monotonic())
                pool.free(buffer)

            waiter = threading.Thread(target=wait)
            waiter.start()
            while pool.waiting == 0:
                time.sleep(0.001)
            time.sleep(0.01)
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            waiter.join(WITHIN)
            holder.join()
            milliseconds.append((served[0] - killed) * 1000)
    what = "SharedPool: kill -9 of the holder, to the next one served"
    yield row_of(GROUP, what, "", milliseconds, unit="ms", target=Target(20))


# -- waking


def _wait_for_turns(name: str, told: Any, stamp: Any, turns: int, way: tuple[str, Any]) -> None:
    """The one that waits: tells before each wait; afterwards the seconds between the other's stamp and the wake."""
    _pin(1)
    kind, other = way
    pool: Any = None
    if name:
        from mempool import SharedPool

        pool = SharedPool.attach(name)
    seconds = []
    if kind == "task":

        async def wait_all() -> None:
            for _ in range(turns):
                told.send("waits")
                buffer = await pool.alloc_async()
                seconds.append(time.monotonic() - stamp.value)
                pool.free(buffer)
                told.recv()

        asyncio.run(wait_all())
    for _ in range(turns if kind != "task" else 0):
        if kind == "condition":
            with other:
                told.send("waits")
                other.wait()
                seconds.append(time.monotonic() - stamp.value)
        else:
            told.send("waits")
            had = pool.alloc() if kind == "thread" else other.acquire()
            seconds.append(time.monotonic() - stamp.value)
            if kind == "thread":
                pool.free(had)
        told.recv()
    told.send(seconds)


def _wakes(kind: str, turns: int) -> list[float]:
    """Seconds from a free, a release or a notify in this process until the other one runs."""
    here, there = SPAWN.Pipe()
    stamp = SPAWN.RawValue("d", 0.0)
    other: Any = {"semaphore": SPAWN.Semaphore(0), "condition": SPAWN.Condition()}.get(kind)
    was = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with shared(4, 1) as pool:
        name = "" if other is not None else pool.name
        waiter = SPAWN.Process(target=_wait_for_turns, args=(name, there, stamp, turns, (kind, other)), daemon=True)
        waiter.start()
        _pin(0)  # on one processor, the waker's next call could keep the other one from running
        held = pool.alloc()
        for _ in range(turns):
            here.recv()
            while other is None and pool.waiting == 0:
                time.sleep(0.0005)
            time.sleep(0.002)  # until it sleeps
            if kind == "condition":
                with other:
                    stamp.value = time.monotonic()
                    other.notify()
            else:
                stamp.value = time.monotonic()
                if other is None:
                    pool.free(held)
                else:
                    other.release()
            if other is None:
                held = pool.alloc(timeout=WITHIN)  # before the other one asks again
            here.send("go on")
        pool.free(held)
        seconds: list[float] = here.recv()
        waiter.join(WITHIN)
    if was is not None:
        os.sched_setaffinity(0, was)
    return seconds


def _waking(*, quick: bool) -> Iterator[Row]:
    turns, rounds = (30, 1) if quick else (60, 3)
    found: dict[str, list[list[float]]] = {"thread": [], "semaphore": [], "task": [], "condition": []}
    for _ in range(rounds):
        for kind, seconds in found.items():
            seconds.append(_wakes(kind, turns))

    def row(what: str, mine: str, beside: str, theirs: str, bound: float) -> Row:
        pairs: Sequence[tuple[float, float]] = [
            (statistics.median(a), statistics.median(b)) for a, b in zip(found[mine], found[theirs], strict=True)
        ]
        note = f"{in_words(statistics.median(a for a, _ in pairs))} : {in_words(statistics.median(b for _, b in pairs))}"
        return row_of(GROUP, what, beside, [a / b for a, b in pairs], target=Target(bound), note=note)

    yield row("SharedPool: free, to a waiting thread", "thread", "mp.Semaphore", "semaphore", 1.3)
    yield row("SharedPool: free, to a waiting task", "task", "mp.Condition", "condition", 0.8)
