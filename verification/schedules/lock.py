"""The lock of a pool's decisions, in a form in which the tool sees who waits for it. Not traced: it adds no steps."""

from __future__ import annotations

import threading
from contextlib import suppress

import interleave_test as it


class Lock:
    """What mempool._core.deciding asks of a lock. Outside of a run nobody else is there, and everybody has it."""

    def __init__(self) -> None:
        self._lock = it.Lock()
        self._holder: int | None = None

    def acquire(self, blocking: bool = True) -> bool:
        has_it = True
        with suppress(RuntimeError):
            has_it = self._lock.acquire(blocking)
        if has_it:
            self._holder = threading.get_ident()
        return has_it

    def release(self) -> None:
        self._holder = None
        with suppress(RuntimeError):
            self._lock.release()

    def _is_owned(self) -> bool:
        return self._holder == threading.get_ident()
