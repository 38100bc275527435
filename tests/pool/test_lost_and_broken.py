"""Elements that are never returned, and such as nobody may get again: discard, write_off, and what dead holders had."""

from __future__ import annotations

import linecache
import os
import queue
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from books import assert_at_rest
from callers import SOON, Caller
from children import in_child
from elements import Weak

from mempool import Buffers, DoubleFree, ForeignElement, Limited, Objects, Pool, PoolTimeout
from mempool.testing import Element, ScriptedSource, Step, wait_until

works, fails, raises, slow = Step
TRACKS = ["identity", "nothing", "holders"]

forks = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


def holding(pool: Pool[Any], elements: int = 1) -> tuple[threading.Event, threading.Thread]:
    """A thread that holds so many elements until it is told to end."""
    ends, holds = threading.Event(), threading.Event()

    def hold() -> None:
        held = pool.alloc_many(elements)
        holds.set()
        ends.wait(SOON)
        pool.free_many(held)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(SOON)
    return ends, thread


# -- write_off


@pytest.mark.parametrize("track", TRACKS)
def test_what_is_written_off_makes_room_for_another(track: str) -> None:
    """It exists no more, as far as the pool goes: the promise is made whole, and the source's free is not called."""
    source = ScriptedSource()
    pool = Pool(source, 1, limit=1, track=track)
    lost = pool.alloc()
    pool.write_off(lost)
    assert (pool.stats().out, pool.stats().spare, pool.stats().written_off, source.disposed) == (0, 1, 1, 0)
    assert pool.guarantee().held
    assert_at_rest(pool)


def test_whoever_waits_gets_what_is_made_in_the_place_of_what_was_written_off() -> None:
    """There is room under the limit, which is a reason to ask the source at once."""
    pool = Pool(Objects(bytearray), 1, limit=1)
    lost = pool.alloc()
    anna = Caller("anna")
    waiting = anna.waits(pool)
    pool.write_off(lost)
    pool.free(waiting.result(SOON))
    anna.ends()
    assert_at_rest(pool)


def test_a_drain_does_not_wait_for_what_is_written_off() -> None:
    """Whoever drains is told when the last has been returned or is known never to."""
    pool = Pool(Objects(bytearray), 1)
    lost = pool.alloc_reserved()
    drainer = threading.Thread(target=pool.drain)
    drainer.start()
    pool.write_off(lost)
    drainer.join(SOON)
    assert not drainer.is_alive()


@pytest.mark.parametrize("elements", [Objects(Element.__new__ and (lambda: Element(1))), Buffers(64)])
@pytest.mark.parametrize("track", ["identity", "holders"])
def test_who_frees_what_was_written_off_is_told_so(track: str, elements: Any) -> None:
    """ForeignElement, which says that it was written off; from free, a second write_off, discard and a lease."""
    pool = Pool(elements, 1, track=track, name="frames")
    lease = pool.lease()
    lost = lease.element
    pool.write_off(lost)
    for call in (lambda: pool.free(lost), lambda: pool.write_off(lost), lambda: pool.discard(lost), lease.release):
        with pytest.raises(ForeignElement, match=r"pool .frames.: this .* was written off"):
            call()
    assert (pool.stats().out, pool.stats().spare) == (0, 1)


def test_without_tracking_no_more_are_returned_than_are_out() -> None:
    """What was written off is not taken back in the place of nothing."""
    for source in (Objects(bytearray), Buffers(64)):
        pool: Pool[Any] = Pool(source, 1, track="nothing")
        lost = [pool.alloc(), pool.alloc()]
        assert pool.write_off_all() == 2
        for element in lost:
            with pytest.raises((ForeignElement, DoubleFree)):
                pool.free(element)
        assert (pool.stats().out, pool.stats().spare) == (0, 1)
        assert_at_rest(pool)


def test_the_memory_of_a_buffer_written_off_goes_back_when_it_is_dropped() -> None:
    """Its holder may use it as long as he has it; the source has it back afterwards."""
    source = Limited(Buffers(4096), elements_max=2)
    pool = Pool(source, 1, limit=1)
    lost = pool.alloc()
    pool.write_off(lost)
    lost[0] = 7
    kept = pool.alloc()
    assert lost[0] == 7
    assert source.existing == 2
    del lost
    assert source.existing == 1
    pool.free(kept)
    assert_at_rest(pool)


