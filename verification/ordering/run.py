"""`python -m verification.ordering`: search the orders of memory accesses, and run the header on an emulated AArch64.

Status 0: all as it must be. 1: it is not. 77: a tool is not installed, and its part was left out. Debian has all of them:
relacy-dev g++ gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static.

An emulator on x86-64 orders memory more strictly than a processor of ARM's may, so it shows that the instructions are the
right ones; that the order suffices, relacy's search shows. Neither has run on ARM hardware.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SHARED = FOLDER.parent.parent / "src/mempool/shared"
RELACY = Path("/usr/include/relacy")
NOT_INSTALLED = 77
ROW = "{:<58} {:>10} {:>8}  {}"
SECONDS_MAX = 1200


@dataclass(frozen=True)
class Search:
    """One search by relacy. weak: what is left out; then it must object."""

    name: str
    weak: str | None = None
    arguments: tuple[str, ...] = ()


def searches(executions: int) -> list[Search]:
    return [
        Search("ordering: at random", None, (str(executions),)),
        Search("broken: loads do not acquire", "LOAD", (str(executions),)),
        Search("broken: the mark of what is applied does not release", "STORE", (str(executions),)),
        Search("broken: a swap orders nothing", "SWAP", (str(executions),)),
        Search("broken: no fence before the root is read again", "ACQUIRE_FENCE", (str(executions),)),
        Search("broken: no fence before an intent is written", "RELEASE_FENCE", (str(executions),)),
    ]


@dataclass(frozen=True)
class Machine:
    """How processes.c is built and run."""

    name: str
    build: tuple[str, ...]
    run: tuple[str, ...] = ()


MACHINES = (
    Machine("processes: here", ("gcc", "-mcx16") if os.uname().machine == "x86_64" else ("gcc",)),
    Machine(
        "processes: AArch64, LDAXP and STLXP, emulated",
        ("aarch64-linux-gnu-gcc", "-march=armv8-a", "-static"),
        ("qemu-aarch64-static",),
    ),
    Machine(
        "processes: AArch64, CASP, emulated",
        ("aarch64-linux-gnu-gcc", "-march=armv8.1-a", "-static"),
        ("qemu-aarch64-static",),
    ),
)


def call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, timeout=SECONDS_MAX, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def search(what: Search, folder: Path) -> bool:
    """Whether it came out as it must."""
    program = str(folder / f"explored-{what.weak}")
    flags = [] if what.weak is None else [f"-DWEAK_{what.weak}"]
    built = call("g++", "-std=c++11", "-O2", "-w", f"-I{SHARED}", *flags, str(FOLDER / "explored.cpp"), "-o", program)
    if built.returncode != 0:
        print(what.name, built.stdout)
        return False
    began = time.monotonic()
    done = call(program, *what.arguments)
    found = re.findall(r"(?:holds|FAILS): (\d+) executions", done.stdout)
    holds = done.returncode == 0
    good = bool(found) and holds is (what.weak is None)
    said = re.search(r"^(?:USER ASSERT FAILED|[A-Z][A-Z ]+)\b.*$", done.stdout, re.MULTILINE)
    verdict = (
        "holds"
        if holds
        else f"{'noticed' if what.weak else 'FAILS'}: {said[0].strip().lower() if said else done.stdout[-500:]}"
    )
    if not good and what.weak:
        verdict = "NOT NOTICED"
    print(ROW.format(what.name, sum(map(int, found)), f"{time.monotonic() - began:.1f}", verdict), flush=True)
    return good


def run_on(machine: Machine, folder: Path, seconds: float) -> bool:
    """Whether the processes were right."""
    program = str(folder / "processes")
    built = call(
        *machine.build, "-std=gnu11", "-O2", "-Wall", "-Werror", f"-I{SHARED}", str(FOLDER / "processes.c"), "-o", program
    )
    if built.returncode != 0:
        print(machine.name, built.stdout)
        return False
    done = call(*machine.run, program, str(seconds))
    found = re.search(r"(right|WRONG): (\d+) transactions, (.*)", done.stdout)
    verdict = f"{found[1]}: {found[3]}" if found else f"status {done.returncode}: {done.stdout[-300:]}"
    print(ROW.format(machine.name, found[2] if found else "?", f"{seconds:.1f}", verdict), flush=True)
    return done.returncode == 0


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m verification.ordering", description=__doc__)
    options.add_argument("seconds", nargs="?", type=float, default=10.0, help="how long processes run on each machine")
    options.add_argument(
        "--executions", type=int, default=300_000, help="how many orders are tried at random in each search"
    )
    options.add_argument("words", nargs="*", help="only what has one of these in its name")
    chosen = options.parse_args()
    good, missing = True, set[str]()
    print(ROW.format("what", "number", "seconds", "result"))
    with tempfile.TemporaryDirectory() as scratch:
        for what in searches(chosen.executions):
            if chosen.words and not any(word in what.name for word in chosen.words):
                continue
            if shutil.which("g++") is None or not RELACY.is_dir():
                missing.add("relacy-dev, g++")
                continue
            good &= search(what, Path(scratch))
        for machine in MACHINES:
            if chosen.words and not any(word in machine.name for word in chosen.words):
                continue
            lacking = {tool for tool in (machine.build[0], *machine.run[:1]) if shutil.which(tool) is None}
            if lacking:
                missing |= lacking
                continue
            good &= run_on(machine, Path(scratch), chosen.seconds)
    if missing:
        print(f"not installed, and left out: {', '.join(sorted(missing))}")
    print("all as it must be" if good else "NOT as it must be")
    return 1 if not good else NOT_INSTALLED if missing else 0
