"""`python -m verification.spin`: search every model, print what was searched, and the kernel's counterexamples as steps.

Status 0: all as it must be. 1: it is not. 77: spin or a C compiler is not installed, and nothing was searched.
Debian has spin as a package of that name.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from math import ceil
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
NOT_INSTALLED = 77
ROW = "{:<46} {:>10} {:>6} {:>8} {:>7}  {}"
#: A search that takes longer, of its own processor time, has met a state space that it was not made for.
SECONDS_MAX = 300


@dataclass(frozen=True)
class Run:
    """One search. breaks: the assertion that must be found violated, in part; None: none may be."""

    name: str
    model: str
    flags: tuple[str, ...] = ()
    breaks: str | None = None
    breadth_first: bool = False  # finds the shortest counterexample


#: The client takes and returns two times, and no spare is kept: the second time it needs the buffer of its first intents
#: again, for a word that nobody has written since.
TWICE = ("-DNO_CLIENT_1", "-DTWICE", "-DKEPT=0", "-DCRASHES=0")
RUNS = (
    Run("ours: 2 resizers, 2 callers, a freer", "ours.pml"),
    Run("ours: 3 resizers, a caller, a freer", "ours.pml", ("-DTHREE",)),
    Run("kernel: three resizers overflow the array", "kernel.pml", (), "curr_nr<places", breadth_first=True),
    Run("kernel: a grow wakes nobody", "kernel.pml", ("-DWAKE",), "sleeping", breadth_first=True),
    Run("broken: targets written after the disposal", "ours.pml", ("-DTHREE", "-DSTALE"), "<=slots"),
    Run("broken: a grow passes the line", "ours.pml", ("-DNO_SERVE",), "spare<wanted"),
    Run("broken: who is served is not woken", "ours.pml", ("-DNO_WAKE",), "asleep"),
    Run("broken: who gives up keeps its place", "ours.pml", ("-DNO_ACCEPT",), "users==0"),
    Run("broken: what is being made is not counted", "ours.pml", ("-DTHREE", "-DNO_CLAIM"), "<=5"),
    Run("shared: 2 clients, a reaper, 2 killed", "shared.pml", ("-DNO_RESIZER",)),
    Run("shared: a client, a resizer, a reaper, 2 killed", "shared.pml", ("-DNO_CLIENT_1",)),
    Run("shared: a client twice, where nothing is kept", "shared.pml", TWICE),
    Run("shared: a number is used again", "shared_reuse.pml"),
    Run("shared: elements are passed on, 1 killed", "shared_offers.pml", ("-DCRASHES=1",)),
    Run("broken: nobody helps", "shared.pml", ("-DNO_RESIZER", "-DNO_HELP"), "=="),
    Run("broken: one buffer", "shared.pml", ("-DNO_CLIENT_1", "-DONE_BUFFER"), "=="),
    Run("broken: a copy is not validated", "shared.pml", (*TWICE, "-DNOT_VALIDATED"), "waiting=="),
    Run("broken: applied too early", "shared.pml", ("-DNO_RESIZER", "-DEARLY"), "=="),
    Run("broken: a late helper overwrites", "shared.pml", ("-DNO_RESIZER", "-DOVERWRITE"), "=="),
    Run("broken: a helper forgets a word", "shared.pml", ("-DNO_RESIZER", "-DFORGETS"), "=="),
    Run("broken: what is left is forgotten", "shared.pml", ("-DNO_RESIZER", "-DFORGETS_LEFT"), "=="),
    Run("broken: the epoch is not looked at", "shared_reuse.pml", ("-DNO_EPOCH",), "user"),
    Run("broken: punched before it is the reaper's", "shared_reuse.pml", ("-DLATE_PUNCH",), "memory"),
    Run("broken: a token's number is not compared", "shared_offers.pml", ("-DCRASHES=1", "-DNO_NUMBER"), "content"),
    Run("broken: addressed to one that is not there", "shared_offers.pml", ("-DCRASHES=1", "-DNO_RECEIVER"), "state==0"),
    Run("broken: addressed to one that clears up", "shared_offers.pml", ("-DCRASHES=1", "-DSTAYS_LIVE"), "state=="),
    Run("broken: what is offered is nobody's", "shared_offers.pml", ("-DCRASHES=1", "-DBY_NOBODY"), "state==0"),
    Run("broken: recalled though it was adopted", "shared_offers.pml", ("-DCRASHES=1", "-DNO_RECALL_CHECK"), "user==0"),
)
#: `make verify-long`: all four processes of the big model, in as many states as fit into the memory and the time.
LONG_RUNS = (
    Run("shared: elements are passed on to either of two, 2 killed", "shared_offers.pml", ("-DTHIRD", "-DCRASHES=2")),
    Run("shared: all four, 1 killed", "shared.pml", ("-DCRASHES=1",)),
    Run("shared: all four, 2 killed", "shared.pml", ("-DCRASHES=2",)),
)


def limited(seconds: float, *command: str) -> tuple[str, ...]:
    """The command with a limit of processor time: a busy machine makes it slower, and must cut nothing short."""
    return ("sh", "-c", f'ulimit -t {ceil(seconds)}; exec "$@"', "sh", *command)


def call(*command: str, cwd: Path, seconds: float = SECONDS_MAX) -> str:
    """Run a command to its end and return what it prints. Raises CalledProcessError."""
    done = subprocess.run(
        limited(seconds, *command), cwd=cwd, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout


def figure(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else "?"


def steps(run: Run, folder: Path) -> list[str]:
    """The counterexample in the words that the model prints on its way."""
    printed = call("spin", "-t", "-T", *run.flags, run.model, cwd=folder)
    told = [line.strip() for line in printed.splitlines()]
    end = next((i for i, line in enumerate(told) if line.startswith("spin:")), len(told))
    return [f"    {i}. {line}" for i, line in enumerate(filter(None, told[:end]), 1)]


def search(run: Run, *, quietly: bool = False) -> bool:
    """Search one model; whether it came out as it must. quietly: prints nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copy(FOLDER / run.model, folder)
        call("spin", *run.flags, "-a", run.model, cwd=folder)
        kind = "-DBFS" if run.breadth_first else "-DCOLLAPSE"
        # What a counterexample takes to be found is less than what the optimizer takes for the models of shared memory.
        optimized = "-O0" if run.breaks and run.model.startswith("shared") else "-O2"
        call("gcc", "-w", optimized, "-DSAFETY", kind, "-o", "pan", "pan.c", cwd=folder)
        began = time.monotonic()
        # -E: who waits for an element that nobody frees is no error; the model's Monitor says who may not wait.
        printed = call("./pan", "-E", "-m1000000", "-w26", cwd=folder)
        seconds = time.monotonic() - began
        violated = figure(r"pan:\d+: (?:assertion violated )?(.*) \(at depth", printed)
        complete = "errors: 0" in printed and "Search not completed" not in printed and "max search depth" not in printed
        if run.breaks is None:
            good = complete
            verdict = "holds in every state" if good else f"FAILS: {violated}"
        else:
            good = run.breaks in violated
            verdict = f"counterexample: {violated}" if good else f"NOT CAUGHT ({violated})"
        if quietly:
            return good
        states, depth = figure(r"(\d+) states, stored", printed), figure(r"depth reached (\d+)", printed)
        megabytes = figure(r"([\d.]+)\ttotal actual memory", printed).split(".")[0]
        print(ROW.format(run.name, states, depth, f"{seconds:.1f}", megabytes, verdict), flush=True)
        if run.breaks and run.model == "kernel.pml" and violated != "?":
            print(*steps(run, folder), sep="\n", flush=True)
        return good


