"""Nothing is left behind: objects and references are as many after hundreds of rounds of a call as before."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import without_the_gil
from every_call import CALLS, EACH_CALL, Prepared, Scene, in_a_task
from sweeps import LONG

import mempool
from mempool._core import Decisions, Ticket, Transfer
from mempool.parking import AsyncioParker, ThreadParker

ROUNDS = int(os.environ.get("MEMPOOL_LEAK_ROUNDS", "100" if LONG else "40"))  # `make stress`: 1000
#: A call that leaves one object behind in so many rounds is found out. Fewer are caches and free lists that fill.
ROUNDS_PER_OBJECT = 10
#: Objects that the counting itself makes, about.
FIGURES = 30
#: Without the GIL, what CPython reads without a lock, as an object's attributes, is given back later than it is free, and
#: what a collection frees of it, by the next. A source that refers to its own method is such garbage: a block for each call.
COLLECTIONS = 2 if without_the_gil.BUILT_WITHOUT else 1
#: An instance counts as a reference to its type; DEFAULT and None are what arguments and places hold.
SHARED: dict[str, Any] = {
    **{
        kind.__name__: kind
        for kind in (Transfer, Ticket, Decisions, mempool.Pool, mempool.Lease, ThreadParker, AsyncioParker)
    },
    "DEFAULT": "default",
    "None": None,
    "()": (),
}


@pytest.fixture(autouse=True)
def _only_this_test() -> Iterator[None]:
    """What other tests left is neither collected nor looked through."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()


def figures(scene: Scene) -> dict[str, int]:
    """Blocks of memory in use, and references to what lives longer than a call."""
    for _ in range(COLLECTIONS):
        gc.collect()
    counted = {f"references to {name}": sys.getrefcount(one) for name, one in SHARED.items()}
    lasting = {"pool": scene.pool, "core": scene.pool.core, "source": scene.source, "clock": scene.clock}
    counted |= {f"references to the {name}": sys.getrefcount(one) for name, one in lasting.items()}
    return counted | {"blocks": sys.getallocatedblocks()}


def left_behind(prepared: Prepared, rounds: int) -> dict[str, int]:
    """What there is more of after so many rounds of a call than before, as far as it is too much for chance."""
    scene = prepared.scene()

    def turn() -> None:
        one = prepared.scene() if scene.pool.stats().closed else scene
        call = prepared(one)
        call()
        del call
        one.end()

    def growth(turns: int) -> dict[str, int]:
        before = figures(scene)
        for _ in range(turns):
            turn()
        after = figures(scene)
        grown = {what: after[what] - number for what, number in before.items()}
        return {what: more for what, more in grown.items() if more > turns / ROUNDS_PER_OBJECT + FIGURES}

    growth(20)
    found = growth(rounds)
    for _ in range(8):
        # The allocator's own stores grow, too, but not for ever: without the GIL for 200 rounds. A leak is there each time.
        if found:
            again = growth(rounds)
            found = {what: more for what, more in found.items() if what in again}
    return found


@pytest.fixture(autouse=True)
def _no_news(caplog: pytest.LogCaptureFixture) -> None:
    """pytest keeps each record, also of INFO where a test of this process has asked for these."""
    caplog.set_level(logging.WARNING, "mempool")


def run(prepared: Prepared, rounds: int) -> dict[str, int]:
    found: list[dict[str, int]] = []

    def count() -> None:
        found.append(left_behind(prepared, rounds))

    in_a_task(count) if prepared.in_loop else count()
    return found[0]


#: What is counted is the whole process's: whatever threads other tests have left running there allocate, too.
ALONE = """
import gc, json, sys
from every_call import CALLS
from test_leaks import run
{planted}
gc.collect()
gc.freeze()
gc.disable()
print(json.dumps(run(CALLS[sys.argv[1]], int(sys.argv[2]))))
"""


def run_alone(name: str, rounds: int, planted: str = "") -> dict[str, int]:
    """The same in a process of its own, in which no other test has been. planted: what is done there before."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", ALONE.format(planted=planted), name, str(rounds)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, int] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.sample(8)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of leases that are dropped
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what the kernel warns of
@pytest.mark.parametrize("name", EACH_CALL)
def test_a_call_leaves_nothing_behind(name: str) -> None:
    """Neither objects nor references, whether it does what it is asked or raises."""
    assert not run(CALLS[name], ROUNDS) or run_alone(name, ROUNDS) == {}


@pytest.mark.long_on_both
def test_a_process_of_its_own_finds_what_is_left_behind() -> None:
    """And nothing else: what is planted there is seen, and the call without it leaves nothing."""
    planted = """
from scenes import Prepared
kept = []
def leak(scene):
    call = CALLS["alloc_warm"](scene)
    return lambda: (call(), kept.append(object()))
CALLS["leak"] = Prepared(leak)
"""
    assert "blocks" in run_alone("leak", 200, planted)


@pytest.mark.long_on_both
def test_what_only_a_collection_frees_is_not_left_behind() -> None:
    """Pools are closed whose source is in a cycle with its own method."""
    assert run_alone("buffers_poisoned_close", ROUNDS) == {}


@pytest.mark.long_on_both
@pytest.mark.parametrize("leaks", ["an object", "a reference to the pool", "a reference to None"])
def test_what_is_left_behind_is_found(leaks: str) -> None:
    """The count sees one object or one reference per call."""
    kept: list[object] = [None] * 2000
    places = iter(range(2000))

    def forgetful(scene: Scene) -> Callable[[], object]:
        what: dict[str, Callable[[], object]] = {
            "an object": object,
            "a reference to the pool": lambda: scene.pool,
            "a reference to None": lambda: None,
        }

        def call() -> None:
            if leaks == "a reference to None":
                kept.append(None)
            else:
                kept[next(places)] = what[leaks]()

        return call

    if leaks == "a reference to None" and sys.version_info >= (3, 12):
        pytest.skip("None is immortal here: nobody counts references to it")
    found = run(Prepared(forgetful), 200)
    assert any(what in ("blocks", "references to the pool", "references to None") for what in found), found
