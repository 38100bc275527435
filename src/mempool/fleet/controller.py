"""Controller: brings each node of a fleet to the latest revision, over a transport that may lose, delay and repeat.

Knows no engine, no clock and no thread but its transport's. Two loops: an order that is not answered is sent again after
0.25 s, 0.5 s, 1 s ..., which makes it fast; and what a node says in each heartbeat is compared with what it should
be, which makes it sure: also a node that has lost everything since it answered, or that was cut off for longer than
anybody tries, gets there. Neither is enough by itself.

All calls come from one thread, the engine's, but `answer`, which any thread may call; none blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from mempool.fleet.values import Answer, Order, Outcome, Report, Revisions, Standing, Targets

#: Seconds for which what a node has answered counts for more than a heartbeat that says less: it may be the older one.
ANSWER_COUNTS_SECONDS = 0.5
#: Seconds after each sending of an order, until it is sent again. Then the node's heartbeats are waited for.
RETRY_SECONDS = (0.25, 0.5, 1.0, 1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 16.0)
NEVER = math.inf


class Transport(Protocol):
    """How orders get to nodes. What comes back goes into `Controller.answered` and `heard`, or is lost."""

    def now(self) -> float:
        """Seconds, from an arbitrary beginning."""

    def send(self, node: str, order: Order) -> None:
        """Send an order on its way. Never blocks, never raises; it may be lost, late, or come twice."""


@dataclass(slots=True)
class _Sending:
    """One order to one node, until it is answered."""

    revision: int
    tries: int = 0
    sent_at: float = -NEVER
    again_at: float = NEVER


class Controller:
    """What a fleet's pools shall be, and what is known of each node.

    transport: how orders get to nodes.
    revisions: where revisions come from.
    changed: called without arguments whenever more is known; for whoever waits for an answer.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        revisions: Revisions | None = None,
        changed: Callable[[], object] = lambda: None,
    ) -> None:
        self.wanted: dict[str, Order] = {}
        """What each pool shall be, by name."""
        self.nodes: dict[str, dict[str, Standing]] = {}
        """What is known of each pool of each node."""
        self._transport = transport
        self._revisions = revisions or Revisions()
        self._changed = changed
        self._sending: dict[tuple[str, str], _Sending] = {}
        self._answered_at: dict[tuple[str, str], float] = {}

    # -- what is wanted

    def want(self, order: Order) -> int:
        """Have each node do this from now on, under a new revision, which is returned. The order's own is ignored."""
        revision = self._revisions.following()
        there = self.wanted.get(order.pool)
        born = revision if there is None or (there.removed and not order.removed) else there.born
        self.wanted[order.pool] = order = replace(order, revision=revision, born=born)
        for node, standings in self.nodes.items():
            before = standings.get(order.pool)
            standings[order.pool] = Standing(Outcome.PENDING, report=before.report if before else None)
            self._send(node, order)
        self._changed()
        return revision

    def retarget(self, pool: str, targets: Targets) -> int:
        """`want` other targets for a pool there is. Raises LookupError where there is none."""
        return self.want(replace(self.order_for(pool), targets=targets))

    def remove(self, pool: str) -> int:
        """Want that no node has this pool. Remembered, for nodes that are cut off now. Raises LookupError for none."""
        return self.want(replace(self.order_for(pool), removed=True, source=b"", options={}))

    def restore(self, orders: Iterable[Order]) -> None:
        """Want what was wanted before, under the revisions of then. For state that was kept outside."""
        for order in orders:
            self.wanted[order.pool] = order
            self._revisions.last = max(self._revisions.last, order.revision)
            for node in self.nodes:
                self._send(node, order)

    def order_for(self, pool: str) -> Order:
        """What a pool shall be. Raises LookupError where there is none of this name, or none any more."""
        names = [name for name, order in self.wanted.items() if not order.removed]
        if pool not in names:
            there_are = f"there are {', '.join(map(repr, names))}" if names else "there are none"
            raise LookupError(f"the fleet has no pool {pool!r}; {there_are}. Fleet.create makes one")
        return self.wanted[pool]

    def is_removed(self, pool: str) -> bool:
        """Whether there was such a pool, and nodes shall have none any more."""
        return pool in self.wanted and self.wanted[pool].removed

    # -- nodes come and go

    def joined(self, node: str, *, grace: float = 0.0) -> None:
        """A node is there, and may have nothing. grace: seconds in which it is expected to say by itself what it has."""
        self.nodes[node] = {
            pool: Standing(Outcome.APPLIED if order.removed else Outcome.PENDING) for pool, order in self.wanted.items()
        }
        for order in self.wanted.values():
            if order.removed:
                continue  # if it has one all the same, its heartbeat says so
            if grace:
                until = self._transport.now() + grace
                self._sending[node, order.pool] = _Sending(order.revision, sent_at=until, again_at=until)
            else:
                self._send(node, order)
        self._changed()

    def left(self, node: str) -> None:
        """A node is gone; what it had is gone with it."""
        self.nodes.pop(node, None)
        for pool in self.wanted:
            self._sending.pop((node, pool), None)
            self._answered_at.pop((node, pool), None)
        self._changed()

    # -- what nodes say

    def answered(self, node: str, pool: str, revision: int, standing: Standing) -> None:
        """A node has answered an order, or the engine has found that it cannot be reached."""
        standings = self.nodes.get(node)
        order = self.wanted.get(pool)
        if standings is None or order is None:
            return
        if standing.outcome in (Outcome.STALE, Outcome.CONFLICT) and revision == order.revision:
            seen = standing.report.revision if standing.report else revision
            if standing.outcome is Outcome.CONFLICT or seen > order.revision:
                self._outbid(order, seen)
            return
        if revision == order.revision:
            before = standings.get(pool)
            if standing.report is None and before is not None:
                standing = replace(standing, report=before.report)
            standings[pool] = standing
            if standing.outcome is not Outcome.UNREACHABLE:
                self._sending.pop((node, pool), None)
                self._answered_at[node, pool] = self._transport.now()
            self._changed()

    def heard(self, node: str, reports: Mapping[str, Report], details: Mapping[str, str] | None = None) -> None:
        """A node's heartbeat: compare what it has with what it shall have. details: why, where it says so."""
        standings = self.nodes.get(node)
        if standings is None:
            return
        for pool, order in list(self.wanted.items()):
            report = reports.get(pool)
            detail = (details or {}).get(pool, "")
            if report is None and order.removed:
                standings[pool] = Standing(Outcome.APPLIED)
                self._sending.pop((node, pool), None)
            elif report is None or max(report.revision, report.refused) < order.revision:
                self._is_behind(node, order, report, detail)
            elif report.revision > order.revision:
                self._outbid(order, report.revision)
            else:
                refused = report.revision < order.revision
                outcome = Outcome.REFUSED if refused else report.outcome
                before = standings.get(pool)
                kept = before.detail if before is not None and before.outcome is outcome else ""
                standings[pool] = Standing(outcome, detail or kept, report)
                self._sending.pop((node, pool), None)
        self._changed()

    def _is_behind(self, node: str, order: Order, report: Report | None, detail: str) -> None:
        now = self._transport.now()
        before = self.nodes[node].get(order.pool)
        if now - self._answered_at.get((node, order.pool), -NEVER) >= ANSWER_COUNTS_SECONDS:
            unreachable = before is not None and before.outcome is Outcome.UNREACHABLE
            outcome = Outcome.UNREACHABLE if unreachable else Outcome.PENDING
            self.nodes[node][order.pool] = Standing(outcome, detail, report)
        sending = self._sending.get((node, order.pool))
        # An order that may still be on its way is left alone. A node that speaks after that is there: the tries begin anew.
        if sending is None or now - sending.sent_at >= RETRY_SECONDS[0]:
            self._sending.pop((node, order.pool), None)
            self._send(node, order)

    def _outbid(self, order: Order, seen: int) -> None:
        """A node has what was never ordered, by a controller whose memory was lost: what is wanted now comes after it."""
        self._revisions.last = max(self._revisions.last, seen)
        self.want(order)

    # -- sending

    def _send(self, node: str, order: Order) -> None:
        sending = self._sending.get((node, order.pool))
        if sending is None or sending.revision != order.revision:
            sending = self._sending[node, order.pool] = _Sending(order.revision)
        wait = RETRY_SECONDS[sending.tries] if sending.tries < len(RETRY_SECONDS) else NEVER
        sending.tries += 1
        sending.sent_at = self._transport.now()
        sending.again_at = sending.sent_at + wait
        self._transport.send(node, order)

    def tick(self) -> float:
        """Send again what is due. Returns when to be called again, at the latest; `NEVER`: nothing is under way."""
        now = self._transport.now()
        for (node, pool), sending in list(self._sending.items()):
            if sending.again_at <= now:
                if node in self.nodes and pool in self.wanted:
                    self._send(node, self.wanted[pool])
                else:
                    del self._sending[node, pool]
        return min((sending.again_at for sending in self._sending.values()), default=NEVER)

    # -- what is known

    def answer(self, pool: str, revision: int) -> Answer:
        """What became of a revision. Where a later one is wanted by now: what became of that."""
        if pool not in self.wanted:
            self.order_for(pool)  # which raises: there is none
        nodes = {}
        for node, standings in list(self.nodes.items()):
            standing = self._standing(standings, pool)
            if standing.outcome is Outcome.PENDING and (node, pool) in self._sending:
                standing = replace(standing, outcome=Outcome.UNREACHABLE, detail="it has not answered yet")
            nodes[node] = standing
        return Answer(pool, revision, nodes)

    @staticmethod
    def _standing(standings: Mapping[str, Standing], pool: str) -> Standing:
        return standings.get(pool, Standing(Outcome.PENDING))

    def is_known(self, pool: str) -> bool:
        """Whether each node has said what became of the latest revision, or cannot be reached."""
        return all(self._standing(standings, pool).outcome is not Outcome.PENDING for standings in self.nodes.values())
