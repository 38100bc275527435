"""Shared pools for the tests: each in a folder of its own on a tmpfs, removed when the test ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import folder_on_tmpfs


@pytest.fixture
def pool_path() -> Iterator[Path]:
    with folder_on_tmpfs() as folder:
        yield folder / "pool"
