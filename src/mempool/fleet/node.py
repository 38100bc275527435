"""Node: all pools of one node of a fleet, by name. Makes a pool when its first order comes, whatever memory there is."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from mempool.fleet.member import Member
from mempool.fleet.values import Order, Outcome, Report, Standing, Targets
from mempool.pool import Pool

#: Characters of an error that travel: a report is no log.
DETAIL_MAX = 300


class Node:
    """The pools of one node.

    name: for messages.
    load: makes out of an order's bytes what makes the source.
    now: seconds, for the back-off of `reconcile`.

    `apply` and `reconcile` block while a source works: an engine calls them in threads.
    """

    def __init__(
        self, name: str, *, load: Callable[[bytes], Any] = pickle.loads, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.name: str = name
        """For messages."""
        self.members: dict[str, Member] = {}
        """By the pools' names."""
        self.is_closed: bool = False
        """Whether the node has ended; it takes no order any more."""
        self._load = load
        self._now = now
        self._failed: dict[str, tuple[int, str]] = {}  # what no pool could be made of: its revision, and why
        self._making: dict[str, threading.Lock] = {}

    def apply(self, order: Order) -> Standing:
        """Do what an order says; make the pool if there is none. Blocks while the source works; raises nothing of it."""
        fault = order.targets.fault()
        member = self.members.get(order.pool)
        if member is None and fault is None:
            try:
                member = self._make(order)
            except Exception as error:  # noqa: BLE001 - of somebody's source: the node lives, and says it
                fault = f"{type(error).__name__}: {error}"[:DETAIL_MAX]
                self._failed[order.pool] = (order.revision, fault)
        if member is None:
            return Standing(Outcome.REFUSED, fault or "")
        outcome = member.apply(order.revision, order.targets)
        return Standing(outcome, member.detail[:DETAIL_MAX], member.report())

    def _make(self, order: Order) -> Member:
        with self._making.setdefault(order.pool, threading.Lock()):
            if (member := self.members.get(order.pool)) is None:
                source = self._load(order.source)()
                if self.is_closed:
                    raise RuntimeError(f"node {self.name!r} has ended")
                # Without a reserve, because making one could fail: the order's targets come as its resize.
                pool: Pool[Any] = Pool(source, 0, name=order.pool, **order.options)
                member = self.members[order.pool] = Member(pool, now=self._now)
                self._failed.pop(order.pool, None)
            return member

    def get(self, name: str) -> Pool[Any] | None:
        """The pool of this name; None: there is none."""
        member = self.members.get(name)
        return None if member is None else cast("Pool[Any]", member.pool)

    def refill(self, name: str) -> Standing:
        """Try at once to make what is unfunded, also where the back-off would wait. Blocks, as `apply` does."""
        member = self.members.get(name)
        if member is None:
            return Standing(Outcome.REFUSED, f"node {self.name!r} has no pool {name!r}")
        member.hurry()
        return Standing(member.reconcile(), member.detail[:DETAIL_MAX], member.report())

    def due(self) -> list[Member]:
        """The members whose `reconcile` has something to do. Never blocks."""
        return [member for member in list(self.members.values()) if member.is_due()]

    def report(self) -> dict[str, list[int] | str]:
        """How each pool stands, for a heartbeat. Never blocks, and raises nothing: what goes wrong is what it says."""
        told: dict[str, list[int] | str] = {}
        for name, member in list(self.members.items()):
            try:
                told[name] = member.report().as_wire()
            except Exception as error:  # noqa: BLE001 - an engine that swallows it would hide it
                told[name] = f"{type(error).__name__}: {error}"[:DETAIL_MAX]
        for name, (revision, _) in list(self._failed.items()):
            told.setdefault(name, Report(0, Outcome.REFUSED, refused=revision).as_wire())
        return told

    def why(self, name: str) -> str:
        """Why a pool is not what was ordered, as far as the node knows."""
        if name in self.members:
            return self.members[name].detail[:DETAIL_MAX]
        return self._failed.get(name, (0, ""))[1]

    def close(self) -> None:
        """Close the pools; elements that are out are disposed of when they are returned."""
        self.is_closed = True
        for member in list(self.members.values()):
            pool: Any = member.pool
            pool.close()


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a fleet's pool, checked. Raises TypeError or ValueError for what makes no sense there."""
    known = {"timeout", "max_waiting", "track", "patience", "offload"}
    if unknown := set(options) - known:
        raise TypeError(f"a pool of a fleet has no option {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
    timeout = options.get("timeout")
    if not isinstance(timeout, int | float) or not 0 <= timeout < float("inf"):
        raise ValueError(
            f"a pool of a fleet needs a finite timeout in seconds, not {timeout!r}: a task that waits for an element which "
            "another task's result keeps would wait for ever"
        )
    return dict(options)


def check_targets(name: str, targets: Targets) -> Targets:
    """The targets. Raises ValueError, naming the pool, where none can have them."""
    if fault := targets.fault():
        raise ValueError(f"pool {name!r} of the fleet: {fault}")
    return targets
