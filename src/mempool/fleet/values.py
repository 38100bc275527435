"""The values that a fleet's controller and its members exchange. Frozen, and as plain lists on the wire.

Order       what a node is told: a pool, a revision, its targets, and all that is needed to make the pool
Report      what a node says of one of its pools
Answer      what became of a revision, node by node
"""

from __future__ import annotations

import enum
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


class Outcome(enum.IntEnum):
    """What became of a revision on a node. The numbers travel; they stay what they are."""

    APPLIED = 0
    """The pool has these targets, and its reserve is covered."""
    DEFERRED = 1
    """The pool has these targets; memory lacks for a part of the reserve, which is tried again."""
    PENDING = 2
    """The node has the order and is making or disposing of elements; or nothing is known of it yet."""
    STALE = 3
    """The node has a later revision already, and has ignored this one."""
    CONFLICT = 4
    """The node has other targets under the same revision, and has kept them."""
    REFUSED = 5
    """The node cannot: its detail says why. Nothing has changed there."""
    UNREACHABLE = 6
    """No answer. That does not mean that it was not applied: a node that was stopped applies it when it goes on."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Targets:
    """What a pool of each node shall be. Always all of it: an order that gets lost leaves no gap in the next."""

    reserve: int
    """How many elements each node promises."""
    keep: int | None = None
    """How many spares stay warm; None: twice the reserve."""
    limit: int | None = None
    """How many may exist at once on a node; None: as many as the source makes."""

    def fault(self) -> str | None:
        """Why no pool can have these targets; None: it can."""
        for what, number in (("reserve", self.reserve), ("keep", self.keep), ("limit", self.limit)):
            if number is None and what != "reserve":
                continue
            if not isinstance(number, int) or isinstance(number, bool):
                return f"{what} is a whole number, not {number!r}"
            if number < 0:
                return f"{what} cannot be negative, {number} is"
        if self.keep is not None and self.keep < self.reserve:
            return f"keep {self.keep} is below the reserve of {self.reserve}; keep at least the reserve"
        if self.limit is not None and self.limit < self.reserve:
            return f"a limit of {self.limit} cannot hold the reserve of {self.reserve}; raise the limit or lower the reserve"
        return None

    @property
    def keep_number(self) -> int:
        """`keep`, worked out."""
        return 2 * self.reserve if self.keep is None else self.keep


@dataclass(frozen=True, slots=True)
class Order:
    """What a node is told of one pool. Whole, so that a node that has just begun needs no other."""

    pool: str
    """The pool's name."""
    revision: int
    """Later orders have greater ones."""
    targets: Targets
    """What the pool shall be."""
    source: bytes = field(default=b"", repr=False)
    """What makes the source, pickled. Only the node loads it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `Pool`: timeout, track, patience, max_waiting, offload. Of one that a machine's nodes share: shared, slots."""
    born: int = 0
    """The first revision of this pool. Another one of the same name, after it was removed, has a later one."""
    removed: bool = False
    """Whether nodes shall have no such pool any more: then the rest but the revision is of no account."""

    def as_wire(self) -> dict[str, Any]:
        """As numbers, strings, bytes, lists and dicts."""
        t = self.targets
        wire = {
            "pool": self.pool,
            "revision": self.revision,
            "targets": [t.reserve, t.keep, t.limit],
            "source": self.source,
            "options": dict(self.options),
            "born": self.born,
        }
        if self.removed:
            wire["removed"] = True
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Order:
        """What `as_wire` wrote."""
        reserve, keep, limit = wire["targets"]
        targets = Targets(reserve, keep, limit)
        born, removed = wire.get("born", 0), bool(wire.get("removed", False))
        return cls(wire["pool"], wire["revision"], targets, wire["source"], wire["options"], born, removed)


