"""Data races, told by ThreadSanitizer: `python -m verification.races INTERPRETER [SECONDS] [SCENE ...]`; `make races-ft`.

INTERPRETER: a CPython without the GIL that was built with it, as `SANITIZER=thread bash .ci/free-threaded --build` does. It
plays the scenes of `verification.without_the_gil`, with the compiled modules of the Python that runs this, which were built
with it, too. Fails where a scene does, or where a report is not of CPython alone and listed, with its reason, in races.txt.

A detector that sees no planted race proves nothing, so two come first: in a module of ours, two threads write to one object;
and where `MEMPOOL_WITHOUT_MUTEX` names the modules of a build in which a pool's mutex does nothing, a scene is played on it.

The sanitizer tells of two accesses that nothing orders. In CPython much does so by accident: each time that a thread counts
a reference to an object that another one has made, that is an atomic operation, and orders all that both did before and
after. Two calls of one pool are then told of only if they overlap to the nanosecond. So what threads share here is not
counted: it is immortal, and so is all that it is made of.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import types
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LISTED = Path(__file__).with_name("races.txt")
#: A frame of a stack: the function, its place in a source, and its module.
FRAME = re.compile(r"^ +#\d+ (?P<function>\S+) (?P<place>.*) \((?P<module>[^()+]+)\+0x[0-9a-f]+\)$", re.MULTILINE)
#: Frames of the two accesses that are told in a line.
SHOWN = 5
#: The scene that is played without a mutex, and its seconds.
PLANTED = ("load-objects-identity-8", 4)
#: What is a race, and in a module of ours: the program's, not the pool's. Each begins when both are there, and stays until
#: both are done; and by no lock: what a thread does when it wakes another, or ends, orders all that it has done before.
CONTROL = """
import threading
from mempool._core.transfer import Transfer
from verification.races import uncounted
transfer, here, done = uncounted([Transfer(1), [False, False], [False, False]])
def write(number):
    defer = transfer.defer  # each thread its own: to look it up takes a lock
    here[number] = True
    while not here[1 - number]:
        pass
    for _ in range(1000):
        defer()
    done[number] = True
    while not done[1 - number]:
        pass
threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
#: Played in a process of the instrumented interpreter.
PLAY = """
import sys
from verification import races, without_the_gil
without_the_gil.shared = races.uncounted
sys.exit(without_the_gil.main(sys.argv[1:]))
"""
#: What is made of other things that threads share with it.
INNER = (
    dict,
    list,
    tuple,
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
#: Where a count of references stands in an object of CPython 3.13 without the GIL, and the count of an immortal one.
LOCAL_COUNT, FOR_EVER = 12, 0xFFFFFFFF


def uncounted(thing: Any) -> Any:
    """Make this immortal, and what it is made of: in this process, nothing of it ends."""
    if sys.version_info[:2] != (3, 13) or not sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise RuntimeError("where CPython counts references is known of 3.13 without the GIL")
    seen: set[int] = set()
    inner = [thing]
    while inner:
        one = inner.pop()
        is_ours = (one if isinstance(one, type) else type(one)).__module__.partition(".")[0] == "mempool"
        if id(one) in seen or not (is_ours or isinstance(one, INNER)):
            continue
        seen.add(id(one))
        ctypes.c_uint32.from_address(id(one) + LOCAL_COUNT).value = FOR_EVER
        if is_ours:
            inner.append(type(one))
        if is_ours or not isinstance(one, (type, types.FunctionType)):
            inner += gc.get_referents(one)
    return thing


@dataclass(frozen=True)
class Report:
    """What the sanitizer tells of two accesses."""

    text: str

    def accesses(self) -> list[list[re.Match[str]]]:
        """The frames of each, innermost first, without the sanitizer's own."""
        parts = re.split(r"\n\n", self.text)
        stacks = [list(FRAME.finditer(part)) for part in parts if re.search(r"(?i)\b(read|write) of size", part)]
        return [[frame for frame in stack if not frame["module"].startswith("libtsan")] for stack in stacks]

    def is_in(self, modules: set[str]) -> bool:
        """Whether one of the two is in one of these modules, and not in an interpreter that they called."""
        return any(stack and stack[0]["module"] in modules for stack in self.accesses())

    def is_listed(self, functions: set[str]) -> bool:
        return any(stack and stack[0]["function"] in functions for stack in self.accesses())

    def __str__(self) -> str:
        """The innermost frames of both."""
        return "\n   <-> ".join(
            " < ".join(f"{frame['function']} ({Path(frame['place']).name})" for frame in stack[:SHOWN])
            for stack in self.accesses()
        )


@dataclass(frozen=True)
class Played:
    """What came of it: the scenes' status, the reports, and what else the sanitizer had to say."""

    status: int
    reports: list[Report]
    others: list[str]


def play(interpreter: str, installed: str, code: str, *arguments: str) -> Played:
    """Run this code. installed: the folder in which mempool is."""
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "log_path": Path(folder, "report"),
            "exitcode": 0,  # its own is the scenes'
            "die_after_fork": 0,  # a scene forks in the midst of threads
            "history_size": 6,  # else who made the other access is forgotten, and nothing is told
        }
        environment = os.environ | {
            "PYTHON_GIL": "0",
            "PYTHONPATH": os.pathsep.join([str(Path.cwd()), installed]),
            "TSAN_OPTIONS": " ".join(f"{name}={value}" for name, value in options.items()),
        }
        command = [interpreter, "-W", "ignore", "-c", code, *arguments]
        status = subprocess.run(command, env=environment, check=False).returncode
        logs = [path.read_text("utf-8", "replace") for path in sorted(Path(folder).glob("report.*"))]
    parts = [part for log in logs for part in log.split("==================")]
    reports = [Report(part) for part in parts if "WARNING: ThreadSanitizer" in part]
    others = [part.strip() for part in parts if "ThreadSanitizer:" in part and "WARNING: " not in part]
    return Played(status, reports, [other for other in others if not re.fullmatch(r"ThreadSanitizer: reported .*", other)])


