"""A member of a fleet takes revisions in any order, any number of times, and never goes back."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mempool import Objects, Pool
from mempool.fleet import Member, Node, Order, Outcome, Report, Targets
from mempool.fleet.node import split_reason
from mempool.fleet.values import Revisions, shortened
from mempool.testing import ScriptedSource, Step, wait_until

ENDED = {Outcome.APPLIED, Outcome.STALE, Outcome.REFUSED}


def targets() -> st.SearchStrategy[Targets]:
    """Those that can be had, and those that cannot."""
    few = st.integers(0, 6)
    return st.builds(Targets, few, keep=st.none() | few, limit=st.none() | few)


def member() -> Member:
    return Member(Pool(Objects(object), 0))


def state(of: Member) -> tuple[object, ...]:
    pool: Any = of.pool
    return of.revision, of.targets, of.refused, pool.reserve, pool.keep, pool.limit, pool.spare


def test_the_core_knows_no_engine() -> None:
    """`mempool.fleet` imports no Dask; nor does `mempool`."""
    told = (
        "import sys, mempool, mempool.fleet; print(sorted({'dask', 'distributed', 'tornado', 'click'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


@pytest.mark.long_on_both
@given(st.lists(targets(), min_size=1, max_size=5), st.data())
def test_the_order_and_number_of_orders_make_no_difference(wanted: list[Targets], data: st.DataObject) -> None:
    """Idempotent and commutative: whatever comes twice, or late, a member ends where the plain history ends."""
    orders = list(enumerate(wanted, 1))
    plain, shuffled = member(), member()
    for revision, target in orders:
        plain.apply(revision, target)
    again = data.draw(st.lists(st.sampled_from(orders), max_size=5))
    for revision, target in data.draw(st.permutations([*orders, *again])):
        assert shuffled.apply(revision, target) in ENDED
    assert state(shuffled)[:6] == state(plain)[:6]
    assert shuffled.outcome() is plain.outcome() is Outcome.APPLIED


@pytest.mark.long_on_both
@given(st.lists(st.tuples(st.integers(1, 6), targets()), max_size=12))
def test_a_member_never_goes_back(orders: list[tuple[int, Targets]]) -> None:
    """Whatever comes, conflicts, too, the revision does not fall, and what it stands for is what the pool has."""
    one = member()
    pool: Any = one.pool
    last = 0
    for revision, target in orders:
        before = state(one)
        outcome = one.apply(revision, target)
        assert one.revision >= last
        last = one.revision
        if outcome is not Outcome.APPLIED:
            assert state(one)[:2] == before[:2]
            assert state(one)[3:] == before[3:]
        if one.targets is not None:
            assert (pool.reserve, pool.keep, pool.limit) == (one.targets.reserve, one.targets.keep_number, one.targets.limit)


def test_other_targets_under_the_same_revision_are_a_conflict() -> None:
    """Two controllers that know nothing of each other: the first wins here, and the second is told."""
    one = member()
    assert one.apply(7, Targets(2)) is Outcome.APPLIED
    assert one.apply(7, Targets(3)) is Outcome.CONFLICT
    assert one.apply(7, Targets(2)) is Outcome.APPLIED
    assert one.apply(6, Targets(3)) is Outcome.STALE
    assert one.report().reserve == 2


def test_what_no_pool_can_be_is_refused_and_what_comes_late_is_still_taken() -> None:
    """A refused revision is remembered for the controller, and stands in nobody's way."""
    one = member()
    assert one.apply(9, Targets(4, limit=3)) is Outcome.REFUSED
    assert "a limit of 3 cannot hold the reserve of 4" in one.detail
    assert one.apply(8, Targets(1)) is Outcome.APPLIED
    assert one.report() == Report(8, Outcome.APPLIED, 9, 1, None, 1, 0, 0, 0)


def test_what_comes_late_and_no_pool_can_be_is_stale() -> None:
    """Its fault says nothing of what the member stands for by now."""
    one = member()
    assert one.apply(1000, Targets(1)) is Outcome.APPLIED
    assert one.apply(999, Targets(4, limit=3)) is Outcome.STALE
    assert (one.revision, one.detail) == (1000, "")


