"""What the workers of the tests run: worker processes import it from here."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from distributed import get_worker

import mempool
from mempool import Objects
from mempool.fleet import Member, Node, Order
from mempool.fleet.dask import internals
from mempool.testing import wait_until


def objects() -> Objects[bytearray]:
    return Objects(bytearray)


class Gated:
    """A source that fails, or stands still, as files of a folder say: `full` and `slow`. Says in which thread it ran."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def alloc(self) -> bytearray:
        wait_until(lambda: not (self.folder / "slow").exists(), timeout=60)
        if (self.folder / "full").exists():
            raise MemoryError("the memory group is full")
        (self.folder / f"thread {threading.current_thread().name}").touch()
        return bytearray()

    def free(self, _element: bytearray) -> None:
        """Nothing to do."""


class FailsOn:
    """A source that has no memory on one worker, as long as a file is there."""

    def __init__(self, folder: str, worker: str) -> None:
        self.file = Path(folder) / worker

    def alloc(self) -> bytearray:
        if self.file.exists():
            raise MemoryError("the memory group is full")
        return bytearray()

    def free(self, _element: bytearray) -> None:
        """Nothing to do."""


class BytesOfSecret:
    """What only a worker may load: elsewhere it leaves a file."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self) -> Objects[bytearray]:
        return objects()

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded, (self.folder,)


def _loaded(folder: str) -> BytesOfSecret:
    Path(folder, f"loaded by {os.getpid()}").touch()
    return BytesOfSecret(folder)


def pool_of(name: str) -> tuple[str, int, int]:
    """In a task: of whose pool, which, and how large."""
    pool = mempool.get(name)
    return str(get_worker().name), id(pool), pool.reserve


def use(name: str, number: int) -> int:
    with mempool.get(name).lease(timeout=30):
        return number


def keep(name: str, _number: int) -> Any:
    """An element as a task's result: the mistake."""
    return mempool.get(name).alloc(timeout=0.2)


def count(*elements: Any) -> int:
    return len(elements)


def stop_me() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hold(name: str, folder: str) -> int:
    """Have an element until a file appears; and say whose pool it was, before and after."""
    pool = mempool.get(name)
    with pool.lease() as element:
        Path(folder, "held").touch()
        wait_until(lambda: Path(folder, "go").exists(), timeout=60)
        assert element is not None
        return int(mempool.get(name) is pool and not pool.closed)


def hold_open(name: str, folder: str) -> int:
    """Have an element until a file appears, and say whether it was good all the while."""
    with mempool.get(name).lease() as element:
        Path(folder, "held").touch()
        wait_until(lambda: Path(folder, "go").exists(), timeout=60)
        return int(isinstance(element, bytearray))


def kill_me(*_args: object, **_more: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def make() -> bytearray:
    return bytearray()


def made_here() -> Objects[bytearray]:
    """A source that looks up what makes an element each time."""
    return Objects(lambda: make())


#: The steps of a resize on a worker, in their order: what is called there, and whether it is made before the end.
STEPS: dict[str, tuple[Any, str, bool]] = {
    "the order comes": (Order, "from_wire", False),
    "a thread has it": (Node, "apply", False),
    "the revision is taken": (Member, "_resize", False),
    "an element is made": (sys.modules[__name__], "make", False),
    "the pool is resized": (Member, "_resize", True),
    "the answer is written": (Node, "apply", True),
    "the answer is sent": (internals, "packed", False),
}


def die_at(step: str) -> None:
    """On a worker: the next time that it comes there, it is killed."""
    owner, name, is_made_first = STEPS[step]
    before = getattr(owner, name)

    def dies(*args: Any, **more: Any) -> None:
        if is_made_first:
            before(*args, **more)
        kill_me()

    setattr(owner, name, dies)


def missing(name: str) -> str:
    try:
        mempool.get(name)
    except LookupError as error:
        return str(error)
    return ""
