"""A directory of pages for each test, on tmpfs, and nothing published afterwards."""

from __future__ import annotations

import gc
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test's processes put their pages."""
    from mempool import lifecycle, watch
    from mempool.watch import server

    path = Path(f"/dev/shm/mempool-test-{os.getpid()}-{secrets.token_hex(3)}")
    monkeypatch.setenv("MEMPOOL_WATCH_DIR", str(path))
    monkeypatch.setenv("MEMPOOL_SHARED_FOLDER", str(path) + "-pools")  # those of other tests are no business of this one
    monkeypatch.delenv("MEMPOOL_WATCH", raising=False)
    # Of who asks and of who answers in this process: on a machine that is full each may have to wait for its turn.
    for ask in (watch.PoolView.why, watch.PoolView.holders):
        monkeypatch.setitem(ask.__kwdefaults__, "patience", 60.0)
    monkeypatch.setattr(server, "PATIENCE", 60.0)
    gc.collect()
    monkeypatch.setattr(lifecycle, "_engines", {})  # pools of other tests, which a failure keeps, would be shown as well
    try:
        yield path
    finally:
        watch.unpublish()
        shutil.rmtree(path, ignore_errors=True)
