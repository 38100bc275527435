"""A real process is killed after each instruction that changes shared memory: compiled code, single-stepped by ptrace."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from sweeps import LONG

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import Parent, child
from single_steps import Part, kill_after_change, may_trace, stand_in_line

from mempool.shared import words
from mempool.shared._engine import Ticket as Owning
from mempool.shared.engine import Handle, SharedEngine, Ticket

pytestmark = pytest.mark.once

Script = Callable[[SharedEngine, list[Handle]], object]
#: The child is killed after the first change and each so many'th further one; `make long` and the gate take all.
EVERY = 1 if LONG else 24


def part_of(script: Script) -> Part:
    """Attach, hold two, and do it."""

    def make_ready(path: Path) -> Callable[[], object]:
        mine = SharedEngine.attach(path)
        held = [handle for handle in (mine.take(), mine.take()) if handle]
        return lambda: script(mine, held)

    return make_ready


def offer(engine: SharedEngine, handle: Handle, receiver: int) -> int:
    """Its number. The receiver is the parent: it was the first to attach."""
    number = Owning(engine._tx, 0).offer(handle, receiver, 0 if receiver == words.ANYBODY else 1)
    assert number
    return number


def end_offer(engine: SharedEngine, slot: int, number: int, *, recalls: bool = False) -> None:
    ticket = Owning(engine._tx, 1)
    assert ticket.end_offer(slot, number, recalls)
    ticket.let_go()


def adopt_the_parents(engine: SharedEngine) -> None:
    """What the parent had offered before it forked."""
    end_offer(engine, *PARENTS[0])


def take_back(engine: SharedEngine) -> None:
    """What the parent has offered, if nobody has adopted it; and what the child has addressed to the parent."""
    for slot in range(engine.layout.slots):
        seen = engine._tx.look_at_offer(slot)
        if seen is not None:
            ticket = Owning(engine._tx, 1)
            assert ticket.end_offer(slot, seen[0], seen[2])
            ticket.give_back()


@contextmanager
def killed_at_the_end(path: Path) -> Iterator[None]:
    """A process attaches whose elements are to be set aside, takes what there is, two at most, and is killed at the end."""

    def hold(parent: Parent) -> None:
        mine = SharedEngine.attach(path, quarantines=True)
        handles = [mine.take(), mine.take()]
        parent.tell(len(handles))
        parent.wait()

    with child(hold) as holder:
        holder.hear()
        yield
        holder.end(signal.SIGKILL)


def adopt_the_quarantined(engine: SharedEngine) -> None:
    """All that there is, and return it."""
    for slot in range(engine.layout.slots):
        number = engine._tx.look_at_quarantined(slot)
        if number is not None:
            ticket = Owning(engine._tx, 1)
            assert ticket.end_offer(slot, number, False)
            ticket.give_back()


#: Its client: after the parent and the one that is traced. Who looks for the dead in /proc takes 10 s, traced.
HOLDER = 2
#: What the parent has offered to anybody: the slot and the number.
PARENTS: list[tuple[int, int]] = []

SCRIPTS: dict[str, Script] = {
    "take": lambda engine, _held: engine._tx.take(),
    "free": lambda engine, held: engine._tx.give(held[0]),
    "join": lambda engine, _held: engine._tx.join(2),
    "grow": lambda engine, _held: engine._tx.retarget(5, 6, 8) and engine._tx.grow(),
    "shrink": lambda engine, _held: engine._tx.retarget(0, 0, 8) and engine._tx.shrink(),
    "offer": lambda engine, held: offer(engine, held[0], words.ANYBODY),
    "offer to one": lambda engine, held: offer(engine, held[0], 0),
    "offer and adopt": lambda engine, held: end_offer(engine, held[0].slot, offer(engine, held[0], words.ANYBODY)),
    "adopt": lambda engine, _held: adopt_the_parents(engine),
    "offer to one and recall": lambda engine, held: end_offer(engine, held[0].slot, offer(engine, held[0], 0), recalls=True),
    "reap one that sets aside": lambda engine, _held: engine._tx.reap(HOLDER, engine._tx.look_at_client(HOLDER)[1]),
    "adopt from quarantine": lambda engine, _held: adopt_the_quarantined(engine),
    "detach": lambda engine, _held: engine._tx.detach(),
}


@pytest.mark.sample(4)
@pytest.mark.skipif(not may_trace(), reason="may not trace its children here")
@pytest.mark.parametrize("beside_a_line", [False, True])
@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_after_any_change_of_shared_memory(pool_path: Path, script: str, beside_a_line: bool) -> None:
    """All invariants hold at once, and everything that it had is had again after it was reaped."""
    engine = SharedEngine.create(pool_path, size=100, slots=8, reserve=3, keep=5, limit=7, places=4, clients=4)
    killed = 0
    for changes in range(1, 200, EVERY):
        mine: list[Handle] = []
        ticket = engine.ticket(4)

        def begin(mine: list[Handle] = mine, ticket: Ticket = ticket) -> None:
            with killed_at_the_end(pool_path) if script == "reap one that sets aside" else nullcontext():
                if beside_a_line:
                    stand_in_line(engine, mine, ticket)

        if script == "adopt from quarantine":
            with killed_at_the_end(pool_path):
                pass
            assert engine.reap_dead() == 1
        if script == "adopt":
            handle = engine.take()
            assert handle
            PARENTS[:] = [(handle.slot, offer(engine, handle, words.ANYBODY))]
        goes_on = kill_after_change(engine, pool_path, part_of(SCRIPTS[script]), changes, begin)
        assert engine.verify() == [], f"after change {changes}"
        killed += goes_on
        engine.reap_dead()
        assert engine.verify() == [], f"after change {changes}, reaped"
        take_back(engine)
        adopt_the_quarantined(engine)
        engine.cancel(ticket)
        engine.give(mine)
        now = engine.resize(3, 5, 7)
        assert (now.out, now.waiting, len(engine.clients())) == (0, 0, 1), f"after change {changes}"
        if not goes_on:
            # At the least: which word, what becomes of it, and the swap.
            assert changes > 3 or (script == "take" and beside_a_line)
            assert killed == (changes - 1) // EVERY
            return
    raise AssertionError("it never ends")
