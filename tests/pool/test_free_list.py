"""The free list: how many slots it has, who brings them, and how a long one is made."""

from __future__ import annotations

import asyncio

import pytest

from mempool import Objects, Pool
from mempool.testing import ScriptedSource, Step


@pytest.mark.parametrize("places", [2, 8192, 8193, 20_000])
def test_a_list_of_places_is_as_long_as_it_was_asked_for(places: int) -> None:
    """Whether it is made in one piece or in several."""
    assert len(Pool(Objects(object), 0)._engine._new_slots(places)) == places


def test_places_are_made_for_twice_the_reserve_and_no_more() -> None:
    assert Pool(Objects(object), 5).core.capacity() == 10


def test_a_list_of_many_places_begins_as_one_that_malloc_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that can grow without being copied: it is announced as 64 MiB long. A short one as what it is."""
    announced: list[int] = []
    monkeypatch.setattr("mempool.local.engine._Announced", lambda places: announced.append(places) or ())
    pool = Pool(Objects(object), 0)
    several = [65_535, 65_536, 100_000, 9_000_000]
    assert [len(pool._engine._new_slots(places)) for places in several] == several
    assert announced == [65_535, (64 << 20) // 8, (64 << 20) // 8, 9_000_000]


def test_who_waits_for_many_brings_places_for_them() -> None:
    """They are gathered on the free list, which is short in a pool that keeps few."""
    pool = Pool(ScriptedSource(otherwise=Step.FAILS), 0)

    async def main() -> None:
        task = asyncio.create_task(pool.alloc_many_async(50))
        await asyncio.sleep(0)
        assert pool.core.capacity() == 50
        task.cancel()

    asyncio.run(main())
