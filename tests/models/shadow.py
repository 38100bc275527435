"""A model of one pool as its users see it: numbers and nothing else. Beside it a real pool is run by test_model.py.

It knows the promises and none of the means: no locks, no transfers, no batches. `line` holds how many each waiting caller
wants.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from mempool.testing import Step


@dataclass
class Shadow:
    """One pool. `answers` is what the source will say, then `otherwise`."""

    reserve: int
    keep_given: int | None
    limit: int | None
    spare: int = 0
    out: int = 0
    made: int = 0
    disposed: int = 0
    written_off: int = 0  # the part of those that the source never had back
    lingering: int = 0  # the part of those out that only views keep
    failures: int = 0
    resizes: int = 0
    closed: bool = False
    answers: deque[Step] = field(default_factory=deque)
    otherwise: Step = Step.WORKS
    bad_frees: int = 0  # how many of the next disposals raise
    line: list[tuple[object, int]] = field(default_factory=list)
    served: list[object] = field(default_factory=list)
    now: float = 0.0  # seconds
    rest: float = 0.0  # how long the source is left alone since it failed; 0: it worked when it was asked last
    rests_until: float = 0.0

    @property
    def keep(self) -> int:
        return 2 * self.reserve if self.keep_given is None else max(self.keep_given, self.reserve)

    def existing(self) -> int:
        return self.made - self.disposed

    def is_over_the_limit(self, surplus: int = 0) -> bool:
        return self.limit is not None and self.existing() - surplus > self.limit and not self.closed

    def guarantee(self) -> tuple[int, int, int, int]:
        lacking = max(0, self.reserve - self.spare)
        owed = 0 if self.closed else min(lacking, self.out)  # what is returned to a closed pool fills nothing
        return self.reserve, self.spare, owed, lacking - owed

    # -- the source

    def asked(self) -> Step | None:
        """What the source says now; None: the limit forbids asking."""
        if self.limit is not None and self.existing() >= self.limit:
            return None
        answer = self.answers.popleft() if self.answers else self.otherwise
        self.made += answer is Step.WORKS
        self.failures += answer is Step.FAILS
        if answer is Step.WORKS:
            self.rest = 0.0
        elif answer is Step.FAILS and not self.is_resting():
            self.rest = min(2 * self.rest, 0.05) or 0.001
            self.rests_until = self.now + self.rest
        return answer

    def is_resting(self) -> bool:
        return self.rest > 0 and self.now < self.rests_until

    def dispose(self) -> bool:
        """Returns whether the source's free raises."""
        self.disposed += 1
        raises, self.bad_frees = self.bad_frees > 0, max(0, self.bad_frees - 1)
        return raises

    # -- calls; what they return tells the exceptions that may fly

    def take(self, wanted: int) -> Iterator[str]:
        """alloc_many(wanted), or try_alloc; yields "raises", "nothing", or ends when it has all."""
        got = max(0, min(wanted, self.spare - self.reserve)) if not self.line else 0
        self.spare -= got
        if got < wanted and self.is_resting() and wanted - got <= self.spare and not self.line:
            self.spare -= wanted - got
            self.out += wanted
            return
        while got < wanted:
            answer = self.asked()
            if answer is not Step.WORKS:
                break
            got += 1
        else:
            answer = None
        if answer is Step.RAISES:
            yield "raises"
            yield from self.take_back(got)
        elif wanted - got <= self.spare and not self.line:
            self.spare -= wanted - got
            self.out += wanted
        elif wanted == got:
            self.out += wanted
        else:
            yield "nothing"
            self.lay_by(got)
            yield from self.cut()

    def take_back(self, elements: int) -> Iterator[str]:
        """free: to the line, else kept, else disposed of."""
        surplus = 0
        for _ in range(elements):
            over = self.is_over_the_limit(surplus) and self.spare >= self.reserve
            if self.closed or (not self.line and (self.spare >= self.keep or over)):
                surplus += 1
            else:
                self.lay_by(1)
        for _ in range(surplus):
            if self.dispose():
                yield "raises"

    def discard(self) -> Iterator[str]:
        """One that is out is broken. Where the source's free raises, nothing is made anew."""
        self.out -= 1
        if self.dispose():
            yield "raises"
        else:
            yield from self.fill(beyond_out=True)

    def write_off(self) -> Iterator[str]:
        """One that is out is lost: the source does not have it back, and it counts against the limit no more."""
        self.out -= 1
        self.disposed += 1
        self.written_off += 1
        return self.fill(beyond_out=True)

    def end_view(self) -> Iterator[str]:
        """The last view of one that lingers ends."""
        self.lingering -= 1
        self.out -= 1
        return self.take_back(1)

    def lay_by(self, elements: int) -> None:
        """Lay these on the free list and serve the line from it."""
        self.spare += elements
        while self.line and self.spare >= self.line[0][1]:
            caller, wanted = self.line.pop(0)
            self.spare -= wanted
            self.out += wanted
            self.served.append(caller)

    def cut(self) -> Iterator[str]:
        """Dispose of spares beyond keep and limit, unless they are being gathered."""
        if self.line:
            return
        while self.spare > (0 if self.closed else self.keep) or (self.is_over_the_limit() and self.spare > self.reserve):
            self.spare -= 1
            if self.dispose():
                yield "raises"

    def fill(self, beyond_out: bool) -> Iterator[str]:
        while not self.closed and self.spare + (self.out if beyond_out else 0) < self.reserve:
            answer = self.asked()
            if answer is Step.RAISES:
                yield "raises"
            if answer is not Step.WORKS:
                return
            self.lay_by(1)

    def resize(self, reserve: int | None, keep: int | None, limit: int | None) -> Iterator[str]:
        """limit: None leaves it; 0 and below take it away."""
        grew = reserve is not None and reserve > self.reserve
        self.reserve = self.reserve if reserve is None else reserve
        self.keep_given = self.keep_given if keep is None else keep
        self.limit = self.limit if limit is None else limit if limit > 0 else None
        self.resizes += 1
        if grew:
            yield from self.fill(beyond_out=False)
        yield from self.cut()

    def leave(self, caller: object) -> Iterator[str]:
        """One who waits gives up."""
        self.line = [(other, wanted) for other, wanted in self.line if other is not caller]
        self.lay_by(0)
        yield from self.cut()

    def close(self) -> Iterator[str]:
        self.closed = True
        self.line = []
        yield from self.cut()
