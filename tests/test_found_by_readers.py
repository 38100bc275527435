"""What readers of the source found and no test had: one promise each, on both cores."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from named import SOON, Caller

from mempool import Buffers, Fallback, Limited, Logged, Objects, Pool, PoolTimeout
from mempool._core import Decisions, Ticket, Transfer
from mempool._core.decisions import IN_LINE, IS_TOO_MANY, UNCHANGED
from mempool._core.transfer import IMPOSSIBLE
from mempool.sources import replay
from mempool.sources.sizes import parse_size
from mempool.testing import Element, ManualClock, ScriptedSource, Step, wait_until

# -- the line and the limit


def ticket(wanted: int = 1) -> tuple[Ticket, list[bool]]:
    told: list[bool] = []
    made = Ticket(wanted)
    made.set_waiter(lambda: told.append(True), None, 0)
    return made, told


@pytest.mark.parametrize("for_the_head", [True, False])
def test_the_room_that_the_head_of_the_line_took_itself_is_no_news_to_it(for_the_head: bool) -> None:
    """Else it would ask a source that fails again and again without a pause, as long as it filled the limit by asking."""
    reserve = Decisions(False, False, False)
    reserve.retarget(UNCHANGED, UNCHANGED, 1, [])
    head, told = ticket()
    assert reserve.join(head, [None]) == IN_LINE
    asking = Transfer(1)
    if for_the_head:
        asking.ask_for(head)
    assert reserve.permit(asking, 1) == 1
    asking.made.append(None)  # nothing came
    reserve.complete(asking, False)
    assert told == ([] if for_the_head else [True])


def test_a_newcomer_is_news_to_the_head_even_while_its_question_fills_the_limit() -> None:
    """There was no room when it came, so the head is told when the question has failed."""
    reserve = Decisions(False, False, False)
    reserve.retarget(UNCHANGED, UNCHANGED, 1, [])
    head, told = ticket()
    assert reserve.join(head, [None]) == IN_LINE
    asking = Transfer(1)
    asking.ask_for(head)
    assert reserve.permit(asking, 1) == 1
    assert reserve.join(ticket()[0], [None]) == IN_LINE
    assert told == []
    asking.made.append(None)
    reserve.complete(asking, False)
    assert told == [True]


def test_who_wants_more_than_a_lowered_limit_allows_is_told_and_those_behind_are_served() -> None:
    source = ScriptedSource()
    pool = Pool(source, 0, limit=5, keep=5)
    kept = pool.alloc_many(3)
    source.otherwise = Step.FAILS
    anna, bert = Caller("anna"), Caller("bert")
    many = anna.does(lambda: pool.alloc_many(5))
    wait_until(lambda: pool.stats().waiting == 1)
    one = bert.waits(pool)
    pool.resize(limit=3)
    with pytest.raises(
        ValueError,
        match=r"5 elements .* never be had, the limit was lowered while this caller waited",
    ):
        many.result(SOON)
    pool.free_many(kept)
    assert one.result(SOON) in kept
    assert pool.stats().waiting == 0
    pool.free(one.result())
    for caller in (anna, bert):
        caller.ends()


def test_who_joins_after_the_limit_was_lowered_is_refused() -> None:
    """He was let in by `alloc_many` before. A single element may be waited for: a limit of 0 is a pause."""
    reserve = Decisions(False, False, False)
    assert reserve.join(ticket()[0], [None]) == IN_LINE
    reserve.retarget(UNCHANGED, UNCHANGED, 0, [])
    assert reserve.join(ticket(2)[0], [None] * 2) == IS_TOO_MANY
    assert reserve.join(ticket()[0], [None]) == IN_LINE
    assert reserve.waiting() == 2


def test_the_limit_may_be_lowered_while_the_source_is_asked_for_many() -> None:
    """By the time the caller lines up, nobody can serve it."""
    source = ScriptedSource(otherwise=Step.FAILS)
    pool = Pool(source, 0, limit=2)
    source.then(lambda: pool.resize(limit=1))
    with pytest.raises(ValueError, match="the limit has just been lowered"):
        pool.alloc_many(2, timeout=1)
    assert (pool.stats().waiting, pool.stats().out) == (0, 0)


def test_one_may_be_waited_for_in_whichever_words() -> None:
    """As long as the limit is 0: a pause."""
    pool = Pool(Objects(object), 0, limit=0)
    for call in (lambda: pool.alloc(timeout=0), lambda: pool.alloc_many(1, timeout=0)):
        with pytest.raises(PoolTimeout):
            call()
    with pytest.raises(ValueError, match="limit is 0"):
        pool.alloc_many(2, timeout=0)


def test_the_next_is_served_when_a_lowered_limit_takes_the_head_from_the_line() -> None:
    """Two spares wait for the third; who is behind has use for them. And whoever stays first is not told."""
    reserve = Decisions(False, False, False)
    reserve.retarget(2, 2, UNCHANGED, [None] * 5)
    filling = Transfer(2)
    assert reserve.permit_fill(filling, False) == 2
    filling.made.extend([object(), object()])
    reserve.complete(filling, False)
    reserve.take_back(filling)
    (first, told_first), (second, told_second), (third, told_third) = ticket(3), ticket(2), ticket(2)
    for each in (first, second, third):
        assert reserve.join(each, [None] * 3) == IN_LINE
    told_first.clear()
    reserve.retarget(UNCHANGED, UNCHANGED, 2, [])
    assert (first.state, told_first, len(second.held()), told_second) == (IMPOSSIBLE, [True], 2, [True])
    assert not third.is_settled()
    told_third.clear()
    reserve.retarget(UNCHANGED, UNCHANGED, 2, [])
    assert told_third == []


def test_what_can_never_be_had_is_said_with_the_way_out() -> None:
    pool = Pool(Objects(object), 0)
    with pytest.raises(ValueError, match=rf"{2**70} elements .* never be had, limit is {sys.maxsize}; ask for fewer"):
        pool.alloc_many(2**70)


# -- endings


def test_a_drain_hears_of_what_a_caller_puts_back_when_it_lines_up() -> None:
    """It is the last that was out."""
    reserve = Decisions(False, False, False)
    reserve.retarget(UNCHANGED, 5, UNCHANGED, [None] * 5)
    many, _ = ticket(2)
    assert reserve.permit(many, 2) == 2
    many.made.extend([object(), None])
    reserve.complete(many, True)
    drain, told = ticket(0)
    assert not reserve.watch_drain(drain, True)
    assert reserve.join(many, [None] * 2) == IN_LINE
    assert told == [True]
    assert reserve.watch_drain(drain, False)


class Stubborn(ScriptedSource[Element]):
    """Each third free raises, when all is done."""

    def free(self, element: Element, /) -> None:
        super().free(element)
        if self.disposed % 3 == 1:
            raise RuntimeError(f"the one after {self.disposed}")


@pytest.mark.parametrize("way", ["close", "shrink", "drop", "constructor"])
def test_all_are_disposed_of_though_the_source_raises_again_and_again(way: str) -> None:
    """More than one go of them."""
    source = Stubborn()
    if way == "constructor":
        source.then(*[Step.WORKS] * 200, Step.RAISES)
        with pytest.raises(RuntimeError, match=r"the one after 1$"):
            Pool(source, 201)
    else:
        pool = Pool(source, 200)
        with pytest.raises(RuntimeError, match=r"the one after 1$"):
            {"close": pool.close, "shrink": lambda: pool.resize(0, keep=0), "drop": pool.__del__}[way]()
        assert pool.stats().spare == 0
    assert (source.disposed, len(source.existing)) == (200, 0)


def test_an_interrupt_ends_a_disposal_which_can_be_done_again() -> None:
    source = ScriptedSource()
    pool = Pool(source, 200)
    interrupts = iter([KeyboardInterrupt])

    def free(element: Element) -> None:
        for interrupt in interrupts:
            raise interrupt
        ScriptedSource.free(source, element)

    source.free = free  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        pool.close()
    assert 0 < pool.stats().spare < 200
    pool.close()
    assert pool.stats().spare == 0


def test_a_closed_pool_owes_nothing_and_says_that_it_is_closed() -> None:
    """What is out of it never comes to the reserve again."""
    pool = Pool(Objects(object), 2, name="frames")
    element = pool.alloc_reserved()
    pool.close()
    guarantee = pool.guarantee()
    assert (guarantee.owed, guarantee.unfunded, guarantee.held) == (0, 2, False)
    assert "it is closed" in pool.why_empty()
    assert pool.why_empty().endswith(". Make another")
    pool.free(element)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_knows_nothing_of_a_resize_that_its_parents_thread_makes() -> None:
    source = ScriptedSource()
    pool = Pool(source, 1)
    source.then(Step.SLOW)
    growing = threading.Thread(target=pool.resize, args=(2,))
    growing.start()
    source.wait_until_held()
    child = os.fork()
    if child == 0:
        os._exit("is under way" in pool.why_empty())
    assert "is under way" in pool.why_empty()
    source.release()
    growing.join(SOON)
    assert os.waitpid(child, 0)[1] == 0


# -- sources


def test_a_log_of_several_processes_is_replayed_and_nothing_left(tmp_path: Path) -> None:
    """Each counts from 1; the first two ended while elements were out."""
    for _ in range(3):
        logged = Logged(Objects(bytearray), to=tmp_path / "log.csv")
        logged.alloc(), logged.alloc()
        logged.close()
    limited = Limited(Objects(bytearray), elements_max=2)
    done = replay(tmp_path / "log.csv", limited)
    assert (done.allocs, done.frees, done.failures, done.left) == (6, 0, 0, 6)
    assert limited.existing == 0


def test_a_replay_gives_all_back_though_the_source_raises() -> None:
    source = Stubborn()
    lines = ["time,thread,action,element,size", *(f"0,0,alloc,{number}," for number in range(9))]
    with pytest.raises(RuntimeError, match=r"the one after 1$"):
        replay(lines, source)
    assert (source.disposed, len(source.existing)) == (9, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_line_of_which_a_part_was_written_is_lost_and_told_from_the_next(tmp_path: Path) -> None:
    import resource

    file = tmp_path / "log.csv"
    logged = Logged(Objects(bytearray), to=file)
    first = logged.alloc()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 7, hard))
        logged.free(first)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    logged.free(logged.alloc())
    assert logged.lines_lost == 1
    assert [line[-1] == "?" for line in file.read_text().splitlines()] == [False, False, True, False, False]
    done = replay(file, Objects(bytearray))
    assert (done.allocs, done.frees, done.left) == (2, 1, 1)


def test_a_torn_line_at_the_end_is_passed_over_and_the_next_process_begins_another(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    logged = Logged(Objects(bytearray), to=file)
    logged.free(logged.alloc())
    logged.close()
    with file.open("a") as end:
        end.write("1795410005.285637,13")
    done = replay(file, Objects(bytearray))
    assert (done.allocs, done.frees) == (1, 1)
    with file.open("a") as lent:
        for to in (file, lent):  # the second is not readable: nobody knows, and nothing is wrong by now
            logged = Logged(Objects(bytearray), to=to)
            logged.free(logged.alloc())
            logged.close()
    done = replay(file, Objects(bytearray))
    assert (done.allocs, done.frees, done.left) == (3, 3, 0)


def test_a_fallback_of_which_a_level_is_not_known_has_none() -> None:
    class Pinned(ScriptedSource[Element]):
        level = "pinned"

    pool = Pool(Fallback(Pinned(), Buffers(64)), 1)
    assert pool.resize(3).level is None


@pytest.mark.parametrize("wrap", [lambda source: Limited(source, elements_max=3), lambda source: source], ids=["", "bare"])
def test_a_source_that_ends_is_told_what_to_raise(wrap: Any) -> None:
    with pytest.raises(TypeError, match="raise MemoryError where nothing can be had"):
        Pool(wrap(Objects(iter(()).__next__)), 1)


def test_numbers_beyond_those_of_the_machine() -> None:
    limited = Limited(Objects(object), elements_max=2**64)
    limited.free(limited.alloc())
    assert limited.existing == 0
    pool = Pool(Objects(object), 0, limit=0)
    with pytest.raises(PoolTimeout):
        pool.alloc(timeout=type("Real", (float,), {})(0.0))
    clock = ManualClock()
    pool = clock.attach(Pool(Objects(object), 1, limit=1, track="holders"))
    element = pool.alloc(timeout=10**400)
    clock.advance(3600)
    assert " for 3600 s, " in str(pool.holders()[0])
    pool.free(element)


@pytest.mark.parametrize(("words", "size"), [("2.01 KB", 2010), ("1.07 GB", 1_070_000_000), ("0.29 KB", 290)])
def test_decimal_sizes_are_exact(words: str, size: int) -> None:
    assert parse_size(words) == size


def test_numpys_numbers_are_numbers() -> None:
    np = pytest.importorskip("numpy")
    pool = Pool(Buffers(64), 1)
    for seconds in (np.int64(5), np.float32(5)):
        buffer = pool.alloc(timeout=seconds)
        assert buffer.array(shape=np.int64(10)).shape == (10,)
        with pytest.raises(ValueError, match="takes no bytes"):
            buffer.array("S")
        with pytest.raises(TypeError):
            buffer.fill(255.9)
        pool.free(buffer)
