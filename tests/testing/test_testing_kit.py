"""mempool.testing tests others, and is tested here: the source that does as it is told, the clock, the waiting."""

import asyncio
import itertools
import threading
import weakref
from _queue import SimpleQueue
from collections.abc import Callable

import pytest

from mempool import Buffers, Objects, Pool, PoolTimeout
from mempool.testing import (
    Element,
    ManualClock,
    ScriptedSource,
    SourceBroken,
    Step,
    assert_books,
    wait_until,
    wait_until_async,
)
from mempool.testing.contract.callers import KINDS
from mempool.testing.waiting import wait_until_it_holds

works, fails, raises, slow = Step
SOON = 60


def outcome(call: Callable[[], object]) -> Step:
    """How a call of a source ended."""
    try:
        call()
    except MemoryError:
        return fails
    except SourceBroken:
        return raises
    return works


# -- assert_books


def test_books_that_balance_pass() -> None:
    """With elements out, lost and disposed of; by number and by name."""
    source = ScriptedSource()
    pool = Pool(source, 2, keep=2)
    several = pool.alloc_many(3)
    assert_books(pool, source, out=3)
    assert_books(pool, source, out=several, spare=2)
    pool.write_off(several.pop())
    pool.free(several.pop())
    assert_books(pool, source, out=several, spare=2)
    pool.resize(0, keep=0)
    pool.free(several.pop())
    assert_books(pool, source, spare=0)


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda _pool, _source, _held: None, "out: 1, not 0"),
        (lambda pool, _source, held: pool.free(held.pop()) or pool.alloc(), "out: 1, not 0"),
        (lambda _pool, source, _held: source.alloc(), "made, by the source: 3, not 2"),
        (lambda _pool, source, held: source.free(held[0]), "existing, by the source: 1, not 2"),
        (lambda _pool, source, held: source.free(held[0]), "disposed of, by the source: 1, not 0"),
        (lambda _pool, source, _held: source.wrong.append("freed twice"), "freed twice"),
    ],
)
def test_books_that_do_not_balance_are_told_with_all_figures(
    break_it: Callable[[Pool[Element], ScriptedSource[Element], list[Element]], object], said: str
) -> None:
    """Each thing that is wrong, the statistics, and who holds what."""
    source: ScriptedSource[Element] = ScriptedSource()
    pool = Pool(source, 2, name="frames", track="holders")
    held = [pool.alloc_reserved()]
    break_it(pool, source, held)
    with pytest.raises(AssertionError, match="its books do not balance") as caught:
        assert_books(pool, source)
    assert said in str(caught.value).splitlines()
    assert "PoolStats(name='frames'" in str(caught.value)
    assert "MainThread" in str(caught.value)


def test_books_name_what_is_out() -> None:
    """Elements that are named must exist, and be as many."""
    source = ScriptedSource()
    pool = Pool(source, 2)
    several = pool.alloc_many(2)
    with pytest.raises(AssertionError, match="out: an element is named twice"):
        assert_books(pool, source, out=[several[0], several[0]])
    with pytest.raises(AssertionError, match="out: an element does not exist any more"):
        assert_books(pool, source, out=[several[0], Element(1)])
    with pytest.raises(AssertionError, match="spare: 2, not 1"):
        assert_books(pool, source, out=several, spare=1)


# -- ScriptedSource


@pytest.mark.parametrize("script", list(itertools.product([works, fails, raises], repeat=3)), ids=str)
def test_a_source_follows_its_script(script: tuple[Step, ...]) -> None:
    """Each call does what the script says; when it is at its end, what `otherwise` says."""
    source: ScriptedSource[Element] = ScriptedSource(*script)
    assert tuple(outcome(source.alloc) for _ in script) == script
    assert outcome(source.alloc) is works
    source.otherwise = fails
    assert outcome(source.alloc) is fails
    source.then(works)
    assert outcome(source.alloc) is works
    assert source.alloc_calls == 6
    assert source.made == len(source.existing) == script.count(works) + 2
    assert source.log == [f"alloc {step.value}" for step in (*script, works, fails, works)]


