"""CPython 3.12 and later, uncompiled: who keeps what a Py_buffer named, after the Py_buffer has been released.

What `__buffer__` returned CPython exports under the name of a wrapper of its own, which it empties when the Py_buffer is
released. An extension that releases its Py_buffer at once and keeps what this named, as torch does, has an empty wrapper,
and the address. Nothing leads there from the buffer any more. But at the moment of the release, when `__release_buffer__` is
called, the wrapper is whole, and among the youngest objects that the collector knows.
"""

from __future__ import annotations

import functools
import gc
import itertools
import operator
import sys
from collections.abc import Iterator
from typing import Any

#: How often the collector has run. It moves what it finds alive to an older generation.
_collections = [0]


def _count(phase: str, _info: object, collections: list[int] = _collections) -> None:
    collections[0] += phase == "stop"


gc.callbacks.append(_count)


def mark() -> list[int]:
    """An object that is a little older than the wrapper of the view that is being made."""
    return [_collections[0]]


def kept(window: memoryview, since: list[int]) -> list[Any]:
    """The wrappers of views of this window, made since then and being released now, to which somebody else refers.

    A view that is older than one collection is not one that an extension releases at once.
    """
    before = -1
    found: list[Any] = []
    while before != _collections[0]:  # else the collector has just moved what is looked for
        before = _collections[0]
        if before - since[0] > 1:
            return []
        found = _since(since, (0, 1)[: before - since[0] + 1], IN_RELEASE)
    return [wrapper for wrapper in found if any(map(operator.is_, gc.get_referents(wrapper), itertools.repeat(window)))]


def is_kept(keepers: dict[int, Any], key: int, listed: int) -> bool:
    """Whether somebody refers to this wrapper beside the dict, and beside so many lists of a debugger's."""
    return key in keepers and sys.getrefcount(keepers.get(key)) - listed > WHILE_KEPT


def _since(since: list[int], generations: tuple[int | None, ...], references: int) -> list[Any]:
    """Wrappers that are younger than this mark and have more references.

    In one call into C, and no variable has a part of it: what the collector tells is gone when another thread runs. It
    counts references, and would take these for views.
    """
    return list(_selected(mark(), since, generations, references))


def _selected(now: list[int], since: list[int], generations: tuple[int | None, ...], references: int) -> Iterator[Any]:
    # The collector knows these iterators, too, and what one of them keeps of itself would never die. So they pass over what
    # is younger than `now` before they keep anything, and at last let go of the list that has them all.
    known = itertools.chain.from_iterable(map(reversed, map(gc.get_objects, generations)))
    older = itertools.dropwhile(functools.partial(operator.is_not, now), known)
    between, their_types = itertools.tee(itertools.takewhile(functools.partial(operator.is_not, since), older))
    are_wrappers = map(operator.is_, map(type, their_types), itertools.repeat(WRAPPER))
    wrappers, counted = itertools.tee(itertools.compress(between, are_wrappers))
    are_kept = map(operator.gt, map(sys.getrefcount, counted), itertools.repeat(references))
    return itertools.chain(itertools.compress(wrappers, are_kept), itertools.compress(known, itertools.repeat(False)))


class _Exporter:
    def __buffer__(self, _flags: int) -> memoryview:
        return memoryview(b"")


class _Sample:
    """A buffer whose wrapper nobody keeps, to count the references that such a one has."""

    def __buffer__(self, _flags: int) -> memoryview:
        self.since = mark()
        return memoryview(b"")

    def __release_buffer__(self, _view: memoryview) -> None:
        self.references = 0
        while _since(self.since, (None,), self.references):
            self.references += 1


def _references_in_release() -> int:
    """How many references a wrapper has while it is being released, and nobody keeps it.

    Counted without a collection in between, which moves the wrapper away from its mark. It would not be found, the number
    would be too small, and each view would count as one that is kept: nothing that lingers would ever be returned.
    """
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        while True:
            sample = _Sample()
            memoryview(sample).release()
            if _collections[0] == sample.since[0]:  # nor one that another thread has asked for
                return sample.references
    finally:
        if is_enabled:
            gc.enable()


_view = memoryview(_Exporter())
WRAPPER = type(_view.obj)
_view.release()
IN_RELEASE = _references_in_release()
_kept = {0: object()}
WHILE_KEPT = sys.getrefcount(_kept.get(0))
