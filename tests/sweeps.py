"""Sweeps: the same call again and again, disturbed after its first, second, third ... step, until it goes undisturbed."""

from __future__ import annotations

import dis
import gc
import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self

import mempool

PACKAGE = str(Path(mempool.__file__).parent)
ENDS = {"RETURN_VALUE", "RETURN_CONST"}
#: Where no interrupt comes. NOT_TAKEN (CPython 3.14 and later) does nothing. On 3.14.10, after a TO_BOOL, it is outside of
#: the `try` around it: an exception struck there left a pool's lock held, and whoever collected that pool waited for ever.
BETWEEN = {"NOP", "NOT_TAKEN", "PUSH_EXC_INFO", "POP_EXCEPT"}
#: CPython from 3.13 on (seen on 3.13.0, 3.14.10 and 3.15.2) tells of the bytecodes of a function only from its next call on:
#: what is called once is not struck there.
TELLS_LATE = sys.version_info >= (3, 13)


class AtBytecode:
    """Does something before the n-th bytecode that the package executes (uncompiled), counted from 1."""

    def __init__(self, n: int) -> None:
        self.countdown = n
        self.struck_at: str | None = None
        self.begun_in: FrameType | None = None

    def __enter__(self) -> Self:
        self.begun_in = sys._getframe(1)
        # CPython 3.12 heeds f_trace_opcodes only if some frame has it when settrace is called.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(None)
        self.begun_in = None  # which knows this one

    def _enter_frame(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE) or "testing" in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode" and not self.passes_over(frame):
            self.countdown -= 1
            if self.countdown == 0:
                self.struck_at = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
                self.strike()
        return self._step

    def passes_over(self, _frame: FrameType) -> bool:
        """Whether the bytecode that comes next does not count."""
        return False

    def strike(self) -> None:
        """What it does there."""
        raise NotImplementedError


class Interrupter(AtBytecode):
    """Raises KeyboardInterrupt, where Python raises one."""

    def passes_over(self, frame: FrameType) -> bool:
        """At a return of a public call an interrupt is one in its caller. In a finalizer Python swallows what is raised.

        None comes at a NOP, at the ends of a handler, or at what the compiler adds there, which has no line: CPython looks
        for one at calls and jumps. On 3.11 the NOP of a `try` within another one is in neither of them, and who strikes at
        the ends of a handler leaves its exception the one under way while the thread lives, with all that its frames hold.
        """
        if frame.f_lineno is None or _operation(frame) in BETWEEN:
            return True
        return _hands_over(frame) or _in_finalizer(frame, self.begun_in)

    def strike(self) -> None:
        sys.settrace(None)
        raise KeyboardInterrupt(self.struck_at)


class Bystander(AtBytecode):
    """Calls something, as a finalizer or a signal handler may, and lets the package go on."""

    def __init__(self, n: int, call: Callable[[], object]) -> None:
        super().__init__(n)
        self.strike = call  # type: ignore[method-assign]


_operations: dict[CodeType, dict[int, str]] = {}


def _in_finalizer(frame: FrameType | None, outermost: FrameType | None) -> bool:
    """Whether one runs within the sweep. Beyond are dozens of frames of pytest's, and each step would pass them all."""
    if frame is not None and frame.f_code.co_flags & inspect.CO_GENERATOR and frame.f_lineno is None:
        return True  # a generator that was not run to its end is closed, in code of the compiler's own
    while frame is not None and frame is not outermost:
        if frame.f_code.co_name in {
            "__del__",
            "__release_buffer__",
            "_forget",
            "<lambda>",
        } and frame.f_code.co_filename.startswith(PACKAGE):
            return True
        frame = frame.f_back
    return False


def _hands_over(frame: FrameType) -> bool:
    """Whether this is the very return of a public call to a caller outside of the package."""
    outside = frame.f_back is None or not frame.f_back.f_code.co_filename.startswith(PACKAGE)
    return outside and _operation(frame) in ENDS


def _operation(frame: FrameType) -> str | None:
    """What comes next."""
    code = frame.f_code
    if code not in _operations:
        _operations[code] = {i.offset: i.opname for i in dis.get_instructions(code)}
    return _operations[code].get(frame.f_lasti)


#: `make test` takes a sample of each sweep, with each core of other calls; `make long` and the gate take all of it.
LONG = os.environ.get("MEMPOOL_LONG") == "1"
#: At how many places of a call it is interrupted. `make stress` takes every bytecode.
PLACES = int(os.environ.get("MEMPOOL_SWEEP_PLACES", "20" if LONG else "5"))


def interrupted_everywhere() -> Iterator[Interrupter]:
    """Yield two interrupters that never strike, of which the second counts; then one for each of PLACES bytecodes.

    No garbage is collected within a call: the interrupt would hit some finalizer, which swallows it.
    """
    gc.collect()
    gc.freeze()  # a collection before each interrupt looks through what that call made, and not through all of pytest
    gc.disable()
    try:
        for _ in range(2):  # the first call fills caches, and takes more bytecodes than any that follows
            gc.collect()
            counter = Interrupter(sys.maxsize)
            yield counter
        bytecodes = sys.maxsize - counter.countdown
        for n in range(1, bytecodes + 1, max(1, bytecodes // PLACES)):
            gc.collect()
            interrupter = Interrupter(n)
            yield interrupter
            if interrupter.countdown > 0:  # this call was over before: in its place one in the middle
                gc.collect()
                yield Interrupter(max(1, (n - interrupter.countdown) // 2))
    finally:
        gc.enable()


@contextmanager
def traced(trace: Callable[[FrameType, str, Any], Any]) -> Iterator[None]:
    """This function traces this thread meanwhile. No garbage is collected: a finalizer would run lines that are traced."""
    before = sys.gettrace()
    gc.disable()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
        gc.enable()


@contextmanager
def struck_before_line(number: int, strike: Callable[[], object], *files: str) -> Iterator[None]:
    """Another thread calls `strike` before the n-th line of these files that this thread runs, counted from 1."""
    lines = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        if event == "line" and frame.f_code.co_filename.endswith(files):
            lines += 1
            if lines == number:
                thread = threading.Thread(target=strike, daemon=True)
                thread.start()
                thread.join(60)
        return trace

    with traced(trace):
        yield
