"""Moving things from one list to another so that they are always in exactly one, whoever interrupts."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import MutableSequence
from typing import TypeVar

T = TypeVar("T")


def move(source: MutableSequence[T], target: MutableSequence[T], most: int = 1) -> None:
    """Move things from one list to another, the last first, as many as there are. None of them may be None.

    One call into C pops and appends: no other thread, finalizer, signal handler or exception finds one in neither. To a
    deque they are moved even where there is no memory for this call, as long as it has room (32 places, or as many as it
    had once); to a list, MemoryError is raised then.
    """
    try:
        target.extend(itertools.islice(iter(source.pop, None), most))
    except IndexError:
        pass
    except MemoryError:
        if not isinstance(target, deque):
            raise
        # Not even an iterator, so nothing was moved. In steps, then: there is nothing better.
        while most and source:
            thing = source.pop()
            try:
                target.append(thing)
            except MemoryError:
                source.append(thing)
                raise
            most -= 1
