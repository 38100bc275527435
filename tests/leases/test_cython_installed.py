"""Uncompiled, where Cython is installed for something else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mempool

PROGRAM = """
import asyncio
import mempool

assert mempool.IMPLEMENTATION == "pure"
pool = mempool.Pool(mempool.Buffers(64), 2)

async def lease():
    async with pool.lease() as buf:
        buf[:2] = b"ok"
        return bytes(buf[:2])

with pool.lease() as buf:
    buf.fill(0)
print(asyncio.run(lease()), pool.stats().out)
"""


@pytest.mark.once
def test_the_uncompiled_core_uses_nothing_of_a_cython_that_is_installed(tmp_path: Path) -> None:
    """Its `critical_section` is an object that is no method: `async with pool.lease()` ended in a TypeError."""
    (tmp_path / "cython.py").write_text("compiled = False\n", "utf-8")  # of this one nothing else can be used
    path = os.pathsep.join([str(tmp_path), str(Path(mempool.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path, "MEMPOOL_PURE": "1"}
    environment.pop("MEMPOOL_REQUIRE_COMPILED", None)
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout == "b'ok' 0\n", run.stderr
