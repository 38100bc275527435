"""Two threads at once, with a pool each and with one for both: `python -m verification.scaling [KIND ...]`, for no GIL.

Each number is nanoseconds of a thread's own processor time, or of bursts so short that on a busy machine some are not
disturbed: only bursts in which all threads ran throughout, at the same time, count. An empty loop tells what two threads of
this machine cost each other anyway. The last column is throughput by the clock, for whoever waits for a mutex does not run:
in the best and in the middle one of longer bursts, because at the end of each one thread has done its part, and the other is
still asleep. On a busy machine that tells little, unless one may have both cores for a few seconds:
`chrt --fifo 10 python -m verification.scaling`.
"""

from __future__ import annotations

import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mempool import Buffers, Objects, Pool

PAIRS = 6_000  # of a burst: a third of a millisecond
BURSTS = 200
PAIRS_SHARED, BURSTS_SHARED = 30_000, 40  # of one pool for both


class Span(NamedTuple):
    """Nanoseconds."""

    begin: int
    end: int
    processor: int


def pool_pairs(pool: Any, pairs: int) -> None:
    alloc, free = pool.alloc, pool.free
    for _ in range(pairs):
        free(alloc())


def queue_pairs(elements: Any, pairs: int) -> None:
    get, put = elements.get, elements.put
    for _ in range(pairs):
        put(get())


def nothing(_thing: Any, pairs: int) -> None:
    for _ in range(2 * pairs):
        pass


def warm_queue() -> Any:
    elements: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
    for _ in range(4):
        elements.put(bytearray(8))
    return elements


KINDS: dict[str, tuple[Callable[[Any, int], None], Callable[[], Any]]] = {
    "empty loop": (nothing, object),
    "SimpleQueue": (queue_pairs, warm_queue),
    "identity": (pool_pairs, lambda: Pool(Objects(bytearray), 2, keep=4)),
    "nothing": (pool_pairs, lambda: Pool(Objects(bytearray), 2, keep=4, track="nothing")),
    "buffers": (pool_pairs, lambda: Pool(Buffers(4096), 2, keep=4)),
}


def bursts(play: Callable[[Any, int], None], things: list[Any], pairs: int = PAIRS, times: int = BURSTS) -> list[list[Span]]:
    """Of a thread for each thing, all at once, again and again."""
    reached = [0] * len(things)
    spans: list[list[Span]] = [[] for _ in things]

    def run(number: int) -> None:
        for burst in range(1, times + 1):
            reached[number] = burst
            while any(at < burst for at in reached):
                pass
            begin, processor = time.perf_counter_ns(), time.thread_time_ns()
            play(things[number], pairs)
            processor = time.thread_time_ns() - processor
            spans[number].append(Span(begin, time.perf_counter_ns(), processor))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(things))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [list(burst) for burst in zip(*spans, strict=True)]


def undisturbed(burst: list[Span]) -> bool:
    longest = max(span.end - span.begin for span in burst)
    together = min(span.end for span in burst) - max(span.begin for span in burst)
    return together > 0.85 * longest and all(span.processor > 0.95 * (span.end - span.begin) for span in burst)


def figures(played: list[list[Span]]) -> tuple[float, float, int]:
    """Nanoseconds a pair, of processor time and of undisturbed bursts; how many of these."""
    clean = [statistics.mean(span.end - span.begin for span in burst) for burst in played if undisturbed(burst)]
    processor = statistics.median(span.processor for burst in played for span in burst)
    burst_seconds = statistics.median(clean) if len(clean) >= 5 else float("nan")
    return processor / PAIRS, burst_seconds / PAIRS, len(clean)


def rates(play: Callable[[Any, int], None], things: list[Any]) -> tuple[float, float]:
    """Pairs a nanosecond by the clock, in sum: in the best of the longer bursts, and in the middle one."""
    played = bursts(play, things, PAIRS_SHARED, BURSTS_SHARED)
    spent = sorted(max(s.end for s in burst) - min(s.begin for s in burst) for burst in played)
    pairs = len(things) * PAIRS_SHARED
    return pairs / spent[0], pairs / statistics.median(spent)


def main(kinds: list[str]) -> None:
    """Print a line for each kind."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"{sys.version.split()[0]}, {'with' if has_gil else 'without'} the GIL; ns a pair")
    of_queue = float("nan")
    for kind in kinds or KINDS:
        play, make = KINDS[kind]
        first, second = make(), make()
        alone, burst_alone, _ = figures(bursts(play, [first]))
        apart, burst_apart, clean = figures(bursts(play, [first, second]))
        (best_alone, middle_alone), (best, middle) = rates(play, [first]), rates(play, [first, first])
        if kind == "SimpleQueue":
            of_queue = alone
        print(
            f"{kind:12} one thread {alone:6.1f}, {alone / of_queue:4.2f} of SimpleQueue's; "
            f"two with one each: {alone / apart:4.2f} N by processor time, "
            f"{burst_alone / burst_apart:4.2f} N in {clean} undisturbed bursts; "
            f"two on one, in sum by the clock: {best / best_alone:4.2f} of one, in the middle {middle / middle_alone:4.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
