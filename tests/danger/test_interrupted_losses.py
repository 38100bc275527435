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
from sweeps import interrupted_everywhere

from mempool import IMPLEMENTATION, Buffer, Buffers, DoubleFree, ForeignElement, Objects, Pool, viewers

TRACKS = ["identity", "nothing", "holders"]


class Weak:
    """An object that allows weak references."""


class Disposing:
    """Elements of a source, and how many of them were disposed of."""

    def __init__(self, source: Any) -> None:
        self.source, self.made = source, 0
        self._gone: list[Any] = []

    @property
    def disposed(self) -> int:
        return len(self._gone)

    def alloc(self) -> Any:
        element = self.source.alloc()
        self.made += 1
        return element

    def free(self, element: Any) -> None:
        # A buffer whose free an interrupt has cut short still has its memory, and is freed again when it is dropped: that is
        # one buffer. Of anything else a second call is a second element.
        what = element.block if type(element) is Buffer else object()
        if what not in self._gone:
            self._gone.append(what)
        self.source.free(element)


class Scene:
    """A pool of two at its limit, one of which is out."""

    def __init__(self, source: Any, track: str) -> None:
        self.source = Disposing(source)
        self.pool: Pool[Any] = Pool(self.source, 2, limit=2, track=track, name="scene")
        self.mine: list[Any] = [self.pool.alloc()]
        self.views: list[Any] = []

    def end(self) -> None:
        """What is out is somebody's, who can free it; what is lost was counted; and the next alloc works."""
        self.views.clear()
        self.pool.guarantee()  # which notices, again, what was dropped
        stats = self.pool.stats()
        if stats.out:
            assert stats.written_off == 0
            assert self.mine, "one is out, and nobody has it"
            self.pool.free(self.mine[0])
        elif self.mine and self.pool.core.tracks_elements():
            with pytest.raises((DoubleFree, ForeignElement)):
                self.pool.free(self.mine[0])
        self.mine.clear()
        assert self.pool.holders() == ()
        self.pool.refill()
        assert_at_rest(self.pool)
        stats = self.pool.stats()
        assert (stats.spare, stats.out, stats.lingering) == (2, 0, 0)
        assert stats.made - stats.disposed == 2
        assert stats.disposed - stats.written_off <= self.source.disposed <= stats.disposed


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
        with pytest.raises(ValueError, match="takes 1048576 bytes"):
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
    assert strikes > 1 or IMPLEMENTATION == "compiled"  # where a call may be all C


def strike_everywhere(make: Callable[[], Any], prepare: Callable[[Scene], Callable[[], object]], track: str) -> int:
    """How often the call was interrupted. Each time all is accounted for afterwards."""
    strikes = 0
    for interrupter in interrupted_everywhere():
        scene = Scene(make(), track)
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
            scene.end()
        except Exception as error:
            raise AssertionError(f"interrupted at {interrupter.struck_at}: {error!r}") from error
    return strikes
