"""What a task has a thread do, so that its event loop does not stand still: an Errand."""

from __future__ import annotations

import contextvars
import logging
import sys
from collections.abc import Callable
from typing import Any

from mempool import native

log: logging.Logger = logging.getLogger("mempool")


class Errand:
    """One call, made in a thread of its own. `wake` tells when it is over; who leaves before leaves it to the thread.

    A thread for each, and neither the loop's executor nor trio's limit: where others' calls wait for elements in those, a
    source would wait for a worker that waits for the source. A daemon, because nobody waits for it at the end.
    """

    def __init__(
        self, work: Callable[[], Any], wake: Callable[[], object], give_back: Callable[[], object] | None = None
    ) -> None:
        """give_back: is called with nothing, and returns what the call got, if nobody waits for it any more."""
        self._work = work
        self._wake = wake
        self._give_back = give_back
        self._answer: Any = None
        self._error: BaseException | None = None
        # Who was the first: the thread when it began, or the task, which left before; then the thread at its end, or the
        # task. One step decides each.
        self._begun: dict[None, str] = {}
        self._first: dict[None, str] = {}

    def begin(self) -> None:
        """Start the thread; where none is to be had, make the call here."""
        context = contextvars.copy_context()
        try:
            native.thread(context.run, "mempool errand", self._run).start()
        except (RuntimeError, MemoryError):
            self._run()

    def is_over(self) -> bool:
        """Whether the call has ended, and what it brought is the task's."""
        return self._first.get(None) == "thread"

    def result(self) -> Any:
        """What it returned. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._answer

    def leave(self) -> bool:
        """Wait for it no longer. Whether it is over, or will not be made; else the thread returns what it brings."""
        if self._give_back is not None and self._begun.setdefault(None, "task") == "task":
            return True  # interrupted before there was a thread, or before that was running
        return self._first.setdefault(None, "task") == "thread"

    def _run(self) -> None:
        if self._begun.setdefault(None, "thread") != "thread":
            return
        try:
            self._answer = self._work()
        except BaseException as error:  # noqa: BLE001 - it is the result
            self._error = error
        if self._first.setdefault(None, "thread") == "thread":
            self._wake()
            return
        try:
            if self._give_back is not None:
                self._give_back()
        finally:
            if self._error is not None:
                log.error("a call that nobody waits for any more has failed", exc_info=self._error)


def outside_this_package() -> int:
    """The `stacklevel` by which whoever calls this warns at the innermost line outside of this package."""
    level, frame = 1, sys._getframe(1)
    package = __name__.rpartition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package + "."):
        level, frame = level + 1, frame.f_back
    return level
