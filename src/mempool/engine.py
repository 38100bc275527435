"""The seam: what a pool's face asks of the engine behind it. Only types; no logic.

The face (base_pool.py) waits and speaks; the engine decides and holds the elements. An engine never waits. The source's code
runs in the caller's frame, between decisions and never within one. The face passes the time.

LocalEngine (local/engine.py) is the engine of one process. Another kind of pool is another engine behind the same face;
tests/models/plain_engine.py is a small one, under one lock, which keeps the same contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import EllipsisType
from typing import Any, NamedTuple, Protocol

from mempool.clock import Clock

#: A moment that does not come.
NEVER = float("inf")
#: The states of a ticket, and how else a wait can end.
WAITING, SERVED, CLOSED, WITHDRAWN, TIMED_OUT, IMPOSSIBLE = range(6)
#: Upper bounds, in seconds, of the buckets in which waits are counted; the last bucket has none.
#: 1, 2 and 5 of each decade from 10 microseconds on: two pools in trouble must not look alike.
WAIT_BUCKETS = (*(step * 10**power / 1e5 for power in range(7) for step in (1, 2, 5)), 100.0)


class UnexpectedReserveError(ValueError):
    """A resize that was meant for another reserve than the pool had at that moment. Nothing has changed."""


class Waker(Protocol):
    """Whom to wake: a thread, a task, a greenlet."""

    may_be_gone: bool
    """Whether `wake` may find that the caller can run no more, like a task whose loop is closed."""
    on_gone: Callable[[], object] | None
    """Set by the pool where `may_be_gone`, and None while nobody waits. `wake` calls it, if it is not None, when the caller
    can run no more: its place in the line, and what it was given, go to the next."""

    @property
    def owner(self) -> object:
        """Who waits: anything hashable that is equal to itself only, and the same in all calls of this caller."""

    def wake(self) -> None:
        """End the parking, now or the next time: a `park` that begins later returns at once, then.

        Never blocks. May be called from any thread, signal handler or finalizer, any number of times: it is a hint, and the
        caller looks at its ticket.
        """


class Ticket(Protocol):
    """One call's record, made by the engine, so that every element always has an owner."""

    @property
    def wanted(self) -> int:
        """How many elements the call asks for, or gives back."""

    @property
    def elements(self) -> list[Any]:
        """What the call has, in `elements[first:count]`."""

    @property
    def first(self) -> int:
        """Where in `elements` begins what the call still has."""

    @property
    def count(self) -> int:
        """Where in `elements` ends what the call has."""

    @property
    def state(self) -> int:
        """WAITING, also before it is in the line; SERVED: it has all it wants; CLOSED: the pool was closed; WITHDRAWN: it
        left by itself and refuses what is offered; IMPOSSIBLE: it wants more than a limit that was lowered allows."""

    @property
    def owner(self) -> Any:
        """Who waits, while the ticket is in the line."""

    def is_settled(self) -> bool:
        """No longer waiting: look at `state`."""


class Snapshot(NamedTuple):
    """Every number of an engine, all of one moment. Numbers are elements unless a field says otherwise."""

    reserve: int
    keep: int
    limit: int | None
    closed: bool
    spare: int
    out: int
    lingering: int
    made: int
    disposed: int
    disposing: int
    written_off: int
    being_made: int
    """Permissions to ask the source that calls have now."""
    owed: int
    """The part of the reserve that is lacking, and that what is out will refill."""
    filling: int
    """The part of the reserve that is lacking, and that a resize or a refill is making."""
    waiting: int
    """Callers in the line."""
    from_spare: int
    from_source: int
    from_reserve: int
    from_line: int
    resizes: int
    waits: tuple[int, ...]
    """How many waits ended so: by SERVED, CLOSED, WITHDRAWN, TIMED_OUT, IMPOSSIBLE."""
    wait_histogram: tuple[int, ...]
    """How many waits took that long: by WAIT_BUCKETS, and one for those above."""
    wait_seconds_total: float
    wait_seconds_max: float
    source_failures: int
    """How often the source ran out of memory."""
    source_said: str | None
    """With what it did so the last time."""
    source_rests: float
    """For how many seconds it is left alone from now on."""
    level: str | None
    """How the memory is guaranteed, where the source says so."""
    offered: int = 0
    """The part of `out` that is on its way from one process to another: see shared/passing.py."""
    replaced: int = 0
    """The part of `written_off` that its user has dropped, unnoticed until the source made another at its address."""


