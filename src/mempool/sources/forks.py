"""How many forks lie between the first process and this one: whoever remembers the number sees that he is in a child."""

from __future__ import annotations

import os

#: One for each fork.
_forks: list[int] = []


def count() -> int:
    """How many forks this process has come through."""
    return len(_forks)


def _one_more() -> None:
    _forks.append(os.getpid())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_more)
