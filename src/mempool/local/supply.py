"""Supply: the source as an engine calls it. Asks, leaves alone what has just failed, disposes.

Called between decisions, never within one: the source's code may do anything, and take long.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, repeat, starmap
from operator import call, setitem
from typing import Any

from mempool import messages
from mempool._core import Decisions, Transfer
from mempool.clock import SYSTEM_CLOCK, Clock
from mempool.engine import NEVER
from mempool.local.offloading import Offload
from mempool.sources import protocol
from mempool.sources.entering import room_for_a_frame, was_entered
from mempool.sources.protocol import Room

#: Seconds. A source that has failed is left alone for the first, then in doubling steps up to the second while it goes on
#: failing: whoever finds a spare of the reserve takes that, without asking before.
REST_FIRST, REST_LAST = 0.001, 0.05
#: A source's free that could not even be entered so many times in a row has lost its element.
FREE_TRIES_MAX = 3


class Supply:
    """The source of one pool. rests: whether it is left alone for a while after a failure."""

    #: Who disposes where an event loop runs; None: the caller does, wherever it is.
    offload: Offload | None

    __slots__ = (
        "_batch_max",
        "_rest_seconds",
        "_rests",
        "called",
        "check",
        "clock",
        "core",
        "failed_at",
        "offload",
        "reset",
        "rests_until",
        "said",
        "source",
    )

    def __init__(self, core: Decisions, called: str, source: Any, clock: Clock, *, rests: bool, batch_max: int) -> None:
        self.core: Decisions = core
        self.called: str = called
        self.source: Any = source
        self.clock: Clock = clock
        self.reset: Callable[[Any], object] | None = protocol.found(source, "reset")
        self.check: Callable[[Any], object] | None = protocol.found(source, "check")
        self.offload = None
        self.said: str | None = None
        self.failed_at: float = -NEVER  # by the clock
        self.rests_until: float = -NEVER
        self._rests = rests
        self._batch_max = batch_max
        self._rest_seconds = 0.0  # how long the last rest was, or is; 0: the source has not failed since it last worked

    @property
    def level(self) -> str | None:
        """How the memory of each element is guaranteed, where the source says so."""
        level: str | None = protocol.found(self.source, "level")
        return level

    # -- asking

    def ask(self, transfer: Transfer, elements: int, *, for_caller: bool) -> None:
        """Ask the source for so many elements. When memory runs out there are fewer in the transfer, or none."""
        try:
            if self.core.permit(transfer, elements) > 0:
                self.call(transfer, for_caller)
        except MemoryError as error:
            self.core.complete(transfer, for_caller)  # again, in case it was that which had too little
            self.note_failure(error)

    def call(self, transfer: Transfer, for_caller: bool) -> None:
        """Call the source as often as this transfer has permits; what it makes is counted, and lies in the transfer."""
        try:
            self._make(transfer)
        finally:
            self.arrive(transfer, for_caller)
        if transfer.twice is not None:
            raise messages.returned_twice(self.called, self.source, transfer.twice)

    def _make(self, transfer: Transfer) -> None:
        """Have the source make, into the transfer. Apart from `call`, which must stay short.

        Where a `finally` fails beyond the 256th instruction, CPython makes an int of that place; where there is no memory
        for it, CPython fails there again, without end. See test_memory_that_ends_for_good_in_the_midst_of_a_call.
        """
        made = transfer.places_to_make()
        # One call into C: what the source returns lies in the transfer before any exception can be raised. Into places
        # that are there already, because a list that has to grow may find no memory for that.
        asking = starmap(self.source.alloc, repeat((), transfer.permits))
        any(map(setitem, repeat(made), count(), asking))
        self._check_made(transfer)

    def arrive(self, transfer: Transfer, for_caller: bool) -> None:
        """What the source has made for this transfer is counted."""
        works = self._rest_seconds and transfer.made and transfer.made[0] is not None
        self.core.complete(transfer, for_caller)
        if works:
            self.end_rest()

    def _check_made(self, transfer: Transfer) -> None:
        # Not above: CPython needs memory to enter a handler from far down in its function, and where there is none
        # it tries for ever.
        if any(element is None for element in transfer.made):
            raise TypeError(
                f"{self.called}: the source's alloc returned None or raised StopIteration; raise MemoryError where "
                "nothing can be had"
            )

    # -- a source that has failed

    def is_resting(self) -> bool:
        """Whether the source has just failed, and is left alone."""
        return bool(self._rest_seconds) and self.clock.now() < self.rests_until

    def note_failure(self, error: MemoryError) -> None:
        """The source has run out of memory."""
        self.core.count_failure()
        self.said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if (slot := self.core.slot()) is not None:
            slot.say(self.said)
        self.failed_at = self.clock.now()
        if self._rests:
            self._rest(self.failed_at)

    def _rest(self, now: float) -> None:
        """Leave the source alone for a while. The reserve is there for this, and an exception costs 100 times as much."""
        if now < self.rests_until:
            return  # several failed at the same time, or somebody found no spare: that is one failure
        self._rest_seconds = min(2 * self._rest_seconds, REST_LAST) or REST_FIRST
        self.rests_until = now + self._rest_seconds
        if self.clock is SYSTEM_CLOCK:  # another's time the fast path cannot tell
            self.core.rest(self._rest_seconds)

    def end_rest(self) -> None:
        """The source has worked."""
        self._rest_seconds = 0.0
        self.rests_until = -NEVER
        self.core.rest(0)

    # -- what there is room for

    def require_room(self) -> None:
        """Raise MemoryError where the source says that what the reserve lacks cannot be had. Nothing has been made then.

        Else the machine would be filled to the brim, for a promise that is not kept in the end.
        """
        f = self.core.snapshot()
        lacking: int = min(f["reserve"] - f["spare"] - f["filling"], f["limit"] - (f["made"] - f["disposed"] + f["permits"]))
        room_for = protocol.found(self.source, "room_for")
        if room_for is None or lacking <= 0:
            return
        room = room_for(lacking)
        if isinstance(room, Room) and room.elements < lacking:
            raise MemoryError(
                f"{self.called}: a reserve of {f['reserve']} lacks {lacking}, and there is room for {room.elements}: "
                f"{room.why}; none was made. Promise fewer or smaller elements"
            )

    def has_room(self) -> bool:
        """The same for a resize, which then makes nothing; `refill` makes what can be had."""
        try:
            self.require_room()
        except MemoryError as error:
            self.note_failure(error)
            return False
        return True

    def regain(self) -> None:
        """Bring memory from before a fork to its level again, as far as the source can."""
        regain = protocol.found(self.source, "regain")
        if regain is not None:
            try:
                regain()
            except MemoryError as error:
                self.note_failure(error)

    # -- disposing

    def dispose(self, transfer: Transfer, fill: Transfer | None = None, *, here: bool = False) -> None:
        """Call the source's free for all that this transfer holds, whatever is raised; then raise the first.

        here: even where an event loop stands still meanwhile, and a thread could be given this to do.
        """
        # No thread counts what somebody has disposed of already, when what interrupted him has left only that to be done.
        is_handed_over = (
            self.offload is not None and not here and transfer.first < transfer.count and not transfer.free_called
        )
        if is_handed_over and self.offload.hand_over(transfer, self._dispose_here):  # type: ignore[union-attr]  # it is not None
            return
        errors: list[BaseException] = []
        vain = 0
        while transfer.first < transfer.count:
            if not transfer.free_called:
                vain += 1
                try:
                    free = self.source.free
                    if transfer.free_called is None:  # compiled, of a new_ticket
                        transfer.make_place_to_free()
                    # One call into C: `free_called` has an entry from the moment at which the source's free is called. (No
                    # Python frame before: where the stack is full and there is no memory, CPython raises a SystemError.)
                    transfer.free_called.extend(
                        map(call, (room_for_a_frame, free), (None, transfer.elements[transfer.first]))
                    )
                except BaseException as error:  # noqa: BLE001 - raised below, when all is disposed of
                    if transfer.free_called and not was_entered(free, error):
                        transfer.free_called.clear()
                    errors.append(error)
            if transfer.free_called or vain == FREE_TRIES_MAX:
                vain = 0
                self.core.disposed_one(transfer, fill, not transfer.free_called)
        if errors:
            raise errors[0]

    def _dispose_here(self, transfer: Transfer) -> None:
        self.dispose(transfer, here=True)

    def dispose_surplus(self, fill: Transfer | None = None, *, here: bool = False, idle: int | None = None) -> int:
        """Goes on to the last whatever the source raises; then raises the first. (An interrupt ends it.)

        idle: so many at most, and from what is kept beyond the reserve, too. Returns how many it took.
        """
        errors: list[Exception] = []
        taken = 0
        while idle is None or taken < idle:
            transfer = Transfer(self._batch_max if idle is None else min(self._batch_max, idle - taken))
            try:
                surplus = self.core.evict(transfer, idle is not None)
                if not surplus:
                    break
                taken += surplus
                self.dispose(transfer, fill, here=here)
            except BaseException as error:
                self.dispose(transfer, fill, here=here)  # the rest
                if not isinstance(error, Exception) or not transfer.count:
                    raise
                errors.append(error)
        if errors:
            raise errors[0]
        return taken
