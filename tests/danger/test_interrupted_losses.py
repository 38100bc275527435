"""KeyboardInterrupt while an element is written off, discarded or left to its views: it is in one state or the other."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from books import assert_at_rest
from elements import Weak
from interrupted import Scene
from sweeps import TELLS_LATE, interrupted_everywhere

from mempool import IMPLEMENTATION, Buffers, DoubleFree, ForeignElement, Objects, Pool, viewers

TRACKS = ["identity", "nothing", "holders"]


def one_of_two_is_out(source: Any, track: str) -> Scene:
    """A pool of two at its limit, one of which is out."""
    scene = Scene(source, 2, limit=2, track=track)
    scene.mine = scene.take(1)
    return scene


def assert_it_is_in_one_state_or_the_other(scene: Scene) -> None:
    """What is out is somebody's, who can free it; what is lost was counted; and the next alloc works."""
    scene.views.clear()
    scene.pool.guarantee()  # which notices, again, what was dropped
    stats = scene.pool.stats()
    if stats.out:
        assert stats.written_off == 0
        assert scene.mine, "one is out, and nobody has it"
        scene.pool.free(scene.mine[0])
    elif scene.mine and scene.pool.core.tracks_elements():
        with pytest.raises((DoubleFree, ForeignElement)):
            scene.pool.free(scene.mine[0])
    scene.mine.clear()
    assert scene.pool.holders() == ()
    scene.pool.refill()
    assert_at_rest(scene.pool)
    stats = scene.pool.stats()
    assert (stats.spare, stats.out, stats.lingering) == (2, 0, 0)
    assert stats.made - stats.disposed == 2
    assert stats.disposed - stats.written_off <= scene.source.disposed <= stats.disposed


def write_off(scene: Scene) -> Callable[[], object]:
    return lambda: scene.pool.write_off(scene.mine[0])


def write_off_all(scene: Scene) -> Callable[[], object]:
    return scene.pool.write_off_all


def write_off_by_its_holder(scene: Scene) -> Callable[[], object]:
    holder = scene.pool.holders()[0]

    def call() -> None:
        try:
            scene.pool.write_off(holder)
        except ForeignElement:
            assert scene.pool.stats().written_off == 1

    return call


def discard(scene: Scene) -> Callable[[], object]:
    return lambda: scene.pool.discard(scene.mine[0])


def discard_by_a_lease(scene: Scene) -> Callable[[], object]:
    scene.pool.free(scene.mine.pop())
    leases = [scene.pool.lease()]
    assert leases[0].element is not None

    def call() -> None:
        leases.pop().discard()

    return call


def notice(scene: Scene) -> Callable[[], object]:
    scene.mine.clear()
    return scene.pool.guarantee


def free_viewed(scene: Scene) -> Callable[[], object]:
    scene.views.append(scene.mine[0][:])
    return lambda: scene.pool.free(scene.mine[0], linger=True)


def free_many_viewed(scene: Scene) -> Callable[[], object]:
    scene.views.append(scene.mine[0][:])
    return lambda: scene.pool.free_many([scene.mine[0]], linger=True)


def free_not_viewed(scene: Scene) -> Callable[[], object]:
    return lambda: scene.pool.free(scene.mine[0], linger=True)


def lease_viewed(scene: Scene) -> Callable[[], object]:
    scene.pool.free(scene.mine.pop())

    def call() -> None:
        with scene.pool.lease(linger=True) as buffer:
            scene.views.append(buffer[:])

    return call


def lease_left_by_an_exception(scene: Scene) -> Callable[[], object]:
    scene.pool.free(scene.mine.pop())

    def call() -> None:
        try:
            with scene.pool.lease() as buffer:
                scene.views.append(buffer[:])
                raise KeyError
        except KeyError:
            pass

    return call


def array(scene: Scene) -> Callable[[], object]:
    pytest.importorskip("numpy")
    scene.pool.free(scene.mine.pop())
    return lambda: scene.views.append(scene.pool.array(16))


def array_that_does_not_fit(scene: Scene) -> Callable[[], object]:
    pytest.importorskip("numpy")
    scene.pool.free(scene.mine.pop())

    def call() -> None:
        with pytest.raises(ValueError, match=r"takes 1 MiB"):
            scene.pool.array(1 << 20)

    return call


