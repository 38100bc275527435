"""Beside the contract: the reserve by the fast path, by the system's clock, and what the statistics say of it.

Compiled, no Python code runs there; uncompiled, the same calls go the slow way. Both must come to the same.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mempool import Buffers, Pool, PoolClosed, PoolTimeout
from mempool.linux import GFP_KERNEL, mempool_alloc, mempool_create, mempool_free
from mempool.local import supply
from mempool.testing import Element, ManualClock, ScriptedSource, Step, wait_until
from mempool.testing.contract.callers import ThreadCallers

HOURS = 3600.0
EACH_TRACK = pytest.mark.parametrize("track", ["nothing", "identity", "holders"])


@pytest.fixture(params=["objects", "buffers"])
def source(request: pytest.FixtureRequest) -> ScriptedSource[Any]:
    return ScriptedSource(source=Buffers(64) if request.param == "buffers" else None)


@pytest.fixture
def rests_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply, "REST_FIRST", HOURS)
    monkeypatch.setattr(supply, "REST_LAST", HOURS)


def by_lease(pool: Pool[Any]) -> Any:
    lease = pool.lease()
    element = lease.element
    leases.append(lease)
    return element


leases: list[Any] = []


@pytest.fixture(autouse=True)
def _leases_end() -> Iterator[None]:
    yield
    while leases:
        leases.pop().release()


WAYS: dict[str, Callable[[Pool[Any]], Any]] = {
    "alloc": lambda pool: pool.alloc(timeout=0),
    "try_alloc": lambda pool: pool.try_alloc(),
    "alloc_reserved": lambda pool: pool.alloc_reserved(),
    "lease": by_lease,
}
EACH_WAY = pytest.mark.parametrize("way", WAYS)


def served(pool: Pool[Any]) -> tuple[int, int, int]:
    stats = pool.stats()
    return stats.served_from_spare, stats.served_from_source, stats.served_from_reserve


@EACH_TRACK
@EACH_WAY
@pytest.mark.usefixtures("rests_long")
def test_the_reserve_is_used_without_asking_by_the_systems_clock(source: ScriptedSource[Any], way: str, track: str) -> None:
    """Every element is counted as what it was: beyond the reserve, or of it."""
    pool = Pool(source, 3, keep=5, track=track)
    pool.free_many(pool.alloc_many(2) + [pool.alloc() for _ in range(3)])
    beyond, made, of_reserve = served(pool)
    spare = pool.stats().spare
    source.otherwise = Step.FAILS
    calls = source.alloc_calls
    taken = [WAYS[way](pool) for _ in range(spare)]
    assert None not in taken
    assert len({id(element) for element in taken}) == spare == 5
    assert served(pool) == (beyond + 2, made, of_reserve + 3)
    assert source.alloc_calls - calls == (way != "alloc_reserved")
    if way != "lease":
        pool.free_many(taken)
        assert pool.stats().out == 0


@pytest.mark.usefixtures("rests_long")
def test_nothing_is_left_of_a_reserve_that_is_used_without_asking(source: ScriptedSource[Any]) -> None:
    """Then the source is asked as ever."""
    pool = Pool(source, 1)
    source.otherwise = Step.FAILS
    element = pool.alloc()
    for _ in range(2):
        calls = source.alloc_calls
        assert pool.try_alloc() is None
        assert source.alloc_calls == calls + 1
    assert pool.alloc_reserved() is None
    pool.free(element)


def test_a_source_that_rested_is_asked_again_by_the_systems_clock(
    source: ScriptedSource[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rest comes to its end without anybody's doing."""
    monkeypatch.setattr(supply, "REST_FIRST", 1e-9)
    monkeypatch.setattr(supply, "REST_LAST", 1e-9)
    pool = Pool(source, 1)
    source.otherwise = Step.FAILS
    for _ in range(3):
        calls = source.alloc_calls
        pool.free(pool.alloc())
        assert source.alloc_calls == calls + 1


@pytest.mark.usefixtures("rests_long")
def test_a_source_that_works_again_is_asked_at_once(source: ScriptedSource[Any]) -> None:
    """A refill finds out; then the fast path knows, too."""
    pool = Pool(source, 2)
    source.otherwise = Step.FAILS
    taken = [pool.alloc(), pool.alloc()]
    source.otherwise = Step.WORKS
    pool.resize(3)
    made = pool.stats().served_from_source
    taken.append(pool.alloc())
    assert pool.stats().served_from_source == made + 1
    pool.free_many(taken)


