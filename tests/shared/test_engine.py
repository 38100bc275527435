"""The engine of a shared pool over real memory and real processes."""

from __future__ import annotations

import gc
import os
import signal
import threading
from pathlib import Path

import pytest
from shared_children import Parent, child

from mempool.engine import UnexpectedReserveError
from mempool.errors import DoubleFree, ForeignElement, LineFull, PoolClosed
from mempool.testing.waiting import wait_until

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from mempool.shared.engine import SharedEngine, Ticket, TicketState

pytestmark = pytest.mark.once

MEBIBYTE = 1 << 20


def make(path: Path, **options: int) -> SharedEngine:
    return SharedEngine.create(path, **{"size": 5000, "slots": 8, "reserve": 2, "keep": 4, **options})


def bytes_used(path: Path) -> int:
    return path.stat().st_blocks * 512


def obtain(engine: SharedEngine, wanted: int = 1, seconds: float = 30) -> Ticket:
    """Take, or wait in the line."""
    ticket = engine.ticket(wanted)
    if wanted == 1:
        engine.try_take(ticket)
    if ticket.state is TicketState.NEW:
        engine.enqueue(ticket)
        while ticket.state is TicketState.WAITING:
            engine.park(ticket, min(engine.poll(ticket), seconds))
    return ticket


def test_what_was_created_keeps_its_promise_at_once(pool_path: Path) -> None:
    """The reserve has memory when `create` returns."""
    now = make(pool_path).snapshot()
    assert (now.reserve, now.keep, now.limit, now.made, now.spare, now.out, now.unfunded) == (2, 4, 8, 2, 2, 0, 0)


def test_elements_are_memory_that_both_see(pool_path: Path) -> None:
    """What one process writes, another reads at the same place of its own mapping."""
    engine = make(pool_path)
    handle = engine.take()
    assert handle is not None
    assert (handle.size, len(handle.view)) == (5000, 5000)
    handle.view[:5] = b"hello"
    other = SharedEngine.attach(pool_path)
    begin = other.layout.data + handle.slot * other.layout.stride
    assert bytes(memoryview(other._tx.mapping)[begin : begin + 5]) == b"hello"
    assert handle.address != other._tx.base + begin


def test_a_second_free_and_a_foreign_one_are_errors(pool_path: Path) -> None:
    """And they change nothing."""
    engine, other = make(pool_path), SharedEngine.attach(pool_path)
    handle = engine.take()
    assert handle is not None
    with pytest.raises(ForeignElement, match="leased elsewhere"):
        other.give([handle])
    assert engine.give([handle]) == 1
    before = engine.snapshot()
    with pytest.raises(DoubleFree, match="given back before"):
        engine.give([handle])
    assert engine.snapshot() == before


def test_several_are_given_all_or_none(pool_path: Path) -> None:
    """One that is wrong among them, and none is given."""
    engine = make(pool_path)
    first, second = engine.take(), engine.take()
    assert first is not None
    assert second is not None
    engine.give([second])
    with pytest.raises(DoubleFree):
        engine.give([first, second])
    with pytest.raises(ForeignElement, match="named twice"):
        engine.give([first, first])
    assert engine.snapshot().out == 1
    engine.give([first])


def test_the_reserve_is_taken_last(pool_path: Path) -> None:
    """New memory is fetched while the limit allows it; then the reserve is handed out; then there is nothing."""
    engine = make(pool_path, limit=4, keep=2)
    slots = [engine.take() for _ in range(4)]
    assert [engine.snapshot().made, engine.snapshot().spare] == [4, 0]
    assert None not in slots
    assert engine.take() is None


