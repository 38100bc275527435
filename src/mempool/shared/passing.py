"""Passing an element on to another process: it is offered, a token travels, and whoever adopts it has it.

    token = pool.offer(buf)          # buf is dead here; the token goes through any pipe, queue or socket
    buf = pool.adopt(token)          # in the other process: the same memory, nothing was copied

Each of the two is one transaction of the shared words (decisions.py: offer, end_offer), so whichever process is killed at
whatever moment, the element has one owner: before the offer who leased it; then its offerer still, or the process that it
is addressed to; after the adoption who adopted it. What belongs to a killed one is reclaimed, and its token is stale by
that. A token is a number and no right: it holds nothing, and may be lost, copied or sent twice.
"""

from __future__ import annotations

import contextlib
import operator
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from mempool._core import Transfer
from mempool.buffer import Buffer, prepare, revoke
from mempool.errors import ForeignElement, PoolError, StaleToken
from mempool.messages import closed, ending, s
from mempool.shared import words
from mempool.shared.errors import ClientGone
from mempool.sizes import in_words

# The engine and its ticket are Any: this module is below pool_engine.py, which imports it.

#: Of which file, which slot, under which number, to whom (0: anybody); then the path of the file.
HEAD = struct.Struct("<16sQQI")


@dataclass(frozen=True, slots=True)
class Token:
    """An element that was offered: small, hashable, picklable. `SharedPool.adopt` makes a Buffer of it, once, anywhere.

    It holds nothing: who loses it leaves the element with its owner, see `SharedPool.offer`. `bytes(token)` and
    `Token.from_bytes` are for what carries bytes alone.
    """

    path: str
    """The file of its pool."""
    nonce: bytes
    """The number of that file, which no other has: a pool made anew under the same name is another one."""
    slot: int
    """Which element."""
    number: int
    """Under which number it is offered: each offer has another."""
    to: int | None
    """The process that it is addressed to; None: anybody may adopt it."""

    def __bytes__(self) -> bytes:
        """As `from_bytes` reads it: 36 bytes, and the path."""
        return HEAD.pack(self.nonce, self.slot, self.number, self.to or 0) + os.fsencode(self.path)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Self:
        """What `bytes(token)` has written. Raises ValueError for what cannot be that."""
        data = bytes(data)
        if len(data) <= HEAD.size or b"\0" in data[HEAD.size :]:
            raise ValueError(f"{in_words(len(data))} that are no token; send what bytes(token) makes, whole")
        nonce, slot, number, to = HEAD.unpack_from(data)
        return cls(os.fsdecode(data[HEAD.size :]), nonce, slot, number, to or None)

    def __reduce__(self) -> Any:
        """Pickled, it is hardly longer than its bytes."""
        return type(self).from_bytes, (bytes(self),)


def offer(engine: Any, buffer: Any, to: int | None) -> Token:
    """See SharedPool.offer."""
    if type(buffer) is not Buffer or buffer.block.owner is not engine.owner or buffer.block.is_lost:
        raise engine._foreign(buffer)
    receiver, epoch = (words.ANYBODY, 0) if to is None else _receiver(engine, to)
    transfer = Transfer(1)
    transfer.hold(buffer)
    _raise_unfit(engine, prepare(transfer, engine.owner), transfer)
    region = buffer.block.region
    slot, lease = region.slot, region.lease
    engine._tx.check(region.handle)
    # All that needs memory comes before the buffer is dead: it would be nobody's, if there were none.
    ticket, elements = engine.returning(()), transfer.elements
    ticket.handles.extend(engine._tx.handles(1))
    try:
        engine._offering[ticket] = None  # so that this process stays, whatever another thread sees in between
        engine.note_offer(slot)
        known = engine.tracker.forget([buffer])
        viewed = revoke(transfer)
        if viewed is not None:
            engine.tracker.restore(transfer.held(), known)
            _raise_unfit(engine, viewed, transfer)
        # It is dead, and the ticket has its element, until the offer is in force: what is raised in between returns it.
        ticket.take_over(region)
        elements[0]._forsake()
        engine._tx.take_back(region)
        number = ticket.offer(ticket.handles[-1], receiver, epoch)
        if number is None:
            # The receiver has ended since it was looked for. As if it had ended a moment later: what it had is returned.
            ticket.give_back()
            number = lease
    finally:
        engine.note_offer(slot)  # who looked before it was in force has forgotten it
        engine._offering.pop(ticket, None)
    engine._after_return()
    if number == 0:
        raise ForeignElement(f"{engine.called}: this buffer was reclaimed, because this process was taken for dead")
    return Token(str(engine.client.path), engine.client.nonce, slot, number, to)


