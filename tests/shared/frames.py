"""The shared pool that most tests use: "frames", of buffers of 8,192 bytes, two promised and four at most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mempool.shared.pool import SharedPool

SIZE = 8192


def make(path: Path, **options: Any) -> SharedPool:
    return SharedPool("frames", **{"size": SIZE, "reserve": 2, "keep": 2, "limit": 4, "folder": path.parent, **options})


def attach(path: Path, **options: Any) -> SharedPool:
    return SharedPool.attach("frames", folder=path.parent, **options)


def other_folder(path: Path) -> Path:
    """For a pool that this one has nothing to do with."""
    folder = path.with_name("folder")
    folder.mkdir(mode=0o700)
    return folder
