"""`python -m verification.shared_bugs`: each bug that SharedPool must not have, planted; who sees it?

One bug at a time: in the simulation that the tests sweep, in a copy of protocol.h that real processes work with while they
are killed, in a copy that relacy explores, and as a switch of the models that Spin searches. Prints who saw it. Status 1
where one that must see it did not, or where the bug no longer fits the code; 77 where all that was tried is as it must be,
and a tool is missing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from simulated_pool import Faults
from test_killed_at_each_step import caught_by_killing, caught_by_schedules, caught_by_stopping
from test_slow_reapers import no_epoch, punch_at_once
from test_slow_reapers import sweep as sweep_of_slow_reapers

from mempool.shared import membership, operations
from verification.ordering import run as ordering
from verification.spin import run as spin

TREE = Path(__file__).resolve().parent.parent
NOT_INSTALLED = 77
ROW = "{:<38} {:<16} {:>8}  {}"
#: Seconds that real processes may take to meet a bug. They are killed some 300 times a second.
STORM_SECONDS = 20
EXECUTIONS = 200_000
#: How often a switch of Spin may stand in several models: the names of its searches begin so.
BROKEN = "broken: "


@dataclass(frozen=True)
class Bug:
    """What is wrong, and who must see it."""

    name: str
    seen_by: frozenset[str]
    #: Of the simulated protocol.
    faults: Faults | None = None
    #: Of protocol.h: what stands in the place of what.
    patch: tuple[str, str] | None = None
    #: Of Spin: the search whose name ends so.
    model: str | None = None
    #: Of the decisions: a module, a name in it and what takes its place.
    decision: tuple[object, str, Callable[..., object]] | None = None


#: In the order of the columns of README.md.
WAYS = ("kills", "stops", "schedules", "slow reapers", "processes", "orders", "spin")
BUGS = (
    Bug(
        "nobody helps",
        frozenset({"kills", "processes", "spin"}),
        Faults(nobody_helps=True),
        ("if (root != store->finished) {", "if (0) {"),
        "nobody helps",
    ),
    Bug(
        "a helper's copy is not validated",
        frozenset({"schedules", "spin"}),
        Faults(copy_not_validated=True),
        ("if (MP_GLANCE(&store->root->value) != root)\n        return 0;", "if (0)\n        return 0;"),
        "a copy is not validated",
    ),
    Bug(
        "one buffer",
        frozenset({"schedules", "spin"}),
        Faults(one_buffer=True),
        ("uint64_t spare = follows_own ? !mp_buffer(before) : 0;", "uint64_t spare = 0;"),
        "one buffer",
    ),
    Bug(
        "applied too early",
        frozenset({"kills", "processes", "spin"}),
        Faults(applied_too_early=True),
        (
            "    uint64_t root = mp_root(version, me, spare);\n",
            "    uint64_t root = mp_root(version, me, spare);\n    MP_STORE(&intent->applied, version);\n",
        ),
        "applied too early",
    ),
    Bug(
        "a late helper overwrites",
        frozenset({"stops", "spin"}),
        Faults(late_helper_overwrites=True),
        ("if (sequence >= version)", "if (sequence == version)"),
        "a late helper overwrites",
    ),
    Bug(
        "a helper forgets a word",
        frozenset({"kills", "processes", "spin"}),
        Faults(helper_forgets_a_word=True),
        (
            "for (uint64_t i = 0; i < copy.count; i++)\n        if (mp_apply(",
            "for (uint64_t i = 0; i < copy.count - (copy.count > 1); i++)\n        if (mp_apply(",
        ),
        "a helper forgets a word",
    ),
    Bug(
        "what is left is forgotten",
        frozenset({"kills", "processes", "spin"}),
        Faults(what_is_left_is_forgotten=True),
        ("if (store->left_word != MP_NOWHERE && mp_write_left(store, t) < 0)", "if (0)"),
        "what is left is forgotten",
    ),
    Bug(
        "what is left is not read",
        frozenset({"kills", "processes"}),
        Faults(what_is_left_is_not_read=True),
        (
            "    if (word == store->left_word)\n        return store->left_value;\n",
            "",
        ),
    ),
    Bug(
        "the epoch is not looked at",
        frozenset({"slow reapers", "spin"}),
        model="the epoch is not looked at",
        decision=(membership, "may_reap", no_epoch),
    ),
    Bug(
        "punched before it is the reaper's",
        frozenset({"slow reapers", "spin"}),
        model="punched before it is the reaper's",
        decision=(operations, "reap_slot", punch_at_once),
    ),
)

#: Sees it: True; tried and did not see it: False; it cannot be tried here: None.
Answer = bool | None


def in_the_simulation(bug: Bug, sees: Callable[[Faults], bool]) -> Answer:
    return None if bug.faults is None else sees(bug.faults)


def by_slow_reapers(bug: Bug) -> Answer:
    if bug.decision is None:
        return None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*bug.decision)
        try:
            sweep_of_slow_reapers()
        except AssertionError:
            return True
    return False


def plant(bug: Bug, folder: Path) -> bool:
    """Write the header with the bug in it. False: there is no such bug of the header."""
    if bug.patch is None:
        return False
    sound, broken = bug.patch
    text = (TREE / "src/mempool/shared/protocol.h").read_text("utf-8")
    if text.count(sound) != 1:
        raise ValueError(f"{bug.name}: protocol.h is no longer what the bug was made for: {sound!r}")
    (folder / "protocol.h").write_text(text.replace(sound, broken), "utf-8")
    return True


def built_and_run(compiler: list[str], source: str, folder: Path, argument: str, seconds: float) -> bool:
    """Whether the program objects, with the header of this folder, or hangs for so many seconds of processor time."""
    program = str(folder / Path(source).stem)
    built = ordering.call(*compiler, "-O2", "-w", f"-I{folder}", str(TREE / "verification/ordering" / source), "-o", program)
    if built.returncode != 0:
        raise ValueError(f"{source}: {built.stdout}")
    command = spin.limited(seconds, program, argument)
    return subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT).returncode != 0


def by_processes(bug: Bug, folder: Path) -> Answer:
    if shutil.which("gcc") is None or not plant(bug, folder):
        return None
    return built_and_run(["gcc", "-mcx16", "-std=gnu11"], "processes.c", folder, str(STORM_SECONDS), STORM_SECONDS + 60)


def by_orders(bug: Bug, folder: Path) -> Answer:
    if shutil.which("g++") is None or not ordering.RELACY.is_dir() or not plant(bug, folder):
        return None
    return built_and_run(["g++", "-std=c++11"], "explored.cpp", folder, str(EXECUTIONS), 300)


def by_spin(bug: Bug) -> Answer:
    if shutil.which("spin") is None or shutil.which("gcc") is None or bug.model is None:
        return None
    (found,) = (run for run in spin.RUNS if run.name == BROKEN + bug.model)
    return spin.search(found, quietly=True)


def ask(way: str, bug: Bug, folder: Path) -> Answer:
    if way == "slow reapers":
        return by_slow_reapers(bug)
    if way == "processes":
        return by_processes(bug, folder)
    if way == "orders":
        return by_orders(bug, folder)
    if way == "spin":
        return by_spin(bug)
    sees = {"kills": caught_by_killing, "stops": caught_by_stopping, "schedules": caught_by_schedules}
    return in_the_simulation(bug, sees[way])


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m verification.shared_bugs", description=__doc__)
    options.add_argument("words", nargs="*", help="only bugs whose name contains one of these")
    options.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS, help="only by these")
    chosen = options.parse_args()
    print(ROW.format("bug", "looked for by", "seconds", "result"))
    missed, lacking = [], False
    for bug in BUGS:
        if chosen.words and not any(word in bug.name for word in chosen.words):
            continue
        for way in chosen.ways:
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as scratch:
                answer = ask(way, bug, Path(scratch))
            must = way in bug.seen_by
            if answer is None and not must:
                continue
            verdict = {True: "seen", False: "not seen", None: "not tried: a tool is not installed"}[answer]
            lacking |= answer is None
            if must and answer is False:
                missed.append(f"{bug.name} ({way})")
                verdict = "MISSED"
            print(ROW.format(bug.name, way, f"{time.monotonic() - began:.1f}", verdict), flush=True)
    print(f"MISSED: {', '.join(missed)}" if missed else "each bug was seen by all who must see it")
    return 1 if missed else NOT_INSTALLED if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