def _raise_unfit(engine: Any, unfit: Buffer | None, transfer: Any) -> None:
    if unfit is None:
        return
    views = unfit.views()
    if not unfit.is_alive() or views == 0:
        raise engine._unfit(unfit, transfer)
    raise BufferError(
        f"{engine.called}: this buffer is still viewed through {views} view{s(views)}, and who looks through one would see "
        "what its next owner writes; `del` or release them, and then offer it"
    )


def _receiver(engine: Any, to: int) -> tuple[int, int]:
    """The number and the epoch of the client that is this process."""
    to = operator.index(to)
    found = []
    for number in range(engine.client.layout.clients):
        state, epoch, pid, _, namespace = engine._tx.look_at_client(number)
        if state == words.LIVE and pid == to and namespace == engine.client._here.pid_namespace:
            found.append((number, epoch))
    if not found:
        raise ProcessLookupError(
            f"{engine.called}: no process {to} uses this pool; to= is os.getpid() of one that has attached to it, in "
            "this pid namespace; to one in another container, offer it to anybody"
        )
    if len(found) > 1:
        raise ValueError(
            f"{engine.called}: process {to} has attached to this pool {len(found)} times, so the number does not say which; "
            "use one SharedPool a process, or offer it to anybody"
        )
    return found[0]


def adopt(engine: Any, ticket: Any, token: Token, *, recalls: bool = False) -> None:
    """What was offered is this ticket's, and checked out. Raises StaleToken, PoolClosed."""
    if not isinstance(token, Token):
        raise TypeError(f"{engine.called}: a token is what `offer` returns, not {type(token).__name__}")
    if engine._is_closed_here:
        raise closed(engine.called)
    if engine.is_ending():
        raise ending(engine.called)
    if token.nonce != engine.client.nonce:
        raise StaleToken(
            f"{engine.called}: this token is of another pool, {token.path}, or of one that had this name before; "
            "SharedPool.of(token) finds its pool"
        )
    if not ticket.end_offer(token.slot, token.number, recalls):
        raise StaleToken(f"{engine.called}: {_why_stale(engine, token, recalls=recalls)}")
    engine.check_out(ticket)


def _why_stale(engine: Any, token: Token, *, recalls: bool) -> str:
    what = f"the offer of element {token.slot} under number {token.number}"
    if recalls:
        return (
            f"{what} is over, or is another process'; it was adopted, reclaimed or recalled before: there is nothing to "
            "recall"
        )
    if token.to is not None and token.to != os.getpid():
        return f"{what} is addressed to process {token.to}, and this is {os.getpid()}; adopt it there"
    return (
        f"{what} is over: it was adopted or recalled before, or the process that owned it has ended and it was reclaimed; "
        "have it sent anew"
    )


def pending(engine: Any) -> list[Token]:
    """See SharedPool.pending."""
    return [_token(engine, slot, number, to) for slot, number, to, is_mine in _offers(engine) if is_mine]


def addressed(engine: Any) -> list[Token]:
    """See SharedPool.addressed."""
    me = engine.client.number
    return [_token(engine, slot, number, to) for slot, number, to, _ in _offers(engine) if to == me]


def quarantined(engine: Any) -> list[Token]:
    """See SharedPool.quarantined."""
    numbers = ((slot, engine._tx.look_at_quarantined(slot)) for slot in range(engine.client.layout.slots))
    return [_token(engine, slot, number, None) for slot, number in numbers if number is not None]


def _offers(engine: Any) -> Iterator[tuple[int, int, int | None, bool]]:
    """What this process has offered, and what is addressed to it."""
    for slot in range(engine.client.layout.slots):
        seen = engine._tx.look_at_offer(slot)
        if seen is not None:
            yield (slot, *seen)


def _token(engine: Any, slot: int, number: int, receiver: int | None) -> Token:
    to = None if receiver is None else engine._tx.look_at_client(receiver)[2]
    return Token(str(engine.client.path), engine.client.nonce, slot, number, to)


def is_responsible(engine: Any, slots: set[int]) -> bool:
    """Whether any of these slots is offered by this process, which must not leave the pool then. Those that are not, go."""
    try:
        for slot in list(slots):
            seen = engine._tx.look_at_offer(slot)
            if seen is None or seen[1] is not None or not seen[2]:
                slots.discard(slot)
    except ClientGone:
        slots.clear()
    return bool(slots)


def let_go_of_adopted(engines: Iterable[Any]) -> None:
    """An engine that has offered something stays until that is adopted, of which nobody tells it: now it looks."""
    for engine in list(engines):
        with contextlib.suppress(PoolError):  # it meets the same by itself
            engine._after_return()
