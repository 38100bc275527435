"""Elements that are lost with their holders: counted out, once, whatever flies. The source's free is not called for them.

The books know it at once; making others in their place is for the caller.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mempool._core import Hands
from mempool.buffer import Buffer
from mempool.errors import ForeignElement
from mempool.holders import Holder, HolderBook

if TYPE_CHECKING:
    from mempool.traffic import Traffic

log: logging.Logger = logging.getLogger("mempool")


def write_off(pool: Traffic, lost: Any) -> None:
    """An element, or what its Holder says, is lost."""
    if type(lost) is Holder:
        if pool._book is None or not pool._book.holds(lost):
            raise ForeignElement(
                f"{pool._called()}: {lost.element} is not held by {lost.who} any more; look at holders() again"
            )
        _lose(pool, pool._book, lost)  # or else it comes home in this very moment
        return
    hands = Hands(1)
    hands.hold(lost)
    try:
        if type(lost) is Buffer and (not lost.is_alive() or lost.block.home is not pool.core.home):
            raise pool._unfit(lost, hands)
        if not pool.core.sign_in(hands):
            raise pool._not_out(hands.held())
        _end(pool, hands, lost)
    except BaseException:
        pool.core.undo_sign_in(hands)
        if hands.are_owners():
            _end(pool, hands, lost)  # again: an interrupt must not leave it to nobody
        raise


def _end(pool: Traffic, hands: Hands, lost: Any) -> None:
    """The roll has let go of it. May be done again."""
    if type(lost) is Buffer and not pool.core.tracks_elements():
        lost.block.home = None  # or it would come home in the place of another, as there is no roll
    if pool._book is not None:
        pool._book.forget([lost])
    pool._written_off.append(id(lost))
    pool.core.lose(hands)


def _lose(pool: Traffic, book: HolderBook, holder: Holder) -> bool:
    """Lose what nobody has at hand. False: it is not out."""
    hands = Hands(1)
    hands.hold(holder)  # in the place of the element
    try:
        # The roll first: an interrupt before has changed nothing, and one behind it finds the proof in the hands.
        if pool.core.strike(hands, holder.address):
            _end_held(pool, hands, book, holder)
    except BaseException:
        if hands.are_owners():
            _end_held(pool, hands, book, holder)
        raise
    return hands.are_owners()


def _end_held(pool: Traffic, hands: Hands, book: HolderBook, holder: Holder) -> None:
    """The same as `_end`. May be done again."""
    pool._written_off.append(holder.address)
    pool.core.lose(hands)
    book.drop(holder)


def write_off_all(pool: Traffic) -> int:
    """All that is out is lost. Returns how many."""
    held = () if pool._book is None else pool._book.holders(pool._clock.now())
    pool._written_off.extend(holder.address for holder in held)
    try:
        lost = pool.core.lose_all()
        if pool._book is not None:
            pool._book.clear()
    except BaseException:
        pool.core.lose_all()  # again, to the end
        if pool._book is not None:
            pool._book.clear()
        raise
    return int(lost)


def notice(pool: Traffic, book: HolderBook) -> None:
    """Write off what no longer exists: objects that their users have dropped."""
    for holder in book.gone(pool._clock.now()):
        if _lose(pool, book, holder):
            log.warning(
                "%s: %s has dropped %s, taken at %s: it is written off; free it, or use `with pool.lease()`",
                pool._called(),
                holder.who,
                holder.element,
                holder.site,
            )
        else:
            book.drop(holder)  # counted out already, when an element came that has its address now
