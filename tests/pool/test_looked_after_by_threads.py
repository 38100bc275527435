"""Threads that begin to look after pools of their own at the same moment do not disturb each other."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

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
        lines = 0

        def strike(looking: list[Any] = looking, pool: Pool[Any] = pools[3]) -> None:
            looking.append(look_after(pool))

        def trace(frame: Any, event: str, _argument: object, number: int = number, strike: Any = strike) -> Any:
            nonlocal lines
            name = frame.f_code.co_filename
            if event == "line" and name.endswith(("maintenance.py", "pressure.py", "weakrefset.py", "weakref.py")):
                lines += 1
                if lines == number:
                    thread = threading.Thread(target=strike, daemon=True)
                    thread.start()
                    thread.join(60)
            return trace

        before = sys.gettrace()
        gc.disable()
        sys.settrace(trace)
        try:
            looking.append(look_after(pools[2]))
        finally:
            sys.settrace(before)
            gc.enable()
        for one in looking:
            one.close()
        for pool in pools:
            pool.close()
        if len(looking) == 3:
            break
    assert number > 5