def test_resize_changes_all_targets_at_once_and_du_follows(pool_path: Path) -> None:
    """Grown memory is there when `resize` returns, and shrunk memory is gone."""
    engine = make(pool_path, size=MEBIBYTE, slots=16)
    empty = bytes_used(pool_path) - 2 * MEBIBYTE
    assert engine.resize(10, 12, 14).spare == 10
    assert bytes_used(pool_path) == empty + 10 * MEBIBYTE
    now = engine.resize(0, 1, 14)
    assert (now.reserve, now.keep, now.limit, now.spare) == (0, 1, 14, 1)
    assert bytes_used(pool_path) == empty + MEBIBYTE
    with pytest.raises(ValueError, match="reserve <= keep"):
        engine.resize(5, 4)


def test_a_lowered_limit_is_kept_as_elements_come_back(pool_path: Path) -> None:
    """What is beyond it goes back to the system and not to the spares."""
    engine = make(pool_path)
    held = [handle for handle in (engine.take() for _ in range(6)) if handle]
    engine.resize(1, 2, 3)
    for handle in held:
        engine.give([handle])
    assert engine.snapshot().made == 2
    assert engine.verify() == []


def test_who_waits_is_served_in_order(pool_path: Path) -> None:
    """One strict line over processes; a big request at its head is not overtaken."""
    engine = make(pool_path, limit=2, keep=2)
    held = [engine.take(), engine.take()]

    def wait(parent: Parent, wanted: int) -> None:
        mine = SharedEngine.attach(pool_path)
        ticket = mine.ticket(wanted)
        mine.enqueue(ticket)
        parent.tell(mine._tx.me)
        while ticket.state is TicketState.WAITING:
            mine.park(ticket, mine.poll(ticket))
        parent.tell(len(ticket.elements))
        parent.wait()

    with child(lambda parent: wait(parent, 2)) as first:
        one = first.hear()
        with child(lambda parent: wait(parent, 1)) as second:
            two = second.hear()
            assert [(w.client, w.pid, w.wanted) for w in engine.queue()] == [(one, first.pid, 2), (two, second.pid, 1)]
            engine.give([held[0]])
            assert [(w.client, w.granted) for w in engine.queue()] == [(one, 1), (two, 0)]
            engine.give([held[1]])
            assert first.hear() == 2
            assert first.end(signal.SIGKILL) == -signal.SIGKILL
            assert second.hear() == 1  # which the death of the first brought about
            second.go()
            assert second.end() == 0
    engine.reap_dead()
    assert engine.verify() == []
    assert engine.snapshot().out == 0


def test_a_thread_that_waits_is_woken_by_another_process(pool_path: Path) -> None:
    """And so is the waker of a ticket."""
    engine = make(pool_path, limit=1, reserve=1, keep=1)

    def hold(parent: Parent) -> None:
        mine = SharedEngine.attach(pool_path)
        handle = mine.take()
        parent.tell(1)
        parent.wait()
        mine.give([handle] if handle else [])
        parent.wait()

    with child(hold) as holder:
        assert holder.hear() == 1
        woken = threading.Event()

        class Waker:
            def wake(self) -> None:
                woken.set()

        ticket = engine.ticket()
        engine.enqueue(ticket, Waker())
        assert ticket.state is TicketState.WAITING
        holder.go()
        assert woken.wait(30)
        engine.poll(ticket)
        assert ticket.state is TicketState.SERVED
        engine.give(engine.check_out(ticket))
        holder.go()
        assert holder.end() == 0


def test_cancel_leaves_the_line_and_returns_what_was_gathered(pool_path: Path) -> None:
    """However often it is called."""
    engine = make(pool_path, limit=2, keep=2)
    held = [engine.take(), engine.take()]
    ticket = engine.ticket(2)
    engine.enqueue(ticket)
    engine.give([held[0]])
    assert engine.snapshot().waiting == 1
    engine.cancel(ticket)
    engine.cancel(ticket)
    assert ticket.state is TicketState.CANCELLED
    now = engine.snapshot()
    assert (now.waiting, now.spare, now.out) == (0, 1, 1)