def test_a_source_knows_which_elements_exist() -> None:
    """Made, disposed of, existing in the order of making; and what it is given wrongly."""
    source: ScriptedSource[Element] = ScriptedSource()
    one, two, three = (source.alloc() for _ in range(3))
    assert repr(two) == "<element 2>"
    assert weakref.ref(two)() is two
    source.free(two)
    assert source.existing == [one, three]
    assert source.has([one, three])
    assert not source.has([one, two])
    for wrong in (two, Element(1)):
        with pytest.raises(AssertionError):
            source.free(wrong)
    assert len(source.wrong) == 2
    assert (source.made, source.disposed) == (3, 1)


def test_a_free_that_raises_has_disposed() -> None:
    """The element is gone all the same."""
    source: ScriptedSource[Element] = ScriptedSource()
    source.then_free(raises)
    element = source.alloc()
    assert outcome(lambda: source.free(element)) is raises
    assert (source.existing, source.disposed, source.free_calls) == ([], 1, 1)


@pytest.mark.parametrize("end", [works, fails, raises])
def test_a_slow_call_is_held_until_it_is_released(end: Step) -> None:
    """release() says how it ends; the one held the longest goes first."""
    source: ScriptedSource[Element] = ScriptedSource(slow, slow)
    ends: list[Step] = []
    threads = []
    for number in range(2):
        threads.append(threading.Thread(target=lambda: ends.append(outcome(source.alloc))))
        threads[-1].start()
        source.wait_until_held(number + 1)
    assert (source.held, ends) == (2, [])
    source.release(end)
    threads[0].join(SOON)
    assert (source.held, ends) == (1, [end])
    source.open()
    threads[1].join(SOON)
    assert ends == [end, works]


def test_a_call_is_not_released_to_be_slow() -> None:
    """release(SLOW) would not release it: ValueError, and it is held as before."""
    source: ScriptedSource[Element] = ScriptedSource(slow)
    thread = threading.Thread(target=source.alloc)
    thread.start()
    source.wait_until_held()
    with pytest.raises(ValueError, match="not slow"):
        source.release(slow)
    assert (source.held, source.log) == (1, [])
    source.release()
    thread.join(SOON)
    assert source.log == ["alloc works"]


@pytest.mark.parametrize(
    "give",
    [
        lambda source, step: ScriptedSource(works, step),
        lambda source, step: ScriptedSource(otherwise=step),
        lambda source, step: source.then(works, step),
        lambda source, step: source.then_free(step),
        lambda source, step: source.release(step),
        lambda source, step: setattr(source, "otherwise", step),
        lambda source, step: setattr(source, "otherwise_free", step),
    ],
)
@pytest.mark.parametrize("step", ["fails", [works, fails], None], ids=str)
def test_a_step_that_is_none_is_refused(give: Callable[[ScriptedSource[Element], object], object], step: object) -> None:
    """TypeError where it is given, and not where it would be taken; nothing has changed."""
    source: ScriptedSource[Element] = ScriptedSource()
    with pytest.raises(TypeError, match=r"is a Step, as Step\.FAILS, or a function"):
        give(source, step)
    source.free(source.alloc())
    assert source.log == ["alloc works", "free works"]


def test_the_play_can_be_ended() -> None:
    """open(): every call works from now on, whatever the script says."""
    source: ScriptedSource[Element] = ScriptedSource(fails, slow, otherwise=raises)
    source.then_free(raises)
    source.open()
    elements = [source.alloc() for _ in range(3)]
    for element in elements:
        source.free(element)
    assert source.existing == []


