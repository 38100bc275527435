"""Adaptors keep the contract of what they wrap, composed in any way, and each does the one thing that it is for."""

from __future__ import annotations

import dis
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from sweeps import ENDS, Interrupter, interrupted_everywhere
from wrappers import WRAPPERS

from mempool import Buffers, Fallback, Faulty, Limited, Logged, Objects, OnFailure, Pool, PoolTimeout, Translated
from mempool.sources.source import Source
from mempool.testing import Element, ScriptedSource, SourceBroken, Step
from mempool.testing.contract import PoolContract

works, fails, raises, _ = Step

# -- the contract, over all of them


class AdaptorContract(PoolContract):
    """What lies under the adaptor knows in the end that it got back exactly what it gave."""

    @pytest.fixture(autouse=True)
    def _nothing_lost(self) -> Iterator[None]:
        self.under: list[ScriptedSource[Any]] = []
        yield
        for source in self.under:
            assert source.wrong == []
            assert source.made - source.disposed == len(source.existing)
        del self.under

    def base(self) -> ScriptedSource[Any]:
        self.under.append(ScriptedSource())
        return self.under[-1]


class TestAllOfThemKeepTheContract(AdaptorContract):
    """One around the other: every second element comes from the second source, and each call is a line of the log."""

    @pytest.fixture(autouse=True)
    def _log(self, tmp_path: Path) -> None:
        self.log = tmp_path / "log.csv"

    def make_elements(self) -> Source[Any]:
        source = Fallback(Faulty(self.base(), every=2), self.base())
        helped = OnFailure(Faulty(Logged(source, to=self.log), every=3), lambda: True)
        return Translated(Limited(helped, elements_max=100_000), OSError)


# -- what all of them pass on


class Rich:
    """A source that has all that a source may have."""

    size = 64
    level = "resident"

    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []

    def alloc(self) -> bytearray:
        return bytearray(self.size)

    def free(self, element: bytearray) -> None:
        self.heard.append(("free", element))

    def reset(self, element: bytearray) -> None:
        self.heard.append(("reset", element))

    def check(self, element: bytearray) -> None:
        self.heard.append(("check", element))


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_what_a_source_has_its_adaptor_has(wrap: Callable[[Any], Any]) -> None:
    """And what it has not, neither has the adaptor: a pool looks."""
    rich = Rich()
    adaptor = wrap(rich)
    element = adaptor.alloc()
    adaptor.reset(element)
    adaptor.check(element)
    adaptor.free(element)
    assert rich.heard == [("reset", element), ("check", element), ("free", element)]
    assert (adaptor.size, adaptor.level) == (64, "resident")
    poor = wrap(Objects(bytearray))
    assert [
        name for name in ("reset", "check", "level", "regain", "size", "weight", "pool_uses") if hasattr(poor, name)
    ] == []


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_only_a_source_is_wrapped(wrap: Callable[[Any], Any]) -> None:
    """What cannot be one is told at once."""
    with pytest.raises(TypeError, match=r"a source has alloc\(\) and free\(element\)"):
        wrap(object())


def test_a_pool_of_an_adaptor_tells_the_level_of_what_it_wraps() -> None:
    """The promise passes through."""
    if not sys.platform.startswith("linux"):
        pytest.skip("levels are verified on Linux")
    with Pool(Limited(Faulty(Buffers(4096)), bytes_max="1 MiB"), 2) as pool:
        assert pool.guarantee().level == "resident"


# -- Translated


