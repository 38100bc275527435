"""What must hold, whatever the order of steps. Each scenario says what it is about and ends with the state at rest.

`with it.no_interleave()` marks what is prepared before the threads start.
"""

from __future__ import annotations

from collections.abc import Callable

from mempool import DoubleFree, ForeignElement, Pool, PoolClosed, PoolTimeout
from mempool._core.decisions import UNCHANGED
from verification.schedules.world import BufferMemory, Memory, StandingClock, at_rest, interrupted_by, it, together

SCENARIOS: dict[str, Callable[[], None]] = {}


def scenario(function: Callable[[], None]) -> Callable[[], None]:
    SCENARIOS[function.__name__.replace("_", " ")] = function
    return function


@scenario
def three_resizers() -> None:
    """The last resize to reach its moment wins whole: the targets are those of one call, and the reserve is filled."""
    with it.no_interleave():
        memory = Memory(100)
        pool = Pool(memory, 4, keep=4)
    together(
        lambda: pool.resize(3, keep=3),
        lambda: pool.resize(1, keep=1),
        lambda: pool.resize(2, keep=2),
    )
    snapshot = at_rest(pool, memory)
    assert snapshot["reserve"] == snapshot["keep"] == snapshot["spare"]
    assert snapshot["reserve"] in {1, 2, 3}


@scenario
def resizes_of_different_targets() -> None:
    """A resize changes what it names and nothing else: of two that name different targets, both hold."""
    with it.no_interleave():
        memory = Memory(100)
        pool = Pool(memory, 1, limit=10)
    together(lambda: pool.resize(reserve=3), lambda: pool.resize(limit=20))
    snapshot = at_rest(pool, memory)
    assert (snapshot["reserve"], snapshot["limit"]) == (3, 20), "a resize was undone by another"


@scenario
def resizes_of_three_targets() -> None:
    """The same for three at once: their decisions alone."""
    with it.no_interleave():
        memory = Memory(100)
        pool = Pool(memory, 1, keep=5, limit=10)
        decide = pool.core.retarget
    together(
        lambda: decide(2, UNCHANGED, UNCHANGED, [None] * 9),
        lambda: decide(UNCHANGED, UNCHANGED, 20, [None] * 9),
        lambda: decide(UNCHANGED, 9, UNCHANGED, [None] * 9),
    )
    snapshot = at_rest(pool, memory)
    assert (snapshot["reserve"], snapshot["keep"], snapshot["limit"]) == (2, 9, 20), "a resize was undone by another"


@scenario
def grow_and_free_and_alloc() -> None:
    """A caller that waits on an empty pool is served by the free or by the grow, whichever comes; nothing is lost."""
    held: list[object] = []
    with it.no_interleave():
        memory = Memory(1)
        pool = Pool(memory, 1)
        element = pool.alloc()

    def grow() -> None:
        memory.room = 3  # memory recovers, and nobody says so but the resize
        pool.resize(2)

    together(lambda: held.append(pool.alloc()), grow, lambda: pool.free(element))
    at_rest(pool, memory, held)
    assert len(held) == 1


@scenario
def grow_serves_the_line() -> None:
    """What a resize makes goes to who waits, although nothing is freed. (The kernel's sleeps on.)"""
    held: list[object] = []
    with it.no_interleave():
        memory = Memory(1)
        pool = Pool(memory, 1)
        held.append(pool.alloc())

    def grow() -> None:
        memory.room = 3
        pool.resize(2)

    together(lambda: held.append(pool.alloc()), grow)
    at_rest(pool, memory, held)


@scenario
def shrink_and_free() -> None:
    """What is returned during a shrink is not kept beyond the new target, and nothing is disposed of twice."""
    with it.no_interleave():
        memory = Memory(100)
        pool = Pool(memory, 3, keep=3)
        out = [pool.alloc(), pool.alloc_reserved()]
    together(lambda: pool.resize(1, keep=1), *[lambda e=e: pool.free(e) for e in out])
    assert at_rest(pool, memory)["spare"] == 1


@scenario
def timeout_and_hand_off() -> None:
    """An element that is handed to a caller whose time is up is the caller's or the pool's, never nobody's."""
    held: list[object] = []
    with it.no_interleave():
        memory = Memory(1)
        pool = Pool(memory, 1)
        element = pool.alloc()

    def caller() -> None:
        try:
            held.append(pool.alloc(timeout=0))
        except PoolTimeout:
            pass

    together(caller, lambda: pool.free(element))
    at_rest(pool, memory, held)


