"""mempool.linux: what taking elements promises, one by one and in bulk."""

from __future__ import annotations

import threading
from _queue import SimpleQueue
from collections.abc import Callable

import pytest
from clocks import LeapingClock
from kernel_model import Memory, numbers
from linux_pools import ALWAYS, DIRECT_RECLAIM, IO, create, drain, take

from mempool import linux
from mempool.linux import (
    GFP_ATOMIC,
    GFP_KERNEL,
    GFP_NOIO,
    GFP_NOWAIT,
    Mempool,
    mempool_alloc,
    mempool_alloc_bulk,
    mempool_alloc_preallocated,
    mempool_create,
    mempool_free,
    mempool_free_bulk,
    mempool_resize,
)
from mempool.testing import Element, wait_until

# -- alloc ------------------------------------------------------------------------------------------------------------


def test_alloc_asks_the_source_first_and_gently() -> None:
    """Also when the pool is full: its spares are for the day when there is no memory."""
    memory = Memory()
    pool = create(2, memory)
    assert take(pool, GFP_KERNEL).number == 3
    assert memory.log[-1] == ("alloc", (GFP_KERNEL | ALWAYS) & ~(DIRECT_RECLAIM | IO), 3)


def test_alloc_takes_the_spare_that_came_last() -> None:
    memory = Memory()
    pool = create(3, memory)
    memory.plan = [False] * 9
    assert [take(pool).number for _ in range(3)] == [3, 2, 1]


@pytest.mark.parametrize("gfp_mask", [GFP_ATOMIC, GFP_NOWAIT, 0])
def test_alloc_that_may_not_sleep_asks_once_and_returns_none(gfp_mask: int) -> None:
    memory = Memory()
    pool = create(1, memory)
    memory.plan = [False] * 9
    take(pool, gfp_mask)
    assert mempool_alloc(pool, gfp_mask) is None
    assert memory.log[1:] == [("alloc", gfp_mask | ALWAYS, None)] * 2


def test_alloc_that_may_do_io_but_not_sleep_asks_twice_and_returns_none() -> None:
    memory = Memory()
    pool = create(1, memory)
    mempool_alloc_preallocated(pool)
    memory.plan = [False] * 9
    assert mempool_alloc(pool, IO) is None
    assert memory.log[1:] == [("alloc", ALWAYS, None), ("alloc", IO | ALWAYS, None)]


def test_alloc_that_may_sleep_asks_again_with_all_it_may() -> None:
    memory = Memory()
    pool = create(1, memory)
    mempool_alloc_preallocated(pool)
    memory.plan = [False, True]
    assert take(pool, GFP_KERNEL).number == 2
    assert memory.log[-1] == ("alloc", GFP_KERNEL | ALWAYS, 2)


def test_alloc_that_may_sleep_waits_and_asks_again_from_time_to_time() -> None:
    memory = Memory()
    pool = create(1, memory)
    pool._clock = LeapingClock()
    mempool_alloc_preallocated(pool)
    memory.plan = [False] * 5
    assert take(pool, GFP_NOIO).number == 2
    assert [mask for _, mask, _ in memory.log[2:]] == [GFP_NOIO | ALWAYS] * 5
    assert pool.stats().waits_served == 1


def test_alloc_that_waits_is_served_by_a_free() -> None:
    memory = Memory()
    pool = create(1, memory)
    memory.plan = [False] * 10**6
    element = take(pool)
    got: list[Element] = []
    waiter = threading.Thread(daemon=True, target=lambda: got.append(take(pool, GFP_KERNEL)))
    waiter.start()
    wait_until(lambda: pool.stats().waiting == 1)
    mempool_free(element, pool)
    waiter.join()
    assert got[0] is element


def test_alloc_that_waits_is_served_by_a_resize() -> None:
    """In the kernel it would sleep on until its five seconds are over. There is memory for the resize alone."""
    made = iter(range(1, 100))
    pool = mempool_create(
        1, lambda mask, data: Element(next(made)) if mask == GFP_KERNEL else None, lambda element, data: None, None
    )
    assert pool is not None
    take(pool)
    got: list[Element] = []
    waiter = threading.Thread(daemon=True, target=lambda: got.append(take(pool, GFP_KERNEL)))
    waiter.start()
    wait_until(lambda: pool.stats().waiting == 1)
    assert mempool_resize(pool, 2) == 0
    waiter.join()
    assert numbers(got) == [2]
    assert (pool.curr_nr, pool.stats().made) == (2, 4)


