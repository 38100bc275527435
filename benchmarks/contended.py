"""More threads than elements: how much gets through, how long the longest waits, how fair it is, beside pools that wait.

The main scene: 16 threads share 4 elements and hold each for 1 ms. At best 4 elements serve 4000 holders a second, and each
thread has its turn every 16 / 4 = 4 ms. A thread that sleeps for 1 ms wakes later than that, with or without a pool: by 20
to 60 us here, from hour to hour, and Linux is asked not to add to it (by default it may let a sleeper lie 50 us longer, to
save power). Who holds an element shall hold it for 1 ms; so before each run it is measured how late such threads wake, and
they ask to be woken by that much earlier. What is lost to the rest, says the row "nothing": as many threads as there are
elements, which hold as long, and share nothing.

Where an element is held for sleep(0), threads sleep as Linux lets them by default, and, in a row of its own, exactly. Then a
queue's thread is back before the system has woken another one, and takes its own element again and again; a line cannot. The
least that a line costs on this machine says the row "a bare line of locks": the elements' number, a deque of locks, no pool.

Whoever hands an element to somebody who waits must have the system wake him, and the element is idle meanwhile. A queue
that lets the thread which has just put an element take it again saves that, and lets the others wait: its longest wait
is as long as the run. Where elements are few and hardly held, it serves several times as many holders as the pool does, the
same ones again and again. Throughput, wait and Jain's index of fairness belong together. With a hold of 0 nothing is ideal:
throughput is then shown beside the pool's, and more is better.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import queue
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
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
    percentile,
    ratios,
    row_of,
)

from mempool import Objects, Pool

GROUP = "contended"
PR_SET_TIMERSLACK = 29  # nanoseconds; Source: linux/prctl.h
EXACT, BY_DEFAULT = 1, 0  # nanoseconds; 0 stands for what a thread was started with
POOL, QUEUE, LINE, NOTHING = "pool", "SimpleQueue", "a bare line of locks", "nothing"
ROUNDS_GRID, ROUNDS_GRID_QUICK = 5, 1
SLEEPS = 30  # of each thread, to measure how late it wakes

Way = tuple[Callable[[], Any], Callable[[Any], object]]


@dataclass(frozen=True, slots=True)
class Scene:
    """So many threads share so many elements and hold each for so long."""

    threads: int
    elements: int
    hold: float  # seconds

    @property
    def ideal(self) -> float:
        """Holders a second."""
        return self.elements / self.hold

    @property
    def turn(self) -> float:
        """Seconds between two turns of a thread."""
        return self.threads / self.elements * self.hold

    def __str__(self) -> str:
        return f"{self.threads} threads, {self.elements} element{'' if self.elements == 1 else 's'}, {self.hold * 1e3:g} ms"


MAIN = Scene(16, 4, 0.001)
GRID = [
    Scene(threads, elements, hold) for threads, elements in ((4, 1), (16, 4), (64, 16)) for hold in (0, 1e-4, 1e-3, 1e-2)
]
GRID_QUICK = [Scene(16, 4, 0), Scene(16, 4, 1e-3)]


@dataclass(frozen=True, slots=True)
class Crowd:
    """What one run has seen."""

    a_second: float  # holders
    wait_longest: float  # seconds
    wait_p999: float  # seconds
    fairness: float


def of_pool(elements: int) -> Way:
    pool = Pool(Objects(object), elements, keep=elements, limit=elements)
    return pool.alloc, pool.free


def of_lifo_queue(elements: int) -> Way:
    shelf: queue.LifoQueue[object] = queue.LifoQueue()
    for _ in range(elements):
        shelf.put(object())
    return shelf.get, shelf.put


def of_simple_queue(elements: int) -> Way:
    shelf: queue.SimpleQueue[object] = queue.SimpleQueue()
    for _ in range(elements):
        shelf.put(object())
    return shelf.get, shelf.put


def of_line(elements: int) -> Way:
    """First come, first served, and nothing else: what any line of threads pays for waking the next one."""
    free, line = [object() for _ in range(elements)], deque[threading.Lock]()
    mutex, mine = threading.Lock(), threading.local()

    def take() -> object:
        with mutex:
            if free:
                return free.pop()
            lock = getattr(mine, "lock", None)
            if lock is None:
                lock = mine.lock = threading.Lock()
                lock.acquire()
            line.append(lock)
        return lock.acquire()

    def give(element: object) -> None:
        with mutex:
            if not line:
                free.append(element)
                return
            head = line.popleft()
        head.release()

    return take, give


def of_object_pool(elements: int) -> Way:
    pool = importlib.import_module("object_pool").ObjectPool(object, max_size=elements)
    return pool.get, pool.put


def of_sqlalchemy(elements: int) -> Way:
    connect = (
        importlib.import_module("sqlalchemy.pool")
        .QueuePool(peers.Connection, pool_size=elements, max_overflow=0, timeout=300, reset_on_return=None)
        .connect
    )
    return connect, lambda connection: connection.close()


CONTESTANTS: dict[str, Callable[[int], Way]] = {
    POOL: of_pool,
    "queue.LifoQueue": of_lifo_queue,
    "object-pool": of_object_pool,
    "SQLAlchemy QueuePool": of_sqlalchemy,
}


def lateness(threads: int, hold: float) -> float:
    """By how many seconds so many threads, which share nothing, wake later than they asked to: the median."""
    late: list[list[float]] = [[] for _ in range(threads)]
    ready = threading.Barrier(threads)

    def work(mine: list[float]) -> None:
        sleep, note = time.sleep, mine.append
        ready.wait()
        for _ in range(SLEEPS):
            began = perf_counter()
            sleep(hold)
            note(perf_counter() - began - hold)

    sleepers = [threading.Thread(target=work, args=(mine,)) for mine in late]
    for sleeper in sleepers:
        sleeper.start()
    for sleeper in sleepers:
        sleeper.join()
    return statistics.median(each for mine in late for each in mine)


def crowd(way: Way, threads: int, sleep_for: float, seconds: float) -> Crowd:
    """So many threads that take, hold for the time of such a sleep, give, for so long."""
    take, give = way
    waits: list[list[float]] = [[] for _ in range(threads)]
    ready = threading.Barrier(threads + 1)
    stop = threading.Event()

    def work(mine: list[float]) -> None:
        sleep, note, is_over = time.sleep, mine.append, stop.is_set  # to look names up would make each hold longer
        ready.wait()
        while True:  # at least once: who comes when the time is up already has waited for it, too
            began = perf_counter()
            element = take()
            note(perf_counter() - began)
            if sleep_for:
                sleep(sleep_for)
            give(element)
            if is_over():
                return

    workers = [threading.Thread(target=work, args=(mine,)) for mine in waits]
    for worker in workers:
        worker.start()
    ready.wait()
    began = perf_counter()
    time.sleep(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    # Whoever stood in the line was served still, and the time until then counts as well.
    lasted = perf_counter() - began
    every = sorted(wait for mine in waits for wait in mine)
    return Crowd(len(every) / lasted, every[-1], percentile(every, 0.999), jain([len(mine) for mine in waits]))


def measured(scene: Scene, seconds: float, rounds: int, *, control: bool) -> tuple[dict[str, list[Crowd]], dict[str, str]]:
    """Every contestant in this scene, and why the others are missing."""
    crowds: dict[str, list[Crowd]] = {}
    missing: dict[str, str] = {}
    calls: dict[str, Callable[[], float]] = {}

    def add(name: str, way: Way, threads: int) -> None:
        def measure() -> float:
            sleep_for = max(1e-6, scene.hold - lateness(scene.elements, scene.hold)) if scene.hold else 0.0
            crowds[name].append(crowd(way, threads, sleep_for, seconds))
            return crowds[name][-1].a_second

        crowds[name], calls[name] = [], measure

    for name, make in CONTESTANTS.items():
        try:
            add(name, make(scene.elements), scene.threads)
        except ImportError as error:
            missing[name] = peers.Missing.by(error).why
    if control:
        add(NOTHING, (lambda: None, lambda _element: None), scene.elements)
    in_rounds(calls, rounds)
    return crowds, missing


def main_scene(*, quick: bool) -> Iterator[Row]:
    """The scene with targets, every figure on a line of its own."""
    rounds, seconds = (ROUNDS_QUICK, 0.2) if quick else (ROUNDS, 0.4)
    crowds, missing = measured(MAIN, seconds, rounds, control=True)
    yield from (Row(GROUP, f"{name}: {MAIN}", "the ideal", note=why) for name, why in missing.items())
    ideal, turn = f"{MAIN.ideal:.0f} holders a second", f"a turn of {MAIN.turn * 1e3:g} ms"
    for name, seen in crowds.items():
        shares = [c.a_second / MAIN.ideal for c in seen]
        if name == NOTHING:
            why = "what holding for 1 ms leaves on this machine, without any pool"
            yield row_of(GROUP, f"{name}: throughput", ideal, shares, note=why)
            continue
        ours = name == POOL
        target = Target(0.95, at_most=False) if ours else None
        point = Point(name, 0.0, statistics.median(shares), "throughput, as a share of the ideal")
        yield row_of(GROUP, f"{name}: throughput", ideal, shares, target=target, point=point)
        controlled = [c.a_second / control.a_second for c, control in zip(seen, crowds[NOTHING], strict=True)]
        yield row_of(GROUP, f"{name}: throughput", f"{MAIN.elements} threads that only sleep", controlled)
        longest = [c.wait_longest / MAIN.turn for c in seen]
        point = Point(name, 0.0, statistics.median(longest), "longest wait, in turns of 4 ms")
        yield row_of(GROUP, f"{name}: longest wait", turn, longest, target=Target(1.5) if ours else None, point=point)
        yield row_of(GROUP, f"{name}: p99.9 of the waits", turn, [c.wait_p999 / MAIN.turn for c in seen])
        yield row_of(GROUP, f"{name}: Jain's index of fairness", "1 = all alike", [c.fairness for c in seen], unit="")


def grid(scene: Scene, *, quick: bool) -> Iterator[Row]:
    """One line per contestant; its waits and its fairness stand in the note."""
    seconds = 0.1 if quick else max(0.2, 5 * scene.turn)
    crowds, missing = measured(scene, seconds, ROUNDS_GRID_QUICK if quick else ROUNDS_GRID, control=False)
    for name in CONTESTANTS:
        what = f"{scene}: {name}: throughput"
        if name in missing:
            yield Row(GROUP, what, POOL, note=missing[name])
            continue
        seen = crowds[name]
        longest, p999 = (
            statistics.median(w) * 1e3 for w in zip(*((c.wait_longest, c.wait_p999) for c in seen), strict=True)
        )
        note = (
            f"waits: longest {longest:.3g} ms, p99.9 {p999:.3g} ms; Jain {statistics.median(c.fairness for c in seen):.2f}"
        )
        if scene.hold:
            yield row_of(GROUP, what, "the ideal", [c.a_second / scene.ideal for c in seen], note=note)
        else:
            note += f"; {statistics.median(c.a_second for c in seen):,.0f} holders a second"
            shares = [c.a_second / ours.a_second for c, ours in zip(seen, crowds[POOL], strict=True)]
            yield row_of(GROUP, what, POOL, shares, note=note)


def brief(way: Way, threads: int, turns: int, hold: float | None) -> float:
    """Seconds a turn, when so many threads have so many turns each. hold: seconds; None: not even a call in between."""
    take, give = way
    ready = threading.Barrier(threads + 1)

    def work() -> None:
        ready.wait()
        for _ in range(turns):
            element = take()
            if hold is not None:
                time.sleep(hold)
            give(element)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    began = perf_counter()
    for worker in workers:
        worker.join()
    return (perf_counter() - began) / (threads * turns)


def brief_turns(*, quick: bool) -> Iterator[Row]:
    """8 threads share 2 elements and hardly hold them, beside a SimpleQueue, which is C and lets everybody overtake."""
    ways = {POOL: of_pool(2), QUEUE: of_simple_queue(2), LINE: of_line(2)}
    turns = 200 if quick else 1000
    for hold, slack, held, target in (
        (None, BY_DEFAULT, "nothing done while held", Target(3.0)),
        (0.0, BY_DEFAULT, "held for sleep(0)", Target(1.1)),
        (0.0, EXACT, "held for an exact sleep(0)", None),
    ):
        set_timer_slack(slack)
        seconds = in_rounds(
            {name: functools.partial(brief, way, 8, turns, hold) for name, way in ways.items()},
            ROUNDS_QUICK if quick else ROUNDS,
        )
        for beside in (QUEUE, LINE):
            note = " : ".join(in_words(statistics.median(seconds[name])) for name in (POOL, beside))
            what = f"8 threads, 2 elements, {held}: a turn"
            yield row_of(
                GROUP, what, beside, ratios(seconds, POOL, beside), target=target if beside == QUEUE else None, note=note
            )


def set_timer_slack(nanoseconds: int) -> None:
    """How much later than asked the threads that are started from now on may wake. Source: prctl(2), PR_SET_TIMERSLACK."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(nanoseconds))


def run(*, quick: bool) -> Iterator[Row]:
    set_timer_slack(EXACT)
    yield from main_scene(quick=quick)
    yield from brief_turns(quick=quick)
    set_timer_slack(EXACT)
    for scene in GRID_QUICK if quick else GRID:
        yield from grid(scene, quick=quick)