def test_a_line_that_is_full_refuses(pool_path: Path) -> None:
    """It has as many places as the file was made with."""
    engine = make(pool_path, limit=2, keep=2, places=1)
    held = [engine.take(), engine.take()]
    first, second = engine.ticket(), engine.ticket()
    engine.enqueue(first)
    with pytest.raises(LineFull):
        engine.enqueue(second)
    with pytest.raises(ValueError, match="more than the limit"):
        engine.enqueue(engine.ticket(3))
    engine.give([held[0]])
    engine.poll(first)
    assert first.state is TicketState.SERVED


def test_a_limit_lowered_below_what_is_waited_for_ends_the_wait(pool_path: Path) -> None:
    """Nobody could serve it, nor whoever stands behind it."""
    engine = make(pool_path, limit=4)
    held = [engine.take() for _ in range(4)]
    ticket = engine.ticket(3)
    engine.enqueue(ticket)
    engine.resize(1, 1, 2)
    engine.poll(ticket)
    assert ticket.state is TicketState.TOO_MANY
    engine.give(held)


def test_close_is_for_all_processes(pool_path: Path) -> None:
    """Who waits is told, who asks gets PoolClosed, and what comes back goes to the system."""
    engine = make(pool_path, limit=2, keep=2)
    held = [engine.take(), engine.take()]
    ticket = engine.ticket()
    engine.enqueue(ticket)
    SharedEngine.attach(pool_path).close()
    assert engine.park(ticket, 1) is TicketState.CLOSED
    with pytest.raises(PoolClosed):
        engine.take()
    with pytest.raises(PoolClosed):
        engine.enqueue(engine.ticket())
    engine.give(held)
    assert engine.snapshot().made == 0


def test_a_killed_process_loses_everything_it_had(pool_path: Path) -> None:
    """Leased elements, and what it had gathered in the line."""
    engine = make(pool_path, limit=4, keep=4)

    def run(parent: Parent) -> None:
        mine = SharedEngine.attach(pool_path)
        parent.tell(sum(mine.take() is not None for _ in range(3)))
        ticket = mine.ticket(2)
        mine.enqueue(ticket)
        parent.tell(len(ticket.elements))
        parent.wait()

    with child(run) as process:
        assert [process.hear(), process.hear()] == [3, 0]
        assert engine.reap_dead() == 0
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
    assert len(engine.clients()) == 2
    assert engine.reap_dead() == 1
    now = engine.snapshot()
    assert (now.out, now.waiting, now.spare) == (0, 0, 4)
    assert len(engine.clients()) == 1
    assert engine.verify() == []


def test_a_stopped_process_is_not_taken_for_dead(pool_path: Path) -> None:
    """Neither is one that has closed descriptors it did not know: it still maps the file."""
    engine = make(pool_path)

    def run(parent: Parent) -> None:
        mine = SharedEngine.attach(pool_path)
        mine.take()
        os.closerange(mine._lock, mine._lock + 1)
        parent.tell(1)
        parent.wait()

    with child(run) as process:
        process.hear()
        assert engine.reap_dead() == 0
        os.kill(process.pid, signal.SIGSTOP)
        assert engine.reap_dead() == 0
        assert engine.snapshot().out == 1
        assert process.end(signal.SIGKILL) == -signal.SIGKILL
    assert engine.reap_dead() == 1


def test_a_process_that_executes_another_program_is_gone(pool_path: Path) -> None:
    """Its number and its start time stay the same, its lock and its mapping do not."""
    engine = make(pool_path)

    def run(parent: Parent) -> None:
        mine = SharedEngine.attach(pool_path)
        mine.take()
        parent.tell(1)
        os.execv("/bin/sleep", ["sleep", "60"])

    with child(run) as process:
        process.hear()
        wait_until(lambda: engine.reap_dead() == 1)
        assert engine.snapshot().out == 0
        assert process.end(signal.SIGKILL) == -signal.SIGKILL