def test_alloc_that_may_sleep_does_not_overtake_and_one_that_may_not_has_only_the_source() -> None:
    memory = Memory()
    pool = create(1, memory)
    memory.plan = [False] * 10**6
    element = take(pool)
    got: list[Element] = []

    def wait() -> None:
        mine = take(pool, GFP_KERNEL)
        got.append(mine)
        mempool_free(mine, pool)

    waiters = [threading.Thread(daemon=True, target=wait) for _ in range(2)]
    for number, waiter in enumerate(waiters, 1):
        waiter.start()
        wait_until(lambda number=number: pool.stats().waiting == number)  # type: ignore[misc]
    gentle_asks = [mask for _, mask, _ in memory.log if mask == (GFP_KERNEL | ALWAYS) & ~(DIRECT_RECLAIM | IO)]
    assert len(gentle_asks) == 1, "the second has not asked: it comes after the first"
    assert mempool_alloc(pool, GFP_ATOMIC) is None
    mempool_free(element, pool)
    for waiter in waiters:
        waiter.join()
    assert got == [element, element]
    assert pool.curr_nr == 1


def test_alloc_warns_of_zeroing_which_spares_do_not_heed() -> None:
    pool = create(1)
    with pytest.warns(RuntimeWarning, match="__GFP_ZERO"):
        mempool_alloc(pool, GFP_KERNEL | linux.__GFP_ZERO)