@EACH_TRACK
@EACH_WAY
def test_at_the_limit_the_reserve_is_used(source: ScriptedSource[Any], way: str, track: str) -> None:
    """The source cannot be asked; and when the limit is raised, it is again."""
    pool = Pool(source, 2, keep=4, limit=4, track=track)
    others = pool.alloc_many(4)
    pool.free_many(others)
    before = served(pool)
    calls = source.alloc_calls
    taken = [WAYS[way](pool) for _ in range(4)]
    assert served(pool) == (before[0] + 2, before[1], before[2] + 2)
    assert source.alloc_calls == calls
    pool.resize(limit=5)
    taken.append(pool.alloc())
    assert source.alloc_calls == calls + 1
    if way != "lease":
        pool.free_many(taken)


def test_room_that_comes_back_under_the_limit_is_asked_for(source: ScriptedSource[Any]) -> None:
    """What is disposed of leaves room: the reserve is not touched then."""
    pool = Pool(source, 1, keep=1, limit=3)
    taken = pool.alloc_many(3)
    pool.free_many(taken)  # keeps one of the three
    calls = source.alloc_calls
    taken = [pool.alloc(), pool.alloc()]
    assert source.alloc_calls == calls + 2
    assert pool.stats().spare == 1
    pool.free_many(taken)


@pytest.mark.parametrize("way", ["try_alloc", "alloc_reserved"])
@pytest.mark.usefixtures("rests_long")
def test_who_does_not_wait_gets_no_spare_while_others_do(way: str) -> None:
    """What is gathered for the head of the line is nobody else's, and who gives up gets nothing."""
    pool = ManualClock().attach(Pool(ScriptedSource(), 2, limit=2))
    taken = pool.alloc_many(2)
    waiting = ThreadCallers().call(pool, "alloc_many", 2)
    wait_until(lambda: pool.stats().waiting == 1)
    pool.free(taken.pop())
    assert pool.stats().spare == 1
    assert WAYS[way](pool) is None
    pool.free(taken.pop())
    pool.free_many(waiting.result(60))


@EACH_WAY
@pytest.mark.usefixtures("rests_long")
def test_a_closed_pool_hands_out_nothing_of_its_reserve(source: ScriptedSource[Any], way: str) -> None:
    """Whether its source rests or not."""
    pool = Pool(source, 2)
    source.otherwise = Step.FAILS
    pool.free(pool.alloc())
    pool.close()
    with pytest.raises(PoolClosed):
        WAYS[way](pool)


def test_a_reserve_that_is_checked_goes_out_by_the_slow_way() -> None:
    """At the limit and while the source rests, too: each element is looked at."""
    source = ScriptedSource[Element]()
    looked_at: list[object] = []
    source.check = looked_at.append
    pool = Pool(source, 2, limit=2)
    taken = [pool.alloc(), pool.try_alloc()]
    assert looked_at == taken
    pool.free_many(taken)
    assert pool.alloc_reserved() is looked_at[-1]


@pytest.mark.usefixtures("rests_long")
def test_why_empty_says_that_the_source_is_left_alone(source: ScriptedSource[Any]) -> None:
    """And for how long, by the pool's clock."""
    clock = ManualClock()
    pool = clock.attach(Pool(source, 2))
    assert "left alone" not in pool.why_empty()
    source.otherwise = Step.FAILS
    pool.free(pool.alloc())
    assert "it is left alone for 3600 s while there are spares" in pool.why_empty()
    clock.advance(HOURS)
    assert "left alone" not in pool.why_empty()


def test_the_kernels_pool_asks_each_time() -> None:
    """mempool_alloc calls alloc_fn first, whatever it said the last time."""
    asked: list[int] = []
    answers: list[Element | None] = [Element(1), Element(2)]

    def alloc_fn(gfp_mask: int, _data: None) -> Element | None:
        asked.append(gfp_mask)
        return answers.pop() if answers else None

    pool = mempool_create(2, alloc_fn, lambda element, _data: None, None)
    assert pool is not None
    for _ in range(3):
        calls = len(asked)
        element = mempool_alloc(pool, GFP_KERNEL)
        assert len(asked) > calls
        mempool_free(element, pool)
        calls = len(asked)
        pool.free(pool.alloc())
        assert len(asked) == calls + 1


def test_a_wait_for_what_the_source_does_not_have_is_over_in_time(source: ScriptedSource[Any]) -> None:
    """A rest bounds nothing but questions."""
    pool = Pool(source, 1)
    source.otherwise = Step.FAILS
    element = pool.alloc()
    with pytest.raises(PoolTimeout):
        pool.alloc(timeout=0.001)
    pool.free(element)
