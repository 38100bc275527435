"""How schedules are chosen. `interleave-test` runs one thread at a time and asks a strategy, before each step, who goes on.

    PCT             random priorities and two random demotions; a switch is possible before every bytecode of the library
    N preemptions   every schedule that stops a thread at most N times while it could go on; a switch is possible before
                    every step that other threads can see. A decision holds the lock of its pool, and a switch in the
                    midst of it makes no difference to anybody: only the lines that SHARED matches do. (PCT does not rely
                    on it.)
    random          a random choice at every bytecode; only to compare

Of a pool that several processes share, others can see each load and store of the simulated memory and nothing else: all
searches of it, PCT as well, switch before those alone (`self.step()`).

This file is never traced itself.
"""

from __future__ import annotations

import _thread
import gc
import itertools
import linecache
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import mempool
from verification.schedules import kept, lock
from verification.schedules.world import it

FOLDER = Path(__file__).resolve().parent
LIBRARY = Path(mempool.__file__).resolve().parent
#: What other threads can see of the core: the beginning of a decision, what is looked at without the lock, the wake queue,
#: the wake-ups, the table of outstanding elements.
SHARED = re.compile(
    r"\.lock\.acquire\(False|return self\.state\b|decisions\.state\.first_to_wake is not|\.addresses\b|\.wake\(|\.retry_now"
    r"|self\.step\(\)"
)
#: The memory that simulated processes share.
SIMULATED = FOLDER.parent.parent / "tests/shared/simulated_pool.py"
SHARING_FILES = [path for path in sorted((LIBRARY / "_core").glob("*.py")) if SHARED.search(path.read_text("utf-8"))]
monotonic, sleep = time.monotonic, time.sleep  # the tool puts a clock of its own in their place
#: How long a search may take is told in seconds of its own processor time: a busy machine cuts no search short.
spent = time.process_time
#: Seconds that a thread of the system may take to end when it has nothing left to do.
END_MAX = 60.0

_visible: dict[tuple[CodeType, int], bool] = {}


def is_visible(place: object) -> bool:
    """Whether the step that a thread stands before can matter to others. place: as the tool notes it."""
    if not (isinstance(place, tuple) and place[0] == "line"):
        return False  # one of the tool's own primitives; the line that called it was a step already
    code, line = place[1:]
    if (code, line) not in _visible:
        in_scenario = Path(code.co_filename).resolve().parent == FOLDER
        _visible[code, line] = in_scenario or bool(SHARED.search(linecache.getline(code.co_filename, line)))
    return _visible[code, line]


def wait_for_ends(threads: int) -> None:
    """Until no more than so many threads of the system live, besides the main one.

    A thread of a schedule says that it is done, and then still refers to what it ran until the system has ended it. If it
    were the last to, the pool would close itself there, in the midst of the next schedule, to whose tool it is a stranger.
    """
    end = monotonic() + END_MAX
    while _thread._count() > threads:
        if monotonic() > end:
            raise RuntimeError(f"{_thread._count()} threads live, {threads} did before; one of them has been stopped")
        sleep(0.0001)


def collect_garbage(iteration: int, threads: int) -> None:
    """Between schedules only: a pool that is collected in the midst of one would add steps to it, or meet its locks."""
    wait_for_ends(threads)
    gc.disable()
    kept.kept.clear()
    if iteration % 100 == 0:
        gc.collect()


class Bounded(it.DFSStrategy):
    """All schedules with at most so many preemptions.

    They are taken in random order, so that a search that runs out of time has seen a bit of everything.
    """

    def __init__(self, seconds: float, preemptions: int) -> None:
        super().__init__(max_preemptions=preemptions)
        self._end = spent() + seconds
        self._threads = _thread._count()  # before the first schedule
        self._order = random.Random(1)
        self.switch_points = 0

    def more(self) -> bool:
        return bool(super().more()) and spent() < self._end

    def begin(self, iteration: int, seed: int) -> None:
        collect_garbage(iteration, self._threads)
        untried = self._frontier
        chosen = self._order.randrange(len(untried))
        untried[chosen], untried[-1] = untried[-1], untried[chosen]
        super().begin(iteration, seed)

    def pick(self, runnable: Any, current: Any, index: int) -> Any:
        if current is not None and not is_visible(current.last_location):
            return current
        self.switch_points += 1
        return super().pick(runnable, current, index)


