"""Sizes before memory: a reserve that there is no room for is refused before anything is made."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from books import assert_at_rest
from children import run

from mempool import Buffers, Fallback, Faulty, Limited, Logged, OnFailure, Pool, Translated, rescue
from mempool.sizes import compared, in_words
from mempool.sources import BufferRegion, Memory, Room, headroom, levels

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says what is left")
MIB = 1 << 20

WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda source: source,
    "Limited": lambda source: Limited(source, elements_max=1000),
    "Logged": lambda source: Logged(source, to=os.devnull),
    "Faulty": Faulty,
    "OnFailure": lambda source: OnFailure(source, gc.collect, tries=2),
    "Translated": lambda source: Translated(source, OSError),
    "Fallback": lambda source: Fallback(source, source),
    "all": lambda source: Limited(OnFailure(Faulty(Fallback(source, source)), gc.collect, tries=1), elements_max=900),
}
wrapped = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the machine has left, in bytes; to be changed."""
    figure = [100 * MIB]
    monkeypatch.setattr(headroom, "bytes_left", lambda _node=None: headroom.Left(figure[0], "the test"))
    return figure


@linux
@wrapped
def test_a_reserve_larger_than_what_is_left_is_refused_before_it_is_made(
    wrap: Callable[[Any], Any], left: list[int]
) -> None:
    """At once, in words, through any adaptor; nothing was mapped, and no pool lives."""
    left[0] = 19 * MIB
    buffers = Buffers("1 MiB")
    with pytest.raises(
        MemoryError, match=r"pool 'frames': a reserve of 100 lacks 100, and there is room for (19|38)"
    ) as caught:
        Pool(wrap(buffers), 100, name="frames")
    assert "100 of 1 MiB take 100 MiB, and the test has 19 MiB left" in str(caught.value)
    assert "none was made" in str(caught.value)
    assert buffers.level is None  # not even one was had


@linux
@wrapped
def test_a_reserve_as_large_as_what_is_left_is_made(wrap: Callable[[Any], Any], left: list[int]) -> None:
    """The bound itself is no reason to refuse."""
    left[0] = 4 * MIB
    with Pool(wrap(Buffers("1 MiB")), 4) as pool:
        assert pool.guarantee().held
        assert_at_rest(pool)


@linux
@wrapped
def test_a_grow_beyond_what_is_left_makes_nothing_and_says_so(wrap: Callable[[Any], Any], left: list[int]) -> None:
    """The promise is the new one, what it lacks is unfunded, and `refill` takes what can be had."""
    left[0] = 8 * MIB
    with Pool(wrap(Buffers("1 MiB")), 2) as pool:
        left[0] = 10 * MIB
        guarantee = pool.resize(reserve=100)
        assert (guarantee.promised, guarantee.spare, guarantee.unfunded, guarantee.held) == (100, 2, 98, False)
        assert pool.stats().made == 2
        assert "and the test has 10 MiB left" in pool.why_empty()
        left[0] = 1000 * MIB
        assert pool.refill().held
        assert_at_rest(pool)


@linux
def test_a_grow_within_the_limit_asks_only_for_that(left: list[int]) -> None:
    """What a limit or the spares save is not asked for."""
    left[0] = 8 * MIB
    with Pool(Buffers("1 MiB"), 8) as pool:
        left[0] = 2 * MIB
        assert pool.resize(reserve=10).held


