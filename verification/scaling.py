"""Do threads scale without the GIL? `python -m verification.scaling [SECONDS] [KIND ...]`: on a quiet machine.

Two threads with a pool each are to do N = 2 times what one does, and two threads with one pool no less in sum than one.
(Than which one? Who uses what another thread has made counts references to it by atomic operations, which cost a sixth of a
pair. So both play on it alone, too, and the two in sum are compared with the one that made it, and with the mean of both.)

Two processors of one machine do not do twice the work of one by themselves: they share caches, memory, a clock rate that
falls when both are busy, and on a rented machine a core. So each figure stands beside a control that was played within the
same milliseconds: two *processes* with a pool each, which share nothing that is ours or the interpreter's. What threads do
in relation to processes is what sharing an interpreter and its locks costs; what processes lack of N, no library can give.

A burst lasts a few milliseconds by the clock, and all its players play from its begin to its end, so nobody is left to run
alone. A player that came late, or whose processor did something else for a tenth of the burst, makes the round void: that is
the machine's doing. (One that waited for a lock is not: see WAITED.) In each round every arrangement is played once, in an
order that moves on by one each time. What is printed are the medians of the rounds' ratios, and their tenth and ninetieth
percentiles. More threads than processors, on one pool, play for longer, and no such round is void: beside what they do
stands how many processors they had.
"""

from __future__ import annotations

import mmap
import os
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mempool import Buffers, Objects, Pool

BURST = 5_000_000  # nanoseconds
LEAD = 1_500_000  # from the command to the begin: who is not awake by then is late
BATCH = 200  # pairs between two looks at the clock

CROWDED_BURST = 60_000_000

#: The least part of a burst that a player must have had a processor or have waited, for the round to count.
PRESENT = 0.9


def pool_pairs(pool: Any) -> None:
    alloc, free = pool.alloc, pool.free
    for _ in range(BATCH):
        free(alloc())


def queue_pairs(elements: Any) -> None:
    get, put = elements.get, elements.put
    for _ in range(BATCH):
        put(get())


def nothing(_thing: Any) -> None:
    for _ in range(2 * BATCH):
        pass


def warm_queue() -> Any:
    elements: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
    for _ in range(4):
        elements.put(bytearray(8))
    return elements


KINDS: dict[str, tuple[Callable[[Any], None], Callable[[], Any]]] = {
    "empty loop": (nothing, object),
    "SimpleQueue": (queue_pairs, warm_queue),
    "identity": (pool_pairs, lambda: Pool(Objects(bytearray), 2, keep=4)),
    "nothing": (pool_pairs, lambda: Pool(Objects(bytearray), 2, keep=4, track="nothing")),
    "buffers": (pool_pairs, lambda: Pool(Buffers(4096), 2, keep=4)),
}
CONTROLS = ("empty loop", "SimpleQueue")

# What a player is told, and what it answers: the numbers of its line in memory that all share.
KIND, THING, BEGIN, END, PAIRS, TOOK, PROCESSOR, LATE, TAKEN_AWAY, WAITED = range(10)
LINE = 16
FIRST, SECOND, OTHER_PROCESS = range(3)

#: Who plays at once, each with which of the two things of its process.
ARRANGEMENTS: dict[str, tuple[tuple[int, int], ...]] = {
    "alone": ((FIRST, 0),),
    "threads": ((FIRST, 0), (SECOND, 1)),
    "processes": ((FIRST, 0), (OTHER_PROCESS, 1)),
    "the other alone": ((SECOND, 0),),
    "one for both": ((FIRST, 0), (SECOND, 0)),
}
#: So many threads on one thing. Each has a number behind those above.
CROWDS = {"one for four": 4, "one for eight": 8}
CROWD = range(OTHER_PROCESS + 1, OTHER_PROCESS + 1 + max(CROWDS.values()))


