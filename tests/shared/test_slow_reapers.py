"""A reaper is stopped before each of its steps; meanwhile others reap the same client, and its number is used again.

Simulated, as in test_killed_at_each_step.py: that a slot is punched, populated or taken while somebody uses it is an error.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from shared_scenes import CHILD, THIRD, KillAt, Scene, give, take
from simulated_pool import Killed, Process, carry_on

from mempool.shared import decisions, membership, operations, words
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
    if not membership.may_reap(tx, client, epoch):
        return decisions.NOTHING
    value = tx.read(decisions.slot_word(tx, slot))
    if words.client_of(value) == client and words.state_of(value) in {words.POPULATING, words.FILLING, words.PUNCHING}:
        tx.punch(slot)
    return REAP_SLOT(tx, slot, client, epoch)


REAP_SLOT = membership.reap_slot


@pytest.mark.parametrize(
    ("module", "name", "planted"), [(membership, "may_reap", no_epoch), (operations, "reap_slot", punch_at_once)]
)
def test_the_sweep_notices_a_planted_bug(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, planted: Callable[..., object]
) -> None:
    """Without either of the two rules, a slow reaper does harm."""
    monkeypatch.setattr(module, name, planted)
    with pytest.raises(AssertionError):
        sweep()


#: What each client may call, and what it is called with: the one that calls, and an element that it had.
CALLS: dict[str, Callable[[Process, tuple[int, int]], int]] = {
    "take": lambda gone, _had: operations.run_take(gone),
    "take a spare": lambda gone, _had: operations.run_take_spare(gone),
    "give": lambda gone, had: operations.run_give(gone, *had),
    "scrap": lambda gone, had: operations.run_scrap(gone, *had),
    "offer": lambda gone, had: operations.run_offer(gone, *had, words.ANYBODY, 0),
    "end an offer": lambda gone, had: operations.run_end_offer(gone, *had, False),
    "shrink": lambda gone, _had: operations.run_shrink(gone),
    "shrink by one": lambda gone, _had: operations.shrink_by_one(gone, True),
    "grow": lambda gone, _had: operations.run_grow(gone),
    "grow by one": lambda gone, _had: operations.grow_by_one(gone, decisions.FOR_RESERVE),
    "fetch": lambda gone, _had: operations.run_fetch(gone),
    "exchange": lambda gone, _had: operations.run_exchange(gone, words.make_targets(3, 5, 8), words.make_targets(1, 5, 8)),
    "retarget": lambda gone, _had: operations.run_retarget(gone, words.make_targets(1, 5, 8)),
    "pump": lambda gone, _had: operations.run_pump(gone),
    "join": lambda gone, _had: operations.run_join(gone, 1),
    "leave": lambda gone, _had: operations.run_leave(gone, 0),
    "close": lambda gone, _had: operations.run_close(gone),
    "reap": lambda gone, _had: operations.run_reap(gone, CHILD, 1),
    "inherit": lambda gone, _had: operations.run_inherit(gone, 0),
    "detach": lambda gone, _had: operations.run_detach(gone),
}


@pytest.mark.parametrize("name", CALLS)
def test_who_was_taken_for_dead_is_told_by_each_call_and_changes_nothing(name: str) -> None:
    """Neither a word of the file nor its memory: the slot whose number it still has may be anybody's by now."""
    scene = Scene.make(0)
    had = scene.third_held[0]
    scene.third.die()
    assert operations.run_reap(scene.survivor, THIRD, scene.third.epoch) == decisions.GOT
    operations.run_retarget(scene.survivor, words.make_targets(3, 5, 8))  # so that there is something to be populated
    scene.third.slot = scene.memory.slots - 1
    before = scene.memory.settled(scene.survivor).values, set(scene.memory.populated)
    assert CALLS[name](scene.third, had) == decisions.GONE
    assert (scene.memory.settled(scene.survivor).values, scene.memory.populated) == before


def test_who_ends_with_elements_and_a_place_in_the_line_leaves_nothing_behind() -> None:
    """By itself: nobody comes to look for what it had."""
    scene = Scene.make(3)
    scene.third.die()
    assert operations.run_detach(scene.third) == decisions.GOT
    settled = scene.memory.settled(scene.survivor)
    assert [slot for slot, _ in scene.third_held if words.client_of(settled.slot(slot)) == THIRD] == []
    scene.check("after it has ended")
    assert operations.run_attach(scene.third, THIRD, 0) == decisions.GOT, "it is in the way of the next one of its number"


def test_whoever_pumps_goes_on_as_long_as_the_line_has_use_for_spares() -> None:
    """A step grants six; a request for more is served by several. And a grow populates all that the reserve lacks."""
    scene = Scene.make(0)
    for holder, leases in ((scene.child, scene.held), (scene.third, scene.third_held)):
        for lease in leases:
            give(holder, lease)
    operations.run_retarget(scene.survivor, words.make_targets(8, 8, 8))
    assert operations.run_grow(scene.survivor) == decisions.NOTHING
    assert operations.run_join(scene.survivor, 8) == decisions.GOT
    place = scene.survivor.place
    assert operations.run_look_at_place(scene.survivor, place) == decisions.NOTHING
    assert operations.run_pump(scene.child) == decisions.NOTHING
    assert operations.run_leave(scene.survivor, place) == decisions.GOT
    assert scene.survivor.count == 8
