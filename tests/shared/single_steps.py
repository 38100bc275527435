"""A child process is single-stepped by ptrace, and killed after the n-th change of shared memory that it makes."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

from shared_children import die_with_the_parent

from mempool.shared.engine import Handle, SharedEngine, Ticket
from mempool.shared.layout import ROOT

TRACEME, SINGLESTEP = 0, 9
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long
#: The child: makes ready, and returns what is done step by step.
Part = Callable[[Path], Callable[[], object]]


def may_trace() -> bool:
    """Whether this process may trace its children."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if libc.ptrace(TRACEME, 0, None, None) == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def take_part(path: Path, part: Part) -> None:
    """The child: make ready, stop for the tracer, do it."""
    status = 70
    try:
        die_with_the_parent()
        act = part(path)
        libc.ptrace(TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        act()
        status = 0
    finally:
        os._exit(status)


def stand_in_line(engine: SharedEngine, mine: list[Handle], ticket: Ticket) -> None:
    """Take all that there is, so that nothing is left, and join the line."""
    mine += [handle for handle in iter(engine.take, None) if handle]
    engine.enqueue(ticket)


def kill_after_change(engine: SharedEngine, path: Path, part: Part, changes: int, meanwhile: Callable[[], object]) -> bool:
    """Whether the child changed the shared memory so often; then it was killed at once."""
    control = memoryview(engine._tx.mapping)[ROOT : engine.layout.control_bytes]
    pid = os.fork() or take_part(path, part) or 0
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert os.WSTOPSIG(status) == signal.SIGSTOP
    meanwhile()
    before, seen = control.tobytes(), 0
    while True:
        assert libc.ptrace(SINGLESTEP, pid, None, None) == 0
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            return False
        # Compared as bytes: CPython compares a memoryview byte by byte, which took longer than the step itself.
        if (now := control.tobytes()) != before:
            before, seen = now, seen + 1
            if seen == changes:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return True
