"""Without the GIL: a turn for what is one step with it only because one thread runs at a time."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

from mempool._core.base_decisions import renew_locks
from mempool.native import WITHOUT_GIL, RLock
from mempool.sources import forks

Method = TypeVar("Method", bound=Callable[..., Any])


class Turn:
    """`with turn.lock():` keeps other threads out, on a build without the GIL. Elsewhere it is not used: it would only cost.

    The same thread may come in again, as a finalizer or a signal handler: what is done in a turn bears that everywhere. In a
    forked child it is new, and so are the locks of these tables: whoever had them may not live there.
    """

    __slots__ = ("__weakref__", "_lock", "_process", "_tables")

    def __init__(self, *tables: object) -> None:
        self._tables = tables
        self._lock = RLock()
        self._process = os.getpid()
        if WITHOUT_GIL:
            forks.register(self)

    def _pin(self) -> object:
        """Before a fork: nothing is lost with it."""
        return None

    def _lose(self) -> None:
        """In a child, before a second thread is there, of which each would make it new."""
        renew_locks(self)
        self._process = os.getpid()
        if not self._lock._is_owned():  # else a signal handler has forked in the middle of a turn, which goes on
            self._lock = RLock()
        renew_locks(*self._tables)

    def lock(self) -> Any:
        """What to hold meanwhile: C's own, which `with` takes and releases in one step each.

        An interrupt may be raised wherever a function of Python's begins, or has called another. In an `__enter__` that is
        behind the lock, and in an `__exit__` before it: all other threads would wait for ever.
        """
        if self._process != os.getpid():  # CPython ends what other threads had before it calls hooks: a buffer's finalizer
            self._lose()
        return self._lock


def in_turn(method: Method) -> Method:
    """Without the GIL: this method of an object with a `_turn` keeps other threads out. Elsewhere it is the method itself.

    Not one that calls another: who frees an element does not come back, and where memory is out, that other one may not be
    entered. See test_no_function_that_cannot_be_entered_loses_anything.
    """
    if not WITHOUT_GIL:
        return method

    @functools.wraps(method)
    def whole(self: Any, *arguments: Any) -> Any:
        with self._turn.lock():
            return method(self, *arguments)

    return whole  # type: ignore[return-value]
