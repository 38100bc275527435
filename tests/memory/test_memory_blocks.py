"""Blocks of pages, cut into regions: none is lost, none is handed out twice, and an empty block goes back to the system.

Whatever happens in the middle of a take or a give: another thread, a finalizer, an exception, a lack of memory.
"""

from __future__ import annotations

import gc
import itertools
import mmap
import os
import pickle
import random
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
from children import in_child, run
from hypothesis import given, settings
from hypothesis import strategies as st
from sweeps import LONG, Bystander, interrupted_everywhere

from mempool.sources import Memory, Region
from mempool.sources import memory as module
from mempool.sources.memory import ALIGN_MAX, BLOCK, PLACES_MAX

PAGE = mmap.PAGESIZE
LEVEL = "resident" if sys.platform.startswith("linux") else "virtual"


class Mappings:
    """The mappings that were made since, and are there still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._made: list[weakref.ref[mmap.mmap]] = []
        self._count = 0
        real = module.levels.map_pages

        def map_pages(length: int, level: str) -> mmap.mmap:
            pages = real(length, level)
            self._made.append(weakref.ref(pages))
            self._count += 1
            return pages

        monkeypatch.setattr(module.levels, "map_pages", map_pages)

    def made(self) -> int:
        return self._count

    def __len__(self) -> int:
        self._made = [reference for reference in self._made if reference() is not None]
        if self._made:
            gc.collect()  # an exception's traceback may hold one
        return sum(reference() is not None for reference in self._made)


@pytest.fixture
def mappings(monkeypatch: pytest.MonkeyPatch) -> Mappings:
    return Mappings(monkeypatch)


def memory_of(size: int, **options: Any) -> Memory:
    return Memory(size, level=LEVEL, **options)


# -- how they are cut


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 3 * BLOCK), power=st.none() | st.integers(0, 21), count=st.integers(1, 40))
def test_regions_are_aligned_and_apart(size: int, power: int | None, count: int) -> None:
    """Whatever the size and the alignment, and each is written whole without touching another."""
    memory = memory_of(size, align=None if power is None else 1 << power)
    regions = [memory.take() for _ in range(count)]
    for number, region in enumerate(regions):
        assert region.address % memory.align == 0
        region.view[:] = bytes([number]) * size
    assert all(region.view == bytes([number]) * size for number, region in enumerate(regions))
    starts = sorted(region.address for region in regions)
    assert all(after - before >= size for before, after in itertools.pairwise(starts))
    for region in regions:
        memory.give(region)


@pytest.mark.parametrize(("size", "align"), [(1, 1), (3, 4), (24, 32), (64, 64), (1000, 64), (PAGE, PAGE), (PAGE + 1, PAGE)])
def test_the_alignment_that_nobody_asked_for(size: int, align: int) -> None:
    """A page from a page on, else the next power of two up to a cache line."""
    assert memory_of(size).align == align


def test_the_largest_alignment_costs_no_memory_beyond_the_pages_of_a_region(mappings: Mappings) -> None:
    """The rest of the mapping is address space."""
    memory = memory_of(100, align=ALIGN_MAX)
    regions = [memory.take() for _ in range(3)]
    assert [region.address % ALIGN_MAX for region in regions] == [0, 0, 0]
    if LEVEL == "resident":
        found = module.levels.smaps(regions[0].address)
        assert found is not None
        # The kernel may have made one mapping of this and its neighbours, and counts them together.
        assert int(found["Rss"].split()[0]) < int(found["Size"].split()[0])


def test_small_regions_share_pages(mappings: Mappings) -> None:
    """A block is mapped when the one before is full."""
    memory = memory_of(1024)
    regions = [memory.take() for _ in range(BLOCK // 1024)]
    assert mappings.made() == 1
    regions.append(memory.take())
    assert mappings.made() == 2


def test_the_smallest_regions_take_no_more_pages_than_they_fill(mappings: Mappings) -> None:
    """A block has no more places than can be kept account of for nothing."""
    memory = memory_of(1)
    regions = [memory.take() for _ in range(PLACES_MAX)]
    assert mappings.made() == 1
    assert max(r.address for r in regions) - min(r.address for r in regions) == PLACES_MAX - 1


def test_a_place_that_another_thread_has_found_meanwhile_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory for another block."""
    memory = memory_of(1024)
    regions = [memory.take() for _ in range(BLOCK // 1024)]

    def fail_late(_length: int, _level: str) -> mmap.mmap:
        if regions:
            memory.give(regions.pop())
        raise MemoryError("no more")

    monkeypatch.setattr(module.levels, "map_pages", fail_late)
    kept = memory.take()
    assert kept.size == 1024
    regions.clear()
    with pytest.raises(MemoryError, match="no more"):
        [memory.take() for _ in range(BLOCK // 1024)]


# -- how they go back


def test_a_block_is_unmapped_when_its_last_region_is_returned(mappings: Mappings) -> None:
    """Not before: the others still use it; and at once, not later."""
    memory = memory_of(PAGE)
    regions = [memory.take() for _ in range(BLOCK // PAGE)]
    random.Random(5).shuffle(regions)
    while len(regions) > 1:
        memory.give(regions.pop())
        assert len(mappings) == 1
    memory.give(regions.pop())
    assert len(mappings) == 0
    assert not memory._open


def test_a_place_is_used_again_before_another_block_is_mapped(mappings: Mappings) -> None:
    """As long as any block has one."""
    memory = memory_of(1024)
    regions = [memory.take() for _ in range(3 * BLOCK // 1024)]
    for region in regions[::7]:
        memory.give(region)
    regions[::7] = [memory.take() for _ in regions[::7]]
    assert mappings.made() == 3
    for region in regions:
        memory.give(region)
    assert len(mappings) == 0


def test_a_large_region_has_its_own_mapping(mappings: Mappings) -> None:
    """Which goes with it."""
    memory = memory_of(BLOCK)
    first, second = memory.take(), memory.take()
    assert len(mappings) == 2
    memory.give(first)
    assert len(mappings) == 1
    second.view[:] = bytes(BLOCK)


def test_a_region_keeps_its_bytes_when_the_memory_is_dropped(mappings: Mappings) -> None:
    """Who holds one can use it."""
    region = memory_of(100).take()
    gc.collect()
    region.view[:] = bytes(100)
    assert len(mappings) == 1
    del region
    assert len(mappings) == 0


def test_a_region_that_is_still_viewed_is_not_used_again(mappings: Mappings) -> None:
    """Its bytes stay its viewer's, and are unmapped after."""
    memory = memory_of(1024)
    region, other = memory.take(), memory.take()
    viewer = pickle.PickleBuffer(region.view)
    address = region.address
    memory.give(region)
    taken = [memory.take() for _ in range(BLOCK // 1024 - 2)]
    assert address not in [each.address for each in taken]
    assert mappings.made() == 1
    viewer.raw()[:] = bytes(1024)
    for each in [other, *taken]:
        memory.give(each)
    assert len(mappings) == 1
    del viewer, region
    assert len(mappings) == 0


def test_a_region_that_was_dropped_is_not_used_again(mappings: Mappings) -> None:
    """Nobody knows who still looks at it; when all others are back, its block goes too."""
    memory = memory_of(1024)
    kept = memory.take()
    lost = memory.take().address
    taken = [memory.take() for _ in range(BLOCK // 1024 - 2)]
    assert lost not in [each.address for each in taken]
    for each in [kept, *taken]:
        memory.give(each)
    assert len(mappings) == 0


def test_giving_twice_is_refused_and_changes_nothing() -> None:
    """As is giving to another."""
    memory, other = memory_of(1024, name="mine"), memory_of(1024)
    first, second = memory.take(), memory.take()
    with pytest.raises(ValueError, match="is another memory's"):
        other.give(first)
    memory.give(first)
    with pytest.raises(ValueError, match=r"^mine: this region was given back already"):
        memory.give(first)
    again = memory.take()
    assert again.address != second.address


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork_each_has_its_own_bytes() -> None:
    """And the child goes on taking and giving."""
    assert (
        run("""
        memory = Memory(1024)
        region, other = memory.take(), memory.take()
        region.view[:] = b"p" * 1024
        reader, writer = os.pipe()
        if not os.fork():
            region.view[:] = b"c" * 1024
            memory.give(other)
            again = memory.take()
            again.view[:] = b"c" * 1024
            os.write(writer, bytes(again.view[:4]))
            os._exit(0)
        os.wait()
        print(os.read(reader, 4), bytes(region.view[:4]), bytes(other.view[:4]))
    """)
        == "b'cccc' b'pppp' b'\\x00\\x00\\x00\\x00'\n"
    )


# -- in the middle of each other


def test_threads_never_share_a_region(mappings: Mappings) -> None:
    """Each finds in it what it wrote, and at the end nothing is left mapped."""
    memory = memory_of(2000)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            chance, mine = random.Random(number), []
            for _ in range(1500):
                if mine and chance.random() < 0.5:
                    region = mine.pop(chance.randrange(len(mine)))
                    assert region.view[:8] == bytes([number]) * 8
                    memory.give(region)
                else:
                    region = memory.take()
                    region.view[:8] = bytes([number]) * 8
                    mine.append(region)
            for region in mine:
                assert region.view[:8] == bytes([number]) * 8
                memory.give(region)
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    assert len(mappings) == 0
    assert not memory._open


def test_a_place_that_is_returned_while_its_block_is_shut_is_found(mappings: Mappings) -> None:
    """Between the look that finds the block full and the step that says so."""
    memory = memory_of(BLOCK // 4)
    regions = [memory.take() for _ in range(3)]

    class Meanwhile(OrderedDict[Any, None]):
        def pop(self, *arguments: Any) -> Any:
            if len(regions) == 3:
                memory.give(regions.pop())
            return super().pop(*arguments)

    memory._open = Meanwhile(memory._open)
    regions.append(memory.take())  # the last place
    regions.append(memory.take())
    assert mappings.made() == 1


def test_a_place_that_is_taken_while_its_block_is_let_go_keeps_the_block(
    mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look that finds the block empty and the step that takes it out of reach."""
    memory = memory_of(BLOCK // 4)
    regions = [memory.take()]
    real = module._Block.is_empty

    def is_empty(block: Any) -> bool:
        empty = real(block)
        if empty and len(regions) == 1:
            regions.append(memory.take())
        return empty

    monkeypatch.setattr(module._Block, "is_empty", is_empty)
    memory.give(regions[0])
    regions += [memory.take() for _ in range(3)]
    assert mappings.made() == 1
    for region in regions[1:]:
        memory.give(region)
    del region
    assert len(mappings) == 0


class MemoryScene:
    """A memory in a state that makes a take or a give as eventful as can be, and what is out of it."""

    def __init__(self, size: int, free: int) -> None:
        self.memory = memory_of(size)
        self.memory._credit = 1 << 40  # what the machine has left is not looked at
        self.mine: list[Region] = []
        self.others = [self.memory.take() for _ in range(module._Shape(size, 64, LEVEL, huge=False).places)]
        for _ in range(free):
            self.memory.give(self.others.pop())

    def take(self) -> None:
        self.mine.append(self.memory.take())

    def give(self) -> None:
        if self.others:
            self.memory.give(self.others.pop())

    def give_all(self) -> None:
        for region in self.mine + self.others:
            if region._held:
                self.memory.give(region)
        self.mine.clear()
        self.others.clear()


SIZES = (BLOCK // 2, BLOCK // 4, BLOCK)
CALLS = ("take", "give", "give_all")


def scenes() -> Iterator[tuple[int, int]]:
    for size in SIZES:
        for free in range(max(1, BLOCK // size)):
            yield size, free


@pytest.mark.sample(6)
@pytest.mark.parametrize("act", CALLS)
@pytest.mark.parametrize("call", ["take", "give"])
@pytest.mark.parametrize(("size", "free"), list(scenes()))
def test_a_finalizer_may_take_and_give_in_the_middle(mappings: Mappings, size: int, free: int, call: str, act: str) -> None:
    """At any bytecode: no region is had twice, and in the end all is unmapped."""
    for interrupter in interrupted_everywhere():
        scene = MemoryScene(size, free)
        with Bystander(interrupter.countdown, getattr(scene, act)) as bystander:
            getattr(scene, call)()
        interrupter.countdown = bystander.countdown
        out = [region.address for region in scene.mine + scene.others if region._held]
        assert len(out) == len(set(out)), bystander.struck_at
        scene.give_all()
        assert not scene.memory._open, bystander.struck_at
        assert len(mappings) == 0, bystander.struck_at


@pytest.mark.sample(3)
@pytest.mark.parametrize("call", ["take", "give"])
@pytest.mark.parametrize(("size", "free"), list(scenes()))
def test_an_interrupt_loses_no_block(mappings: Mappings, size: int, free: int, call: str) -> None:
    """At any bytecode: what was taken is back again, what was not given can be given, and in the end all is unmapped."""
    for interrupter in interrupted_everywhere():
        scene = MemoryScene(size, free)
        others = list(scene.others)
        try:
            with interrupter:
                getattr(scene, call)()
        except KeyboardInterrupt:
            pass
        scene.others = others
        scene.give_all()
        del others
        assert not scene.memory._open, interrupter.struck_at
        assert len(mappings) == 0, interrupter.struck_at


def test_a_region_that_is_dropped_where_memory_lacks_keeps_no_block(
    mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its finalizer could not enter for want of memory, it enters once more: its block stayed mapped for good."""
    real, refused = Memory._retire, []

    def refuse_once(memory: Memory, block: Any, held: list[int]) -> None:
        if not refused:
            refused.append(held)
            raise MemoryError
        real(memory, block, held)

    monkeypatch.setattr(Memory, "_retire", refuse_once)
    memory = memory_of(BLOCK // 4)
    given, dropped = memory.take(), memory.take()
    del dropped
    memory.give(given)
    del given
    assert refused
    assert not memory._open
    assert len(mappings) == 0


@pytest.mark.sample(3)
@pytest.mark.parametrize("lacks", [1, 2])
@pytest.mark.parametrize("call", ["take", "give"])
@pytest.mark.parametrize("size", SIZES)
def test_a_lack_of_memory_anywhere_loses_no_block(mappings: Mappings, size: int, call: str, lacks: int) -> None:
    """Each allocation of a take and of a give fails in turn, alone or with the next, in a child without another thread."""
    testcapi = pytest.importorskip("_testcapi")

    def check() -> None:
        failed = 0
        for n in range(0 if LONG else lacks, 60, 1 if LONG else 3):  # neither makes so many
            scene = MemoryScene(size, 1)
            others = list(scene.others)
            act = getattr(scene, call)
            testcapi.set_nomemory(n, n + lacks)
            try:
                act()
            except MemoryError:
                failed += 1
            testcapi.remove_mem_hooks()
            scene.others = others
            scene.give_all()
            del others, act
            assert not scene.memory._open, n
            assert len(mappings) == 0, n
        assert failed or call == "give"

    assert in_child(check) == ""
