"""The controller: what is lost is sent again, what a heartbeat lacks is sent, and what is said of it all."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from mempool.fleet import Controller, Order, Outcome, Report, Revisions, Standing, Targets
from mempool.fleet.controller import RETRY_SECONDS


class Network:
    """A transport that keeps what is sent, and a clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = 0.0
        self.sent: list[tuple[float, str, Order]] = []
        self.controller = Controller(self, revisions=Revisions(lambda: 1.0))

    def now(self) -> float:
        return self.time

    def send(self, node: str, order: Order) -> None:
        self.sent.append((self.time, node, order))

    def pass_time(self, seconds: float) -> None:
        end = self.time + seconds
        while (due := self.controller.tick()) <= end:
            self.time = max(due, self.time)
        self.time = end


def has(order: Order, outcome: Outcome = Outcome.APPLIED) -> Report:
    return Report(order.revision, outcome, reserve=order.targets.reserve)


@pytest.fixture
def network() -> Network:
    network = Network()
    for node in ("a", "b"):
        network.controller.joined(node)
    return network


def test_an_order_is_sent_again_until_it_is_answered(network: Network) -> None:
    """After 0.25 s, 0.5 s, 1 s ..., to those who have not answered; then the heartbeats are waited for."""
    controller = network.controller
    revision = controller.want(Order("p", 0, Targets(1)))
    controller.answered("a", "p", revision, Standing(Outcome.APPLIED))
    network.pass_time(1000)
    times = [time for time, node, _ in network.sent if node == "b"]
    assert [after - before for before, after in itertools.pairwise(times)] == list(RETRY_SECONDS[: len(times) - 1])
    assert len(times) == 1 + len(RETRY_SECONDS) - 1 + 1
    assert [node for _, node, _ in network.sent].count("a") == 1


def test_a_node_that_speaks_after_long_silence_is_sent_the_order_at_once(network: Network) -> None:
    """Stopped for an hour, it is not waited for until the next of the rare tries."""
    controller = network.controller
    controller.want(Order("p", 0, Targets(1)))
    network.pass_time(3600)
    network.sent.clear()
    controller.heard("a", {"p": Report(0, Outcome.APPLIED)})
    assert [(time, node) for time, node, _ in network.sent] == [(3600, "a")]
    network.pass_time(0.3)
    assert [node for _, node, _ in network.sent] == ["a", "a"], "the tries begin anew"


def test_a_heartbeat_that_lacks_the_revision_has_it_sent(network: Network) -> None:
    """Also where it was answered before: the node has lost what it had."""
    controller = network.controller
    revision = controller.want(Order("p", 0, Targets(1)))
    for node in ("a", "b"):
        controller.answered(node, "p", revision, Standing(Outcome.APPLIED))
    assert controller.answer("p", revision).is_applied
    network.pass_time(10)
    network.sent.clear()
    controller.heard("a", {})
    assert [node for _, node, _ in network.sent] == ["a"]
    assert not controller.answer("p", revision).is_applied


def test_a_node_that_speaks_and_lacks_the_revision_is_no_unreachable_one(network: Network) -> None:
    network.controller.want(Order("p", 0, Targets(1)))
    network.controller.heard("a", {})
    assert network.controller.nodes["a"]["p"].outcome is Outcome.PENDING


def test_an_older_heartbeat_does_not_unsay_an_answer(network: Network) -> None:
    """It was written before the order came, and read after the answer."""
    controller = network.controller
    revision = controller.want(Order("p", 0, Targets(1)))
    for node in ("a", "b"):
        controller.answered(node, "p", revision, Standing(Outcome.APPLIED))
    controller.heard("a", {"p": Report(0, Outcome.APPLIED)})
    assert controller.answer("p", revision).is_applied


def test_a_heartbeat_stands_for_an_answer_that_was_lost(network: Network) -> None:
    """What was deferred and what was refused as well; nobody is asked again."""
    controller = network.controller
    controller.want(Order("p", 0, Targets(1)))
    order = controller.wanted["p"]
    controller.heard("a", {"p": has(order, Outcome.DEFERRED)})
    controller.heard("b", {"p": Report(0, Outcome.APPLIED, refused=order.revision)})
    network.sent.clear()
    network.pass_time(100)
    assert network.sent == []
    assert str(controller.answer("p", order.revision)).endswith(": 1 deferred (a), 1 refused (b)")
    controller.heard("a", {"p": has(order)})
    assert controller.answer("p", order.revision).count(Outcome.APPLIED) == 1