class Player:
    """Plays bursts as it is told, in a thread or in a process. It sleeps in between: one that spins takes a processor."""

    def __init__(self, number: int, board: memoryview) -> None:
        self.board, self.base = board, number * LINE
        self.own = 0 if number == FIRST else 1  # which of the things it makes
        self.commands, self.answers = os.pipe(), os.pipe()

    def tell(self, field: int, value: int) -> None:
        self.board[self.base + field] = value

    def told(self, field: int) -> int:
        value: int = self.board[self.base + field]
        return value

    def run(self, things: list[list[Any]]) -> None:
        """To be called where it shall play. b"n": it makes its thing of each kind anew; b"p": a burst; b"q": the end."""
        while (command := os.read(self.commands[0], 1)) not in (b"q", b""):
            if command == b"n":
                for thing in things[self.own]:
                    if isinstance(thing, Pool):
                        thing.close()
                things[self.own] = [make() for _play, make in KINDS.values()]
            else:
                kind = self.told(KIND)
                self.burst(list(KINDS.values())[kind][0], things[self.told(THING)][kind])
            os.write(self.answers[1], b"d")

    def burst(self, play: Callable[[Any], None], thing: Any) -> None:
        from resource import RUSAGE_THREAD, getrusage

        clock, begin, end, played = time.perf_counter_ns, self.told(BEGIN), self.told(END), 0
        self.tell(LATE, clock() > begin)
        while clock() < begin:
            pass
        before, processor, began = getrusage(RUSAGE_THREAD), time.thread_time_ns(), clock()
        while (now := clock()) < end:
            play(thing)
            played += BATCH
        processor, after = time.thread_time_ns() - processor, getrusage(RUSAGE_THREAD)
        self.tell(PAIRS, played)
        self.tell(TOOK, now - began)
        self.tell(PROCESSOR, processor)
        self.tell(TAKEN_AWAY, after.ru_nivcsw - before.ru_nivcsw)
        self.tell(WAITED, after.ru_nvcsw - before.ru_nvcsw)

    def ask(self, command: bytes) -> None:
        os.write(self.commands[1], command)

    def answer(self) -> None:
        if os.read(self.answers[0], 1) != b"d":
            raise RuntimeError("a player has gone")

    def was_disturbed(self) -> bool:
        """Whether it did not play throughout, and not because it waited for the other player."""
        if self.told(LATE) or self.told(PAIRS) == 0:
            return True
        was_absent = self.told(PROCESSOR) < PRESENT * self.told(TOOK)
        return was_absent and (self.told(TAKEN_AWAY) > 0 or self.told(WAITED) == 0)


class Burst(NamedTuple):
    """Pairs a nanosecond, in sum: by the clock, and by the processor time of each player. How many processors they had."""

    rate: float
    processor_rate: float
    processors: float = 0.0


class Round(NamedTuple):
    """One burst of each arrangement, of one kind; None: of a void one."""

    bursts: dict[str, Burst | None]

    def ratio(self, arrangement: str, to: str, times: float = 1, by: str = "rate") -> float | None:
        """How many times the rate of the other arrangement, divided by `times`."""
        one, other = self.bursts[arrangement], self.bursts[to]
        if one is None or other is None:
            return None
        part: float = getattr(one, by) / getattr(other, by) / times
        return part


def play(players: list[Player], kind: int, arrangement: str) -> Burst | None:
    """One burst."""
    is_crowd = arrangement in CROWDS
    whom = tuple((who, 0) for who in CROWD[: CROWDS[arrangement]]) if is_crowd else ARRANGEMENTS[arrangement]
    playing = [players[who] for who, _thing in whom]
    begin = time.perf_counter_ns() + (0 if is_crowd else LEAD)
    end = begin + (CROWDED_BURST if is_crowd else BURST)
    for player, (_who, thing) in zip(playing, whom, strict=True):
        for field, value in ((KIND, kind), (THING, thing), (BEGIN, begin), (END, end)):
            player.tell(field, value)
        player.ask(b"p")
    for player in playing:
        player.answer()
    pairs, used = sum(player.told(PAIRS) for player in playing), sum(player.told(PROCESSOR) for player in playing)
    if is_crowd:
        took = time.perf_counter_ns() - begin
        return Burst(pairs / took, pairs / max(1, used), used / took)
    if any(player.was_disturbed() for player in playing):
        return None
    return Burst(*(sum(player.told(PAIRS) / max(1, player.told(span)) for player in playing) for span in (TOOK, PROCESSOR)))


def rounds(players: list[Player], kinds: list[int], seconds: float) -> Iterator[tuple[int, Round]]:
    """Rounds of all kinds in turn, for so many seconds, at least one. New things each time, each made by who uses it: where
    in memory they lie decides whether two processors write to one line of the cache, and a run shall not draw that once."""
    until, number = time.monotonic() + seconds, 0
    while number == 0 or time.monotonic() < until:
        for player in players[: CROWD.start]:
            player.ask(b"n")
            player.answer()
        for kind in kinds:
            names = [*ARRANGEMENTS, *CROWDS]
            names = names[number % len(names) :] + names[: number % len(names)]
            yield kind, Round({name: play(players, kind, name) for name in names})
        number += 1