def test_a_step_can_be_a_function() -> None:
    """It is called in the middle of the call; what it raises, the call raises."""
    seen: list[int] = []
    source: ScriptedSource[Element] = ScriptedSource(lambda: seen.append(source.alloc_calls), lambda: 1 / 0)
    assert outcome(source.alloc) is works
    with pytest.raises(ZeroDivisionError):
        source.alloc()
    assert seen == [1]
    assert source.made == 1


def test_a_source_stands_before_another() -> None:
    """source=...: the elements are the other's, and so is its reset."""
    reset: list[object] = []
    source = ScriptedSource(works, fails, source=Objects(bytearray, reset=reset.append))
    pool = Pool(source, 1)
    element = pool.alloc()
    assert isinstance(element, bytearray)
    pool.free(element)
    assert reset == [element]
    buffers = ScriptedSource(source=Buffers(4096))
    buffer = buffers.alloc()
    buffers.free(buffer)
    assert not buffer.is_alive()
    assert not hasattr(buffers, "reset")


def test_a_source_behind_it_that_makes_the_same_twice_is_blamed() -> None:
    """It must make another object each time: AssertionError names it. What is gone may be made again."""
    one = bytearray()
    source = ScriptedSource(source=Objects(lambda: one))
    source.free(source.alloc())
    assert source.alloc() is one
    with pytest.raises(AssertionError, match=r"the alloc of Objects\(.*it must make another object each time"):
        source.alloc()
    assert source.existing == [one]


def test_every_combination_of_answers_in_a_pool() -> None:
    """The example of the documentation: drive every combination, with one assertion about accounting."""
    for script in itertools.product([works, fails, raises], repeat=4):
        source: ScriptedSource[Element] = ScriptedSource()
        pool = Pool(source, 1)
        source.then(*script)
        elements = []
        for _ in script:
            try:
                elements.append(pool.alloc(timeout=0))
            except (PoolTimeout, SourceBroken):
                pass
        assert pool.stats().made == source.made
        assert len(source.existing) == pool.stats().spare + len(elements)


# -- ManualClock


def test_the_clock_moves_when_it_is_told_to() -> None:
    """now() is what was advanced; looks counts who asked."""
    clock = ManualClock()
    assert (clock.now(), clock.next_alarm, clock.parked) == (1000, None, 0)
    clock.advance(1.5)
    clock.advance(2)
    assert clock.now() == 1003.5
    assert clock.looks == 2


def test_a_thread_is_woken_at_its_time_and_not_before() -> None:
    """park(seconds) ends when that much has been advanced, or when something is put into its queue."""
    clock = ManualClock()
    woken = threading.Event()
    wakes: SimpleQueue[None] = SimpleQueue()

    def park() -> None:
        clock.now()
        clock.park(wakes, 2)
        woken.set()

    for put in (False, True):
        woken.clear()
        thread = threading.Thread(target=park)
        thread.start()
        clock.wait_until_parked(1)
        assert clock.next_alarm == 2
        clock.advance(1.5)
        assert not woken.is_set()
        assert clock.parked == 1
        if put:
            wakes.put(None)
        else:
            clock.advance(0.5)
        thread.join(SOON)
        assert woken.is_set()
        assert clock.parked == 0


def test_a_deadline_counts_from_the_look_at_the_clock() -> None:
    """Time that is advanced between a caller's look and its parking is not lost."""
    clock = ManualClock()
    clock.now()
    clock.advance(3)
    clock.park(SimpleQueue(), 3)  # returns at once
    assert clock.parked == 0


def test_what_remains_by_a_rounding_error_is_no_time() -> None:
    """One that sums up its deadline otherwise than the clock, and is not quite there, does not park for ever."""
    clock = ManualClock()
    for _ in range(10):
        deadline = clock.now() + 0.1 + 0.2
        clock.advance(0.3)
        while (left := deadline - clock.now()) > 0:
            clock.park(SimpleQueue(), left)  # returns at once
    assert clock.now() == pytest.approx(1003)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "thread"])