@linux
def test_a_node_has_left_what_is_free_there_and_what_its_files_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops cached files before it says that there is nothing left."""
    figures = {"MemFree": 3 * MIB, "Inactive(file)": 7 * MIB, "Active(file)": 20 * MIB}
    machine = {"MemAvailable": 100 * MIB}
    monkeypatch.setattr(levels, "meminfo", lambda file="/proc/meminfo": figures if "node1" in file else machine)
    monkeypatch.setattr(headroom, "groups", list)
    assert headroom.bytes_left(1) == headroom.Left(30 * MIB, "NUMA node 1")
    assert headroom.bytes_left() == headroom.Left(100 * MIB, "the machine")


@linux
def test_what_was_disposed_of_takes_no_room_under_the_limit(left: list[int]) -> None:
    """So all that a grow lacks is asked for, and where there is room for a part only, none is made."""
    left[0] = 8 * MIB
    with Pool(Buffers("1 MiB"), 4, limit=4) as pool:
        pool.resize(2, keep=2)
        assert (pool.stats().made, pool.stats().disposed) == (4, 2)
        left[0] = 1 * MIB
        assert pool.resize(4, keep=4).unfunded == 2
        assert pool.stats().made == 4


@linux
def test_a_callback_may_find_the_room(left: list[int]) -> None:
    """OnFailure asks it before anything is made, as it would for one element."""
    left[0] = 1 * MIB
    asked: list[int] = []

    def find() -> bool:
        asked.append(left[0])
        left[0] += 2 * MIB
        return True

    with Pool(OnFailure(Buffers("1 MiB"), find), 4) as pool:
        assert asked == [1 * MIB, 3 * MIB]
        assert pool.guarantee().held


def test_a_limited_source_says_what_its_limit_leaves() -> None:
    """Whatever it wraps."""
    shared = Limited(Buffers("4 KiB"), elements_max=6)
    with Pool(shared, 4), pytest.raises(MemoryError, match="room for 2: Limited has 4 of at most 6 elements"):
        Pool(shared, 3)
    assert shared.existing == 0


def test_a_source_of_ones_own_may_say_it() -> None:
    """Any source with `room_for`; what it has no answer to, it returns None for."""

    class Tape:
        def __init__(self) -> None:
            self.made = 0

        def alloc(self) -> bytearray:
            self.made += 1
            return bytearray(1)

        def free(self, element: bytearray) -> None:
            pass

        def room_for(self, elements: int) -> Room | None:
            return None if elements <= 3 else Room(3, "the tape has three tracks")

    tape = Tape()
    with pytest.raises(MemoryError, match="there is room for 3: the tape has three tracks"):
        Pool(tape, 4)
    assert tape.made == 0
    with Pool(tape, 3) as pool:
        assert pool.guarantee().held


@linux
def test_elements_that_share_a_block_are_counted_by_blocks(left: list[int]) -> None:
    """Places of open blocks are room, too."""
    memory = Memory(4096)  # sixteen in a block
    left[0] = 1 * MIB
    region = memory.take()
    left[0] = 64 << 10
    assert memory.room_for(31) is None
    room = memory.room_for(32)
    assert room is not None
    assert room.elements == 31
    memory.give(region)


@linux
@pytest.mark.parametrize("name", levels.ADDRESS_LIMITS)
def test_a_limit_on_address_space_is_seen_before(name: str) -> None:
    """In a process of its own: the pool that cannot be had is refused, and the memory is still there for another."""
    said = run(
        """
        from mempool import Buffers, Pool
        NAME = sys.argv[1]
        used = int(open("/proc/self/statm").read().split()[0 if NAME == "RLIMIT_AS" else 5]) * mmap.PAGESIZE
        limit(NAME, used + (64 << 20))
        for make in (lambda: Pool(Buffers("4 MiB", level="virtual"), 100), lambda: Pool(Buffers("1 GiB"), 2)):
            before = levels.mappings()
            try:
                make()
            except MemoryError as error:
                print(error)
            assert levels.mappings() <= before + 1
        print(Pool(Buffers("4 MiB"), 8).guarantee().held)
    """,
        name,
    )
    lines = said.splitlines()
    assert lines[0].startswith("pool 'pool-1': a reserve of 100 lacks 100, and there is room for 1")
    assert f"100 of 4 MiB take 400 MiB, and {name}" in lines[0]
    assert "2 of 1 GiB take 2 GiB, and" in lines[1]
    assert lines[2] == "True"


@linux
def test_a_pool_that_fails_on_the_way_says_how_many_were_made() -> None:
    """Where no figure told before."""
    with pytest.raises(
        MemoryError, match=r"pool 'frames': 22 of 100 elements were made, and are disposed of: Faulty: alloc 23"
    ):
        Pool(Faulty(Buffers("4 KiB"), every=23), 100, name="frames")


@linux
def test_many_large_elements_in_huge_pages_are_few_mappings() -> None:
    """Hundreds of elements, each of whole huge pages or not: the kernel's largest number of mappings is far away."""
    if levels.transparent_huge_pages() in (None, "never"):
        pytest.skip("no transparent huge pages here")
    for size in (1 * MIB, 2 * MIB, 3 * MIB, 5 * MIB):
        memory = Memory(size, level="virtual", huge=True)
        before = levels.mappings()
        regions = [memory.take() for _ in range(300)]
        assert levels.mappings() - before < 30, size
        for region in regions:
            memory.give(region)


