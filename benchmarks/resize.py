"""What a resize costs per element, from 10 and back, and how long other threads' calls are held up while it runs.

Another thread's call can be late for three reasons: the resize held it up, Python gave the turn to the thread that resizes
(each turn lasts up to `sys.getswitchinterval()`), or the machine gave the core to somebody else. The last is left out by
the clock: what counts is how much processor time the resizing thread used while the call lasted. The second is told from
the first by a control in the same round: the same caller, for the same time, next to a thread that adds up numbers in
a Python loop and touches no pool. What the resize adds is the difference. The clock on the wall is shown as well.

On a busy machine even that difference is mostly noise: a caller that is not on a core cannot ask for its turn. So the cause
is measured as well as the effect: the longest stretch of a resize, in processor time, in which it neither enters nor
leaves a function, be it Python's or C's. Python can change threads at least wherever a Python function begins, so no call
is held up for longer by the resize itself.
"""

from __future__ import annotations

import collections
import gc
import importlib
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import clock_gettime, perf_counter, pthread_getcpuclockid, sleep, thread_time
from types import FrameType
from typing import Any

from mempool.benchmarks.measure import ROUNDS, ROUNDS_QUICK, Point, Row, Target, in_rounds, in_words, ratios, row_of
from mempool.benchmarks.peers import Missing

from mempool import Pool
from mempool.sources import Objects

GROUP = "resize"
FEW = 10
MANY, MANY_QUICK = (10**3, 10**5, 10**6), (10**3, 10**4)
FILLED = "deque.append(object())"
EMPTIED = "deque.pop()"
#: Short turns, so that waiting for one hides less of what the resize itself does.
SWITCH_SECONDS = 0.0001
#: Calls faster than this are counted, but not listed: nobody was held up.
LISTED_SECONDS = 2e-6


@dataclass(slots=True)
class Delays:
    """How long the calls of one thread took, in seconds."""

    longest: float = 0.0  # of processor time that the other thread used meanwhile
    longest_on_the_wall: float = 0.0
    p999_on_the_wall: float = 0.0
    calls: int = 0


@contextmanager
def undisturbed() -> Iterator[None]:
    """Short turns, and no garbage collection: a million new objects set it off, whoever makes them."""
    interval, collects = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.disable()
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if collects:
            gc.enable()


def delays_during(pool: Pool[object], work: Callable[[], object]) -> tuple[Delays, float]:
    """How long alloc and free of another thread took while `work` was done here, and how long that lasted."""
    seen, late = Delays(), []
    worker = pthread_getcpuclockid(threading.get_ident())
    ready, stop = threading.Event(), threading.Event()

    def call() -> None:
        alloc, free, stopped = pool.alloc, pool.free, stop.is_set
        ready.set()
        while not stopped():
            used, began = clock_gettime(worker), perf_counter()
            element = alloc()
            taken, used_taken = perf_counter(), clock_gettime(worker)
            again = perf_counter()
            free(element)
            freed, used_freed = perf_counter(), clock_gettime(worker)
            seen.calls += 2
            # The lesser of two: a thread may lose its core between two readings of the clocks, too.
            seen.longest = max(
                seen.longest, min(used_taken - used, taken - began), min(used_freed - used_taken, freed - again)
            )
            if taken - began > LISTED_SECONDS:
                late.append(taken - began)
            if freed - again > LISTED_SECONDS:
                late.append(freed - again)

    caller = threading.Thread(target=call)
    caller.start()
    ready.wait()
    began = perf_counter()
    work()
    lasted = perf_counter() - began
    stop.set()
    caller.join()
    late.sort()
    beyond = seen.calls // 1000  # so many calls may be longer than the p99.9
    seen.p999_on_the_wall = late[-1 - beyond] if len(late) > beyond else LISTED_SECONDS
    seen.longest_on_the_wall = late[-1] if late else LISTED_SECONDS
    return seen, lasted


def busy_for(seconds: float) -> None:
    end, total = perf_counter() + seconds, 0
    while perf_counter() < end:
        for number in range(100):
            total += number


def costs(many: int) -> Iterator[Row]:
    """Growing and shrinking with nobody watching, beside a deque filled and emptied one by one."""
    grown: list[float] = []
    pool = Pool(Objects(object), FEW)

    def grow_and_shrink() -> float:
        began = perf_counter()
        pool.resize(many)
        grown.append((perf_counter() - began) / many)
        began = perf_counter()
        pool.resize(FEW)
        return (perf_counter() - began) / many

    filled: list[float] = []

    def fill_and_empty() -> float:
        shelf: collections.deque[object] = collections.deque()
        append, pop = shelf.append, shelf.pop
        began = perf_counter()
        for _ in range(many):
            append(object())
        filled.append((perf_counter() - began) / many)
        began = perf_counter()
        for _ in range(many):
            pop()
        return (perf_counter() - began) / many

    with undisturbed():
        shrunk = in_rounds({"pool": grow_and_shrink, EMPTIED: fill_and_empty}, ROUNDS_QUICK)
    every = {"grow": grown, "shrink": shrunk["pool"], FILLED: filled, EMPTIED: shrunk[EMPTIED]}
    for what, beside in (("grow", FILLED), ("shrink", EMPTIED)):
        way = f"{FEW} -> {many:,}" if what == "grow" else f"{many:,} -> {FEW}"
        note = f"{in_words(min(every[what]))} : {in_words(min(every[beside]))} an element"
        point = Point(what, many, statistics.median(every[what]))
        yield row_of(GROUP, f"{what} {way}, per element", beside, ratios(every, what, beside), note=note, point=point)


