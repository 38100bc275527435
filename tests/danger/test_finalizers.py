"""Finalizers, weakref callbacks and signal handlers that call the pool in the middle of its own calls."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from books import assert_at_rest
from without_the_gil import BUILT_WITHOUT

from mempool import IMPLEMENTATION, Objects, Pool, PoolTimeout
from mempool._core import Decisions
from mempool.testing import Element, ScriptedSource, wait_until

SOON = 60  # seconds
ROUNDS = 150

Intrusion = Callable[[Pool[Any]], object]


def take_and_free(pool: Pool[Any]) -> None:
    element = pool.try_alloc()
    if element is not None:
        pool.free(element)


def take_from_the_reserve(pool: Pool[Any]) -> None:
    element = pool.alloc_reserved()
    if element is not None:
        pool.free_many([element])


@contextlib.contextmanager
def may_be_refused() -> Iterator[None]:
    """Uncompiled, in the middle of a decision of this very thread, a call that must decide says that it cannot."""
    try:
        yield
    except RuntimeError as error:
        if IMPLEMENTATION == "compiled" or "in the middle of one of its own steps" not in str(error):
            raise


def shrink_and_grow(pool: Pool[Any]) -> None:
    with may_be_refused():
        pool.resize(reserve=1)
    with may_be_refused():
        pool.resize(reserve=3)


def wait_in_vain(pool: Pool[Any]) -> None:
    with contextlib.suppress(PoolTimeout), may_be_refused():
        pool.free_many(pool.alloc_many(3, timeout=0))


def look(pool: Pool[Any]) -> None:
    stats = pool.stats()
    assert stats.made - stats.disposed == stats.spare + stats.out + stats.disposing
    pool.guarantee()
    pool.holders()
    pool.why_empty()


INTRUSIONS = [take_and_free, take_from_the_reserve, shrink_and_grow, wait_in_vain, look]
intrusions = pytest.mark.parametrize("intrude", INTRUSIONS, ids=lambda intrude: intrude.__name__)
tracks = pytest.mark.parametrize("track", ["identity", "nothing", "holders"])


class Intruder:
    """Calls the pool when it is collected; lies in a cycle, so that only the collector finds it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.itself = self

    def __del__(self) -> None:
        self.call()


class Watched:
    """As an Intruder, but what calls the pool is a weakref's callback."""

    def __init__(self) -> None:
        self.itself = self


class Swarm:
    """Garbage that calls the pool, made again when it was collected, `most` times a round: at any allocation.

    Not without end, because a decision that was overtaken is taken again (uncompiled): some must be left alone.
    """

    most = 7

    def __init__(self, call: Callable[[], object], by_weakref: bool = False) -> None:
        self.call = call
        self.by_weakref = by_weakref
        self.calls = self.calls_of_round = 0
        self.errors: list[BaseException] = []
        self.is_on = False
        self.is_inside = False
        self.references: list[object] = []

    def intrude(self, reference: object = None) -> None:
        if self.is_on and not self.is_inside:
            self.is_inside = True
            try:
                self.calls += 1
                self.call()
            except BaseException as error:  # noqa: BLE001 - Python would swallow it
                self.errors.append(error)
            finally:
                self.is_inside = False
                self.breed()

    def breed(self) -> None:
        if not self.is_on or self.calls_of_round > self.most:
            return
        self.calls_of_round += 1
        if self.by_weakref:
            self.references[:] = [weakref.ref(Watched(), self.intrude)]
        else:
            Intruder(self.intrude)

    @contextlib.contextmanager
    def about(self) -> Iterator[None]:
        """Collect at any allocation of a container, as long as this lasts."""
        before = gc.get_threshold()
        self.is_on = True
        gc.set_threshold(1)
        try:
            yield
        finally:
            gc.set_threshold(*before)
            self.is_on = False
            gc.collect()


def use(pool: Pool[Any]) -> None:
    """Every way in and out, once."""
    element = pool.alloc()
    pool.free(element)
    with pool.lease():
        elements = pool.alloc_many(2)
        pool.resize(reserve=4)
        pool.free_many(elements)
    pool.resize(reserve=2)
    another = pool.try_alloc()
    if another is not None:
        pool.free(another)
    pool.stats()