def test_a_node_that_has_not_answered_is_told_from_one_that_is_at_work(network: Network) -> None:
    """The first is unreachable so far, the second pending."""
    controller = network.controller
    revision = controller.want(Order("p", 0, Targets(1)))
    controller.answered("a", "p", revision, Standing(Outcome.PENDING, "making"))
    answer = controller.answer("p", revision)
    assert {node: standing.outcome for node, standing in answer.nodes.items()} == {
        "a": Outcome.PENDING,
        "b": Outcome.UNREACHABLE,
    }
    assert not controller.is_known("p")


def test_an_answer_to_an_older_order_says_nothing_of_the_newer(network: Network) -> None:
    """The newer is sent until it is answered itself."""
    controller = network.controller
    first = controller.want(Order("p", 0, Targets(1)))
    second = controller.retarget("p", Targets(2))
    assert second > first
    for node in ("a", "b"):
        controller.answered(node, "p", first, Standing(Outcome.APPLIED))
    assert not controller.answer("p", second).is_applied


def test_a_controller_whose_memory_was_lost_outbids_what_it_finds(network: Network) -> None:
    """Nodes that have later revisions than a restored state come to what the state says."""
    controller = network.controller
    controller.restore([Order("p", 500, Targets(1))])
    controller.heard("a", {"p": Report(900, Outcome.APPLIED, reserve=7)})
    wanted = controller.wanted["p"]
    assert wanted.revision > 900
    assert wanted.targets == Targets(1)
    assert {node for _, node, order in network.sent if order == wanted} == {"a", "b"}
    controller.answered("a", "p", wanted.revision, Standing(Outcome.CONFLICT, report=has(replace(wanted))))
    assert controller.wanted["p"].revision > wanted.revision


def test_a_new_node_is_given_time_to_say_what_it_has(network: Network) -> None:
    """The engine has told it all when it registered; if it has not got it, it is told again."""
    controller = network.controller
    controller.want(Order("p", 0, Targets(1)))
    network.sent.clear()
    controller.joined("late", grace=2)
    assert network.sent == []
    network.pass_time(1)
    controller.heard("late", {})
    assert [node for _, node, _ in network.sent if node == "late"] == []
    network.pass_time(1)
    assert [node for _, node, _ in network.sent if node == "late"] == ["late"]
    controller.left("late")
    network.sent.clear()
    network.pass_time(100)
    assert [node for _, node, _ in network.sent if node == "late"] == []


def test_a_removed_pool_is_wanted_by_nobody_and_removed_where_it_turns_up(network: Network) -> None:
    """A node that was cut off meanwhile has it still: its heartbeat says so. One that has none is right as it is."""
    controller = network.controller
    made = controller.want(Order("p", 0, Targets(1), b"x"))
    order = controller.wanted["p"]
    for node in ("a", "b"):
        controller.answered(node, "p", made, Standing(Outcome.APPLIED, report=has(order)))
    revision = controller.remove("p")
    assert (controller.wanted["p"].born, controller.wanted["p"].source) == (made, b"")
    controller.answered("a", "p", revision, Standing(Outcome.APPLIED))
    assert not controller.is_known("p")
    with pytest.raises(LookupError, match=r"no pool 'p'; there are none"):
        controller.retarget("p", Targets(2))
    network.pass_time(3600)
    network.sent.clear()
    controller.joined("c")
    controller.heard("c", {})
    controller.heard("a", {})
    assert network.sent == []
    controller.heard("b", {"p": has(order)})
    assert [(node, sent.removed) for _, node, sent in network.sent] == [("b", True)]
    controller.heard("b", {})
    assert controller.answer("p", revision).is_applied
    again = controller.want(Order("p", 0, Targets(2), b"y"))
    assert controller.wanted["p"].born == again > revision


def test_a_pool_that_was_never_created_is_named(network: Network) -> None:
    """LookupError, which says what there is and what to do."""
    with pytest.raises(LookupError, match=r"no pool 'p'; there are none\. Fleet\.create makes one"):
        network.controller.retarget("p", Targets(1))
