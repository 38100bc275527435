"""Threads that begin to look after pools of their own at the same moment do not disturb each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from sweeps import struck_before_line

from mempool import Objects, Pool
from mempool.maintenance import upkeep
from mempool.pressure import follow


def keep_up(pool: Pool[Any]) -> Any:
    return upkeep(pool, thread=False)


def follow_calm(pool: Pool[Any]) -> Any:
    return follow(pool, keep=(1, 4), source=lambda: 0.0, thread=False)


@pytest.mark.parametrize("look_after", [keep_up, follow_calm])
def test_two_threads_that_begin_to_look_after_pools_do_not_disturb_each_other(
    look_after: Callable[[Pool[Any]], Any],
) -> None:
    """The second begins before the first line of the first's, before the second, and so on. It had raised RuntimeError."""
    for number in itertools.count(1):
        pools = [Pool(Objects(object), reserve=1) for _ in range(4)]
        looking = [look_after(pool) for pool in pools[:2]]

        def look_after_another(looking: list[Any] = looking, pool: Pool[Any] = pools[3]) -> None:
            looking.append(look_after(pool))

        with struck_before_line(number, look_after_another, "maintenance.py", "pressure.py", "weakrefset.py", "weakref.py"):
            looking.append(look_after(pools[2]))
        for one in looking:
            one.close()
        for pool in pools:
            pool.close()
        if len(looking) == 3:
            break
    assert number > 5
