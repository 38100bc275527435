"""Node: all pools of one node of a fleet, by name. Makes a pool when its first order comes, whatever memory there is."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from mempool.fleet.member import HeldUp, Member
from mempool.fleet.values import Order, Outcome, Report, Standing, Targets
from mempool.pool import Pool
from mempool.shared.listing import path_of

if TYPE_CHECKING:
    from mempool.base_pool import BasePool

#: Characters of an error that travel: a report is no log.
DETAIL_MAX = 300
#: Those that travel in each heartbeat, while a pool is not what was ordered.
REASON_MAX = 120


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
        self._held_up: dict[str, str] = {}  # what another process keeps from being done, and how
        self._removed: dict[str, int] = {}  # the revision by which a pool of this name went last
        self._leaving: dict[str, Member] = {}  # of those that went, elements are out
        self._changing: dict[str, threading.Lock] = {}  # by name: one pool comes or goes at a time

    def apply(self, order: Order) -> Standing:
        """Do what an order says; make the pool if there is none. Blocks while the source works; raises nothing of it."""
        try:
            return self._apply(order)
        except HeldUp as held_up:
            # Not refused: nothing is wrong with the order, which comes again until a heartbeat says that it is done.
            self._held_up[order.pool] = why = str(held_up)[:DETAIL_MAX]
            return Standing(Outcome.PENDING, why)

    def _apply(self, order: Order) -> Standing:
        with self._changing.setdefault(order.pool, threading.Lock()):
            there = self.members.get(order.pool)
            gone = self._removed.get(order.pool, 0)
            if order.removed:
                stale = gone > order.revision or (there is not None and there.revision > order.revision)
            else:
                stale = gone > order.born or (there is not None and there.born > order.born)
            if stale:
                seen = there.report() if there else Report(gone, Outcome.APPLIED)
                return Standing(Outcome.STALE, report=seen)
            if order.removed:
                said = self._remove(order.pool, order.revision)
                return self._is_without(order.pool, said)
            if there is not None and order.born > there.born:
                self._remove(order.pool, order.born)
            fault = order.targets.fault()
            member = self.members.get(order.pool)
            if member is None and fault is None:
                try:
                    member = self._make(order)
                except HeldUp:
                    raise
                except Exception as error:  # noqa: BLE001 - of somebody's source: the node lives, and says it
                    fault = f"{type(error).__name__}: {error}"[:DETAIL_MAX]
                    self._failed[order.pool] = (order.revision, fault)
        if member is None:
            return Standing(Outcome.REFUSED, fault or "")
        outcome = member.apply(order.revision, order.targets)
        report = member.report()
        return Standing(outcome, member.why(report)[:DETAIL_MAX], report)

    def _make(self, order: Order) -> Member:
        source = self._load(order.source)()
        if self.is_closed:
            raise RuntimeError(f"node {self.name!r} has ended")
        # Without a reserve, because making one could fail: the order's targets come as its resize.
        if order.options.get("shared"):
            from mempool.fleet.machine import SharedMember  # of Linux

            member: Member = SharedMember(order, source, now=self._now)
        else:
            member = Member(Pool(source, 0, name=order.pool, **order.options), now=self._now)
        member.born = order.born
        self.members[order.pool] = member
        self._failed.pop(order.pool, None)
        self._held_up.pop(order.pool, None)
        return member

    def _remove(self, pool: str, revision: int) -> str:
        """Close a pool and forget it. Returns what its source has raised then: the pool is closed all the same."""
        member = self.members.get(pool)
        out, said = 0, ""
        if member is not None:
            try:
                out = member.end()
            except HeldUp:
                raise
            except Exception as error:  # noqa: BLE001 - of somebody's source
                out, said = int(member.pool.stats().out), f"its source has raised {type(error).__name__}: {error}"
        self.members.pop(pool, None)
        self._removed[pool] = revision
        self._failed.pop(pool, None)
        self._held_up.pop(pool, None)
        if member is not None and out:
            self._leaving[pool] = member
        return said[:DETAIL_MAX]

    def _is_without(self, pool: str, said: str) -> Standing:
        out = self._still_out(pool)
        left = f"{out} of its elements {'is' if out == 1 else 'are'} out still, and disposed of when returned" if out else ""
        detail = "; ".join(part for part in (left, said) if part)
        return Standing(Outcome.APPLIED, detail, Report(self._removed[pool], Outcome.APPLIED, out=out))

    def _still_out(self, pool: str) -> int:
        member = self._leaving.get(pool)
        out = 0 if member is None else int(member.pool.stats().out)
        if not out:
            self._leaving.pop(pool, None)
        return out

    def get(self, name: str) -> BasePool[Any] | None:
        """The pool of this name; None: there is none."""
        member = self.members.get(name)
        return None if member is None else cast("BasePool[Any]", member.pool)

    def refill(self, name: str) -> Standing:
        """Try at once to make what is unfunded, also where the back-off would wait. Blocks, as `apply` does."""
        member = self.members.get(name)
        if member is None:
            return Standing(Outcome.REFUSED, f"node {self.name!r} has no pool {name!r}")
        member.hurry()
        return Standing(member.reconcile(), member.why()[:DETAIL_MAX], member.report())

    def due(self) -> list[Member]:
        """The members whose `reconcile` has something to do. Never blocks."""
        return [member for member in list(self.members.values()) if member.is_due()]

    def report(self) -> dict[str, list[int | str] | str]:
        """How each pool stands, for a heartbeat: its report; and why, where it is not what was ordered.

        Never blocks, and raises nothing: what goes wrong is what it says.
        """
        told: dict[str, list[int | str] | str] = {}
        for name, member in list(self.members.items()):
            try:
                report = member.report()
                told[name] = _with_reason(report, "" if report.outcome is Outcome.APPLIED else member.why(report))
            except Exception as error:  # noqa: BLE001 - an engine that swallows it would hide it
                told[name] = f"{type(error).__name__}: {error}"[:DETAIL_MAX]
        for name in list(self._leaving):
            if name not in self.members and (out := self._still_out(name)):
                told[name] = [*Report(self._removed[name], Outcome.APPLIED, out=out).as_wire()]
        for name, why in list(self._held_up.items()):
            told.setdefault(name, _with_reason(Report(0, Outcome.PENDING), why))
        for name, (revision, why) in list(self._failed.items()):
            told.setdefault(name, _with_reason(Report(0, Outcome.REFUSED, refused=revision), why))
        return told

    def why(self, name: str) -> str:
        """Why a pool is not what was ordered, as far as the node knows."""
        if name in self.members:
            return self.members[name].why()[:DETAIL_MAX]
        if name in self._removed and name not in self._failed:
            return "its removal from the fleet"
        return self._held_up.get(name) or self._failed.get(name, (0, ""))[1]

    def close(self) -> None:
        """Close the pools, all of them; elements that are out are disposed of when they are returned.

        Raises what their sources raised.
        """
        self.is_closed = True
        errors = []
        for member in list(self.members.values()):
            try:
                member.close()
            except Exception as error:  # noqa: BLE001 - of somebody's source: the others are closed first
                errors.append(error)
        if errors:
            raise errors[0]


def _with_reason(report: Report, why: str) -> list[int | str]:
    return [*report.as_wire(), why[:REASON_MAX]] if why else [*report.as_wire()]


def split_reason(wire: Any) -> tuple[Any, str]:
    """A report's numbers, and why it is not what was ordered."""
    if isinstance(wire, list | tuple) and wire and isinstance(wire[-1], str):
        return wire[:-1], wire[-1]
    return wire, ""


