"""How many forks lie between the first process and this one, and what a child loses: for memory, and for who uses it."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from mempool._core.base_decisions import renew_locks

#: One for each fork.
_forks: list[int] = []
#: Whoever is to be told in a child; by a number, because each change of a dict is one step.
_mortals: dict[int, weakref.ref[Mortal]] = {}


class Mortal(Protocol):
    """Has something that does not pass over to a child."""

    def _pin(self) -> object:
        """Before a fork: what must not be finalized in the child before `_lose` has been called there."""

    def _lose(self) -> None:
        """In a child, before anything else is done there: it has lost it."""


def count() -> int:
    """How many forks this process has come through."""
    return len(_forks)


def register(mortal: Mortal) -> None:
    """Tell this object of each fork, as long as it lives."""
    key = id(mortal)
    _mortals[key] = weakref.ref(mortal, lambda reference: _forget(key, reference))


def _forget(key: int, reference: weakref.ref[Mortal]) -> None:
    if _mortals.get(key) is reference:
        _mortals.pop(key, None)


def _living() -> list[Mortal]:
    return [mortal for reference in list(_mortals.values()) if (mortal := reference()) is not None]


#: Of one fork after another: what is kept alive meanwhile.
_pinned: list[object] = []


def _before() -> None:
    for mortal in _living():
        _pinned.append(mortal)
        _pinned.append(mortal._pin())


def _in_child() -> None:
    renew_locks(_forks, _mortals, _pinned)
    _forks.append(os.getpid())
    for mortal in _living():
        mortal._lose()
    _pinned.clear()


if hasattr(os, "register_at_fork"):
    # The first to register is the last before a fork and the first after it: see registry.py, which imports this one.
    os.register_at_fork(before=_before, after_in_parent=_pinned.clear, after_in_child=_in_child)