@pytest.mark.sample(2)
@tracks
@intrusions
@pytest.mark.parametrize("by_weakref", [False, True], ids=["__del__", "weakref"])
def test_a_finalizer_may_call_the_pool_at_any_allocation(intrude: Intrusion, track: str, by_weakref: bool) -> None:
    """Whatever the collector runs in the middle of a call, nothing is lost and nobody hangs."""
    source = ScriptedSource()
    pool = Pool(source, 3, limit=8, track=track)
    swarm = Swarm(lambda: intrude(pool), by_weakref)
    with swarm.about():
        for number in range(ROUNDS // 3):
            swarm.calls_of_round = number % swarm.most  # begins elsewhere each time
            swarm.breed()
            use(pool)
    assert swarm.errors == []
    assert swarm.calls > 20
    assert_at_rest(pool)
    assert source.wrong == []
    assert len(source.existing) == pool.stats().spare


@tracks
def test_a_finalizer_may_free_the_element_it_holds(track: str) -> None:
    """Elements held by garbage are returned when it is collected, in the middle of an alloc, a free or a resize."""
    pool: Pool[Element] = Pool(ScriptedSource(), 3, track=track)
    errors: list[BaseException] = []

    class Owner:
        def __init__(self) -> None:
            self.element = pool.alloc()
            self.itself = self

        def __del__(self) -> None:
            try:
                pool.free(self.element)
            except BaseException as error:  # noqa: BLE001 - Python would swallow it
                errors.append(error)

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(ROUNDS):
            Owner()
            pool.resize(reserve=number % 4)
            pool.free(pool.alloc(timeout=SOON))
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert errors == []
    assert_at_rest(pool)


def test_a_finalizer_may_serve_the_line() -> None:
    """The only element is held by garbage: a thread that waits for it has it when another thread's work collects it."""
    pool = Pool(Objects(bytearray), 1, limit=1)

    class Owner:
        def __init__(self) -> None:
            self.element = pool.alloc()
            self.itself = self

        def __del__(self) -> None:
            pool.free(self.element)

    for _ in range(20):
        with without_collection():
            Owner()
            waiter = threading.Thread(target=lambda: pool.free(pool.alloc(timeout=SOON)))
            waiter.start()
            wait_until(lambda: pool.stats().waiting == 1)
            gc.collect()
            waiter.join(SOON)
    assert pool.stats().waits_served == 20
    assert_at_rest(pool)


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Only gc.collect() collects, as long as this lasts."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_an_element_whose_end_calls_the_pool_may_be_disposed_of() -> None:
    """The last reference to an element that is disposed of dies outside of every decision: its callback finds a pool."""
    pool: Pool[Element] = Pool(Objects(lambda: Element(0)), 2, keep=4)
    called: list[int] = []
    elements = pool.alloc_many(6)
    references = [weakref.ref(element, lambda _: called.append(pool.free(pool.alloc()) or 1)) for element in elements]
    while elements:
        pool.free(elements.pop())
    pool.resize(reserve=0, keep=0)
    gc.collect()
    assert len(called) == len(references)
    assert_at_rest(pool)


# -- signal handlers


@contextlib.contextmanager
def alarms(handler: Callable[[], object], seconds: float) -> Iterator[None]:
    """Have the handler run in the main thread every so many seconds, between any two bytecodes."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: handler())
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that send signals here")
@tracks
@intrusions
def test_a_signal_handler_may_call_the_pool_at_any_moment(intrude: Intrusion, track: str) -> None:
    """Handlers run in the middle of the main thread's calls: nothing is lost and nobody hangs."""
    source = ScriptedSource()
    pool = Pool(source, 3, limit=8, track=track)
    swarm = Swarm(lambda: intrude(pool))
    swarm.breed = lambda: None  # type: ignore[method-assign]  # the timer does
    swarm.is_on = True
    with alarms(swarm.intrude, 0.0003):
        rounds = 0
        while swarm.calls < 150 and rounds < 20_000:
            use(pool)
            rounds += 1
    assert swarm.errors == []
    assert swarm.calls > 20
    assert_at_rest(pool)
    assert source.wrong == []
    assert len(source.existing) == pool.stats().spare


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that send signals here")
def test_a_signal_handler_serves_the_main_thread_that_waits() -> None:
    """The main thread waits without end; only a signal handler, in this very thread, frees."""
    pool = Pool(Objects(bytearray), 1, limit=1)
    held: list[bytearray] = []

    def free() -> None:
        with contextlib.suppress(IndexError):  # the next signal came meanwhile, and its handler was faster
            if pool.stats().waiting:
                pool.free(held.pop())

    with alarms(free, 0.001):
        for _ in range(50):
            held.append(pool.alloc())
            pool.free(pool.alloc(timeout=SOON))
    assert pool.stats().waits_served == 50
    assert_at_rest(pool)


def test_a_signal_handler_takes_turns_with_threads() -> None:
    """Signals raised in the main thread, while others use the same pool: one line, one account."""
    pool = Pool(Objects(bytearray), 2, limit=4)
    ends = threading.Event()

    def busy() -> None:
        while not ends.is_set():
            with pool.lease(timeout=SOON):
                pass

    before = signal.signal(signal.SIGUSR1, lambda number, frame: [intrude(pool) for intrude in INTRUSIONS])
    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(ROUNDS):
            with pool.lease(timeout=SOON):
                signal.raise_signal(signal.SIGUSR1)
    finally:
        ends.set()
        for thread in threads:
            thread.join(SOON)
        signal.signal(signal.SIGUSR1, before)
    assert not any(thread.is_alive() for thread in threads)
    assert_at_rest(pool)


class Owning:
    """Has a pool whose source leads back to it. Its end makes a weak reference, which the collector leaves alone."""

    def __init__(self, references: list[weakref.ref[Any]], reach: Callable[[Pool[Any]], object]) -> None:
        self.references = references
        self.pool: Pool[Any] = Pool(Objects(self.make), reserve=2)
        # A code object: the collector does not know it, so it ends as the list is taken apart, after the pool.
        late = take_and_free.__code__.replace()
        references.append(weakref.ref(late, lambda _: reach(references[1]())))
        box: list[object] = [self.pool]
        box += [box, late]

    def make(self) -> object:
        return [self]

    def __del__(self) -> None:
        self.references.append(weakref.ref(self.pool))


@pytest.mark.skipif(BUILT_WITHOUT, reason="the collector knows code objects there")
def test_who_reaches_a_pool_that_is_taken_apart_finds_its_gates_shut() -> None:
    """It has neither engine nor state then. The fast path read what lies behind None, and by chance crashed on it."""
    told: list[object] = []

    def reach(pool: Pool[Any]) -> None:
        told.append(type(pool.core))
        for use in (pool.alloc, pool.alloc_reserved, pool.lease().__enter__, lambda: pool.free(object())):
            try:
                use()
            except AttributeError:  # of what it had
                told.append(None)

    references: list[weakref.ref[Any]] = []
    Owning(references, reach)
    gc.collect()
    assert told == [Decisions, None, None, None, None]