class Device:
    """A source that says in its own words that it has none."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error

    def alloc(self) -> bytearray:
        if self.error is not None:
            raise self.error
        return bytearray(1)

    def free(self, element: bytearray) -> None:
        if self.error is not None:
            raise self.error


def test_what_is_named_opens_the_reserve() -> None:
    """The reserve is there for a source that says OSError; what it said is kept, and told by `why_empty`."""
    device = Device(OSError(12, "no more frames"))
    error, device.error = device.error, None
    pool = Pool(Translated(device, OSError, LookupError), 1, name="frames")
    device.error = error
    element = pool.alloc()
    assert pool.stats().served_from_reserve == 1
    assert pool.try_alloc() is None
    assert "MemoryError: OSError: [Errno 12] no more frames" in pool.why_empty()
    device.error = KeyError("slot")  # a LookupError
    with pytest.raises(MemoryError, match="KeyError: 'slot'") as caught:
        Translated(device, OSError, LookupError).alloc()
    assert caught.value.__cause__ is device.error
    device.error = None
    pool.free(element)
    pool.close()


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), MemoryError("its own")])
def test_what_is_not_named_flies_as_it_is(error: BaseException) -> None:
    """An error that says something else is no lack of memory; and one of memory needs no other name."""
    source = Translated(Device(error), OSError)
    with pytest.raises(type(error)) as caught:
        source.alloc()
    assert caught.value is error
    assert caught.value.__cause__ is None


def test_only_alloc_is_translated() -> None:
    """An element that cannot be disposed of is no lack of memory."""
    device = Device(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        Translated(device, OSError).free(bytearray(1))


def test_a_pool_behind_a_pool_opens_the_reserve() -> None:
    """A pool is a source, whose lack is a PoolTimeout."""
    with Pool(Objects(bytearray), 2, limit=2, timeout=0) as behind, Pool(Translated(behind, PoolTimeout), 2) as pool:
        elements = [pool.alloc(), pool.alloc()]
        assert pool.try_alloc() is None
        assert pool.stats().source_failures > 0
        pool.free_many(elements)


@pytest.mark.parametrize("errors", [(), (OSError("one"),), (KeyboardInterrupt,), (OSError, "LookupError"), (int,)])
def test_only_classes_of_exceptions_are_named(errors: Any) -> None:
    """One at least; and no interrupt is a lack of memory."""
    with pytest.raises(TypeError, match="Translated: say which exceptions mean that there is no memory"):
        Translated(Objects(bytearray), *errors)


# -- Faulty


def which_fail(source: Faulty[Any], calls: int) -> list[int]:
    failed = []
    for call in range(1, calls + 1):
        try:
            source.alloc()
        except MemoryError:
            failed.append(call)
    assert source.failures == len(failed)
    return failed


def test_it_fails_every_so_many_times() -> None:
    """From the first on."""
    assert which_fail(Faulty(Objects(object), every=3), 10) == [3, 6, 9]


def test_it_fails_the_next_so_many_times() -> None:
    """And again when it is told to."""
    source = Faulty(Objects(object), next=2)
    assert which_fail(source, 5) == [1, 2]
    source.fail_next()
    with pytest.raises(MemoryError, match="alloc 6 fails on purpose"):
        source.alloc()
    source.alloc()


def test_it_fails_at_random_the_same_way_for_the_same_seed() -> None:
    """About as often as it was told."""
    first, again, other = (which_fail(Faulty(Objects(object), probability=0.25, seed=s), 1000) for s in (1, 1, 2))
    assert first == again != other
    assert 180 < len(first) < 320
    assert which_fail(Faulty(Objects(object), probability=0), 100) == []
    assert which_fail(Faulty(Objects(object), probability=1), 3) == [1, 2, 3]


def test_it_fails_no_more_often_than_it_may() -> None:
    """`times` is for all reasons together."""
    assert which_fail(Faulty(Objects(object), every=2, times=2), 10) == [2, 4]


@pytest.mark.parametrize("options", [{"probability": 1.1}, {"probability": -1}, {"every": -1}, {"next": -1}, {"times": -1}])
def test_nonsense_fails_at_once(options: dict[str, Any]) -> None:
    """Not at the first alloc."""
    with pytest.raises(ValueError, match="Faulty: "):
        Faulty(Objects(object), **options)


def test_a_pool_serves_from_its_reserve_what_a_faulty_source_does_not() -> None:
    """That is what it is for."""
    source = Faulty(Objects(object))
    with Pool(source, 3, keep=3) as pool:
        source.probability = 1.0
        out = [pool.alloc(timeout=0) for _ in range(3)]
        assert pool.stats().served_from_reserve == 3
        for element in out:
            pool.free(element)


# -- OnFailure


def test_the_callback_finds_memory_and_the_source_is_asked_again() -> None:
    """As often as it says that this is worth it."""
    cache = [1, 2, 3]

    def make() -> object:
        if cache:
            raise MemoryError
        return object()

    source = OnFailure(Objects(make), lambda: cache.pop())
    assert source.alloc() is not None
    assert cache == []


def test_without_hope_the_failure_is_passed_on() -> None:
    """With what the source said, after one question, or after as many as are allowed."""
    answers: list[bool] = []
    under = ScriptedSource[Element](otherwise=fails)
    source = OnFailure(under, lambda: answers.append(False))
    with pytest.raises(MemoryError, match="the script says so"):
        source.alloc()
    assert len(answers) == 1
    persistent = OnFailure(under, lambda: answers.append(True) or True, tries=5)
    with pytest.raises(MemoryError, match="the script says so"):
        persistent.alloc()
    assert len(answers) == 1 + 5
    assert under.alloc_calls == 1 + 6


def test_another_error_is_none_of_its_business() -> None:
    """Only MemoryError is."""
    asked: list[object] = []
    source = OnFailure(ScriptedSource[Element](raises), lambda: asked.append(1))
    with pytest.raises(SourceBroken):
        source.alloc()
    assert asked == []


def test_what_the_callback_raises_alloc_raises() -> None:
    """And the next alloc has its help again."""

    def broken() -> bool:
        raise KeyError("cache")

    source = OnFailure(ScriptedSource[Element](otherwise=fails), broken)
    for _ in range(2):
        with pytest.raises(KeyError):
            source.alloc()


def test_an_alloc_within_the_callback_is_not_helped() -> None:
    """It would ask for help for ever."""
    depth: list[int] = []

    def allocates() -> bool:
        depth.append(1)
        with pytest.raises(MemoryError):
            source.alloc()
        return False

    source: OnFailure[Element] = OnFailure(ScriptedSource[Element](otherwise=fails), allocates)
    with pytest.raises(MemoryError):
        source.alloc()
    assert len(depth) == 1


# -- Fallback


def test_each_element_goes_back_to_the_source_that_made_it() -> None:
    """Whatever its kind: these can be neither hashed nor marked."""
    made: dict[str, list[list[int]]] = {"first": [], "second": []}
    back: dict[str, list[list[int]]] = {"first": [], "second": []}

    def named(name: str) -> Objects[list[int]]:
        return Objects(lambda: made[name].append([]) or made[name][-1], back[name].append)

    source = Fallback(Faulty(named("first"), every=2), named("second"))
    elements = [source.alloc() for _ in range(6)]
    random.Random(3).shuffle(elements)
    for element in elements:
        source.free(element)
    for name in ("first", "second"):
        assert len(made[name]) == 3
        assert sorted(map(id, back[name])) == sorted(map(id, made[name]))
    assert source._seconds == set()


def test_an_element_that_was_lost_misleads_nobody() -> None:
    """Its number is another's afterwards, from the other source."""
    back: list[str] = []
    store = [[1]]

    def lend() -> list[int]:
        return store[0]  # as if the same address were used again

    first = Objects(lend, lambda _: back.append("first"))
    source = Fallback(faulty := Faulty(first, next=1), Objects(lend, lambda _: back.append("second")))
    source.alloc()  # the second's; lost
    source.free(source.alloc())
    faulty.fail_next()
    source.free(source.alloc())
    assert back == ["first", "second"]


