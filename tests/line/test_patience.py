"""A wait that lasts: when the log says so, and what the error at its end says."""

from __future__ import annotations

import asyncio
import inspect
import re

import pytest

from mempool import Pool, PoolTimeout
from mempool.testing import ManualClock, ScriptedSource, Step


def test_a_wait_is_logged_after_ten_seconds_unless_told_otherwise() -> None:
    assert inspect.signature(Pool).parameters["patience"].default == 10


def test_who_waited_in_vain_is_told_how_long(caplog: pytest.LogCaptureFixture) -> None:
    """And the log is. Longer than the clock has been running, which would hide one sum or another."""
    clock = ManualClock()
    pool = clock.attach(Pool(ScriptedSource(otherwise=Step.FAILS), 0, patience=2300))

    async def main() -> None:
        task = asyncio.create_task(pool.alloc_async(timeout=2500))
        await asyncio.sleep(0)
        clock.advance(2300)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert "a caller has waited for 2300 s" in caplog.text
        clock.advance(200)
        with pytest.raises(PoolTimeout, match=re.escape("waited 2500 s in vain")):
            await task

    asyncio.run(main())
