"""Member: one pool of a node, as a fleet sees it. Takes revisions in any order, any number of times, and never goes back.

What may take long, a source that makes elements, runs in the caller's thread: `apply` and `reconcile` block, `report` and
`is_due` never do. An engine calls the first two in threads, as many at once as it likes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from mempool.errors import PoolClosed
from mempool.fleet.values import Outcome, Report, Targets
from mempool.stats import unfunded_of

#: Seconds before what is unfunded is tried again: at first, and at most.
RETRY_FIRST, RETRY_MAX = 0.5, 30.0
#: Seconds between two looks at a resize that has begun and has not yet reached its moment.
LOOK_SECONDS = 0.0005


class HeldUp(Exception):
    """What is to be changed is held by another process, which does not go on. The call is to be made again later."""


class PoolLike(Protocol):
    """What a member needs of its pool."""

    def resize(self, reserve: int, *, keep: int, limit: int | None) -> Any:
        """See Pool."""

    def refill(self) -> Any:
        """See Pool."""

    def guarantee(self) -> Any:
        """See Pool."""

    def stats(self) -> Any:
        """See Pool."""

    def close(self) -> Any:
        """See Pool."""


class _Call:
    """One `resize` that is under way."""

    __slots__ = ("is_over", "resizes_before", "revision")

    def __init__(self, revision: int, resizes_before: int) -> None:
        self.revision = revision
        self.resizes_before = resizes_before
        self.is_over = False


class Member:
    """One pool of a node.

    pool: the pool.
    now: seconds, for the back-off of `reconcile`.

    The outcome depends on the set of orders that came and on nothing else: of any order of any number of them, the
    pool has the targets of the greatest revision that could be taken.
    """

    def __init__(self, pool: PoolLike, *, now: Callable[[], float] = time.monotonic) -> None:
        self.pool: PoolLike = pool
        """The pool."""
        self.revision: int = 0
        """The latest that was taken; 0: none."""
        self.targets: Targets | None = None
        """What came with it."""
        self.shared: int = 0
        """Which pool it is, where several nodes have one: see Report."""
        self.born: int = 0
        """The revision that made the pool: see Order."""
        self.refused: int = 0
        """The latest revision that could not be taken; 0: none."""
        self.detail: str = ""
        """Why the promise is not covered, as the source or the pool said it."""
        self._now = now
        # Held by whoever takes a revision, until the resize before has reached its moment: so moments come in the order
        # of revisions, while fills, which may take minutes, run side by side.
        self._turn = threading.Lock()
        self._taking = threading.Lock()  # of revision and targets, for the one step in which they change
        self._call: _Call | None = None
        self._unfinished = False  # the resize of the latest revision was cut short; it is made again
        self._is_reconciling = False
        self._delay = RETRY_FIRST
        self._due_at = 0.0

    def apply(self, revision: int, targets: Targets) -> Outcome:
        """Take a revision. Blocks while the source makes elements; raises nothing of the pool's or the source's."""
        fault = targets.fault()
        with self._turn:
            if fault is not None and revision != self.revision:
                self.refused = max(self.refused, revision)
                if revision > self.revision:
                    self.detail = fault
                    return Outcome.REFUSED
            if revision < self.revision:
                return Outcome.STALE
            if revision == self.revision:
                return self.outcome() if targets == self.targets else Outcome.CONFLICT
            self._await_moment()
            before, call = self._call, _Call(revision, self._look()[0].resizes)
            self._call = call
            if not self._take(revision, targets):
                self._call = before
                return Outcome.STALE
            self._delay, self._due_at = RETRY_FIRST, 0.0
        outcome = self._resize(call, targets)
        if outcome is Outcome.DEFERRED:
            self._put_off()
        return outcome if self.revision == revision else Outcome.STALE

    def _take(self, revision: int, targets: Targets) -> bool:
        """Stand for a revision from now on, unless it is not the latest: then False."""
        with self._taking:
            is_latest = revision > self.revision
            if is_latest:
                self.revision, self.targets = revision, targets
            return is_latest

    def _await_moment(self) -> None:
        before = self._call
        while before is not None and not before.is_over and self._look()[0].resizes == before.resizes_before:
            time.sleep(LOOK_SECONDS)

    def _resize(self, call: _Call, targets: Targets) -> Outcome:
        detail, cut_short, outcome = "", False, Outcome.DEFERRED
        try:
            if self._set_targets(call.revision, targets).held:
                outcome = Outcome.APPLIED
        except PoolClosed as closed:
            detail, outcome = str(closed), Outcome.REFUSED
        except HeldUp as held_up:
            detail, cut_short = str(held_up), True
        except MemoryError as lacking:
            detail, cut_short = str(lacking) or "memory ran out", True
        except Exception as error:  # noqa: BLE001 - the source's own, which the report passes on
            detail, cut_short = f"{type(error).__name__}: {error}", True
        finally:
            call.is_over = True
        if call is not self._call:
            return Outcome.STALE  # a later one has come meanwhile
        self.detail, self._unfinished = detail, cut_short
        return outcome

    def _set_targets(self, revision: int, targets: Targets) -> Any:
        """Resize the pool, and return its Guarantee of then. Blocks while the source makes elements."""
        return self.pool.resize(targets.reserve, keep=targets.keep_number, limit=targets.limit)

    def _put_off(self) -> None:
        self._due_at = self._now() + self._delay
        self._delay = min(2 * self._delay, RETRY_MAX)

    def outcome(self) -> Outcome:
        """What has become of the latest revision, now."""
        return self.report().outcome

    def _outcome_of(self, closed: bool, held: bool) -> Outcome:
        if self._call is not None and not self._call.is_over:
            return Outcome.PENDING
        if closed:
            return Outcome.REFUSED
        return Outcome.DEFERRED if self._unfinished or not held else Outcome.APPLIED

    def is_due(self) -> bool:
        """Whether `reconcile` has something to do."""
        return not self._is_reconciling and self._now() >= self._due_at and self.outcome() is Outcome.DEFERRED

    def hurry(self) -> None:
        """Forget the back-off: what is unfunded is due now."""
        self._delay, self._due_at = RETRY_FIRST, 0.0

    def reconcile(self) -> Outcome:
        """Try once more to make what is unfunded. Blocks, as `apply` does; the next is due later than this was."""
        with self._turn:
            targets = self.targets
            if targets is None or not self.is_due():
                return self.outcome()
            self._put_off()
            self._is_reconciling = True
            if self._unfinished:
                self._await_moment()
                call = self._call = _Call(self.revision, self._look()[0].resizes)
            else:
                call = None
        try:
            outcome = self.outcome() if call is None else self._resize(call, targets)
            if outcome is Outcome.DEFERRED:
                self.pool.refill()
                outcome = self.outcome()
        except Exception as error:  # noqa: BLE001 - the source's own, which the report passes on
            self.detail = f"{type(error).__name__}: {error}"
            outcome = self.outcome()
        finally:
            self._is_reconciling = False
        if outcome is Outcome.APPLIED:
            self.detail, self._delay = "", RETRY_FIRST
        return outcome

    def why(self, report: Report | None = None) -> str:
        """Why the latest revision is not covered; "": it is, or nobody knows. report: of now, where somebody has it."""
        report = report or self.report()
        if self.detail or report.outcome is not Outcome.DEFERRED:
            return self.detail
        return f"memory lacks for {report.unfunded} of the reserve of {report.reserve}"

    def close(self) -> None:
        """Close the pool: the node ends. Elements that are out are disposed of when they are returned."""
        self.pool.close()

    def end(self) -> int:
        """Close the pool: it is removed from the fleet. Returns how many elements are out. Raises HeldUp: it is open."""
        self.pool.close()
        return int(self.pool.stats().out)

    def is_first(self) -> bool:
        """Whether this node counts the pool's figures, of those that have the same pool."""
        return True

    def report(self) -> Report:
        """How it stands. Never blocks."""
        revision = self.revision
        stats, unfunded = self._look()
        return Report(
            revision,
            self._outcome_of(stats.closed, unfunded == 0),
            self.refused,
            stats.reserve,
            stats.limit,
            stats.spare,
            stats.out,
            stats.waiting,
            unfunded,
            self.shared,
        )

    def _look(self) -> tuple[Any, int]:
        """The pool's numbers, and how many of its reserve are unfunded.

        Fifty workers of one process are asked at once: to make a PoolStats and a Guarantee takes longer than a small resize.
        """
        engine: Any = getattr(self.pool, "_engine", None)
        if engine is None:  # no pool of this package's
            return self.pool.stats(), self.pool.guarantee().unfunded
        engine.notice_lost()
        snapshot = engine.snapshot()
        return snapshot, unfunded_of(snapshot)
