"""Shared pools for the tests: each in a folder of its own on a tmpfs, removed when the test ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def pool_path() -> Iterator[Path]:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("needs a /dev/shm that can be written to")
    folder = Path(tempfile.mkdtemp(prefix="mempool-test-", dir="/dev/shm"))
    yield folder / "pool"
    shutil.rmtree(folder)
