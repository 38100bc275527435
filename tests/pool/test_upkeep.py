"""`mempool.upkeep`: refills, trims, warns and collects in the background, for pools of every engine, and in nobody's way."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
from elements import Weak
from plain_engine import PlainPool

from mempool import Buffers, Objects, Pool, linux, upkeep
from mempool.maintenance import served
from mempool.testing import ManualClock, ScriptedSource, Step, wait_until

works, fails, raises, slow = Step
KINDS = [Pool, PlainPool]


class Looked:
    """A pool, its clock, and an upkeep that looks when the test says so."""

    def __init__(self, make: Callable[[], Any], reserve: int = 8, **options: Any) -> None:
        kind = options.pop("kind", Pool)
        pool_options = {name: options.pop(name) for name in ("keep", "limit", "track") if name in options}
        self.clock = ManualClock()
        self.made: list[Any] = []
        self.disposed: list[Any] = []
        self.fails = False
        self.costs = 0.0  # seconds

        def made() -> Any:
            self.clock.advance(self.costs)
            if self.fails:
                raise MemoryError("none left")
            self.made.append(make())
            return self.made[-1]

        self.pool = kind(Objects(made, self.disposed.append), reserve, name="frames", **pool_options)
        self.pool._clock = self.clock
        self.upkeep = upkeep(self.pool, thread=False, clock=self.clock, **options)

    def run(self, seconds: float, every: float = 1.0) -> None:
        for _ in range(round(seconds / every)):
            self.clock.advance(every)
            self.upkeep.look()


# -- refill


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_unfunded_is_made_once_the_source_works_again(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Without a call of anybody's."""
    looked = Looked(object, kind=kind)
    looked.fails = True
    assert looked.pool.resize(reserve=20).unfunded == 12
    looked.run(30)
    assert looked.pool.guarantee().unfunded == 12
    looked.fails = False
    with caplog.at_level(logging.INFO, "mempool"):
        looked.run(60)
    assert looked.pool.guarantee().held
    assert looked.pool.spare == 20
    assert caplog.messages == ["pool 'frames': refilled, 12 were unfunded"]


def test_a_source_that_fails_is_asked_more_and_more_seldom() -> None:
    """After 1 s, 2 s, 4 s and so on up to a minute; from the beginning after it has worked."""
    looked = Looked(object)
    looked.fails = True
    looked.pool.resize(reserve=20)
    asked: list[float] = []
    failures = looked.pool.stats().source_failures
    for _ in range(400):
        looked.run(1)
        now = looked.pool.stats().source_failures
        if now > failures:
            failures = now
            asked.append(looked.clock.now())
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]
    looked.fails = False
    looked.run(60)
    assert looked.pool.guarantee().held
    looked.fails = True
    looked.pool.resize(reserve=30)
    failures = looked.pool.stats().source_failures
    looked.run(2)
    assert looked.pool.stats().source_failures == failures + 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_source_is_asked_in_turns(kind: Any) -> None:
    """What is left after 0.2 s is for the next look, so that other pools and memory pressure have their turn."""
    looked = Looked(object, 1, kind=kind)
    looked.fails = True
    looked.pool.resize(reserve=40)
    looked.fails, looked.costs = False, 0.05
    looked.run(1)
    assert 4 <= len(looked.made) - 1 <= 6
    turns = 1
    while not looked.pool.guarantee().held:
        looked.upkeep.look()
        turns += 1
    assert 7 <= turns <= 11


def test_a_source_that_raises_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """It is tried again with the same pauses; nobody's call raises."""
    source: ScriptedSource = ScriptedSource()
    pool = Pool(source, 2, name="frames")
    clock = ManualClock()
    pool._clock = clock
    kept = upkeep(pool, thread=False, clock=clock)
    source.then(fails, *[raises] * 50)
    pool.resize(reserve=6)
    for _ in range(40):
        clock.advance(1)
        kept.look()
    said = [message for message in caplog.messages if "has raised while upkeep refilled it" in message]
    assert len(said) == 1
    assert not kept.is_over


def test_a_dropped_object_is_made_anew() -> None:
    """With track="holders" it is noticed, written off and replaced."""
    looked = Looked(Weak, 4, keep=4, track="holders")
    looked.pool.alloc_many(4)
    looked.made.clear()
    gc.collect()
    looked.run(2)
    assert looked.pool.stats().written_off >= 1
    assert looked.pool.spare == 4


# -- idle


