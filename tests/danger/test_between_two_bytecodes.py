"""The pure core stopped where a thread switch could stop it: after a decision is made, before anybody is woken.

Whoever decides lets go of the pool's lock and then wakes those whom the decision concerns. Each test holds one thread in
between, and lets another go on.
"""

import gc
import threading
from collections.abc import Iterator

import pytest

import mempool
from mempool import Pool, PoolTimeout
from mempool._core import deciding
from mempool.testing import Element, ManualClock, ScriptedSource, Step, assert_books
from mempool.testing.contract.callers import ThreadCallers, in_line

if mempool.IMPLEMENTATION == "compiled":
    pytest.skip("compiled, a decision is in force and told in one step", allow_module_level=True)

works, fails, raises, slow = Step
SOON = 60


class Gap:
    """Holds a chosen thread when it has made the decision that it was chosen for, and has told nobody yet."""

    def __init__(self) -> None:
        self.thread: int | None = None
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def hold_me(self) -> None:
        self.thread = threading.get_ident()

    def passes(self) -> None:
        if threading.get_ident() == self.thread:
            self.thread = None
            self.reached.set()
            assert self.go_on.wait(SOON)


@pytest.fixture
def gap(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gap]:
    gap = Gap()

    class Lock:
        """The lock of a pool, which the chosen thread lets go and stops."""

        def __init__(self) -> None:
            self.lock = deciding.new_lock()
            self.acquire, self._is_owned = self.lock.acquire, self.lock._is_owned

        def release(self) -> None:
            self.lock.release()
            gap.passes()

    monkeypatch.setattr("mempool._core.base_decisions.new_lock", Lock)
    # Another test's pool, found as garbage by the thread that is to be held, would close there, and be held in its place.
    gc.collect()
    gc.disable()
    yield gap
    gap.go_on.set()
    gc.enable()


def hold_after(gap: Gap, monkeypatch: pytest.MonkeyPatch, pool: Pool[Element], decision: str) -> None:
    """Hold whoever makes such a decision next."""
    decide = getattr(type(pool.core), decision)

    def decide_late(core: object, *args: object) -> object:
        if not gap.reached.is_set():
            gap.hold_me()
        return decide(core, *args)

    monkeypatch.setattr(type(pool.core), decision, decide_late)


def held(gap: Gap, function: object, *args: object) -> threading.Thread:
    """A thread that makes this call, and is held in the gap."""
    thread = threading.Thread(target=function, args=args, daemon=True)  # type: ignore[arg-type]
    thread.start()
    assert gap.reached.wait(SOON)
    return thread


@pytest.fixture
def scene(gap: Gap) -> tuple[Pool[Element], ScriptedSource[Element], ManualClock, Element]:
    source = ScriptedSource(works, otherwise=fails)
    clock = ManualClock()
    pool = clock.attach(Pool(source, 1))
    return pool, source, clock, pool.alloc()


Scene = tuple[Pool[Element], ScriptedSource[Element], ManualClock, Element]


def test_one_who_is_served_before_it_knows_that_it_joined(gap: Gap, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller has joined the line and does not know it yet; a free serves it. It has the element, once."""
    pool, source, _clock, element = scene
    hold_after(gap, monkeypatch, pool, "join")
    waiter = ThreadCallers().call(pool, "alloc")
    assert gap.reached.wait(SOON)
    pool.free(element)
    gap.go_on.set()
    assert waiter.result(SOON) is element
    assert_books(pool, source, out=1)
    assert pool.stats().waiting == 0


def test_one_who_gives_up_when_it_has_been_served_and_does_not_know_it(
    gap: Gap, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A free has served a caller whose time is up before it hears of it: it has the element, or it was returned."""
    pool, source, clock, element = scene
    waiter = in_line(pool, lambda: ThreadCallers().call(pool, "alloc", timeout=1))
    clock.wait_until_parked(1)
    hold_after(gap, monkeypatch, pool, "take_back")
    freeing = held(gap, pool.free, element)
    clock.advance(1)
    error = waiter.exception(SOON)
    gap.go_on.set()
    freeing.join(SOON)
    assert error is None or isinstance(error, PoolTimeout)
    assert_books(pool, source, out=0 if error else 1)
    assert pool.stats().waiting == 0


def test_two_frees_at_once_serve_two(gap: Gap, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the wake-ups of one free are held back, another free goes on, and serves the next in line."""
    pool, source, _clock, element = scene
    source.then(works)
    second = pool.try_alloc()
    waiters = [in_line(pool, lambda: ThreadCallers().call(pool, "alloc")) for _ in range(2)]
    hold_after(gap, monkeypatch, pool, "take_back")
    freeing = held(gap, pool.free, element)
    pool.free(second)
    assert waiters[1].result(SOON) is second
    gap.go_on.set()
    freeing.join(SOON)
    assert waiters[0].result(SOON) is element
    assert_books(pool, source, out=2)
    assert pool.stats().waiting == 0


def test_a_close_overtakes_a_free(gap: Gap, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A free has served a caller; the pool closes before it hears of it: the element is its own, and is returned."""
    pool, source, _clock, element = scene
    waiter = in_line(pool, lambda: ThreadCallers().call(pool, "alloc"))
    hold_after(gap, monkeypatch, pool, "take_back")
    freeing = held(gap, pool.free, element)
    pool.close()
    gap.go_on.set()
    freeing.join(SOON)
    assert waiter.result(SOON) is element
    pool.free(element)
    assert source.existing == []


def test_a_resize_is_overtaken_by_another(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resize that decided first does not write again what the second has changed."""
    source = ScriptedSource()
    pool = Pool(source, 4)
    hold_after(gap, monkeypatch, pool, "retarget")
    first = held(gap, pool.resize, 9)
    pool.resize(2)
    gap.go_on.set()
    first.join(SOON)
    assert (pool.stats().reserve, pool.stats().keep) == (2, 4)
    assert pool.stats().spare <= 4
    assert_books(pool, source, out=0)
    assert pool.stats().waiting == 0
