"""What a test leaves out, of every pool there is: how many before and after, and who took them.

A watch keeps a pool's engine, never the pool, which must be free to die when the test drops it.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Iterable, Iterator

from mempool import lifecycle
from mempool.engine import Engine
from mempool.messages import HOLDERS_NAMED
from mempool.tracking import Holder, Holders

#: How many leaking pools are named.
POOLS_NAMED = 8


class Takers(Holders):
    """Who took what, for a message and for nothing else: with it in place a pool behaves as one that does not track.

    A pool that knew the owners would raise DeadlockError where the code under test, outside of its tests, waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self._dropped = itertools.count(1)

    def record(self, elements: Iterable[object], now: float) -> None:
        """See Holders."""
        elements = list(elements)
        for entry in self.forget(elements):
            if entry is not None:
                # It is still out, though its user has dropped it: at its address there is another now.
                self._entries[-next(self._dropped)] = entry
        super().record(elements, now)

    def owners(self) -> list[tuple[object, bool]]:
        """Nobody knows."""
        return [(None, False)] * len(self._entries)

    def gone(self, _now: float) -> list[Holder]:
        """Nothing is written off here: what a test has dropped is what it leaks."""
        return []


class _Watched:
    """One pool."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.others: int = 0
        """How many of its elements somebody else than the test has taken and not returned."""
        self._takers_of_others: set[Holder] = set()

    def out(self) -> int:
        """How many of its elements the test has out."""
        # What is left of somebody else's when a fixture for several tests has ended is no debt of his.
        return max(0, self._not_returned() - self.others)

    def _not_returned(self) -> int:
        """How many of its elements are out, or were until another came to their address, as their users had dropped them.

        That may happen at any time. If those others had dropped did not count any more, one that the test leaks would go
        unnoticed in their place. test_what_others_have_dropped_hides_no_leak
        """
        now = self._engine.snapshot()
        return now.out + now.replaced

    def holders(self) -> list[Holder]:
        """Who took those, oldest first. The clock may be a test's, and dead: how long they were held is not known."""
        known = self._engine.tracker.holders(0.0)
        return [holder for holder in known if holder not in self._takers_of_others]

    def excuse(self, all_but: int, holders: list[Holder]) -> None:
        """The test has not taken what is out now, but for so many, taken by these."""
        self._takers_of_others.update(holder for holder in self.holders() if holder not in holders)
        self.others = self._not_returned() - all_but

    def leak(self) -> str:
        """What is out, and who took it; "": nothing is."""
        out = self.out()
        if not out:
            return ""
        facts = [f"{self._engine.called}: {out} still out"]
        if not self._engine.tracker.knows_holders:
            facts.append('who took them is not known, as the pool was made without track="holders"')
            return "; ".join(facts)
        holders = self.holders()
        takers = collections.Counter(f"taken by {holder.who} at {holder.site}" for holder in holders)
        facts += [f"{number} {what}" for what, number in list(takers.items())[:HOLDERS_NAMED]]
        if len(takers) > HOLDERS_NAMED:
            facts.append(f"more at {len(takers) - HOLDERS_NAMED} other places")
        if len(holders) < out:
            facts.append(f"who took {out - len(holders)} of them is not known, as they were dropped")
        return "; ".join(facts)


class LeakWatch:
    """Sees what is out of the pools that live when it begins, and of each that it is shown."""

    def __init__(self) -> None:
        self._watched: list[_Watched] = []
        for engine in lifecycle.engines():
            self.see(engine)
            self._watched[-1].excuse(0, [])

    def see(self, engine: Engine) -> None:
        """Watch this pool, which is new, by its engine."""
        self._watched.append(_Watched(engine))

    @contextlib.contextmanager
    def for_others(self) -> Iterator[None]:
        """What is taken while this lasts is for others than the test, and so is what they give back."""
        before = [(watched.out(), watched.holders()) for watched in self._watched]
        try:
            yield
        finally:
            new = len(self._watched) - len(before)
            for watched, (out, holders) in zip(self._watched, before + [(0, [])] * new, strict=True):
                watched.excuse(out, holders)

    def leaks(self) -> list[str]:
        """A sentence for each pool that has elements out."""
        leaks = [leak for watched in self._watched if (leak := watched.leak())]
        rest = len(leaks) - POOLS_NAMED
        return leaks if rest <= 0 else [*leaks[:POOLS_NAMED], f"and {rest} more pools"]
