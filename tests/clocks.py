"""Clocks of a single caller, beside which there is nobody. With others: `mempool.testing.ManualClock`."""

from __future__ import annotations

from _queue import SimpleQueue
from collections.abc import Callable
from typing import Any

from mempool.clock import Clock


class Never:
    """A timer of a clock that stands still."""

    def cancel(self) -> None:
        pass


def nothing_happens() -> None:
    raise AssertionError("waits, and nothing will ever happen")


class StandingClock(Clock):
    """Time stands still. Whoever parks sees something happen that must wake it."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] = nothing_happens
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def park(self, wakes: SimpleQueue[None], seconds: float | None) -> None:
        self.meanwhile()
        assert not wakes.empty(), "not woken"
        wakes.get()

    def call_later(self, loop: Any, seconds: float, callback: Any) -> Any:
        return Never()


class LeapingClock(StandingClock):
    """A wait ends at once, and its time has passed."""

    def park(self, wakes: SimpleQueue[None], seconds: float | None) -> None:
        if not wakes.empty():
            wakes.get()
            return
        assert seconds is not None, "would wait for ever"
        self.time += seconds
