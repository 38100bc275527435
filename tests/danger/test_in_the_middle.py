"""The uncompiled core in the middle of a decision: exceptions, calls by the same thread, forks, threads that never go on.

(Compiled, a decision has no middle.) test_finalizers.py calls the pool in the middle of its calls, on both cores.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from books import assert_at_rest
from sweeps import PACKAGE, PLACES, TELLS_LATE, Bystander, Interrupter

import mempool
from mempool import Objects, Pool
from mempool._core import Decisions, Ticket, Transfer
from mempool._core.decisions import UNCHANGED
from mempool._core.transfer import SERVED, WITHDRAWN
from mempool.testing import Element, ScriptedSource, wait_until

if mempool.IMPLEMENTATION == "compiled":
    pytest.skip("compiled, a decision has no middle", allow_module_level=True)

from mempool._core import deciding

SOON = 60  # seconds
IN_THE_MIDDLE = "in the middle of one of its own steps"

# -- exceptions: each decision happens or does not


class DecisionScene:
    """A core, the transfer and tickets that a decision may change, and who was woken."""

    def __init__(self, tracks: bool = True) -> None:
        self.core: Any = Decisions(tracks, True, True)
        self.core.retarget(2, UNCHANGED, 8, [None] * 8)
        self.woken: list[Any] = []
        self.transfer: dict[str, Any] = {}
        self.fill("spares", 4)
        self.core.take_back(self.transfer["spares"])

    def fill(self, name: str, elements: int) -> Any:
        """A transfer that holds so many new elements."""
        transfer: Any = Transfer(elements)
        self.core.permit(transfer, elements)
        transfer.made.extend([Element(i) for i in range(elements)])
        self.core.complete(transfer, True)
        self.transfer[name] = transfer
        return transfer

    def out(self, name: str, elements: int) -> Any:
        """The same, but their user has had them and gives them back."""
        transfer: Any = Transfer(elements)
        self.transfer[name] = transfer
        self.core.take_spares(transfer, True)
        self.core.check_out(transfer)
        assert self.core.check_in(transfer)
        return transfer

    def empty(self, name: str, wanted: int) -> Any:
        self.transfer[name] = Transfer(wanted)
        return self.transfer[name]

    def waiter(self, name: str, wanted: int, joins: bool = True) -> Any:
        ticket: Any = Ticket(wanted)
        ticket.set_waiter(lambda: self.woken.append(name), name, 1)
        self.transfer[name] = ticket
        if joins:
            self.core.join(ticket, [])
        return ticket

    def line(self) -> None:
        """All spares in somebody's transfer, and two who wait."""
        self.out("user's", 4)
        self.waiter("first", 1)
        self.waiter("second", 2)

    def state(self) -> Any:
        """Everything but who was woken."""
        names = {id(ticket): name for name, ticket in self.transfer.items()}
        seen = {"numbers": self.core.snapshot(), "line": [names[id(t)] for t in self.core.queue()]}
        seen["spares"] = [e.number for e in self.core.state.slots[: self.core.state.spare]]
        seen["above"] = set(self.core.state.slots[self.core.state.spare :])
        seen["outstanding"] = len(self.core.outstanding.addresses)
        for name, transfer in self.transfer.items():
            kept = {key: value for key, value in vars(transfer).items() if type(value) in (int, bool)}
            seen[name] = kept | {"elements": [e and e.number for e in transfer.elements], "made": len(transfer.made)}
            seen[name].pop("in_wake_queue", None)  # until it is woken
            seen[name].pop("retry_now", None)  # a hint
        return seen


def take(scene: DecisionScene) -> Callable[[], object]:
    transfer = scene.empty("mine", 3)
    return lambda: scene.core.take_spares(transfer, False)


def take_the_reserve(scene: DecisionScene) -> Callable[[], object]:
    transfer = scene.empty("mine", 3)
    return lambda: scene.core.take_spares(transfer, True)