@pytest.mark.parametrize("what", ["foreign", "spare", "freed"])
def test_what_is_not_out_cannot_be_written_off(what: str) -> None:
    """Bad input gets the error that free would raise, and changes nothing."""
    pool = Pool(Objects(Weak), 1, limit=3)
    element = Weak()
    if what != "foreign":
        element = pool.alloc()
        pool.free(element)
    before = pool.stats()
    with pytest.raises(ForeignElement if what == "foreign" else DoubleFree):
        pool.write_off(element)
    assert pool.stats() == before


# -- by its holder


@pytest.mark.parametrize("comes", ["after it was found gone", "after the book was looked at"])
def test_what_is_taken_at_the_address_of_one_that_was_found_gone_is_not_written_off(
    monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    """Who looks for what was dropped goes by addresses, and others take and return meanwhile."""
    pool = Pool(Objects(Weak), 1, limit=1, track="holders")
    tracker: Any = pool._engine.tracker
    held = [pool.alloc()]
    [found] = pool.holders()

    def return_and_take_again() -> None:
        pool.free(held.pop())
        held.append(pool.alloc())  # the only element there is, so it has the same address

    def gone(_now: float) -> list[Any]:
        monkeypatch.undo()
        if comes == "after it was found gone":
            return_and_take_again()
        else:
            monkeypatch.setattr(tracker, "holds", holds)
        return [found]

    def holds(holder: Any) -> bool:
        monkeypatch.undo()
        was: bool = tracker.holds(holder)
        return_and_take_again()
        return was

    monkeypatch.setattr(tracker, "gone", gone)
    pool._engine.notice_lost()
    assert pool.stats().written_off == 0
    assert len(pool.holders()) == 1
    pool.free(held.pop())
    assert_at_rest(pool)


def test_what_a_dead_thread_held_is_written_off_by_its_holder() -> None:
    """holders() tells who does not live any more, and write_off takes what it says."""
    pool = Pool(Objects(bytearray), 2, limit=2, track="holders")
    kept: list[Any] = []
    thread = threading.Thread(target=lambda: kept.append(pool.alloc()), name="anna")
    thread.start()
    thread.join(SOON)
    mine = pool.alloc()
    lives = {holder.who: holder.lives for holder in pool.holders()}
    assert lives == {"thread 'anna'": False, "thread 'MainThread'": True}
    dead = next(holder for holder in pool.holders() if not holder.lives)
    pool.write_off(dead)
    assert [holder.who for holder in pool.holders()] == ["thread 'MainThread'"]
    with pytest.raises(ForeignElement, match="not held by thread 'anna' any more"):
        pool.write_off(dead)
    with pytest.raises(ForeignElement, match="was written off"):
        pool.free(kept[0])
    pool.free(mine)
    assert_at_rest(pool)


def test_objects_that_were_dropped_are_not_owed() -> None:
    """With track="holders" an object of a type that allows weak references is noticed, when somebody looks or must wait."""
    pool = Pool(Objects(Weak), 2, limit=2, track="holders")
    element = pool.alloc()
    del element
    told = pool.guarantee()
    assert (told.owed, told.unfunded, told.held) == (0, 1, False)
    assert pool.refill().held
    kept = [pool.alloc()]
    pool.alloc()
    kept.append(pool.alloc(timeout=SOON))  # there is room for it, because the one before is no more
    pool.free_many(kept)
    assert_at_rest(pool)


def test_an_object_with_a_finalizer_is_never_taken_for_dropped() -> None:
    """Its finalizer may be about to free it."""
    freed: list[object] = []

    class Returning:
        def __del__(self) -> None:
            if not pool.closed:
                freed.append(pool.free(self))

    pool = Pool(Objects(Returning), 1, limit=1, track="holders")
    element = pool.alloc()
    del element
    assert freed == [None]
    assert (pool.guarantee().spare, pool.stats().written_off) == (1, 0)
    pool.close()


# -- after a fork


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_child_allocates_again_when_it_writes_off_what_the_parents_threads_held(track: str) -> None:
    """At the limit it never would; the parent notices nothing of it."""
    pool = Pool(Objects(bytearray), 2, limit=2, track=track)
    ends, thread = holding(pool, 2)

    def check() -> None:
        with pytest.raises(PoolTimeout):
            pool.alloc(timeout=0)
        assert pool.write_off_all() == 2
        assert pool.holders() == ()
        pool.free_many(pool.alloc_many(2, timeout=0))
        assert (pool.stats().out, pool.stats().written_off, pool.stats().spare) == (0, 2, 2)
        assert_at_rest(pool)

    assert in_child(check) == ""
    ends.set()
    thread.join(SOON)
    assert_at_rest(pool)
    assert pool.stats().written_off == 0


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_child_that_tracks_holders_writes_off_the_dead_and_keeps_its_own() -> None:
    """Each of holders() that does not live in the child."""
    pool = Pool(Objects(bytearray), 2, limit=2, track="holders")
    mine = pool.alloc()
    ends, thread = holding(pool)

    def check() -> None:
        dead = [holder for holder in pool.holders() if not holder.lives]
        assert len(dead) == 1
        pool.write_off(dead[0])
        pool.free(pool.alloc(timeout=0))
        pool.free(mine)
        assert_at_rest(pool)

    assert in_child(check) == ""
    ends.set()
    thread.join(SOON)
    pool.free(mine)
    assert_at_rest(pool)


@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_what_threads_of_the_parent_were_moving_is_written_off_too(track: str) -> None:
    """An element in the transfer of a call that does not go on in the child is not among the outstanding ones."""
    source = ScriptedSource()
    held: queue.SimpleQueue[None] = queue.SimpleQueue()
    source.reset = lambda _element: held.get(timeout=SOON)
    pool = Pool(source, 1, limit=1, track=track)
    element = pool.alloc()
    thread = threading.Thread(target=lambda: pool.free(element))
    thread.start()
    wait_until(lambda: not pool.core.is_out(element) if track != "nothing" else True)

    def check() -> None:
        pool._engine.supply.reset = None
        assert pool.write_off_all() == 1
        pool.free(pool.alloc(timeout=0))
        assert_at_rest(pool)

    assert in_child(check) == ""
    held.put(None)
    thread.join(SOON)
    held.put(None)  # for the free of the audit
    assert_at_rest(pool)


# -- discard


@pytest.mark.parametrize("track", TRACKS)
def test_what_is_discarded_is_disposed_of_and_made_anew(track: str) -> None:
    """Nobody gets it again; where the promise needs it, another is made; its reset is not called."""
    source = ScriptedSource()
    source.reset = lambda element: pytest.fail(f"{element} is broken")
    pool = Pool(source, 2, limit=2, track=track)
    broken = pool.alloc()
    pool.discard(broken)
    assert not source.has([broken])
    assert (source.made, source.disposed, pool.stats().spare, pool.stats().written_off) == (3, 1, 2, 0)


def test_what_is_discarded_beyond_the_promise_is_not_made_anew() -> None:
    """As by refill: spare and owed are enough."""
    source = ScriptedSource()
    pool = Pool(source, 1)
    elements = [pool.alloc(), pool.alloc()]
    pool.discard(elements[0])
    assert (source.made, pool.stats().out, pool.stats().spare) == (3, 1, 1)
    pool.free(elements[1])


def test_a_discard_where_memory_is_out_leaves_it_unfunded() -> None:
    """No error of the pool's: the source's failure is noted, and a refill makes it later. Meanwhile it is filling."""
    source = ScriptedSource()
    pool = Pool(source, 1)
    source.otherwise = fails
    broken = pool.alloc()
    seen = []
    source.then_free(lambda: seen.append(pool.guarantee()))
    pool.discard(broken)
    assert (seen[0].filling, seen[0].unfunded) == (1, 0)
    assert (pool.guarantee().unfunded, pool.guarantee().held, pool.stats().source_failures) == (1, False, 2)
    source.otherwise = works
    assert pool.refill().held


def test_who_waits_gets_what_is_made_in_the_place_of_what_was_discarded() -> None:
    """Room under the limit is a reason to ask the source at once."""
    pool = Pool(ScriptedSource(), 1, limit=1)
    broken = pool.alloc()
    anna = Caller("anna")
    waiting = anna.waits(pool)
    pool.discard(broken)
    pool.free(waiting.result(SOON))
    anna.ends()
    assert_at_rest(pool)


def test_discard_refuses_what_free_refuses() -> None:
    """A double free, what is foreign, and a buffer that somebody views: nothing has changed then."""
    pool = Pool(Objects(Weak), 1)
    element = pool.alloc()
    pool.free(element)
    with pytest.raises(DoubleFree):
        pool.discard(element)
    with pytest.raises(ForeignElement):
        pool.discard(Weak())
    buffers = Pool(Buffers(64), 1)
    buffer = buffers.alloc()
    with buffer[:], pytest.raises(BufferError):
        buffers.discard(buffer)
    assert buffers.stats().out == 1
    buffers.discard(buffer)
    with pytest.raises(DoubleFree):
        buffers.discard(buffer)
    assert_at_rest(pool)
    assert_at_rest(buffers)


def test_a_discard_whose_source_raises_is_heard_and_counted() -> None:
    """The source's free: the element is gone all the same. Its alloc: the promise lacks one."""
    source = ScriptedSource()
    pool = Pool(source, 1)
    source.then_free(raises)
    with pytest.raises(Exception, match="the script says so"):
        pool.discard(pool.alloc())
    assert pool.stats().out == pool.stats().disposing == 0
    assert pool.core.snapshot()["fills"] == 0


def test_a_closed_pool_disposes_of_what_is_discarded_and_makes_nothing() -> None:
    """A discard after close is a free after close."""
    source = ScriptedSource()
    pool = Pool(source, 1)
    element = pool.alloc()
    made = source.made
    pool.close()
    pool.discard(element)
    assert (source.existing, source.made) == ([], made)


@pytest.mark.parametrize("warm", [True, False])
def test_a_lease_that_is_discarded_in_its_block_ends_in_peace(warm: bool) -> None:
    """The end of the block does not free it again; a release does raise."""
    source = ScriptedSource()
    pool = Pool(source, 1)
    if warm:
        pool.free(pool.alloc())
    lease = pool.lease()
    with lease as element:
        lease.discard()
    assert not source.has([element])
    for call in (lease.release, lease.discard):
        with pytest.raises(DoubleFree, match="was discarded already"):
            call()
    assert_at_rest(pool)


def test_what_is_discarded_behind_a_leases_back_is_told_of() -> None:
    """As for any free behind its back."""
    pool = Pool(Buffers(64), 1)
    with pytest.raises(DoubleFree), pool.lease() as buffer:
        pool.discard(buffer)
    assert_at_rest(pool)


# -- words


def test_a_lease_that_never_took_an_element_has_none_to_give_back() -> None:
    """RuntimeError: it is no double free."""
    pool = Pool(Objects(bytearray), 1, name="frames")
    for call in (pool.lease().release, pool.lease().discard):
        with pytest.raises(RuntimeError, match="pool 'frames': this lease never took an element"):
            call()


@pytest.mark.parametrize("call", ["free", "discard", "write_off"])
def test_a_lease_is_no_element(call: str) -> None:
    """The message says what to call instead."""
    pool = Pool(Objects(bytearray), 1)
    with pool.lease():
        lease = pool.lease()
        give: Callable[[Any], None] = getattr(pool, call)
        with pytest.raises(ForeignElement, match=r"this is a lease and no element; call lease\.release\(\)"):
            give(lease)


def test_why_empty_of_a_pool_that_is_not_empty_says_so() -> None:
    """No advice, where none is needed."""
    pool = Pool(Objects(bytearray), 1, limit=1)
    assert pool.why_empty().endswith("It is not empty: whoever asks now is served at once")
    with pool.lease():
        assert pool.why_empty().endswith("Free what is out, raise the reserve or the limit, or wait longer")
    pool.close()
    assert pool.why_empty().endswith("Make another")


@pytest.mark.parametrize("kind", ["buffer", "lease"])
def test_the_warning_names_the_line_that_dropped_it(kind: str) -> None:
    pool = Pool(Buffers(64), 1)
    held: list[Any] = [pool.alloc() if kind == "buffer" else pool.lease()]
    if kind == "lease":
        held[0].__enter__()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        held.clear()  # here
    [warning] = [warning for warning in told if warning.category is ResourceWarning]
    assert linecache.getline(warning.filename, warning.lineno).strip() == "held.clear()  # here"
