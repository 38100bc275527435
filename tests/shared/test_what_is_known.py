"""Who takes and gives alone looks at its own word, targets and bare slots once, and again when another has committed.

Simulated, in pairs: one process that knows them, and one that looks each time. Whatever a third does at whatever moment,
both do the same: each outcome, each word and the number of each transaction.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from shared_scenes import CHILD, SURVIVOR, Scene, close, resize, take
from simulated_pool import Faults, Memory, Process

from mempool.shared import decisions, operations, words
from mempool.shared.audit import audit

pytestmark = pytest.mark.once

#: Times that the root is read or swapped until the child is done; a few more where the other one strikes.
MOMENTS = 60


class Watched(Process):
    """`strike` is called before the root is read or swapped for the n-th time."""

    moments = 0
    at = -1
    strike: Callable[[], object] = staticmethod(lambda: None)

    def _count(self) -> None:
        self.moments += 1
        if self.moments == self.at:
            self.strike()

    def load_root(self) -> int:
        self._count()
        return super().load_root()

    def swap_root(self, root: int, gate: int, new_root: int, new_gate: int) -> bool:
        self._count()
        return super().swap_root(root, gate, new_root, new_gate)


class Forgetful(Watched):
    """Knows nothing from one transaction to the next."""

    def begin(self) -> int:
        super().begin()
        self.is_known = False
        return 0


def reap(scene: Scene) -> None:
    scene.reap(CHILD)


def take_all(scene: Scene) -> None:
    while take(scene.survivor):
        pass


STRIKES: dict[str, Callable[[Scene], object]] = {
    "reserve and keep lowered": lambda scene: resize(scene.survivor, 0, 0, 8),
    "reserve raised": lambda scene: resize(scene.survivor, 6, 6, 8),
    "limit lowered": lambda scene: resize(scene.survivor, 1, 1, 2),
    "limit raised": lambda scene: operations.run_retarget(scene.survivor, words.make_targets(4, 5, 10)),
    "memory for all is fetched": take_all,
    "the child is taken for dead": reap,
    "closed": lambda scene: close(scene.survivor),
}


def outcomes(kind: type[Watched], strike: str, at: int, faults: Faults | None = None) -> tuple[list[object], bool]:
    """What the child was told, and the words, if the other one strikes at this moment; whether it came to that."""
    memory = Memory(slots=10, places=6, clients=4)
    survivor, child = Process(memory, SURVIVOR), kind(memory, CHILD, faults)
    for process in (survivor, child):
        process.become(process.me)
    scene = Scene(memory, survivor, child, survivor)
    resize(survivor, *((4, 5, 5) if strike == "limit raised" else (2, 5, 8)))
    held = []
    for _ in range(3):
        assert operations.run_take(child) == decisions.GOT
        held.append((child.slot, child.version))
    child.moments, child.at, child.strike = 0, at, lambda: STRIKES[strike](scene)
    told: list[object] = []
    for _ in range(3):
        told.append(operations.run_give(child, *held.pop(0)))
        told.append(operations.run_take(child))
        if told[-1] == decisions.GOT:
            told.append((child.slot, child.count, child.version))
            held.append((child.slot, child.version))
        if not held:
            break
    assert 0 < child.moments < MOMENTS
    settled = memory.settled(survivor)
    assert audit(settled) == []
    return [*told, memory.root, settled.values], child.moments >= at


@pytest.mark.parametrize("strike", STRIKES)
def test_who_knows_does_what_one_does_who_looks_each_time(strike: str) -> None:
    """Before each time that it reads the root or swaps it. It is long over before the last one."""
    came = [at for at in range(1, MOMENTS) if compare(strike, at)]
    assert 12 < len(came) < MOMENTS - 1


def compare(strike: str, at: int, faults: Faults | None = None) -> bool:
    known, came = outcomes(Watched, strike, at, faults)
    assert (known, came) == outcomes(Forgetful, strike, at)
    return came


@pytest.mark.parametrize("strike", [strike for strike in STRIKES if strike != "closed"])  # the gate says that, and is read
def test_one_who_does_not_forget_is_noticed(strike: str) -> None:
    """A comparison that could not fail would prove nothing."""
    faults = Faults(what_is_known_is_not_forgotten=True)

    def compare_all() -> None:
        for at in range(1, MOMENTS):
            compare(strike, at, faults)

    with pytest.raises(AssertionError):
        compare_all()


def test_who_knows_reads_the_root_and_its_slot_alone() -> None:
    """Two loads of the root and one of its gate, the slot's number and value; then the intent and the swap."""
    memory = Memory(slots=4, places=2, clients=2)
    process = Process(memory, 0)
    process.become(0)
    resize(process, 1, 2, 2)
    steps = []
    for _ in range(4):
        assert operations.run_take(process) == decisions.GOT
        before = process.steps
        operations.run_give(process, process.slot, process.version)
        steps.append(process.steps - before)
    assert steps[1:] == [steps[-1]] * 3
    assert process.is_known
    assert words.reserve_of(process.known_targets) == 1
    process.known = -1  # nothing is known: it looks at three words more, each a number and a value
    assert operations.run_take(process) == decisions.GOT
    process.known = -1
    before = process.steps
    operations.run_give(process, process.slot, process.version)
    assert process.steps - before == steps[-1] + 6
