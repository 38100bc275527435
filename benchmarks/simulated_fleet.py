"""A fleet of a thousand nodes in one thread: the real controller and members, over a network that loses, delays and repeats.

Time is a number here, so a minute takes a fraction of a second, and a seed is a history that can be had again. A node that
crashes comes back with nothing, and the controller is not told of it: it finds out by the node's heartbeat.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from mempool.fleet import Controller, Member, Order, Revisions, Standing, Targets

POOL = "staging"
#: Seconds.
HEARTBEAT = 5.0
LATENCY = (0.001, 0.02)
LATE = (0.02, 0.6)  # one message in a hundred: it overtakes nothing, and is overtaken
DOWN = 0.5
GIVE_UP = 60.0


@dataclass(frozen=True)
class History:
    """What happened in one run."""

    seconds: float
    """From the last resize until all nodes that were up had it."""
    steps_back: int
    """How often a pool was resized to older targets than it had."""
    orders: int
    """Sent by the controller."""


class CountingPool:
    """A pool without elements. Its reserve is the number of the resize, so a step back shows."""

    def __init__(self) -> None:
        self.reserve: int = 0
        self.resizes: int = 0
        self.steps_back: int = 0

    def resize(self, reserve: int, *, keep: int, limit: int | None) -> None:
        """Count."""
        self.steps_back += reserve < self.reserve
        self.reserve = reserve
        self.resizes += 1

    def refill(self) -> None:
        """Nothing is ever unfunded here."""

    def guarantee(self) -> Any:
        """Held."""
        return SimpleNamespace(held=True, unfunded=0)

    def stats(self) -> Any:
        """What a report is made of."""
        return SimpleNamespace(
            resizes=self.resizes, closed=False, reserve=self.reserve, limit=None, spare=self.reserve, out=0, waiting=0
        )


class SimulatedNode:
    """One node: up or down, with a member while it is up."""

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.is_up: bool = True
        self.begin()

    def begin(self) -> None:
        """Without any memory of what was before."""
        self.pool: CountingPool = CountingPool()
        self.member: Member = Member(self.pool, now=lambda: 0.0)


class SimulatedFleet:
    """The network, its nodes and the controller. loss: of a message, 0 to 1. crashes: a minute."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 1000,
        loss: float = 0.1,
        crashes: float = 20,
        controller: Callable[..., Controller] = Controller,
    ) -> None:
        self.random: random.Random = random.Random(seed)
        self.loss: float = loss
        self.time: float = 0.0
        self.orders: int = 0
        self.steps_back: int = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.nodes: dict[str, SimulatedNode] = {
            f"node-{number:03}": SimulatedNode(f"node-{number:03}") for number in range(nodes)
        }
        self.controller: Controller = controller(self, revisions=Revisions(lambda: self.time))
        for node in self.nodes.values():
            self.controller.joined(node.name)
            self._at(self.random.uniform(0, HEARTBEAT), lambda node=node: self._beat(node))
        self._crash_every = 60 / crashes if crashes else float("inf")
        if crashes:
            self._at(self.random.expovariate(1 / self._crash_every), self._crash)

    # -- what the controller sees

    def now(self) -> float:
        """See Transport."""
        return self.time

    def send(self, node: str, order: Order) -> None:
        """See Transport."""
        self.orders += 1
        for _ in range(1 + (self.random.random() < 0.01)):  # one in a hundred comes twice
            self._travel(lambda: self._deliver(self.nodes[node], order))

    # -- the network

    def _at(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.time + seconds, next(self._numbers), event))

    def _travel(self, arrive: Callable[[], None]) -> None:
        if self.random.random() >= self.loss:
            self._at(self.random.uniform(*(LATE if self.random.random() < 0.01 else LATENCY)), arrive)

    def _deliver(self, node: SimulatedNode, order: Order) -> None:
        if node.is_up:
            before = node.pool.steps_back
            outcome = node.member.apply(order.revision, order.targets)
            self.steps_back += node.pool.steps_back - before
            standing = Standing(outcome, report=node.member.report())
            self._travel(lambda: self.controller.answered(node.name, POOL, order.revision, standing))

    def _beat(self, node: SimulatedNode) -> None:
        if node.is_up:
            reports = {POOL: node.member.report()}
            self._travel(lambda: self.controller.heard(node.name, reports))
        self._at(HEARTBEAT, lambda: self._beat(node))

    def _crash(self) -> None:
        node = self.random.choice(list(self.nodes.values()))
        if node.is_up:
            node.is_up = False
            self._at(DOWN, lambda: self._come_back(node))
        self._at(self.random.expovariate(1 / self._crash_every), self._crash)

    def _come_back(self, node: SimulatedNode) -> None:
        node.begin()
        node.is_up = True
        # To register is a connection, which is tried until it stands.
        self._at(self.random.uniform(*LATENCY), lambda: self.controller.heard(node.name, {}))

    # -- time

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass. Returns whether it ended because of `until`."""
        end = self.time + seconds
        next_tick = self.time
        while True:
            if until():
                return True
            event = self._events[0][0]
            if min(event, next_tick) > end:
                self.time = end
                return False
            if next_tick <= event:
                self.time = next_tick
                next_tick = max(self.controller.tick(), self.time + 0.01)
                next_tick = min(next_tick, self.time + 0.25)
            else:
                self.time, _, happen = heapq.heappop(self._events)
                happen()

    def is_converged(self) -> bool:
        """Whether each node that is up has the latest targets."""
        wanted = self.controller.wanted[POOL].targets.reserve
        return all(node.pool.reserve == wanted for node in self.nodes.values() if node.is_up)


def simulate(seed: int, *, resizes: int = 3, **options: Any) -> History:
    """One history: a few resizes, the next while the one before is still under way, then until all nodes have the last."""
    fleet = SimulatedFleet(seed, **options)
    fleet.controller.want(Order(POOL, 0, Targets(1)))
    fleet.run(10)
    for number in range(2, 2 + resizes):
        fleet.controller.retarget(POOL, Targets(number))
        if number <= resizes:
            fleet.run(fleet.random.uniform(0, 0.5))
    began = fleet.time
    # Looked at often, and not after each event: a thousand nodes are looked through.
    while not fleet.is_converged() and fleet.time < began + GIVE_UP:
        fleet.run(0.02)
    return History(fleet.time - began, fleet.steps_back, fleet.orders)
