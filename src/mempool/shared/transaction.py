"""The seam between what is decided and how it is put in force.

decisions.py and operations.py are written against Transaction. There are two of them: the compiled one over real shared
memory (_engine.pyx over protocol.h), and the simulated one of tests/shared, whose every load and store is a step at which a
process can be killed or stopped.
"""

from __future__ import annotations

from typing import Protocol


class Transaction(Protocol):
    """One change of the shared words, by one client. Numbers are unsigned and as wide as their fields.

    `begin`, then any number of `read` and `write`, then `finish`: True, and it was in force at one moment; False, and it
    never was, so begin again. `broken` is set by whoever meets what cannot be; such a transaction is never in force, and
    `finish` raises PoolCorrupt where it was not merely overtaken.
    """

    # Set once, when the client is attached.
    me: int
    epoch: int
    slots: int
    places: int
    clients: int
    # Of the transaction under way.
    gate: int
    broken: bool
    # Whether nobody but this client has committed since it has looked at its own word, TARGETS and BARE_LIST, and it has not
    # changed them: then it is live still, and the two words are `known_targets` and `known_bare_list`.
    is_known: bool
    known_targets: int
    known_bare_list: int
    # What a decision answers beside its outcome. Good until the next begin.
    slot: int
    place: int
    count: int
    value: int
    # The number of the last transaction that was in force: for what it leased, the number of the lease.
    version: int

    def begin(self) -> int:
        """Read the root; first finish what another one has begun. Raises PoolCorrupt."""

    def finish(self) -> bool:
        """Put it in force, and wake whom `serve` named. Raises PoolCorrupt."""

    def read(self, word: int) -> int:
        """The value of this word, as this transaction has written it or found it."""

    def write(self, word: int, value: int) -> None:
        """Change this word."""

    def sequence(self, word: int) -> int:
        """The number of the transaction that wrote this word: for a leased slot, the number of its lease."""

    def serve(self, place: int) -> None:
        """Whoever stands at this place is woken when this is in force."""

    def populate(self, slot: int) -> bool:
        """Outside of transactions: get memory for this slot. False: there is none, and none was left half there."""

    def punch(self, slot: int) -> int:
        """Outside of transactions: give the memory of this slot back to the system."""