@dataclass(frozen=True, slots=True)
class Report:
    """What a node says of one of its pools, in each heartbeat: some 25 bytes beside the pool's name."""

    revision: int
    """The latest that it has taken; 0: none."""
    outcome: Outcome
    """What became of it."""
    refused: int = 0
    """The latest revision that it could not take; 0: none."""
    reserve: int = 0
    """How many elements the pool promises now."""
    limit: int | None = None
    """How many may exist at once now."""
    spare: int = 0
    """In the pool's hands."""
    out: int = 0
    """In users' hands."""
    waiting: int = 0
    """Callers that wait."""
    unfunded: int = 0
    """The part of the reserve that not even every return would fill."""
    shared: int = 0
    """Which pool it is, where nodes of one machine share one: all of these figures are that pool's. 0: the node's own."""

    def as_wire(self) -> list[int]:
        """As a short list of whole numbers; zeros at its end are left out."""
        wire = [
            *(self.revision, int(self.outcome), self.reserve, 0 if self.limit is None else self.limit + 1),
            *(self.spare, self.out, self.waiting, self.unfunded, self.refused, self.shared),
        ]
        while len(wire) > 2 and not wire[-1]:
            wire.pop()
        return wire

    @classmethod
    def from_wire(cls, wire: Sequence[int]) -> Report:
        """What `as_wire` wrote. Raises ValueError for what it did not."""
        if not 2 <= len(wire) <= 10 or not all(isinstance(number, int) and number >= 0 for number in wire):
            raise ValueError(f"{wire!r} is no report of a pool")
        figures = (*wire, *[0] * (10 - len(wire)))
        revision, outcome, reserve, limit, spare, out, waiting, unfunded, refused, shared = figures
        return cls(
            revision,
            Outcome(outcome),
            refused,
            reserve,
            None if limit == 0 else limit - 1,
            spare,
            out,
            waiting,
            unfunded,
            shared,
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one pool on one node."""

    outcome: Outcome
    """What became of the latest revision that was asked about."""
    detail: str = ""
    """Why, for a person."""
    report: Report | None = None
    """The node's last report; None: there was none."""

    def as_wire(self) -> list[Any]:
        """As a short list."""
        return [int(self.outcome), self.detail, None if self.report is None else self.report.as_wire()]

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> Standing:
        """What `as_wire` wrote. Raises ValueError for what it did not."""
        outcome, detail, report = wire
        return cls(Outcome(outcome), detail, None if report is None else Report.from_wire(report))


@dataclass(frozen=True)
class Answer:
    """What became of a revision, on each node that there was when it was asked."""

    pool: str
    """The pool's name."""
    revision: int
    """Which one."""
    nodes: Mapping[str, Standing]
    """By the nodes' names."""
    ask: Callable[[float], Any] | None = field(default=None, repr=False, compare=False)
    """Waits and asks again; see `wait`."""

    def names(self, *outcomes: Outcome) -> list[str]:
        """The nodes with one of these outcomes, by name."""
        return sorted((n for n, standing in self.nodes.items() if standing.outcome in outcomes), key=_natural)

    def count(self, *outcomes: Outcome) -> int:
        """How many nodes have one of these outcomes."""
        return sum(standing.outcome in outcomes for standing in self.nodes.values())

    def reasons(self) -> dict[str, str]:
        """Why, by the nodes' names, of those that are not there and say it."""
        return {
            name: self.nodes[name].detail
            for name in self.names(*Outcome)
            if self.nodes[name].outcome is not Outcome.APPLIED and self.nodes[name].detail
        }

    @property
    def is_applied(self) -> bool:
        """Whether each node has the revision, or a later one, and its reserve is covered."""
        return self.count(Outcome.APPLIED) == len(self.nodes)

    def wait(self, timeout: float = 60) -> Any:
        """Wait until each node is there, and return the answer of then. timeout: seconds.

        Raises TimeoutError, which says who is not; at once, where a node refuses.
        """
        if self.ask is None:
            raise TypeError(f"the answer about pool {self.pool!r} comes from no fleet that could be asked again")
        return self.ask(timeout)

    def now(self) -> Any:
        """What has become of it by now; does not wait."""
        if self.ask is None:
            raise TypeError(f"the answer about pool {self.pool!r} comes from no fleet that could be asked again")
        return self.ask(-1.0)

    def __str__(self) -> str:
        parts = []
        for outcome in Outcome:
            names = self.names(outcome)
            if names:
                said = f" ({shortened(names)})" if outcome is not Outcome.APPLIED else ""
                parts.append(f"{len(names)} {outcome}{said}")
        return f"revision {self.revision}: {', '.join(parts) or 'no node'}"


def _natural(name: str) -> list[tuple[int, str]]:
    """Orders farm-9 before farm-10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def shortened(names: Sequence[str], most: int = 8) -> str:
    """Names for a person: what they have in common is said once, `farm-07, -11, -30`."""
    common = names[0]
    for name in names[1:]:
        while not name.startswith(common):
            common = common[:-1]
    cut = max(common.rfind(separator) for separator in "-:/._")
    shown = [names[0], *(name[cut:] if cut > 0 else name for name in names[1:most])]
    rest = len(names) - most
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")


class Revisions:
    """Where revisions come from: each is later than all before, also after a restart that has lost them."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self.last: int = 0

    def following(self, seen: int = 0) -> int:
        """The next: the microseconds since 1970, or one more than the last, or than one that was seen elsewhere."""
        self.last = max(self.last + 1, seen + 1, int(self._now() * 1_000_000))
        return self.last