def measure(kinds: list[int], seconds: float) -> dict[int, list[Round]]:
    """The rounds of each kind."""
    board = memoryview(mmap.mmap(-1, 8 * LINE * CROWD.stop)).cast("B").cast("q")
    players = [Player(number, board) for number in (FIRST, SECOND, OTHER_PROCESS, *CROWD)]
    child = os.fork()  # before there are threads
    if child == 0:
        try:
            for player in players:
                os.close(player.commands[1])  # so that it ends with its parent
            players[OTHER_PROCESS].run([[], []])
        finally:
            os._exit(0)
    things: list[list[Any]] = [[], []]
    threads = [threading.Thread(target=players[number].run, args=(things,)) for number in (FIRST, SECOND, *CROWD)]
    for thread in threads:
        thread.start()
    found: dict[int, list[Round]] = {kind: [] for kind in kinds}
    try:
        for kind, one in rounds(players, kinds, seconds):
            found[kind].append(one)
    finally:
        for player in players:
            player.ask(b"q")
        for thread in threads:
            thread.join()
        os.waitpid(child, 0)
    return found


def spread(numbers: list[float | None]) -> str:
    """The median, and between what most of them lie."""
    known = sorted(number for number in numbers if number is not None)
    if len(known) < 5:
        return f"in {len(known)} rounds: too few"
    tenth = len(known) // 10
    return f"{statistics.median(known):5.2f} ({known[tenth]:.2f} to {known[-1 - tenth]:.2f})"


def relative(one: list[float | None], other: list[float | None]) -> list[float | None]:
    """Round by round, what the one is of the other."""
    return [None if a is None or b is None else a / b for a, b in zip(one, other, strict=True)]


def lines(kind: int, found: dict[int, list[Round]]) -> Iterator[str]:
    """What is said of one kind."""
    of_kind = found[kind]
    alone = [None if (burst := one.bursts["alone"]) is None else 1 / burst.processor_rate for one in of_kind]
    threads = [one.ratio("threads", "alone", 2) for one in of_kind]
    processes = [one.ratio("processes", "alone", 2) for one in of_kind]
    others = [one.ratio("the other alone", "alone") for one in of_kind]
    sums = [one.ratio("one for both", "alone") for one in of_kind]
    of_mean = relative(sums, [None if other is None else (1 + other) / 2 for other in others])
    void = {name: sum(one.bursts[name] is None for one in of_kind) for name in ARRANGEMENTS}
    names = list(KINDS)
    yield f"{names[kind]}: {len(of_kind)} rounds; void: {', '.join(f'{name} {count}' for name, count in void.items())}"
    yield f"  one thread                             {spread(alone)} ns a pair, of processor time"
    simple = names.index("SimpleQueue")
    if kind != simple and simple in found and names[kind] not in CONTROLS:
        of_queue = [None if (burst := one.bursts["alone"]) is None else 1 / burst.processor_rate for one in found[simple]]
        yield f"                                         {spread(relative(alone, of_queue))} of SimpleQueue's"
    by_processor_time = [one.ratio("threads", "alone", 2, "processor_rate") for one in of_kind]
    yield f"  two threads, one each, by the clock    {spread(threads)} N"
    yield f"    by processor time                    {spread(by_processor_time)} N"
    yield f"  control: two processes, one each       {spread(processes)} N"
    yield f"  threads : processes                    {spread(relative(threads, processes))}"
    yield f"  the other thread alone on the first's  {spread(others)} of what that does"
    yield f"  two threads on one, in sum             {spread(sums)} of what one does that has made it"
    yield f"                                         {spread(of_mean)} of what the two do alone, on the average"
    for name, many in CROWDS.items():
        in_sum = [one.ratio(name, "alone") for one in of_kind]
        had = statistics.median(burst.processors for one in of_kind if (burst := one.bursts[name]) is not None)
        yield f"  {many} threads on one, in sum               {spread(in_sum)}, on {had:.1f} processors"


def main(arguments: list[str]) -> None:
    """Print some lines for each kind."""
    seconds = float(arguments.pop(0)) if arguments and arguments[0].replace(".", "", 1).isdigit() else 60.0
    names = list(KINDS)
    kinds = [names.index(name) for name in arguments or names]
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"{sys.version.split()[0]}, {'with' if has_gil else 'without'} the GIL; medians of rounds (tenths)")
    load = Path("/proc/loadavg").read_text(encoding="ascii").split()[0]
    print(f"load {load} at the begin; it should be 0 but for this", flush=True)
    found = measure(kinds, seconds)
    for kind in kinds:
        for line in lines(kind, found):
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
