"""Elements that are lost with their holders: counted out, once, whatever flies. The source's free is not called for them.

The books know it at once; making others in their place is for the caller.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mempool._core import Hands
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
        _lose(giving, lost)  # or else it comes home in this very moment
        return
    hands = Hands(1)
    hands.hold(lost)
    try:
        if type(lost) is Buffer and (not lost.is_alive() or lost.block.home is not giving.core.home):
            raise giving.unfit(lost, hands)
        if not giving.core.sign_in(hands):
            raise giving.not_out(hands.held())
        _end(giving, hands, lost)
    except BaseException:
        giving.core.undo_sign_in(hands)
        if hands.are_owners():
            _end(giving, hands, lost)  # again: an interrupt must not leave it to nobody
        raise


def _end(giving: Returning, hands: Hands, lost: Any) -> None:
    """The roll has let go of it. May be done again."""
    if type(lost) is Buffer and not giving.core.tracks_elements():
        lost.block.home = None  # or it would come home in the place of another, as there is no roll
    giving.tracker.forget([lost])
    giving.written_off.append(id(lost))
    giving.core.lose(hands)


def _lose(giving: Returning, holder: Holder) -> bool:
    """Lose what nobody has at hand. False: it is not out."""
    hands = Hands(1)
    hands.hold(holder)  # in the place of the element
    try:
        # The roll first: an interrupt before has changed nothing, and one behind it finds the proof in the hands.
        if giving.core.strike(hands, holder.address):
            _end_held(giving, hands, holder)
    except BaseException:
        if hands.are_owners():
            _end_held(giving, hands, holder)
        raise
    return hands.are_owners()


def _end_held(giving: Returning, hands: Hands, holder: Holder) -> None:
    """The same as `_end`. May be done again."""
    giving.written_off.append(holder.address)
    giving.core.lose(hands)
    giving.tracker.drop(holder)


def write_off_all(giving: Returning) -> int:
    """All that is out is lost. Returns how many."""
    held = giving.tracker.holders(giving.supply.clock.now())
    giving.written_off.extend(holder.address for holder in held)
    try:
        lost = giving.core.lose_all()
        giving.tracker.clear()
    except BaseException:
        giving.core.lose_all()  # again, to the end
        giving.tracker.clear()
        raise
    return int(lost)


def notice(giving: Returning) -> None:
    """Write off what no longer exists: objects that their users have dropped."""
    for holder in giving.tracker.gone(giving.supply.clock.now()):
        if _lose(giving, holder):
            log.warning(
                "%s: %s has dropped %s, taken at %s: it is written off; free it, or use `with pool.lease()`",
                giving.called,
                holder.who,
                holder.element,
                holder.site,
            )
        else:
            giving.tracker.drop(holder)  # counted out already, when an element came that has its address now
