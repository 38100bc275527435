"""What killed processes had, for who is told that it was reclaimed: `SharedPool(on_reclaim=...)`, `SharedPool.reclaim`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mempool.shared import words

if TYPE_CHECKING:
    from mempool.shared._engine import Transaction

log: logging.Logger = logging.getLogger("mempool")


@dataclass(frozen=True)
class Killed:
    """A process that was killed, and which elements it had. An element is named as in `Token.slot`."""

    pid: int
    """As it said when it joined; in its own pid namespace."""
    held: tuple[int, ...]
    """What it had leased, or adopted. What had just been set aside for it in the line is among them."""
    offered: tuple[int, ...]
    """What it had offered to anybody, and nobody had adopted: those tokens are stale."""
    addressed: tuple[int, ...]
    """What others had addressed to it, and it had not adopted: those tokens are stale."""
    is_quarantined: bool
    """Whether what it held and had offered is set aside; see `SharedPool.quarantined`."""


class Reclaimed(int):
    """How many killed processes one call has cleaned up after: a number, which knows what they had.

    Several processes may clean up after the same one at the same time. Each of them counts it, and lists what it found.
    """

    processes: tuple[Killed, ...]
    """Those processes."""

    def __new__(cls, processes: Iterable[Killed] = ()) -> Self:
        """As many as there are."""
        processes = tuple(processes)
        number = super().__new__(cls, len(processes))
        number.processes = processes
        return number


def had(tx: Transaction, client: int, epoch: int, pid: int) -> Killed:
    """What this client has, which was proven dead."""
    slots: dict[int, list[int]] = {words.LEASED: [], words.OFFERED: [], words.ADDRESSED: []}
    for slot, state in tx.slots_of(client):
        slots[state].append(slot)
    held, offered, addressed = map(tuple, slots.values())
    return Killed(pid, held, offered, addressed, bool(words.sets_aside(epoch)))


def tell(on_reclaim: Callable[[Reclaimed], object] | None, reclaimed: Reclaimed, called: str) -> None:
    """Call it, if there is anything to tell. What it raises is logged: whoever waits here would not be woken any more."""
    if on_reclaim is None or not reclaimed:
        return
    try:
        on_reclaim(reclaimed)
    except Exception:
        log.exception("%s: on_reclaim has failed; what killed processes held is returned all the same", called)
