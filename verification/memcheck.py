"""`python -m verification.memcheck`: buffers and the table of outstanding elements under valgrind, and whether an error is
one of our code's.

CPython and NumPy make valgrind report things of their own; what counts is an error whose stack goes through a compiled
module of mempool. (Not what an interpreter leaves allocated when it ends: tests/danger/test_leaks.py looks for leaks.)
So that a clean answer means something, a read beyond the end of a block comes first, and must be seen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

import mempool

FUZZ = ("tests/buffers/test_buffers_fuzz.py", "tests/memory/test_memory_fuzz.py", "tests/pool/test_outstanding.py")
#: Reads the byte behind a block.
PLANTED = "import ctypes; block = ctypes.create_string_buffer(100); ctypes.string_at(ctypes.addressof(block) + 100, 1)"
PACKAGE = str(Path(mempool.__file__).parent)


def errors_of(command: list[str]) -> tuple[int, list[ET.Element]]:
    """Run it under valgrind: its status, and the errors reported."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        valgrind = ["valgrind", "--tool=memcheck", "--xml=yes", f"--xml-file={report}", *command]
        # Each object of the interpreter is a block of its own then, with an end that valgrind knows.
        environment = os.environ | {"PYTHONMALLOC": "malloc", "MEMPOOL_REQUIRE_COMPILED": "1"}
        status = subprocess.run(valgrind, env=environment, check=False).returncode
        errors = ET.parse(report).getroot().findall("error")
        # As XML, valgrind always looks for leaks as well.
        return status, [error for error in errors if not (error.findtext("kind") or "").startswith("Leak_")]


def is_ours(error: ET.Element) -> bool:
    return any((place.text or "").startswith(PACKAGE) for place in error.iter("obj"))


def main() -> int:
    if mempool.IMPLEMENTATION != "compiled":
        print("the core is not compiled: there is nothing of ours that valgrind could look at")
        return 1
    _status, planted = errors_of([sys.executable, "-c", PLANTED])
    seen = [error for error in planted if error.findtext("kind") == "InvalidRead"]
    print(f"a read beyond the end: {'reported' if seen else 'NOT REPORTED'}")
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=0", *FUZZ]
    status, errors = errors_of(tests)
    ours = [error for error in errors if is_ours(error)]
    print(f"{', '.join(FUZZ)}: {len(errors)} errors reported, {len(ours)} of them with mempool on the stack")
    for error in ours:
        print(f"  {error.findtext('kind')}: {error.findtext('.//text') or error.findtext('what')}")
        for frame in list(error.iter("frame"))[:12]:
            print(f"    {frame.findtext('fn')} in {frame.findtext('obj')}")
    return 0 if seen and not ours and not status else 1


if __name__ == "__main__":
    sys.exit(main())
