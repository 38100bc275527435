"""What is returned while others wait goes to the first of them; compiled, by a quick way that makes no transfer."""

from typing import Any

import pytest
from callers import waiter

from mempool import Buffers, DoubleFree, ForeignElement, Objects, Pool
from mempool._core import Ticket
from mempool.testing import Element, ManualClock, ScriptedSource, Step, wait_until
from mempool.testing.contract.callers import ThreadCallers

SOON = 60
EACH_TRACK = pytest.mark.parametrize("track", ["nothing", "identity", "holders"])
EACH_SOURCE = pytest.mark.parametrize("make", [lambda: Objects(bytearray), lambda: Buffers(64)], ids=["objects", "buffers"])


@EACH_TRACK
@EACH_SOURCE
def test_each_element_that_is_returned_goes_to_the_first_in_line(make: Any, track: str) -> None:
    """By free and by a lease, whether that was served warm or had to wait itself."""
    pool = Pool(make(), 2, limit=2, track=track)
    warm = pool.lease()
    assert warm.element is not None
    element = pool.alloc()
    others = [waiter(pool), waiter(pool)]
    pool.free(element)
    first = others[0].result(SOON)
    assert not others[1].done()
    warm.release()
    second = others[1].result(SOON)
    stats = pool.stats()
    assert (stats.out, stats.spare, stats.waiting, stats.served_from_line) == (2, 0, 0, 2)
    pool.free_many(first + second)


@EACH_TRACK
@EACH_SOURCE
def test_a_lease_that_waited_hands_on_what_it_got(make: Any, track: str) -> None:
    """And is over then."""
    pool = Pool(make(), 1, limit=1, track=track)
    element = pool.alloc()
    lease = pool.lease()
    entered = ThreadCallers().enter(lease)
    wait_until(lambda: pool.stats().waiting == 1)
    pool.free(element)
    assert entered.result(SOON) is not None
    other = waiter(pool)
    lease.release()
    pool.free_many(other.result(SOON))
    with pytest.raises(DoubleFree, match="was released already"):
        lease.release()
    assert (pool.stats().out, pool.stats().spare) == (0, 1)


@EACH_SOURCE
def test_a_big_request_gathers_what_is_handed_on(make: Any) -> None:
    """One by one, and whoever drains meanwhile is told when nothing is out any more."""
    pool = Pool(make(), 3, limit=3, track="identity")
    taken = [pool.alloc() for _ in range(3)]
    other = waiter(pool, 3)
    told: list[bool] = []
    drain = Ticket(0)
    drain.set_waiter(lambda: told.append(True), None, 0)
    pool.core.watch_drain(drain, True)
    pool.free(taken.pop())
    pool.free(taken.pop())
    assert (pool.stats().spare, pool.stats().waiting, told) == (2, 1, [])
    pool.free(taken.pop())
    gathered = other.result(SOON)
    assert len(gathered) == 3
    pool.core.watch_drain(drain, False)
    pool.free_many(gathered)


@EACH_SOURCE
def test_what_is_not_out_is_not_handed_on(make: Any) -> None:
    """A stranger, and what was freed already, are told so while others wait, and those get nothing of it."""
    pool = Pool(make(), 2, limit=2)
    first, second = pool.alloc(), pool.alloc()
    other = waiter(pool)
    pool.free(first)
    got = other.result(SOON)
    other = waiter(pool)
    if got[0] is not first:  # a buffer, whose handle is dead
        with pytest.raises(DoubleFree):
            pool.free(first)
    with pytest.raises(ForeignElement):
        pool.free(object())
    assert not other.done()
    pool.free(second)
    pool.free_many(got + other.result(SOON))


def test_a_buffer_that_is_viewed_is_not_handed_on() -> None:
    """It is its user's as before."""
    pool = Pool(Buffers(64), 1, limit=1)
    buffer = pool.alloc()
    other = waiter(pool)
    with buffer[:], pytest.raises(BufferError, match="viewed"):
        pool.free(buffer)
    assert not other.done()
    pool.free(buffer)
    pool.free_many(other.result(SOON))


@EACH_SOURCE
@pytest.mark.parametrize("by_lease", [False, True], ids=["free", "lease"])
def test_a_wake_that_raises_does_not_take_the_element_back(make: Any, by_lease: bool) -> None:
    """It is told to whoever returned the element, which is the waiter's by then."""
    pool = Pool(make(), 1, limit=1)
    lease = pool.lease()
    element = lease.element if by_lease else pool.alloc()

    def wake() -> None:
        raise RuntimeError("nobody there")

    ticket = Ticket(1)
    ticket.set_waiter(wake, None, 0)
    pool.core.join(ticket, [])
    with pytest.raises(RuntimeError, match="nobody there"):
        lease.release() if by_lease else pool.free(element)
    assert ticket.is_settled()
    assert len(ticket.held()) == 1
    if by_lease:
        with pytest.raises(DoubleFree):
            lease.release()
    assert (pool.stats().spare, pool.stats().out) == (0, 1)
    pool._engine.cancel(ticket)
    assert (pool.stats().spare, pool.stats().out) == (1, 0)


def test_what_nobody_in_line_has_use_for_is_not_handed_on() -> None:
    """While the head is inside the source, one is kept for it; what is returned after that is a spare, or surplus."""
    source = ScriptedSource[Element]()
    clock = ManualClock()
    pool = clock.attach(Pool(source, 1, keep=1))
    taken = pool.alloc_many(4)
    source.otherwise = Step.FAILS
    while (spare := pool.alloc_reserved()) is not None:
        taken.append(spare)
    source.otherwise = Step.SLOW
    source.then(Step.FAILS)
    head = waiter(pool)
    clock.wait_until_parked(1)
    calls = source.alloc_calls
    clock.advance(0.05)  # the head asks by itself, and is inside the source then
    wait_until(lambda: source.alloc_calls > calls)
    pool.free(taken.pop())
    pool.free(taken.pop())
    pool.free(taken.pop())
    assert pool.stats().spare <= pool.stats().keep
    source.open()
    pool.free_many(taken + head.result(SOON))
    stats = pool.stats()
    assert (stats.out, stats.spare, stats.made - stats.disposed) == (0, 1, 1)