class UnderWay(NamedTuple):
    """A call that is told of while it lasts."""

    what: str
    """A sentence."""
    owner: object = None
    """Who waits in it."""
    stopped: tuple[object, ...] = ()
    """What it keeps from running: see parking.stopped_here."""


class Tracker(Protocol):
    """What is recorded of each element that is out: nothing, its identity, or who holds it too. See tracking.py."""

    knows_identity: bool
    """Whether a double or a foreign free is found."""
    knows_holders: bool
    """Whether it is known who holds what, and deadlocks are found."""

    def record(self, elements: Iterable[object], now: float) -> None:
        """These elements have just been handed to the caller."""

    def forget(self, elements: Iterable[object]) -> list[Any]:
        """These elements have been returned. Returns what was known of each, for `restore`."""

    def restore(self, elements: Iterable[object], known: list[Any]) -> None:
        """They have not been returned after all, though the handles of some may be others now."""

    def after_fork(self) -> None:
        """In the child of a fork: no thread of the parent is in the middle of anything here."""

    def hand_over(self, element: object) -> None:
        """Somebody else will free this element."""

    def take_over(self, element: object, now: float) -> None:
        """This element is the caller's from now on, and nobody else will free it."""

    def site_of(self, element: object) -> str | None:
        """Where this element was taken."""

    def holders(self, now: float) -> tuple[Any, ...]:
        """Who holds what, oldest first: see Holder in tracking.py."""

    def gone(self, now: float) -> list[Any]:
        """Those holders whose element does not exist any more."""

    def holds(self, holder: Any) -> bool:
        """Whether this element is still held like that."""

    def drop(self, holder: Any) -> None:
        """This element is lost. May be done again."""

    def clear(self) -> None:
        """All of them are lost."""

    def owners(self) -> list[tuple[object, bool]]:
        """Who holds an element (None: nobody knows), once per element; and whether nobody else can return it."""


