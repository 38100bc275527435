"""The decisions of the reserve, one after another in any order, beside the same in plain lists (plain_reserve.py).

After each, both say the same numbers, hold the same elements in the same hands, and have told the same callers: nobody is
left to sleep, and nobody is woken in vain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plain_reserve import WAITING, WITHDRAWN, PlainHands, PlainReserve
from sweeps import LONG

from mempool._core import Reserve, Ticket
from mempool._core.books import UNLIMITED
from mempool._core.line import SERVED
from mempool._core.reserve import CHANGED, GROWN, HAS_ALL, IN_LINE, UNCHANGED, WAIT_BUCKETS

which = st.integers(0, 5)
few = st.integers(1, 4)
maybe = st.none() | st.integers(0, 6)


class Owner:
    """One caller: its real hands and its plain ones."""

    def __init__(self, wanted: int, thread: int = 1, can_be_lost: bool = False) -> None:
        self.woken = 0
        self.real = Ticket(wanted)
        self.real.set_waiter(self.wake, self, thread, can_be_lost)
        self.plain = PlainHands(wanted, thread=thread, can_be_lost=can_be_lost)

    def wake(self) -> None:
        self.woken += 1


def of_one(fits: Callable[[PlainHands], object], **drawn: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """A rule about one owner, outside the line, that it fits; it is not chosen when there is none."""

    def decorate(method: Callable[..., None]) -> Any:
        def step(self: Decisions, n: int, **values: object) -> None:
            fitting = self.fitting(fits)
            method(self, fitting[n % len(fitting)], **values)

        step.__name__ = method.__name__
        return precondition(lambda self: bool(self.fitting(fits)))(rule(n=which, **drawn)(step))

    return decorate


def allocates(plain: PlainHands) -> bool:
    return plain.missing > plain.claims and not plain.condemned and not plain.filling and plain.asks_for is None


class Decisions(RuleBasedStateMachine):
    """Both are told the same."""

    @initialize(
        aims=st.tuples(st.integers(0, 3), maybe, maybe),
        tracks=st.booleans(),
        there=st.tuples(st.integers(0, 3), st.integers(0, 3)),
        waiting=st.lists(st.tuples(few, st.integers(1, 2), st.booleans()), max_size=3),
        claimed=st.integers(0, 2),
    )
    def begin(self, aims: Any, tracks: bool, there: tuple[int, int], waiting: list[Any], claimed: int) -> None:
        """In the midst of things, as far as the limit allows. there: how many spares, and how many out."""
        spare, out = there
        self.real = Reserve(tracks, False, False)
        self.plain = PlainReserve()
        self.owners: list[Owner] = []
        self.users: list[Owner] = []
        self.fills = [Owner(0, thread=n % 2 + 1) for n in range(3)]
        self.tracks = tracks
        self.both_retarget(*aims, 20)
        for wanted in [1] * (spare + out):
            self.owners.append(Owner(wanted))
            self.ask(self.owners[-1], wanted)
        for owner in self.fitting(lambda plain: plain.claims):
            self.answer(owner, [True], for_caller=True)
            if out:
                self.use(owner)
                out -= 1
            else:
                self.come(owner, fit=True)
        for arguments in waiting:
            self.owners.append(Owner(*arguments))
            self.ask(self.owners[-1], 1)
            self.answer(self.owners[-1], [False], for_caller=True)
            self.line_up(self.owners[-1], 20)
        self.owners = [owner for owner in self.owners if owner.plain in self.plain.line or owner.plain.held]
        for _ in range(claimed):
            self.owners.append(Owner(2))
            self.ask(self.owners[-1], 1)

    def fitting(self, fits: Callable[[PlainHands], object]) -> list[Owner]:
        return [owner for owner in self.owners if owner.plain not in self.plain.line and fits(owner.plain)]

    @precondition(lambda self: len(self.owners) < 8)
    @rule(wanted=few, thread=st.integers(1, 2), can_be_lost=st.booleans())
    def comes(self, wanted: int, thread: int, can_be_lost: bool) -> None:
        self.owners.append(Owner(wanted, thread, can_be_lost))
        assert not self.owners[-1].real.are_owners()

    # -- allocating

    @of_one(lambda plain: allocates(plain) and not plain.claims, from_reserve=st.booleans())
    def take(self, owner: Owner, from_reserve: bool) -> None:
        assert self.real.take(owner.real, from_reserve) == self.plain.take(owner.plain, from_reserve)

    def ask(self, owner: Owner, elements: int) -> None:
        elements = min(elements, owner.plain.missing - owner.plain.claims)
        assert self.real.claim(owner.real, elements) == self.plain.claim(owner.plain, elements)

    @of_one(allocates, elements=few)
    def claim(self, owner: Owner, elements: int) -> None:
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
        if owner.plain.claims:
            self.owners.append(owner)

    def owner_of(self, plain: PlainHands) -> Owner:
        return next(owner for owner in self.owners if owner.plain is plain)

    @rule(wanted=few, beyond_out=st.booleans(), n=which)
    def claim_to_fill(self, wanted: int, beyond_out: bool, n: int) -> None:
        owner, fill = Owner(wanted), self.fills[n % 3]
        answer = self.plain.claim_to_fill(owner.plain, beyond_out, fill.plain)
        assert self.real.claim_to_fill(owner.real, beyond_out, fill.real) == answer
        if answer:
            self.owners.append(owner)

    @rule(n=which, begins=st.booleans())
    def fill(self, n: int, begins: bool) -> None:
        """A refill begins, or a fill ends by an error."""
        what, fill = "begin_fill" if begins else "end_fill", self.fills[n % 3]
        getattr(self.real, what)(fill.real)
        getattr(self.plain, what)(fill.plain)

    def answer(self, owner: Owner, answers: list[bool], *, for_caller: bool) -> None:
        arrivals = [object() if answer else None for answer in answers[: owner.plain.claims]]
        owner.real.arrivals.extend(arrivals)
        self.real.arrive(owner.real, for_caller)
        self.plain.arrive(owner.plain, arrivals, for_caller)

    @of_one(lambda plain: plain.claims, answers=st.lists(st.booleans(), min_size=4, max_size=4), for_caller=st.booleans())
    def arrive(self, owner: Owner, answers: list[bool], for_caller: bool) -> None:
        self.answer(owner, answers, for_caller=for_caller)

    def use(self, owner: Owner) -> None:
        self.real.sign_out(owner.real)
        self.owners.remove(owner)
        self.users.append(owner)

    @of_one(lambda plain: plain.held and not plain.condemned and not plain.claims)
    def goes_out(self, owner: Owner) -> None:
        """The caller has all it wants, and is a user from now on."""
        self.use(owner)

    # -- freeing

    @precondition(lambda self: self.users)
    @rule(n=which, again=st.booleans())
    def comes_home(self, n: int, again: bool) -> None:
        """Or nearly, and stays its user's. And so does what never was one's."""
        if self.tracks or not self.plain.out:
            stranger = Owner(1)
            stranger.real.hold(object())
            assert not self.real.sign_in(stranger.real)
            assert not stranger.real.are_owners()
        user = self.users.pop(n % len(self.users))
        owner = Owner(len(user.plain.held))
        for element in user.real.held():
            owner.real.hold(element)
        owner.plain.held = list(user.plain.held)
        assert self.real.sign_in(owner.real)
        assert owner.real.are_owners()
        if again:
            self.real.put_out(owner.real)
            assert not owner.real.are_owners()
            self.users.append(user)
        else:
            self.owners.append(owner)

    def come(self, owner: Owner, *, fit: bool) -> None:
        decision = "give" if fit else "condemn"
        getattr(self.real, decision)(owner.real)
        getattr(self.plain, decision)(owner.plain)

    @of_one(lambda plain: plain.held and not plain.claims, unfit=st.integers(0, 4))
    def give(self, owner: Owner, unfit: int) -> None:
        self.come(owner, fit=unfit != 1)

    @precondition(lambda self: len(self.plain.spares) > self.plain.reserve or self.plain.closed)
    @rule(wanted=few)
    def surplus(self, wanted: int) -> None:
        owner = Owner(wanted)
        answer = self.plain.surplus(owner.plain)
        assert self.real.surplus(owner.real) == answer
        if answer:
            self.owners.append(owner)

    @of_one(lambda plain: plain.condemned, of_fill=which)
    def dispose_of(self, owner: Owner, of_fill: int) -> None:
        fill = self.fills[of_fill % 3]
        owner.real.entered.append(None)
        was_there = bool(owner.plain.held)
        self.real.dispose_of(owner.real, fill.real)
        self.plain.dispose_of(owner.plain, fill.plain)
        assert bool(owner.real.entered) != was_there
        if not owner.plain.held:
            self.owners.remove(owner)

    # -- the line

    def line_up(self, owner: Owner, places: int) -> None:
        was_refused = owner.plain.refused and not self.plain.line
        owner.real.take_prod()
        answer = self.plain.join(owner.plain, places)
        assert self.real.join(owner.real, [None] * places) == answer
        if answer == IN_LINE and owner.plain not in self.plain.told:
            # Room under the limit that came after it was refused, and before it lined up, is news, too.
            assert owner.real.take_prod() == (was_refused and self.plain.room > 0)
            assert not owner.real.take_prod()

    @of_one(lambda plain: allocates(plain) and not plain.claims and plain.state == WAITING, places=st.integers(20, 30))
    def join(self, owner: Owner, places: int) -> None:
        self.line_up(owner, places)

    @precondition(lambda self: self.owners)
    @rule(n=which, leaves=st.booleans())
    def withdraw(self, n: int, leaves: bool) -> None:
        owner = self.owners[n % len(self.owners)]
        answer = self.plain.withdraw(owner.plain)
        if leaves:
            self.real.leave(owner.real)
        else:
            assert self.real.withdraw(owner.real) == answer

    # -- resizing and ending

    def both_retarget(self, reserve: int | None, keep: int | None, limit: int | None, places: int, n: int = 0) -> None:
        fill = self.fills[n]
        first, second, third = (UNCHANGED if target is None else target for target in (reserve, keep, limit))
        try:
            answer = self.plain.retarget(reserve, keep, limit, places, fill.plain)
        except ValueError:
            with pytest.raises(ValueError, match="fewer places than spares to be kept"):
                self.real.retarget(first, second, third, [None] * places, fill.real)
        else:
            assert self.real.retarget(first, second, third, [None] * places, fill.real) == answer

    @rule(reserve=maybe, keep=maybe, limit=maybe, places=st.integers(0, 25), tickets=st.integers(0, 6))
    def retarget(self, reserve: int | None, keep: int | None, limit: int | None, places: int, tickets: int) -> None:
        self.both_retarget(reserve, keep, limit, places, tickets % 3)
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
        figures = self.real.figures()
        expected = self.plain.figures()
        assert {name: figures[name] for name in expected} == expected
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
            assert owner.real.claims == owner.plain.claims
            assert self.real.is_first(owner.real) == (self.plain.line[:1] == [owner.plain])
            assert bool(owner.woken) == (owner.plain in self.plain.told)
            owner.woken = 0
        for user in self.users:
            assert all(self.real.is_out(element) == self.tracks for element in user.plain.held)
        assert all(fill.real.filling == fill.plain.filling for fill in self.fills)
        self.plain.told.clear()


TestDecisions = Decisions.TestCase
TestDecisions.settings = settings(
    max_examples=200 if LONG else 60, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


#: made, disposed, claimed
FIGURES = [(made, disposed, claimed) for made in range(4) for disposed in range(made + 1) for claimed in range(3)]


def in_the_midst(made: int, disposed: int) -> tuple[Reserve, Owner]:
    """So many made, and so many of them disposed of; the others are on their way there in the hands of the owner."""
    reserve = Reserve(False, False, False)
    owner = Owner(made)
    assert reserve.retarget(0, UNCHANGED, UNLIMITED, [None] * 9) == CHANGED
    assert reserve.claim(owner.real, made) == made
    owner.real.arrivals.extend([object() for _ in range(made)])
    reserve.arrive(owner.real, True)
    reserve.condemn(owner.real)
    for _ in range(disposed):
        reserve.dispose_of(owner.real)
    return reserve, owner


@pytest.mark.parametrize("limit", range(7))
@pytest.mark.parametrize(("made", "disposed", "claimed"), FIGURES)
def test_the_head_is_told_of_room_exactly_where_there_is_some(made: int, disposed: int, claimed: int, limit: int) -> None:
    """Whatever happens that could have made room: a newcomer, a head that leaves, an answer, an element that goes."""
    reserve, owner = in_the_midst(made, disposed)
    existing = made - disposed
    asking, first, second = Owner(claimed), Owner(1), Owner(1)
    assert reserve.claim(asking.real, claimed) == claimed
    assert reserve.retarget(UNCHANGED, UNCHANGED, limit, []) == CHANGED

    def is_told(owner: Owner) -> bool:
        woken, owner.woken = owner.woken, 0
        return bool(woken)

    assert reserve.join(first.real, []) == IN_LINE
    assert not is_told(first)
    assert reserve.join(second.real, []) == IN_LINE
    assert is_told(first) == (existing + claimed < limit)
    assert reserve.withdraw(first.real)
    assert not is_told(first)
    assert is_told(second) == (existing + claimed < limit)
    reserve.arrive(asking.real, True)  # nothing came
    assert is_told(second) == (existing + claimed >= limit > existing)
    if existing:
        reserve.dispose_of(owner.real)
        assert is_told(second) == (existing - 1 < limit)
    reserve.retarget(UNCHANGED, UNCHANGED, limit + 1, [])
    assert is_told(second) == (existing - bool(existing) < limit + 1)
    assert reserve.withdraw(second.real)
    assert not is_told(second)


@pytest.mark.parametrize("limit", range(7))
@pytest.mark.parametrize(("made", "disposed", "claimed"), FIGURES)
def test_who_was_refused_is_told_of_room_that_came_before_it_lined_up(
    made: int, disposed: int, claimed: int, limit: int
) -> None:
    reserve, _owner = in_the_midst(made, disposed)
    existing = made - disposed
    asking, refused = Owner(claimed), Owner(1)
    assert reserve.claim(asking.real, claimed) == claimed
    assert reserve.retarget(UNCHANGED, UNCHANGED, existing, []) == CHANGED
    assert reserve.claim(refused.real, 1) == 0
    reserve.retarget(UNCHANGED, UNCHANGED, limit, [])
    assert reserve.join(refused.real, []) == IN_LINE
    assert refused.real.take_prod() == (existing + claimed < limit)


def test_of_a_forks_threads_one_lives_on() -> None:
    """Those of the others neither wait nor watch any more, whatever the numbers by which threads are known."""
    reserve = Reserve(False, False, False)
    user = Owner(1)
    assert reserve.claim(user.real, 1) == 1
    user.real.arrivals.append(object())
    reserve.arrive(user.real, True)
    waiting = [Owner(1, 1000 * thread) for thread in (1, 2, 3)]
    watching = [Owner(1, 1000 * thread) for thread in (1, 2, 3)]
    for owner in waiting:
        reserve.join(owner.real, [])
    for owner in watching:
        assert not reserve.watch_drain(owner.real, True)
    reserve.after_fork(int("2000"))
    assert reserve.queue() == [waiting[1].real]
    assert [owner.real.state for owner in waiting] == [WITHDRAWN, WAITING, WITHDRAWN]
    reserve.condemn(user.real)
    assert [owner.woken for owner in watching] == [0, 1, 0]


def test_numbers_are_compared_and_not_their_objects() -> None:
    """Python has one object for each small number, and not for a thousand."""
    reserve = Reserve(True, False, False)
    filling, taking, joining, waiting = Owner(3000), Owner(1000), Owner(1000), Owner(1000)
    assert reserve.retarget(3000, 3000, 3000, [None] * 3000) == GROWN
    assert reserve.retarget(UNCHANGED, UNCHANGED, UNCHANGED, [None] * 1000) == CHANGED
    assert reserve.capacity() == 3000
    assert reserve.claim_to_fill(filling.real, False) == 3000
    filling.real.arrivals.extend([object() for _ in range(3000)])
    reserve.arrive(filling.real, False)
    reserve.give(filling.real)
    assert reserve.take(taking.real, True)
    reserve.sign_out(taking.real)
    assert reserve.join(joining.real, []) == HAS_ALL
    assert reserve.take(Ticket(1), True)
    assert reserve.join(waiting.real, []) == IN_LINE
    assert reserve.sign_in(taking.real)
    reserve.give(taking.real)
    assert waiting.woken
    assert waiting.real.held()[-1] is not None
    assert reserve.figures()["spare"] == 999


def test_what_an_alloc_asks_for_is_no_part_of_a_grow() -> None:
    reserve = Reserve(False, False, False)
    growing, allocating = Owner(3), Owner(2)
    assert reserve.retarget(3, UNCHANGED, UNLIMITED, [None] * 6) == GROWN
    assert reserve.claim_to_fill(growing.real, False) == 3
    assert reserve.claim(allocating.real, 2) == 2
    reserve.arrive(allocating.real, True)  # nothing came
    assert (reserve.figures()["claimed"], reserve.figures()["filling"]) == (3, 3)


@pytest.mark.parametrize(("bucket", "seconds"), [*enumerate(WAIT_BUCKETS), (0, 0.0), (7, 101.0), (7, 1e9)])
def test_a_wait_is_counted_up_to_its_bound(bucket: int, seconds: float) -> None:
    """As long as the bound itself is still below it."""
    reserve = Reserve(False, False, False)
    reserve.count_wait(SERVED, seconds)
    figures = reserve.figures()
    assert figures["wait_histogram"] == [int(number == bucket) for number in range(8)]
    assert (figures["wait_seconds_total"], figures["wait_seconds_max"]) == (seconds, seconds)
    reserve.count_wait(SERVED, seconds / 2)
    assert (reserve.figures()["wait_seconds_total"], reserve.figures()["wait_seconds_max"]) == (1.5 * seconds, seconds)