def take_quickly(scene: DecisionScene) -> Callable[[], object]:
    transfer = scene.empty("mine", 1)
    return lambda: deciding.take_out(scene.core, transfer)


def free_quickly(scene: DecisionScene) -> Callable[[], object]:
    transfer = scene.empty("user's", 1)
    deciding.take_out(scene.core, transfer)
    element = transfer.elements[0]
    transfer.first = 1
    return lambda: deciding.put_in(scene.core, element)


def permit(scene: DecisionScene) -> Callable[[], object]:
    transfer = scene.empty("mine", 3)
    return lambda: scene.core.permit(transfer, 3)


def permit_fill(scene: DecisionScene) -> Callable[[], object]:
    scene.core.retarget(7, UNCHANGED, UNCHANGED, [None] * 14)
    transfer, fill = scene.empty("mine", 2), scene.empty("fill", 0)
    scene.core.begin_fill(fill)
    return lambda: scene.core.permit_fill(transfer, False, fill)


def fill_ends(scene: DecisionScene) -> Callable[[], object]:
    transfer, fill = scene.empty("mine", 2), scene.empty("fill", 0)
    scene.core.begin_fill(fill)
    return lambda: scene.core.permit_fill(transfer, False, fill)


def arrive(scene: DecisionScene) -> Callable[[], object]:
    transfer = scene.empty("mine", 2)
    scene.core.permit(transfer, 2)
    transfer.made.extend([Element(7), None])
    return lambda: scene.core.complete(transfer, True)


def pass_on(scene: DecisionScene) -> Callable[[], object]:
    transfer, receiver = scene.fill("mine", 2), scene.empty("receiver", 2)
    return lambda: scene.core.pass_on(transfer, receiver)


def give_to_the_shelf(scene: DecisionScene) -> Callable[[], object]:
    transfer = scene.out("mine", 4)
    return lambda: scene.core.take_back(transfer)


def give_to_the_line(scene: DecisionScene) -> Callable[[], object]:
    scene.line()
    return lambda: scene.core.take_back(scene.transfer["user's"])


def give_surplus(scene: DecisionScene) -> Callable[[], object]:
    transfer = scene.fill("mine", 3)
    return lambda: scene.core.take_back(transfer)


def mark_surplus(scene: DecisionScene) -> Callable[[], object]:
    transfer = scene.out("mine", 2)
    return lambda: scene.core.mark_surplus(transfer)


def surplus(scene: DecisionScene) -> Callable[[], object]:
    scene.core.retarget(0, 0, UNCHANGED, [])
    transfer = scene.empty("mine", 3)
    return lambda: scene.core.evict(transfer)


def disposed_one(scene: DecisionScene) -> Callable[[], object]:
    transfer = scene.out("mine", 2)
    scene.core.mark_surplus(transfer)
    transfer.free_called.append(1)
    return lambda: scene.core.disposed_one(transfer)


def lose(scene: DecisionScene) -> Callable[[], object]:
    transfer = scene.out("mine", 2)
    return lambda: scene.core.write_off_transfer(transfer)


def write_off_all_out(scene: DecisionScene) -> Callable[[], object]:
    transfer = scene.empty("mine", 2)
    scene.core.take_spares(transfer, True)
    scene.core.check_out(transfer)
    return lambda: scene.core.write_off_all_out()


def join_and_be_served(scene: DecisionScene) -> Callable[[], object]:
    ticket = scene.waiter("mine", 2, joins=False)
    return lambda: scene.core.join(ticket, [])


def join_the_line(scene: DecisionScene) -> Callable[[], object]:
    scene.line()
    ticket = scene.waiter("mine", 2, joins=False)
    return lambda: scene.core.join(ticket, [])


def withdraw(scene: DecisionScene) -> Callable[[], object]:
    scene.line()
    return lambda: scene.core.withdraw(scene.transfer["first"])


def shrink(scene: DecisionScene) -> Callable[[], object]:
    scene.line()
    fill = scene.empty("fill", 0)
    return lambda: scene.core.retarget(1, 1, 1, [], fill)


