"""A process is killed or stopped before each load and store of shared memory, in everything that it can be in the middle of.

Simulated: the protocol of protocol.h, step by step, under the same decisions that are compiled. test_killed_for_real.py does
it with real processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from shared_scenes import CHILD, SCRIPTS, SETUPS, THIRD, KillAt, Scene
from simulated_pool import Faults, Killed, Process, carry_on
from sweeps import LONG

from mempool.shared.errors import PoolCorrupt

greenlet = pytest.importorskip("greenlet", reason="stopping a process in the middle needs greenlets")

pytestmark = pytest.mark.once


def kill_the_child(script: str, setup: int, step: int, faults: Faults | None = None, room: int | None = None) -> bool:
    """Whether the child came to that step."""
    scene = Scene.make(setup, faults, room)
    scene.child.hook = KillAt(step)
    try:
        SCRIPTS[script](scene, scene.child, scene.held)
    except Killed:
        killed = True
    else:
        killed = False
    scene.child.hook = carry_on
    scene.check("before anybody has reaped it")
    scene.work()
    scene.child.die()
    scene.third.die()
    scene.reap(CHILD, THIRD)
    scene.check_that_all_came_back()
    return killed


class Stopped:
    """A process in a greenlet of its own, which stops before its n-th step until it is continued."""

    def __init__(self, process: Process, run: Callable[[], None], step: int) -> None:
        self.process, self.step = process, step
        process.hook = self
        self.killed = False
        self._greenlet = greenlet.greenlet(lambda: self._run(run))

    def _run(self, run: Callable[[], None]) -> None:
        try:
            run()
        except Killed:
            self.killed = True

    def __call__(self, process: Process) -> None:
        if process.steps == self.step:
            greenlet.getcurrent().parent.switch()

    def go(self) -> bool:
        """Run until it stops or ends; whether it has ended."""
        self._greenlet.switch()
        return bool(self._greenlet.dead)

    def go_on_and_die(self, steps: int) -> None:
        if not self._greenlet.dead:
            self.process.hook = KillAt(self.process.steps + steps)
            self._greenlet.switch()


def stop_the_child(script: str, setup: int, step: int, faults: Faults | None = None) -> bool:
    scene = Scene.make(setup, faults)
    child = Stopped(scene.child, lambda: SCRIPTS[script](scene, scene.child, scene.held), step)
    ended = child.go()
    scene.work()
    scene.check("while it is stopped")
    if not ended:
        assert child.go()
    scene.check("after it went on")
    scene.work()
    for process in (scene.child, scene.third):
        process.die()
    scene.reap(CHILD, THIRD)
    scene.check_that_all_came_back()
    return not ended


#: A sample has each so many'th step of the sweeps, from another first one for each setup. The shortest has four steps.
SAMPLED = 1 if LONG else 6
STEPS_MIN = max(1, 4 // SAMPLED)  # as there are four setups, the last begins with the fourth step


def sweep(case: Callable[..., bool], *arguments: object, first: int = 0, every: int = 1, most: int = 10_000) -> int:
    """Each step of a case, or a sample of them, until it is over before that step. How many there were."""
    for number, step in enumerate(range(1 + first % every, most, every)):
        if not case(*arguments, step):
            return number
    raise AssertionError("it never ends")


@pytest.mark.sample(2)
@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_before_any_step_nothing_is_lost(script: str) -> None:
    """All invariants hold at once, and after the dead was reaped everything can be had and returned."""
    for setup in SETUPS:
        assert sweep(kill_the_child, script, setup, first=setup, every=SAMPLED) >= STEPS_MIN


@pytest.mark.parametrize("script", ["take", "grow", "take all"])
def test_killed_where_there_is_no_memory_nothing_is_lost(script: str) -> None:
    """On a full file system, slots that were taken are returned."""
    for room in (5, 6):
        assert sweep(lambda step, room=room: kill_the_child(script, 0, step, None, room), every=1 if LONG else 2) > 3


@pytest.mark.sample(2)
@pytest.mark.parametrize("script", SCRIPTS)
def test_stopped_before_any_step_nobody_else_waits(script: str) -> None:
    """Others go on, see all invariants hold, and it does no harm by going on late."""
    for setup in SETUPS:
        assert sweep(stop_the_child, script, setup, first=setup, every=SAMPLED) >= STEPS_MIN


def two_faults(scripts: tuple[str, str], setup: int, i: int, j: int) -> tuple[bool, bool]:
    """The child is killed at its i-th step; the third, who must help, is stopped at its j-th and goes on late."""
    scene = Scene.make(setup)
    first, second = scripts
    child = Stopped(scene.child, lambda: SCRIPTS[first](scene, scene.child, scene.held), -1)
    scene.child.hook = KillAt(i)
    child.go()
    third = Stopped(scene.third, lambda: SCRIPTS[second](scene, scene.third, scene.third_held), j)
    ended = third.go()
    scene.work()
    scene.check("while one is dead and one is stopped")
    scene.child.die()
    scene.reap(CHILD)
    if not ended:
        assert third.go()
    scene.work()
    scene.third.die()
    scene.reap(THIRD)
    scene.check_that_all_came_back()
    return child.killed, not ended


def three_steps(
    scripts: tuple[str, str], steps: tuple[int, int, int], *, at_once: bool, faults: Faults | None
) -> tuple[bool, bool]:
    """The owner stops at i, the helper at j; the owner goes on and dies x steps later; then the helper goes on."""
    (first, second), (i, x, j) = scripts, steps
    scene = Scene.make(0, faults)
    child = Stopped(scene.child, lambda: SCRIPTS[first](scene, scene.child, scene.held), i)
    child_ended = child.go()
    third = Stopped(scene.third, lambda: SCRIPTS[second](scene, scene.third, scene.third_held), j)
    third_ended = third.go()
    child.go_on_and_die(x)
    if at_once and not third_ended:
        assert third.go()
        third_ended = True
    scene.work()
    scene.check("after the owner has died")
    if not at_once and not third_ended:
        assert third.go()
    scene.work()
    for process in (scene.child, scene.third):
        process.die()
    scene.reap(CHILD, THIRD)
    scene.check_that_all_came_back()
    return not child_ended, not third_ended or at_once


def pairs(case: Callable[[int, int], tuple[bool, bool]], stride: int) -> int:
    """Each pair of steps, or a sample of them: every stride-th of each. How many there were."""
    done = 0
    for i in itertools.count(1, stride):
        goes_on = False
        for j in itertools.count(1, stride):
            first, second = case(i, j)
            goes_on |= first
            done += 1
            if not second or j > 2_000:
                break
        if not goes_on:
            return done
    raise AssertionError


PAIRS = list(itertools.product(["take", "free", "join", "grow", "leave the middle"], ["take", "free", "gather and leave"]))


@pytest.mark.sample(3)
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_one_killed_and_its_helper_stopped(first: str, second: str) -> None:
    """A sample of all pairs of steps; `make stress` has them all."""
    assert pairs(lambda i, j: two_faults((first, second), 0, i, j), stride=9) > 5


@pytest.mark.stress
@pytest.mark.parametrize("setup", [0, 1, 2])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_one_killed_and_its_helper_stopped_at_every_pair_of_steps(first: str, second: str, setup: int) -> None:
    """All pairs."""
    print(first, second, setup, pairs(lambda i, j: two_faults((first, second), setup, i, j), stride=1))


def commits(script: str) -> list[int]:
    """Before which steps the child has just put something in force, and nobody else knows of it yet."""
    scene = Scene.make(0)
    versions: list[int] = []
    scene.child.hook = lambda _process: versions.append(scene.memory.root[0])
    SCRIPTS[script](scene, scene.child, scene.held)
    return [step for step in range(2, len(versions)) if versions[step - 1] != versions[step - 2]]


def schedules(faults: Faults | None, stops: list[int], stride: int) -> int:
    """Three-step schedules, in which the owner begins other transactions while a helper still has the first."""
    done = 0
    for i, second, at_once in itertools.product(stops, ["take", "free"], [True, False]):
        for x, j in itertools.product(range(1, 95, stride), range(2, 24)):
            three_steps(("free all", second), (i, x, j), at_once=at_once, faults=faults)
            done += 1
    return done


def test_owner_and_helper_stopped_in_turn() -> None:
    """A sample of the schedules that find the need for two intent buffers; `make stress` has many more."""
    assert schedules(None, commits("free all")[:1], stride=9) > 300


@pytest.mark.stress
@pytest.mark.parametrize("stop", range(2, 95))
def test_owner_and_helper_stopped_in_turn_at_every_step(stop: int) -> None:
    """The owner stops before any step."""
    print(schedules(None, [stop], stride=3))


# -- would they notice?


def caught_by_killing(faults: Faults) -> bool:
    """Whether the sweep objects."""
    try:
        for script in ("free and take", "grow", "gather and leave"):
            sweep(lambda step, script=script: kill_the_child(script, 1, step, faults))
    except (AssertionError, PoolCorrupt):
        return True
    return False


def caught_by_stopping(faults: Faults) -> bool:
    """Whether the sweep objects."""
    try:
        for script in ("free and take", "take all", "gather and leave"):
            sweep(lambda step, script=script: stop_the_child(script, 0, step, faults))
    except (AssertionError, PoolCorrupt):
        return True
    return False


def caught_by_schedules(faults: Faults) -> bool:
    """Whether the three-step schedules object."""
    try:
        schedules(faults, commits("free all")[:1], stride=1)
    except (AssertionError, PoolCorrupt):
        return True
    return False


PLANTED = [
    (caught_by_killing, Faults(nobody_helps=True)),
    (caught_by_killing, Faults(applied_too_early=True)),
    (caught_by_killing, Faults(helper_forgets_a_word=True)),
    (caught_by_stopping, Faults(late_helper_overwrites=True)),
    (caught_by_schedules, Faults(copy_not_validated=True)),
    (caught_by_schedules, Faults(one_buffer=True)),
]


@pytest.mark.sample(2)
@pytest.mark.parametrize(("harness", "faults"), PLANTED, ids=lambda value: getattr(value, "__name__", None) or str(value))
def test_each_planted_bug_is_noticed(harness: Callable[[Faults], bool], faults: Faults) -> None:
    """A harness that could not fail would prove nothing."""
    assert harness(faults)