def test_what_another_node_has_recorded_is_taken_only_where_it_is_later() -> None:
    """A resize may have waited for the record of the machine while the member went on."""
    one = member()
    assert one.apply(9, Targets(1)) is Outcome.APPLIED
    assert [one._take(revision, Targets(2)) for revision in (8, 9, 10)] == [False, False, True]
    assert (one.revision, one.targets) == (10, Targets(2))


def test_a_reserve_without_memory_is_deferred_and_tried_again_later_and_later() -> None:
    """`reconcile` makes what it can, is not due at once after it failed, and says when it is there."""
    source: ScriptedSource[Any] = ScriptedSource()
    source.otherwise = Step.FAILS
    now = [0.0]
    one = Member(Pool(source, 0), now=lambda: now[0])
    assert one.apply(1, Targets(3)) is Outcome.DEFERRED
    assert not one.is_due()
    tried = []
    while len(tried) < 5:
        now[0] += 0.25
        if one.is_due():
            tried.append(now[0])
            assert one.reconcile() is Outcome.DEFERRED
    assert [round(after - before, 2) for before, after in itertools.pairwise([0.0, *tried])] == [0.5, 1, 2, 4, 8]
    source.otherwise = Step.WORKS
    one.hurry()
    assert one.reconcile() is Outcome.APPLIED
    assert not one.is_due()
    assert one.report().spare == 3


def test_a_resize_overtakes_a_slow_fill_and_none_is_taken_back_by_it() -> None:
    """The newer targets are there while the older ones' elements are still being made, and stay when those are done."""
    source: ScriptedSource[Any] = ScriptedSource()
    pool = Pool(source, 0)
    one = Member(pool)
    source.otherwise = Step.SLOW
    said: list[Outcome] = []
    slow = threading.Thread(target=lambda: said.append(one.apply(1, Targets(5, limit=5))))
    slow.start()
    source.wait_until_held(1)
    assert one.outcome() is Outcome.PENDING
    source.otherwise = Step.WORKS
    assert one.apply(2, Targets(1, limit=2)) in {Outcome.APPLIED, Outcome.DEFERRED}
    assert (pool.reserve, pool.limit) == (1, 2)
    source.open()
    slow.join(60)
    assert said == [Outcome.STALE]
    assert (one.revision, pool.reserve, pool.limit) == (2, 1, 2)
    wait_until(lambda: one.outcome() is Outcome.APPLIED)


def test_a_source_that_is_broken_is_no_exception_of_the_member() -> None:
    """It is deferred, with what the source said; and made again when it is due."""
    works = [False]

    def make() -> object:
        if not works[0]:
            raise OSError(5, "the disk is gone")
        return object()

    one = Member(Pool(Objects(make), 0), now=lambda: 0.0)
    assert one.apply(1, Targets(2)) is Outcome.DEFERRED
    assert "the disk is gone" in one.detail
    works[0] = True
    one.hurry()
    assert one.reconcile() is Outcome.APPLIED
    assert one.detail == ""


class CannotDispose:
    """A source whose elements cannot be given back."""

    def alloc(self) -> bytearray:
        return bytearray()

    def free(self, _element: bytearray) -> None:
        raise OSError("cannot be unmapped")


def test_a_source_that_raises_at_the_end_keeps_no_pool_from_going() -> None:
    """A removal is applied and says it, a pool that is made anew is there, and the end of a node closes the others, too."""
    node = Node("n", load=lambda make: make)  # type: ignore[arg-type,return-value]
    node.apply(order("frames", 1, Targets(2), CannotDispose))
    said = node.apply(order("frames", 2, Targets(0), b"", removed=True))
    assert (said.outcome, said.detail) == (Outcome.APPLIED, "its source has raised OSError: cannot be unmapped")
    assert node.get("frames") is None
    node.apply(order("frames", 3, Targets(2), CannotDispose, born=3))
    assert node.apply(order("frames", 4, Targets(1), CannotDispose, born=4)).outcome is Outcome.APPLIED
    node.apply(order("others", 1, Targets(2), lambda: Objects(object)))
    pools = [node.get("frames"), node.get("others")]
    with pytest.raises(OSError, match="cannot be unmapped"):
        node.close()
    assert [pool is not None and pool.closed for pool in pools] == [True, True]