class Pct(it.PCTStrategy):
    """PCT, until the time is up."""

    def __init__(self, seconds: float) -> None:
        super().__init__(depth=3)
        self._end = spent() + seconds
        self._threads = _thread._count()  # before the first schedule

    def begin(self, iteration: int, seed: int) -> None:
        collect_garbage(iteration, self._threads)
        super().begin(iteration, seed)

    def more(self) -> bool | None:
        return None if spent() < self._end else False


class PctOfSteps(Pct):
    """PCT that switches before steps that others can see."""

    def pick(self, runnable: Any, current: Any, index: int) -> Any:
        if current is not None and current in runnable and not is_visible(current.last_location):
            return current
        return super().pick(runnable, current, index)


class Random(it.RandomStrategy):
    """A random choice at every step, until the time is up."""

    def __init__(self, seconds: float) -> None:
        self._end = spent() + seconds
        self._threads = _thread._count()  # before the first schedule

    def begin(self, iteration: int, seed: int) -> None:
        collect_garbage(iteration, self._threads)
        super().begin(iteration, seed)

    def more(self) -> bool | None:
        return None if spent() < self._end else False


@dataclass(frozen=True)
class Search:
    """A way to choose schedules. traced: the files and folders in whose code a thread may be stopped."""

    name: str
    granularity: str
    strategy: Callable[[float], it.Strategy]
    traced: tuple[Path, ...]


PCT = Search("PCT", "opcode", Pct, (LIBRARY, FOLDER))
RANDOM = Search("random", "opcode", Random, (LIBRARY, FOLDER))
ONE = Search("1 preemption", "line", lambda seconds: Bounded(seconds, 1), (*SHARING_FILES, FOLDER))
TWO = Search("2 preemptions", "line", lambda seconds: Bounded(seconds, 2), (*SHARING_FILES, FOLDER))
SHARED_PCT = Search("PCT", "line", PctOfSteps, (SIMULATED, FOLDER))
SHARED_ONE = Search("1 preemption", "line", lambda seconds: Bounded(seconds, 1), (SIMULATED, FOLDER))
SHARED_TWO = Search("2 preemptions", "line", lambda seconds: Bounded(seconds, 2), (SIMULATED, FOLDER))


def search(scenario: Callable[[], None], how: Search, seconds: float, seed: int = 1) -> it.Result:
    """Run a scenario until it fails, the time is used up, or (bounded) no schedule is left."""
    said = sys.unraisablehook
    # A schedule that failed is torn down in the midst of finalizers. `id`: something that takes it and is not traced.
    sys.unraisablehook = id  # type: ignore[assignment]
    try:
        strategy = how.strategy(seconds)
        result = it.explore(
            scenario,
            iterations=1_000_000,
            seed=seed,
            strategy=strategy,
            granularity=how.granularity,
            include=how.traced,
            exclude=[__file__, kept.__file__, lock.__file__],
            raise_on_failure=False,
        )
    finally:
        gc.collect()  # what a failed schedule left behind, while its complaints are still unheard
        gc.enable()
        sys.unraisablehook = said
    if isinstance(strategy, Bounded) and not strategy.switch_points:
        raise RuntimeError(f"{scenario.__name__}: no step was a switch point; the tool does not trace {how.traced}")
    return result


def told(failure: it.Failure) -> str:
    """A failing schedule in a few lines: what went wrong, and where it went from one thread to another."""
    reason = failure.details if failure.exception is None else repr(failure.exception)
    lines = [f"{failure.kind}: {reason}"]
    for before, after in itertools.pairwise(failure.steps):
        if before.chosen != after.chosen:
            lines.append(f"  {before.thread_name} stops, last seen at {before.location};")
            lines.append(f"      {after.thread_name} goes on at {after.location}")
    if failure.traceback:
        lines += failure.traceback.strip().splitlines()[-6:]
    return "\n".join(lines)