def of_psycopg(size: int) -> Any:
    """psycopg's pool of connections that cost nothing to make. Raises ImportError where it is missing."""
    psycopg_pool = importlib.import_module("psycopg_pool")

    class Connection:
        """All that the pool asks of one that it opens and closes."""

        _pool: object = None
        _expire_at: float = 0.0

        @classmethod
        def connect(cls, _conninfo: str = "", **_kwargs: object) -> Connection:
            return cls()

        def close(self) -> None: ...

    return psycopg_pool.ConnectionPool(connection_class=Connection, min_size=size, max_size=size, open=True)


def beside_psycopg(many: int) -> Iterator[Row]:
    """Growing only, until the new elements are there.

    Its `resize` returns at once and its workers open the connections one by one, so what is measured ends when they have.
    Shrinking cannot be compared: it closes one idle connection every `max_idle` seconds, ten minutes by default.
    """
    what = f"psycopg_pool: grow {FEW} -> {many:,}, per element"
    try:
        of_psycopg(FEW).close()
    except ImportError as error:
        yield Row(GROUP, what, "pool", note=Missing.by(error).why)
        return

    def psycopg() -> float:
        pool = of_psycopg(FEW)
        pool.wait()
        began = perf_counter()
        pool.resize(many)
        while pool.get_stats()["pool_available"] < many:
            sleep(0.0001)  # its workers want the processor
        lasted = perf_counter() - began
        pool.close()
        return lasted / many

    def ours() -> float:
        pool = Pool(Objects(object), FEW)
        began = perf_counter()
        pool.resize(many)
        return (perf_counter() - began) / many

    seconds = in_rounds({"psycopg": psycopg, "pool": ours}, ROUNDS_QUICK)
    note = f"{in_words(min(seconds['psycopg']))} : {in_words(min(seconds['pool']))} an element; fake connections, 3 workers"
    yield row_of(GROUP, what, "pool", ratios(seconds, "psycopg", "pool"), note=note)
    why = "closes one idle connection every max_idle seconds, not at the resize: nothing to compare"
    yield Row(GROUP, f"psycopg_pool: shrink {many:,} -> {FEW}", "pool", note=why)


def longest_step(work: Callable[[], object]) -> float:
    """Seconds of processor time in the longest stretch of `work` in which no function was entered or left."""
    longest, last = 0.0, thread_time()

    def watch(_frame: FrameType, _event: str, _function: object) -> None:
        nonlocal longest, last
        longest = max(longest, thread_time() - last)
        last = thread_time()

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return longest


def steps(many: int, target: Target | None, rounds: int) -> Iterator[Row]:
    """The longest step of growing and of shrinking."""
    figures: dict[str, list[float]] = {"grow": [], "shrink": []}
    with undisturbed():
        for _ in range(rounds):
            pool = Pool(Objects(object), FEW)  # a new one: lists that once were long are not made again
            figures["grow"].append(longest_step(lambda pool=pool: pool.resize(many)) * 1e3)
            figures["shrink"].append(longest_step(lambda pool=pool: pool.resize(FEW)) * 1e3)
    for what, way in (("grow", f"{FEW} -> {many:,}"), ("shrink", f"{many:,} -> {FEW}")):
        step = f"{what} {way}: the longest step without a change of threads"
        yield row_of(GROUP, step, "nothing", figures[what], unit="ms", target=target)


def held_up(many: int, target: Target | None, rounds: int) -> Iterator[Row]:
    """The delays that another thread sees."""
    runs: list[tuple[Delays, Delays]] = []

    def work() -> None:
        pool.resize(many)
        pool.resize(FEW)

    with undisturbed():
        for _ in range(rounds):
            pool = Pool(Objects(object), FEW)  # a new one: lists that once were long are not made again
            pool.free_many(pool.alloc_many(2 * FEW))
            resized, lasted = delays_during(pool, work)
            control, _ = delays_during(pool, lambda lasted=lasted: busy_for(lasted))
            runs.append((resized, control))
    during = f"calls of another thread during {FEW} -> {many:,} -> {FEW}"
    added = [(resized.longest - control.longest) * 1e3 for resized, control in runs]
    yield row_of(GROUP, f"{during}: the longest delay added", "a busy Python loop", added, unit="ms", target=target)
    for which, name in enumerate((during, "calls of another thread next to a busy Python loop")):
        seen = [run[which] for run in runs]
        note = f"{sum(delays.calls for delays in seen):,} calls"
        for what, seconds in (
            ("longest delay", [delays.longest for delays in seen]),
            ("longest on the wall", [delays.longest_on_the_wall for delays in seen]),
            ("p99.9 on the wall", [delays.p999_on_the_wall for delays in seen]),
        ):
            yield row_of(GROUP, f"{name}: {what}", "nothing", [each * 1e3 for each in seconds], unit="ms", note=note)


def run(*, quick: bool) -> Iterator[Row]:
    several = MANY_QUICK if quick else MANY
    for many in several:
        yield from costs(many)
    yield from beside_psycopg(several[0])
    target = None if quick else Target(1.0)  # set for a million
    rounds = ROUNDS_QUICK if quick else ROUNDS  # many, because another program on the machine spoils one
    yield from steps(several[-1], target, ROUNDS_QUICK)
    yield from held_up(several[-1], target, rounds)
