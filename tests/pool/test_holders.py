"""Who holds what, since when, from where; and what the pool says of it when somebody waits."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import re
import threading
import warnings
from typing import Any

import pytest
from books import assert_at_rest
from callers import SOON, Caller, make

from mempool import Buffers, Limited, Objects, Pool, PoolTimeout
from mempool.clock import Clock
from mempool.testing import Element, ManualClock, ScriptedSource, Step, wait_until
from mempool.tracking import Holders

works, fails, raises, slow = Step


def test_holders_are_frozen_and_the_oldest_comes_first() -> None:
    """Who, where, since when, and for how many seconds; for threads and for tasks."""
    pool = make("frames", 3)
    clock = ManualClock()
    clock.attach(pool)
    anna = Caller("anna")
    elements = [anna.take(pool)]
    clock.advance(2)

    async def main() -> None:
        asyncio.current_task().set_name("relay")  # type: ignore[union-attr]
        elements.append(await pool.alloc_async())

    asyncio.run(main())
    clock.advance(3)
    elements.append(pool.alloc())
    holders = pool.holders()
    assert [holder.who for holder in holders] == ["thread 'anna'", "task relay", "thread 'MainThread'"]
    assert [holder.since for holder in holders] == [1000, 1002, 1005]
    assert [holder.seconds for holder in holders] == [5, 3, 0]
    assert [holder.element for holder in holders] == [f"bytearray at {id(element):#x}" for element in elements]
    assert re.fullmatch(r"test_holders\.py:\d+ in main", holders[1].site)
    with pytest.raises(dataclasses.FrozenInstanceError):
        holders[0].who = "me"  # type: ignore[misc]
    pool.free(elements[1])
    assert [holder.seconds for holder in pool.holders()] == [5, 0]
    pool.free_many([elements[0], elements[2]])
    assert pool.holders() == ()
    anna.ends()


@pytest.mark.parametrize("track", ["identity", "nothing"])
def test_nobody_is_known_without_tracking_holders(track: str) -> None:
    """holders() is empty; why_empty() says how to learn more; waiting for oneself is a wait like any other."""
    pool = Pool(Objects(bytearray), 1, limit=1, track=track)
    with pool.lease():
        assert pool.holders() == ()
        assert 'track="holders" would tell who holds them' in pool.why_empty()
        with pytest.raises(PoolTimeout):
            pool.alloc(timeout=0)


def test_why_empty_says_what_a_person_needs() -> None:
    """What is promised, out, in line; who holds it; what the source said; which resize is pending; the way out."""
    source = ScriptedSource(works, fails, fails)
    pool = Pool(source, 1, limit=2, name="frames", track="holders")
    assert pool.why_empty().startswith("pool 'frames': 1 promised, 1 spare, 0 out, 0 callers in line; the source has not")
    anna, bert, cleo = Caller("anna"), Caller("bert"), Caller("cleo")
    element = anna.take(pool)  # from the reserve, because the source failed
    assert "the source has failed 1 time, last with MemoryError: the script says so" in pool.why_empty()
    waiting = bert.waits(pool)
    assert "1 caller in line" in pool.why_empty()
    assert re.search(r"thread 'anna' has held Element at \S+ for \S+ s, taken at callers\.py:\d+ in", pool.why_empty())
    source.otherwise = slow
    growing = cleo.does(lambda: pool.resize(reserve=2))
    source.wait_until_held()
    assert "a resize to reserve 2 by thread 'cleo' is under way" in pool.why_empty()
    assert "the limit of 2 is reached" in pool.why_empty()
    assert "1 is being made" in pool.why_empty()
    assert pool.why_empty().endswith("Free what is out, raise the reserve or the limit, or wait longer")
    source.open()
    pool.free(waiting.result(SOON))
    pool.free(element)
    growing.result(SOON)
    for caller in (anna, bert, cleo):
        caller.ends()
    assert_at_rest(pool)


def test_why_empty_says_each_target_of_a_resize_even_nought() -> None:
    class Asking(ScriptedSource):
        def free(self, element: Element, /) -> None:
            said.append(pool.why_empty())
            super().free(element)

    said: list[str] = []
    pool = Pool(Asking(), 1)
    pool.resize(0, keep=0, limit=None)
    assert f"a resize to reserve 0, keep 0, limit None by thread '{threading.current_thread().name}' is under way" in said[0]
    assert "is under way" not in pool.why_empty()


def test_tracking_may_be_asked_for_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """MEMPOOL_TRACK is for pools that do not say; what it says is checked like an argument."""
    monkeypatch.setenv("MEMPOOL_TRACK", "holders")
    for track, holders in ((None, 1), ("identity", 0)):
        pool = Pool(Objects(bytearray), 1, track=track)
        with pool.lease():
            assert len(pool.holders()) == holders
    monkeypatch.setenv("MEMPOOL_TRACK", "everything")
    with pytest.raises(ValueError, match="not 'everything'"):
        Pool(Objects(bytearray), 1)


def test_the_warning_of_a_dropped_lease_names_the_place_where_it_was_taken() -> None:
    """ResourceWarning: which pool, and file and line."""
    pool = make("frames")

    def forget() -> None:
        lease = pool.lease()
        assert lease.element == b""

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forget()
        gc.collect()
    messages = [str(warning.message) for warning in caught if warning.category is ResourceWarning]
    assert len(messages) == 1
    assert re.search(r"pool 'frames': a lease was dropped .*, taken at test_holders\.py:\d+ in forget", messages[0])
    assert_at_rest(pool)


def test_a_wait_beyond_patience_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """After `patience` seconds, not before, with the words of why_empty; and never again for this wait."""
    pool: Pool[Any] = Pool(Objects(bytearray), 1, limit=1, name="frames", patience=7, track="holders")
    clock = ManualClock()
    clock.attach(pool)
    anna = Caller("anna")
    with caplog.at_level(logging.WARNING, "mempool"):
        element = pool.alloc()
        waiting = anna.waits(pool)
        for seconds, logged in ((6.5, 0), (1, 1), (100, 1)):
            clock.wait_until_parked(1)
            looks = clock.looks
            clock.advance(seconds)
            wait_until(lambda looks=looks: clock.looks > looks and clock.parked == 1)
            assert len(caplog.records) == logged
        assert "a caller has waited for 7.5 s. pool 'frames': 1 promised, 0 spare, 1 out, 1 caller in line" in caplog.text
        assert "thread 'MainThread' has held bytearray at" in caplog.text
        pool.free(element)
        pool.free(waiting.result(SOON))
    anna.ends()
    assert_at_rest(pool)


def test_what_is_said_of_one_and_of_many_is_english() -> None:
    """One element is still out, one view looks, one caller waits, the source has failed once; and two are, do, have."""
    for number, views, line, failed in (
        (1, "1 view:", "1 element is still out; free it", "has failed 1 time,"),
        (2, "2 views:", "2 elements are still out; free them", "has failed 2 times,"),
    ):
        pool = Pool(ScriptedSource(*[works] * number, otherwise=fails), number)
        held = pool.alloc_many(number)
        with pytest.raises(PoolTimeout, match=line):
            pool.drain(0)
        while pool.stats().source_failures < number:
            assert pool.try_alloc() is None
        assert failed in pool.why_empty()
        pool.free_many(held)
        buffers = Pool(Buffers(64), 1)
        buffer = buffers.alloc()
        looking = [buffer[:] for _ in range(number)]
        with pytest.raises(BufferError, match=f"{views} a slice"):
            buffers.free(buffer)
        looking.clear()
        buffers.free(buffer)
    limited = Limited(Objects(bytearray), elements_max=1)
    limited.alloc()
    with pytest.raises(MemoryError, match="Limited: 1 element exists already"):
        limited.alloc()


def test_who_holds_a_buffer_stays_known_when_somebody_begins_to_view_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at its views and its end."""
    views: list[memoryview] = []
    forget = Holders.forget

    def forget_and_view(book: Holders, elements: list[Any]) -> Any:
        views.append(elements[0][:])
        return forget(book, elements)

    pool = Pool(Buffers(64), 1, track="holders")
    buffer = pool.alloc()
    holders = [holder.since for holder in pool.holders()]
    with monkeypatch.context() as patched:
        patched.setattr(Holders, "forget", forget_and_view)
        with pytest.raises(BufferError):
            pool.free(buffer)
    assert [holder.since for holder in pool.holders()] == holders
    views.pop().release()
    pool.free(buffer)
    assert pool.holders() == ()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_of_several_buffers_the_book_follows_those_that_have_a_new_handle_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first handle is dead already when the second is found to be viewed: nobody can free it, it is returned dropped."""
    views: list[memoryview] = []
    forget = Holders.forget

    def forget_and_view(book: Holders, elements: list[Any]) -> Any:
        if len(elements) > 1:
            views.append(elements[1][:])
        return forget(book, elements)

    pool = Pool(Buffers(64), 2, track="holders")
    buffers = pool.alloc_many(2)
    with monkeypatch.context() as patched:
        patched.setattr(Holders, "forget", forget_and_view)
        with pytest.raises(BufferError):
            pool.free_many(buffers)
    assert len(pool.holders()) == pool.stats().out
    views.pop().release()
    pool.free(buffers.pop())
    buffers.clear()
    gc.collect()
    assert (pool.holders(), pool.stats().out) == ((), 0)


def test_who_hands_over_what_is_returned_leaves_no_holder_behind() -> None:
    pool = make("p")
    element = pool.alloc()
    entry = pool._engine.tracker._entries[id(element)]  # type: ignore[union-attr]
    pool.hand_over(element)
    assert "handed it over" in pool.holders()[0].who
    assert pool._engine.tracker._entries[id(element)] is entry  # type: ignore[union-attr]  # so a free at any moment takes it out
    pool.hand_over(element)
    assert pool.holders()[0].who.count("handed it over") == 1
    pool.free(element)
    assert pool.holders() == ()


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