def test_when_both_fail_the_second_is_heard() -> None:
    """It was the last hope."""
    source = Fallback(Faulty(Objects(object), probability=1), ScriptedSource(otherwise=fails))
    with pytest.raises(MemoryError, match="the script says so"):
        source.alloc()


def test_another_error_of_the_first_is_passed_on() -> None:
    """The second is for a lack of memory."""
    source = Fallback(ScriptedSource(raises), second := ScriptedSource())
    with pytest.raises(SourceBroken):
        source.alloc()
    assert second.alloc_calls == 0


def test_a_reset_is_done_by_the_source_that_made_the_element() -> None:
    """Where only one of the two has one, the other's elements are left alone."""
    reset: list[object] = []
    source = Fallback(Faulty(Objects(object, None, reset.append), every=2), Objects(object))
    elements = [source.alloc() for _ in range(4)]
    for element in elements:
        source.reset(element)
    assert reset == elements[::2]


def test_the_weaker_level_and_the_larger_size_count() -> None:
    """What is promised of every element."""
    first, second = Rich(), Rich()
    second.level, second.size = "virtual", 100
    source = Fallback(first, second)
    assert (source.level, source.size) == ("virtual", 100)
    second.level = None  # type: ignore[assignment]
    assert source.level is None


def test_buffers_go_back_to_their_own_memory_though_their_handles_change() -> None:
    """A pool puts the memory of a buffer that was freed into a new handle."""
    first, second = Buffers(4096, level="virtual"), Buffers(4096, level="virtual")
    with Pool(Fallback(Faulty(first, every=2), second), 8) as pool:
        for buffer in pool.alloc_many(8):
            pool.free(buffer)
    assert not first._memory._open
    assert not second._memory._open


