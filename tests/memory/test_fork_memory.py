"""Memory after os.fork: a child says of the memory from before what holds, and can have the promised level again."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import re
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from books import assert_at_rest
from children import in_child
from notes import assert_leaves_no_note

from mempool import Buffers, DoubleFree, Fallback, Limited, Objects, Pool, UseAfterFree
from mempool.sources import Memory, forks, levels

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="levels are verified on Linux"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]
MIB = 1 << 20
MADV_DONTDUMP = 16  # madvise(2)

#: What holds of memory from before the fork.
WEAKER = "backed" if levels.is_commit_strict() else "virtual"


def is_own(address: int) -> bool:
    """Whether the page at this address is mapped by no other process. Source: the kernel's pagemap.rst, bit 56."""
    with Path("/proc/self/pagemap").open("rb", buffering=0) as entries:
        entries.seek(address // mmap.PAGESIZE * 8)
        return bool(entries.read(8)[7] & 1)


def is_marked(address: int) -> bool:
    """Whether what is mapped there, if anything is, stays out of a core dump."""
    return "dd" in (levels.smaps(address) or {}).get("VmFlags", "").split()


def require(level: str, size: int = MIB) -> None:
    try:
        memory = Memory(size, level=level)
        memory.give(memory.take())
    except (MemoryError, ValueError) as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("size", [4096, MIB])
@pytest.mark.parametrize("level", ["backed", "resident", "locked", "huge"])
def test_a_child_does_not_say_what_does_not_hold(level: str, size: int) -> None:
    """The level of what was taken before the fork is a weaker one there; the parent's is what it was."""
    require(level, size)
    source = Buffers(size, level=level)
    pool = Pool(source, 2)
    held = pool.alloc()

    def check() -> None:
        word = WEAKER if level != "huge" else "virtual"
        assert (pool.guarantee().level, source.level) == (word, word)
        assert levels.locked_bytes() == 0
        held[0] = 7
        pool.free(held)
        assert pool.guarantee().level == word

    assert in_child(check) == ""
    assert pool.guarantee().level == level
    pool.free(held)
    assert_at_rest(pool)


@pytest.mark.parametrize("size", [4096, MIB])
def test_what_the_child_makes_is_what_it_says(size: int) -> None:
    """Also where blocks of before have a free place: those are not used. Once the rest is gone, it is all there is."""
    source = Buffers(size, level="locked")
    pool = Pool(source, 1)
    lent = pool.alloc()

    def check() -> None:
        own = Pool(source, 3)
        assert levels.locked_bytes() >= 3 * size
        assert own.guarantee().level == WEAKER  # the source's: it made what the other pool has
        pool.close()
        pool.free(lent)
        assert own.guarantee().level == "locked"
        assert pool.stats().made == pool.stats().disposed
        assert_at_rest(own)
        mine = Pool(Buffers(size, level="locked"), 1)
        assert mine.guarantee().level == "locked"

    assert in_child(check) == ""
    pool.free(lent)


@pytest.mark.parametrize("size", [4096, MIB])
@pytest.mark.parametrize("level", ["resident", "locked"])
def test_refill_brings_the_childs_memory_to_its_level(level: str, size: int) -> None:
    """Spares and what is out: each page is the child's own then, and what was written is still there."""
    pool = Pool(Buffers(size, level=level), 4)
    held = pool.alloc()
    held.fill(5)

    def check() -> None:
        assert not is_own(held.address + size - 1)
        guarantee = pool.refill()
        assert (guarantee.level, guarantee.held) == (level, True)
        assert is_own(held.address)
        assert is_own(held.address + size - 1)
        if level == "locked":
            assert levels.locked_bytes() >= 4 * size
        assert bytes(held[:size]) == bytes([5]) * size
        pool.free(held)
        pool.free_many(pool.alloc_many(9))
        assert_at_rest(pool)
        assert pool.guarantee().level == level
        # And a child of the child begins again.
        assert in_child(lambda: _says(pool, WEAKER)) == ""
        assert pool.guarantee().level == level

    assert in_child(check) == ""
    pool.free(held)
    assert_at_rest(pool)


def _says(pool: Pool[Any], level: str) -> None:
    assert pool.guarantee().level == level


def test_what_cannot_be_brought_back_stays_weaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guarantee goes on saying so, and why_empty tells why; by `regain` it is a MemoryError."""
    source = Buffers(MIB)
    pool = Pool(source, 2)

    def check() -> None:
        def fail(*_range: object) -> None:
            raise MemoryError("not today")

        monkeypatch.setattr(levels, "populate", fail)
        guarantee = pool.refill()
        assert (guarantee.level, guarantee.held, guarantee.spare) == (WEAKER, True, 2)
        assert re.search(r"after a fork, not today; or make the pool in the child", pool.why_empty())
        with pytest.raises(MemoryError, match="after a fork, not today"):
            source.regain()

    assert in_child(check) == ""


def test_memory_that_is_in_use_is_never_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    """On kernels that populate only what is fresh, it stays as it is."""
    memory = Memory(MIB)
    region = memory.take()
    region.view[:4] = b"kept"

    def check() -> None:
        monkeypatch.setattr(levels, "has_populate", lambda: False)
        with pytest.raises(MemoryError, match=r"can be populated by Linux 5\.14 or newer only"):
            memory.regain()
        assert bytes(region.view[:4]) == b"kept"

    assert in_child(check) == ""


def test_adaptors_pass_it_on() -> None:
    """A fallback's level is the weaker of both, and both are brought back."""
    source = Fallback(Limited(Buffers("64 KiB"), elements_max=1), Buffers("64 KiB"))
    pool = Pool(source, 2)

    def check() -> None:
        assert pool.guarantee().level == WEAKER
        assert pool.refill().level == "resident"

    assert in_child(check) == ""
    with Pool(Fallback(Objects(bytearray), Buffers(64)), 1) as mixed:
        assert in_child(lambda: mixed.refill() and None) == ""


def test_a_place_of_a_block_from_before_is_unmapped_and_not_used_again() -> None:
    """Nothing of it is left in the child once its last region is back."""
    memory = Memory(4096)
    regions = [memory.take() for _ in range(3)]
    address = regions[0].address

    def check() -> None:
        fresh = memory.take()
        assert abs(fresh.address - address) >= 64 << 10
        assert memory.verified == WEAKER
        # The addresses may be somebody else's as soon as they are free, so the mapping itself gets a mark.
        levels.advise(address, mmap.PAGESIZE, MADV_DONTDUMP, "stay out of a core dump")
        assert is_marked(address)
        while regions:
            memory.give(regions.pop())
        assert memory.verified == "resident"
        assert not is_marked(address)
        memory.give(fresh)

    assert in_child(check) == ""
    for region in regions:
        memory.give(region)


def test_blocks_that_are_gone_are_forgotten() -> None:
    """The notes that a fork needs do not grow with what was made, but with what there is."""
    memory = Memory("64 KiB", level="virtual")
    for _ in range(1000):
        memory.give(memory.take())
    assert len(memory._blocks) <= 128


class Told:
    """Somebody who is told of forks, and has one thing that stays with the parent."""

    def __init__(self) -> None:
        self.thing: Told | None = None

    def _pin(self) -> object:
        return self.thing

    def _lose(self) -> None:
        self.thing = None


def test_who_is_told_of_forks_is_forgotten_when_it_is_gone() -> None:
    """Else each would leave a note behind."""

    def register() -> Told:
        told = Told()
        forks.register(told)
        return told

    assert_leaves_no_note(forks._mortals, register)


def test_from_before_a_fork_until_after_it_nothing_is_finalized_that_stays_with_the_parent() -> None:
    """A finalizer that ran in the child before it is told that it has lost the thing would unmap what is not there."""
    told = Told()
    told.thing = Told()
    forks.register(told)
    alive = weakref.ref(told), weakref.ref(told.thing)
    forks._before()
    told.thing = None
    del told
    gc.collect()
    assert all(reference() is not None for reference in alive)
    forks._pinned.clear()  # as after a fork, in both processes
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


# -- dontfork

STAYED = r"pool 'frames': the memory of this buffer stayed with the parent of a fork \(dontfork=True\); alloc another"


def frames(size: int = MIB, reserve: int = 3, **more: Any) -> Pool[Any]:
    return Pool(Limited(Buffers(size, dontfork=True, **more), elements_max=64), reserve, name="frames")


@pytest.mark.parametrize("size", [4096, MIB])
def test_a_buffer_that_stayed_with_the_parent_raises_in_the_child(size: int) -> None:
    """Each way to look at it does, and says why; none ends the child. The parent notices nothing."""
    pool = frames(size)
    held = pool.alloc()
    held.fill(5)

    def check() -> None:
        looks = (
            lambda: held[:][0],
            lambda: held[0],
            lambda: held[:2],
            lambda: held.__setitem__(0, 1),
            lambda: held.fill(1),
            lambda: held.address,
            lambda: len(held),
            lambda: bytes(held),
            lambda: bytearray(2).__setitem__(slice(None), held),
        )
        for look in looks:
            with pytest.raises((UseAfterFree, ValueError)):
                look()
        for look in (lambda: held[0], lambda: held.fill(1), lambda: held.address):
            with pytest.raises(UseAfterFree, match=STAYED):
                look()
        assert "left with the parent" in repr(held)

    assert in_child(check) == ""
    assert bytes(held[:3]) == bytes([5]) * 3
    pool.free(held)
    assert_at_rest(pool)


@pytest.mark.parametrize("size", [4096, MIB])
@pytest.mark.parametrize("level", ["virtual", "resident", "locked"])
def test_the_childs_pool_has_lost_its_spares_and_makes_new_ones(size: int, level: str) -> None:
    """They count as disposed of, by every adaptor, too; what the child makes is its own, and of the promised level."""
    pool = frames(size, level=level)
    held = pool.alloc()

    def check() -> None:
        stats = pool.stats()
        assert (stats.spare, stats.out, stats.made, stats.disposed, stats.disposing) == (0, 1, 4, 3, 0)
        assert pool.guarantee().level == level
        assert pool.refill().held
        fresh = pool.alloc_many(3)
        for buffer in fresh:
            buffer.fill(7)
            assert bytes(buffer[-2:]) == b"\7\7"
        pool.free(held)
        with pytest.raises(DoubleFree):
            pool.free(held)
        assert pool.stats().disposed == 4
        pool.free_many(fresh)
        assert_at_rest(pool)
        assert pool.close() == 0
        stats = pool.stats()
        assert stats.made == stats.disposed

    assert in_child(check) == ""
    assert pool.stats().spare == 3
    pool.free(held)
    assert_at_rest(pool)


def test_a_lease_of_before_the_fork_ends_in_both_processes() -> None:
    """The child leaves the block without an error, with views or without; and drops what it holds without a crash."""
    pool = frames()
    with pool.lease() as buffer:
        buffer.fill(1)
        view = buffer[:]
        lease = pool.lease()
        assert lease.element is not buffer
        dropped = [pool.alloc()]

        def check() -> None:
            lease.release()
            pool.free(buffer)
            with pytest.warns(ResourceWarning, match="a buffer was dropped while it was out"):
                dropped.clear()
            view.release()
            assert pool.stats().out == 0
            assert_at_rest(pool)

        assert in_child(check) == ""
        view.release()
        lease.release()
    pool.free(dropped.pop())
    assert_at_rest(pool)


@pytest.mark.parametrize("size", [4096, MIB])
def test_the_child_unmaps_nothing_that_is_anothers(size: int) -> None:
    """The addresses are taken before anybody else has them, so that what is unmapped there in the end is nobody's."""
    pool = frames(size, reserve=8)
    held = pool.alloc()
    address = held.address

    def check() -> None:
        found = levels.smaps(address)
        assert found is not None
        assert found["Rss"] == "0 kB"
        others = [mmap.mmap(-1, size) for _ in range(64)]
        for number, other in enumerate(others):
            other[:] = bytes([number]) * size
        pool.free(held)
        pool.close()
        for number, other in enumerate(others):
            assert other[:] == bytes([number]) * size

    assert in_child(check) == ""
    pool.free(held)


def test_addresses_that_somebody_else_has_are_left_to_him(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the place is taken already when the child looks, it stays his, whatever becomes of the pool."""
    pool = frames()
    held = pool.alloc()
    address, size = held.address, len(held)
    occupy = levels.occupy

    def too_late(start: int, length: int) -> bool:
        assert levels.libc().mmap(start, length, 3, 0x100022, -1, 0) == start
        ctypes.memset(start, 9, length)
        return occupy(start, length)

    monkeypatch.setattr(levels, "occupy", too_late)

    def check() -> None:
        pool.free(held)
        pool.close()
        gc.collect()
        assert ctypes.string_at(address, size) == bytes([9]) * size

    assert in_child(check) == ""
    pool.free(held)


def test_the_parents_writes_need_no_new_page() -> None:
    """While the child lives, its memory is the parent's alone."""
    pool = frames()
    held = pool.alloc()
    held.fill(1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    assert is_own(held.address)
    os.close(reading)
    os.close(writing)
    os.waitpid(child, 0)
    pool.free(held)


def test_a_childs_child_loses_what_the_child_made() -> None:
    """And only the process that made an element has it."""
    pool = frames()

    def check() -> None:
        mine = pool.alloc()

        def check_again() -> None:
            with pytest.raises(UseAfterFree, match=STAYED):
                mine.fill(1)
            pool.free(mine)
            assert_at_rest(pool)

        assert in_child(check_again) == ""
        mine.fill(2)
        pool.free(mine)

    assert in_child(check) == ""


def test_zeroing_does_not_touch_what_is_lost() -> None:
    """A reset that wipes what is returned has nothing to wipe."""
    pool = frames(zero="free")
    held = pool.alloc()
    assert in_child(lambda: pool.free(held)) == ""
    pool.free(held)
