"""The world of a scenario: memory that runs out, time that stands still, parking that the tool can see.

Nothing may block where the tool cannot see it: threads park on `Wakes` instead of the C queue. No time passes, so a
wake-up that is missed is a deadlock, which the tool reports, and not a delay that nobody notices.
"""

from __future__ import annotations

import threading
from _queue import Empty
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import interleave_test as it

from mempool import Buffer, Buffers, Pool, blocking, clock, parking
from mempool._core import base_decisions, deciding
from mempool._core.decisions import Decisions
from mempool.local import engine, supply
from verification.schedules.kept import KeptLocal, kept
from verification.schedules.lock import Lock


class Memory:
    """A source with room for so many elements, which knows what it made and did not get back."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.existing: dict[int, object] = {}

    def alloc(self) -> object:
        if len(self.existing) >= self.room:
            raise MemoryError
        element = bytearray(1)
        self.existing[id(element)] = element
        return element

    def free(self, element: object) -> None:
        assert self.existing.pop(id(element), None) is element, "disposed of twice, or never made here"


class BufferMemory(Memory):
    """The same of buffers, known by their blocks, because each has another handle when it is made anew."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self._buffers = Buffers(64)

    def alloc(self) -> Buffer:
        if len(self.existing) >= self.room:
            raise MemoryError
        with it.no_interleave():
            buffer = self._buffers.alloc()
        self.existing[id(buffer.block)] = buffer.block
        return buffer

    def free(self, element: object) -> None:
        assert isinstance(element, Buffer)
        assert self.existing.pop(id(element.block), None) is element.block, "disposed of twice, or never made here"
        with it.no_interleave():
            self._buffers.free(element)


class Wakes:
    """The queue that a thread parks on, in a form in which the tool sees it block."""

    def __init__(self) -> None:
        self._count = it.Semaphore(0)

    def put(self, _wake: None) -> None:
        with suppress(RuntimeError):  # the run is over: nobody is there to wake
            self._count.release()

    def get(self, timeout: float | None = None) -> None:
        if not self._count.acquire(timeout=timeout):
            raise Empty


class StandingClock(clock.Clock):
    """It is always 0 o'clock: `timeout=0` is the only deadline that ever comes, and nobody is woken by time."""

    now = staticmethod(float)  # type: ignore[assignment]  # 0.0, and no line at which a thread could be stopped

    def park(self, wakes: Any, seconds: float | None) -> None:
        wakes.get()


def replace(module: Any, name: str, thing: object) -> None:
    """As an assignment, for a name that is there: where it has moved to another module, threads would block for real."""
    getattr(module, name)
    setattr(module, name, thing)


# The tool's threads are not Python's `threading.Thread`s and have no name there.
replace(parking, "current_owner", threading.get_ident)
replace(parking, "_local", KeptLocal())
replace(blocking, "SimpleQueue", Wakes)
# Each module that has imported the clock has it by a name of its own. With the real one, schedules could not be repeated.
standing = StandingClock()
for module in (clock, engine, parking, supply):
    replace(module, "SYSTEM_CLOCK", standing)
for module in (base_decisions, deciding):
    replace(module, "new_lock", Lock)


def together(*callers: Callable[[], object]) -> None:
    """Run each in a thread of its own, to the end."""
    with it.no_interleave():
        kept.extend(callers)
        threads = [it.spawn(caller) for caller in callers]
    for thread in threads:
        thread.join()


def at_rest(pool: Pool[Any], memory: Memory, held: Iterable[object] = ()) -> dict[str, Any]:
    """Check, when no call is under way, that each element is where the state says; `held`: what users have."""
    with it.no_interleave():
        held = list(held)
        snapshot = pool.core.snapshot()
        assert len({*map(id, held)}) == len(held), "two users have the same element"
        assert snapshot["out"] == len(held), f"the state says {snapshot['out']} are out; users have {len(held)}"
        spare, existing = snapshot["spare"], len(memory.existing)
        assert existing == spare + len(held), f"{existing} exist: {spare} spare, {len(held)} out, the rest is lost"
        assert snapshot["made"] - snapshot["disposed"] == existing, "made - disposed is not what exists"
        assert snapshot["permits"] == snapshot["disposing"] == snapshot["fills"] == 0, (
            "permits, disposals or fills of nobody"
        )
        assert snapshot["waiting"] == 0, "somebody stands in the line and all have gone"
        assert spare <= (0 if snapshot["closed"] else snapshot["keep"]), f"{spare} spares, keep is {snapshot['keep']}"
        assert all(map(pool.core.is_out, held)), "a user has an element that is not listed as outstanding"
        return snapshot


@contextmanager
def interrupted_by(handler: Callable[[], None]) -> Iterator[None]:
    """Call the handler, as a finalizer or a signal would, before, in the middle of and after each decision."""

    def around(method: Callable[..., Any]) -> Callable[..., Any]:
        def interrupted(*arguments: Any) -> Any:
            handler()
            try:
                return method(*arguments)
            finally:
                handler()

        return interrupted

    with ExitStack() as stack:
        for name in ("commit", *deciding.DECISIONS):
            stack.callback(setattr, Decisions, name, getattr(Decisions, name))
            setattr(Decisions, name, around(getattr(Decisions, name)))
        yield