OBJECTS = [write_off, write_off_all, write_off_by_its_holder, discard, discard_by_a_lease, notice]
BUFFERS = [
    *OBJECTS[:-1],
    *(free_viewed, free_many_viewed, free_not_viewed, lease_viewed, lease_left_by_an_exception),
    *(array, array_that_does_not_fit),
]


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPoolExecutor]:
    """A thread whose few frames are all that a search for viewers finds.

    Else it looks through pytest's variables, which are thousands, and nearly every place of an interrupt is in that search.
    """
    names = ("version_info", "getrefcount", "modules", "_getframe")
    seen = SimpleNamespace(**{name: getattr(sys, name) for name in names}, _current_frames=dict)
    monkeypatch.setattr(viewers, "sys", seen)
    with ThreadPoolExecutor(1) as thread:
        yield thread


@pytest.mark.sample(3)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a buffer or a lease that an interrupt cuts short is dropped
@pytest.mark.parametrize("track", TRACKS)
@pytest.mark.parametrize(
    ("make", "prepare"),
    [pytest.param(lambda: Objects(Weak), call, id=f"{call.__name__}-object") for call in OBJECTS]
    + [pytest.param(lambda: Buffers(64), call, id=f"{call.__name__}-buffer") for call in BUFFERS],
)
def test_an_interrupt_leaves_an_element_to_its_user_or_to_the_pool(
    make: Callable[[], Any], prepare: Callable[[Scene], Callable[[], object]], track: str, apart: ThreadPoolExecutor
) -> None:
    """At any bytecode of ours: never counted as out and nobody's, and never lost and in the pool."""
    if prepare in (write_off_by_its_holder, notice) and track != "holders":
        pytest.skip("needs holders")
    strikes = apart.submit(strike_everywhere, make, prepare, track).result()
    assert strikes > 1 or TELLS_LATE or IMPLEMENTATION == "compiled"  # where a call may be all C


def strike_everywhere(make: Callable[[], Any], prepare: Callable[[Scene], Callable[[], object]], track: str) -> int:
    """How often the call was interrupted. Each time all is accounted for afterwards."""
    strikes = 0
    for interrupter in interrupted_everywhere():
        scene = one_of_two_is_out(make(), track)
        call = prepare(scene)
        try:
            with interrupter:
                call()
        except KeyboardInterrupt:
            strikes += 1
        except BaseException as error:
            raise AssertionError(f"interrupted at {interrupter.struck_at}: {error!r}") from error
        del call
        if sys.exception() is not None:
            # CPython 3.13.0, interrupted as it leaves a handler, stays in it: what its traceback keeps is not lost.
            return strikes
        gc.collect()
        if track == "nothing" and scene.pool.stats().out == 0:
            scene.mine.clear()
        try:
            assert_it_is_in_one_state_or_the_other(scene)
        except Exception as error:
            raise AssertionError(f"interrupted at {interrupter.struck_at}: {error!r}") from error
    return strikes


class Interrupted:
    """The core of a pool, in which the end of a disposal is interrupted so many times."""

    def __init__(self, core: Any, times: int) -> None:
        self.core = core
        self.times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)

    def disposed_one(self, *arguments: Any) -> object:
        if self.times:
            self.times -= 1
            raise KeyboardInterrupt
        return self.core.disposed_one(*arguments)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the lease is dropped
@pytest.mark.parametrize("times", [1, 2])
def test_what_the_source_has_disposed_of_is_counted_after_a_second_interrupt(times: int) -> None:
    """The handle is dead by the source's hand then, which is not another thread's `free`."""
    pool: Pool[Any] = Pool(Buffers(64), 2, limit=3)
    lease = pool.lease()
    assert lease.element is not None
    supply = pool._engine.supply
    supply.core = Interrupted(supply.core, times)
    with pytest.raises(KeyboardInterrupt):
        lease.discard()
    assert supply.core.times == 0
    del lease
    gc.collect()
    assert_at_rest(pool)
    assert (pool.stats().out, pool.stats().disposed) == (0, 1)
