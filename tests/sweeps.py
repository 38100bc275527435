"""Sweeps: the same call again and again, disturbed after its first, second, third ... step, until it goes undisturbed."""

from __future__ import annotations

import dis
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

import mempool

PACKAGE = str(Path(mempool.__file__).parent)
ENDS = {"RETURN_VALUE", "RETURN_CONST"}


class Interrupter:
    """Raises KeyboardInterrupt before the n-th bytecode that the package executes (uncompiled), counted from 1."""

    def __init__(self, n: int) -> None:
        self.countdown = n
        self.struck_at: str | None = None

    def __enter__(self) -> Self:
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(None)

    def _enter_frame(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE) or "testing" in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event != "opcode":
            return self._step
        if _hands_over(frame):
            return self._step  # an interrupt here is one in the caller, after the call
        if _in_finalizer(frame):
            return self._step  # Python swallows what flies there
        self.countdown -= 1
        if self.countdown == 0:
            self.struck_at = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
            sys.settrace(None)
            raise KeyboardInterrupt(self.struck_at)
        return self._step


_operations: dict[CodeType, dict[int, str]] = {}


def _in_finalizer(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename.startswith(PACKAGE):
        if frame.f_code.co_name in {"__del__", "_forget", "<lambda>"}:
            return True
        frame = frame.f_back
    return False


def _hands_over(frame: FrameType) -> bool:
    """Whether this is the very return of a public call to a caller outside of the package."""
    outside = frame.f_back is None or not frame.f_back.f_code.co_filename.startswith(PACKAGE)
    if not outside:
        return False
    code = frame.f_code
    if code not in _operations:
        _operations[code] = {i.offset: i.opname for i in dis.get_instructions(code)}
    return _operations[code].get(frame.f_lasti) in ENDS


#: 1: every bytecode. By default every 37th: `make stress` takes them all.
STEP = int(os.environ.get("MEMPOOL_SWEEP_STEP", "37"))


def interrupted_everywhere() -> Iterator[Interrupter]:
    """Interrupters for n = 1, 2, 3 ... (or each STEP); ends after the first that found nothing left to interrupt."""
    for n in itertools.count(1, STEP):
        interrupter = Interrupter(n)
        yield interrupter
        if interrupter.struck_at is None:
            return


def audit(pool: mempool.Pool[Any]) -> None:
    """What must hold of a pool that nobody uses: every element is accounted for, nobody waits, the next alloc works."""
    stats = pool.stats()
    assert stats.made - stats.disposed == stats.spare + stats.out + stats.disposing
    assert stats.out == 0, pool
    assert stats.disposing == 0, pool
    assert stats.waiting == 0, pool
    assert pool.core.figures()["claimed"] == 0, pool
    assert pool.core.figures()["filling"] == 0, pool
    if not stats.closed:
        element = pool.alloc(timeout=0)
        pool.free(element)
