"""Limited: no more than so many exist at once, whoever allocates, frees, fails or is interrupted."""

from __future__ import annotations

import random
import sys
import threading
from typing import Any

import pytest

from mempool import Buffers, Limited, Objects
from mempool.testing import Element, ScriptedSource, SourceBroken, Step

_, fails, raises, _ = Step


def test_no_more_than_the_limit_exist_at_once() -> None:
    """And a place is free again when an element is disposed of."""
    source = Limited(ScriptedSource(), elements_max=2)
    first, _second = source.alloc(), source.alloc()
    with pytest.raises(MemoryError, match="Limited: 2 elements exist already"):
        source.alloc()
    source.free(first)
    assert source.existing == 1
    source.alloc()
    assert source.existing == 2


@pytest.mark.parametrize(("bytes_max", "size", "elements"), [("1 MiB", "64 KiB", 16), (1000, 300, 3), (100, 300, 0)])
def test_a_limit_in_bytes_counts_elements_by_their_size(bytes_max: Any, size: Any, elements: int) -> None:
    """Which the source tells, or the user."""
    assert Limited(Objects(object), bytes_max=bytes_max, size=size).elements_max == elements
    assert Limited(Buffers(size, level="virtual"), bytes_max=bytes_max).elements_max == elements


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, TypeError),
        ({"bytes_max": 1, "elements_max": 1, "size": 1}, TypeError),
        ({"bytes_max": "1 MiB"}, ValueError),
        ({"elements_max": -1}, ValueError),
        ({"elements_max": 1.5}, TypeError),
    ],
)
def test_a_limit_is_one_number(options: dict[str, Any], error: type[Exception]) -> None:
    """Anything else is refused."""
    with pytest.raises(error):
        Limited(Objects(object), **options)


@pytest.mark.parametrize("step", [fails, raises])
def test_a_source_that_fails_uses_up_no_place(step: Step) -> None:
    """Nor does an element whose disposal raises keep its own."""
    under = ScriptedSource[Element](step)
    source = Limited(under, elements_max=1)
    with pytest.raises((MemoryError, SourceBroken)):
        source.alloc()
    under.then_free(raises)
    element = source.alloc()
    with pytest.raises(SourceBroken):
        source.free(element)
    assert source.existing == 0
    source.alloc()


def test_an_element_that_is_still_viewed_keeps_its_place() -> None:
    """Its free has changed nothing, and is done again later."""
    source = Limited(Buffers(100, level="virtual"), elements_max=1)
    element = source.alloc()
    with element[:], pytest.raises(BufferError):
        source.free(element)
    assert source.existing == 1
    source.free(element)
    assert source.existing == 0


def test_threads_never_exceed_the_limit_and_lose_no_place() -> None:
    """However they meet."""
    highest: list[int] = []
    existing: set[int] = set()
    guard = threading.Lock()

    def make() -> object:
        made = object()
        with guard:
            existing.add(id(made))
            highest.append(len(existing))
        return made

    def dispose(element: object) -> None:
        with guard:
            existing.remove(id(element))

    source = Limited(Objects(make, dispose), elements_max=4)
    wrong: list[BaseException] = []

    def work(number: int) -> None:
        chance, mine = random.Random(number), []
        try:
            for _ in range(2000):
                if mine and chance.random() < 0.5:
                    source.free(mine.pop())
                else:
                    try:
                        mine.append(source.alloc())
                    except MemoryError:
                        continue
            while mine:
                source.free(mine.pop())
        except BaseException as error:  # noqa: BLE001 - looked at below
            wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    sys.setswitchinterval(interval)
    assert wrong == []
    assert max(highest) == 4
    assert source.existing == 0
    assert len([source.alloc() for _ in range(4)]) == 4
