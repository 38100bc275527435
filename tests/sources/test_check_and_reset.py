"""What a source's check has had is reset, again if memory lacked once, before anybody else may have it."""

from __future__ import annotations

import threading

import pytest
from callers import SOON, Caller

from mempool import DoubleFree, Pool


class Careful:
    """Each spare holds "pattern", its check erases it. With `spoils` its reset fails; and so often as it `lacks` memory."""

    def __init__(self) -> None:
        self.interrupts = False
        self.spoils = False
        self.lacks = 0
        self.freed = 0

    def alloc(self) -> bytearray:
        return bytearray(b"pattern")

    def free(self, element: bytearray) -> None:
        self.freed += 1

    def check(self, element: bytearray) -> None:
        if element != b"pattern":
            raise AssertionError("an innocent is accused")
        element[:] = b"0000000"
        if self.interrupts:
            raise KeyboardInterrupt

    def reset(self, element: bytearray) -> None:
        self.lacks -= 1
        if self.lacks >= 0:
            raise MemoryError
        element[:] = b"pattern"
        if self.spoils:
            raise RuntimeError("spoilt")


@pytest.mark.parametrize("way", ["alloc", "try_alloc", "alloc_reserved"])
def test_what_a_check_has_had_is_reset_when_it_does_not_go_out(way: str) -> None:
    source = Careful()
    pool = Pool(source, 1, limit=1)
    source.interrupts = True
    with pytest.raises(KeyboardInterrupt):
        getattr(pool, way)()
    source.interrupts = False
    element = getattr(pool, way)()
    assert element == b"0000000"
    pool.free(element)
    assert element == b"pattern"
    assert source.freed == 0


def test_a_reset_that_lacked_memory_once_is_done_again() -> None:
    source = Careful()
    pool = Pool(source, 1, limit=1)
    source.interrupts = True
    source.lacks = 1
    with pytest.raises((KeyboardInterrupt, MemoryError)):
        pool.alloc()
    source.interrupts = False
    assert (source.freed, pool.stats().spare) == (0, 1)
    assert pool.alloc() == b"0000000"


def test_a_reset_that_lacks_memory_again_is_given_up() -> None:
    source = Careful()
    pool = Pool(source, 1, limit=1)
    source.interrupts = True
    source.lacks = 2
    with pytest.raises(MemoryError):
        pool.alloc()
    assert (source.freed, pool.stats().spare, pool.stats().out, pool.stats().disposing) == (1, 0, 0, 0)


def test_what_cannot_be_reset_then_is_disposed_of() -> None:
    source = Careful()
    pool = Pool(source, 1, limit=1)
    source.interrupts = source.spoils = True
    with pytest.raises(RuntimeError, match="spoilt"):
        pool.alloc()
    assert (source.freed, pool.stats().spare, pool.stats().out, pool.stats().disposing) == (1, 0, 0, 0)


def test_a_lease_that_was_served_is_nobody_elses_while_its_element_is_checked() -> None:
    """It is out only when its taker has it."""
    entered, may_go = threading.Event(), threading.Event()

    class Slow(Careful):
        def check(self, element: bytearray) -> None:
            super().check(element)
            entered.set()
            assert may_go.wait(SOON)

    pool = Pool(Slow(), 1, limit=1)
    lease = pool.lease()
    anna = Caller("anna")
    taking = anna.does(lambda: lease.element)
    assert entered.wait(SOON)
    for access in (lease.release, lambda: lease.element):
        with pytest.raises(DoubleFree, match="waits for its element"):
            access()
    may_go.set()
    assert taking.result(SOON) is lease.element
    lease.release()
    assert (pool.stats().spare, pool.stats().out) == (1, 0)
    anna.ends()


class Checking:
    """A source that looks at each element before it goes out, and finds fault with one."""

    alloc = staticmethod(bytearray)

    def free(self, _element: bytearray) -> None:
        pass

    def check(self, element: bytearray) -> None:
        if element == b"spoilt":
            raise LookupError("spoilt")


def test_an_element_that_was_found_spoilt_is_nobodys_any_more() -> None:
    """It is disposed of, and not kept for the next."""
    pool = Pool(Checking(), 0, keep=1)
    element = pool.alloc()
    element[:] = b"spoilt"
    pool.free(element)
    with pytest.raises(LookupError, match="spoilt"):
        pool.alloc()
    assert (pool.stats().spare, pool.stats().out, pool.stats().disposed) == (0, 0, 1)