class Engine(Protocol):
    """Decides who gets which element, holds the spares, asks the source. Never waits.

    Whoever returns an element to a user made the ticket in that same frame, and cancels it there if anything is raised: a
    frame further in could be interrupted between its own end and its caller's next step.
    """

    name: str
    called: str
    """How messages begin: the name of the pool."""
    clock: Clock
    """By which the source rests, and since when elements are held."""
    tracker: Tracker
    under_way: dict[tuple[int, object], UnderWay]
    """What calls are under way now, for `why_empty` and deadlocks: by the ident of the thread, and a token."""

    # -- taking

    def ticket(self, wanted: int) -> Any:
        """Make a record that owns nothing, for a call that wants so many elements: a Ticket."""

    def take_ready(self, ticket: Any, *, may_wait: bool) -> bool | None:
        """Take what can be had without the source. None: the source is to be asked now, with `ask`.

        True: the ticket has all it wants. False: others are in the line, and the caller, who may wait, is to join them.
        Raises PoolClosed.
        """

    def ask(self, ticket: Any) -> None:
        """Ask the source for what the ticket lacks. It may get less: memory is out. Raises what the source raises else."""

    def try_take(self, ticket: Any, *, ask_source: bool, may_wait: bool = False) -> bool:
        """Take all that can be had without waiting: a spare beyond the reserve, the source's, the reserve's, in this order.

        ask_source: False: only what is there. may_wait: those in the line come first, before the source is asked.
        Returns whether the ticket has all it wants. Raises PoolClosed, and what the source raises that is not MemoryError.
        """

    def pass_on(self, giver: Any, receiver: Any) -> None:
        """What one ticket has is another's from now on, as far as that one wants it."""

    def checking(self, ticket: Any) -> Callable[[], object] | None:
        """What has the source look at what the ticket has, for a thread; `check_out` then does not. None: nothing has to.

        Where it raises, it has taken back what the ticket had.
        """

    def check_out(self, ticket: Any) -> None:
        """From now on what the ticket has is the user's. Raises what the source's `check` raises."""

    # -- the line

    def enqueue(self, ticket: Any, waker: Waker) -> None:
        """Serve the ticket at once, or put it at the end of the line: look at its `state`.

        Raises PoolClosed, LineFull, and ValueError where it wants more than the limit allows.
        """

    def poll(self, ticket: Any, now: float, begin: Callable[[Callable[[], object]], object] | None = None) -> float:
        """Do what is due for a ticket in the line: its head asks the source. Returns when to be called again, at the latest.

        now: by the caller's clock, in seconds; so is what is returned. begin: makes a call that may take long; None: it is
        made here and now. Raises what the source raises that is not MemoryError.
        """

    def dequeue(self, ticket: Any, waker: Waker, outcome: int | None, seconds: float) -> None:
        """Leave the line, however the wait ended. outcome, seconds: for the statistics; None: it never joined."""

    def queue(self) -> Sequence[Any]:
        """Who waits: the tickets, first to last."""

    # -- giving back

    def cancel(self, ticket: Any) -> None:
        """Leave the line, and take back what the ticket has, whatever state it is in. May be done again.

        Finishes what was cut short. Raises what the source raises.
        """

    def abandon(self, ticket: Any) -> None:
        """The same for a ticket whose caller can run no more. Called by its `wake`, so it may be deep in another call."""

    def returning(self, elements: Sequence[Any]) -> Any:
        """Make a record of elements that their user gives back; they are his until `give`."""

    def give(self, ticket: Any, *, linger: bool = False) -> int:
        """Take back what the record has: all, or none. Returns how many were kept or handed on. May be done again.

        Raises DoubleFree, ForeignElement, BufferError, and what the source's `reset` and `free` raise.
        """

    def discard(self, ticket: Any) -> None:
        """The same for what is broken: nobody gets it again, and the source makes another where the promise needs it."""

    def write_off(self, lost: Any) -> None:
        """An element, or that of a Holder, is lost with who has it."""

    def write_off_all(self) -> int:
        """All that is out is lost. Returns how many."""

    def notice_lost(self) -> None:
        """Write off what does not exist any more, where that can be seen."""

    # -- the targets

    def resize(self, reserve: int | None, keep: int | None, limit: int | None | EllipsisType) -> None:
        """Change the targets at one moment, then make or dispose of elements.

        reserve, keep: None: as it is. limit: None: no limit; the ellipsis: as it is. Raises ValueError for what makes no
        sense together, MemoryError, PoolClosed; nothing has changed then.
        """

    def refill(self, seconds: float = NEVER) -> None:
        """Try to make what is unfunded. After so many seconds, by its clock, the rest stays unfunded."""

    def trim(self, spares: int) -> int:
        """Dispose of so many spares beyond the reserve, at most, whatever `keep` says. Returns how many went."""

    # -- looking

    def snapshot(self) -> Snapshot:
        """Every number of one moment."""

    def remarks(self) -> list[str]:
        """What else `why_empty` shall say."""

    def watch_drained(self, ticket: Any, waker: Waker | None) -> bool:
        """Wake this one when nothing is out any more; None: no longer. Returns whether nothing is out now."""

    # -- the end

    def close(self) -> None:
        """Hand out nothing any more: settle every ticket in the line, dispose of the spares."""

    def finish(self) -> None:
        """Return when no thread of the engine's own has anything left to do that a call has given it."""

    def is_ending(self) -> bool:
        """Whether nobody may wait any more."""

    def end_waiting(self) -> None:
        """The interpreter ends: nobody may wait any more."""

    def after_fork(self) -> Callable[[], None] | None:
        """In the child only the forking thread lives on: what the others waited for and were making is void.

        Returns what remains to be done once all pools are sound.
        """
