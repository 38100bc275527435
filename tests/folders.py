"""Folders on a tmpfs for the tests of what several processes share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mempool.testing import wait_until


@contextmanager
def folder_on_tmpfs() -> Iterator[Path]:
    """A folder of a test's own, gone afterwards: also where a child makes a file meanwhile, or somebody clears /dev/shm."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("needs a /dev/shm that can be written to")
    folder = Path(tempfile.mkdtemp(prefix="mempool-test-", dir="/dev/shm"))

    def is_gone() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    try:
        yield folder
    finally:
        wait_until(is_gone)