def test_a_buffer_that_is_still_viewed_is_known_until_it_is_free() -> None:
    """A free that raised has changed nothing: the next one goes to the same source."""
    second = ScriptedSource[Any](source=Buffers(100, level="virtual"))
    source = Fallback(Faulty(Objects(object), probability=1), second)
    buffer = source.alloc()
    second.then_free(lambda: (_ for _ in ()).throw(BufferError("viewed")))
    with pytest.raises(BufferError):
        source.free(buffer)
    assert source._maker(buffer) is second


# -- whatever interrupts


class Interrupted(Interrupter):
    """Strikes at no return: there the interpreter looks for no signal, and the caller here is C, which keeps the element."""

    def passes_over(self, frame: FrameType) -> bool:
        return dis.opname[frame.f_code.co_code[frame.f_lasti]] in ENDS or super().passes_over(frame)


@pytest.mark.parametrize("call", ["alloc", "free"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_an_interrupt_loses_no_element_and_no_place(wrap: Callable[[Any], Any], call: str) -> None:
    """At any bytecode of an adaptor's alloc; and after any of a free, what was not disposed of can be."""
    for interrupter in interrupted_everywhere():
        under = ScriptedSource[Element]()
        source = wrap(under)
        kept = [source.alloc()]
        element = None
        struck = Interrupted(interrupter.countdown)
        try:
            with struck:
                if call == "free":
                    source.free(kept[0])
                else:
                    element = source.alloc()
        except KeyboardInterrupt:
            pass
        interrupter.countdown = struck.countdown
        for each in (*kept, element):
            if each is not None and under.has([each]):
                source.free(each)
        assert under.existing == [], struck.struck_at
        assert under.wrong == []
        if isinstance(source, Limited):
            assert source.existing == 0, struck.struck_at
            assert len(list(itertools.islice(iter(source.alloc, None), source.elements_max))) == source.elements_max


def test_a_fallback_of_which_a_level_is_not_known_has_none() -> None:
    class Pinned(ScriptedSource[Element]):
        level = "pinned"

    pool = Pool(Fallback(Pinned(), Buffers(64)), 1)
    assert pool.resize(3).level is None
