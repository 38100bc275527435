"""Elements that are lost with their holders: counted out, once, whatever is raised. The source's free is not called for
them.

The state knows it at once; making others in their place is for the caller.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mempool._core import Transfer
from mempool.buffer import Buffer
from mempool.errors import ForeignElement
from mempool.tracking import Holder

if TYPE_CHECKING:
    from mempool.local.returning import Returning

log: logging.Logger = logging.getLogger("mempool")


def write_off(giving: Returning, lost: Any) -> None:
    """An element, or what its Holder says, is lost."""
    if type(lost) is Holder:
        if not giving.tracker.holds(lost):
            raise ForeignElement(
                f"{giving.called}: {lost.element} is not held by {lost.who} any more; look at holders() again"
            )
        _abandoned(giving, lost)  # or else it is returned in this very moment
        return
    transfer = Transfer(1)
    transfer.hold(lost)
    try:
        if type(lost) is Buffer and (not lost.is_alive() or lost.block.owner is not giving.core.owner):
            raise giving.unfit(lost, transfer)
        if not giving.core.check_in(transfer):
            raise giving.not_out(transfer.held())
        _end(giving, transfer, lost)
    except BaseException:
        giving.core.undo_partial_check_in(transfer)
        if transfer.are_owners():
            _end(giving, transfer, lost)  # again: an interrupt must not leave it to nobody
        raise


def _end(giving: Returning, transfer: Transfer, lost: Any) -> None:
    """The table of outstanding elements has let go of it. May be done again."""
    if type(lost) is Buffer and not giving.core.tracks_elements():
        lost.block.owner = (
            None  # or it would be returned in the place of another, as there is no table of outstanding elements
        )
    giving.tracker.forget([lost])
    giving.written_off.append(id(lost))
    giving.core.write_off_transfer(transfer)


def _abandoned(giving: Returning, holder: Holder) -> bool:
    """Lose what nobody has at hand. False: it is not out, or not held like that any more.

    By its address alone another might be lost: the element is returned at this very moment, or has been and ended, and one
    that is taken has that address. The tracker records it before it is checked out. So if the tracker says at a moment
    that the address is still this holder's, and nothing has been checked out since, it is.
    """
    transfer = Transfer(1)
    transfer.hold(holder)  # in the place of the element
    try:
        # The table of outstanding elements first: an interrupt before has changed nothing, and one behind it finds the proof
        # in the transfer.
        check_outs = -1
        while check_outs != (now := giving.core.check_outs()):
            check_outs = now
            if giving.tracker.holds(holder) and giving.core.remove_address(transfer, holder.address, check_outs):
                _end_held(giving, transfer, holder)
                break
    except BaseException:
        if transfer.are_owners():
            _end_held(giving, transfer, holder)
        raise
    return transfer.are_owners()


def _end_held(giving: Returning, transfer: Transfer, holder: Holder) -> None:
    """The same as `_end`. May be done again."""
    giving.written_off.append(holder.address)
    giving.core.write_off_transfer(transfer)
    giving.tracker.drop(holder)


def write_off_all(giving: Returning) -> int:
    """All that is out is lost. Returns how many."""
    held = giving.tracker.holders(giving.supply.clock.now())
    giving.written_off.extend(holder.address for holder in held)
    try:
        lost = giving.core.write_off_all_out()
        giving.tracker.clear()
    except BaseException:
        giving.core.write_off_all_out()  # again, to the end
        giving.tracker.clear()
        raise
    return int(lost)


def notice(giving: Returning) -> None:
    """Write off what no longer exists: objects that their users have dropped."""
    for holder in giving.tracker.gone(giving.supply.clock.now()):
        if _abandoned(giving, holder):
            log.warning(
                "%s: %s has dropped %s, taken at %s: it is written off; free it, or use `with pool.lease()`",
                giving.called,
                holder.who,
                holder.element,
                holder.site,
            )
        else:
            giving.tracker.drop(holder)  # counted out already, when an element came that has its address now
