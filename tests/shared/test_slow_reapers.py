"""A reaper is stopped before each of its steps; meanwhile others reap the same client, and its number is used again.

Simulated, as in test_killed_at_each_step.py: that a slot is punched, populated or taken while somebody uses it is an error.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from shared_scenes import THIRD, KillAt, Scene, give, take
from simulated_pool import Killed, Process, carry_on

from mempool.shared import decisions, operations, words
from mempool.shared.transaction import Transaction

greenlet = pytest.importorskip("greenlet", reason="stopping a process in the middle needs greenlets")

pytestmark = pytest.mark.once

#: At which of its steps the third is killed: with elements, or half way to populating or punching one.
DEATHS = range(2, 120, 9)


def prepare(death: int) -> Scene:
    """The third has died of it, with what it held."""
    scene = Scene.make(0)
    scene.third.hook = KillAt(death)
    try:
        for _ in range(3):
            take(scene.third)
        give(scene.third, scene.third_held[0])
        operations.run_retarget(scene.third, words.make_targets(0, 0, 8))
        operations.run_shrink(scene.third)
    except Killed:
        pass
    scene.third.hook = carry_on
    scene.third.die()
    return scene


def stopped_reaper(scene: Scene, step: int) -> bool:
    """The child reaps the third and is stopped there; the survivor does it, too; a successor works; then it goes on."""

    def stop(process: Process) -> None:
        if process.steps == step:
            greenlet.getcurrent().parent.switch()

    scene.child.steps, scene.child.hook = 0, stop
    epoch = scene.third.epoch
    reaper = greenlet.greenlet(lambda: operations.run_reap(scene.child, THIRD, epoch))
    reaper.switch()
    ended = bool(reaper.dead)
    operations.run_reap(scene.survivor, THIRD, epoch)
    successor = Process(scene.memory, THIRD)
    successor.become(THIRD)
    operations.run_retarget(successor, words.make_targets(3, 6, 8))
    operations.run_grow(successor)
    held = [lease for lease in (take(successor) for _ in range(4)) if lease]
    if not ended:
        reaper.switch()
        assert reaper.dead
    scene.child.hook = carry_on
    scene.check("after the slow reaper went on")
    for lease in held:
        assert operations.run_look_at_slot(successor, lease[0]) == decisions.GOT, "what the successor has was taken from it"
        assert successor.value == lease[1]
        give(successor, lease)
    operations.run_detach(successor)
    for lease in scene.held:
        give(scene.child, lease)
    operations.run_detach(scene.child)
    scene.check_that_all_came_back()
    return not ended


def sweep(stride: int = 1) -> int:
    """Each death, each step of the reaper. How many there were."""
    done = 0
    for death in DEATHS:
        step = 1
        while stopped_reaper(prepare(death), step):
            step += stride
            done += 1
    return done


def test_a_slow_reaper_takes_nothing_from_a_successor() -> None:
    """It looks in each step whether it is still the same client; and it punches only what is its own."""
    assert sweep(stride=5) > 100


@pytest.mark.stress
def test_a_reaper_that_is_slow_at_any_step_takes_nothing_from_a_successor() -> None:
    """Every step."""
    print(sweep())


def no_epoch(tx: Transaction, client: int, _epoch: int) -> bool:
    """Planted: any client of that number is reaped."""
    return tx.read(decisions.client_word(tx, client)) != words.ABSENT


def punch_at_once(tx: Transaction, slot: int, client: int, epoch: int) -> int:
    """Planted: what is half way is punched where it is, and becomes the reaper's only then."""
    if not decisions.may_reap(tx, client, epoch):
        return decisions.NOTHING
    value = tx.read(decisions.slot_word(tx, slot))
    if words.client_of(value) == client and words.state_of(value) in {words.POPULATING, words.FILLING, words.PUNCHING}:
        tx.punch(slot)
    return REAP_SLOT(tx, slot, client, epoch)


REAP_SLOT = decisions.reap_slot


@pytest.mark.parametrize(
    ("module", "name", "planted"), [(decisions, "may_reap", no_epoch), (operations, "reap_slot", punch_at_once)]
)
def test_the_sweep_notices_a_planted_bug(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, planted: Callable[..., object]
) -> None:
    """Without either of the two rules, a slow reaper does harm."""
    monkeypatch.setattr(module, name, planted)
    with pytest.raises(AssertionError):
        sweep()
