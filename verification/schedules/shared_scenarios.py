"""What must hold of a pool that several processes share, whatever the order of their steps: each client is a thread here.

The decisions run as they stand over the simulated memory of tests/shared/simulated_pool.py, of which each load and store is
a step, and a step is all that others can see. `with it.no_interleave()` marks what is done before and after.
"""

from __future__ import annotations

from collections.abc import Callable

from shared_scenes import Lease, adopt, close, give, join, leave, offer, resize, take
from simulated_pool import Faults, Memory, Process

from mempool.shared import operations, words
from mempool.shared.audit import audit
from mempool.shared.decisions import CLOSED, GOT
from mempool.shared.words import make_targets
from verification.schedules.world import it, together

SHARED_SCENARIOS: dict[str, Callable[[], None]] = {}
WRONG = "the words of the pool do not agree"


def scenario(function: Callable[[], None]) -> Callable[[], None]:
    SHARED_SCENARIOS["shared: " + function.__name__.replace("_", " ")] = function
    return function


class Shared:
    """A pool of a few slots, three clients, and somebody who looks at the end."""

    def __init__(self, reserve: int, keep: int, limit: int, clients: int = 2) -> None:
        self.memory = Memory(slots=3, places=2, clients=4)
        self.observer = self.attach(3)
        self.clients = [self.attach(number) for number in range(clients)]
        resize(self.observer, reserve, keep, limit)
        self.held: list[tuple[Process, Lease]] = []

    def faults(self) -> Faults:
        """None; planted.py says otherwise."""
        return Faults()

    def attach(self, number: int) -> Process:
        process = Process(self.memory, number, self.faults())
        process.become(number)
        return process

    def has(self, process: Process, *leases: Lease | None) -> None:
        self.held += [(process, lease) for lease in leases if lease is not None]

    def agrees(self) -> None:
        wrong = audit(self.memory.settled(self.observer))
        assert wrong == [], f"{WRONG}: {wrong}"

    def at_rest(self) -> None:
        """All come back, and each slot can be laid bare: nothing is lost."""
        self.agrees()
        owned = self.memory.settled(self.observer).slots_in(words.LEASED)
        assert sorted(slot for _, (slot, _) in self.held) == owned, f"{WRONG}: {self.held} are held, {owned} are leased"
        for process, lease in self.held:
            give(process, lease)
        resize(self.observer, 0, 0, 3)
        self.agrees()
        found = self.memory.settled(self.observer)
        assert len(found.slots_in(words.BARE)) == self.memory.slots, f"{WRONG}: a slot is lost"
        assert not self.memory.populated, f"{WRONG}: memory is lost"


@scenario
def two_take_one() -> None:
    """One of two gets what there is one of, and the other gets nothing."""
    with it.no_interleave():
        pool = Shared(1, 1, 1)
        one, two = pool.clients
    together(lambda: pool.has(one, take(one)), lambda: pool.has(two, take(two)))
    with it.no_interleave():
        assert len(pool.held) == 1, f"{len(pool.held)} have one element"
        pool.at_rest()


@scenario
def two_take_and_give() -> None:
    """What is given back can be had at once; each has one owner at a time."""
    with it.no_interleave():
        pool = Shared(1, 2, 2)

    def run(process: Process) -> None:
        lease = take(process)
        if lease is not None:
            give(process, lease)

    together(*[lambda p=process: run(p) for process in pool.clients])
    with it.no_interleave():
        pool.at_rest()


@scenario
def give_and_join() -> None:
    """Who lines up while the only element comes back has it: nobody sleeps beside a spare."""
    with it.no_interleave():
        pool = Shared(1, 1, 1)
        one, two = pool.clients
        lease = take(one)
        assert lease
        places: list[int] = []
    together(lambda: give(one, lease), lambda: places.append(join(two, 1)))
    with it.no_interleave():
        assert operations.run_look_at_place(two, places[0]) == GOT, "it waits beside a spare"
        pool.has(two, *leave(two, places[0]))
        pool.at_rest()


@scenario
def give_and_leave() -> None:
    """Who leaves the line in the moment in which it is served has the element, or the pool has."""
    with it.no_interleave():
        pool = Shared(1, 1, 1)
        one, two = pool.clients
        lease = take(one)
        assert lease
        place = join(two, 1)
    together(lambda: give(one, lease), lambda: pool.has(two, *leave(two, place)))
    with it.no_interleave():
        pool.at_rest()


