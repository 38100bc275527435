"""The process in which libFuzzer runs: `python -m verification.fuzz.here FOLDER ITS ARGUMENTS`. run.py starts it."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import traceback
from pathlib import Path

from mempool.shared import _engine
from verification.fuzz.target import Target

#: In every so many'th input all that is left over must be gone.
LOOKED_AT = 1000
DESCRIPTORS_MAX = 64


class Runner:
    """Runs inputs, and ends the process where one is a finding: libFuzzer keeps it then."""

    def __init__(self, folder: Path) -> None:
        self.target = Target(folder)
        self.told = folder / "told"
        self.number = 0

    def __call__(self, data: int, size: int) -> int:
        try:
            self.target.run(ctypes.string_at(data, size))
            self.number += 1
            if self.number % LOOKED_AT == 0:
                gc.collect()
                left = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a Path says the same in more words
                assert left < DESCRIPTORS_MAX, f"{left} descriptors are open: what could not be attached to was not closed"
                self.told.write_text(f"{self.target.attached} {self.target.calls}")
        except BaseException:  # noqa: BLE001 - whatever it is
            traceback.print_exc()
            sys.stderr.flush()
            os.abort()
        return 0


def main() -> None:
    runner = Runner(Path(sys.argv[1]))
    called = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)(runner)
    words = [b"fuzz", *map(os.fsencode, sys.argv[2:])]
    arguments = (ctypes.c_char_p * (len(words) + 1))(*words, None)
    ctypes.PyDLL(_engine.__file__).fuzz_run(len(words), arguments, called)  # ends the process


main()
