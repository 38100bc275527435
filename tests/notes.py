"""Notes: what the package knows of by its identity and refers to weakly, so that it lives no longer for that."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any


def assert_leaves_no_note(
    notes: Mapping[int, weakref.ref[Any]],
    make: Callable[[], Any],
    noted: Callable[[Any], object] = lambda thing: thing,
) -> None:
    """What is made here, or what it has that is noted, has a note while it lives, and none when it is gone."""
    thing = make()
    key = id(noted(thing))
    note = notes[key]
    assert note() is noted(thing)
    del thing
    gc.collect()
    assert notes.get(key) is not note  # another thing may have that identity by now