@scenario
def timeout_ahead_of_another() -> None:
    """What a caller refuses goes to the one behind it, which waits for ever if it does not."""
    held: list[object] = []
    with it.no_interleave():
        memory = Memory(1)
        pool = Pool(memory, 1)
        element = pool.alloc()

    def impatient() -> None:
        try:
            pool.free(pool.alloc(timeout=0))
        except PoolTimeout:
            pass

    together(impatient, lambda: held.append(pool.alloc()), lambda: pool.free(element))
    at_rest(pool, memory, held)
    assert len(held) == 1


class Cancelled(BaseException):
    """What is thrown at a caller that waits."""


class InterruptingClock(StandingClock):
    """Whoever parks is thrown out of it at once, served or not."""

    def park(self, _wakes: object, _seconds: float | None) -> None:
        raise Cancelled


@scenario
def cancel_and_hand_off() -> None:
    """A caller that is thrown out of its waiting leaves nothing behind: what was handed to it is returned."""
    held: list[object] = []
    with it.no_interleave():
        memory = Memory(1)
        pool = Pool(memory, 1)
        pool._clock = InterruptingClock()
        element = pool.alloc()

    def caller() -> None:
        try:
            held.append(pool.alloc())
        except Cancelled:
            pass

    together(caller, lambda: pool.free(element))
    at_rest(pool, memory, held)


@scenario
def close_and_wait() -> None:
    """Who waits when the pool closes is told or served, and everything is disposed of once it is back."""
    with it.no_interleave():
        memory = Memory(1)
        pool = Pool(memory, 1)
        element = pool.alloc()

    def caller() -> None:
        try:
            pool.free(pool.alloc())
        except PoolClosed:
            pass

    together(caller, pool.close, lambda: pool.free(element))
    at_rest(pool, memory)
    assert not memory.existing


@scenario
def close_and_grow() -> None:
    """What a grow makes for a pool that closes meanwhile is disposed of."""
    with it.no_interleave():
        memory = Memory(5)
        pool = Pool(memory, 1, keep=1)

    def grow() -> None:
        try:
            pool.resize(3)
        except PoolClosed:
            pass

    together(grow, pool.close)
    at_rest(pool, memory)
    assert not memory.existing


@scenario
def double_free() -> None:
    """Of two threads that free the same element one succeeds, and the other is told."""
    refused: list[None] = []
    with it.no_interleave():
        memory = Memory(2)
        pool = Pool(memory, 2)
        element = pool.alloc()

    def free() -> None:
        try:
            pool.free(element)
        except (DoubleFree, ForeignElement):
            refused.append(None)

    together(free, free)
    at_rest(pool, memory)
    assert len(refused) == 1


@scenario
def double_free_of_an_untracked_buffer() -> None:
    """The same where nothing but the handle tells of it: whoever comes first to it frees it."""
    refused: list[None] = []
    with it.no_interleave():
        memory = BufferMemory(2)
        pool = Pool(memory, 2, track="nothing")
        kept, buffer = pool.alloc(), pool.alloc()

    def free() -> None:
        try:
            pool.free(buffer)
        except (DoubleFree, ForeignElement, BufferError):
            refused.append(None)

    together(free, free)
    assert (len(refused), pool.out) == (1, 1)
    pool.free(kept)
    at_rest(pool, memory)


@scenario
def drain_and_free() -> None:
    """Whoever drains is woken by the last element that is returned."""
    with it.no_interleave():
        memory = Memory(2)
        pool = Pool(memory, 2)
        out = [pool.alloc(), pool.alloc()]
    together(pool.drain, *[lambda e=e: pool.free(e) for e in out])
    at_rest(pool, memory)


@scenario
def bulk_and_single() -> None:
    """A caller that wants two and one that wants one are both served by what is returned: all or none, nobody starves."""
    with it.no_interleave():
        memory = Memory(2)
        pool = Pool(memory, 2)
        out = [pool.alloc(), pool.alloc()]
    together(
        lambda: pool.free_many(pool.alloc_many(2)),
        lambda: pool.free(pool.alloc()),
        lambda: pool.free_many(out),
    )
    assert at_rest(pool, memory)["spare"] == 2


@scenario
def bulk_gives_up() -> None:
    """What was gathered for a caller that gives up is not kept beyond `keep`."""
    with it.no_interleave():
        memory = Memory(3)
        pool = Pool(memory, 1, keep=1)
        out = [pool.alloc(), pool.alloc(), pool.alloc()]

    def caller() -> None:
        try:
            pool.free_many(pool.alloc_many(3, timeout=0))
        except PoolTimeout:
            pass

    together(caller, lambda: pool.free_many(out[:2]))
    at_rest(pool, memory, out[2:])


