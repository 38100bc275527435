"""KeyboardInterrupt at any bytecode: nothing is lost, nobody is left in line, the next alloc works."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
from _queue import SimpleQueue
from collections.abc import Callable
from typing import Any

import pytest
from books import assert_at_rest
from interrupted import Counting, Scene
from sweeps import PLACES, TELLS_LATE, Interrupter, interrupted_everywhere

import mempool
from mempool.clock import Clock

pure_only = pytest.mark.skipif(mempool.IMPLEMENTATION != "pure", reason="compiled code has no bytecodes: see the storms")


class FreeingClock(Clock):
    """Whoever parks is served at once: an element that is out is freed by 'another'."""

    def __init__(self, others: list[Any]) -> None:
        self.others = others
        self.pool: mempool.Pool[Any] | None = None

    def park(self, wakes: SimpleQueue[None], seconds: float | None) -> None:
        if self.others and self.pool is not None:
            self.pool.free(self.others[-1])
            self.others.pop()


def scene_of_four(buffers: bool = False, **options: Any) -> Scene:
    """A pool of four with room for eight."""
    return Scene(mempool.Buffers(64) if buffers else mempool.Objects(eight_bytes), 4, **options)


def eight_bytes() -> bytearray:
    return bytearray(8)


def alloc_warm(scene: Scene) -> Callable[[], object]:
    scene.pool.free(scene.pool.alloc())
    return lambda: scene.mine.append(scene.pool.alloc())


def alloc_from_source(scene: Scene) -> Callable[[], object]:
    return lambda: scene.mine.append(scene.pool.alloc())


def alloc_from_reserve(scene: Scene) -> Callable[[], object]:
    scene.source.fails = True
    return lambda: scene.mine.append(scene.pool.alloc())


def alloc_in_vain(scene: Scene) -> Callable[[], object]:
    scene.others = scene.take(4)
    scene.source.fails = True
    scene.others += scene.take(4)
    for element in scene.others:
        scene.pool.hand_over(element)  # else, with holders tracked, waiting for oneself is a deadlock

    def call() -> None:
        with pytest.raises(mempool.PoolTimeout):
            scene.pool.alloc(timeout=0)

    return call


def alloc_by_waiting(scene: Scene) -> Callable[[], object]:
    alloc_in_vain(scene)
    clock = FreeingClock(scene.others)
    clock.pool = scene.pool
    scene.pool._clock = clock
    return lambda: scene.mine.append(scene.pool.alloc())


def alloc_many_by_waiting(scene: Scene) -> Callable[[], object]:
    alloc_by_waiting(scene)
    return lambda: scene.mine.extend(scene.pool.alloc_many(3))


def try_alloc(scene: Scene) -> Callable[[], object]:
    return lambda: scene.mine.append(scene.pool.try_alloc())


def alloc_reserved(scene: Scene) -> Callable[[], object]:
    return lambda: scene.mine.append(scene.pool.alloc_reserved())


def free_kept(scene: Scene) -> Callable[[], object]:
    scene.mine = scene.take(1)
    return lambda: scene.pool.free(scene.mine[0])


def free_surplus(scene: Scene) -> Callable[[], object]:
    scene.mine = scene.take(1)
    scene.pool.resize(reserve=0, keep=0)
    return lambda: scene.pool.free(scene.mine[0])


def free_twice(scene: Scene) -> Callable[[], object]:
    element = scene.take(1)[0]
    scene.pool.free(element)

    def call() -> None:
        with pytest.raises(mempool.DoubleFree):
            scene.pool.free(element)

    return call


def free_many(scene: Scene) -> Callable[[], object]:
    scene.mine = scene.take(6)
    scene.pool.resize(reserve=2, keep=7)
    return lambda: scene.pool.free_many(scene.mine)


def lease(scene: Scene) -> Callable[[], object]:
    def call() -> None:
        with scene.pool.lease() as element:
            element[0] = 1

    return call


def lease_held(scene: Scene) -> Callable[[], object]:
    def call() -> None:
        held = scene.pool.lease()
        held.element[0] = 1
        held.release()

    return call


def lease_many(scene: Scene) -> Callable[[], object]:
    def call() -> None:
        with scene.pool.lease_many(3) as elements:
            elements[0][0] = 1

    return call


def lease_many_by_waiting(scene: Scene) -> Callable[[], object]:
    alloc_by_waiting(scene)
    return lease_many(scene)


def lease_many_freed_behind_its_back(scene: Scene) -> Callable[[], object]:
    leases = [scene.pool.lease_many(3)]
    scene.pool.free(leases[0].elements[1])

    def call() -> None:
        try:
            leases.pop().release()
        except mempool.DoubleFree:
            pass

    return call


def grow(scene: Scene) -> Callable[[], object]:
    return lambda: scene.pool.resize(reserve=7)


def grow_in_vain(scene: Scene) -> Callable[[], object]:
    scene.source.fails = True
    return lambda: scene.pool.resize(reserve=7)


def shrink(scene: Scene) -> Callable[[], object]:
    scene.pool.resize(reserve=9)
    return lambda: scene.pool.resize(reserve=1)


def refill(scene: Scene) -> Callable[[], object]:
    scene.source.fails = True
    scene.pool.resize(reserve=7)
    scene.source.fails = False
    return lambda: scene.pool.refill()


CALLS = [
    alloc_warm,
    alloc_from_source,
    alloc_from_reserve,
    alloc_in_vain,
    alloc_by_waiting,
    alloc_many_by_waiting,
    try_alloc,
    alloc_reserved,
    free_kept,
    free_surplus,
    free_twice,
    free_many,
    lease,
    lease_held,
    lease_many,
    lease_many_by_waiting,
    lease_many_freed_behind_its_back,
    grow,
    grow_in_vain,
    shrink,
    refill,
]
OPTIONS: dict[str, dict[str, Any]] = {
    "identity": {},
    "nothing": {"track": "nothing"},
    "holders": {"track": "holders"},
    "reset": {"reset": True},
    "buffers": {"buffers": True},
    "buffers-reset": {"buffers": True, "reset": True},
}
#: Each call with each option, of which a sample has every other: half of the options for each call.
SCENES = [
    pytest.param(prepare, options, id=f"{prepare.__name__}-{name}", marks=[pytest.mark.long] * ((row + column) % 2))
    for row, prepare in enumerate(CALLS)
    for column, (name, options) in enumerate(OPTIONS.items())
]


@pytest.mark.sample(2)
@pure_only
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a lease that an interrupt cuts short is dropped: that is the point
@pytest.mark.parametrize(("prepare", "options"), SCENES)
def test_an_interrupt_at_any_bytecode_loses_nothing(prepare: Callable[[Scene], Callable[[], object]], options: Any) -> None:
    """Whatever bytecode a KeyboardInterrupt comes at, every element is accounted for and the pool works."""
    if prepare in (free_twice, lease_many_freed_behind_its_back) and options.get("track") == "nothing":
        pytest.skip("not tracked, not found")
    strikes = 0
    for interrupter in interrupted_everywhere():
        scene = scene_of_four(**options)
        call = prepare(scene)
        caught = None
        try:
            with interrupter:
                call()
        except KeyboardInterrupt as interrupt:
            caught = interrupt.__traceback__.tb_lineno  # type: ignore[union-attr]  # keep no frames alive
        except BaseException as error:
            raise AssertionError(f"interrupted at {interrupter.struck_at}: {error!r}") from error
        assert (caught is not None) == (interrupter.struck_at is not None), interrupter.struck_at
        strikes += caught is not None
        if options.get("track") == "nothing":
            _end_untracked(scene, interrupter.struck_at)
        else:
            try:
                scene.end()
            except AssertionError as error:
                raise AssertionError(f"interrupted at {interrupter.struck_at}: {error}") from error
    assert strikes > min(10, PLACES - 1) or TELLS_LATE


@pure_only
def test_an_interrupt_at_any_bytecode_of_a_decision_leaves_its_lock_free() -> None:
    """Else whoever collects the pool in another thread waits for that lock for ever: the test that hangs is another one."""
    pool = scene_of_four().pool
    lock: Any = pool.core.lock
    for n in itertools.count(1):
        for _ in range(2):  # after one that struck, CPython tells all bytecodes only of the next calls
            with Interrupter(sys.maxsize):
                pool.core.snapshot()
        interrupter = Interrupter(n)
        try:
            with interrupter:
                pool.core.snapshot()
        except KeyboardInterrupt:
            pass
        was_held = lock._is_owned()
        if was_held:
            lock.release()
        assert not was_held, f"interrupted at {interrupter.struck_at}"
        if interrupter.struck_at is None:
            break
    assert n > 50


def _end_untracked(scene: Scene, struck_at: str | None) -> None:
    """Without a table of outstanding elements only the sums can be compared: what is out is what the test holds."""
    stats = scene.pool.stats()
    assert stats.made - stats.disposed == stats.spare + stats.out, struck_at
    assert stats.waiting == 0, struck_at
    assert stats.disposing == 0, struck_at
    assert scene.source.made - scene.source.disposed == stats.made - stats.disposed, struck_at
    assert stats.out <= len(scene.mine) + len(scene.others), struck_at


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # as above
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # one that hit a finalizer
def test_a_storm_of_signals_loses_nothing() -> None:
    """Real KeyboardInterrupts, at whatever moment they come."""
    source = Counting(mempool.Objects(eight_bytes))
    pool = mempool.Pool(source, 2, limit=4, keep=3, name="storm")
    armed = shooting = False
    caught = rounds = 0

    def interrupt(number: int, frame: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    def shoot() -> None:
        nonlocal shooting
        pause = threading.Event()
        for i in range(100_000):
            if i >= 400 and caught > 10:
                break
            signal.pthread_kill(main, signal.SIGINT)
            pause.wait(0.0003 + (i % 7) * 0.0001)
        shooting = False

    def work() -> None:
        """In a frame of its own: CPython 3.13 keeps an interrupt at a loop's jump back from the handler around the loop."""
        nonlocal armed, rounds
        while shooting:
            armed = True  # each time: an interrupt that hit a finalizer went no further
            with pool.lease():
                rounds += 1
                with pool.lease():
                    pool.resize(reserve=rounds % 4)

    main = threading.get_ident()
    old = signal.signal(signal.SIGINT, interrupt)
    shooter = threading.Thread(target=shoot)
    shooting = True  # and not is_alive(): up to CPython 3.12, an interrupt inside of it takes a running thread for ended
    shooter.start()
    try:
        while shooting:
            try:
                work()
                armed = False
            except KeyboardInterrupt:
                caught += 1
    finally:
        armed = False
        shooter.join()
        signal.signal(signal.SIGINT, old)
    assert caught > 10
    assert_at_rest(pool)
    # Not compared with what the source has counted: an interrupt may cut the source's own code short.
