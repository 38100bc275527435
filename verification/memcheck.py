"""`python -m verification.memcheck`: buffers, the table of outstanding elements, leases whose places are used again, threads
that wait, forks and pools of several processes under valgrind, and whether an error is one of our code's.

`python -m verification.memcheck shared` plays the parts alone in whose tests' names that is. A child of a fork is looked at,
too; a process that another program is run in is not: it is there for the one that is looked at to have company.

CPython and NumPy make valgrind report things of their own; what counts is an error whose stack goes through a compiled
module of mempool. (Not what an interpreter leaves allocated when it ends: tests/danger/test_leaks.py looks for leaks.)
So that a clean answer means something, a read beyond the end of a block comes first, and must be seen.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

import mempool

#: Parts, each a process of its own.
LOOKED_AT = (
    (
        "tests/buffers/test_buffers_fuzz.py",
        "tests/memory/test_memory_fuzz.py",
        "tests/pool/test_outstanding.py",
        "tests/leases/test_used_again.py",
    ),
    # Of threads that wait: the locks that they park on, which are C's, and who has one when its thread ends.
    ("tests/line/test_threads_wait.py", "tests/line/test_parkers.py", "tests/line/test_handed_on.py"),
    # What is left to a child of a fork: lifecycle.py, and threads that are begun by native.py.
    ("tests/danger/test_fork.py",),
    ("tests/shared/test_engine.py",),
    ("tests/shared/test_quick_way.py", "tests/shared/test_shared_pool.py"),
    ("tests/shared/test_passing_on.py",),
)
#: Has another element made at the address of one that is gone. Valgrind keeps what was freed aside for a while, so that who
#: still uses it is seen; so this one is looked at apart, with nothing kept aside.
ADDRESS_USED_AGAIN = "tests/pool/test_outstanding.py::test_an_element_whose_address_another_has_is_written_off"
#: Under valgrind the first goes through its child by steps of valgrind's own, for days; the others need pidfd_open, which
#: valgrind 3.19 does not know.
NOT_LOOKED_AT = (
    "tests/shared/test_quick_way.py::test_killed_after_any_change_on_the_quick_way",
    "tests/shared/test_shared_pool.py::test_the_kernel_tells_of_the_end_of_a_process",
    "tests/shared/test_shared_pool.py::test_a_process_that_has_ended_before_it_is_watched_is_told_of",
)
APART = [f"--deselect={test}" for test in (ADDRESS_USED_AGAIN, *NOT_LOOKED_AT)]
#: Without limits of time: faulthandler's look at what all threads do, while they do it, ends the process under valgrind.
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=0", "-o", "faulthandler_timeout=0")
#: Reads the byte behind a block, in a child of a fork that is killed then.
PLANTED = """
import ctypes, os, signal
if child := os.fork():
    os.waitpid(child, 0)
else:
    block = ctypes.create_string_buffer(100)
    ctypes.string_at(ctypes.addressof(block) + 100, 1)
    os.kill(os.getpid(), signal.SIGKILL)
"""
PACKAGE = str(Path(mempool.__file__).parent)
#: Makes CPython's ints. Of a zero that comes from int("0"), int.from_bytes or `&`, CPython 3.11 leaves the one digit unset
#: (from 3.12 on it is set), and multiplies it by how many digits there are, 0. The result is right, but to valgrind it is
#: unset, and so is all that is computed from it: a size, say, which a source multiplies while a pool asks it. That is
#: CPython's doing. Where our code makes an int of what is unset, the origin is another, and it is reported.
MAKES_INTS = "_PyLong_New"


def errors_of(command: list[str], *options: str) -> tuple[int, list[ET.Element]]:
    """Run it under valgrind: its status, and the errors reported, also by children of its forks."""
    with tempfile.TemporaryDirectory() as folder:
        # One for each process: two that write into one spoil each other's. Threads take turns: one that spins starves none.
        reports = ["--xml=yes", f"--xml-file={folder}/%p.xml", "--show-leak-kinds=none"]
        valgrind = ["valgrind", "--tool=memcheck", "--track-origins=yes", "--fair-sched=try", *reports]
        # Each object of the interpreter is a block of its own then, with an end that valgrind knows.
        environment = os.environ | {"PYTHONMALLOC": "malloc", "MEMPOOL_REQUIRE_COMPILED": "1"}
        status = subprocess.run([*valgrind, *options, *command], env=environment, check=False).returncode
        # Whoever was killed has not come to the end of its report.
        texts = [Path(report).read_text("utf-8", "replace") for report in sorted(Path(folder).glob("*.xml"))]
    errors = [ET.fromstring(error) for text in texts for error in re.findall("<error>.*?</error>", text, re.DOTALL)]
    # As XML, valgrind always looks for leaks as well.
    return status, [error for error in errors if not (error.findtext("kind") or "").startswith("Leak_")]


def is_ours(error: ET.Element) -> bool:
    if (error.findtext("kind") or "").startswith("Uninit"):
        _where, *origin = error.findall("stack")
        if any(frame.findtext("fn") == MAKES_INTS for stack in origin for frame in stack.findall("frame")[:2]):
            return False
    return any((place.text or "").startswith(PACKAGE) for place in error.iter("obj"))


def main() -> int:
    if mempool.IMPLEMENTATION != "compiled":
        print("the core is not compiled: there is nothing of ours that valgrind could look at")
        return 1
    _status, planted = errors_of([sys.executable, "-c", PLANTED])
    seen = [error for error in planted if error.findtext("kind") == "InvalidRead"]
    print(f"a read beyond the end: {'reported' if seen else 'NOT REPORTED'}")
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    outcomes = [looks_clean([*APART, *part]) for part in LOOKED_AT if any(wanted in name for name in part)]
    if wanted in ADDRESS_USED_AGAIN:
        outcomes.append(looks_clean([ADDRESS_USED_AGAIN], "--freelist-vol=0"))
    return 0 if seen and outcomes and all(outcomes) else 1


def looks_clean(tests: list[str], *options: str) -> bool:
    """Whether these tests pass under valgrind, with no error of ours; those are printed."""
    status, errors = errors_of([sys.executable, *PYTEST, *tests], *options)
    ours = [error for error in errors if is_ours(error)]
    print(f"{' '.join(tests)}: status {status}, {len(errors)} errors, {len(ours)} of them with mempool on the stack")
    for error in ours:
        print(f"  {error.findtext('kind')}: {error.findtext('.//text') or error.findtext('what')}")
        for frame in list(error.iter("frame"))[:12]:
            print(f"    {frame.findtext('fn')} in {frame.findtext('obj')}")
    return not status and not ours


if __name__ == "__main__":
    sys.exit(main())
