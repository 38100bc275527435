"""What every pool promises, promised by a shared one whose every other call a second process makes, told through a pipe.

So callers stand in one line who are threads and tasks of two processes; what one has taken, the other frees.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from scripted_memory import ScriptedPool, Slots
from second_process import Cancelled, Near
from test_contract_of_shared_pools import TestSharedPool as OneProcess
from test_contract_of_shared_pools import otherwise

from mempool.buffer import Buffer
from mempool.engine import Snapshot
from mempool.testing import ScriptedSource, wait_until
from mempool.testing.contract import PoolContract

pytestmark = pytest.mark.long_on_both

#: What is a process' own, and not told to the others; and why.
OTHERWISE_TOGETHER: dict[str, str] = {
    "a process leaves memory alone that lacked when it asked; another one asks for itself": (
        "a_source_that_failed_is_left_alone_while_the_reserve_lasts every_way_to_take_one_lets_the_source_rest "
        "many_at_once_come_of_the_reserve_without_asking"
    ),
    "a long wait is logged in the process that waits": "a_long_wait_is_logged_once",
    # Who resizes makes for the line, and so does a waiter's own process; the head has what is ready first.
    "two processes make for one line, and not in the order in which they began": "a_grow_serves_the_line_first",
}


class TwoProcessPool(ScriptedPool):
    """A ScriptedPool of this process. Every other call is made in the second one."""

    near: ClassVar[Near]

    def __init__(self, folder: Path, *arguments: Any, **options: Any) -> None:
        self._there = 0
        super().__init__(folder, *arguments, **options)
        #: Who holds what is known to the process alone that has it.
        self._is_alone = options.get("track") == "holders"
        self._turn = itertools.count()
        own = {name: options[name] for name in ("timeout", "max_waiting", "patience") if name in options}
        memory = self._engine._tx.memory
        self._there = self.near.attach(memory, self.name, self._file.parent, own)
        self._engine.snapshot = _Together(self._engine, self.near, self._there)

    def _is_theirs(self) -> bool:
        """Whether the second process makes the next call."""
        return self._there > 0 and not self._is_alone and next(self._turn) % 2 == 1

    def _received(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._received(each) for each in value]
        return self.adopt(value) if hasattr(value, "nonce") else value

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        if self._is_theirs():
            return self._received(self.near.call(self._there, name, *arguments, **options))
        return getattr(super(), name)(*arguments, **options)

    async def _call_async(self, name: str, *arguments: Any, **options: Any) -> Any:
        if not self._is_theirs():
            return await getattr(super(), name)(*arguments, **options)
        try:
            return self._received(await self.near.call_async(self._there, name, *arguments, **options))
        except Cancelled as cancelled:
            late = self._received(cancelled.value)
            if late is not None:
                super().free_many(late if isinstance(late, list) else [late])
            raise asyncio.CancelledError from None

    def alloc(self, **options: Any) -> Any:
        return self._call("alloc", **options)

    def try_alloc(self) -> Any:
        return self._call("try_alloc")

    def alloc_reserved(self) -> Any:
        return self._call("alloc_reserved")

    def alloc_many(self, n: int, **options: Any) -> Any:
        return self._call("alloc_many", n, **options)

    async def alloc_async(self, **options: Any) -> Any:
        return await self._call_async("alloc_async", **options)

    async def alloc_many_async(self, n: int, **options: Any) -> Any:
        return await self._call_async("alloc_many_async", n, **options)

    def resize(self, *arguments: Any, **options: Any) -> Any:
        return self._call("resize", *arguments, **options)

    def refill(self) -> Any:
        return self._call("refill")

    def _fits(self, elements: list[Any]) -> bool:
        """Whether all of these can be passed on; why not, `free` says here."""
        return len(set(map(id, elements))) == len(elements) and all(
            type(each) is Buffer and each.is_alive() and not each.views() and each.block.owner is self._engine.owner
            for each in elements
        )

    def free(self, element: Any, *, linger: bool = False) -> None:
        if not linger and self._fits([element]) and self._is_theirs():
            self.near.call(self._there, "free", self.offer(element))
        else:
            super().free(element, linger=linger)

    def free_many(self, elements: Any, *, linger: bool = False) -> int:
        elements = list(elements)
        if elements and not linger and self._fits(elements) and self._is_theirs():
            return int(self.near.call(self._there, "free_many", [self.offer(each) for each in elements]))
        return super().free_many(elements, linger=linger)


class _Together:
    """The figures of both: what is being made, disposed of and said in a process, its own engine alone knows."""

    def __init__(self, engine: Any, near: Near, there: int) -> None:
        self._engine, self._near, self._there = weakref.ref(engine), near, there

    def __call__(self) -> Snapshot:
        engine = self._engine()
        assert engine is not None
        now: Snapshot = type(engine).snapshot(engine)
        if self._near.is_over:
            return now  # a pool that a failed test has left behind
        being_made, disposing, failures, fills = self._near.ask("figures", self._there)
        out = max(0, now.out - being_made - disposing)
        lacking = max(0, now.reserve - now.spare)
        owed = 0 if now.closed else min(lacking, out)
        fills = (fills or engine._fills > 0) and not now.closed
        return now._replace(
            out=out,
            owed=owed,
            filling=lacking - owed if fills else 0,
            being_made=now.being_made + being_made,
            disposing=now.disposing + disposing,
            disposed=now.disposed + being_made,
            source_failures=now.source_failures + failures,
        )


@pytest.fixture(scope="module")
def near() -> Iterator[Near]:
    near = Near()
    yield near
    near.close()


@pytest.mark.filterwarnings("ignore:.*a buffer was dropped:ResourceWarning")  # many tests end with elements out
class TestTwoProcesses(OneProcess):
    @pytest.fixture(autouse=True)
    def _second(self, near: Near) -> Iterator[None]:
        TwoProcessPool.near = near
        yield
        near.leave()

    def make_pool(self, source: ScriptedSource[Any], reserve: int, **options: Any) -> Any:
        return TwoProcessPool(self.folder, source, self.slots[id(source)], reserve, **options)

    def attach_clock(self, pool: Any) -> None:
        super().attach_clock(pool)
        pool.near.set_clock(pool._there, self.clock)

    for _reason, _names in OTHERWISE_TOGETHER.items():
        for _name in _names.split():
            assert hasattr(PoolContract, f"test_{_name}"), _name
            locals()[f"test_{_name}"] = otherwise(_reason, f"test_{_name}")


def test_every_other_call_is_made_by_the_second_process(near: Near, pool_path: Path) -> None:
    """Or the class above would be the one beside it: the shared words tell whose an element is, and whose a place."""
    TwoProcessPool.near = near
    slots = Slots()
    pool = TwoProcessPool(pool_path.parent, ScriptedSource(source=slots), slots, 2, limit=2)
    counts = near.calls
    held = [pool.alloc(), pool.alloc()]
    assert near.calls == counts + 1
    waiter = threading.Thread(target=lambda: pool.free(pool.alloc()))  # here
    waiter.start()
    wait_until(lambda: pool.waiting == 1)
    other = threading.Thread(target=lambda: pool.free(pool.alloc()))  # there
    other.start()
    wait_until(lambda: pool.waiting == 2)
    me = pool._engine.client.number
    assert [place.client == me for place in pool._engine.client.queue()] == [True, False]
    pool.free_many(held)
    for thread in (waiter, other):
        thread.join(60)
    assert (pool.out, pool.verify()) == (0, [])
    near.leave()
    pool.close()
