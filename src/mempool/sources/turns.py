"""Without the GIL: a turn for what is one step with it only because one thread runs at a time."""

from __future__ import annotations

import sysconfig
from types import TracebackType

from mempool.native import RLock
from mempool.sources import forks

WITHOUT_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


class Turn:
    """`with turn:` keeps other threads out, on a build without the GIL. Elsewhere it is not used: it would only cost.

    The same thread may come in again, as a finalizer or a signal handler: what is done in a turn bears that everywhere. In a
    forked child it is new: whoever had it may not live there.
    """

    __slots__ = ("_forks", "_lock")

    def __init__(self) -> None:
        self._forks = forks.count()
        self._lock = RLock()

    def __enter__(self) -> None:
        if self._forks != forks.count():
            self._lock = RLock()
            self._forks = forks.count()
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()
