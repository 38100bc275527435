"""Waiting for a state. The one place of all tests that sleeps, and only between two looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

#: Seconds between two looks.
LOOK_SECONDS = 0.0005


def wait_until(condition: Callable[[], Answer], timeout: float = 30) -> Answer:
    """Look until the condition is true, and return what it gave. `timeout` is in seconds of real time.

        wait_until(lambda: pool.stats().waiting == 1)

    Raises AssertionError, naming the condition, when the time is up.
    """
    until = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > until:
            raise AssertionError(_in_vain(condition, timeout))
        time.sleep(LOOK_SECONDS)
    return answer


async def wait_until_async(condition: Callable[[], Answer], timeout: float = 30) -> Answer:
    """`wait_until` for a coroutine: the loop goes on between two looks."""
    until = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > until:
            raise AssertionError(_in_vain(condition, timeout))
        await asyncio.sleep(LOOK_SECONDS)
    return answer


def wait_until_it_holds(check: Callable[[], object], timeout: float) -> None:
    """Call this until it raises no AssertionError; the last one is raised when the time is up."""
    until = time.monotonic() + timeout
    while True:
        try:
            check()
        except AssertionError:
            if time.monotonic() > until:
                raise
        else:
            return
        time.sleep(LOOK_SECONDS)


def _in_vain(condition: Callable[[], object], timeout: float) -> str:
    code = getattr(condition, "__code__", None)
    where = f" at {code.co_filename}:{code.co_firstlineno}" if code is not None else ""
    return f"waited {timeout} s in vain for the condition{where}"
