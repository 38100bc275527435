"""PoolEngine: the engine of a pool that several processes share, as the face of every pool knows it (mempool/engine.py).

What is decided, the shared words decide (decisions.py). Here is what one process adds: tickets and buffers, who waits in it,
when the head of the line asks for memory, and a thread that looks around while anybody waits.

Who owns an element, line by line: the shared words say which process has leased it, and if that one is killed it is
reclaimed, wherever it was. Within the process it is a ticket's (ticket.pxi) until its buffer is alive, and the buffer's from
then on; both return it when they are dropped.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import EllipsisType
from typing import Any

from mempool import lifecycle, messages, native
from mempool._core import IMPLEMENTATION, Transfer
from mempool.buffer import Block, Buffer, entrust, handle_of, prepare, revoke
from mempool.clock import SYSTEM_CLOCK, Clock
from mempool.engine import NEVER, SERVED, WAIT_BUCKETS, Snapshot, Tracker, UnderWay, Waker
from mempool.errors import DoubleFree, ForeignElement, LineFull
from mempool.shared import decisions, killed, lookout, passing
from mempool.shared._engine import Region
from mempool.shared.doors import Doors
from mempool.shared.engine import SharedEngine
from mempool.shared.errors import ClientGone
from mempool.shared.killed import Reclaimed
from mempool.shared.layout import FROM_LINE, HISTOGRAM, MADE, OUTCOMES, RESIZES
from mempool.shared.owner import Owner
from mempool.shared.targets import check_targets
from mempool.shared.ticket import Ticket
from mempool.sizes import in_words

#: Seconds: when the head of the line asks by itself, first and at last, and the soonest after a failure; how long memory
#: that was lacking is left alone, first and at last.
ASK_FIRST, ASK_LAST, ASK_SOONEST, REST_FIRST, REST_LAST = 0.05, 5.0, 0.001, 0.001, 0.05
#: How a ticket takes: see Ticket.take_one.
SPARES, ANYTHING, NEW_MEMORY = range(3)

#: Engines that have offered something: alive though nobody refers to the pool. (What is out keeps its engine itself.)
in_use: dict[int, PoolEngine] = {}

#: The greatest target that its word has room for.
MOST = (1 << 21) - 1


class PoolEngine:
    """An Engine; see there what each call promises.

    client: this process' share in the file. waiting_max: how many may wait. on_reclaim: called with the killed
    processes whose elements this one has reclaimed.
    """

    def __init__(
        self,
        client: SharedEngine,
        tracker: Tracker,
        *,
        waiting_max: int | None = None,
        on_reclaim: Callable[[Reclaimed], object] | None = None,
    ) -> None:
        self.name: str = client.name
        self.called: str = messages.called(client.name)
        self.client = client
        self.clock: Clock = SYSTEM_CLOCK
        self.tracker: Any = tracker
        self.under_way: dict[tuple[int, object], UnderWay] = {}
        self.owner: Owner = Owner(self)
        self._tx = client._tx
        self._check_out: Callable[..., bool] | None = None  # compiled, where no Python code records who holds what
        if IMPLEMENTATION != "pure" and not tracker.knows_holders:
            from mempool.shared._quick import check_out

            self._check_out = check_out
        self._waiting_max = waiting_max
        self._on_reclaim = on_reclaim
        self._blocks: dict[int, Block] = {}  # by slot: made at its first lease in this process
        self._lingering: dict[int, weakref.ref[Buffer]] = {}
        self._offered: set[int] = set()  # slots that this process has offered, and maybe is responsible for still
        self._offering: dict[Ticket, None] = {}  # of offers under way, which nobody can see yet
        self._waiting: dict[Ticket, None] = {}  # those of this process, in their order
        self._draining: dict[Ticket, Waker] = {}
        self._doors = Doors(client._tx)
        self._listener: object | None = None
        self._is_ending = self._is_closed_here = False
        self._fills = 0
        self._failures = 0
        self._said: str | None = None
        self._failed_at = self._rests_until = -NEVER
        self._rest_seconds = 0.0
        begin_anew = weakref.WeakMethod(self._begin_anew)
        client.on_fork = lambda: None if (method := begin_anew()) is None else method()
        lifecycle.register(self)
        self._set_gates()

    def quick(self) -> Any:
        """The quick way of `alloc` and `free`; None: uncompiled, or where Python code records who holds what."""
        if IMPLEMENTATION == "pure" or self.tracker.knows_holders:
            return None
        from mempool.shared._quick import SharedQuick

        return SharedQuick(self, self._tx, self.owner)

    def _set_gates(self) -> None:
        """What the slow way alone looks after shuts the quick one. What is offered: whether it is still this process'."""
        while True:
            gates = self._gates()
            self._tx.may_take, self._tx.may_give = gates
            if gates == self._gates():
                return  # else another thread, or a handler, has shut what was computed before

    def _gates(self) -> tuple[bool, bool]:
        is_open = not self._is_closed_here
        return is_open and not self._is_ending, is_open and not (self._draining or self._offered)

    # -- memory

    def _rests(self) -> bool:
        return self._rest_seconds > 0 and self.clock.now() < self._rests_until

    def _note_memory(self, failures: int) -> None:
        """Whether there was memory since there had been so many failures."""
        if self._tx.failures == failures:
            return
        now = self.clock.now()
        self._failures += 1
        self._said = self._said or "MemoryError: its file system is full"
        self._failed_at = now
        if now >= self._rests_until:
            self._rest_seconds = min(2 * self._rest_seconds, REST_LAST) or REST_FIRST
            self._rests_until = now + self._rest_seconds

    def _end_rest(self) -> None:
        self._rest_seconds, self._rests_until = 0.0, -NEVER

    def _require_open(self) -> None:
        if self._is_closed_here or self._tx.look()[6]:
            raise messages.closed(self.called)
        if self._is_ending:
            raise messages.ending(self.called)

    # -- taking

    def ticket(self, wanted: int) -> Ticket:
        """See Engine."""
        return Ticket(self._tx, wanted)

    def take_ready(self, ticket: Ticket, *, may_wait: bool) -> bool | None:
        """See Engine."""
        self._require_open()
        if may_wait and self._tx.look()[5] > 0:
            ticket.refused = True
            return False
        if self._rests() and ticket.take(SPARES):
            return True
        return None

    def ask(self, ticket: Ticket) -> None:
        """See Engine. Its spares are taken in the same steps, beyond the reserve before, of it after."""
        failures, made = self._tx.failures, self._tx.made_here
        if not ticket.take(ANYTHING) and self._tx.failures == failures and self._tx.look()[5] > 0:
            ticket.take(NEW_MEMORY)
        self._note_memory(failures)
        if self._tx.made_here != made:
            self._end_rest()

    @contextlib.contextmanager
    def _closed_meanwhile(self) -> Iterator[None]:
        """Another thread may close this process' share at any moment, and it leaves: that is PoolClosed for who takes."""
        try:
            yield
        except ClientGone:
            if self._is_closed_here:
                raise messages.closed(self.called) from None
            raise

    def try_take(self, ticket: Ticket, *, ask_source: bool, may_wait: bool = False) -> bool:
        """See Engine."""
        with self._closed_meanwhile():
            return self._try_take(ticket, ask_source=ask_source, may_wait=may_wait)

    def _try_take(self, ticket: Ticket, *, ask_source: bool, may_wait: bool) -> bool:
        if ticket.wanted == 0:
            self._require_open()
            return bool(ticket.take(SPARES))
        if not ask_source:
            self._require_open()
            return bool(ticket.take(SPARES))
        ready = self.take_ready(ticket, may_wait=may_wait)
        if ready is None:
            self.ask(ticket)
            ready = ticket.state == SERVED
            self._require_open()
        return ready

    def pass_on(self, giver: Ticket, receiver: Ticket) -> None:
        """See Engine. Not needed: memory is asked for in the caller's own thread."""
        raise NotImplementedError(f"{self.called}: nobody else asks for a caller")

    def checking(self, ticket: Ticket) -> None:
        """See Engine."""

    def check_out(self, ticket: Ticket) -> None:
        """See Engine."""
        try:
            if self._check_out is not None and self._check_out(self._tx, ticket, self):
                return
            # First buffers that are not alive yet: if there is no memory for one, the ticket has all elements still.
            ticket.elements = [handle_of(self.block_of(handle.slot)) for handle in ticket.handles]
            for buffer, handle in zip(ticket.elements, ticket.handles, strict=True):
                self._tx.lend(buffer.block.region, handle, self)
                buffer.begin()
        except ClientGone:
            if self._is_closed_here:
                raise messages.closed(self.called) from None
            raise
        self.tracker.record(ticket.elements, self.clock.now())
        ticket.let_go()

    def block_of(self, slot: int) -> Block:
        """The memory of a slot in this process: one object as long as the engine lives, so that views can be compared."""
        block = self._blocks.get(slot)
        if block is None:
            block = Block(Region(self._tx, slot), self.owner)
            block.owner = self.owner
            self._blocks[slot] = block
            self._tx.know(slot, block)
        return block

    # -- the line

    def enqueue(self, ticket: Ticket, waker: Waker) -> None:
        """See Engine."""
        with self._closed_meanwhile():
            self._enqueue(ticket, waker)

    def _enqueue(self, ticket: Ticket, waker: Waker) -> None:
        self._require_open()
        waiting = self._tx.look()[5]
        if self._waiting_max is not None and waiting >= self._waiting_max and not ticket.take(SPARES):
            raise LineFull(f"{self.called}: {messages.in_line(waiting)} already, as max_waiting allows; try again later")
        ticket.waker, ticket.owner = waker, waker.owner
        got = self._set_aside(ticket)
        self._waiting[ticket] = None
        try:
            self._join(ticket)
            is_looked_after = lookout.have_woken(self, ticket, waker)
            got.give_back()  # when it stands in line: to those before it, or to itself, but to nobody else
        except BaseException:
            self._waiting.pop(ticket, None)
            ticket.owner = None
            raise
        if not ticket.is_first():
            self._have_head_retry()  # who comes may bring what it lacks
        elif ticket.refused and waiting == 0:
            ticket.retry_now = True  # it came after others who have gone: nobody has asked for it
        if not is_looked_after:
            self._listen()

    def _set_aside(self, ticket: Ticket) -> Ticket:
        """A ticket with what this one has got, which is then without: who waits holds nothing back from those before him."""
        aside = self.returning(())
        for number, handle in enumerate(ticket.handles):
            if handle.lease:
                aside.handles.append(handle)
                ticket.handles[number] = self._tx.handles(1)[0]
        return aside

    def _join(self, ticket: Ticket) -> None:
        outcome = ticket.join()
        if outcome == decisions.CLOSED:
            raise messages.closed(self.called)
        if outcome == decisions.TOO_MANY:
            raise messages.too_many(self.called, ticket.wanted, "the limit has just been lowered")
        if outcome == decisions.FULL:
            raise LineFull(
                f"{self.called}: {messages.in_line(self.client.layout.places)} already, as many as its file was made for; "
                "try again later, or make it anew with more places"
            )

    def poll(self, ticket: Ticket, now: float, begin: Callable[[Callable[[], object]], object] | None = None) -> float:
        """See Engine."""
        if not ticket.is_first():
            return NEVER
        if ticket.ask_at is None:
            ticket.ask_after = ASK_FIRST
            ticket.ask_at, ticket.rest_until = now + ASK_FIRST, now
        ticket.retry_now |= ticket.has_news()
        due = ticket.ask_at
        if ticket.retry_now:
            soonest = now + max(0.0, self._failed_at + ASK_SOONEST - self.clock.now())
            due = min(due, max(ticket.rest_until, soonest))
        if now < due:
            return due
        if now >= ticket.ask_at:
            ticket.ask_after = min(2 * ticket.ask_after, ASK_LAST)
            ticket.ask_at = now + ticket.ask_after
        else:
            ticket.retry_now = False
        (begin or operator.call)(functools.partial(self._ask_for_head, ticket, now))
        return now

    def _ask_for_head(self, ticket: Ticket, now: float) -> None:
        """New memory for the first in line, which may be served by that; then the next one asks."""
        began = self.clock.now()
        failures = self._tx.failures
        for _ in range(ticket.lacking()):
            if self._tx.grow_by_one(decisions.FOR_LINE) is not True:
                break
            self._end_rest()
            if ticket.is_settled():
                break
        self._note_memory(failures)
        ticket.rest_until = now + 2 * (self.clock.now() - began)
        ticket.ask_at = max(ticket.ask_at or 0.0, ticket.rest_until)

    def _have_head_retry(self) -> None:
        """There is news: the first in line asks for memory, in whatever process it waits."""
        for ticket in [ticket for ticket in list(self._waiting) if ticket.place >= 0][:1]:
            ticket.retry_now = True
            ticket.wake()
        self._tx.tell_head()

    def dequeue(self, ticket: Ticket, waker: Waker, outcome: int | None, seconds: float) -> None:
        """See Engine."""
        ticket.leave()
        ticket.owner = waker.on_gone = None  # a lease has its ticket: one that a task has returned would keep both for good
        if ticket.door is not None:
            ticket.door.forget(ticket)
        if self._waiting.pop(ticket, self) is None:
            if outcome is not None:
                self._tx.note_wait(outcome, bisect.bisect_left(WAIT_BUCKETS, seconds), seconds)
            if self._waiting:
                self._have_head_retry()
            if self._is_closed_here:
                self._after_return()

    def queue(self) -> Sequence[Ticket]:
        """See Engine. Those of this process."""
        return list(self._waiting)

    # -- giving back

    def cancel(self, ticket: Ticket) -> None:
        """See Engine."""
        for buffer in ticket.elements:
            if buffer.is_alive() and not buffer.block.is_lost:
                self._take_from(ticket, buffer)
        for handle in ticket.handles:  # one that was lent may not have been alive yet
            block = self._blocks.get(handle.slot)
            if block is not None and handle.lease and block.region.lease == handle.lease:
                self._tx.take_back(block.region)
        self.tracker.forget(ticket.elements)
        ticket.give_back()
        self._waiting.pop(ticket, None)
        self._after_return()

    def _take_from(self, ticket: Ticket, buffer: Buffer) -> None:
        """This buffer, which nobody looks at, dies; the ticket has its element. The ticket first: see this module's text."""
        region = buffer.block.region
        ticket.handles.append(region.handle)
        buffer._forsake()
        self._tx.take_back(region)

    def _after_return(self) -> None:
        """Something has come back: who waits for that is told; a process that has ended its share leaves with the last."""
        is_responsible = bool(self._offering) or passing.is_responsible(self, self._offered)
        if not is_responsible:
            in_use.pop(id(self), None)
            if not self._tx.may_give:
                self._set_gates()
        # Not while another thread gets memory or gives it back: it comes here when it has done so.
        is_busy = self._tx.being_made or self._tx.disposing
        if self._is_closed_here and not (self._tx.out or is_responsible or self._waiting or is_busy):
            self.client.detach()
        if self._draining and self.snapshot().out == 0:
            for waker in list(self._draining.values()):
                waker.wake()

    def is_closed_here(self) -> bool:
        """Whether this process takes no more."""
        return self._is_closed_here

    def note_offer(self, slot: int) -> None:
        """This slot is offered in the next step: until it is adopted, this process stays with the pool."""
        self._offered.add(slot)
        in_use[id(self)] = self
        self._set_gates()

    def out_here(self) -> int:
        """How many elements are out in this process, or offered by it and not adopted yet."""
        passing.is_responsible(self, self._offered)
        return int(self._tx.out) + len(self._offered)

    def abandon(self, ticket: Ticket) -> None:
        """See Engine."""
        self.cancel(ticket)

    def returning(self, elements: Sequence[Any]) -> Ticket:
        """See Engine."""
        ticket = Ticket(self._tx, 0)
        ticket.elements = list(elements)
        return ticket

    def give(self, ticket: Ticket, *, linger: bool = False, broken: bool = False) -> int:
        """See Engine."""
        transfer = Transfer(len(ticket.elements))
        for element in ticket.elements:
            if type(element) is not Buffer or element.block.owner is not self.owner:
                raise self._foreign(element)
            transfer.hold(element)
        unfit = prepare(transfer, self.owner, linger)
        if unfit is not None:
            raise self._unfit(unfit, transfer)
        for element in ticket.elements:
            if not element.block.is_lost:
                self._tx.check(element.block.region.handle)
        known = self.tracker.forget(ticket.elements)
        viewed = revoke(transfer, linger)
        if viewed is not None:
            self.tracker.restore(transfer.held(), known)
            raise self._unfit(viewed, transfer)
        ticket.elements = []
        total = self._end(ticket, transfer)
        if broken:
            while ticket.handles:
                self._tx.scrap(ticket.handles[-1])
                ticket.handles.pop()
        bared = ticket.give_back()
        self._after_return()
        if bared or broken:
            self._have_head_retry()  # there is room under the limit
        return int(total - bared)

    def _end(self, ticket: Ticket, transfer: Transfer) -> int:
        """The ticket has what this transfer held, but for what lingers. How many it has."""
        total = 0
        for buffer in transfer.held():
            if buffer.block.is_lost:
                buffer._forsake()
            elif buffer.lingers:
                self._lingering[id(buffer)] = weakref.ref(buffer)
                _leave_to_views(buffer)
            else:
                self._take_from(ticket, buffer)
                total += 1
        return total

    def take_dropped(self, dropped: list[Buffer]) -> str:
        """A buffer that is out was dropped. Called by its finalizer, where what is raised is swallowed. Returns a
        warning.
        """
        ticket, buffer = self.returning(()), dropped[0]
        lingered, site = buffer.lingers, self.tracker.site_of(buffer)
        buffer.lingers = False
        if buffer.block.is_lost:
            buffer._forsake()
        else:
            self._take_from(ticket, buffer)
        dropped.pop()
        self._lingering.pop(id(buffer), None)
        self.tracker.forget([buffer])
        ticket.give_back()
        self._after_return()
        if lingered or buffer.block.is_lost:
            return ""
        where = "" if site is None else f", taken at {site}"
        return f"{self.called}: a buffer was dropped while it was out{where}; free it, or use `with pool.lease()`"

    def _foreign(self, element: object) -> ForeignElement:
        if element is None:
            return ForeignElement(f"{self.called}: None is no element; free what `alloc` returned")
        return ForeignElement(
            f"{self.called}: this {messages.describe(element)} is not out of this pool in this process; free an element to "
            "the pool that gave it"
        )

    def _unfit(self, buffer: Buffer, transfer: Transfer) -> Exception:
        """Why this buffer cannot be freed."""
        if not buffer.is_alive() or sum(other is buffer for other in transfer.held()) > 1:
            what = messages.describe(buffer)
            return DoubleFree(f"{self.called}: this {what} was freed already; free an element once, or use a lease")
        views = buffer.views()
        return BufferError(
            f"{self.called}: this buffer is still viewed through {views} view{messages.s(views)}: a slice such as buf[:n] "
            "or an array still looks at it; use `with buf[:] as view:` inside the lease, `del` it before the block ends, or "
            "lease(linger=True) or free(buf, linger=True), which return it when the last view ends"
        )

    def discard(self, ticket: Ticket) -> None:
        """See Engine. Its memory goes back to the system; where the promise needs it, there is new memory instead."""
        self._fills += 1
        try:
            self.give(ticket, broken=True)
            self._fill(decisions.BEYOND_OUT)
        finally:
            self._fills -= 1

    def write_off(self, lost: Any) -> None:
        """See Engine. What a killed process held is reclaimed by itself, and nothing else can be lost."""
        raise TypeError(
            f"{self.called}: nothing of a shared pool is written off: what a killed process held is reclaimed by itself; "
            "free or discard what this one holds"
        )

    def write_off_all(self) -> int:
        """See Engine. A child of a fork has nothing out: its parent has."""
        return 0

    def notice_lost(self) -> None:
        """See Engine. What killed processes had is returned; buffers know themselves when they are dropped."""
        with self._closed_meanwhile():
            self.reclaim()

    # -- the targets

    def resize(self, reserve: int | None, keep: int | None, limit: int | None | EllipsisType) -> None:
        """See Engine."""
        self.settle(self.retarget(reserve, keep, limit))

    def settle(self, grew: bool) -> None:
        """After new targets: wake who waits, make what lacks, and give back what is too much."""
        self._tx.ring_all()
        for ticket in list(self._waiting):
            ticket.wake()  # the limit may be less than it wants
        self._have_head_retry()
        if grew or not any(ticket.is_first() for ticket in list(self._waiting)):
            # For the line, too: its head waits in another process, which is not told that the limit was raised.
            self._fill(decisions.FOR_RESERVE if grew else decisions.FOR_LINE)
        self._tx.shrink()
        if self._tx.look()[3] < self._tx.look()[0]:
            self._fill(decisions.BEYOND_OUT)  # what was punched here took the room of another's grow
        self._after_return()

    def retarget(self, reserve: int | None, keep: int | None, limit: int | None | EllipsisType) -> bool:
        """New targets at one moment. Whether the reserve grew. `settle` does the rest."""
        with self._closed_meanwhile():
            return self._retarget(reserve, keep, limit)

    def _retarget(self, reserve: int | None, keep: int | None, limit: int | None | EllipsisType) -> bool:
        self._require_open()
        while True:
            word, old_reserve, old_keep, old_limit, followed = self._tx.targets()
            new_reserve = old_reserve if reserve is None else reserve
            follows = keep is None and followed
            new_keep = keep if keep is not None else 2 * new_reserve if follows else old_keep
            most = self.client.layout.slots
            new_limit = old_limit if limit is ... else most if limit is None else limit
            check_targets(self.called, most, new_reserve, new_reserve if keep is None else keep, new_limit)
            if self._tx.exchange(word, new_reserve, min(new_keep, MOST), min(new_limit, most), follows):
                self._tx.note(RESIZES)
                return new_reserve > old_reserve

    def refill(self, seconds: float = NEVER) -> None:
        """See Engine."""
        if self._is_closed_here:
            raise messages.closed(self.called)
        with self._closed_meanwhile():
            self._fill(decisions.BEYOND_OUT, until=self.clock.now() + seconds)

    def trim(self, spares: int) -> int:
        """See Engine."""
        with self._closed_meanwhile():
            trimmed = self._tx.trim(max(0, spares))
        if trimmed:
            self._have_head_retry()
        if self._is_closed_here:
            self._after_return()
        return trimmed

    def fill_or_raise(self) -> None:
        """Make the reserve of a pool that has just been made. Raises MemoryError."""
        if not self._fill(decisions.ALONE):
            now = self.client.snapshot()
            raise MemoryError(
                f"{self.called}: {now.spare} of {now.reserve} elements were made, and are disposed of: no room for "
                f"{in_words(self.client.layout.stride)} more in {self.client.path.parent}; enlarge that file system "
                "(docker run --shm-size), or promise less"
            )

    def _fill(self, goal: int, until: float = NEVER) -> bool:
        """Memory for what is lacking. Whether there was enough. until: when the rest is left."""
        self._fills += 1
        failures = self._tx.failures
        try:
            while True:
                grown = self._tx.grow_by_one(goal)
                if grown is not True:
                    return grown is None
                self._end_rest()
                if until != NEVER and self.clock.now() >= until:
                    return True
        finally:
            self._fills -= 1
            self._note_memory(failures)
            if self._is_closed_here:
                self._after_return()

    # -- looking

    def snapshot(self) -> Snapshot:
        """See Engine. Of all processes, but for what only its own can know: what lingers, and what is being made."""
        now = self.client.snapshot()
        counts, nanoseconds, longest = self._tx.totals()
        being_made, disposing = self._tx.being_made - self._tx.filling + now.filling, self._tx.disposing
        existing = now.made - being_made
        spare = now.spare + now.gathered  # what the first in line has gathered is nobody's else's, and not out yet
        lacking, out = max(0, now.reserve - spare), max(0, existing - spare - disposing)
        closed = now.closed or self._is_closed_here
        owed = 0 if closed else min(lacking, out)
        return Snapshot(
            reserve=now.reserve,
            keep=max(now.keep, now.reserve),
            limit=None if now.limit >= self.client.layout.slots else now.limit,
            closed=closed,
            spare=spare,
            out=out,
            lingering=len(self._lingering),
            made=counts[MADE],
            disposed=counts[MADE] - existing,
            disposing=disposing,
            written_off=0,
            being_made=being_made,
            owed=owed,
            filling=lacking - owed if (self._fills or now.filling) and not closed else 0,
            waiting=now.waiting,
            from_spare=counts[decisions.FROM_SPARES],
            from_source=counts[decisions.FROM_SOURCE],
            from_reserve=counts[decisions.FROM_RESERVE],
            from_line=counts[FROM_LINE],
            resizes=counts[RESIZES],
            waits=tuple(counts[OUTCOMES:HISTOGRAM]),
            wait_histogram=tuple(counts[HISTOGRAM:]),
            wait_seconds_total=nanoseconds / 1e9,
            wait_seconds_max=longest / 1e9,
            source_failures=self._failures,
            source_said=self._said,
            source_rests=max(0.0, self._rests_until - self.clock.now()),
            level=None,
            offered=now.offered,
        )

    def remarks(self) -> list[str]:
        """See Engine: what each process holds."""
        said = []
        if self._lingering:
            said.append(messages.lingering(len(self._lingering), []))
        quarantined = self.client.snapshot().quarantined
        if quarantined:
            said.append(
                f"{quarantined} {messages.are(quarantined)} in quarantine, because a process was killed that had "
                f"{'it' if quarantined == 1 else 'them'}: adopt what `quarantined()` names, and free it"
            )
        try:
            held, offered = self.client.held(), self.client.offered()
        except TimeoutError:
            return said
        for user in self.client.clients():
            whose = "this process" if user.number == self._tx.me else f"process {user.pid}"
            offers, to_adopt = offered.get(user.number, (0, 0))
            if held.get(user.number):
                said.append(f"{whose} holds {held[user.number]}")
            if offers:
                said.append(f"{whose} has offered {offers} that nobody has adopted yet")
            if to_adopt:
                said.append(f"{whose} has {to_adopt} to adopt that {messages.are(to_adopt)} addressed to it")
        return said

    def watch_drained(self, ticket: Ticket, waker: Waker | None) -> bool:
        """See Engine: nothing is out in any process."""
        if waker is None:
            self._draining.pop(ticket, None)
            self._set_gates()
        else:
            self._draining[ticket] = waker
            self._set_gates()
            self._listen()
        return self.snapshot().out == 0

    # -- looking around

    def _listen(self, waited: float = 0.0) -> None:
        """One thread looks around for all who wait here. It ends when nobody does."""
        if self._listener is None:
            lookout.begin(self, waited)

    def is_awaited(self) -> bool:
        """Whether somebody waits here."""
        return bool(self._waiting or self._draining)

    def look_around(self) -> None:
        """Wake whoever was served, or has become the first; and return what killed processes had."""
        self._tx.pump()
        for ticket in list(self._waiting):
            is_told = ticket.has_news()
            ticket.retry_now |= is_told
            if is_told or ticket.is_settled() or (ticket.ask_at is None and ticket.is_first()):
                ticket.wake()
        self.reclaim()
        if self._draining:
            self._after_return()

    def reclaim(self) -> Reclaimed:
        """Return what killed processes had. Which those were."""
        reclaimed = self.client.reap_dead()
        if reclaimed:
            self._tx.ring_all()
            killed.tell(self._on_reclaim, reclaimed, self.called)
        if self._is_closed_here:
            self._after_return()
        return reclaimed

    # -- the end

    def close(self) -> None:
        """See Engine: for all processes."""
        with self._closed_meanwhile():
            self._tx.close()
        self._tx.ring_all()
        for ticket in list(self._waiting):
            ticket.wake()

    def close_here(self) -> None:
        """This process takes no more: who waits in it is told, and it leaves when the last that it has out is returned."""
        self._is_closed_here = True
        self._set_gates()
        self._dismiss()
        self._after_return()

    def _dismiss(self) -> None:
        for ticket in list(self._waiting):
            ticket.is_dismissed = True
            ticket.wake()

    def finish(self) -> None:
        """See Engine. Its thread only looks around."""

    def is_ending(self) -> bool:
        """See Engine."""
        return self._is_ending

    def end_waiting(self) -> None:
        """See Engine."""
        self._is_ending = True
        self._set_gates()
        self._dismiss()
        for waker in list(self._draining.values()):
            waker.wake()
        is_busy = self._waiting or self._tx.being_made or self._tx.disposing
        # What threads have out is theirs until they have ended; then this is called again, where they are waited for.
        if lifecycle.ends_at_once() and not is_busy and not (self._tx.out and native.has_other_threads()):
            self.client.detach()

    def after_fork(self) -> Callable[[], None] | None:
        """See Engine. It attaches anew at its first use, if there is one."""
        self._forget_parent()
        return None

    def _begin_anew(self) -> Callable[[], object]:
        """In a child that has just attached. What tells of the killed processes that it has met."""
        self._forget_parent()
        return functools.partial(killed.tell, self._on_reclaim, self.client.reaped, self.called)

    def _forget_parent(self) -> None:
        """In a child: what is out is the parent's, who alone can return it; nobody else waits here."""
        for block in self._blocks.values():
            if block.region.lease:
                block.lose()
        self._tx.lose_all()  # before the blocks go
        self._blocks, self._lingering, self._offered, self._offering = {}, {}, set(), {}
        self._waiting, self._draining, self._listener = {}, {}, None
        self._doors.close_inherited()
        self._doors = Doors(self._tx)
        self._fills = 0
        self.under_way.clear()
        in_use.pop(id(self), None)
        self._set_gates()


def _leave_to_views(buffer: Buffer) -> None:
    """Only its views keep this buffer from now on. Compiled, they do already."""
    if IMPLEMENTATION == "pure":
        transfer: Any = Transfer(1)
        transfer.hold(buffer)
        transfer.first = 1
        entrust(transfer)