def test_a_timer_of_a_loop_fires_at_its_time(kind: str) -> None:
    """call_later fires when that much has been advanced, from any thread; a cancelled one never does."""
    clock = ManualClock()
    fired: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        clock.now()
        clock.call_later(loop, 1, lambda: fired.append("one"))
        clock.call_later(loop, 1, lambda: fired.append("cancelled")).cancel()
        clock.call_later(loop, 2, lambda: fired.append("two"))
        clock.call_later(loop, 0, lambda: fired.append("at once"))
        await wait_until_async(lambda: fired == ["at once"])
        clock.advance(1)
        await wait_until_async(lambda: fired == ["at once", "one"])
        threading.Thread(target=clock.advance, args=(1,)).start()
        await wait_until_async(lambda: fired == ["at once", "one", "two"])
        assert clock.parked == 0

    callers = KINDS[kind]()
    try:
        asyncio.run_coroutine_threadsafe(main(), callers.loop).result(SOON)  # type: ignore[attr-defined]
    finally:
        callers.close()


def test_the_alarms_of_a_loop_that_is_closed_ring_in_vain() -> None:
    """advance() does not mind."""
    clock = ManualClock()
    loop = asyncio.new_event_loop()
    clock.call_later(loop, 1, lambda: None)
    loop.close()
    clock.advance(1)
    assert clock.parked == 0


def test_a_pool_lives_by_the_clock_it_is_attached_to() -> None:
    """attach(pool) returns the pool, whose waits are the clock's from then on."""
    clock = ManualClock()
    pool = clock.attach(Pool(ScriptedSource(works, otherwise=fails), 1))
    pool.alloc()
    errors: list[PoolTimeout] = []

    def wait() -> None:
        try:
            pool.alloc(timeout=3600)
        except PoolTimeout as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    clock.wait_until_parked(1)
    clock.advance(3600)
    thread.join(SOON)
    assert len(errors) == 1
    assert pool.stats().wait_seconds_max == 3600


class Wrapped:
    """A pool around a pool."""

    def __init__(self) -> None:
        self.inner = Pool(ScriptedSource(), 1)

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


@pytest.mark.parametrize("make", [Wrapped, object])
def test_a_clock_is_attached_to_what_has_a_clock(make: Callable[[], object]) -> None:
    """Else, also for a wrapper, whose attribute would change nothing behind it, TypeError says what to do."""
    with pytest.raises(TypeError, match=r"has no clock of its own .* attach the clock to the mempool\.Pool behind it"):
        ManualClock().attach(make())


# -- wait_until


def test_waiting_for_a_state_returns_what_was_seen() -> None:
    """wait_until returns what the condition gave when it was true; wait_until_async the same."""
    answers = iter([0, None, [], "here"])
    assert wait_until(lambda: next(answers)) == "here"
    answers = iter([0, "there"])
    assert asyncio.run(wait_until_async(lambda: next(answers))) == "there"


def test_waiting_in_vain_names_the_condition() -> None:
    """When the time is up, AssertionError says for what was waited, and where that is written."""
    with pytest.raises(AssertionError, match=r"waited 0 s in vain .*test_testing_kit\.py:\d+"):
        wait_until(lambda: False, timeout=0)
    with pytest.raises(AssertionError, match=r"waited 0 s in vain .*test_testing_kit\.py:\d+"):
        asyncio.run(wait_until_async(lambda: False, timeout=0))


def test_what_does_not_hold_yet_is_asked_until_it_does() -> None:
    """And no longer; of what never does, the last failure is told, and nothing else is held back."""
    asked = itertools.count(1)

    def hold(number: int) -> None:
        assert next(asked) >= number

    wait_until_it_holds(lambda: hold(3), 60)
    assert next(asked) == 4
    with pytest.raises(AssertionError):
        wait_until_it_holds(lambda: hold(1 << 60), 0)
    with pytest.raises(ZeroDivisionError):
        wait_until_it_holds(lambda: 1 / 0, 60)