def search_long(run: Run, minutes: int) -> bool:
    """Search one model as far as the time goes, with two bits a state; whether nothing was found.

    Two states may share their bits, so what is told is how many states were met, and never that there are no others.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copy(FOLDER / run.model, folder)
        call("spin", *run.flags, "-a", run.model, cwd=folder)
        call("gcc", "-w", "-O2", "-DSAFETY", "-DBITSTATE", "-o", "pan", "pan.c", cwd=folder, seconds=1800)
        began = time.monotonic()
        printed = call("./pan", "-E", "-m1000000", "-w34", "-k2", f"-Q{minutes}", cwd=folder, seconds=60 * minutes + 120)
    good = "errors: 0" in printed
    verdict = "holds in every state that was met" if good else f"FAILS: {figure(r'pan:.*: (.*) .at depth', printed)}"
    verdict += "; the time was up" if "Search not completed" in printed else "; there was no other"
    states, depth = figure(r"([\d.e+]+) states, stored", printed), figure(r"depth reached (\d+)", printed)
    megabytes = figure(r"([\d.]+)\ttotal actual memory", printed).split(".")[0]
    print(ROW.format(run.name, states, depth, f"{time.monotonic() - began:.1f}", megabytes, verdict), flush=True)
    return good


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m verification.spin", description=__doc__)
    options.add_argument("words", nargs="*", help="only searches whose name contains one of these")
    options.add_argument("--long", type=int, metavar="MINUTES", help="all processes of the big model, so long each")
    chosen = options.parse_args()
    missing = [tool for tool in ("spin", "gcc") if shutil.which(tool) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}; no model was searched (Debian: apt-get install {' '.join(missing)})")
        return NOT_INSTALLED
    print(ROW.format("model", "states", "depth", "seconds", "MB", "result"))
    runs = [
        run
        for run in (LONG_RUNS if chosen.long else RUNS)
        if not chosen.words or any(word in run.name for word in chosen.words)
    ]
    failed: list[str] = []
    for run in runs:
        try:
            if not (search_long(run, chosen.long) if chosen.long else search(run)):
                failed.append(run.name)
        except subprocess.CalledProcessError as error:
            print(f"{run.name}: {error}\n{error.output}")
            failed.append(run.name)
    outcome = f"NOT as it must be: {', '.join(failed)}" if failed else "all as it must be"
    print(f"{len(runs)} searches; {outcome}")
    return 1 if failed else 0