def test_each_thread_asks_with_its_own_mask() -> None:
    """Two threads are in alloc_fn at the same time, a third resizes: each sees what its own call allows."""
    together = threading.Barrier(3)
    seen: dict[str, list[int]] = {"atomic": [], "noio": [], "resize": []}
    is_armed: list[bool] = []

    def alloc_fn(gfp_mask: int, pool_data: None) -> list[int]:
        if is_armed:
            together.wait()
            seen[threading.current_thread().name].append(gfp_mask)
            together.wait()
        return [gfp_mask]

    pool = mempool_create(1, alloc_fn, lambda element, data: None, None)
    assert pool is not None
    is_armed.append(True)
    threads = [
        threading.Thread(daemon=True, name="atomic", target=mempool_alloc, args=(pool, GFP_ATOMIC)),
        threading.Thread(daemon=True, name="noio", target=mempool_alloc, args=(pool, GFP_NOIO)),
        threading.Thread(daemon=True, name="resize", target=mempool_resize, args=(pool, 2)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {
        "atomic": [GFP_ATOMIC | ALWAYS],
        "noio": [(GFP_NOIO | ALWAYS) & ~DIRECT_RECLAIM],
        "resize": [GFP_KERNEL],
    }


def test_a_pool_whose_alloc_fn_uses_another_pool_has_its_own_mask() -> None:
    """Stacked pools: each call says what it allows, and afterwards the outer mask is back."""
    below = Memory()
    lower = create(1, below)
    seen: list[int] = []

    def alloc_fn(gfp_mask: int, pool_data: None) -> Element | None:
        mempool_resize(lower, lower.min_nr + 1)
        seen.append(linux._mask_now.get())
        return mempool_alloc(lower, gfp_mask)

    upper = mempool_create(1, alloc_fn, mempool_free_to(lower), None)
    assert upper is not None
    below.log.clear()
    seen.clear()
    take(upper, GFP_ATOMIC)
    assert [mask for _, mask, _ in below.log] == [GFP_KERNEL, GFP_ATOMIC | ALWAYS]
    assert seen == [GFP_ATOMIC | ALWAYS]
    assert linux._mask_now.get() == GFP_KERNEL


def mempool_free_to(pool: Mempool[Element]) -> Callable[[Element, None], None]:
    return lambda element, data: mempool_free(element, pool)


def test_a_plain_pool_call_asks_with_all_flags() -> None:
    memory = Memory()
    pool = create(1, memory)
    with pool.lease() as element:
        assert memory.log[-1] == ("alloc", GFP_KERNEL, element.number)


def test_an_alloc_that_is_interrupted_leaves_nothing_behind() -> None:
    memory = Memory()
    pool = create(2, memory)

    class Interrupted(BaseException):
        pass

    class BrokenClock(LeapingClock):
        def park(self, wakes: SimpleQueue[None], seconds: float | None) -> None:
            raise Interrupted

    drain(pool)
    pool._clock = BrokenClock()
    memory.plan = [True, False, False, False]
    elems: list[Element | None] = [None, None]
    with pytest.raises(Interrupted):
        mempool_alloc_bulk(pool, elems)
    assert elems == [None, None]
    assert (pool.curr_nr, pool.stats().waiting, linux._mask_now.get()) == (1, 0, GFP_KERNEL)


def test_alloc_preallocated_never_asks_the_source() -> None:
    memory = Memory()
    pool = create(1, memory)
    assert numbers([mempool_alloc_preallocated(pool)]) == [1]
    assert mempool_alloc_preallocated(pool) is None
    assert len(memory.log) == 1


# -- bulk -------------------------------------------------------------------------------------------------------------


def test_alloc_bulk_fills_the_empty_places_only() -> None:
    memory = Memory()
    pool = create(4, memory)
    mine = take(pool)
    elems: list[Element | None] = [None, mine, None, None]
    memory.plan = [True, False]
    assert mempool_alloc_bulk(pool, elems, 3, 1) == 0
    assert numbers(elems) == [6, mine.number, 4, None]


def test_alloc_bulk_asks_again_before_it_takes_too_few_spares() -> None:
    """Two are missing and one is there: it stays there."""
    memory = Memory()
    pool = create(2, memory)
    mempool_alloc_preallocated(pool)
    memory.plan = [False, True, True]
    elems: list[Element | None] = [None, None]
    mempool_alloc_bulk(pool, elems)
    assert numbers(elems) == [3, 4]
    assert pool.curr_nr == 1


def test_alloc_bulk_waits_until_all_are_there() -> None:
    memory = Memory()
    pool = create(3, memory)
    held = drain(pool)
    memory.plan = [False] * 10**6
    elems: list[Element | None] = [None] * 3
    waiter = threading.Thread(daemon=True, target=mempool_alloc_bulk, args=(pool, elems))
    waiter.start()
    wait_until(lambda: pool.stats().waiting == 1)
    for element in held:
        assert elems == [None] * 3
        mempool_free(element, pool)
    waiter.join()
    assert sorted(map(id, elems)) == sorted(map(id, held))


def test_alloc_bulk_of_nothing_asks_for_nothing() -> None:
    memory = Memory()
    pool = create(1, memory)
    mine = take(pool)
    elems: list[Element | None] = [mine]
    assert mempool_alloc_bulk(pool, elems[:0]) == mempool_alloc_bulk(pool, elems) == 0
    assert len(memory.log) == 2


def test_alloc_bulk_whose_alloc_fn_raises_returns_what_it_had() -> None:
    memory = Memory()
    troubles: list[Exception] = []

    def alloc_fn(gfp_mask: int, pool_data: None) -> Element | None:
        if troubles and memory.made == 4:
            raise troubles.pop()
        return memory.alloc(gfp_mask)

    pool = mempool_create(3, alloc_fn, memory.free, None)
    assert pool is not None
    troubles.append(LookupError("no such disk"))
    elems: list[Element | None] = [None, None]
    with pytest.raises(LookupError):
        mempool_alloc_bulk(pool, elems)
    assert elems == [None, None]
    assert (pool.curr_nr, pool.stats().out, pool.stats().disposed) == (3, 0, 1)


def test_alloc_bulk_warns_of_more_than_the_pool_promises() -> None:
    pool = create(1)
    elems: list[Element | None] = [None, None]
    with pytest.warns(RuntimeWarning, match="2 at once, 1 promised"):
        mempool_alloc_bulk(pool, elems)
    assert None not in elems


@pytest.mark.parametrize(("count", "allocated"), [(3, 0), (-1, 0), (2, 1), (2, -1)])
def test_alloc_bulk_refuses_figures_that_do_not_fit_the_list(count: int, allocated: int) -> None:
    memory = Memory()
    pool = create(2, memory)
    elems: list[Element | None] = [None, None]
    with pytest.raises(ValueError, match="pool"):
        mempool_alloc_bulk(pool, elems, count, allocated)
    assert len(memory.log) == 2


def test_free_bulk_fills_what_is_short_and_leaves_the_rest_to_the_caller() -> None:
    memory = Memory()
    pool = create(2, memory)
    elems = [*drain(pool), take(pool)]
    assert mempool_free_bulk(pool, elems) == 2
    assert pool.curr_nr == 2
    assert mempool_free_bulk(pool, elems[2:], 1) == 0
    assert memory.log[-1][0] == "alloc"
    mempool_free(elems[2], pool)
    assert memory.log[-1] == ("free", 0, 3)


def test_free_bulk_refuses_more_than_there_are() -> None:
    pool = create(2)
    with pytest.raises(ValueError, match="pool"):
        mempool_free_bulk(pool, drain(pool), 3)
