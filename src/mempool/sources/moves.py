"""Moving things from one list to another so that they are always in exactly one, whoever interrupts."""

from __future__ import annotations

import itertools
from collections.abc import MutableSequence
from typing import TypeVar

T = TypeVar("T")


def move(source: MutableSequence[T], target: MutableSequence[T], most: int = 1) -> None:
    """Move things from one list to another, the last first, as many as there are. None of them may be None.

    One call into C pops and appends: no other thread, finalizer, signal handler or exception finds one in neither. A lack
    of memory does not keep it from being done, if the target has room, as a deque has for 32 (a list may not).
    """
    try:
        target.extend(itertools.islice(iter(source.pop, None), most))
    except IndexError:
        pass
    except MemoryError:
        # Not even for an iterator. In two steps, then: nothing was moved, and there is nothing better.
        while most and source:
            target.append(source.pop())
            most -= 1
