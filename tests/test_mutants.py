"""What no other test would notice: one promise for each bug that was planted by a machine and survived."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from mempool import Buffers, DoubleFree, ForeignElement, Objects, Pool, PoolTimeout, UseAfterFree
from mempool._core import IMPLEMENTATION, Decisions, Transfer
from mempool._core.decisions import TIMED_OUT, UNCHANGED
from mempool._core.state import UNLIMITED
from mempool._core.transfer import CLOSED, SERVED, WITHDRAWN
from mempool.clock import Clock
from mempool.local import returning
from mempool.testing import ManualClock, ScriptedSource, Step


class Hostile:
    """An element that must not be asked anything: whatever is done with it is its maker's code."""

    def _asked(self, *_arguments: object) -> NoReturn:
        raise AssertionError("the pool ran an element's own code")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _asked  # type: ignore[assignment]
    __bool__ = __len__ = __iter__ = __contains__ = __repr__ = __str__ = __format__ = _asked  # type: ignore[assignment]
    __index__ = __int__ = __getattr__ = _asked


@pytest.mark.parametrize("track", ["identity", "nothing", "holders"])
def test_no_code_of_an_element_is_run(track: str) -> None:
    """Elements are moved, and known by their identity: the pool neither compares, hashes, tests nor prints them."""
    with Pool(Objects(Hostile), 2, keep=3, limit=4, track=track) as pool:
        one = pool.alloc()
        many = pool.alloc_many(3)
        assert pool.try_alloc() is None
        pool.why_empty()
        pool.holders()
        pool.free(one)
        pool.free_many(many)
        if track != "nothing":
            with pytest.raises(DoubleFree):
                pool.free(one)
            with pytest.raises(ForeignElement):
                pool.free(Hostile())
        with pool.lease() as leased:
            pool.hand_over(leased)
        pool.resize(3)
        pool.resize(0, keep=0)


