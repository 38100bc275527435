"""A simulated pool with three clients, and what one of them can be in the middle of when it is killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from simulated_pool import Faults, Killed, Memory, Process

from mempool.shared import operations, words
from mempool.shared.audit import audit
from mempool.shared.decisions import GOT, NOTHING, TO_PUNCH
from mempool.shared.words import make_targets

Lease = tuple[int, int]
SURVIVOR, CHILD, THIRD, ASIDE = range(4)
#: What there is when the child begins: spares / nothing, because the survivor has it / and a line / with the third in it.
SETUPS = range(4)


def take(process: Process) -> Lease | None:
    if operations.run_take(process) != GOT:
        return None
    slot, lease = process.slot, process.version
    return process.use(slot), lease


def give(process: Process, held: Lease) -> None:
    process.stop_using(held[0])
    operations.run_give(process, *held)


def join(process: Process, wanted: int) -> int:
    assert operations.run_join(process, wanted) == GOT
    place = process.place
    operations.run_pump(process)
    return place


def leave(process: Process, place: int) -> list[Lease]:
    outcome = operations.run_leave(process, place)
    assert outcome in {GOT, NOTHING}
    slot, count = process.slot, process.count
    leases = []
    for _ in range(count):
        assert operations.run_look_at_slot(process, slot) == GOT
        leases.append((process.use(slot), process.value))
        slot = process.slot
    return leases


def offer(process: Process, held: Lease, to: Process | None = None) -> Lease | None:
    """The token; None: there is no such receiver."""
    slot, lease = held
    receiver, epoch = (words.ANYBODY, 0) if to is None else (to.me, to.epoch)
    process.stop_using(slot)  # before: whoever adopts it may write into it in the very next moment
    outcome = operations.run_offer(process, slot, lease, receiver, epoch)
    if outcome == NOTHING:
        process.use(slot)
    return (slot, process.version) if outcome == GOT else None


def adopt(process: Process, token: Lease, *, recalls: bool = False) -> Lease | None:
    if operations.run_end_offer(process, *token, recalls) != GOT:
        return None
    slot, lease = process.slot, process.version
    return process.use(slot), lease


def resize(process: Process, reserve: int, keep: int, limit: int) -> None:
    operations.run_retarget(process, make_targets(reserve, keep, limit))
    operations.run_shrink(process)
    operations.run_grow(process)


def close(process: Process) -> None:
    operations.run_close(process)
    operations.run_shrink(process)


def fetch(process: Process) -> None:
    if operations.run_fetch(process) == GOT:
        process.use(process.slot)


def scrap(process: Process, lease: Lease) -> None:
    process.stop_using(lease[0])
    operations.run_scrap(process, *lease)


def trim(process: Process) -> None:
    while operations.shrink_by_one(process, True) == TO_PUNCH:
        pass


def exchange(process: Process, reserve: int, keep: int, limit: int) -> None:
    operations.run_look(process)
    operations.run_exchange(process, process.value, make_targets(reserve, keep, limit))
    operations.run_shrink(process)
    operations.run_grow(process)


@dataclass
class Scene:
    memory: Memory
    survivor: Process
    child: Process
    third: Process
    held: list[Lease] = field(default_factory=list)  # the child's
    third_held: list[Lease] = field(default_factory=list)
    mine: list[Lease] = field(default_factory=list)  # the survivor's
    places: list[int] = field(default_factory=list)  # the survivor's
    token: Lease = (0, 0)  # what the third has offered to anybody
    tokens: list[Lease] = field(default_factory=list)  # what the survivor has offered to anybody, and to the child
    aside: int | None = None  # the epoch of one that has died, and whose elements are to be set aside

    @classmethod
    def make(cls, setup: int, faults: Faults | None = None, room: int | None = None) -> Scene:
        memory = Memory(slots=10, places=6, clients=4, room=room)
        processes = [Process(memory, me, faults) for me in (SURVIVOR, CHILD, THIRD)]
        for process in processes:
            process.become(process.me)
        scene = cls(memory, *processes)
        resize(scene.survivor, 2, 5, 8)
        scene.held = [lease for lease in (take(scene.child) for _ in range(3)) if lease]
        scene.third_held = [lease for lease in (take(scene.third),) if lease]
        if setup >= 1:
            while lease := take(scene.survivor):
                scene.mine.append(lease)
        if setup >= 2:
            scene.places = [join(scene.survivor, 1), join(scene.survivor, 2)]
        if setup == 3:
            join(scene.third, 1)
        for process in processes:
            process.steps = 0
        return scene

    def pass_on(self) -> None:
        """The third has offered what it had to anybody, and the survivor one to anybody and one to the child."""
        self.token = offer(self.third, self.third_held.pop()) or (0, 0)
        for receiver in (None, self.child):
            lease = self.mine.pop() if self.mine else take(self.survivor)
            if lease is not None:
                self.tokens.append(offer(self.survivor, lease, receiver) or (0, 0))
        self.third.steps = self.survivor.steps = 0

    def set_aside(self) -> int:
        """One more attaches, who wants what it has to be set aside; has one, has offered another to anybody, and dies."""
        process = Process(self.memory, ASIDE, self.child.faults)
        process.become(ASIDE, quarantines=True)
        leases = []
        for _ in range(2):
            lease = self.mine.pop() if self.mine else take(self.survivor)
            token = offer(self.survivor, lease) if lease else None
            leases += [adopted for adopted in (adopt(process, token) if token else None,) if adopted]
        assert leases
        assert offer(process, leases.pop())
        process.die()
        self.aside = process.epoch
        self.survivor.steps = 0
        return process.epoch

    def quarantined(self, process: Process) -> list[Lease]:
        """What is in quarantine, as tokens."""
        slots = [s for s in range(self.memory.slots) if operations.run_look_at_quarantined(process, s) == GOT]
        tokens = []
        for slot in slots:
            operations.run_look_at_quarantined(process, slot)
            tokens.append((slot, process.value))
        return tokens

    def work(self) -> None:
        """The survivor uses the pool, whatever has become of the others."""
        for _ in range(3):
            lease = take(self.survivor)
            if lease is not None:
                give(self.survivor, lease)
        if self.mine:
            give(self.survivor, self.mine.pop())
            lease = take(self.survivor)
            if lease is not None:
                self.mine.append(lease)

    def check(self, when: str) -> None:
        assert audit(self.memory.settled(self.survivor)) == [], when

    def reap(self, *dead: int) -> None:
        for client in dead:
            operations.run_look_at_client(self.survivor, client)
            operations.run_reap(self.survivor, client, self.survivor.value)
        if self.aside is not None:
            operations.run_look_at_client(self.survivor, ASIDE)  # or who has come in its place, and was killed
            operations.run_reap(self.survivor, ASIDE, self.survivor.value)

    def check_that_all_came_back(self) -> None:
        """After the others were reaped: what is out is the survivor's, and it can return everything."""
        self.check("after the dead were reaped")
        found = self.memory.settled(self.survivor)
        assert not (words.waiting(found.gate) and words.spares(found.gate)), "spares lie beside a line"
        assert found.slots_in(words.POPULATING) == found.slots_in(words.FILLING) == found.slots_in(words.PUNCHING) == []
        for place in self.places:
            self.mine += leave(self.survivor, place)
        # What was addressed to the dead went with them; what is left is the survivor's own.
        quarantined = [adopt(self.survivor, token) for token in self.quarantined(self.survivor)]
        assert None not in quarantined
        self.mine += [lease for lease in quarantined if lease]
        self.mine += [lease for token in self.tokens if (lease := adopt(self.survivor, token, recalls=True))]
        found = self.memory.settled(self.survivor)
        assert found.slots_in(words.OFFERED) == found.slots_in(words.ADDRESSED) == []
        assert sorted(slot for slot, _ in self.mine) == found.slots_in(words.LEASED)
        for lease in self.mine:
            give(self.survivor, lease)
        resize(self.survivor, 0, 0, 8)
        found = self.memory.settled(self.survivor)
        assert audit(found) == []
        assert len(found.slots_in(words.BARE)) == self.memory.slots
        assert self.memory.populated == set()