def test_an_order_looks_at_the_pool_as_few_times_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes as long as a small resize, and fifty workers of a process are resized at once."""
    node = Node("n", load=lambda make: make)  # type: ignore[arg-type,return-value]
    node.apply(order("frames", 1, Targets(1), lambda: Objects(object)))
    looks = []
    for look in ("stats", "guarantee"):
        made = getattr(Pool, look)
        monkeypatch.setattr(Pool, look, lambda pool, look=look, made=made: (looks.append(look), made(pool))[1])
    assert node.apply(order("frames", 2, Targets(2), b"")).outcome is Outcome.APPLIED
    assert looks == ["guarantee"], "the one that the resize returns"
    looks.clear()
    node.report()
    assert looks == []
    node.close()


def test_a_pool_that_was_closed_by_hand_refuses() -> None:
    """It says so, and does not raise."""
    one = member()
    one.apply(1, Targets(1))
    pool: Any = one.pool
    pool.close()
    assert one.apply(2, Targets(2)) is Outcome.REFUSED
    assert "closed" in one.detail
    assert one.report().outcome is Outcome.REFUSED


# -- a node


def order(pool: str, revision: int, target: Targets, make: object, born: int = 1, *, removed: bool = False) -> Order:
    """The source travels as it is: these nodes load nothing."""
    return Order(pool, revision, target, make, {}, born, removed)  # type: ignore[arg-type]


def test_a_node_makes_a_pool_of_what_memory_there_is() -> None:
    """Where the reserve cannot be made, there is a pool all the same, and the node lives."""
    source: ScriptedSource[Any] = ScriptedSource(Step.WORKS)
    source.otherwise = Step.FAILS
    node = Node("n", load=lambda make: make)  # type: ignore[arg-type,return-value]
    standing = node.apply(order("frames", 1, Targets(3), lambda: source))
    assert standing.outcome is Outcome.DEFERRED
    assert standing.report is not None
    assert (standing.report.spare, standing.report.unfunded) == (1, 2)
    pool = node.get("frames")
    assert pool is not None
    with pool.lease():
        pass
    node.close()
    assert pool.closed


def test_a_source_that_cannot_be_loaded_is_refused_until_a_later_order() -> None:
    """The node says why, in its report the revision, and makes the pool when the next order can be loaded."""
    node = Node("n", load=lambda make: make)  # type: ignore[arg-type,return-value]

    def broken() -> object:
        raise ModuleNotFoundError("No module named 'cameras'")

    standing = node.apply(order("frames", 1, Targets(1), broken))
    assert standing.outcome is Outcome.REFUSED
    assert "No module named 'cameras'" in standing.detail
    told, why = split_reason(node.report()["frames"])
    assert Report.from_wire(told) == Report(0, Outcome.REFUSED, 1)
    assert "cameras" in why
    assert "cameras" in node.why("frames")
    assert node.apply(order("frames", 2, Targets(1), lambda: Objects(object))).outcome is Outcome.APPLIED
    node.close()


def test_a_report_that_fails_is_a_field_of_what_is_told() -> None:
    """One broken pool does not hide the others."""
    node = Node("n", load=lambda make: make)  # type: ignore[arg-type,return-value]
    for name in ("good", "bad"):
        node.apply(order(name, 1, Targets(1), lambda: Objects(object)))

    def broken() -> object:
        raise ZeroDivisionError("of the report")

    node.members["bad"].report = broken  # type: ignore[method-assign,assignment]
    told = node.report()
    assert told["bad"] == "ZeroDivisionError: of the report"
    assert isinstance(told["good"], list)
    node.close()


def test_a_report_says_why_a_pool_is_not_what_was_ordered() -> None:
    """As long as it is not, in a few words; then no longer."""
    source: ScriptedSource[Any] = ScriptedSource(Step.WORKS)
    source.otherwise = Step.FAILS
    node = Node("n", load=lambda make: make)  # type: ignore[arg-type,return-value]
    assert node.apply(order("frames", 1, Targets(3), lambda: source)).detail == "memory lacks for 2 of the reserve of 3"
    told, why = split_reason(node.report()["frames"])
    assert Report.from_wire(told).outcome is Outcome.DEFERRED
    assert why == "memory lacks for 2 of the reserve of 3"
    source.otherwise = Step.WORKS
    assert node.refill("frames").outcome is Outcome.APPLIED
    assert split_reason(node.report()["frames"])[1] == ""
    node.close()


# -- a pool is removed


class Made:
    """An element that says of which source it is."""

    def __init__(self, which: str) -> None:
        self.which = which


def sources(which: str) -> object:
    return lambda: Objects(lambda: Made(which))


#: A pool is made, resized, removed, made anew from another source, and resized.
HISTORY = [
    order("frames", 1, Targets(1), sources("old")),
    order("frames", 2, Targets(3), sources("old")),
    order("frames", 3, Targets(0), b"", removed=True),
    order("frames", 4, Targets(2), sources("new"), 4),
    order("frames", 5, Targets(4), sources("new"), 4),
]


@pytest.mark.long_on_both
@pytest.mark.parametrize("last", range(1, 6))
@pytest.mark.parametrize("shuffled", [*itertools.permutations(range(4)), *itertools.permutations(range(5))][::5])
def test_a_pool_that_is_removed_and_made_anew_ends_the_same_in_any_order(shuffled: Any, last: int) -> None:
    """Whatever comes late of the removed one changes nothing, comes back in no form, and is stale."""
    node = Node("n", load=lambda make: make)  # type: ignore[arg-type,return-value]
    came = [HISTORY[index] for index in shuffled if index < last]
    for one in [*came, *came[:2]]:
        node.apply(one)
    end = max(came, key=lambda one: one.revision, default=None)
    pool: Any = node.get("frames")
    if end is None or end.removed:
        assert pool is None
    else:
        assert pool.reserve == end.targets.reserve
        with pool.lease() as element:
            assert element.which == ("old" if end.born == 1 else "new")
    node.close()


def test_a_pool_is_removed_while_elements_of_it_are_out() -> None:
    """They are good until they are returned, and told of until then; who waits is told; the name is free."""
    node = Node("n", load=lambda make: make)  # type: ignore[arg-type,return-value]
    node.apply(HISTORY[0])
    pool: Any = node.get("frames")
    element = pool.alloc()
    said = node.apply(HISTORY[2])
    assert (said.outcome, said.detail) == (
        Outcome.APPLIED,
        "1 of its elements is out still, and disposed of when returned",
    )
    assert pool.closed
    assert node.get("frames") is None
    assert node.why("frames") == "its removal from the fleet"
    told, _ = split_reason(node.report()["frames"])
    assert Report.from_wire(told) == Report(3, Outcome.APPLIED, out=1)
    pool.free(element)
    assert node.report() == {}
    assert node.apply(HISTORY[2]).outcome is Outcome.APPLIED
    assert node.apply(HISTORY[1]).outcome is Outcome.STALE
    assert node.apply(HISTORY[3]).outcome is Outcome.APPLIED
    node.close()


# -- values


@given(st.builds(Report, *[st.integers(0, 2**40)], st.sampled_from(Outcome), *[st.integers(0, 2**20)] * 2))
def test_a_report_survives_the_wire(report: Report) -> None:
    """As does a limit of 0, which is not None."""
    assert Report.from_wire(report.as_wire()) == report
    limited = Report(1, Outcome.APPLIED, limit=0)
    assert Report.from_wire(limited.as_wire()) == limited


@pytest.mark.parametrize("wire", [[], [1], [1, 99], [1, 0, "x"], [-1, 0], [1] * 11])
def test_what_is_no_report_is_refused(wire: list[Any]) -> None:
    """ValueError, and no half-read figures."""
    with pytest.raises(ValueError, match=r"no report|Outcome"):
        Report.from_wire(wire)


def test_revisions_rise_when_the_clock_does_not() -> None:
    """Microseconds since 1970, or one more than the last, or than one that was seen."""
    now = [100.0]
    revisions = Revisions(lambda: now[0])
    assert revisions.following() == 100_000_000
    now[0] = 50.0
    assert revisions.following() == 100_000_001
    assert revisions.following(seen=200_000_000) == 200_000_001


def test_names_of_nodes_are_shortened_for_a_person() -> None:
    """What they have in common is said once."""
    assert shortened(["farm-07", "farm-11", "farm-30"]) == "farm-07, -11, -30"
    assert shortened(["tcp://10.0.0.1:5", "tcp://10.0.0.1:6"]) == "tcp://10.0.0.1:5, :6"
    assert shortened(["0", "1"]) == "0, 1"
    assert shortened(["alone"]) == "alone"
    assert shortened([f"n-{number}" for number in range(20)]).endswith("-7 and 12 more")
