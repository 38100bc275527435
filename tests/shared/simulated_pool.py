"""The other Transaction: protocol.h step by step in Python, where each load and store of shared memory is a step.

A process can be killed before any step, or stopped there while others go on, and continued. decisions.py and operations.py
run over it as they stand. `Faults` plants what the protocol must not do, to see that the harnesses would notice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mempool.shared import operations, words
from mempool.shared.audit import Words
from mempool.shared.decisions import FULL
from mempool.shared.errors import PoolCorrupt

ENTRIES = 24
GREATEST = (1 << 64) - 1


class Killed(BaseException):
    """This process ends here."""


@dataclass(frozen=True)
class Faults:
    """Each is a bug that the protocol must not have."""

    one_buffer: bool = False
    copy_not_validated: bool = False
    nobody_helps: bool = False
    applied_too_early: bool = False
    late_helper_overwrites: bool = False
    helper_forgets_a_word: bool = False
    what_is_left_is_forgotten: bool = False
    what_is_left_is_not_read: bool = False
    what_is_known_is_not_forgotten: bool = False


@dataclass
class Intent:
    applied: int = 0
    count: int = 0
    entries: list[list[int]] = field(default_factory=lambda: [[0, 0] for _ in range(ENTRIES)])


class Memory:
    """What is shared. `room`: how many slots the file system has memory for."""

    def __init__(self, slots: int, places: int, clients: int, room: int | None = None) -> None:
        self.slots, self.places, self.clients = slots, places, clients
        self.root = [0, words.make_gate(words.NO_SLOT, 0, 0, 0)]
        values = [0, words.make_bare_list(0, 0), words.make_line(words.NO_PLACE, words.NO_PLACE, 0), 0]
        values += [words.make_slot(words.BARE, 0, slot) for slot in [*range(1, slots), words.NO_SLOT]]
        for place in range(places):
            behind = place + 1 if place + 1 < places else words.NO_PLACE
            values += [words.make_place(words.EMPTY, 0, 0, 0), words.make_links(words.NO_PLACE, behind, words.NO_SLOT)]
        values += [words.make_client(words.ABSENT, 0)] * clients
        self.words = [[value, 0] for value in values]
        self.intents = [[Intent(), Intent()] for _ in range(clients)]
        self.room = slots if room is None else room
        self.populated: set[int] = set()  # ghost: where memory is
        self.users: dict[int, Process] = {}  # ghost: who writes into it

    def settled(self, observer: Process) -> Words:
        """All words, once what is in force has been applied."""
        operations.run_look(observer)
        values = [value for value, _ in self.words]
        if observer.left_word >= 0:
            values[observer.left_word] = observer.left_value
        return Words(self.slots, self.places, self.clients, self.root[1], values)


def carry_on(_process: Process) -> None:
    """No fault at this step."""


class Process:
    """One client: see mempool.shared.transaction. `hook` is called before each step."""

    def __init__(self, memory: Memory, me: int, faults: Faults | None = None) -> None:
        self.memory, self.me = memory, me
        self.faults = faults or Faults()
        self.slots, self.places, self.clients = memory.slots, memory.places, memory.clients
        self.hook: Callable[[Process], None] = carry_on
        self.steps = 0
        self.epoch = self.slot = self.place = self.count = self.value = self.version = self.gate = 0
        self.broken = self.is_known = False
        self.known_targets = self.known_bare_list = 0
        self.known = -1  # the root for which those are good
        self.found = (0, 0)
        self.changes: dict[int, int] = {}
        self.served: list[int] = []
        self.woken: list[int] = []
        self.helped = self.retries = 0
        self.buffer = 0
        self.left, self.left_word, self.left_value = 0, -1, 0  # the word of its last transaction, that it has left unwritten

    def become(self, client: int, *, quarantines: bool = False) -> None:
        """Attach, with nobody's leftovers unless there are some."""
        outcome = operations.run_attach(self, client, quarantines)
        self.epoch = self.value
        if outcome == FULL:
            operations.run_inherit(self, quarantines)

    def step(self) -> None:
        self.steps += 1
        self.hook(self)

    # -- shared memory, one step each

    def load_root(self) -> int:
        self.step()
        return self.memory.root[0]

    def swap_root(self, root: int, gate: int, new_root: int, new_gate: int) -> bool:
        self.step()
        if self.memory.root != [root, gate]:
            return False
        self.memory.root[:] = [new_root, new_gate]
        return True

    def apply(self, word: int, value: int, version: int) -> None:
        target = self.memory.words[word]
        while True:
            self.step()
            sequence = target[1]
            if sequence == version or (sequence > version and not self.faults.late_helper_overwrites):
                return
            self.step()
            found = target[0]
            self.step()
            if target == [found, sequence]:
                target[:] = [value, version]
                return

    # -- the protocol

    def finish_other(self, root: int) -> bool:
        version, owner, buffer = root >> 12, root >> 1 & 0x7FF, root & 1
        intent = self.memory.intents[owner][buffer]
        self.step()
        if intent.applied == version:
            return True
        if self.faults.nobody_helps and owner != self.me:
            return True
        self.step()
        copied = []
        for i in range(intent.count):
            self.step()
            copied.append(tuple(intent.entries[i]))
        if self.load_root() != root and not self.faults.copy_not_validated:
            return False
        for word, value in copied[: -1 if self.faults.helper_forgets_a_word and len(copied) > 1 else None]:
            self.apply(word, value, version)
        self.helped += 1
        return True

    def begin(self) -> int:
        while True:
            root = self.load_root()
            self.step()
            gate = self.memory.root[1]
            if self.load_root() != root:
                continue
            if self.left_word >= 0 and root != self.left:
                self.left_word = -1
            if self.left_word < 0 and not self.finish_other(root):
                continue
            self.found = (root, gate)
            self.gate = gate
            self.broken = False
            self.is_known = root == self.known or (self.faults.what_is_known_is_not_forgotten and self.known >= 0)
            self.changes, self.served = {}, []
            return 0

    def finish(self) -> bool:
        root, gate = self.found
        if self.broken or (not self.changes and self.gate == gate):
            if self.load_root() != root:
                self.retries += 1
                return False
            if self.broken:
                raise PoolCorrupt("simulated")
            return True
        version = (root >> 12) + 1
        if self.faults.one_buffer:
            buffer = 0
        else:
            buffer = 1 - (root & 1) if root >> 1 & 0x7FF == self.me else 0
        if self.left_word >= 0 and self.left_word not in self.changes and not self.faults.what_is_left_is_forgotten:
            self.apply(self.left_word, self.left_value, version - 1)
            self.left_word = -1
        intent = self.memory.intents[self.me][buffer]
        self.step()
        intent.count = len(self.changes)
        assert intent.count < ENTRIES  # one entry is left even by the longest
        for entry, (word, value) in zip(intent.entries, self.changes.items(), strict=False):
            self.step()
            entry[0] = word
            self.step()
            entry[1] = value
        if self.faults.applied_too_early:
            self.step()
            intent.applied = version
        if not self.swap_root(root, gate, version << 12 | self.me << 1 | buffer, self.gate):
            self.retries += 1
            return False
        self.version = version
        self.known = version << 12 | self.me << 1 | buffer if self.is_known else -1
        self.left_word = -1
        if len(self.changes) == 1 and self.gate != gate and root >> 1 & 0x7FF == self.me:
            self.left = version << 12 | self.me << 1 | buffer
            ((self.left_word, self.left_value),) = self.changes.items()
            return True  # nobody is served by one word
        for word, value in self.changes.items():
            self.apply(word, value, version)
        self.step()
        intent.applied = version
        self.step()
        self.woken += self.served
        return True

    def read(self, word: int) -> int:
        if word in self.changes:
            return self.changes[word]
        if self.sequence(word) > self.found[0] >> 12:
            self.broken = True
        if self.is_left(word):
            return self.left_value
        self.step()
        return self.memory.words[word][0] if word < len(self.memory.words) else 0

    def is_left(self, word: int) -> bool:
        """Whether this client has left it unwritten."""
        return word == self.left_word and not self.faults.what_is_left_is_not_read

    def sequence(self, word: int) -> int:
        if word >= len(self.memory.words):
            self.broken = True
            return 0
        if self.is_left(word):
            return self.left >> 12
        self.step()
        return self.memory.words[word][1]

    def write(self, word: int, value: int) -> None:
        assert 0 <= value <= GREATEST
        if word >= len(self.memory.words) or (word not in self.changes and len(self.changes) >= ENTRIES):
            self.broken = True
            return
        if not words.FIRST_SLOT <= word < words.FIRST_SLOT + self.slots:
            self.is_known = False
        self.changes[word] = value

    def serve(self, place: int) -> None:
        self.served.append(place)

    # -- memory, and what nobody may do to it

    def populate(self, slot: int) -> bool:
        self.step()
        assert slot not in self.memory.users, f"slot {slot} is populated while somebody uses it"
        if len(self.memory.populated) >= self.memory.room:
            return False
        self.memory.populated.add(slot)
        return True

    def punch(self, slot: int) -> int:
        self.step()
        assert slot not in self.memory.users, f"slot {slot} is punched while somebody uses it"
        self.memory.populated.discard(slot)
        return 0

    def use(self, slot: int) -> int:
        """What was taken is written to, from now on."""
        assert slot not in self.memory.users, f"slot {slot} has two owners"
        assert slot in self.memory.populated, f"slot {slot} has no memory"
        self.memory.users[slot] = self
        return slot

    def stop_using(self, slot: int) -> None:
        assert self.memory.users.pop(slot) is self, f"slot {slot} is another's"

    def die(self) -> None:
        """After Killed: it writes nowhere any more."""
        for slot in [slot for slot, user in self.memory.users.items() if user is self]:
            del self.memory.users[slot]