@linux
def test_without_a_mapping_left_the_figure_and_the_way_out_are_named() -> None:
    """In a process that has used up vm.max_map_count: for plain memory and for huge pages."""
    if (levels.sysctl("vm.max_map_count") or 1 << 30) > 70_000:
        pytest.skip("it would take too many mappings to get there")
    said = run("""
        most = levels.sysctl("vm.max_map_count")
        kept = mmap.mmap(-1, 2 * most * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        start = ctypes.addressof(ctypes.c_char.from_buffer(kept))
        options = [{}, {"level": "locked"}] + [{"huge": True}] * (levels.transparent_huge_pages() not in (None, "never"))
        sources = [Memory("64 KiB", level="virtual"), *(Memory("2 MiB", **more) for more in options)]
        page = 1
        while levels.libc().madvise(start + page * mmap.PAGESIZE, mmap.PAGESIZE, 10) == 0:  # MADV_DONTFORK: one is three
            page += 2
        for memory in sources:
            try:
                held = [memory.take() for _ in range(10)]
            except MemoryError as error:
                print(error)
    """)
    assert said
    for line in said.splitlines():
        assert "mappings, and vm.max_map_count is" in line
        assert "raise it with `sysctl vm.max_map_count=N`" in line


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (MIB - 1, "1 MiB"),
        (MIB, "1 MiB"),
        (1 << 30, "1 GiB"),
        (5 << 40, "5 TiB"),
        (5 << 50, "5120 TiB"),
        (3 << 70, "3,221,225,472 TiB"),
        (10**400 << 40, f"{10**400:,} TiB"),
    ],
)
def test_a_size_in_words(size: int, words: str) -> None:
    """At most one figure behind the point, in the unit that a person would choose; however large a user's mistake was."""
    assert in_words(size) == words


def test_a_repr_says_the_size_in_words() -> None:
    """As a person reads it, of whatever has one."""
    memory = Memory("1.5 MiB", name="frames")
    region = memory.take()
    assert repr(memory) == f"<frames: 1.5 MiB each, resident, aligned to {memory.align}>"
    assert repr(region).startswith("<Region of 1.5 MiB at 0x")
    assert repr(BufferRegion(bytearray(3 * MIB))).startswith("<BufferRegion of 3 MiB at 0x")
    assert repr(rescue("2 MiB")).startswith("<rescue of 2 MiB: ready")
    with Pool(Buffers("1 GiB", level="virtual"), 1, name="frames") as pool, pool.lease() as buffer:
        assert repr(buffer).startswith("<Buffer of pool 'frames': 1 GiB at 0x")


def test_two_sizes_that_differ_look_different() -> None:
    """Nobody is told that 1 GiB is more than 1 GiB."""
    assert compared(1 << 30, 1 << 20) == ("1 GiB", "1 MiB")
    assert compared((1 << 30) + 1, 1 << 30) == ("1073741825 bytes", "1073741824 bytes")
    assert compared(1 << 30, 1 << 30) == ("1 GiB", "1 GiB")