def check_options(pool: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a fleet's pool, checked. Raises TypeError or ValueError for what makes no sense there."""
    known = {"timeout", "max_waiting", "track", "patience", "offload", "shared", "slots"}
    if unknown := set(options) - known:
        raise TypeError(f"a pool of a fleet has no option {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
    timeout = options.get("timeout")
    if not isinstance(timeout, int | float) or not 0 <= timeout < float("inf"):
        raise ValueError(
            f"a pool of a fleet needs a finite timeout in seconds, not {timeout!r}: a task that waits for an element which "
            "another task's result keeps would wait for ever"
        )
    options = dict(options)
    shared, slots = options.pop("shared", None), options.pop("slots", None)
    return options | _check_sharing(pool, shared, slots, options)


def _check_sharing(pool: str, shared: Any, slots: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    if shared is None or shared is False:
        if slots is not None:
            raise TypeError(f"pool {pool!r} of the fleet: slots= is for a pool that is shared")
        return {}
    if options.get("offload"):
        raise TypeError(f"pool {pool!r} of the fleet: memory of a shared pool is made by who wants it; leave offload out")
    if slots is not None and (not isinstance(slots, int) or isinstance(slots, bool) or slots < 1):
        raise ValueError(f"pool {pool!r} of the fleet: slots is a whole number from 1 on, not {slots!r}")
    name = pool if shared is True else shared
    path_of(name)  # a name of a shared pool is a file's
    return {"shared": name, "slots": slots}


def check_targets(name: str, targets: Targets) -> Targets:
    """The targets. Raises ValueError, naming the pool, where none can have them."""
    if fault := targets.fault():
        raise ValueError(f"pool {name!r} of the fleet: {fault}")
    return targets
