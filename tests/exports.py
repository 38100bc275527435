"""Where the handle of a buffer exports its memory: everywhere but uncompiled before CPython 3.12."""

from __future__ import annotations

import sys
from typing import Any

import mempool

EXPORTS = mempool.IMPLEMENTATION == "compiled" or sys.version_info >= (3, 12)


def exported(buffer: Any) -> Any:
    """What takes a buffer takes this: the handle itself, or a view of it."""
    return buffer if EXPORTS else buffer[:]
