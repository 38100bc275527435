"""Another thread forks while a process attaches to a pool, or leaves it: the child must not share its locks.

A lock belongs to an open file, which a child of a fork has as well. It closes what its parent's engines have noted, so what
is open and not noted yet, or not any more, would stay open, and locked, as long as the child lives.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import Parent, child, is_locked

from mempool.shared import anew, engine
from mempool.shared.engine import SharedEngine
from mempool.shared.layout import open_file
from mempool.shared.pool import SharedPool

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def make(path: Path) -> SharedPool:
    return SharedPool(path.name, size=4096, reserve=1, limit=1, clients=4, folder=path.parent)


def fork_and_stay() -> int:
    """A child that lives until it is killed. (It is forked in this thread: which one forks makes no difference to it.)

    It has come through the hooks of the fork when this returns. Before, it has what it will close there.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b".")
        while True:
            signal.pause()
    os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    return pid


@contextmanager
def forked_at_line(number: int, functions: tuple[Any, ...], pids: list[int]) -> Iterator[None]:
    """At this line, in the order in which lines of these functions are reached, there is a fork."""
    codes = {function.__code__ for function in functions}
    reached = iter(range(1 << 30))

    def at_line(_frame: FrameType, event: str, _what: Any) -> Any:
        if event == "line" and next(reached) == number:
            pids.append(fork_and_stay())
        return at_line

    sys.settrace(lambda frame, _event, _what: at_line if frame.f_code in codes else None)
    try:
        yield
    finally:
        sys.settrace(None)


def at_each_line(functions: tuple[Any, ...], act: Callable[[], Any], check: Callable[[Any], None]) -> int:
    """Fork at each line of `act` in turn, and check while the child lives. At how many lines."""
    number = 0
    while True:
        pids: list[int] = []

        def run(parent: Parent, number: int = number, pids: list[int] = pids) -> None:
            with forked_at_line(number, functions, pids):
                kept = act()
            parent.tell(pids[0] if pids else 0)
            parent.wait()
            del kept

        with child(run) as worker:
            forked = worker.hear()
            try:
                if forked == 0:
                    return number
                check(worker)
            finally:
                if forked:
                    os.kill(forked, signal.SIGKILL)
        number += 1


@pytest.mark.long_on_both
def test_a_child_forked_while_another_thread_attaches_keeps_no_lock(pool_path: Path) -> None:
    """The parent was killed, and what it had was nobody's until its child ended: who waited for it waited as long."""
    pool = make(pool_path)

    def attach() -> Any:
        here = make(pool_path)
        return here, here.alloc(timeout=20)

    def is_seen_to_die(worker: Any) -> None:
        assert worker.end(signal.SIGKILL) == -signal.SIGKILL
        assert pool.reclaim() == 1
        assert pool.out == 0

    functions = SharedEngine._become_client, SharedEngine._open, SharedEngine._find_number
    assert at_each_line(functions, attach, is_seen_to_die) > 10


@pytest.mark.long_on_both
def test_a_child_forked_while_another_thread_leaves_keeps_no_lock(pool_path: Path) -> None:
    """Its number could not be used by anybody else until the child ended; as many as there are, and nobody could attach."""
    pool = make(pool_path)

    def attach_and_leave() -> None:
        make(pool_path).close()

    def is_free(_worker: Any) -> None:
        assert not any(is_locked(pool._engine.client, number) for number in range(1, 4))

    assert at_each_line((SharedEngine.detach, engine._detach), attach_and_leave, is_free) > 5


@pytest.mark.long_on_both
def test_a_child_forked_while_a_file_is_made_anew_keeps_no_lock(pool_path: Path) -> None:
    """All numbers were taken then, and whoever came was told that so many processes used the pool."""
    SharedEngine.create(pool_path, size=4096, slots=1, reserve=0, clients=4).detach()

    def be_alone() -> None:
        file, header = open_file(pool_path)
        try:
            with anew.alone(pool_path, file, header.layout):
                pass
        finally:
            os.close(file)

    def can_attach(_worker: Any) -> None:
        SharedEngine.attach(pool_path).detach()

    assert at_each_line((anew.alone.__wrapped__, anew._is_named), be_alone, can_attach) > 5  # type: ignore[attr-defined]