def freeing(due: list[object], pool: Pool[object]) -> Callable[[], None]:
    """A finalizer that frees what is due, if anything is."""

    def finalizer() -> None:
        try:
            element = due.pop()
        except IndexError:
            return
        pool.free(element)

    return finalizer


@scenario
def finalizer_reentry() -> None:
    """A finalizer that frees, around each step of the same thread's alloc, free and resize, disturbs none of them."""
    due: list[object] = []
    with it.no_interleave():
        memory = Memory(3)
        pool = Pool(memory, 2, keep=2)
        kept, dropped = pool.alloc(), pool.alloc()

    finalizer = freeing(due, pool)

    def busy() -> None:
        pool.free(kept)
        pool.free(pool.alloc())
        pool.resize(1, keep=1)

    with interrupted_by(finalizer):
        together(busy, lambda: due.append(dropped))
    finalizer()
    assert at_rest(pool, memory)["spare"] == 1


@scenario
def finalizer_serves_its_own_thread() -> None:
    """A caller about to wait can be served by a finalizer that runs in its own thread."""
    due: list[object] = []
    held: list[object] = []
    with it.no_interleave():
        memory = Memory(1)
        pool = Pool(memory, 1)
        dropped = pool.alloc()

    finalizer = freeing(due, pool)

    def drop() -> None:
        due.append(dropped)
        finalizer()  # if the caller sleeps already, here

    with interrupted_by(finalizer):
        together(lambda: held.append(pool.alloc()), drop)
    at_rest(pool, memory, held)
    assert len(held) == 1


@scenario
def limit_and_dispose() -> None:
    """Room under the limit is a reason to ask the source at once: it does not matter whether it comes before or after the
    caller stands in line.
    """
    held: list[object] = []
    with it.no_interleave():
        memory = Memory(1)
        pool = Pool(memory, 0, keep=0, limit=1)
        element = pool.alloc()
    together(lambda: held.append(pool.alloc()), lambda: pool.free(element))
    at_rest(pool, memory, held)


@scenario
def limit_raised() -> None:
    """A raised limit is a reason to ask the source at once, too, whenever it comes."""
    held: list[object] = []
    with it.no_interleave():
        memory = Memory(2)
        pool = Pool(memory, 0, keep=1, limit=1)
        held.append(pool.alloc())
    together(lambda: held.append(pool.alloc()), lambda: pool.resize(limit=2))
    at_rest(pool, memory, held)


@scenario
def limit_raised_for_a_line() -> None:
    """Whoever is served from the room that a raised limit makes tells the next in line: both are, and nobody sleeps."""
    held: list[object] = []
    with it.no_interleave():
        memory = Memory(3)
        pool = Pool(memory, 0, keep=1, limit=1)
        held.append(pool.alloc())
    together(*[lambda: held.append(pool.alloc())] * 2, lambda: pool.resize(limit=3))
    at_rest(pool, memory, held)
    assert len(held) == 3


