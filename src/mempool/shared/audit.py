"""Whether the words of a shared pool agree with each other. For tests, and for looking at a file that is in doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mempool.shared import words


@dataclass(frozen=True)
class Words:
    """All words of one moment."""

    slots: int
    places: int
    clients: int
    gate: int
    values: Sequence[int]

    def slot(self, number: int) -> int:
        """The word of a slot."""
        return self.values[words.FIRST_SLOT + number]

    def place(self, number: int) -> int:
        """The first word of a place."""
        return self.values[words.FIRST_SLOT + self.slots + 2 * number]

    def links(self, number: int) -> int:
        """The second word of a place."""
        return self.values[words.FIRST_SLOT + self.slots + 2 * number + 1]

    def client(self, number: int) -> int:
        """The word of a client."""
        return self.values[words.FIRST_SLOT + self.slots + 2 * self.places + number]

    def slots_in(self, state: int) -> list[int]:
        """The slots in this state."""
        return [slot for slot in range(self.slots) if words.state_of(self.slot(slot)) == state]


def audit(found: Words) -> list[str]:
    """What does not agree, in words; nothing: all does. Any bytes may be given; each list is followed for so long only."""
    return [*_targets(found), *_slots(found), *_line(found), *_owners(found)]


def are_possible(reserve: int, keep: int, limit: int, slots: int) -> bool:
    """Whether a pool of so many slots can have these targets."""
    return reserve <= keep and reserve <= limit <= slots


def _targets(found: Words) -> list[str]:
    word = found.values[words.TARGETS]
    targets = words.reserve_of(word), words.keep_of(word), words.limit_of(word)
    if are_possible(*targets, found.slots):
        return []
    return [f"the targets cannot be: reserve {targets[0]}, keep {targets[1]}, limit {targets[2]}, of {found.slots} slots"]


def _chain(found: Words, first: int, most: int) -> list[int] | None:
    """The slots from this one on. None: there are more than that, or one is none."""
    slots: list[int] = []
    while first != words.NO_SLOT:
        if first >= found.slots or len(slots) >= most:
            return None
        slots.append(first)
        first = words.next_slot(found.slot(first))
    return slots


def _slots(found: Words) -> list[str]:
    wrong = []
    for name, state, first in (
        ("spares", words.SPARE, words.first_spare(found.gate)),
        ("bare slots", words.BARE, words.first_bare(found.values[words.BARE_LIST])),
    ):
        chain = _chain(found, first, found.slots)
        if chain is None:
            wrong.append(f"the list of {name} has no end, or leads outside")
        elif sorted(chain) != found.slots_in(state):
            wrong.append(f"the list of {name} has {sorted(chain)}, and {found.slots_in(state)} are in that state")
    spares, made = len(found.slots_in(words.SPARE)), found.slots - len(found.slots_in(words.BARE))
    if spares != words.spares(found.gate):
        wrong.append(f"{spares} spares, and {words.spares(found.gate)} are counted")
    if made != words.made_of(found.values[words.BARE_LIST]):
        wrong.append(f"{made} slots are made, and {words.made_of(found.values[words.BARE_LIST])} are counted")
    offered = len(found.slots_in(words.OFFERED)) + len(found.slots_in(words.ADDRESSED))
    counts = found.values[words.OFFERS]
    if offered != words.offered_of(counts):
        wrong.append(f"{offered} are offered, and {words.offered_of(counts)} are counted")
    quarantined = len(found.slots_in(words.QUARANTINED))
    if quarantined != words.quarantined_of(counts):
        wrong.append(f"{quarantined} are in quarantine, and {words.quarantined_of(counts)} are counted")
    filling = len(found.slots_in(words.FILLING))
    if filling != words.filling_of(counts):
        wrong.append(f"{filling} are being made for all, and {words.filling_of(counts)} are counted")
    return wrong


def _line(found: Words) -> list[str]:
    wrong = []
    line = found.values[words.LINE]
    waiting: list[int] = []
    place, before = words.head_of(line), words.NO_PLACE
    while place != words.NO_PLACE:
        if place >= found.places or len(waiting) >= found.places:
            return ["the line has no end, or leads outside"]
        if words.state_of(found.place(place)) != words.WAITING or words.before_of(found.links(place)) != before:
            wrong.append(f"place {place} stands in the line and does not wait, or is linked wrongly")
        if words.granted_of(found.place(place)) >= words.wanted_of(found.place(place)):
            wrong.append(f"place {place} has all it wants, and still waits")
        if waiting and words.granted_of(found.place(place)):
            wrong.append(f"place {place} gathers, and is not the first in line")
        waiting.append(place)
        before, place = place, words.behind_of(found.links(place))
    if words.tail_of(line) != before or len(waiting) != words.waiting(found.gate):
        wrong.append(f"{waiting} stand in line; {words.waiting(found.gate)} are counted; the last is {words.tail_of(line)}")
    empty: list[int] = []
    place = words.first_empty(line)
    while place != words.NO_PLACE:
        if place >= found.places or len(empty) >= found.places:
            return [*wrong, "the list of empty places has no end, or leads outside"]
        empty.append(place)
        place = words.behind_of(found.links(place))
    for state, listed, name in ((words.WAITING, waiting, "wait"), (words.EMPTY, empty, "are empty")):
        are = [place for place in range(found.places) if words.state_of(found.place(place)) == state]
        if are != sorted(listed):
            wrong.append(f"the places {are} {name}, and {sorted(listed)} are listed so")
    return wrong


def _owners(found: Words) -> list[str]:
    wrong = []
    for slot in range(found.slots):
        state, client = words.state_of(found.slot(slot)), words.client_of(found.slot(slot))
        if state > words.FILLING:
            wrong.append(f"slot {slot} is in no state that there is: {state}")
        elif state not in (words.BARE, words.SPARE, words.QUARANTINED) and not _is_there(found, client):
            wrong.append(f"slot {slot} belongs to client {client}, who is not there")
    for place in range(found.places):
        value = found.place(place)
        if words.state_of(value) == words.EMPTY:
            continue
        granted = _chain(found, words.first_granted(found.links(place)), found.slots)
        if not _is_there(found, words.client_of(value)):
            wrong.append(f"place {place} belongs to client {words.client_of(value)}, who is not there")
        if granted is None or len(granted) != words.granted_of(value):
            wrong.append(f"place {place} has {granted}, and {words.granted_of(value)} are counted")
        elif any(
            words.state_of(found.slot(slot)) != words.LEASED or words.client_of(found.slot(slot)) != words.client_of(value)
            for slot in granted
        ):
            wrong.append(f"place {place} has {granted}, and not all are its client's")
    return wrong


def _is_there(found: Words, client: int) -> bool:
    return client < found.clients and words.client_state(found.client(client)) != words.ABSENT
