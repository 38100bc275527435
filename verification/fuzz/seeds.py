"""Inputs made of real files: of pools in the middle of everything, and of processes that were killed at some instruction."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from single_steps import kill_after_change, may_trace

from mempool.shared import words
from mempool.shared._engine import Ticket as Owning
from mempool.shared.engine import SharedEngine
from verification.fuzz.target import CALLS, CALLS_MAX, CUT, GOOD_CHECKSUM, LAYOUT, OWN_HEADER, input_of

Scene = Callable[[SharedEngine, SharedEngine], object]


def lease_some(one: SharedEngine, other: SharedEngine) -> object:
    return [one.take(), other.take(), one.take()]


def stand_in_line(one: SharedEngine, other: SharedEngine) -> object:
    held = [one.take() for _ in range(LAYOUT.slots)]
    tickets = [other.ticket(2), one.ticket(1)]
    other.enqueue(tickets[0])
    one.enqueue(tickets[1])
    one.give([handle for handle in held[:1] if handle])
    return held, tickets


def offer_some(one: SharedEngine, other: SharedEngine) -> object:
    for engine, receiver in ((one, words.ANYBODY), (other, 0), (one, 1)):
        handle = engine.take()
        assert handle
        assert Owning(engine._tx, 0).offer(handle, receiver, 1)
    return one.take()


def close_it(one: SharedEngine, other: SharedEngine) -> object:
    held = other.take()
    one.close()
    return held


def shrink_it(one: SharedEngine, other: SharedEngine) -> object:
    held = [one.take(), other.take()]
    one.resize(0, 0, 1)
    return held


SCENES: tuple[Scene, ...] = (lease_some, stand_in_line, offer_some, close_it, shrink_it)


def begin(path: Path) -> SharedEngine:
    return SharedEngine.create(
        path, size=LAYOUT.size, slots=LAYOUT.slots, reserve=1, keep=2, places=LAYOUT.places, clients=LAYOUT.clients
    )


def files(folder: Path, *, killed_too: bool) -> Iterator[bytes]:
    """The control parts of real files. killed_too: also of processes that were single-stepped, which takes minutes."""
    for number, scene in enumerate(SCENES):
        path = folder / f"scene-{number}"
        one, other = begin(path), SharedEngine.attach(path)
        has = scene(one, other)
        yield path.read_bytes()[: LAYOUT.control_bytes]
        del has
        other.detach()
        one.detach()
        yield path.read_bytes()[: LAYOUT.control_bytes]
    if not killed_too or not may_trace():
        return
    for number, scene in enumerate(SCENES):
        for changes in range(1, 120, 31):
            path = folder / f"killed-{number}-{changes}"
            engine = begin(path)

            def part(path: Path, scene: Scene = scene) -> Callable[[], object]:
                mine, other = SharedEngine.attach(path), SharedEngine.attach(path)
                return lambda: scene(mine, other)

            killed = kill_after_change(engine, path, part, changes, lambda: None)
            yield path.read_bytes()[: LAYOUT.control_bytes]
            engine.detach()
            path.unlink()
            if not killed:
                break


def program(chance: random.Random) -> bytes:
    """Any calls."""
    count = chance.randrange(4, CALLS_MAX)
    return b"".join(
        bytes([chance.randrange(len(CALLS)), chance.randrange(256), chance.randrange(256)]) for _ in range(count)
    )


def inputs(folder: Path, seed: int = 1, *, killed_too: bool = False) -> Iterator[bytes]:
    """One or two for each file; some of files that are cut, and with headers of their own."""
    chance = random.Random(seed)
    for number, control in enumerate(files(folder, killed_too=killed_too)):
        yield input_of(control, program(chance))
        if number % 4 == 0:
            yield input_of(control, program(chance), OWN_HEADER | GOOD_CHECKSUM)
            yield input_of(control, program(chance), CUT, chance.randrange(LAYOUT.data // 256))