Script = Callable[[Scene, Process, list[Lease]], None]


def free_and_take(_scene: Scene, process: Process, held: list[Lease]) -> None:
    give(process, held[0])
    lease = take(process)
    if lease:
        give(process, lease)


def free_all(_scene: Scene, process: Process, held: list[Lease]) -> None:
    for lease in held:
        give(process, lease)


def take_all(_scene: Scene, process: Process, _held: list[Lease]) -> None:
    for _ in range(6):
        take(process)


def gather_and_leave(_scene: Scene, process: Process, _held: list[Lease]) -> None:
    for lease in leave(process, join(process, 3)):
        give(process, lease)


def leave_the_middle(_scene: Scene, process: Process, _held: list[Lease]) -> None:
    join(process, 1)
    middle = join(process, 2)
    join(process, 1)
    leave(process, middle)


def reap_the_third(scene: Scene, process: Process, _held: list[Lease]) -> None:
    scene.third.die()
    operations.run_reap(process, THIRD, scene.third.epoch)


def detach(_scene: Scene, process: Process, held: list[Lease]) -> None:
    for slot, _ in held:
        process.stop_using(slot)
    operations.run_detach(process)


def attach_where_the_third_died(scene: Scene, _process: Process, _held: list[Lease]) -> None:
    scene.third.die()
    successor = Process(scene.memory, THIRD, scene.child.faults)
    successor.hook = scene.child.hook
    successor.become(THIRD)