@pytest.mark.parametrize("kind", KINDS)
def test_spares_that_nobody_used_are_given_back_down_to_the_reserve(kind: Any) -> None:
    """`keep` stays as it is."""
    looked = Looked(object, kind=kind, keep=40, idle=60)
    looked.pool.free_many(looked.pool.alloc_many(32))
    assert looked.pool.spare == 40
    looked.run(59)
    assert looked.pool.spare == 40
    looked.run(7)  # time is told in tenths of it
    assert (looked.pool.spare, looked.pool.keep, len(looked.disposed)) == (8, 40, 32)
    assert looked.pool.guarantee().held


def test_what_was_in_use_in_between_is_not_idle() -> None:
    """As many as were out together at a look stay warm."""
    looked = Looked(object, keep=40, idle=60)
    looked.pool.free_many(looked.pool.alloc_many(32))
    for _ in range(12):
        used = looked.pool.alloc_many(20)
        looked.run(1)
        looked.pool.free_many(used)
        looked.run(19)
    assert looked.pool.spare == 28
    looked.run(70)
    assert looked.pool.spare == 8


def test_what_comes_back_after_a_trim_has_not_been_idle() -> None:
    """The looks before the trim counted what went then, and nothing that is there since."""
    looked = Looked(object, keep=40, idle=60)
    looked.pool.free_many(looked.pool.alloc_many(32))
    used = looked.pool.alloc_many(29)
    looked.run(66)
    assert (looked.pool.spare, len(looked.disposed)) == (8, 3)
    looked.pool.free_many(used[:3])
    looked.run(50)
    assert (looked.pool.spare, len(looked.disposed)) == (11, 3)
    looked.run(20)
    assert (looked.pool.spare, len(looked.disposed)) == (8, 6)
    looked.pool.free_many(used[3:])


def test_a_use_that_no_look_sees_counts_where_the_source_was_asked() -> None:
    """Then there was no spare beyond the reserve: a pool that is busy by bursts is not trimmed and filled in turns."""
    looked = Looked(object, keep=40, idle=60)
    for _ in range(300):
        looked.pool.free_many(looked.pool.alloc_many(33))
        looked.run(1)
        assert looked.pool.spare == 40 or not looked.disposed
    made = len(looked.made)
    looked.run(70)
    assert looked.pool.spare == 8
    assert len(looked.made) == made


def test_without_idle_nothing_is_trimmed() -> None:
    """`keep` is what it says."""
    looked = Looked(object, keep=40)
    looked.pool.free_many(looked.pool.alloc_many(32))
    looked.run(10_000, every=100)
    assert looked.pool.spare == 40


def test_a_trim_whose_source_raises_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """All are disposed of; the error is logged."""
    errors: list[object] = []

    def dispose(element: object) -> None:
        if not errors:
            errors.append(element)
            raise OSError("cannot be unmapped")

    pool = Pool(Objects(object, dispose), 2, keep=10)
    pool.free_many(pool.alloc_many(8))
    clock = ManualClock()
    kept = upkeep(pool, thread=False, clock=clock, idle=5)
    clock.advance(5)
    kept.look()
    assert pool.spare == 2
    assert "has raised while upkeep gave back idle spares" in caplog.text


# -- held


def test_what_is_held_too_long_is_told_of_once_with_the_place(caplog: pytest.LogCaptureFixture) -> None:
    """The file and line that took it, and who."""
    looked = Looked(object, track="holders", held_warning=60)
    element = looked.pool.alloc()
    other = looked.pool.alloc()
    looked.run(59)
    looked.pool.free(other)
    assert caplog.messages == []
    looked.run(600)
    (said,) = caplog.messages
    assert "pool 'frames': held for more than 60 s: thread 'MainThread' has held object at " in said
    assert f"taken at {__file__.rpartition('/')[2]}:" in said
    looked.pool.free(element)
    again = looked.pool.alloc()
    looked.run(100)
    assert len(caplog.messages) == 2
    looked.pool.free(again)


def test_many_that_are_held_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """A leak of thousands does not fill the log."""
    looked = Looked(object, track="holders", held_warning=60)
    elements = looked.pool.alloc_many(50)
    looked.run(100)
    assert len(caplog.messages) == 6
    assert "45 more are held for more than 60 s" in caplog.messages[-1]
    looked.pool.free_many(elements)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("track", ["identity", "nothing"])
def test_without_holders_it_is_told_how_many_are_held(kind: Any, track: str, caplog: pytest.LogCaptureFixture) -> None:
    """At least so many: what is out now and was not handed out since. Busy ones that come and go are none."""
    looked = Looked(object, kind=kind, track=track, held_warning=60)
    for _ in range(300):  # each for a second
        element = looked.pool.alloc()
        looked.run(1)
        looked.pool.free(element)
    assert caplog.messages == []
    elements = looked.pool.alloc_many(3)
    looked.run(200)
    (said,) = caplog.messages
    assert said.startswith("pool 'frames': at least 3 elements have been out for more than 60 s; make the pool with track=")
    looked.pool.free_many(elements)
    looked.run(200)
    assert len(caplog.messages) == 1