def listed() -> set[str]:
    """The functions of CPython in which a race is its own."""
    lines = [line.partition("#")[0].strip() for line in LISTED.read_text("utf-8").splitlines()]
    return {line for line in lines if line}


def is_blind(interpreter: str, installed: str, modules: set[str]) -> str | None:
    """Why nothing would be told; None: what was planted is told."""
    if not any(report.is_in(modules) for report in play(interpreter, installed, CONTROL).reports):
        return "two threads have written to one object at once, and nothing was reported"
    broken = os.environ.get("MEMPOOL_WITHOUT_MUTEX")
    if broken:
        scene, seconds = PLANTED
        told = [report for report in play(interpreter, broken, PLAY, str(seconds), scene).reports if report.is_in(modules)]
        if not told:
            return f"{scene} was played without a mutex, and nothing was reported"
        print(f"planted: without a mutex {scene} gives {len(told)} reports, of which the first is\n{told[0]}")
    return None


def main(arguments: list[str]) -> int:
    """Returns 0 where no scene failed, and nothing was reported that is not CPython's own."""
    interpreter, *rest = arguments
    installed = sysconfig.get_path("platlib")
    modules = {path.name for path in Path(installed, "mempool").rglob("*.so")}
    blind = is_blind(interpreter, installed, modules)
    if blind is not None:
        print(f"{blind}: this tells of no race")
        return 1
    played = play(interpreter, installed, PLAY, *(rest or ["60"]))
    known = listed()
    ours = [report for report in played.reports if report.is_in(modules)]
    unknown = [report for report in played.reports if not report.is_in(modules) and not report.is_listed(known)]
    for kind, reports in (("ours", ours), ("not listed", unknown)):
        for text, times in Counter(map(str, reports)).most_common():
            print(f"{kind}, {times} x {text}")
    for report in (*ours[:3], *unknown[:1]):
        print(report.text)
    print(*played.others, sep="\n", end="\n" * bool(played.others))
    told = f"{len(ours)} reports in a module of mempool; in CPython {len(unknown)} that {LISTED.name} does not list"
    print(f"{told}, {len(played.reports) - len(ours) - len(unknown)} that it does")
    return int(played.status != 0 or bool(ours) or bool(unknown) or bool(played.others))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