class _SlowMemory(Memory):
    """Its alloc ends, once it is slow, when somebody has been served."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.is_slow = False
        self.served = it.Semaphore(0)

    def alloc(self) -> object:
        if self.is_slow:
            self.served.acquire()
            self.served.release()
        return super().alloc()


@scenario
def a_slow_source_and_those_behind() -> None:
    """Nobody sleeps beside what is returned: while one caller is inside the source, it goes to the other."""
    held: list[object] = []
    with it.no_interleave():
        memory = _SlowMemory(2)
        pool = Pool(memory, 0, keep=1, limit=1)
        element = pool.alloc()
        memory.is_slow = True

    def caller() -> None:
        held.append(pool.alloc())
        memory.served.release()

    def change() -> None:
        pool.resize(limit=2)  # whoever is first asks the source
        pool.free(element)

    together(caller, caller, change)
    at_rest(pool, memory, held)
    assert len(held) == 2


@scenario
def limit_lowered() -> None:
    """What is returned while a limit is lowered is disposed of until no more exist than it allows."""
    with it.no_interleave():
        memory = Memory(3)
        pool = Pool(memory, 1, keep=3, limit=3)
        out = [pool.alloc(), pool.alloc(), pool.alloc()]
    together(lambda: pool.resize(limit=1), lambda: pool.free_many(out[:2]), lambda: pool.free(out[2]))
    at_rest(pool, memory)
    assert len(memory.existing) == 1


@scenario
def limit_below_a_request() -> None:
    """Who waits for more than a lowered limit allows is told, and who stands behind is served: nobody sleeps."""
    with it.no_interleave():
        memory = Memory(2)
        pool = Pool(memory, 0, keep=2, limit=2)
        out = pool.alloc_many(2)

    def many() -> None:
        try:
            pool.free_many(pool.alloc_many(2))
        except ValueError:
            assert pool.stats().limit == 1

    def lowers() -> None:
        pool.resize(limit=1)
        pool.free_many(out)

    together(many, lambda: pool.free(pool.alloc()), lowers)
    at_rest(pool, memory)
    assert len(memory.existing) <= 1


@scenario
def claims_and_limit() -> None:
    """However many ask the source at the same time, no more exist than the limit allows."""
    held: list[object] = []
    with it.no_interleave():
        memory = Memory(9)
        pool = Pool(memory, 1, keep=1, limit=2)

    def caller() -> None:
        held.append(pool.try_alloc())
        assert len(memory.existing) <= 2

    together(caller, caller, lambda: pool.resize(2, keep=2))
    at_rest(pool, memory, [element for element in held if element is not None])


@scenario
def two_pools() -> None:
    """The source of one pool is another: what the inner makes for the outer is back or out, in this state."""
    with it.no_interleave():
        memory = Memory(100)
        inner = Pool(memory, 2, keep=2)

        outer = Pool(_Borrowed(inner), 1, keep=1)
        element = outer.alloc()
    together(lambda: outer.free(element), lambda: outer.resize(2, keep=2), lambda: inner.resize(1, keep=1))
    with it.no_interleave():
        spares = []
        while (spare := outer.alloc_reserved()) is not None:
            spares.append(spare)
    at_rest(inner, memory, spares)


class _Borrowed:
    """A source that borrows from another pool."""

    def __init__(self, pool: Pool[object]) -> None:
        self.pool, self.free = pool, pool.free

    def alloc(self) -> object:
        element = self.pool.try_alloc()
        if element is None:
            raise MemoryError
        return element


@scenario
def grow_beside_disposals() -> None:
    """A grow for which what a shrink disposes of leaves no room under the limit is made good by the shrink."""
    with it.no_interleave():
        memory = Memory(3)
        pool = Pool(memory, 3, limit=3)
    together(lambda: pool.resize(1, keep=1), lambda: pool.resize(3))
    with it.no_interleave():
        told = pool.guarantee()
    snapshot = at_rest(pool, memory)
    assert told.filling == 0
    assert told.held, f"{told}, and nothing has failed"
    assert snapshot["spare"] >= snapshot["reserve"]


@scenario
def what_is_being_made_is_not_unfunded() -> None:
    """However a grow, another and a refill meet: as long as nothing fails, nobody is told of anything unfunded."""
    told = []
    with it.no_interleave():
        memory = Memory(100)
        pool = Pool(memory, 0)
    together(
        lambda: told.append(pool.resize(2)),
        lambda: told.append(pool.refill()),
        lambda: told.append(pool.guarantee()),
    )
    at_rest(pool, memory)
    with it.no_interleave():
        told.append(pool.guarantee())
    assert all(guarantee.held for guarantee in told), told
    assert told[-1].filling == 0


@scenario
def last_view_and_wait() -> None:
    """What lingers serves the line when its last view ends, whether that comes before, in or after the free, or the wait."""
    held: list[object] = []
    with it.no_interleave():
        memory = BufferMemory(1)
        pool = Pool(memory, 1)
        buffer = pool.alloc()
        views = [buffer[:]]
    together(lambda: held.append(pool.alloc()), lambda: pool.free(buffer, linger=True), views.clear)
    assert at_rest(pool, memory, held)["lingering"] == 0
    assert len(held) == 1


@scenario
def last_view_and_shrink() -> None:
    """However a shrink and the end of the last view meet, what is too much is disposed of, once."""
    with it.no_interleave():
        memory = BufferMemory(2)
        pool = Pool(memory, 2, keep=2)
        buffer = pool.alloc()
        views = [buffer[:]]
        pool.free(buffer, linger=True)
    together(lambda: pool.resize(1, keep=1), views.clear)
    figures = at_rest(pool, memory)
    assert (figures["spare"], figures["lingering"]) == (1, 0)