class Asking:
    """A source that does something else, once, while it is asked for an element."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] | None = None

    def alloc(self) -> object:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return object()

    def free(self, _element: object) -> None:
        pass


def test_a_grow_beside_an_alloc_uses_all_the_room_under_the_limit() -> None:
    """What another caller is having made takes one place under the limit, and not more."""
    source = Asking()
    pool = Pool(source, 2, limit=6)
    source.meanwhile = lambda: pool.resize(5)
    assert pool.try_alloc() is not None
    assert (pool.stats().spare, pool.stats().out) == (5, 1)


class Stopped(Clock):
    """A clock that cannot be read."""

    def now(self) -> float:
        raise ArithmeticError


def test_an_element_that_was_signed_out_in_vain_is_not_out() -> None:
    """Whose alloc fails between the table of outstanding elements and the tracker of holders has nothing, and the table of
    outstanding elements says so.
    """
    made: list[object] = []
    pool = Pool(Objects(lambda: made.append(object()) or made[-1]), 1, track="holders")
    clock, pool._clock = pool._clock, Stopped()
    with pytest.raises(ArithmeticError):
        pool.alloc()
    pool._clock = clock
    assert pool.stats().out == 0
    assert not any(map(pool.core.is_out, made))


def test_a_lease_says_why_it_cannot_be_released() -> None:
    lease = Pool(Objects(object), 1).lease()
    with pytest.raises(RuntimeError, match="this lease never took an element"):
        lease.release()
    assert lease.element is not None
    lease.release()
    with pytest.raises(DoubleFree, match="this lease was released already"):
        lease.release()


@pytest.mark.parametrize("call", ["alloc", "lease", "alloc_async", "alloc_many", "alloc_many_async"])
def test_a_timeout_is_named(call: str) -> None:
    """A number alone could be taken for how many."""
    first = [1] if "many" in call else []
    with pytest.raises(TypeError, match="positional"):
        getattr(Pool(Objects(object), 1), call)(*first, 1.0)


def test_targets_beside_the_reserve_are_named() -> None:
    with pytest.raises(TypeError, match="positional"):
        Pool(Objects(object), 1, 2)  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        Pool(Objects(object), 1).resize(1, 2)  # type: ignore[misc]


def test_many_that_come_from_here_and_there_do_not_line_up() -> None:
    """What a caller has of the spares already it does not ask of the reserve again."""
    source = ScriptedSource()
    pool = Pool(source, 2)
    pool.free(pool.alloc())
    source.otherwise = Step.FAILS
    pool.free_many(pool.alloc_many(3, timeout=0))
    stats = pool.stats()
    assert (stats.served_from_spare, stats.served_from_reserve, stats.served_from_line) == (1, 2, 0)


@pytest.mark.parametrize("places", [2, 8192, 8193, 20_000])
def test_a_list_of_places_is_as_long_as_it_was_asked_for(places: int) -> None:
    """Whether it is made in one piece or in several."""
    assert len(Pool(Objects(object), 0)._engine._new_slots(places)) == places


def test_places_are_made_for_twice_the_reserve_and_no_more() -> None:
    assert Pool(Objects(object), 5).core.capacity() == 10


def test_a_list_of_many_places_begins_as_one_that_malloc_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that can grow without being copied: it is announced as 64 MiB long. A short one as what it is."""
    announced: list[int] = []
    monkeypatch.setattr("mempool.local.engine._Announced", lambda places: announced.append(places) or ())
    pool = Pool(Objects(object), 0)
    several = [65_535, 65_536, 100_000, 9_000_000]
    assert [len(pool._engine._new_slots(places)) for places in several] == several
    assert announced == [65_535, (64 << 20) // 8, (64 << 20) // 8, 9_000_000]


def test_waits_that_ended_in_vain_are_summed_up() -> None:
    """Of those who left by themselves, and of those who were told to, at numbers that no other operation adds up."""
    pool = Pool(Objects(object), 0)
    for outcome, times in ((SERVED, 5), (WITHDRAWN, 3), (CLOSED, 1), (TIMED_OUT, 7)):
        for _ in range(times):
            pool.core.count_wait(outcome, 0.5)
    stats = pool.stats()
    assert (stats.waits_served, stats.waits_cancelled, stats.waits_timed_out) == (5, 4, 7)


def test_a_new_reserve_holds_nothing() -> None:
    reserve = Decisions(False, False, False)
    snapshot = reserve.snapshot()
    expected = {"limit": UNLIMITED, "waiting_max": UNLIMITED, "closed": False, "resizes": -1}
    expected |= {"waits": [0] * 8, "wait_histogram": [0] * 23}
    assert snapshot == dict.fromkeys(snapshot, 0) | expected
    assert reserve.capacity() == 0


def test_a_lease_that_was_never_served_has_nothing_to_say_when_it_is_dropped() -> None:
    pool = Pool(ScriptedSource(otherwise=Step.FAILS), 0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        lease: Any = pool.lease()
        assert not lease._use_warm()
        lease._make_ticket()
        del lease
    assert said == []


@pytest.mark.parametrize(("track", "is_known"), [("identity", True), ("holders", True), ("nothing", False)])
def test_what_is_out_is_known_unless_nothing_is_tracked(track: str, is_known: bool) -> None:
    pool = Pool(Objects(bytearray), 1, track=track)
    assert pool.core.is_out(pool.alloc()) == is_known


def test_nobody_owes_an_element_when_more_were_returned_than_went_out() -> None:
    """Where nobody looks, two threads that free the same element in the same moment can do that."""
    pool = Pool(Objects(object), 1, track="nothing")
    element, several = pool.alloc_reserved(), (Transfer(1), Transfer(1))
    for transfer in several:
        transfer.hold(element)
        assert pool.core.check_in(transfer)
    for transfer in several:
        pool.core.take_back(transfer)
    pool._engine._retarget(5, UNCHANGED, UNCHANGED)
    assert (pool.guarantee().owed, pool.guarantee().unfunded, pool.stats().out) == (0, 3, -1)


@pytest.mark.parametrize("lacking", ["alloc", "free"])
def test_a_source_that_lacks_either_method_is_refused(lacking: str) -> None:
    source: Any = type("Source", (), {"alloc": object, "free": print})
    delattr(source, lacking)
    with pytest.raises(TypeError):
        Pool(source(), 0)


@pytest.mark.skipif(IMPLEMENTATION == "compiled", reason="compiled, nobody sees who watches")
def test_who_gives_up_a_drain_watches_no_more() -> None:
    pool: Any = Pool(Objects(bytearray), 1)
    element = pool.alloc()
    with pytest.raises(PoolTimeout):
        pool.drain(timeout=0)
    assert pool.core.state.drainers == ()
    pool.free(element)


class CutShort:
    """In a function's place: an interrupt before the first call does anything; after that the function."""

    def __init__(self, function: Callable[..., Any], error: type[BaseException] = KeyboardInterrupt) -> None:
        self.function = function
        self.error = error
        self.was_called = False

    def __call__(self, *arguments: Any) -> Any:
        if not self.was_called:
            self.was_called = True
            raise self.error
        return self.function(*arguments)


@pytest.mark.skipif(IMPLEMENTATION == "compiled", reason="compiled, the fast path has no such place")
def test_an_interrupt_before_a_handle_dies_does_not_spare_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The element is back by then, and the next user's."""
    pool = Pool(Buffers(64), 1)
    buffer = pool.alloc()
    monkeypatch.setattr("mempool.local.returning.revoke", CutShort(returning.revoke))
    with pytest.raises(KeyboardInterrupt):
        pool.free(buffer)
    assert pool.stats().out == 0
    with pytest.raises((UseAfterFree, ValueError)):
        buffer[:]


@pytest.mark.skipif(IMPLEMENTATION == "compiled", reason="compiled, nothing can be put in the place of a decision")
def test_an_interrupt_after_the_reset_does_not_cost_the_element(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Objects(bytearray, reset=bytearray.clear), 0, keep=1)
    element = pool.alloc()
    give = CutShort(Decisions.take_back)
    monkeypatch.setattr(Decisions, "take_back", lambda *arguments: give(*arguments))
    with pytest.raises(KeyboardInterrupt):
        pool.free(element)
    assert (pool.stats().spare, pool.stats().disposed) == (1, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_pool_whose_end_was_cut_short_is_closed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """By its finalizer, to which nobody comes back."""
    pool = Pool(ScriptedSource(), 2)
    close = CutShort(Pool.close, error)
    monkeypatch.setattr(Pool, "close", lambda *arguments: close(*arguments))
    with pytest.raises(error):
        pool.__del__()
    assert pool.stats().disposed == 2


def test_a_wait_is_logged_after_ten_seconds_unless_told_otherwise() -> None:
    assert inspect.signature(Pool).parameters["patience"].default == 10


def test_more_are_disposed_of_at_once_than_there_are_small_numbers() -> None:
    source = ScriptedSource()
    pool = Pool(source, 0, keep=0)
    assert pool.free_many(pool.alloc_many(300)) == 0
    assert pool.stats().disposed == source.free_calls == 300


def test_more_cannot_be_reset_at_once_than_there_are_small_numbers() -> None:
    """They were taken back from their user before the reset failed, and are disposed of."""
    pool = Pool(Objects(bytearray, reset=lambda _element: {}["nothing"]), 0)
    elements = pool.alloc_many(300)
    with pytest.raises(KeyError, match="nothing"):
        pool.free_many(elements)
    assert (pool.stats().out, pool.stats().disposed) == (0, 300)


def test_a_refused_resize_names_the_numbers_that_contradict_each_other() -> None:
    """Those that were given, and where one was not, the one that stands."""
    pool = Pool(Objects(object), 2, limit=9)
    with pytest.raises(ValueError, match="keep 1 is below the reserve of 2"):
        pool.resize(keep=1)
    with pytest.raises(ValueError, match="keep 4 is below the reserve of 5"):
        pool.resize(5, keep=4)
    with pytest.raises(ValueError, match="a limit of 1 cannot hold the reserve of 2"):
        pool.resize(limit=1)
    with pytest.raises(ValueError, match="a limit of 9 cannot hold the reserve of 10"):
        pool.resize(10)
    with pytest.raises(ValueError, match="a limit of 8 cannot hold the reserve of 10"):
        pool.resize(10, limit=8)


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


def test_who_waits_for_many_brings_places_for_them() -> None:
    """They are gathered on the free list, which is short in a pool that keeps few."""
    pool = Pool(ScriptedSource(otherwise=Step.FAILS), 0)

    async def main() -> None:
        task = asyncio.create_task(pool.alloc_many_async(50))
        await asyncio.sleep(0)
        assert pool.core.capacity() == 50
        task.cancel()

    asyncio.run(main())


def test_what_the_head_of_the_line_is_served_with_counts_once() -> None:
    """It asked the source, and got it as one of the line."""
    source = ScriptedSource(otherwise=Step.FAILS)
    clock = ManualClock()
    pool = clock.attach(Pool(source, 0))

    async def main() -> None:
        task = asyncio.create_task(pool.alloc_async())
        await asyncio.sleep(0)
        source.otherwise = Step.WORKS
        clock.advance(0.05)
        await task

    asyncio.run(main())
    stats = pool.stats()
    assert (stats.served_from_line, stats.served_from_source, stats.served_from_spare) == (1, 0, 0)


def test_of_several_errors_of_a_free_the_first_is_raised() -> None:
    source = ScriptedSource()
    pool = Pool(source, 3)
    source.then_free(Step.WORKS, lambda: (_ for _ in ()).throw(LookupError("first")), Step.RAISES)
    with pytest.raises(LookupError, match="first"):
        pool.close()
    assert pool.stats().disposed == 3


class Dear:
    """A source whose elements take their time, by the pool's clock; and that looks how many are asked for at once."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds
        self.pool: Pool[object] | None = None
        self.at_once: list[int] = []

    def alloc(self) -> object:
        assert self.pool is not None
        self.at_once.append(self.pool.core.snapshot()["permits"])
        self.clock.advance(self.seconds)
        return object()

    def free(self, _element: object) -> None:
        pass


@pytest.mark.parametrize(
    ("seconds", "goes"),
    [(0, [1, 2, 4, 8, 16, 32, 64, 64, 64, 45]), (0.0003, [1, 2, 4, *[4] * 73, 1]), (0.002, [1] * 300)],
)
def test_cheap_elements_are_made_in_larger_goes(seconds: float, goes: list[int]) -> None:
    """Twice as many after each that took less than a millisecond, and 64 at most."""
    clock = ManualClock()
    source = Dear(clock, seconds)
    pool = source.pool = clock.attach(Pool(source, 0))
    pool.resize(300)
    assert source.at_once == [go for go in goes for _ in range(go)]


def test_who_waited_in_vain_is_told_how_long(caplog: pytest.LogCaptureFixture) -> None:
    """And the log is. Longer than the clock has been running, which would hide one sum or another."""
    clock = ManualClock()
    pool = clock.attach(Pool(ScriptedSource(otherwise=Step.FAILS), 0, patience=2300))

    async def main() -> None:
        task = asyncio.create_task(pool.alloc_async(timeout=2500))
        await asyncio.sleep(0)
        clock.advance(2300)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert "a caller has waited for 2300 s" in caplog.text
        clock.advance(200)
        with pytest.raises(PoolTimeout, match=re.escape("waited 2500 s in vain")):
            await task

    asyncio.run(main())


class Shy:
    """A source whose `free` cannot be had at first, so often; whoever asks again gets it."""

    def __init__(self, vain: int) -> None:
        self.vain = vain
        self.freed = 0

    def alloc(self) -> object:
        return object()

    @property
    def free(self) -> Callable[[object], None]:
        if self.vain > 0:
            self.vain -= 1
            raise MemoryError
        return self.count

    def count(self, _element: object) -> None:
        self.freed += 1


@pytest.mark.parametrize(("vain", "freed"), [(0, 2), (1, 2), (2, 2), (3, 1), (4, 1), (5, 1), (6, 0)])
def test_a_free_that_could_not_be_entered_is_tried_three_times(vain: int, freed: int) -> None:
    """For each element; then that one is given up, and the next has its turn."""
    source = Shy(0)
    pool = Pool(source, 2)
    source.vain = vain
    with pytest.raises(MemoryError) if vain else contextlib.nullcontext():
        pool.resize(0)
    assert (source.freed, pool.stats().disposed) == (freed, 2)
