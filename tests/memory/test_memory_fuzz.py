"""Any order of taking, viewing, giving back and losing, over any sizes, alignments and levels, beside a plain model."""

from __future__ import annotations

import gc
import itertools
import mmap
import pickle
import sys
import weakref
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from sweeps import LONG

from mempool.sources import Memory, Region, levels
from mempool.sources.memory import BLOCK

LEVELS = ("virtual", "backed", "resident") if sys.platform.startswith("linux") else ("virtual",)


class MemoryMachine(RuleBasedStateMachine):
    """Two memories. The model: which bytes are whose, and what was written there."""

    def __init__(self) -> None:
        super().__init__()
        self.mappings: list[weakref.ref[mmap.mmap]] = []
        self.real = levels.map_pages
        levels.map_pages = self.map_pages
        self.taken: dict[int, tuple[Memory, Region, bytes]] = {}
        self.viewed: dict[int, tuple[pickle.PickleBuffer, bytes]] = {}
        self.number = 0

    def map_pages(self, length: int, level: str) -> mmap.mmap:
        pages = self.real(length, level)
        self.mappings.append(weakref.ref(pages))
        return pages

    regions = Bundle("regions")
    views = Bundle("views")

    @initialize(
        sizes=st.tuples(*[st.one_of(st.integers(1, 300), st.integers(4000, 9000), st.integers(BLOCK // 3, 2 * BLOCK))] * 2),
        power=st.none() | st.integers(0, 21),
        level=st.sampled_from(LEVELS),
    )
    def begin(self, sizes: tuple[int, int], power: int | None, level: str) -> None:
        align = None if power is None else 1 << power
        self.memories = [Memory(sizes[0], level=level, align=align), Memory(sizes[1], level=level)]

    @rule(target=regions, which=st.integers(0, 1))
    def take(self, which: int) -> int:
        region = self.memories[which].take()
        self.number += 1
        text = self.number.to_bytes(4, "little") * (region.size // 4 + 1)
        text = text[: region.size]
        region.view[:] = text
        self.taken[self.number] = (self.memories[which], region, text)
        return self.number

    @rule(target=views, number=regions)
    def view(self, number: int) -> int:
        if number in self.taken and number not in self.viewed:
            _, region, text = self.taken[number]
            self.viewed[number] = (pickle.PickleBuffer(region.view), text)
        return number

    @rule(number=views)
    def stop_viewing(self, number: int) -> None:
        self.viewed.pop(number, None)

    @rule(number=regions)
    def give(self, number: int) -> None:
        if number in self.taken:
            memory, region, _ = self.taken.pop(number)
            memory.give(region)

    @rule(number=regions)
    def lose(self, number: int) -> None:
        self.taken.pop(number, None)

    @rule(which=st.integers(0, 1))
    def forget_the_memory(self, which: int) -> None:
        old = self.memories[which]
        self.memories[which] = Memory(old.size, level=old.level, align=old.align)

    @invariant()
    def everybody_finds_what_he_wrote(self) -> None:
        for _, region, text in self.taken.values():
            assert region.view == text
        for viewer, text in self.viewed.values():
            assert viewer.raw() == text

    @invariant()
    def nothing_overlaps(self) -> None:
        places = sorted((region.address, region.address + region.size) for _, region, _ in self.taken.values())
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(places))

    def teardown(self) -> None:
        try:
            self.viewed.clear()
            while self.taken:
                memory, region, _ = self.taken.popitem()[1]
                memory.give(region)
            del self.__dict__["memories"]
            region = memory = None  # type: ignore[assignment]
            gc.collect()
            assert [reference for reference in self.mappings if reference() is not None] == []
        finally:
            levels.map_pages = self.real


TestMemoryInAnyOrder: Any = MemoryMachine.TestCase
TestMemoryInAnyOrder.settings = settings(max_examples=20 if LONG else 10, stateful_step_count=40, deadline=None)
