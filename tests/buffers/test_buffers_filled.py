"""Buffers: what is in them when they are handed out: poison, zeros; and how they are guaranteed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest

import mempool
from mempool import Buffers, PoisonError, Pool


@pytest.mark.parametrize("size", [1, 2, 3, 100, 4096, 200_000])
def test_a_poisoned_spare_that_was_written_to_raises_where_it_is_taken(size: int) -> None:
    """PoisonError with offset and hexdump; the element is disposed of, and the next one is good."""
    for offset in sorted({0, size // 2, size - 1}):
        pool = Pool(Buffers(size, poison=True), 1, name="frames")
        buffer = pool.alloc_reserved()
        assert buffer is not None
        assert bytes(buffer) == b"\x6b" * (size - 1) + b"\xa5"
        address = buffer.address
        pool.free(buffer)
        ctypes.memset(address + offset, 0x42, 1)
        with pytest.raises(PoisonError, match=rf"'frames'.* offset {offset} was written .*: 42"):
            pool.alloc_reserved()
        stats = pool.stats()
        assert (stats.spare, stats.out, stats.disposed) == (0, 0, 1)
        pool.refill()
        good = pool.alloc()
        pool.free(good)
        pool.close()


@pytest.mark.parametrize("size", [3, 65537, 131072])
def test_an_end_that_looks_like_the_rest_is_damage_at_the_last_byte(size: int) -> None:
    """As a fill with the right byte that was one too long."""
    with Pool(Buffers(size, poison=True), 1, name="frames") as pool:
        with pool.lease() as buffer:
            address = buffer.address
        ctypes.memset(address + size - 1, 0x6B, 1)
        with pytest.raises(PoisonError, match=rf"offset {size - 1} was written .*: 6b where"):
            pool.alloc_reserved()


def test_poison_is_checked_whoever_takes_it() -> None:
    pool = Pool(Buffers(64, poison=True), 1, limit=1, name="frames")
    takers: list[Callable[[], object]] = [
        pool.alloc,
        pool.try_alloc,
        pool.alloc_reserved,
        lambda: pool.lease().element,
        lambda: pool.alloc_many(1),
    ]
    for take in takers:
        pool.refill()
        with pool.lease() as buffer:
            address = buffer.address
        ctypes.memset(address, 0, 1)
        with pytest.raises(PoisonError):
            take()
        stats = pool.stats()
        assert (stats.out, stats.spare, stats.made - stats.disposed) == (0, 0, 0)
    pool.close()


def test_poison_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMPOOL_POISON", "1")
    with Pool(Buffers(8), 1) as pool, pool.lease() as buffer:
        assert bytes(buffer) == b"\x6b" * 7 + b"\xa5"
    monkeypatch.setenv("MEMPOOL_POISON", "0")
    assert not hasattr(Buffers(8), "check")


def test_what_is_returned_is_wiped_before_anybody_sees_it() -> None:
    """zero="free"."""
    with Pool(Buffers(512, zero="free"), 1, keep=1, limit=2) as pool:
        buffers = pool.alloc_many(2)
        for buffer in buffers:
            buffer.fill(9)
        pool.free_many(buffers)  # one is kept, the other goes back to its block
        again = pool.alloc_many(2)
        assert [bytes(buffer) for buffer in again] == [bytes(512)] * 2
        pool.free_many(again)


def test_zeros_are_handed_out() -> None:
    """zero="alloc", and with poison the other way, too."""
    for source in (
        Buffers(512, zero="alloc"),
        Buffers(512, zero="alloc", poison=True),
        Buffers(512, zero="free", poison=True),
    ):
        with Pool(source, 1) as pool:
            for _ in range(3):
                with pool.lease() as buffer:
                    assert bytes(buffer) == bytes(512)
                    buffer.fill(1)


def test_bad_input_names_what_is_allowed() -> None:
    for options in ({"zero": "always"}, {"level": "much"}, {"align": 3}, {"align": 4 << 20}):
        with pytest.raises(ValueError, match=r'"never"|resident|power of two'):
            Buffers(4096, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one byte"):
        Buffers(0)


def test_the_level_is_in_the_guarantee() -> None:
    with Pool(Buffers(4096, level="backed"), 1) as pool:
        assert pool.guarantee().level == "backed"
    with Pool(mempool.Objects(object), 1) as pool:
        assert pool.guarantee().level is None