def test_a_forked_child_attaches_anew(pool_path: Path) -> None:
    """What its parent has stays the parent's, whose lock survives the child."""
    engine = make(pool_path)
    handle = engine.take()
    assert handle is not None

    def run(parent: Parent) -> None:
        with pytest.raises(ForeignElement):
            engine.give([handle])
        mine = engine.take()
        parent.tell(engine._tx.me)
        engine.give([mine] if mine else [])
        engine.detach()

    with child(run) as process:
        assert process.hear() != engine._tx.me
        assert process.end() == 0
    other = SharedEngine.attach(pool_path)
    assert other.reap_dead() == 0
    assert engine.give([handle]) == 1
    assert engine.verify() == []


def test_a_child_that_was_never_told_does_not_use_its_parents_name(pool_path: Path) -> None:
    """One that was forked in C: no hook of Python has run in it, and the page that tells it does."""
    ctypes = pytest.importorskip("ctypes")
    engine = make(pool_path)
    engine.take()
    me = engine._tx.me
    libc = ctypes.PyDLL(None)
    pid = libc.fork()
    if pid == 0:
        try:
            handle = engine.take()
            os._exit(0 if handle is not None and engine._tx.me != me else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert engine.reap_dead() == 1
    assert engine.snapshot().out == 1


def test_a_successor_returns_what_a_dead_one_left(pool_path: Path) -> None:
    """Attaching where a killed process was is reaping it, even with nobody else there."""
    make(pool_path, clients=1).detach()

    def run(parent: Parent) -> None:
        mine = SharedEngine.attach(pool_path)
        parent.tell(sum(mine.take() is not None for _ in range(3)))
        parent.wait()

    with child(run) as process:
        process.hear()
        with pytest.raises(LineFull, match="processes use this pool"):
            SharedEngine.attach(pool_path)
        process.end(signal.SIGKILL)
    engine = SharedEngine.attach(pool_path)
    assert engine.snapshot().out == 0
    assert engine.verify() == []


def test_detach_and_drop_return_everything(pool_path: Path) -> None:
    """Without waiting for anybody to notice."""
    engine = make(pool_path)
    for leave in (SharedEngine.detach, lambda _engine: None):
        other = SharedEngine.attach(pool_path)
        other.take()
        assert engine.snapshot().out == 1
        leave(other)
        del other
        gc.collect()
        assert engine.snapshot().out == 0
        assert len(engine.clients()) == 1


def test_the_file_is_there_whole_or_not_at_all(pool_path: Path) -> None:
    """A second creator finds the first one's."""
    make(pool_path)
    with pytest.raises(FileExistsError):
        make(pool_path)
    assert pool_path.stat().st_mode & 0o777 == 0o600
    pool_path.parent.chmod(0o777)
    with pytest.raises(PermissionError, match="chmod 700"):
        SharedEngine.attach(pool_path)


@pytest.mark.parametrize("number", ["slots", "places", "clients", "size"])
def test_numbers_that_cannot_be_are_refused(pool_path: Path, number: str) -> None:
    """Before anything is made."""
    for wrong in (0, 1 << 60):
        with pytest.raises(ValueError, match="not"):
            make(pool_path, **{number: wrong})
    assert not pool_path.exists()


def test_a_share_that_has_ended_closes_nothing_in_a_child(pool_path: Path) -> None:
    """The numbers of its descriptors are others' by then."""
    engine = make(pool_path)
    numbers = engine._file, engine._lock
    engine.detach()
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
    assert set(numbers) <= set(others)

    def look(_parent: Parent) -> None:
        for number in others:
            os.fstat(number)

    with child(look) as process:
        assert process.end() == 0
    for number in others:
        os.close(number)


@pytest.mark.parametrize("expected", [1, 3])
def test_a_change_that_expects_another_reserve_changes_nothing(pool_path: Path, expected: int) -> None:
    """Whether it is more or less by now."""
    engine = make(pool_path)
    with pytest.raises(UnexpectedReserveError, match=f"the reserve is 2 and not {expected}, as expected"):
        engine.change(4, None, None, expect=expected)
    assert engine.snapshot().reserve == 2
    assert engine.change(4, None, None, expect=2).reserve == 4