def grow(scene: DecisionScene) -> Callable[[], object]:
    fill = scene.empty("fill", 0)
    return lambda: scene.core.retarget(7, UNCHANGED, 20, [None] * 14, fill)


def close(scene: DecisionScene) -> Callable[[], object]:
    scene.line()
    return lambda: scene.core.close()


def dismiss(scene: DecisionScene) -> Callable[[], object]:
    scene.line()
    return lambda: scene.core.dismiss()


def count_wait(scene: DecisionScene) -> Callable[[], object]:
    return lambda: scene.core.count_wait(SERVED, 0.5)


def watch_a_drain(scene: DecisionScene) -> Callable[[], object]:
    ticket = scene.waiter("mine", 0, joins=False)
    return lambda: scene.core.watch_drain(ticket, True)


def after_fork(scene: DecisionScene) -> Callable[[], object]:
    scene.line()
    return lambda: scene.core.after_fork(2)


DECISIONS = [
    take,
    take_the_reserve,
    take_quickly,
    free_quickly,
    permit,
    permit_fill,
    fill_ends,
    arrive,
    pass_on,
    give_to_the_shelf,
    give_to_the_line,
    give_surplus,
    mark_surplus,
    surplus,
    disposed_one,
    lose,
    write_off_all_out,
    join_and_be_served,
    join_the_line,
    withdraw,
    shrink,
    grow,
    close,
    dismiss,
    count_wait,
    watch_a_drain,
    after_fork,
]