@scenario
def two_resize() -> None:
    """All three targets are those of one of them, and the memory follows."""
    with it.no_interleave():
        pool = Shared(1, 1, 3)
        one, two = pool.clients
    together(
        lambda: operations.run_retarget(one, make_targets(2, 2, 3)),
        lambda: operations.run_retarget(two, make_targets(0, 1, 2)),
    )
    with it.no_interleave():
        found = pool.memory.settled(pool.observer).values[words.TARGETS]
        assert found in {make_targets(2, 2, 3), make_targets(0, 1, 2)}
        pool.at_rest()


@scenario
def two_fill() -> None:
    """What both make is what is promised: one leaves to the other what that one is making."""
    with it.no_interleave():
        pool = Shared(0, 3, 3)
        operations.run_retarget(pool.observer, make_targets(2, 3, 3))  # keeps one too many, too
    together(*[lambda p=process: operations.run_grow(p) for process in pool.clients])
    with it.no_interleave():
        found = pool.memory.settled(pool.observer)
        made = pool.memory.slots - len(found.slots_in(words.BARE))
        assert made == len(found.slots_in(words.SPARE)) == 2, f"{made} are made, and 2 are promised"
        pool.at_rest()


@scenario
def shrink_and_take() -> None:
    """Nothing is punched that somebody has."""
    with it.no_interleave():
        pool = Shared(1, 2, 2)
        one, two = pool.clients
    together(lambda: operations.run_retarget(one, make_targets(0, 0, 1)) and operations.run_shrink(one),
             lambda: pool.has(two, take(two)))  # fmt: skip
    with it.no_interleave():
        pool.at_rest()


@scenario
def two_adopt() -> None:
    """A token that two have is good for one of them."""
    with it.no_interleave():
        pool = Shared(1, 1, 1)
        lease = take(pool.observer)
        assert lease
        token = offer(pool.observer, lease)
        assert token
    together(*[lambda p=process: pool.has(p, adopt(p, token)) for process in pool.clients])
    with it.no_interleave():
        assert len(pool.held) == 1, f"{len(pool.held)} have adopted one token"
        pool.at_rest()


@scenario
def adopt_and_recall() -> None:
    """Either the receiver has it, or the sender has it again."""
    with it.no_interleave():
        pool = Shared(1, 1, 1)
        one, two = pool.clients
        lease = take(one)
        assert lease
        token = offer(one, lease, two)
        assert token
    together(lambda: pool.has(one, adopt(one, token, recalls=True)), lambda: pool.has(two, adopt(two, token)))
    with it.no_interleave():
        assert len(pool.held) == 1, f"{len(pool.held)} have one element"
        pool.at_rest()


@scenario
def offer_to_one_that_leaves() -> None:
    """It has it and returns it, or the sender is told, and has it still."""
    with it.no_interleave():
        pool = Shared(1, 1, 1)
        one, two = pool.clients
        lease = take(one)
        assert lease
        tokens: list[Lease | None] = []
    together(lambda: tokens.append(offer(one, lease, two)), lambda: operations.run_detach(two))
    with it.no_interleave():
        if tokens == [None]:
            pool.has(one, lease)
        pool.at_rest()


@scenario
def two_reap() -> None:
    """Two who return what a dead one had return it once."""
    with it.no_interleave():
        pool = Shared(1, 2, 2, clients=3)
        one, two, dead = pool.clients
        assert take(dead)
        dead.die()
    together(*[lambda p=process: operations.run_reap(p, dead.me, dead.epoch) for process in (one, two)])
    with it.no_interleave():
        operations.run_look_at_client(pool.observer, dead.me)
        pool.at_rest()


@scenario
def close_and_join() -> None:
    """Who lines up while the pool is closed is refused or told; it does not wait for ever."""
    with it.no_interleave():
        pool = Shared(1, 1, 1)
        one, two = pool.clients
        lease = take(one)
        assert lease
        outcomes: list[int] = []
    together(lambda: close(one), lambda: outcomes.append(operations.run_join(two, 1)))
    with it.no_interleave():
        if outcomes == [GOT]:
            assert operations.run_look_at_place(two, 0) == CLOSED, "it waits for ever"
            assert leave(two, 0) == []
        else:
            assert outcomes == [CLOSED]
        give(one, lease)
        pool.agrees()
