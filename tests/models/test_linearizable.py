"""What threads see of a pool, a pool that decides one thing after another could have shown them.

`python tests/models/test_linearizable.py 3000` checks so many histories of the pool as it is, and HISTORIES of each that
is broken.
"""

import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from histories import Event, Forgotten, Recorder, first_unexplained, new_pool
from planted_in_the_pool import IN_THE_CORE, NOBODY_IS_WOKEN, PLANTED
from wrong_histories import PAIRS

from mempool import IMPLEMENTATION, Pool, PoolStats
from mempool.testing import Element

RESERVE, KEEP, THREADS, ROUNDS = 1, 2, 4, 4
ROOM = 2  # fewer than threads, so that people wait
PATIENCE = 20  # seconds; on no machine is anybody forgotten who waits less
LITTLE_PATIENCE = 0.5  # with a broken pool, of which somebody who is forgotten is expected
HISTORIES = 60
#: Threads draw what a history has in it. So what must be seen in some history is searched for until it is seen, and only
#: so many that never had it are a failure.
SEARCHED = 5000
START = new_pool(RESERVE, KEEP, THREADS)
SEEDS_OF_RESTS = range(10_000, 10_000 + HISTORIES // 2)


class RestlessPool(Pool[Element]):
    """Asks its source each time, even when that has failed a moment ago: so that the order of questions is known."""

    _rests = False


@pytest.fixture(autouse=True)
def _threads_switched_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


class History:
    """What a few threads did that take, hold, give back, resize and look; at the end, one looks for each element."""

    def __init__(self, seed: int, wait_seconds_max: float = PATIENCE, kind: type[Pool[Element]] = RestlessPool) -> None:
        self._recorder = Recorder(ROOM, wait_seconds_max)
        self._pool: Pool[Element] = kind(self._recorder, RESERVE, keep=KEEP)
        self._together = threading.Barrier(THREADS)
        with ThreadPoolExecutor(THREADS) as executor:
            done = [executor.submit(self._live, who, random.Random(seed * THREADS + who)) for who in range(THREADS)]
        self.errors: list[BaseException] = [error for error in (one.exception() for one in done) if error is not None]
        if not self.errors:
            self._take_stock()
        self.events: list[Event] = self._recorder.events
        self.stats: PoolStats = self._pool.stats()

    def _do(self, who: int, what: str, value: object = None) -> int | None:
        return self._recorder.call(self._pool, who, what, value)  # type: ignore[no-any-return]

    def _live(self, who: int, dice: random.Random) -> None:
        mine: list[int] = []
        self._together.wait()
        for _ in range(ROUNDS):
            chance = dice.random()
            if chance < 0.3:
                reserve = dice.randrange(4)
                self._do(who, "resize", (reserve, reserve + dice.randrange(2)))
            elif chance < 0.5:
                self._do(who, "stats")
            # Who holds something waits for nothing, else all could wait for each other.
            waits = [] if mine else ["alloc", "alloc"]
            element = self._do(who, dice.choice(["try_alloc", "alloc at once", *waits]))
            if element is not None:
                mine.append(element)
            if dice.random() < 0.5:
                os.sched_yield()  # so that it still holds what the others want when they come
            while mine and dice.random() < 0.5:
                self._do(who, "free", mine.pop(dice.randrange(len(mine))))
        while mine:
            self._do(who, "free", mine.pop())

    def _take_stock(self) -> None:
        """Nobody moves any more. The state, and each spare by itself, must be what the model says."""
        self._do(0, "stats")
        while self._do(0, "alloc_reserved") is not None:
            pass
        self._do(0, "stats")


def told(events: list[Event]) -> str:
    return "\n".join(f"{place}: {event}" for place, event in enumerate(events))


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_every_recorded_history_has_an_explanation(seed: int) -> None:
    """A pool without threads, deciding one thing after another at moments true to time, can have shown all that was seen."""
    history = History(seed)
    assert history.errors == []
    unexplained = first_unexplained(history.events, START)
    assert unexplained is None, f"{unexplained} is not explained in\n{told(history.events)}"


@pytest.mark.parametrize("seed", SEEDS_OF_RESTS)
def test_every_history_with_a_source_that_rests_has_an_explanation(seed: int) -> None:
    """The same when who finds a spare of the reserve may have it without asking."""
    history = History(seed, kind=Pool)
    assert history.errors == []
    unexplained = first_unexplained(history.events, START._replace(may_rest=True))
    assert unexplained is None, f"{unexplained} is not explained in\n{told(history.events)}"


def test_the_histories_have_in_them_what_they_are_about() -> None:
    """People wait, are served and give up; the source makes and fails; transfers stay empty; surplus is disposed of.

    Each of it in some history: threads draw who comes first, so no number of histories is sure to have it all.
    """
    expected = {"served in the line", "gave up", "nothing from try_alloc", "nothing from alloc at once"}
    expected |= {f"{answer} for {what}" for what in ("alloc", "try_alloc", "resize") for answer in ("made", "failed")}
    expected |= {"disposed for free", "disposed for resize"}
    seen: Counter[str] = Counter()
    for seed in range(SEARCHED):
        history = History(seed)
        seen["served in the line"] += history.stats.waits_served
        seen["gave up"] += history.stats.waits_timed_out
        asked: dict[int, str] = {}
        for event in history.events:
            if event.what in ("made", "failed", "disposed"):
                seen[f"{event.what} for {asked[event.who]}"] += 1
            elif event.what == "returns":
                if event.value is None:
                    seen[f"nothing from {asked[event.who]}"] += 1
            else:
                asked[event.who] = event.what
        if expected <= set(+seen):
            break
    assert expected - set(+seen) == set()


@pytest.mark.parametrize("what", PAIRS)
def test_a_wrong_history_is_told_from_a_right_one(what: str) -> None:
    """The checker objects to what no pool may do, and not to what comes next to it and may be done."""
    pair = PAIRS[what]
    assert first_unexplained(pair.right, pair.start) is None
    assert first_unexplained(pair.wrong, pair.start) is not None


@pytest.mark.parametrize("seed", range(3))
def test_a_recorded_history_that_hides_an_element_is_not_explained(seed: int) -> None:
    """Leave out, one at a time, each element that the source made or disposed of: the checker objects each time."""
    events = History(seed).events
    for place, event in enumerate(events):
        if event.what in ("made", "disposed"):
            assert first_unexplained(events[:place] + events[place + 1 :], START) is not None, (
                f"without {place}:\n{told(events)}"
            )


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_bug_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker objects to some history of the real pool, broken on purpose, and to none of the whole one."""
    if what in IN_THE_CORE and IMPLEMENTATION == "compiled":
        pytest.skip("compiled, nothing can be put in the place of a decision")
    monkeypatch.setattr(*PLANTED[what])
    assert any(first_unexplained(History(seed, LITTLE_PATIENCE).events, START) is not None for seed in range(SEARCHED))


@pytest.mark.skipif(IMPLEMENTATION == "compiled", reason="compiled, nothing can be put in the place of a decision")
def test_who_is_served_and_not_woken_is_found_by_the_time_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Being late is no wrong order, so the checker cannot see it: the recorder does, by its clock."""
    monkeypatch.setattr(*NOBODY_IS_WOKEN)
    assert any(isinstance(error, Forgotten) for seed in range(SEARCHED) for error in History(seed, LITTLE_PATIENCE).errors)


def main(histories: int) -> None:
    """Count what is refused."""
    sys.setswitchinterval(1e-6)
    waits = refused = 0
    for seed in range(histories):
        history = History(seed)
        waits += history.stats.waits_served
        refused += bool(history.errors) or first_unexplained(history.events, START) is not None
    print(f"{IMPLEMENTATION}, as it is: {refused} of {histories} refused; {waits} waits in them ended well")
    for what, planted in {**PLANTED, "nobody is woken": NOBODY_IS_WOKEN}.items():
        if IMPLEMENTATION == "compiled" and (what in IN_THE_CORE or planted is NOBODY_IS_WOKEN):
            continue
        refused = late = 0
        for seed in range(HISTORIES):
            with pytest.MonkeyPatch.context() as monkeypatch:
                monkeypatch.setattr(*planted)
                history = History(seed, LITTLE_PATIENCE)
            refused += first_unexplained(history.events, START) is not None
            late += any(isinstance(error, Forgotten) for error in history.errors)
        print(f"{what}: {refused} of {HISTORIES} refused; in {late} somebody was forgotten", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
