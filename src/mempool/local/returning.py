"""Returning: what comes back from users, and what a call that failed had taken.

Each call here may be done again after an exception has cut it short, and then finishes what it began: the transfer tells how
far it came.
"""

from __future__ import annotations

import functools
import itertools
import logging
import operator
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from mempool import messages
from mempool._core import Decisions, Ends, Ticket, Transfer
from mempool._core.base_decisions import renew_locks
from mempool.buffer import Buffer, entrust, has_lost, prepare, revoke
from mempool.engine import Tracker
from mempool.errors import DoubleFree, ForeignElement
from mempool.lease import Lease
from mempool.local.supply import Supply
from mempool.messages import describe
from mempool.native import WITHOUT_GIL
from mempool.sources.moves import move
from mempool.viewers import viewers

#: Addresses of elements written off that are remembered, for the message to whoever frees one after all.
WRITTEN_OFF_NAMED = 4096
#: Lingering buffers whose viewers `why_empty` names.
LINGERING_NAMED = 8

log: logging.Logger = logging.getLogger("mempool")


class Returning(Ends):
    """Takes elements back: into the state, to the line, or to the source."""

    __slots__ = (
        "_abandoned",
        "_abandoning",
        "_lingering",
        "called",
        "supply",
        "tracker",
        "written_off",
    )

    def __init__(self, core: Decisions, called: str, supply: Supply, tracker: Tracker) -> None:
        super().__init__(core)
        self.called: str = called
        self.supply: Supply = supply
        self.tracker: Tracker = tracker
        self.written_off: deque[int] = deque(maxlen=WRITTEN_OFF_NAMED)  # addresses
        self._lingering: dict[int, weakref.ref[Buffer]] = {}  # by the identity of the handle that is kept by views
        self._abandoned: deque[Transfer] = deque()
        self._abandoning: deque[int] = deque([0])

    # -- what a call had taken

    def undo_call(self, transfer: Transfer, *, again: bool = False) -> None:
        """Return what this transfer holds, wherever its call failed. again: a first try was interrupted."""
        self.core.cancel(transfer)
        self.core.complete(transfer, False)
        self.core.retract(transfer)
        if self.tracker.knows_holders:
            self.tracker.forget(transfer.held())
        is_to_be_reset = transfer.checked and not transfer.is_surplus and self.supply.reset is not None
        if is_to_be_reset and not self._reset_later(transfer):
            # What a check leaves behind (zeros, in place of a pattern) is not what it wants to find the next time.
            try:
                for element in transfer.held():
                    self.supply.reset(element)  # type: ignore[misc]  # it is not None
                transfer.checked = False
            except BaseException as error:
                if again or not isinstance(error, MemoryError):
                    self.core.mark_surplus(transfer)
                    self.supply.dispose(transfer)
                raise
        if has_lost(transfer):
            self.core.mark_surplus(transfer)
        self.core.take_back(transfer)
        self.supply.dispose(transfer)
        if transfer.wanted > 1 and isinstance(transfer, Ticket):
            self.supply.dispose_surplus()  # what it had gathered and nobody else waits for

    def abandon(self, ticket: Transfer) -> None:
        """Cancel the ticket of a caller whose event loop is closed: what it got goes to the next in line."""
        self._abandoned.append(ticket)
        # If cancelling this ticket served one whose loop is closed, too, this method would call itself, as deep as there are
        # such tickets; hence a queue, which the first call empties.
        errors: list[Exception] = []
        while self._abandoned:
            token: deque[int] = deque()
            try:
                move(self._abandoning, token)
                if not token:
                    break  # whoever has it sees to this one, too
                while self._abandoned:
                    try:
                        self.cancel(self._abandoned[0])
                    except Exception as error:  # noqa: BLE001 - raised below, when all are returned
                        errors.append(error)
                    self._abandoned.popleft()
            finally:
                move(token, self._abandoning)
        if errors:
            raise errors[0]

    # -- what a user gives back

    def give(self, transfer: Transfer, *, revoking: bool = True, broken: bool = False, lingering: bool = False) -> int:
        """Take back what a user returns. Returns how many were kept or given to the line. A second call finishes the first.

        revoking: the handles of buffers die; see buffer.py. broken: nobody else shall get them. lingering: what is viewed
        goes out again, kept by its views.
        """
        total = transfer.count - transfer.first
        if not total:
            return 0
        if self.core.is_deciding():
            again = functools.partial(self.give, transfer, revoking=revoking, broken=broken, lingering=lingering)
            self.core.later.append(functools.partial(self._give_late, again))
            return total
        is_reset = self.supply.reset is None and not broken
        known: list[Any] = []
        transfer.checked = False  # a user has had them since
        try:
            if not transfer.are_owners():
                unfit = prepare(transfer, self.core.owner, lingering) if revoking else None
                if unfit is not None:
                    raise self.unfit(unfit, transfer)
                if not self.core.check_in(transfer):
                    raise self.not_out(transfer.held())
            if self.tracker.knows_holders:
                known = self.tracker.forget(transfer.held())
            if revoking:
                viewed = revoke(transfer, lingering)
                if viewed is not None:
                    self._undo_check_in(transfer, known)
                    raise self.unfit(viewed, transfer)
            if lingering:
                self._linger(transfer)
                total = transfer.count - transfer.first
            if broken:
                self.core.mark_surplus(transfer)
            elif self.supply.reset is not None:
                if self._reset_later(transfer):
                    return total
                for element in transfer.held():
                    self.supply.reset(element)
                is_reset = True
            if has_lost(transfer):
                self.core.mark_surplus(transfer)  # in a child of a fork: there is no memory to keep
            self.core.take_back(transfer)
            kept = total - (transfer.count - transfer.first)
            self.supply.dispose(transfer)
        except BaseException:
            try:
                self._finish_give_back(transfer, known, is_reset, revoking, lingering)
            except MemoryError:
                self._finish_give_back(transfer, known, is_reset, revoking, lingering)
            raise
        return kept

    def _reset_later(self, transfer: Transfer) -> bool:
        """If the pool offloads, and an event loop would stand still meanwhile: have a thread reset this and take it back.

        Until then it is out, in a transfer that only the thread has. False: it is for the caller to do.
        """
        offload = self.supply.offload
        if offload is None or transfer.first >= transfer.count or offload.has(transfer):
            return False
        was_checked, transfer.checked = transfer.checked, True  # what this says of a transfer: it is to be reset
        if offload.hand_over(transfer, self.cancel):
            return True
        transfer.checked = was_checked
        return False

    def _give_late(self, give: Callable[[], object]) -> None:
        """Take back, after a decision, what was freed in its middle. The caller has gone, so errors are logged."""
        try:
            give()
        except Exception:
            log.exception("%s: what a finalizer, a signal handler or a tracer freed could not be taken back", self.called)

    def _finish_give_back(
        self, transfer: Transfer, known: list[Any], is_reset: bool, revoking: bool, lingering: bool
    ) -> None:
        """After an exception in `give`: finish it, or leave the elements with their user as before."""
        self.core.undo_partial_check_in(transfer)
        if transfer.are_owners():
            if self.tracker.knows_holders:  # while the handles are those it knows
                known = known or self.tracker.forget(transfer.held())
            if revoking and revoke(transfer, lingering) is not None:
                self._undo_check_in(transfer, known)
                return
            if lingering:
                self._linger(transfer)
            if not is_reset:
                self.core.mark_surplus(transfer)  # nobody knows what state it is in
            self.undo_call(transfer)

    def _linger(self, transfer: Transfer) -> None:
        """Check out again what views keep: it is returned when the last view ends, see `reclaim`. May be done again."""
        self.core.linger(transfer)
        if transfer.first:
            self._remember_lingering(transfer)
            entrust(transfer)
            transfer.let_go()

    def _undo_check_in(self, transfer: Transfer, known: list[Any]) -> None:
        """Undo a check-in: somebody views one of these elements, so all stay with their user."""
        if self.tracker.knows_holders:
            self.tracker.restore(transfer.held(), known)
        self.core.undo_check_in(transfer)

    def reclaim(self, dropped: list[Buffer]) -> str:
        """Take back a buffer that was dropped while it was out. Called by its finalizer. Returns the warning to give.

        The list holds it until it is taken over here; from then on nobody else comes back to it.
        """
        transfer = Transfer(1)
        transfer.hold(dropped[0])
        lingered = dropped[0].lingers
        transfer.lingering = int(lingered)
        where = ""
        try:
            buffer = dropped.pop()
            # The transfer knows it now. This handle may be one that goes to the free list, below.
            buffer.lingers = False
            self._lingering.pop(id(buffer), None)
            where = self._taken_at(buffer)
            self.give(transfer)
        except KeyboardInterrupt:
            dropped.clear()
            self.give(transfer)
            raise
        except MemoryError:
            self.give(transfer, revoking=False)  # nobody else has this handle, so it may be returned itself
        except (DoubleFree, ForeignElement):
            self.supply.source.free(buffer)  # it never arrived here
            return ""
        if lingered:
            return ""  # as it was asked for
        return f"{self.called}: a buffer was dropped while it was out{where}; free it, or use `with pool.lease()`"

    def after_fork(self) -> None:
        """In the child of a fork: the thread that was cancelling tickets may not live here."""
        renew_locks(self._abandoned, self._lingering, self.written_off)
        self._abandoning = deque([0])

    # -- why it cannot be given back

    def unfit(self, buffer: Buffer, transfer: Transfer) -> Exception:
        """Make the error that says why this buffer cannot be freed."""
        if not buffer.is_alive():
            return DoubleFree(f"{self.called}: this buffer was freed already; free an element once, or use a lease")
        if (
            buffer.block.owner is not self.core.owner
            or sum(map(operator.is_, transfer.held(), itertools.repeat(buffer))) > 1
        ):
            return self.not_out(transfer.held())
        views = buffer.views()
        what = f" ({viewers(buffer)})" if self.tracker.knows_holders else ""
        return BufferError(
            f"{self.called}: this buffer is still viewed through {views} view{messages.s(views)}{what}: a slice "
            "such as buf[:n] or an array looks at it; it is still out: end the view, then free(buf). Next time use "
            "`with buf[:] as view:` inside the lease, `del` the view before the block ends, or use lease(linger=True) or "
            "free(buf, linger=True), which return it when the last view ends"
        )

    def not_out(self, elements: list[Any]) -> Exception:
        """Make the error that says why these elements cannot be freed."""
        if any(element is None for element in elements):
            return ForeignElement(f"{self.called}: None is no element; free what `alloc` returned")
        twice = next((e for e in elements if sum(other is e for other in elements) > 1), None)
        element = twice if twice is not None else next((e for e in elements if not self.core.is_out(e)), elements[0])
        what = describe(element)
        if type(element) is Lease:
            return ForeignElement(
                f"{self.called}: this is a lease and no element; call lease.release(), or leave its `with` block"
            )
        if id(element) in self.written_off and twice is None and not self.core.is_spare(element):
            return ForeignElement(
                f"{self.called}: this {what} was written off: it was taken for lost, and the pool has gone on without "
                "it; drop it, and write off only what nobody has any more"
            )
        # A buffer of this pool that a user has was out: another thread is freeing it now, or has just done so.
        was_out = type(element) is Buffer and element.block.owner is self.core.owner
        if twice is not None or was_out or self.core.is_spare(element):
            return DoubleFree(
                f"{self.called}: this {what} was freed already and is a spare; free an element once, or use a lease"
            )
        return ForeignElement(
            f"{self.called}: this {what} is not out of this pool: it never was this pool's, or it was freed and "
            "disposed of already; free an element once, to the pool that gave it"
        )

    def _taken_at(self, element: Any) -> str:
        site = self.tracker.site_of(element) if self.tracker.knows_holders else None
        return "" if site is None else f", taken at {site}"

    # -- what lingers

    def _remember_lingering(self, transfer: Transfer) -> None:
        """Remember what lingers, for `tell_lingering`."""
        try:
            for element in transfer.elements[: transfer.first]:
                if element is not None:
                    self._lingering[id(element)] = weakref.ref(element)
        except MemoryError:
            pass  # `why_empty` says less

    def tell_lingering(self, lingering: int) -> str:
        """Describe how many elements linger, and who views them."""
        seen = []
        for reference in list(self._lingering.values())[:LINGERING_NAMED]:
            buffer = reference()
            # Without the GIL its views are those of the handle before it.
            if buffer is not None and (buffer.views() > 0 or (WITHOUT_GIL and buffer.lingers)):
                seen.append(viewers(buffer))
        del reference, buffer
        return messages.lingering(lingering, seen)
