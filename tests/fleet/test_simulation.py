"""A thousand nodes, a network that loses a tenth, twenty crashes a minute: the fleet converges, and needs both its loops."""

from __future__ import annotations

import os
import statistics

import pytest

from mempool.fleet import Controller
from mempool.fleet.controller import NEVER

pytestmark = pytest.mark.long_on_both

simulated = pytest.importorskip("mempool.benchmarks.simulated_fleet", reason="the benchmarks are not installed")

#: `make long` takes all of them.
SEEDS = 200 if os.environ.get("MEMPOOL_LONG", "0") == "1" else 12


class WithoutRetry(Controller):
    """Sends once; compares with each heartbeat."""

    def tick(self) -> float:
        return NEVER


class WithoutHeartbeat(Controller):
    """Sends again and again; does not look at heartbeats."""

    def heard(self, *_args: object, **_more: object) -> None:
        """Not heard."""


def is_good(controller: type[Controller], seeds: int) -> bool:
    """What is demanded: of the seeds, the median within 2 s, the worst within 5, and no step back."""
    histories = [simulated.simulate(seed, controller=controller) for seed in range(seeds)]
    seconds = [history.seconds for history in histories]
    print(
        f"{controller.__name__}: {seeds} seeds, median {statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s, "
        f"{sum(history.steps_back for history in histories)} steps back"
    )
    return statistics.median(seconds) <= 2 and max(seconds) <= 5 and all(history.steps_back == 0 for history in histories)


@pytest.mark.timeout(500)
def test_a_thousand_nodes_come_to_the_latest_revision_in_seconds() -> None:
    """At 10 % loss: median 2 s, worst 5 s, and no node goes a step back."""
    assert is_good(Controller, SEEDS)


@pytest.mark.sample(2)
@pytest.mark.parametrize("mutant", [WithoutRetry, WithoutHeartbeat])
def test_neither_loop_is_enough_by_itself(mutant: type[Controller]) -> None:
    """Without tries it takes far longer; without heartbeats a node that has lost its state stays behind for ever."""
    assert not is_good(mutant, 6)
