"""What threads see of a pool, one caller after another could have seen."""

import random
import sys
import threading
from collections.abc import Iterator

import pytest
from histories import Call, Element, Recorder, State, explain, steps_of

from mempool import Pool

RESERVE, KEEP, ROOM = 2, 3, 5


@pytest.fixture(autouse=True)
def _threads_switched_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def recorded(seed: int, threads: int = 3, rounds: int = 5) -> tuple[list[Call], State]:
    """The history of a few threads that take, give back and resize; and how the pool was when they began."""
    source = Recorder(ROOM)
    pool: Pool[Element] = Pool(source, RESERVE, keep=KEEP)
    together = threading.Barrier(threads)

    def caller(number: int) -> None:
        dice = random.Random(seed * threads + number)
        together.wait()
        for _ in range(rounds):
            if dice.random() < 0.3:
                reserve = dice.randrange(1, 4)
                source.pool_resize(pool, reserve, reserve + dice.randrange(2))
            element = source.pool_alloc(pool, waits=dice.random() < 0.5)
            if element is not None:
                source.pool_free(pool, element)

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(threads)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    return source.calls, (RESERVE, KEEP, tuple(range(RESERVE)), frozenset())


@pytest.mark.parametrize("seed", range(60))
def test_every_recorded_history_has_an_explanation(seed: int) -> None:
    """There is an order of all calls, true to time, in which a pool without threads returns what this one returned."""
    calls, start = recorded(seed)
    steps = steps_of(calls)
    order = explain(steps, start)
    assert order is not None, "\n".join(map(str, steps))
    assert len(order) == len(steps)


START: State = (1, 1, (0,), frozenset())


def test_a_history_of_one_caller_is_explained() -> None:
    """Take, give back, take again."""
    calls = [Call("alloc", 1, None, 2, 0), Call("free", 3, 0, 4), Call("alloc", 5, None, 6, 0)]
    assert explain(steps_of(calls), START) is not None


def test_two_callers_with_one_element_are_not_explained() -> None:
    """The checker objects when an element is handed out twice."""
    calls = [Call("alloc", 1, None, 3, 0), Call("alloc", 2, None, 4, 0)]
    assert explain(steps_of(calls), START) is None


def test_an_empty_hand_beside_a_spare_is_not_explained() -> None:
    """The checker objects when a caller gets nothing although a spare lay there all the time."""
    calls = [Call("alloc", 1, None, 2, None)]
    assert explain(steps_of(calls), START) is None
    overlapping = [*calls, Call("alloc", 0, None, 5, 0)]
    assert explain(steps_of(overlapping), START) is not None


def test_what_came_home_too_late_is_not_explained() -> None:
    """The checker objects when a caller has an element before its last user gave it back."""
    late = [Call("alloc", 1, None, 2, 0), Call("alloc", 3, None, 4, 0), Call("free", 5, 0, 6)]
    in_time = [Call("alloc", 1, None, 2, 0), Call("alloc", 3, None, 6, 0), Call("free", 4, 0, 5)]
    assert explain(steps_of(late), START) is None
    assert explain(steps_of(in_time), START) is not None


def test_a_resize_that_is_overwritten_by_an_earlier_one_is_not_explained() -> None:
    """The checker objects when a resize that had ended is undone by one that changed its targets before."""
    shrunk = Call("resize", 1, (1, 1), 2, (1, 1))
    later = Call("resize", 3, (2, 2), 4, (2, 1))
    assert explain(steps_of([shrunk, later]), START) is not None
    stale = Call("resize", 5, (2, 2), 6, (1, 1))
    assert explain(steps_of([shrunk, later, stale]), START) is None


@pytest.mark.parametrize("seed", range(5))
def test_a_recorded_history_with_one_lie_is_not_explained(seed: int) -> None:
    """The checker is not content with everything: an alloc that says it got what another has makes it object."""
    calls, start = recorded(seed)
    calls.sort(key=lambda call: call.begins)
    holder = next(call for call in calls if call.what == "alloc" and call.result is not None)
    freed = next(call for call in calls if call.what == "free" and call.given == holder.result)
    lie = Call("alloc", holder.ends + 0.25, None, freed.begins - 0.25, holder.result)
    assert explain(steps_of([*calls, lie]), start) is None
