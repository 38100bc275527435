"""What a task has a thread do: it is done once or not at all, and what it brings is the task's, or is given back."""

from __future__ import annotations

import pytest

from mempool.errands import Errand


class Noted:
    """An errand, and what has happened."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.left: bool | None = None
        self.leaves = False
        self.errand = Errand(self.work, lambda: self.heard.append("wake"), lambda: self.heard.append("give back"))

    def work(self) -> str:
        self.heard.append("work")
        if self.leaves:
            self.left = self.errand.leave()
        return "brought"


def test_what_was_left_before_a_thread_began_is_never_done() -> None:
    """So there is nothing that the thread would have to give back."""
    noted = Noted()
    assert noted.errand.leave()
    noted.errand._run()
    assert noted.heard == []
    assert not noted.errand.is_over()


def test_what_is_left_in_the_middle_is_given_back_by_the_thread_and_wakes_nobody() -> None:
    noted = Noted()
    noted.leaves = True
    noted.errand._run()
    assert (noted.left, noted.heard) == (False, ["work", "give back"])
    assert not noted.errand.is_over()


def test_what_is_over_is_the_tasks() -> None:
    noted = Noted()
    noted.errand._run()
    assert noted.heard == ["work", "wake"]
    assert noted.errand.is_over()
    assert noted.errand.leave()
    assert noted.errand.result() == "brought"


def test_what_the_call_raises_is_raised_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise OSError("broken")

    errand = Errand(fail, lambda: None)
    errand._run()
    with pytest.raises(OSError, match="broken"):
        errand.result()
