"""An element is addressed to a process that is just coming or going: it is refused, or adopted, or returned, but never lost.

Simulated, as in test_killed_at_each_step.py: the receiver is stopped before each of its steps, and the offer is made there.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from shared_scenes import CHILD, THIRD, Scene, adopt, give, offer, take
from simulated_pool import Process, carry_on

from mempool.shared import decisions, operations, words

greenlet = pytest.importorskip("greenlet", reason="stopping a process in the middle needs greenlets")

pytestmark = pytest.mark.once


def stop_at(process: Process, run: Callable[[], object], step: int) -> object:
    """A greenlet that runs this, stopped before that step, or dead."""

    def stop(stopped: Process) -> None:
        if stopped.steps == step:
            greenlet.getcurrent().parent.switch()

    process.steps, process.hook = 0, stop
    runner = greenlet.greenlet(run)
    runner.switch()
    return runner


def leaves_at(step: int) -> bool:
    """The child detaches, and stops there; the survivor addresses one to it. Whether it came to that step."""
    scene = Scene.make(0)
    for lease in scene.held:
        give(scene.child, lease)
    mine = take(scene.survivor)
    assert mine
    runner = stop_at(scene.child, lambda: operations.run_detach(scene.child), step)
    stopped = not runner.dead  # type: ignore[attr-defined]
    if offer(scene.survivor, mine, scene.child) is None:
        scene.mine.append(mine)
    if stopped:
        runner.switch()  # type: ignore[attr-defined]
    scene.child.hook = carry_on
    scene.third.die()
    scene.reap(THIRD)
    scene.check_that_all_came_back()
    return stopped


def comes_at(step: int) -> bool:
    """A successor takes the number of one that was killed, and stops there; the survivor addresses one to it."""
    scene = Scene.make(0)
    scene.child.die()
    mine = take(scene.survivor)
    assert mine
    successor = Process(scene.memory, CHILD)
    runner = stop_at(successor, lambda: successor.become(CHILD), step)
    stopped = not runner.dead  # type: ignore[attr-defined]
    successor_epoch = scene.child.epoch + 1
    receiver = Process(scene.memory, CHILD)
    receiver.epoch = successor_epoch
    token = offer(scene.survivor, mine, receiver)
    if stopped:
        runner.switch()  # type: ignore[attr-defined]
    successor.hook = carry_on
    if token is None:
        scene.mine.append(mine)
    else:
        lease = adopt(successor, token)
        assert lease, "it was accepted, and then returned under the receiver's hands"
        give(successor, lease)
    operations.run_detach(successor)
    scene.third.die()
    scene.reap(THIRD)
    scene.check_that_all_came_back()
    return stopped


def sweep(case: Callable[[int], bool]) -> int:
    step = 1
    while case(step):
        step += 1
    return step


def test_nothing_is_lost_that_is_addressed_to_a_process_that_leaves() -> None:
    """Before it looks through what it has for the last time, it says that nothing more can be addressed to it."""
    assert sweep(leaves_at) > 20


def test_what_is_addressed_to_a_process_that_comes_is_not_taken_for_its_predecessors() -> None:
    """It can be addressed only when it has returned what a dead one left under its number."""
    assert sweep(comes_at) > 20


def live_at_once(tx: Process, client: int, _quarantines: int) -> int:
    """Planted: it can be addressed from the first step on."""
    word = decisions.client_word(tx, client)
    value = tx.read(word)
    tx.value = words.epoch_of(value) + 1
    tx.write(word, words.make_client(words.LIVE, tx.value))
    return decisions.GOT if words.client_state(value) == words.ABSENT else decisions.FULL


def unsettled_without_a_word(tx: Process, _state: int, _quarantines: int) -> int:
    """Planted: it can be addressed to the last step."""
    tx.value = tx.epoch
    return decisions.GOT


@pytest.mark.parametrize(
    ("name", "planted", "case"),
    [
        ("settle_down", unsettled_without_a_word, leaves_at),
        ("attach", live_at_once, comes_at),
    ],
)
def test_the_sweep_notices_a_planted_bug(
    monkeypatch: pytest.MonkeyPatch, name: str, planted: Callable[..., object], case: Callable[[int], bool]
) -> None:
    """Without either of the two rules, one is lost."""
    monkeypatch.setattr(operations, name, planted)
    with pytest.raises(AssertionError):
        sweep(case)
