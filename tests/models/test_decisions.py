"""The decisions of the reserve, one after another in any order, beside the same in plain lists (plain_decisions.py).

After each, both say the same numbers, hold the same elements in the same transfers, and have told the same callers: nobody
is left to sleep, and nobody is woken in vain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plain_decisions import WAITING, WITHDRAWN, PlainDecisions, PlainTransfer
from sweeps import LONG

from mempool import Buffer, Buffers
from mempool._core import Decisions, Ticket
from mempool._core.decisions import CHANGED, GROWN, HAS_ALL, IN_LINE, UNCHANGED
from mempool._core.state import UNLIMITED
from mempool._core.transfer import SERVED
from mempool.engine import WAIT_BUCKETS

which = st.integers(0, 5)
few = st.integers(1, 4)
maybe = st.none() | st.integers(0, 6)
BUFFERS = Buffers(64)


class Owner:
    """One caller: its real transfer and its plain one."""

    def __init__(self, wanted: int, thread: int = 1, may_be_gone: bool = False) -> None:
        self.woken = 0
        self.real = Ticket(wanted)
        self.real.set_waiter(self.wake, self, thread, may_be_gone)
        self.plain = PlainTransfer(wanted, thread=thread, may_be_gone=may_be_gone)

    def wake(self) -> None:
        self.woken += 1


def of_one(fits: Callable[[PlainTransfer], object], **drawn: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """A rule about one owner, outside the line, that it fits; it is not chosen when there is none."""

    def decorate(method: Callable[..., None]) -> Any:
        def step(self: AnyOrder, n: int, **values: object) -> None:
            fitting = self.fitting(fits)
            method(self, fitting[n % len(fitting)], **values)

        step.__name__ = method.__name__
        return precondition(lambda self: bool(self.fitting(fits)))(rule(n=which, **drawn)(step))

    return decorate


def allocates(plain: PlainTransfer) -> bool:
    return plain.missing > plain.permits and not plain.is_surplus and not plain.filling and plain.asks_for is None


class AnyOrder(RuleBasedStateMachine):
    """Both are told the same."""

    @initialize(
        aims=st.tuples(st.integers(0, 3), maybe, maybe),
        tracks=st.booleans(),
        buffers=st.booleans(),
        there=st.tuples(st.integers(0, 3), st.integers(0, 3)),
        waiting=st.lists(st.tuples(few, st.integers(1, 2), st.booleans()), max_size=3),
        permits=st.integers(0, 2),
    )
    def begin(  # noqa: PLR0917 - hypothesis gives them by name
        self, aims: Any, tracks: bool, buffers: bool, there: tuple[int, int], waiting: list[Any], permits: int
    ) -> None:
        """In the midst of things, as far as the limit allows. there: how many spares, and how many out."""
        spare, out = there
        self.real = Decisions(tracks, False, False)
        self.plain = PlainDecisions()
        self.owners: list[Owner] = []
        self.users: list[Owner] = []
        self.viewed: list[Owner] = []  # what its user has freed, and views still keep
        self.make: Callable[[], object] = BUFFERS.alloc if buffers else object
        self.fills = [Owner(0, thread=n % 2 + 1) for n in range(3)]
        self.tracks = tracks
        self.both_retarget(*aims, 20)
        for wanted in [1] * (spare + out):
            self.owners.append(Owner(wanted))
            self.ask(self.owners[-1], wanted)
        for owner in self.fitting(lambda plain: plain.permits):
            self.answer(owner, [True], for_caller=True)
            if out:
                self.use(owner)
                out -= 1
            else:
                self.come(owner, fit=True)
        if buffers and self.users:
            self.linger(n=0, views=[True])
        for arguments in waiting:
            self.owners.append(Owner(*arguments))
            self.ask(self.owners[-1], 1)
            self.answer(self.owners[-1], [False], for_caller=True)
            self.enqueue(self.owners[-1], 20)
        self.owners = [owner for owner in self.owners if owner.plain in self.plain.line or owner.plain.held]
        for _ in range(permits):
            self.owners.append(Owner(2))
            self.ask(self.owners[-1], 1)

    def fitting(self, fits: Callable[[PlainTransfer], object]) -> list[Owner]:
        return [owner for owner in self.owners if owner.plain not in self.plain.line and fits(owner.plain)]

    @precondition(lambda self: len(self.owners) < 8)
    @rule(wanted=few, thread=st.integers(1, 2), may_be_gone=st.booleans())
    def comes(self, wanted: int, thread: int, may_be_gone: bool) -> None:
        self.owners.append(Owner(wanted, thread, may_be_gone))
        assert not self.owners[-1].real.are_owners()

    # -- allocating

    @of_one(lambda plain: allocates(plain) and not plain.permits, from_reserve=st.booleans())
    def take_spares(self, owner: Owner, from_reserve: bool) -> None:
        assert self.real.take_spares(owner.real, from_reserve) == self.plain.take_spares(owner.plain, from_reserve)

    def ask(self, owner: Owner, elements: int) -> None:
        elements = min(elements, owner.plain.missing - owner.plain.permits)
        assert self.real.permit(owner.real, elements) == self.plain.permit(owner.plain, elements)

    @of_one(allocates, elements=few)
    def permit(self, owner: Owner, elements: int) -> None:
        self.ask(owner, elements)

    @precondition(lambda self: self.plain.line and not self.plain.asked)
    @rule(n=which, elements=few)
    def asks_for_the_head(self, n: int, elements: int) -> None:
        """The first in line goes into the source; or somebody who was it when it looked, and is it no more."""
        waiting = [owner for owner in self.owners if owner.plain in self.plain.line]
        first = waiting[n % len(waiting)] if n > 3 else self.owner_of(self.plain.line[0])
        owner = Owner(elements)
        owner.real.ask_for(first.real)
        owner.plain.asks_for = first.plain
        self.ask(owner, elements)
        if owner.plain.permits:
            self.owners.append(owner)

    def owner_of(self, plain: PlainTransfer) -> Owner:
        return next(owner for owner in self.owners if owner.plain is plain)

    @rule(wanted=few, beyond_out=st.booleans(), n=which)
    def permit_fill(self, wanted: int, beyond_out: bool, n: int) -> None:
        owner, fill = Owner(wanted), self.fills[n % 3]
        answer = self.plain.permit_fill(owner.plain, beyond_out, fill.plain)
        assert self.real.permit_fill(owner.real, beyond_out, fill.real) == answer
        if answer:
            self.owners.append(owner)

    @rule(n=which, begins=st.booleans())
    def fill(self, n: int, begins: bool) -> None:
        """A refill begins, or a fill ends by an error."""
        what, fill = "begin_fill" if begins else "end_fill", self.fills[n % 3]
        getattr(self.real, what)(fill.real)
        getattr(self.plain, what)(fill.plain)

    def answer(self, owner: Owner, answers: list[bool], *, for_caller: bool) -> None:
        made = [self.make() if answer else None for answer in answers[: owner.plain.permits]]
        owner.real.made.extend(made)
        self.real.complete(owner.real, for_caller)
        self.plain.complete(owner.plain, made, for_caller)

    @of_one(lambda plain: plain.permits, answers=st.lists(st.booleans(), min_size=4, max_size=4), for_caller=st.booleans())
    def complete(self, owner: Owner, answers: list[bool], for_caller: bool) -> None:
        self.answer(owner, answers, for_caller=for_caller)

    def use(self, owner: Owner) -> None:
        self.real.check_out(owner.real)
        self.owners.remove(owner)
        self.users.append(owner)

    @of_one(lambda plain: plain.held and not plain.is_surplus and not plain.permits and not plain.lingering)
    def goes_out(self, owner: Owner) -> None:
        """The caller has all it wants, and is a user from now on."""
        self.use(owner)

    # -- freeing

    @precondition(lambda self: self.users)
    @rule(n=which, again=st.booleans())
    def check_in(self, n: int, again: bool) -> None:
        """What a user has is checked in, or nearly, and stays the user's. What nobody has out is refused."""
        if self.tracks or not self.plain.out:
            stranger = Owner(1)
            stranger.real.hold(object())
            assert not self.real.check_in(stranger.real)
            assert not stranger.real.are_owners()
        user = self.users.pop(n % len(self.users))
        owner = Owner(len(user.plain.held))
        for element in user.real.held():
            owner.real.hold(element)
        owner.plain.held = list(user.plain.held)
        assert self.real.check_in(owner.real)
        assert owner.real.are_owners()
        if again:
            self.real.undo_check_in(owner.real)
            assert not owner.real.are_owners()
            self.users.append(user)
        else:
            self.owners.append(owner)

    @precondition(lambda self: self.users)
    @rule(n=which, views=st.lists(st.booleans(), min_size=4, max_size=4))
    def linger(self, n: int, views: list[bool]) -> None:
        """A user frees what is still viewed in part; nothing but a buffer lingers."""
        user = self.users.pop(n % len(self.users))
        owner = Owner(len(user.plain.held))
        owner.plain.held = list(user.plain.held)
        lingering = []
        for element, is_viewed in zip(owner.plain.held, views, strict=False):
            owner.real.hold(element)
            if is_viewed and isinstance(element, Buffer):
                element.lingers = True
                lingering.append(element)
        assert self.real.check_in(owner.real)
        self.real.linger(owner.real)
        self.plain.linger(owner.plain, lingering)
        owner.real.let_go()
        assert sorted(map(id, owner.real.held())) == sorted(map(id, owner.plain.held))
        owner.plain.held = owner.real.held()  # in what order those stay that do not linger, nobody has promised
        owner.plain.wanted = len(owner.plain.held)  # whoever frees takes nothing in the place of what lingers
        if owner.plain.held:
            self.owners.append(owner)
        for buffer in lingering:
            self.viewed.append(Owner(1))
            self.viewed[-1].plain.held = [buffer]

    @precondition(lambda self: self.viewed)
    @rule(n=which, unfit=st.integers(0, 4))
    def last_view_ends(self, n: int, unfit: int) -> None:
        """What lingered is checked in, to be returned like all else at once or later; until then it counts as lingering."""
        owner = self.viewed.pop(n % len(self.viewed))
        buffer = cast(Buffer, owner.plain.held[0])
        buffer.lingers = False
        owner.real.hold(buffer)
        owner.real.lingering = owner.plain.lingering = 1
        assert self.real.check_in(owner.real)
        self.owners.append(owner)
        if unfit > 0:
            self.come(owner, fit=unfit != 1)

    def come(self, owner: Owner, *, fit: bool) -> None:
        decision = "take_back" if fit else "mark_surplus"
        getattr(self.real, decision)(owner.real)
        getattr(self.plain, decision)(owner.plain)

    @of_one(lambda plain: plain.held and not plain.permits, unfit=st.integers(0, 4))
    def take_back(self, owner: Owner, unfit: int) -> None:
        self.come(owner, fit=unfit != 1)

    @precondition(lambda self: len(self.plain.spares) > self.plain.reserve or self.plain.closed)
    @rule(wanted=few)
    def evict(self, wanted: int) -> None:
        owner = Owner(wanted)
        answer = self.plain.evict(owner.plain)
        assert self.real.evict(owner.real) == answer
        if answer:
            self.owners.append(owner)

    @of_one(lambda plain: plain.is_surplus, of_fill=which)
    def disposed_one(self, owner: Owner, of_fill: int) -> None:
        fill = self.fills[of_fill % 3]
        owner.real.free_called.append(None)
        was_there = bool(owner.plain.held)
        self.real.disposed_one(owner.real, fill.real)
        self.plain.disposed_one(owner.plain, fill.plain)
        assert bool(owner.real.free_called) != was_there
        if not owner.plain.held:
            self.owners.remove(owner)

    # -- the line

    def enqueue(self, owner: Owner, slots: int) -> None:
        was_refused = owner.plain.refused and not self.plain.line
        owner.real.take_retry()
        answer = self.plain.join(owner.plain, slots)
        assert self.real.join(owner.real, [None] * slots) == answer
        if answer == IN_LINE and owner.plain not in self.plain.to_wake:
            # Room under the limit that came after it was refused, and before it lined up, is a reason to ask the source at
            # once, too.
            assert owner.real.take_retry() == (was_refused and self.plain.room > 0)
            assert not owner.real.take_retry()

    @of_one(lambda plain: allocates(plain) and not plain.permits and plain.state == WAITING, slots=st.integers(20, 30))
    def join(self, owner: Owner, slots: int) -> None:
        self.enqueue(owner, slots)

    @precondition(lambda self: self.owners)
    @rule(n=which, leaves=st.booleans())
    def withdraw(self, n: int, leaves: bool) -> None:
        owner = self.owners[n % len(self.owners)]
        answer = self.plain.withdraw(owner.plain)
        if leaves:
            self.real.cancel(owner.real)
        else:
            assert self.real.withdraw(owner.real) == answer

    # -- resizing and ending

    def both_retarget(self, reserve: int | None, keep: int | None, limit: int | None, slots: int, n: int = 0) -> None:
        fill = self.fills[n]
        first, second, third = (UNCHANGED if target is None else target for target in (reserve, keep, limit))
        try:
            answer = self.plain.retarget(reserve, keep, limit, slots, fill.plain)
        except ValueError:
            with pytest.raises(ValueError, match="fewer places than spares to be kept"):
                self.real.retarget(first, second, third, [None] * slots, fill.real)
        else:
            assert self.real.retarget(first, second, third, [None] * slots, fill.real) == answer

    @rule(reserve=maybe, keep=maybe, limit=maybe, slots=st.integers(0, 25), tickets=st.integers(0, 6))
    def retarget(self, reserve: int | None, keep: int | None, limit: int | None, slots: int, tickets: int) -> None:
        self.both_retarget(reserve, keep, limit, slots, tickets % 3)
        self.real.set_waiting_max(tickets)
        self.plain.waiting_max = tickets

    @of_one(lambda _plain: True, watch=st.booleans())
    def watch_drain(self, owner: Owner, watch: bool) -> None:
        assert self.real.watch_drain(owner.real, watch) == self.plain.watch_drain(owner.plain, watch)

    @precondition(lambda self: len(self.owners) > 3)
    @rule(n=st.integers(0, 9), survivor=st.integers(1, 2))
    def ends(self, n: int, survivor: int) -> None:
        """Now and then: the pool is closed, or dismissed, or this is the child of a fork."""
        if n == 0:
            self.real.close()
            self.plain.close()
        if n == 1:
            self.real.dismiss()
            self.plain.dismiss()
        if n == 2:
            fills = sum(fill.plain.filling for fill in self.fills if fill.plain.thread == survivor)
            self.real.after_fork(survivor, fills)
            self.plain.after_fork(survivor, fills)
            self.fills = [fill if fill.plain.thread == survivor else Owner(0, thread=survivor) for fill in self.fills]

    # -- what both must agree on

    @invariant()
    def both_say_the_same(self) -> None:
        if not hasattr(self, "real"):
            return
        snapshot = self.real.snapshot()
        expected = self.plain.snapshot()
        assert {name: snapshot[name] for name in expected} == expected
        assert self.real.capacity() == self.plain.capacity
        assert self.real.is_closed() == self.plain.closed
        assert self.real.is_dismissed() == self.plain.dismissed
        assert [cast(Owner, ticket.owner).plain for ticket in self.real.queue()] == self.plain.line
        # Nobody waits while a spare could serve.
        assert not self.plain.servable or self.plain.free_spares < self.plain.servable[0].wanted
        assert len(self.plain.spares) <= self.plain.capacity
        assert all(map(self.real.is_spare, self.plain.spares))
        for owner in self.owners:
            assert owner.real.held() == owner.plain.held
            assert owner.real.state == owner.plain.state
            assert owner.real.permits == owner.plain.permits
            assert self.real.is_first(owner.real) == (self.plain.line[:1] == [owner.plain])
            assert bool(owner.woken) == (owner.plain in self.plain.to_wake)
            owner.woken = 0
        for user in self.users + self.viewed:
            assert all(self.real.is_out(element) == self.tracks for element in user.plain.held)
        assert all(fill.real.filling == fill.plain.filling for fill in self.fills)
        self.plain.to_wake.clear()