# -- garbage


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_garbage_is_collected_before_a_caller_gives_up() -> None:
    """Buffers dropped in cycles are out until then: by the thread, before the caller's own look and its end."""
    # Of a clock that stands still: the caller's own look, after a second, does not come.
    pool = ManualClock().attach(Pool(Buffers("4 KiB"), 2, limit=2, name="frames"))

    def drop() -> None:
        for _ in range(2):
            cycle: list[Any] = [pool.alloc()]
            cycle.append(cycle)

    got: list[Any] = []
    kept = upkeep(pool, thread=False)
    gc.disable()
    drop()
    waits = threading.Thread(target=lambda: got.append(pool.alloc(timeout=30)))
    waits.start()
    wait_until(lambda: pool.waiting == 1)
    gc.enable()
    kept.look()
    kept.look()
    waits.join(60)
    assert len(got) == 1
    pool.free(got.pop())


def test_a_standstill_is_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection holds everybody up: not at each look, and not where callers are served."""
    from mempool import garbage, maintenance

    looks: list[None] = []
    assert maintenance.collector is garbage
    # Not in that module, where the caller who waits looks as well.
    monkeypatch.setattr(maintenance, "collector", types.SimpleNamespace(look=lambda: looks.append(None)))
    looked = Looked(object, 1, limit=1)
    element = looked.pool.alloc()
    waits = threading.Thread(target=lambda: looked.pool.free(looked.pool.alloc()))
    waits.start()
    wait_until(lambda: looked.pool.waiting == 1)
    looked.run(20)
    assert len(looks) == 1
    looked.pool.free(element)
    waits.join(60)
    looked.run(20)
    assert len(looks) == 1


# -- whose


def test_the_upkeep_keeps_no_pool_alive() -> None:
    """A dropped pool disposes of its spares, and the upkeep is over."""
    looked = Looked(object)
    del looked.pool
    gc.collect()
    assert len(looked.disposed) == 8
    looked.upkeep.look()
    assert looked.upkeep.is_over
    assert repr(looked.upkeep) == "<Upkeep of pool 'frames': over>"


def test_a_pool_of_the_kernels_kind_is_looked_after() -> None:
    """Its keep is its reserve."""
    fails: list[bool] = []
    pool = linux.mempool_create(2, lambda _mask, _data: None if fails else object(), lambda _element, _data: None, None)
    assert pool is not None
    fails.append(True)
    linux.mempool_resize(pool, 5)
    fails.clear()
    with upkeep(pool, thread=False) as kept:
        kept.look()
    assert pool.guarantee().held


def test_a_pool_that_only_tasks_use_is_looked_after_in_their_loop() -> None:
    """`call` makes the looks run there, so its source is called in no other thread."""
    threads: set[int] = set()
    is_broken: list[bool] = []

    def make() -> object:
        threads.add(threading.get_ident())
        if is_broken:
            raise MemoryError
        return object()

    async def main() -> None:
        pool = Pool(Objects(make), 2, name="tasks")
        is_broken.append(True)
        pool.resize(reserve=6)
        assert not pool.guarantee().held
        is_broken.clear()
        with upkeep(pool, every=0.01, call=asyncio.get_running_loop().call_soon_threadsafe):
            async with asyncio.timeout(60):
                while not pool.guarantee().held:  # noqa: ASYNC110 - the state under test has no event
                    await asyncio.sleep(0.001)
            async with pool.lease():
                pass

    asyncio.run(main())
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize(
    ("options", "said"),
    [({"idle": -1}, "idle"), ({"held_warning": "x"}, "held_warning"), ({"every": 0}, "every")],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    """By the name of the option."""
    with pytest.raises(ValueError, match=f"pool 'frames': {said} is a number of seconds"):
        upkeep(Pool(Objects(object), 1, name="frames"), **options)


def test_a_pool_is_looked_after_once() -> None:
    """Two would each warn."""
    looked = Looked(object)
    with pytest.raises(ValueError, match="looked after already"):
        upkeep(looked.pool)
    looked.upkeep.close()
    upkeep(looked.pool, thread=False).close()


def test_all_that_was_handed_out_counts_as_served_wherever_it_came_from() -> None:
    seen = Pool(Objects(object), 0)._engine.snapshot()
    assert served(seen._replace(from_spare=1, from_source=20, from_reserve=300, from_line=4000)) == 4321
