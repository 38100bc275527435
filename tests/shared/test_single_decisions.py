"""Single decisions of a shared pool, simulated: what each says, and what lies in the words after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from shared_scenes import CHILD, Scene, adopt, give, join, leave, offer, resize, take
from simulated_pool import Memory, Process

from mempool.shared import decisions, operations, words
from mempool.shared.audit import audit
from mempool.shared.errors import PoolCorrupt

pytestmark = pytest.mark.once


def decide(process: Process, decision: Callable[..., int], *arguments: object) -> int:
    process.begin()
    outcome = decision(process, *arguments)
    assert process.finish()
    return outcome


def alone(slots: int = 4) -> Process:
    process = Process(Memory(slots=slots, places=3, clients=2), 0)
    process.become(0)
    return process


def put(process: Process, word: int, value: int) -> None:
    """Nobody has written it yet but who made the file."""
    process.memory.words[word][0] = value


def test_it_is_told_where_an_element_was_taken_from() -> None:
    """Each is counted by itself in the statistics."""
    process = alone()
    resize(process, 1, 2, 4)
    assert take(process)
    assert process.count == decisions.FROM_SOURCE
    process.memory.room = 2
    assert take(process)
    assert process.count == decisions.FROM_RESERVE
    assert len({decisions.FROM_SPARES, decisions.FROM_RESERVE, decisions.FROM_SOURCE}) == 3


def test_who_gathers_when_all_is_closed_is_told_and_keeps_what_it_has() -> None:
    """It finds them when it leaves, and returns them."""
    process = alone()
    resize(process, 0, 2, 2)
    held = [take(process), take(process)]
    place = join(process, 2)
    assert held[0]
    give(process, held[0])
    operations.run_close(process)
    assert operations.run_look_at_place(process, place) == decisions.CLOSED
    assert [slot for slot, _lease in leave(process, place)] == [held[0][0]]
    assert audit(process.memory.settled(process)) == []


@pytest.mark.parametrize("out", range(4))
@pytest.mark.parametrize("goal", [decisions.BEYOND_OUT, decisions.FOR_RESERVE])
def test_beyond_what_is_out_only_what_its_return_would_not_fill_is_made(goal: int, out: int) -> None:
    """A reserve of two, nothing of it there, and room for four."""
    process = alone()
    resize(process, 0, 4, 4)
    assert all(take(process) for _ in range(out))
    operations.run_retarget(process, words.make_targets(2, 4, 4))
    is_lacking = out < 2 or goal == decisions.FOR_RESERVE
    assert decide(process, decisions.grow, goal) == (decisions.TO_POPULATE if is_lacking else decisions.NOTHING)


@pytest.mark.parametrize("at", [words.OFFERED_AT, words.QUARANTINED_AT, words.FILLING_AT])
def test_each_count_goes_from_none_to_its_end(at: int) -> None:
    """Whatever the other two are. More than there are slots, or than its field is wide, and less than none is forged."""
    process = alone()
    process.slots = 1 << 20  # as far as it is asked for here
    last = words.FILLING_MAX if at == words.FILLING_AT else process.slots
    others = sum(1 << other for other in (words.OFFERED_AT, words.QUARANTINED_AT, words.FILLING_AT) if other != at)
    for number in (0, 1, (1 << 16) - 1, 1 << 16, last):
        if number > last:
            continue
        for more in (False, True):
            put(process, words.OFFERS, others + (number << at))
            process.begin()
            decisions.recount(process, at, more)
            wrong = number == (last if more else 0)
            if wrong:
                with pytest.raises(PoolCorrupt):
                    process.finish()
            else:
                expected = others + ((number + (1 if more else -1)) << at)
                assert process.changes == {words.OFFERS: expected}


def test_an_offer_is_looked_at_by_who_made_it() -> None:
    """And by nobody else, as long as it is for anybody."""
    scene = Scene.make(0)
    token = offer(scene.child, scene.held.pop())
    assert token
    scene.child.steps = scene.third.steps = 0
    for process, outcome in ((scene.child, decisions.GOT), (scene.third, decisions.NOT_YOURS)):
        process.hook = comes_to_an_end
        assert operations.run_look_at_offer(process, token[0]) == outcome
        assert (process.value, process.place) == (token[1], words.ANYBODY)


def test_what_is_addressed_is_adopted_by_nobody_else() -> None:
    """Neither by one that came before its receiver, nor by one that came after."""
    scene = Scene.make(0)
    mine = take(scene.survivor)
    assert mine
    token = offer(scene.survivor, mine, scene.child)
    assert token
    for process in (scene.survivor, scene.third):
        assert adopt(process, token) is None
    assert adopt(scene.child, token)


def comes_to_an_end(process: Process) -> None:
    assert process.steps < 1000


def test_a_successor_can_be_addressed_and_works_under_the_epoch_that_it_asked_for() -> None:
    """Once all that the dead one left is returned; until then what it has is set aside as that one wanted it."""
    scene = Scene.make(0)
    scene.child.die()
    successor = Process(scene.memory, CHILD)
    successor.become(CHILD, quarantines=True)
    assert scene.memory.settled(scene.survivor).client(CHILD) == words.make_client(words.LIVE, successor.epoch)
    assert words.sets_aside(successor.epoch)
    lease = take(successor)
    assert lease
    give(successor, lease)
    mine = take(scene.survivor)
    assert mine
    assert offer(scene.survivor, mine, successor)