@pytest.mark.sample(3)
@pytest.mark.parametrize("prepare", DECISIONS, ids=lambda prepare: prepare.__name__)
def test_a_decision_that_is_cut_short_has_happened_or_has_not(
    prepare: Callable[[DecisionScene], Callable[[], object]], request: pytest.FixtureRequest
) -> None:
    """An interrupt before any bytecode: all is as before or as after it, nobody who was served sleeps, the lock is free."""
    undisturbed = DecisionScene()
    call = prepare(undisturbed)
    before = undisturbed.state()
    undisturbed.woken.clear()
    gc.disable()  # an interrupt in a finalizer or a callback of the collector is swallowed
    request.addfinalizer(gc.enable)
    counter = Interrupter(sys.maxsize)
    with counter:
        call()
    after, woken = undisturbed.state(), set(undisturbed.woken)
    seen = []
    bytecodes = sys.maxsize - counter.countdown
    for n in {*range(1, bytecodes + 1, max(1, bytecodes // (8 * PLACES))), bytecodes}:  # the last is after all decisions
        scene = DecisionScene()
        call = prepare(scene)
        assert scene.state() == before
        scene.woken.clear()
        interrupter = Interrupter(n)
        with contextlib.suppress(KeyboardInterrupt), interrupter:
            call()
        assert not scene.core.lock._is_owned(), interrupter.struck_at
        state = scene.state()
        assert state in (before, after), (interrupter.struck_at, state)
        assert set(scene.woken) == (woken if state == after else set()), interrupter.struck_at
        seen.append(state == after)
    assert before == after or {*seen} == {False, True} or TELLS_LATE


def test_a_second_interrupt_while_the_first_is_taken_back_loses_nothing() -> None:
    """Whoever decides next finds the record, and takes back what was left half done."""
    scene = DecisionScene()
    transfer = scene.empty("mine", 3)
    before = scene.state()
    shut, roll_back = Decisions.commit, deciding.roll_back

    def strike(*_arguments: object) -> None:
        raise KeyboardInterrupt

    try:
        Decisions.commit = deciding.roll_back = strike  # type: ignore[method-assign,assignment]
        with pytest.raises(KeyboardInterrupt):
            scene.core.take_spares(transfer, False)
    finally:
        Decisions.commit, deciding.roll_back = shut, roll_back  # type: ignore[method-assign]
    assert transfer.count > 0, "cut short too late, or taken back"
    assert scene.state() == before


# -- calls by the same thread


def use(pool: Pool[Any]) -> None:
    """Every way in and out, once."""
    pool.free(pool.alloc())
    with pool.lease():
        elements = pool.alloc_many(2)
        pool.resize(reserve=4)
        pool.free_many(elements)
    pool.resize(reserve=2)
    pool.stats()


def free(pool: Pool[Any], element: Any) -> None:
    pool.free(element)


def free_many(pool: Pool[Any], element: Any) -> None:
    pool.free_many([element])


def drop_a_lease(pool: Pool[Any], element: Any) -> None:
    element.release()


@pytest.mark.sample(3)
@pytest.mark.parametrize("track", ["identity", "nothing", "holders"])
@pytest.mark.parametrize("way", [free, free_many, drop_a_lease], ids=lambda way: way.__name__)
def test_what_is_freed_at_any_bytecode_of_a_call_is_returned_when_the_call_returns(way: Any, track: str) -> None:
    """A finalizer or a signal handler may free anywhere: nothing is lost, no call of its thread waits for itself."""

    def scene() -> tuple[Pool[Any], Callable[[], object]]:
        pool = Pool(ScriptedSource(), 3, limit=9, track=track)
        freed = pool.lease() if way is drop_a_lease else pool.alloc()
        if way is drop_a_lease:
            assert freed.element
        return pool, lambda: way(pool, freed)

    pool, call = scene()
    counter = Bystander(sys.maxsize, call)
    with counter:
        use(pool)
    call()
    bytecodes = sys.maxsize - counter.countdown
    n = 0
    for n in range(1, bytecodes, max(1, bytecodes // (10 * PLACES))):
        pool, call = scene()
        errors: list[BaseException] = []

        def free_it(call: Callable[[], object] = call, errors: list[BaseException] = errors) -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - a tracer's would be raised in the call
                errors.append(error)

        bystander = Bystander(n, free_it)
        with bystander:
            use(pool)
        if bystander.countdown > 0:
            call()
            break  # the first scene, which filled caches, executed more
        assert errors == [], n
        assert pool.stats().out == 0, n
        assert_at_rest(pool)
    assert n > bytecodes // 2


def held_in_the_middle(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], object], *, for_good: bool = False
) -> threading.Event:
    """Run this in a thread that stops in the middle of its first decision, until the event is set, and then goes on.

    for_good: or ends there without another step of the decision.
    """
    reached, go_on = threading.Event(), threading.Event()
    shut = Decisions.commit

    def shut_late(core: Any, state: Any) -> None:
        if threading.current_thread() is thread and not reached.is_set():
            reached.set()
            assert go_on.wait(SOON)
            if for_good:
                sys.exit()
        shut(core, state)

    thread = threading.Thread(target=call, daemon=True)  # first: garbage of another test may be closed from the next line on
    monkeypatch.setattr(Decisions, "commit", shut_late)
    gc.disable()  # or the first decision of the thread might be a finalizer's, of another test's pool
    try:
        thread.start()
        assert reached.wait(SOON)
    finally:
        gc.enable()
    return go_on


def in_the_middle(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> None:
    """Call this once in the middle of the next decision of any pool."""
    shut, due = Decisions.commit, [call]

    def shut_late(core: Any, state: Any) -> None:
        if due:
            due.pop()()
        shut(core, state)

    monkeypatch.setattr(Decisions, "commit", shut_late)


def test_the_figures_seen_in_the_middle_are_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Objects(bytearray), 4)
    seen: list[Any] = []
    before = pool.stats()
    in_the_middle(monkeypatch, lambda: seen.append(pool.stats()))
    pool.alloc_reserved()
    assert seen == [before]
    assert pool.stats().out == 1


@pytest.mark.parametrize(
    "call",
    [Pool.alloc, lambda pool: pool.resize(reserve=1), lambda pool: pool.alloc_many(2), lambda pool: pool.lease().element],
)
def test_what_cannot_be_had_in_the_middle_says_why(monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
    pool = Pool(Objects(bytearray), 4, name="small")
    said: list[str] = []

    def intrude() -> None:
        with pytest.raises(RuntimeError, match=IN_THE_MIDDLE) as error:
            call(pool)
        said.append(str(error.value))
        assert pool.try_alloc() is None
        assert pool.alloc_reserved() is None

    in_the_middle(monkeypatch, intrude)
    pool.alloc_reserved()
    assert len(said) == 1
    assert "'small'" in said[0]
    assert (pool.stats().out, pool.stats().reserve) == (1, 4)


def test_a_double_free_in_the_middle_is_told_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who freed has gone when it is found."""
    pool = Pool(Objects(bytearray), 4, name="small")
    element, above = pool.alloc_many(2)
    pool.free_many([element, above])
    in_the_middle(monkeypatch, lambda: pool.free(element))
    other = pool.alloc_reserved()
    assert "DoubleFree" in caplog.text
    pool.free(other)
    assert_at_rest(pool)


def test_what_is_freed_in_the_middle_of_a_decision_that_is_cut_short_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the exception has left it: perhaps no other decision follows for long."""
    pool = Pool(Objects(bytearray), 4)
    element = pool.alloc()

    def intrude() -> None:
        pool.free(element)
        raise KeyboardInterrupt

    core: Any = pool._engine.core
    gc.disable()  # or the next decision might be a finalizer's, of another test's pool
    try:
        in_the_middle(monkeypatch, intrude)
        with pytest.raises(KeyboardInterrupt):
            core.set_waiting_max(3)
        assert pool.stats().out == 0
    finally:
        gc.enable()
    assert_at_rest(pool)


# -- tracers


@contextlib.contextmanager
def by_settrace(look: Callable[[str], object]) -> Iterator[None]:
    def tracer(frame: FrameType, _event: str, _arg: object) -> Any:
        look(frame.f_code.co_filename)
        return tracer

    sys.settrace(tracer)
    try:
        yield
    finally:
        sys.settrace(None)


@contextlib.contextmanager
def by_opcode(look: Callable[[str], object]) -> Iterator[None]:
    def tracer(frame: FrameType, _event: str, _arg: object) -> Any:
        frame.f_trace_opcodes = True
        look(frame.f_code.co_filename)
        return tracer

    sys._getframe().f_trace_opcodes = True
    sys.settrace(tracer)
    try:
        yield
    finally:
        sys.settrace(None)


@contextlib.contextmanager
def by_setprofile(look: Callable[[str], object]) -> Iterator[None]:
    sys.setprofile(lambda frame, _event, _arg: look(frame.f_code.co_filename))
    try:
        yield
    finally:
        sys.setprofile(None)


@contextlib.contextmanager
def by_monitoring(look: Callable[[str], object]) -> Iterator[None]:
    if sys.version_info < (3, 12):
        pytest.skip("sys.monitoring came with Python 3.12")
    monitoring, tool = sys.monitoring, sys.monitoring.PROFILER_ID
    monitoring.use_tool_id(tool, "a tracer that uses the traced pool")
    events = monitoring.events.LINE | monitoring.events.PY_START | monitoring.events.PY_RETURN
    for event in (monitoring.events.LINE, monitoring.events.PY_START, monitoring.events.PY_RETURN):
        monitoring.register_callback(tool, event, lambda code, *_: look(code.co_filename))
    monitoring.set_events(tool, events)
    try:
        yield
    finally:
        monitoring.set_events(tool, 0)
        for event in (monitoring.events.LINE, monitoring.events.PY_START, monitoring.events.PY_RETURN):
            monitoring.register_callback(tool, event, None)
        monitoring.free_tool_id(tool)


def lease(pool: Pool[Any]) -> None:
    with pool.lease():
        pass


@pytest.mark.parametrize("tracing", [by_settrace, by_opcode, by_setprofile, by_monitoring], ids=lambda way: way.__name__)
def test_a_tracer_that_uses_the_traced_pool_comes_to_an_end(tracing: Any) -> None:
    """At each line, each call, each bytecode it takes, frees, leases, resizes and looks; the traced calls all end."""
    pool = Pool(ScriptedSource(), 3, limit=9)
    looks = 0
    refused: set[str] = set()

    def look(filename: str) -> None:
        nonlocal looks
        if not filename.startswith(PACKAGE) or looks < 0:
            return
        looks += 1
        assert looks < 50_000, "the traced call does not come to an end"
        for call in (
            lambda: pool.free(pool.alloc()),
            lambda: pool.free_many(pool.alloc_many(2)),
            lambda: lease(pool),
            lambda: pool.resize(reserve=3),
            pool.stats,
        )[looks % 5 :][:1]:
            try:
                call()
            except RuntimeError as error:
                refused.add(str(error))

    with tracing(look):
        use(pool)
    looks = -1
    assert all(IN_THE_MIDDLE in said for said in refused)
    pool.resize(reserve=3)
    assert_at_rest(pool)


# -- threads that never go on


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_in_the_middle_of_another_threads_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child has neither that thread nor its half-done decision; its pool works."""
    pool = Pool(Objects(bytearray), 4)
    go_on = held_in_the_middle(monkeypatch, pool.alloc_reserved)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            stats = pool.stats()
            assert (stats.spare, stats.out) == (4, 0)
            pool.free_many(pool.alloc_many(4, timeout=0))
            assert pool.stats().spare == pool.stats().made
            status = 0
        except AssertionError:
            traceback.print_exc()
        finally:
            os._exit(status)
    go_on.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    wait_until(lambda: pool.stats().out == 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_in_the_middle_of_ones_own_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer or a signal handler forks there: parent and child both make the decision."""
    pool = Pool(Objects(bytearray), 4)
    children: list[int] = []
    in_the_middle(monkeypatch, lambda: children.append(os.fork()))
    element = pool.alloc_reserved()
    if children == [0]:
        status = 1
        try:
            assert (pool.stats().spare, pool.stats().out) == (3, 1)
            pool.free(element)
            pool.free_many(pool.alloc_many(4, timeout=0))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    pool.free(element)
    assert_at_rest(pool)


def test_the_end_of_the_interpreter_in_the_middle_of_a_threads_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon thread that has been stopped there for good is not waited for."""
    pool = Pool(Objects(bytearray), 4)
    element = pool.alloc()

    def alloc() -> None:
        with contextlib.suppress(SystemExit):
            pool.alloc_reserved()

    go_on = held_in_the_middle(monkeypatch, alloc, for_good=True)
    monkeypatch.setattr(deciding, "sys", SimpleNamespace(is_finalizing=lambda: True))
    pool.free(element)
    assert pool.core.snapshot()["spare"] == pool.core.snapshot()["made"]
    monkeypatch.undo()
    go_on.set()


def test_another_thread_waits_for_a_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who calls in the middle of another thread's decision decides after it."""
    pool = Pool(Objects(bytearray), 1, limit=1)
    took: list[Any] = []
    go_on = held_in_the_middle(monkeypatch, lambda: took.append(pool.alloc_reserved()))
    other = threading.Thread(target=lambda: took.append(pool.alloc_reserved()))
    other.start()
    other.join(0.05)
    assert other.is_alive()
    assert took == []
    go_on.set()
    other.join(SOON)
    wait_until(lambda: len(took) == 2)
    assert sum(element is not None for element in took) == 1


def test_the_states_of_a_ticket_that_others_see_are_final(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits looks at its ticket without the lock: it says SERVED when nothing can be taken back any more."""
    scene = DecisionScene()
    scene.line()
    seen: list[int] = []
    in_the_middle(monkeypatch, lambda: seen.append(scene.transfer["first"].state))
    scene.core.take_back(scene.transfer["user's"])
    assert seen != [SERVED]
    assert scene.transfer["first"].state == SERVED
    assert scene.core.withdraw(scene.transfer["first"]) is False
    assert scene.transfer["first"].state != WITHDRAWN
