"""A shared pool whose memory does as a ScriptedSource says: what the contract of every pool is run with."""

from __future__ import annotations

import itertools
import threading
import weakref
from pathlib import Path
from typing import Any

from mempool.buffer import handle_of
from mempool.shared.errors import ClientGone
from mempool.shared.pool import SharedPool
from mempool.shared.pool_engine import PoolEngine
from mempool.testing import ScriptedSource


class Slots:
    """The source behind the script: makes the very slot that the engine has chosen in this thread."""

    def __init__(self) -> None:
        self.engine: PoolEngine | None = None
        self.memory: ScriptedMemory | None = None
        self.here = threading.local()

    def alloc(self) -> Any:
        if self.engine is None:  # a look at the source before there is a pool
            return type("Element", (), {})()
        assert self.engine._tx.populate_here(self.here.slot)
        return handle_of(self.engine.block_of(self.here.slot))

    def free(self, element: Any) -> None:
        if self.engine is not None:
            self.engine._tx.punch_here(element.block.region.slot)


class Asked:
    """What the engine asks instead of the kernel, as long as there is a test that has the script.

    Weakly: the script has elements, and those have the engine's transactions, through objects that the collector does not
    know; were it known there, a pool of each test would stay to the end of the run, with its descriptors.
    """

    def __init__(self, engine: PoolEngine, memory: ScriptedMemory) -> None:
        self.engine, self.memory = weakref.ref(engine), weakref.ref(memory)

    def make(self, slot: int) -> bool:
        memory, engine = self.memory(), self.engine()
        assert engine is not None
        return memory.make(slot) if memory is not None else engine._tx.populate_here(slot)

    def drop(self, slot: int) -> None:
        memory, engine = self.memory(), self.engine()
        if memory is not None:
            memory.drop(slot)
        elif engine is not None:
            engine._tx.punch_here(slot)


class ScriptedMemory:
    """The script, for the slots of one engine."""

    def __init__(self, engine: PoolEngine, source: ScriptedSource[Any], slots: Slots) -> None:
        self.source, self.slots = source, slots
        self.engine: PoolEngine = weakref.proxy(engine)
        slots.engine, slots.memory = self.engine, self
        self.elements: dict[int, Any] = {}

    def make(self, slot: int) -> bool:
        outer, self.slots.here.slot = getattr(self.slots.here, "slot", -1), slot
        try:
            self.elements[slot] = self.source.alloc()
        except MemoryError as error:
            self.engine._said = f"MemoryError: {error}"
            return False
        finally:
            self.slots.here.slot = outer  # of the call in the middle of which this one was made
        return True

    def drop(self, slot: int) -> None:
        self.source.free(self.elements.pop(slot))


class ScriptedPool(SharedPool):
    """For the contract: `close` is that of all processes."""

    _numbers = itertools.count(1)

    def __init__(self, folder: Path, source: ScriptedSource[Any], slots: Slots, reserve: int, **options: Any) -> None:
        self.source, self.slots = source, slots
        number = next(self._numbers)
        name = options.pop("name", None) or f"scripted-{number}"  # see filterwarnings in pyproject.toml
        path = folder / str(number)
        path.mkdir(mode=0o700)
        super().__init__(name, 4096, reserve, limit=options.pop("limit", None), slots=256, folder=path, **options)

    def _prepare(self, engine: PoolEngine) -> None:
        engine._tx.memory = Asked(engine, ScriptedMemory(engine, self.source, self.slots))

    def close(self) -> int:
        try:
            return self.close_for_all()
        except ClientGone:  # the collector took both, and its client first
            return 0
