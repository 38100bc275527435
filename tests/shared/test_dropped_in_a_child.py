"""Buffers that a child of a fork inherits are its parent's: it drops them without a word."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool import SharedPool

ctypes = pytest.importorskip("ctypes")

pytestmark = pytest.mark.once


@pytest.mark.parametrize("fork", [os.fork, ctypes.PyDLL(None).fork], ids=["os", "C"])
def test_a_child_drops_what_its_parent_has_and_nothing_is_said(pool_path: Path, fork: Callable[[], int]) -> None:
    """Also one that was forked in C, of which no hook of Python has run, and which drops before it does anything else."""
    with SharedPool("pool", "4 KiB", 1, limit=1, folder=pool_path.parent) as pool:
        held = [pool.alloc()]
        pid = fork()
        if pid == 0:
            said: list[object] = []
            try:
                sys.unraisablehook = said.append
                held.clear()
                if said:
                    print(said, file=sys.stderr)
                os._exit(len(said))
            finally:
                os._exit(70)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert pool.stats().out == 1
        pool.free(held.pop())
        assert pool.verify() == []
