"""The decisions of the reserve once more, one caller after another, with nothing but lists: what test_decisions.py compares.

Written from ARCHITECTURE.md, not from decisions.py: where the two say the same in different words, that is the point.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WAITING, SERVED, CLOSED, WITHDRAWN, _TIMED_OUT, IMPOSSIBLE = range(6)
IN_LINE, HAS_ALL, IS_CLOSED, IS_FULL, IS_TOO_MANY = range(5)
CHANGED, GROWN, KEEP_TOO_LOW, LIMIT_TOO_LOW = range(10, 14)
MANY = 1 << 62


@dataclass(eq=False)
class PlainTransfer:
    """What one caller owns, and where it stands."""

    wanted: int
    held: list[object] = field(default_factory=list)
    permits: int = 0
    filling: bool = False
    is_surplus: bool = False
    refused: bool = False
    state: int = WAITING
    thread: int = 0
    may_be_gone: bool = False
    asks_for: PlainTransfer | None = None
    joined: int = 0
    lingering: int = 0

    @property
    def missing(self) -> int:
        return self.wanted - len(self.held)


class PlainDecisions:
    """`told` are those whom the last decision must wake."""

    def __init__(self) -> None:
        self.reserve = self.keep = self.capacity = 0
        self.keep_given: int | None = None
        self.limit = self.waiting_max = MANY
        self.closed = self.dismissed = False
        self.spares: list[object] = []
        self.made = self.disposed = self.disposing = self.permits = self.filling = self.fills = 0
        self.starved = False
        self.lingering = 0
        self.from_spare = self.from_source = self.from_reserve = self.from_line = 0
        self.resizes = -1
        self.line: list[PlainTransfer] = []
        self.joined = 0
        self.asked = 0  # how many the first in line is asking the source for
        self.drainers: list[PlainTransfer] = []
        self.to_wake: list[PlainTransfer] = []

    # -- what the numbers mean

    @property
    def existing(self) -> int:
        return self.made - self.disposed

    @property
    def out(self) -> int:
        return self.existing - self.disposing - len(self.spares)

    @property
    def room(self) -> int:
        """How many more the limit allows to be asked for."""
        return self.limit - self.existing - self.permits

    @property
    def servable(self) -> list[PlainTransfer]:
        """Who can take what is returned: all but the first, while that is inside the source."""
        return self.line[1:] if self.asked else self.line

    @property
    def free_spares(self) -> int:
        """Those that the first in line, inside the source, does not count on."""
        return len(self.spares) - (self.line[0].wanted - self.asked if self.asked else 0)

    @property
    def laid_by(self) -> int:
        """How many are kept for the first in line, should the source give nothing."""
        return self.line[0].wanted if self.asked and not self.servable else 0

    def snapshot(self) -> dict[str, Any]:
        same = "reserve keep closed made disposed disposing permits filling asked fills starved resizes"
        same += " lingering from_spare from_source from_reserve from_line out"
        return {name: getattr(self, name) for name in same.split()} | {
            "spare": len(self.spares),
            "waiting": len(self.line),
        }

    # -- steps that several decisions have in common

    def retry_head_now(self) -> None:
        if self.line and self.room > 0:
            self.to_wake.append(self.line[0])

    def serve(self) -> None:
        head_served = False
        while self.servable:
            ticket = self.servable[0]
            if self.free_spares < ticket.wanted:
                if not self.asked or len(self.spares) < self.capacity:
                    break
                ticket = self.line[0]  # no place is left to gather in
            head_served |= ticket is self.line[0]
            self.gone(ticket)
            for _ in range(ticket.missing):
                ticket.held.append(self.spares.pop())
                self.from_line += 1
            ticket.state = SERVED
            self.to_wake.append(ticket)
        if self.servable and self.servable[0].may_be_gone and self.free_spares > 0:
            self.to_wake.append(self.servable[0])
        if head_served:
            self.retry_head_now()

    def gone(self, ticket: PlainTransfer) -> None:
        if self.line[0] is ticket:
            self.asked = 0
        self.line.remove(ticket)

    def after_return(self) -> None:
        if self.out == 0:
            self.to_wake += self.drainers

    def end_line(self) -> None:
        for ticket in self.line:
            ticket.state = CLOSED
        self.to_wake += self.line
        self.line = []
        self.asked = 0

    # -- decisions

    def take_spares(self, transfer: PlainTransfer, from_reserve: bool) -> bool:
        at_hand = len(self.spares) - (0 if from_reserve else self.reserve)
        if not self.line and not (from_reserve and at_hand < transfer.missing):
            for _ in range(min(transfer.missing, max(0, at_hand))):
                beyond = len(self.spares) > self.reserve
                self.from_spare += beyond
                self.from_reserve += not beyond
                transfer.held.append(self.spares.pop())
        return not transfer.missing

    def permit(self, transfer: PlainTransfer, elements: int) -> int:
        if self.closed:
            return -1
        if transfer.asks_for is not None:
            if self.line[:1] != [transfer.asks_for]:
                return 0
            elements = min(elements, self.line[0].wanted - len(self.spares))
        granted = max(0, min(elements, self.room))
        transfer.refused = not granted
        transfer.joined = self.joined if granted else transfer.joined
        self.asked += granted if transfer.asks_for is not None else 0
        self.permits += granted
        transfer.permits += granted
        return granted

    def begin_fill(self, fill: PlainTransfer) -> None:
        if not fill.filling and not self.closed:
            fill.filling, self.starved = True, False
            self.fills += 1

    def end_fill(self, fill: PlainTransfer) -> None:
        self.fills = max(0, self.fills - fill.filling)  # a fork may have counted it out
        fill.filling = False

    def permit_fill(self, transfer: PlainTransfer, beyond_out: bool, fill: PlainTransfer) -> int:
        lacking = self.reserve - len(self.spares) - self.filling - (self.out if beyond_out else 0)
        granted = 0 if self.closed else max(0, min(lacking, transfer.wanted, self.room))
        if not granted:
            room_is_taken = self.starved or self.permits + self.disposing > 0
            self.starved = not self.closed and lacking > 0 and room_is_taken
            self.end_fill(fill)
        self.permits += granted
        self.filling += granted
        transfer.permits += granted
        transfer.filling |= granted > 0
        return granted

    def complete(self, transfer: PlainTransfer, made: list[object], for_caller: bool) -> None:
        was_full = self.room <= 0
        arrived = [element for element in made if element is not None]
        self.starved &= len(arrived) >= transfer.permits
        transfer.held += arrived
        self.made += len(arrived)
        self.from_source += len(arrived) if for_caller else 0
        self.permits = max(0, self.permits - transfer.permits)  # a fork may have made them void
        self.filling = max(0, self.filling - (transfer.permits if transfer.filling else 0))
        if transfer.asks_for is not None and self.asked and self.line[0] is transfer.asks_for:
            self.asked = 0
            self.serve()
        own_room = transfer.asks_for is not None and self.line[:1] == [transfer.asks_for] and transfer.joined == self.joined
        if was_full and len(arrived) < transfer.permits and self.line[:1] != [transfer] and not own_room:
            self.retry_head_now()
        transfer.permits = 0
        transfer.filling = False

    def take_back(self, transfer: PlainTransfer) -> None:
        if transfer.is_surplus or not transfer.held:
            return
        while transfer.held and not self.closed:
            too_many = self.existing - self.disposing - self.limit
            if (
                not self.servable
                and len(self.spares) >= self.laid_by
                and (len(self.spares) >= self.keep or (len(self.spares) >= self.reserve and too_many >= len(transfer.held)))
            ):
                break
            self.spares.append(transfer.held.pop(0))
            self.serve()
        self.mark_surplus(transfer)

    def linger(self, transfer: PlainTransfer, lingering: list[object]) -> None:
        """These go out again, and are counted until they are returned."""
        transfer.held = [element for element in transfer.held if element not in lingering]
        self.lingering += len(lingering)

    def mark_surplus(self, transfer: PlainTransfer) -> None:
        if not transfer.is_surplus:
            transfer.is_surplus = True
            self.lingering = max(0, self.lingering - transfer.lingering)
            transfer.lingering = 0
            self.disposing += len(transfer.held)
            self.after_return()

    def evict(self, transfer: PlainTransfer, is_idle: bool = False) -> int:
        def is_one() -> bool:
            too_many = self.existing - self.disposing - self.limit
            keep = 0 if self.closed else max(self.reserve if is_idle else self.keep, self.laid_by)
            return len(self.spares) > keep or (len(self.spares) > max(self.reserve, self.laid_by) and too_many > 0)

        while not self.servable and transfer.missing and is_one():
            transfer.held.append(self.spares.pop())
            transfer.is_surplus = True
            self.disposing += 1
        return len(transfer.held)

    def disposed_one(self, transfer: PlainTransfer, fill: PlainTransfer) -> None:
        if not transfer.held:
            return
        if self.starved:
            self.begin_fill(fill)
        transfer.held.pop(0)
        if self.disposing:
            self.disposing -= 1
            self.disposed += 1
        self.retry_head_now()

    def join(self, ticket: PlainTransfer, slots: int) -> int:
        if self.closed:
            return IS_CLOSED
        if not self.servable and self.free_spares >= ticket.missing:
            self.from_line += ticket.missing
            while ticket.missing:
                ticket.held.append(self.spares.pop())
            ticket.state = SERVED
            return HAS_ALL
        if self.dismissed:
            return IS_CLOSED
        if ticket.wanted > max(1, self.limit):
            return IS_TOO_MANY
        if len(self.line) >= self.waiting_max:
            return IS_FULL
        self.capacity = max(self.capacity, slots)
        self.line.append(ticket)
        self.joined += 1
        was_first = self.line[0] is ticket
        if self.asked:
            self.serve()
        while ticket.held:
            self.spares.append(ticket.held.pop())
            self.serve()
        self.after_return()
        if not was_first:
            self.retry_head_now()
        return IN_LINE

    def withdraw(self, ticket: PlainTransfer) -> bool:
        if ticket not in self.line:
            return False
        was_first, was_next = self.line[0] is ticket, self.servable[:1] == [ticket]
        self.gone(ticket)
        ticket.state = WITHDRAWN
        if was_first or was_next:
            self.serve()
        if was_first:
            self.retry_head_now()
        return True

    def retarget(self, reserve: int | None, keep: int | None, limit: int | None, slots: int, fill: PlainTransfer) -> int:
        if self.closed:
            return IS_CLOSED
        reserve = self.reserve if reserve is None else reserve
        limit = self.limit if limit is None else limit
        if keep is not None and keep < reserve:
            return KEEP_TOO_LOW
        if limit < reserve:
            return LIMIT_TOO_LOW
        given = self.keep_given if keep is None else keep
        new_keep = 2 * reserve if given is None else max(given, reserve)
        if new_keep > max(self.capacity, slots):
            raise ValueError
        grew, raised = reserve > self.reserve, limit > self.limit
        self.capacity = max(self.capacity, slots)
        self.reserve, self.keep, self.keep_given, self.limit = reserve, new_keep, given, limit
        self.resizes += 1
        if grew:
            self.begin_fill(fill)
        head, following = self.line[:1], self.servable[:1]
        for ticket in [ticket for ticket in self.line if ticket.wanted > max(1, limit)]:
            self.gone(ticket)
            ticket.state = IMPOSSIBLE
            self.to_wake.append(ticket)
        if self.line[:1] != head or self.servable[:1] != following:
            self.serve()
        if self.line[:1] != head or raised:
            self.retry_head_now()
        return GROWN if grew else CHANGED

    def close(self) -> None:
        self.closed = True
        self.end_line()

    def dismiss(self) -> None:
        self.dismissed = True
        self.end_line()
        self.to_wake += self.drainers

    def watch_drain(self, ticket: PlainTransfer, watch: bool) -> bool:
        self.drainers = [other for other in self.drainers if other is not ticket] + [ticket] * watch
        return self.out == 0

    def after_fork(self, survivor: int, fills: int) -> None:
        for ticket in self.line:
            if ticket.thread != survivor:
                ticket.state = WITHDRAWN
        self.line = [ticket for ticket in self.line if ticket.thread == survivor]
        self.drainers = [ticket for ticket in self.drainers if ticket.thread == survivor]
        self.permits = self.filling = self.asked = 0
        self.fills, self.starved = fills, False
        self.disposed += self.disposing
        self.disposing = 0
        self.serve()
        self.retry_head_now()