TestDecisions = AnyOrder.TestCase
TestDecisions.settings = settings(
    max_examples=200 if LONG else 60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


#: made, disposed, permits
FIGURES = [(made, disposed, permits) for made in range(4) for disposed in range(made + 1) for permits in range(3)]


def in_the_midst(made: int, disposed: int) -> tuple[Decisions, Owner]:
    """So many made, and so many of them disposed of; the others are on their way there in the transfer of the owner."""
    reserve = Decisions(False, False, False)
    owner = Owner(made)
    assert reserve.retarget(0, UNCHANGED, UNLIMITED, [None] * 9) == CHANGED
    assert reserve.permit(owner.real, made) == made
    owner.real.made.extend([object() for _ in range(made)])
    reserve.complete(owner.real, True)
    reserve.mark_surplus(owner.real)
    for _ in range(disposed):
        reserve.disposed_one(owner.real)
    return reserve, owner


@pytest.mark.parametrize("limit", range(7))
@pytest.mark.parametrize(("made", "disposed", "permits"), FIGURES)
def test_the_head_is_told_of_room_exactly_where_there_is_some(made: int, disposed: int, permits: int, limit: int) -> None:
    """Whatever happens that could have made room: a newcomer, a head that leaves, an answer, an element that goes."""
    reserve, owner = in_the_midst(made, disposed)
    existing = made - disposed
    asking, first, second = Owner(permits), Owner(1), Owner(1)
    assert reserve.permit(asking.real, permits) == permits
    assert reserve.retarget(UNCHANGED, UNCHANGED, limit, []) == CHANGED

    def is_told(owner: Owner) -> bool:
        woken, owner.woken = owner.woken, 0
        return bool(woken)

    assert reserve.join(first.real, []) == IN_LINE
    assert not is_told(first)
    assert reserve.join(second.real, []) == IN_LINE
    assert is_told(first) == (existing + permits < limit)
    assert reserve.withdraw(first.real)
    assert not is_told(first)
    assert is_told(second) == (existing + permits < limit)
    reserve.complete(asking.real, True)  # nothing came
    assert is_told(second) == (existing + permits >= limit > existing)
    if existing:
        reserve.disposed_one(owner.real)
        assert is_told(second) == (existing - 1 < limit)
    reserve.retarget(UNCHANGED, UNCHANGED, limit + 1, [])
    assert is_told(second) == (existing - bool(existing) < limit + 1)
    assert reserve.withdraw(second.real)
    assert not is_told(second)


@pytest.mark.parametrize("limit", range(7))
@pytest.mark.parametrize(("made", "disposed", "permits"), FIGURES)
def test_who_was_refused_is_told_of_room_that_came_before_it_lined_up(
    made: int, disposed: int, permits: int, limit: int
) -> None:
    reserve, _owner = in_the_midst(made, disposed)
    existing = made - disposed
    asking, refused = Owner(permits), Owner(1)
    assert reserve.permit(asking.real, permits) == permits
    assert reserve.retarget(UNCHANGED, UNCHANGED, existing, []) == CHANGED
    assert reserve.permit(refused.real, 1) == 0
    reserve.retarget(UNCHANGED, UNCHANGED, limit, [])
    assert reserve.join(refused.real, []) == IN_LINE
    assert refused.real.take_retry() == (existing + permits < limit)


def test_of_a_forks_threads_one_lives_on() -> None:
    """Those of the others neither wait nor watch any more, whatever the numbers by which threads are known."""
    reserve = Decisions(False, False, False)
    user = Owner(1)
    assert reserve.permit(user.real, 1) == 1
    user.real.made.append(object())
    reserve.complete(user.real, True)
    waiting = [Owner(1, 1000 * thread) for thread in (1, 2, 3)]
    watching = [Owner(1, 1000 * thread) for thread in (1, 2, 3)]
    for owner in waiting:
        reserve.join(owner.real, [])
    for owner in watching:
        assert not reserve.watch_drain(owner.real, True)
    reserve.after_fork(int("2000"))
    assert reserve.queue() == [waiting[1].real]
    assert [owner.real.state for owner in waiting] == [WITHDRAWN, WAITING, WITHDRAWN]
    reserve.mark_surplus(user.real)
    assert [owner.woken for owner in watching] == [0, 1, 0]


def test_numbers_are_compared_and_not_their_objects() -> None:
    """Python has one object for each small number, and not for a thousand."""
    reserve = Decisions(True, False, False)
    filling, taking, joining, waiting = Owner(3000), Owner(1000), Owner(1000), Owner(1000)
    assert reserve.retarget(3000, 3000, 3000, [None] * 3000) == GROWN
    assert reserve.retarget(UNCHANGED, UNCHANGED, UNCHANGED, [None] * 1000) == CHANGED
    assert reserve.capacity() == 3000
    assert reserve.permit_fill(filling.real, False) == 3000
    filling.real.made.extend([object() for _ in range(3000)])
    reserve.complete(filling.real, False)
    reserve.take_back(filling.real)
    assert reserve.take_spares(taking.real, True)
    reserve.check_out(taking.real)
    assert reserve.join(joining.real, []) == HAS_ALL
    assert reserve.take_spares(Ticket(1), True)
    assert reserve.join(waiting.real, []) == IN_LINE
    assert reserve.check_in(taking.real)
    reserve.take_back(taking.real)
    assert waiting.woken
    assert waiting.real.held()[-1] is not None
    assert reserve.snapshot()["spare"] == 999


def filled(number: int) -> Owner:
    """One that holds so many elements, of no pool yet."""
    owner = Owner(number)
    for _ in range(number):
        owner.real.hold(object())
    return owner


def test_what_a_receiver_wants_is_counted_and_is_no_object() -> None:
    """The same of what one call passes on to another, and of an answer of the source that lacks nothing."""
    reserve = Decisions(False, False, False)
    passing, receiving = filled(301), Owner(300)
    reserve.pass_on(passing.real, receiving.real)
    assert (reserve.held_by(passing.real), reserve.held_by(receiving.real)) == (1, 300)
    assert reserve.retarget(1, UNCHANGED, 300, [None] * 300) == GROWN
    allocating = Owner(300)
    assert reserve.permit(allocating.real, 300) == 300
    assert reserve.permit_fill(Owner(1).real, False) == 0
    assert reserve.snapshot()["starved"]
    allocating.real.made.extend([object() for _ in range(300)])
    reserve.complete(allocating.real, True)
    assert reserve.snapshot()["starved"]  # what the source has given is no reason to think that it gives nothing


def test_what_has_gone_from_a_transfer_is_held_no_more_and_what_is_there_is_not_missing() -> None:
    reserve, owner = in_the_midst(3, 1)
    assert reserve.held_by(owner.real) == 2
    assert (Owner(2).real.missing(), filled(2).real.missing()) == (2, 0)
    part = Ticket(3)
    part.hold(object())
    assert part.missing() == 2


def test_who_has_a_part_already_needs_only_the_rest_to_have_all_at_once() -> None:
    """Else it lined up, behind others or beyond what `max_waiting` allows, though nothing is lacking."""
    reserve = Decisions(False, False, False)
    first, second = Owner(2), Owner(1)
    assert reserve.retarget(0, 2, 2, [None] * 2) == CHANGED
    reserve.set_waiting_max(0)
    assert reserve.permit(first.real, 1) == reserve.permit(second.real, 1) == 1
    for owner in (first, second):
        owner.real.made.append(object())
        reserve.complete(owner.real, True)
    reserve.take_back(second.real)
    assert reserve.join(first.real, []) == HAS_ALL
    assert len(first.real.held()) == 2


def test_who_may_be_gone_is_told_of_each_spare_that_it_gathers() -> None:
    """It would gather for ever, and those behind it would wait. Where nothing has come it is not woken."""
    reserve = Decisions(False, False, False)
    users, lost, steady = [Owner(1) for _ in range(3)], Owner(3, may_be_gone=True), Owner(3)
    assert reserve.retarget(0, 3, 3, [None] * 3) == CHANGED
    for user in users:
        assert reserve.permit(user.real, 1) == 1
        user.real.made.append(object())
        reserve.complete(user.real, True)
    for ticket in (lost, steady):
        assert reserve.join(ticket.real, []) == IN_LINE
        lost.woken = ticket.woken = 0
        for spares, user in enumerate(users[:2], 1):
            reserve.take_back(user.real)
            assert (reserve.snapshot()["spare"], ticket.woken) == (spares, spares if ticket is lost else 0)
        assert reserve.withdraw(ticket.real)
        for user in users[:2]:
            user.real = Ticket(1)
            assert reserve.take_spares(user.real, True)


def test_what_an_alloc_asks_for_is_no_part_of_a_grow() -> None:
    reserve = Decisions(False, False, False)
    growing, allocating = Owner(3), Owner(2)
    assert reserve.retarget(3, UNCHANGED, UNLIMITED, [None] * 6) == GROWN
    assert reserve.permit_fill(growing.real, False) == 3
    assert reserve.permit(allocating.real, 2) == 2
    reserve.complete(allocating.real, True)  # nothing came
    assert (reserve.snapshot()["permits"], reserve.snapshot()["filling"]) == (3, 3)


@pytest.mark.parametrize(("bucket", "seconds"), [*enumerate(WAIT_BUCKETS), (0, 0.0), (22, 101.0), (22, 1e9)])
def test_a_wait_is_counted_up_to_its_bound(bucket: int, seconds: float) -> None:
    """As long as the bound itself is still below it."""
    reserve = Decisions(False, False, False)
    reserve.count_wait(SERVED, seconds)
    snapshot = reserve.snapshot()
    assert snapshot["wait_histogram"] == [int(number == bucket) for number in range(23)]
    assert (snapshot["wait_seconds_total"], snapshot["wait_seconds_max"]) == (seconds, seconds)
    reserve.count_wait(SERVED, seconds / 2)
    assert (reserve.snapshot()["wait_seconds_total"], reserve.snapshot()["wait_seconds_max"]) == (1.5 * seconds, seconds)


@pytest.mark.parametrize("tracks", [False, True])
@pytest.mark.parametrize("ending", ["take_back", "mark_surplus"])
@pytest.mark.parametrize("lingering", [(), (0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
def test_what_lingers_goes_out_again_and_is_counted_until_it_is_returned(
    lingering: tuple[int, ...], ending: str, tracks: bool
) -> None:
    """The others stay in the transfer, in their order; a drain is told when the last that lingered is back."""
    source = Buffers(64)
    reserve, first = Decisions(tracks, False, False), Owner(3)
    assert reserve.retarget(0, 3, UNLIMITED, [None] * 9) == CHANGED
    assert reserve.permit(first.real, 3) == 3
    first.real.made.extend([source.alloc() for _ in range(3)])
    reserve.complete(first.real, True)
    buffers = first.real.held()
    reserve.check_out(first.real)
    freeing, drain = Owner(3), Owner(0)
    for n, buffer in enumerate(buffers):
        buffer.lingers = n in lingering
        freeing.real.hold(buffer)
    assert reserve.check_in(freeing.real)
    reserve.linger(freeing.real)
    assert sorted(map(id, freeing.real.held())) == sorted(id(b) for n, b in enumerate(buffers) if n not in lingering)
    freeing.real.let_go()
    reserve.take_back(freeing.real)
    assert reserve.watch_drain(drain.real, True) != bool(lingering)
    for n in lingering:
        snapshot = reserve.snapshot()
        assert snapshot["lingering"] == snapshot["out"] == len(lingering) - lingering.index(n)
        assert reserve.is_out(buffers[n]) == tracks
        assert not drain.woken
        last = Owner(1)
        last.real.hold(buffers[n])
        last.real.lingering = 1
        assert reserve.check_in(last.real)
        getattr(reserve, ending)(last.real)
    snapshot = reserve.snapshot()
    assert (snapshot["lingering"], snapshot["out"]) == (0, 0)
    assert snapshot["disposing"] == (len(lingering) if ending == "mark_surplus" else 0)
    assert snapshot["spare"] == 3 - snapshot["disposing"]
    assert bool(drain.woken) == bool(lingering)
