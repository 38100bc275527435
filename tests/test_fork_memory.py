"""Memory after os.fork: a child says of the memory from before what holds, and can have the promised level again."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from sweeps import audit
from test_fork import in_child

from mempool import Buffers, Fallback, Limited, Objects, Pool
from mempool.sources import Memory, levels

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="levels are verified on Linux"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]
MIB = 1 << 20

#: What holds of memory from before the fork.
WEAKER = "backed" if levels.is_commit_strict() else "virtual"


def private_kilobytes(address: int) -> int:
    """Of the mapping that holds this address: what no other process shares."""
    found = levels.smaps(address)
    assert found is not None
    return int(found["Private_Dirty"].split()[0]) + int(found["Private_Clean"].split()[0])


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
    audit(pool)


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
        audit(own)
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
        assert private_kilobytes(held.address) < 4 * size // 1024
        guarantee = pool.refill()
        assert (guarantee.level, guarantee.held) == (level, True)
        assert private_kilobytes(held.address) >= size // 1024
        if level == "locked":
            assert levels.locked_bytes() >= 4 * size
        assert bytes(held[:size]) == bytes([5]) * size
        pool.free(held)
        pool.free_many(pool.alloc_many(9))
        audit(pool)
        assert pool.guarantee().level == level
        # And a child of the child begins again.
        assert in_child(lambda: _says(pool, WEAKER)) == ""
        assert pool.guarantee().level == level

    assert in_child(check) == ""
    pool.free(held)
    audit(pool)


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
    """Nothing of it is left in the child once its last region is home."""
    memory = Memory(4096)
    regions = [memory.take() for _ in range(3)]
    address = regions[0].address

    def check() -> None:
        fresh = memory.take()
        assert abs(fresh.address - address) >= 64 << 10
        assert memory.verified == WEAKER
        while regions:
            memory.give(regions.pop())
        assert memory.verified == "resident"
        assert not Path("/proc/self/maps").read_text("utf-8").count(f"{address & ~0xFFFF:x}-")
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