def offer_to_anybody(_scene: Scene, process: Process, held: list[Lease]) -> None:
    offer(process, held[0])


def offer_to_the_third(scene: Scene, process: Process, held: list[Lease]) -> None:
    assert offer(process, held[0], scene.third)


def offer_and_recall(scene: Scene, process: Process, held: list[Lease]) -> None:
    for receiver in (None, scene.third):
        token = offer(process, held.pop(), receiver)
        assert token
        lease = adopt(process, token, recalls=True)
        assert lease
        assert adopt(process, token) is adopt(process, token, recalls=True) is None
        held.insert(0, lease)


def adopt_what_others_offer(scene: Scene, process: Process, _held: list[Lease]) -> None:
    scene.pass_on()
    for token in (scene.token, *scene.tokens):
        lease = adopt(process, token)
        assert lease
        assert adopt(process, token) is None
        give(process, lease)


def adopt_and_pass_on(scene: Scene, process: Process, _held: list[Lease]) -> None:
    scene.pass_on()
    lease = adopt(process, scene.token)
    assert lease
    assert offer(process, lease)


def reap_an_offerer(scene: Scene, process: Process, held: list[Lease]) -> None:
    scene.pass_on()
    offer(process, held[0], scene.third)
    scene.third.die()
    operations.run_reap(process, THIRD, scene.third.epoch)
    assert adopt(process, scene.token) is None


def reap_one_that_sets_aside(scene: Scene, process: Process, _held: list[Lease]) -> None:
    epoch = scene.set_aside()
    operations.run_reap(process, ASIDE, epoch)
    tokens = scene.quarantined(process)
    assert tokens
    for token in tokens:
        lease = adopt(process, token)
        assert lease
        assert adopt(process, token) is None
        give(process, lease)
    assert scene.quarantined(process) == []


def attach_where_one_that_sets_aside_died(scene: Scene, _process: Process, _held: list[Lease]) -> None:
    scene.set_aside()
    successor = Process(scene.memory, ASIDE, scene.child.faults)
    successor.hook = scene.child.hook
    successor.become(ASIDE)
    assert scene.quarantined(successor)
    operations.run_detach(successor)  # who ends by itself sets nothing aside


SCRIPTS: dict[str, Script] = {
    "take": lambda _scene, process, _held: take(process) and None,
    "free": lambda _scene, process, held: give(process, held[0]),
    "free and take": free_and_take,
    "free all": free_all,
    "take all": take_all,
    "join": lambda _scene, process, _held: join(process, 3) and None,
    "gather and leave": gather_and_leave,
    "leave the middle": leave_the_middle,
    "grow": lambda _scene, process, _held: resize(process, 5, 8, 10),
    "shrink": lambda _scene, process, _held: resize(process, 0, 0, 8),
    "fetch beside a line": lambda _scene, process, _held: fetch(process),
    "scrap": lambda _scene, process, held: scrap(process, held[0]),
    "trim": lambda _scene, process, _held: trim(process),
    "exchange the targets": lambda _scene, process, _held: exchange(process, 3, 4, 6),
    "lower the limit": lambda _scene, process, _held: resize(process, 0, 1, 2),
    "offer": offer_to_anybody,
    "offer to one": offer_to_the_third,
    "offer and recall": offer_and_recall,
    "adopt": adopt_what_others_offer,
    "adopt and pass on": adopt_and_pass_on,
    "reap an offerer": reap_an_offerer,
    "reap one that sets aside": reap_one_that_sets_aside,
    "attach where one that sets aside died": attach_where_one_that_sets_aside_died,
    "close": lambda _scene, process, _held: close(process),
    "reap the third": reap_the_third,
    "detach": detach,
}


class KillAt:
    """Before its n-th step, a process ends."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, process: Process) -> None:
        if process.steps == self.step:
            raise Killed
