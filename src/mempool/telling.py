"""What a pool says: the words of its errors and of `why_empty`. A part of Pool, see traffic.py."""

from __future__ import annotations

import itertools
import numbers
import operator
import weakref
from collections import deque
from typing import Any, Literal

from mempool import registry
from mempool._core import Hands, Quick
from mempool.buffer import Buffer
from mempool.clock import Clock, in_words
from mempool.errors import DoubleFree, ForeignElement, PoolClosed
from mempool.holders import HolderBook, Standstill, describe, find_deadlock
from mempool.lease import Lease
from mempool.viewers import viewers

#: How many holders `why_empty` names, the oldest.
HOLDERS_NAMED = 8


def _s(number: int) -> str:
    """The end of a noun after this number."""
    return "" if number == 1 else "s"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


class Telling(Quick):
    """The messages of a pool: each names the pool, the fact and the way out."""

    __slots__ = (
        "_book",
        "_clock",
        "_lingering",
        "_resizing",
        "_rests_until",
        "_source_failures",
        "_source_said",
        "_standstill",
        "_written_off",
        "name",
    )

    name: str
    _book: HolderBook | None
    _clock: Clock
    _lingering: dict[int, weakref.ref[Buffer]]  # by the identity of the handle that is kept by views
    _resizing: dict[tuple[int, object], str]  # by the thread that resizes, and a token
    _rests_until: float  # by the pool's clock: the source has failed, and is left alone until then
    _source_failures: int
    _source_said: str | None
    _standstill: dict[object, Standstill]  # calls that stop an event loop, by a token
    _written_off: deque[int]  # addresses, the last thousands

    # -- errors of free

    def _unfit(self, buffer: Buffer, hands: Hands) -> Exception:
        """Why this buffer cannot be freed."""
        if not buffer.is_alive():
            return DoubleFree(f"{self._called()}: this buffer was freed already; free an element once, or use a lease")
        if buffer.block.home is not self.core.home or sum(map(operator.is_, hands.held(), itertools.repeat(buffer))) > 1:
            return self._not_out(hands.held())
        views = buffer.views()
        what = f" ({viewers(buffer)})" if self._book is not None else ""
        return BufferError(
            f"{self._called()}: this buffer is still viewed through {views} view{_s(views)}{what}: a slice "
            "such as buf[:n] or an array still looks at it; use `with buf[:] as view:` inside the lease, `del` it "
            "before the block ends, or lease(linger=True) or free(buf, linger=True), which return it when the last view ends"
        )

    def _explain(self, error: object) -> None:
        """Tell whoever sees this exception what its traceback keeps."""
        try:
            error.add_note(  # type: ignore[attr-defined]  # every BaseException's
                f"{self._called()}: the lease is over, but a view in this traceback keeps its buffer, which comes home when "
                "the traceback is dropped"
            )
        except (AttributeError, MemoryError, TypeError):
            pass  # of a user's class that has no notes; or there is no memory for one

    def _not_out(self, elements: list[Any]) -> Exception:
        if any(element is None for element in elements):
            return ForeignElement(f"{self._called()}: None is no element; free what `alloc` returned")
        twice = next((e for e in elements if sum(other is e for other in elements) > 1), None)
        element = twice if twice is not None else next((e for e in elements if not self.core.is_out(e)), elements[0])
        what = describe(element)
        if type(element) is Lease:
            return ForeignElement(
                f"{self._called()}: this is a lease and no element; call lease.release(), or leave its `with` block"
            )
        if id(element) in self._written_off and twice is None and not self.core.is_spare(element):
            return ForeignElement(
                f"{self._called()}: this {what} was written off: it was taken for lost, and the pool has gone on without "
                "it; drop it, and write off only what nobody has any more"
            )
        # A buffer of this pool that a user has was out: another thread is freeing it now, or has just done so.
        was_out = type(element) is Buffer and element.block.home is self.core.home
        if twice is not None or was_out or self.core.is_spare(element):
            return DoubleFree(
                f"{self._called()}: this {what} was freed already and is a spare; free an element once, or use a lease"
            )
        return ForeignElement(
            f"{self._called()}: this {what} is not out of this pool: it never was this pool's, or it was freed and "
            "disposed of already; free an element once, to the pool that gave it"
        )

    def _returned_twice(self, source: Any, element: Any) -> ValueError:
        return ValueError(
            f"{self._called()}: the alloc of {source!r} returned a {describe(element)} that is in this pool already; "
            "return a new element each time, and raise MemoryError where none can be had"
        )

    # -- where it stands

    def _called(self) -> str:
        return f"pool {self.name!r}"

    def _closed(self) -> PoolClosed:
        if not self.core.is_closed():
            return self._ending()
        return PoolClosed(f"{self._called()} is closed and hands out nothing any more; make another")

    def _ending(self) -> PoolClosed:
        return PoolClosed(f"{self._called()}: the interpreter is ending, and nobody may wait any more; free and go")

    def _too_many(self, wanted: int, why: str) -> ValueError:
        return ValueError(f"{self._called()}: {wanted} elements at once can never be had, {why}; ask for fewer, or raise it")

    def _in_line(self) -> str:
        waiting = self.core.waiting()
        return f"{waiting} caller{_s(waiting)} in line"

    def _still_out(self) -> str:
        out = self.core.figures()["out"]
        return f"{out} element{_s(out)} {_are(out)} still out; free {'it' if out == 1 else 'them'}"

    def _taken_at(self, element: Any) -> str:
        site = None if self._book is None else self._book.site_of(element)
        return "" if site is None else f", taken at {site}"

    def _why_empty(self) -> str:
        """One paragraph a person can act on."""
        f = self.core.figures()
        sentences = [
            f"{self._called()}: {f['reserve']} promised, {f['spare']} spare, {f['out']} out, {self._in_line()}",
            f"the source has failed {self._source_failures} time{_s(self._source_failures)}, last with {self._source_said}"
            if self._source_said
            else "the source has not failed",
        ]
        rest = self._rests_until - self._clock.now()
        if rest > 0:
            sentences.append(f"it is left alone for {in_words(rest)} while there are spares of the reserve")
        if f["closed"]:
            sentences.append("it is closed")
        elif f["made"] - f["disposed"] + f["claimed"] >= f["limit"]:
            sentences.append(f"the limit of {f['limit']} is reached")
        if f["claimed"]:
            sentences.append(f"{f['claimed']} {_are(f['claimed'])} being made")
        if f["disposing"]:
            sentences.append(f"{f['disposing']} {_are(f['disposing'])} being disposed of")
        if f["lingering"]:
            sentences.append(self._tell_lingering(f["lingering"]))
        sentences += [f"a resize {what} is under way" for what in list(self._resizing.values())]
        sentences += [standstill.what for standstill in list(self._standstill.values())]
        if self._book is not None:
            holders = self._book.holders(self._clock.now())
            sentences += [str(holder) for holder in holders[:HOLDERS_NAMED]]
            if len(holders) > HOLDERS_NAMED:
                more = len(holders) - HOLDERS_NAMED
                sentences.append(f"{more} more {_are(more)} held for less long")
            sentences += self._looks_dead()
        elif f["out"]:
            sentences.append('track="holders" would tell who holds them')
        if f["closed"]:
            way_out = "Make another"
        elif f["spare"] and not f["waiting"]:
            way_out = "It is not empty: whoever asks now is served at once"
        else:
            way_out = "Free what is out, raise the reserve or the limit, or wait longer"
        return "; ".join(sentences) + f". {way_out}"

    def _looks_dead(self) -> list[str]:
        """A sentence, where all that could serve the first in line was taken by callers that wait themselves."""
        first = next((ticket for ticket in self.core.queue() if ticket.owner is not None), None)
        deadlock = None if first is None else find_deadlock(self, first.owner, registry.pools())  # type: ignore[arg-type]
        if deadlock is None:
            return []
        if deadlock.is_certain:
            return ["it is a deadlock: all that is out is held by callers that wait, or whose loop one of them stops"]
        only_looks = (
            "all that is out was taken by callers that wait themselves, or whose loop one of them stops, and comes home "
            "only if somebody else brings it"
        )
        return [f"it looks like a deadlock: {only_looks}"]

    def _remember_lingering(self, hands: Hands) -> None:
        """For `_tell_lingering`: what has left these hands for its views."""
        try:
            for element in hands.elements[: hands.first]:
                if element is not None:
                    self._lingering[id(element)] = weakref.ref(element)
        except MemoryError:
            pass  # `why_empty` says less

    def _tell_lingering(self, lingering: int) -> str:
        """How many linger, and who looks."""
        seen = []
        for reference in list(self._lingering.values())[:HOLDERS_NAMED]:
            buffer = reference()
            if buffer is not None and buffer.views() > 0:
                seen.append(viewers(buffer))
        del reference, buffer
        what = f" ({'; '.join(seen)})" if seen else ""
        freed = (
            "1 of those out lingers: its user has freed it, and it comes home when its last view ends"
            if lingering == 1
            else f"{lingering} of those out linger: their users have freed them, and each comes home when its last view ends"
        )
        return f"{freed}{what}; drop the views, or the traceback that holds them"

    def _count(self, what: str, number: int) -> int:
        try:
            number = operator.index(number)
        except TypeError:
            raise TypeError(f"{self._called()}: {what} is a whole number, not {number!r}") from None
        if number < 0:
            raise ValueError(f"{self._called()}: {what} cannot be negative, {number} is; 0 is the least")
        return number

    def _check_timeout(self, timeout: float | None | Literal["default"]) -> None:
        if timeout != "default":
            self._seconds("timeout", timeout)

    def _seconds(self, what: str, seconds: float | None) -> float | None:
        if seconds is None:
            return None
        if isinstance(seconds, (int, float, numbers.Real)) and seconds >= 0:
            try:
                return float(seconds)
            except OverflowError:
                return float("inf")
        raise ValueError(f"{self._called()}: {what} is a number of seconds, 0 or more, or None for ever, not {seconds!r}")
