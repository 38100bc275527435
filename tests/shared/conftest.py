"""Shared pools for the tests: each in a folder of its own on a tmpfs, removed when the test ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import without_the_gil
from folders import folder_on_tmpfs


class Refused(pytest.Module):
    """Tests of what cannot be imported here."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        pytest.skip(without_the_gil.SHARED, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Where the GIL is kept off, none of this folder is imported."""
    return Refused.from_parent(parent, path=module_path) if without_the_gil.IS_OFF else None


@pytest.fixture
def pool_path() -> Iterator[Path]:
    with folder_on_tmpfs() as folder:
        yield folder / "pool"
