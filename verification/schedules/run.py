"""`python -m verification.schedules`: every scenario under every search, as a table.

Status 1 if ours fails, or if the kernel's pool or a planted bug is not caught.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

if sys.version_info < (3, 12):
    sys.exit("the search for schedules needs Python 3.12 or newer (sys.monitoring)")

from verification.schedules.kernel_scenarios import KERNEL
from verification.schedules.planted import PLANTED, planted
from verification.schedules.scenarios import SCENARIOS
from verification.schedules.searches import (
    ONE,
    PCT,
    RANDOM,
    SHARED_ONE,
    SHARED_PCT,
    SHARED_TWO,
    TWO,
    Search,
    search,
    told,
)
from verification.schedules.shared_scenarios import SHARED_SCENARIOS

ROW = "{:<36} {:<13} {:>9} {:>8} {:>9}  {}"
#: A search that is to go through to its end, or to find what is known to be there, is stopped only here.
SECONDS_MAX = 120.0
#: Two threads, few steps: these are gone through to their end with two preemptions, too.
TWO_EXHAUSTED = {
    "timeout and hand off",
    "cancel and hand off",
    "drain and free",
    "double free",
    "resizes of different targets",
}


def row(name: str, scenario: Callable[[], None], how: Search, seconds: float, must_say: str | None) -> tuple[bool, str]:
    """Search; whether it came out as it must, and a line. must_say: a word of the failure to be found; None: none."""
    result = search(scenario, how, seconds)
    failure = result.failure
    if failure is None:
        good, verdict = must_say is None, "holds" if must_say is None else "NOT CAUGHT"
    elif must_say is None:
        good, verdict = False, "FAILS"
    else:
        good = must_say in f"{failure.kind} {failure.exception!r}"
        verdict = f"caught by schedule {result.schedules_run}" if good else "fails OTHERWISE"
    if how is RANDOM:
        good, verdict = True, "missed, as expected" if failure is None else verdict
    exhausted = "yes" if result.exhausted else "no"
    line = ROW.format(name, how.name, result.schedules_run, f"{result.elapsed:.1f}", exhausted, verdict)
    return good, line if good or failure is None else f"{line}\n{told(failure)}"


def rows(name: str, seconds: float) -> list[tuple[bool, str]]:
    """All searches of one scenario."""
    if name in SCENARIOS or name in SHARED_SCENARIOS:
        found = []
        pct, one, two = (PCT, ONE, TWO) if name in SCENARIOS else (SHARED_PCT, SHARED_ONE, SHARED_TWO)
        # One preemption is always gone through to its end: the part of the proof that no time limit cuts short. Two are
        # where it does not take minutes; elsewhere a random part of them is.
        limits = {pct: seconds, one: SECONDS_MAX, two: SECONDS_MAX if name in TWO_EXHAUSTED else 2 * seconds}
        for how, limit in limits.items():
            found.append(row(name, (SCENARIOS | SHARED_SCENARIOS)[name], how, limit, None))
            if " FAILS" in found[-1][1]:
                break  # the next search would only find the same
        return found
    if name in KERNEL:
        scenario, word = KERNEL[name]
        return [
            row(name, scenario, PCT, SECONDS_MAX, word),
            row(name, scenario, TWO, SECONDS_MAX, word),
            row(name, scenario, RANDOM, seconds, word),
        ]
    plant = PLANTED[name]
    with planted(plant):
        return [row(name, plant.scenario, how, SECONDS_MAX, plant.says) for how in plant.searches]


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m verification.schedules", description=__doc__)
    options.add_argument("words", nargs="*", help="only scenarios whose name contains one of these")
    options.add_argument("--seconds", type=float, default=6.0, help="for PCT (%(default)s); twice that for 2 preemptions")
    options.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes (%(default)s)")
    chosen = options.parse_args()
    names = [
        name
        for name in (*SCENARIOS, *SHARED_SCENARIOS, *KERNEL, *PLANTED)
        if not chosen.words or any(word in name for word in chosen.words)
    ]
    began = time.monotonic()
    failed: list[str] = []
    print(ROW.format("scenario", "search", "schedules", "seconds", "exhausted", "result"))
    with ProcessPoolExecutor(chosen.jobs, get_context("spawn")) as workers:
        for name, found in zip(names, workers.map(rows, names, [chosen.seconds] * len(names)), strict=True):
            failed += [name] * (not all(good for good, _ in found))
            print(*[line for _, line in found], sep="\n", flush=True)
    outcome = f"NOT as it must be: {', '.join(failed)}" if failed else "all as it must be"
    print(f"{len(names)} scenarios in {time.monotonic() - began:.0f} s; {outcome}")
    return 1 if failed else 0
