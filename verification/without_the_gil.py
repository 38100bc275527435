"""A stress for Pythons without the GIL: `python -m verification.without_the_gil [SECONDS] [SCENE ...]`; `make stress-ft`.

Eight threads, two resizers, two event loops and one who asks what there is use one pool; each element carries a mark of who
has it, so an element in two hands is seen at once, and so is one that is lost: at the end all are at home, and the source
has back what it made. Beside these, scenes in which two callers do the same to one thing: free it, release it, view it; and
duels, in which they do it within nanoseconds. A scene ends at its first fault.

SECONDS: of all scenes together. Each is played once at least, however busy the machine is: its time begins when all its
threads have, and one that has done nothing has failed. On a Python with the GIL the same runs, and finds less.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from mempool import IMPLEMENTATION, Buffers, Objects, Pool, PoolError, PoolTimeout, UseAfterFree
from mempool._core.transfer import new_ticket
from mempool.sources import Limited
from mempool.sources.memory import Memory

THREADS, RESIZERS, LOOPS = 8, 2, 2
#: Seconds after which whoever has not come back is taken for hanging.
PATIENCE = 60.0
HOLDERS = "holders"
#: After so many looks a thread that spins lets others run: at once, where it keeps the GIL from whom it awaits.
LOOKS = 1 if getattr(sys, "_is_gil_enabled", lambda: True)() else 50_000


class Fault(Exception):
    """What must not happen has happened."""


def check(fact: bool, *why: object) -> None:
    if not fact:
        raise Fault(" ".join(map(str, why)))


class Thing:
    """An object that carries a mark."""

    __slots__ = ("__weakref__", "mark")

    def __init__(self) -> None:
        self.mark: object = None


def shared(thing: Any) -> Any:
    """What several threads use at once, as it is; races.py puts another function here."""
    return thing


def mark(element: Any, token: int) -> None:
    """Say whose it is."""
    if isinstance(element, Thing):
        check(element.mark is None, "an element is in two hands")
        element.mark = token
    else:
        element[:8] = token.to_bytes(8, "little")


def unmark(element: Any, token: int) -> None:
    """See that nobody else has said so meanwhile."""
    check(element is not None, "alloc gave None")
    if isinstance(element, Thing):
        check(element.mark == token, "an element was somebody else's, too:", element.mark)
        element.mark = None
    else:
        check(bytes(element[:8]) == token.to_bytes(8, "little"), "a buffer was somebody else's, too")


def together(
    *callers: Callable[[], object], patience: float = PATIENCE, begin: Callable[[], None] | None = None
) -> list[Any]:
    """Run these in threads of their own, all at once. Returns what each returned or raised. begin: called just before."""
    outcomes: list[Any] = [None] * len(callers)
    barrier = threading.Barrier(len(callers), begin)

    def run(number: int, caller: Callable[[], object]) -> None:
        barrier.wait()
        try:
            outcomes[number] = caller()
        except BaseException as error:  # noqa: BLE001 - an outcome
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(callers)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    hanging = [thread for thread in threads if thread.is_alive()]
    if hanging:
        for thread in hanging:
            traceback.print_stack(sys._current_frames().get(thread.ident or 0))
        raise Fault(f"{len(hanging)} of {len(threads)} threads hang")
    return outcomes


def raise_faults(outcomes: list[Any]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


class Load:
    """Threads, resizers and loops on one pool for so many seconds."""

    def __init__(self, pool: Any, seconds: float) -> None:
        self.pool = pool
        self.seconds = seconds
        self.until = 0.0
        self.workers = 0
        self.calls: list[int] = []
        self.lock = threading.Lock()

    def tokens(self) -> Iterator[int]:
        """One worker's own: a lock that all take at each call would have them take turns at the pool, too."""
        with self.lock:
            self.workers += 1
            return itertools.count(self.workers << 40)

    def begin(self) -> None:
        self.until = time.monotonic() + self.seconds

    def is_on(self) -> bool:
        return time.monotonic() < self.until

    def thread(self) -> None:
        pool, calls, tokens = self.pool, 0, self.tokens()
        draw = random.Random(next(tokens))
        while not calls or self.is_on():
            for _ in range(50):
                token, kind = next(tokens), draw.randrange(8)
                calls += 1
                if kind == 0:
                    element = pool.try_alloc()
                    if element is None:
                        continue
                elif kind == 1:
                    elements = pool.alloc_many(2, timeout=PATIENCE)
                    for one in elements:
                        mark(one, token)
                    for one in elements:
                        unmark(one, token)
                    pool.free_many(elements)
                    continue
                elif kind <= 4:
                    with pool.lease(timeout=PATIENCE) as element:
                        mark(element, token)
                        unmark(element, token)
                    continue
                else:
                    element = pool.alloc(timeout=PATIENCE)
                check(element is not None, "alloc gave None")
                mark(element, token)
                if kind == 7:
                    time.sleep(0)
                unmark(element, token)
                pool.free(element)
        self.calls.append(calls)

    def resizer(self) -> None:
        draw = random.Random(next(self.tokens()))
        while self.is_on():
            self.pool.resize(reserve=draw.choice((0, 2, 3, 5, 8)))
            time.sleep(0.0005)

    def onlooker(self) -> None:
        """Asks for all that a pool tells of itself, gives up in the line, and has broken elements made anew."""
        pool = self.pool
        while self.is_on():
            for ask in (pool.stats, pool.guarantee, pool.holders, pool.why_empty, pool.__repr__):
                ask()
            check(pool.reserve <= 8 and pool.spare + pool.waiting >= 0, "no such numbers")
            with contextlib.suppress(PoolTimeout):
                pool.discard(pool.alloc(timeout=0.0002))
            pool.refill()
            time.sleep(0.0005)

    def loop(self) -> None:
        tokens = self.tokens()

        async def task() -> None:
            calls = 0
            while not calls or self.is_on():
                calls += 1
                token = next(tokens)
                async with self.pool.lease(timeout=PATIENCE) as element:
                    check(element is not None, "a lease gave None")
                    mark(element, token)
                    await asyncio.sleep(0)
                    unmark(element, token)

        async def main() -> None:
            await asyncio.gather(*(task() for _ in range(3)))

        asyncio.run(main())


def load(source: Callable[[], Any], track: str, limit: int | None) -> Callable[[float], int]:
    """The scene of many callers on one pool."""

    def scene(seconds: float) -> int:
        pool = shared(Pool(source(), 3, track=track, limit=limit, name="stress"))
        run = Load(pool, seconds)
        workers = [run.thread] * THREADS + [run.resizer] * RESIZERS + [run.loop] * LOOPS + [run.onlooker]
        raise_faults(together(*workers, patience=seconds + PATIENCE, begin=run.begin))
        stats = pool.stats()
        check(stats.out == 0, "all are at home, and", stats.out, "are said to be out:", stats)
        check(stats.made - stats.disposed == stats.spare, "the books do not add up:", stats)
        taken = [pool.alloc_reserved() for _ in range(stats.spare)]
        check(all(one is not None for one in taken) and len(set(map(id, taken))) == len(taken), "a spare is none:", taken)
        pool.free_many(taken)
        pool.close()
        stats = pool.stats()
        check(stats.made == stats.disposed, "not all went back to the source:", stats)
        return sum(run.calls)

    return scene


def rounds(prepare: Callable[[], Callable[[], None]]) -> Callable[[float], int]:
    """A scene that is played again and again."""

    def scene(seconds: float) -> int:
        play, played = prepare(), 0
        until = time.monotonic() + seconds
        while not played or time.monotonic() < until:
            play()
            played += 1
        return played

    return scene


def one_succeeds(outcomes: list[Any], *errors: type[BaseException]) -> None:
    done = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    others = [outcome for outcome in outcomes if isinstance(outcome, BaseException) and not isinstance(outcome, errors)]
    raise_faults(others)
    check(len(done) == 1, len(done), "of", len(outcomes), "succeeded:", outcomes)


def frees(make: Callable[[], Any], track: str) -> Callable[[], Callable[[], None]]:
    """Three threads free the same element: one of them may."""

    def prepare() -> Callable[[], None]:
        pool = shared(Pool(make(), 2, track=track, name="frees"))

        def play() -> None:
            kept, element = pool.alloc(), shared(pool.alloc())
            one_succeeds(together(*[lambda: pool.free(element)] * 3), PoolError)
            pool.free(kept)
            check(pool.stats().out == 0, "out is", pool.stats().out)

        return play

    return prepare


def releases(make: Callable[[], Any], track: str) -> Callable[[], Callable[[], None]]:
    """Three threads release the same lease: one of them may."""

    def prepare() -> Callable[[], None]:
        pool = shared(Pool(make(), 2, track=track, name="releases"))

        def play() -> None:
            lease = shared(pool.lease())
            check(lease.element is not None, "a lease without an element")
            one_succeeds(together(lease.release, lease.release, lambda: lease.element and lease.release()), PoolError)
            check(pool.stats().out == 0, "out is", pool.stats().out)

        return play

    return prepare


def views() -> Callable[[], None]:
    """Four threads view one buffer, and let go of it; then it can be freed."""
    pool = shared(Pool(Buffers(4096), 2, name="views"))

    def look(buffer: Any) -> None:
        for _ in range(50):
            with memoryview(buffer) as view:
                check(len(view) == 4096, "a view of", len(view))
            del view

    def play() -> None:
        buffer = shared(pool.alloc())
        raise_faults(together(*[lambda: look(buffer)] * 4))
        check(buffer.views() == 0, buffer.views(), "views are left over")
        pool.free(buffer)

    return play


def views_against_free() -> Callable[[], None]:
    """One views a buffer while another frees it: one of the two is told."""
    pool = shared(Pool(Buffers(4096), 2, name="views"))

    def play() -> None:
        buffer = shared(pool.alloc())
        view, freed = together(lambda: memoryview(buffer), lambda: pool.free(buffer))
        seen, gone = isinstance(view, memoryview), freed is None
        check(not (seen and gone), "a freed buffer is viewed")
        if seen:
            check(isinstance(freed, BufferError), freed)
            view.release()
            del view
            pool.free(buffer)
        check(pool.stats().out == 0, "out is", pool.stats().out)

    return play


def lingering(track: str) -> Callable[[], Callable[[], None]]:
    """Three threads free one buffer that is viewed, so that it lingers: one of them may."""

    def prepare() -> Callable[[], None]:
        pool = shared(Pool(Buffers(4096), 2, track=track, name="lingering"))

        def play() -> None:
            kept, buffer = pool.alloc(), shared(pool.alloc())
            view = memoryview(buffer)
            one_succeeds(together(*[lambda: pool.free(buffer, linger=True)] * 3), PoolError)
            check(pool.stats().lingering == 1, pool.stats())
            view.release()
            del view
            pool.free(kept)
            check(pool.stats().out == 0, "out is", pool.stats().out)

        return play

    return prepare


class Duel:
    """Two threads do something to the same thing in the same instant, thousands of times a second.

    `together` starts threads, and what they do is seldom less than a microsecond apart. Here both stand ready and spin, and
    each begins after some steps more that are drawn, so that in many rounds every distance between the two is tried.
    """

    STEPS = 60
    MANY = 200

    def __init__(self) -> None:
        self.round = self.done = 0
        self.theirs: Callable[[], object] | None = None
        self.outcome: object = None
        self.draw = random.Random(15)
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.theirs = None
        self.round += 1
        self.thread.join(PATIENCE)

    def _run(self) -> None:
        draw, number = random.Random(16), 0
        while True:
            number += 1
            steps = draw.randrange(self.STEPS)
            self._await(lambda number=number: self.round >= number)  # type: ignore[misc]
            theirs = self.theirs
            if theirs is None:
                return
            self.outcome = self._outcome(theirs, steps)
            self.done = number

    def both(self, mine: Callable[[], object], theirs: Callable[[], object]) -> tuple[object, object]:
        """Do both at once. What each returned or raised."""
        steps = self.draw.randrange(self.STEPS)
        self.theirs = theirs
        self.round += 1
        outcome = self._outcome(mine, steps)
        self._await(lambda: self.done == self.round)
        return outcome, self.outcome

    def many(self, mine: list[Callable[[], object]], theirs: list[Callable[[], object]]) -> list[tuple[object, object]]:
        """So many duels in step: on a busy machine both threads seldom run at once, and then do not for long."""
        reached, outcomes = [0, 0], [[None] * len(mine), [None] * len(mine)]  # type: list[int], list[list[object]]

        def walk(me: int, calls: list[Callable[[], object]], draw: random.Random) -> None:
            for number, call in enumerate(calls):
                steps = draw.randrange(self.STEPS)
                reached[me] = number + 1
                self._await(lambda number=number: reached[1 - me] > number)  # type: ignore[misc]
                outcomes[me][number] = self._outcome(call, steps)

        chance = random.Random(self.draw.random())
        raise_faults([*self.both(lambda: walk(0, mine, self.draw), lambda: walk(1, theirs, chance))])
        return list(zip(*outcomes, strict=True))

    @staticmethod
    def _outcome(call: Callable[[], object], steps: int) -> object:
        for _ in range(steps):
            pass
        try:
            return call()
        except BaseException as error:  # noqa: BLE001 - an outcome
            return error

    @staticmethod
    def _await(is_so: Callable[[], bool]) -> None:
        until, looks = time.monotonic() + PATIENCE, 0
        while not is_so():
            looks += 1
            if looks % LOOKS == 0:
                time.sleep(0)  # it may be the other one's turn
                check(time.monotonic() < until, "one of two threads hangs")


def duels(prepare: Callable[[], Callable[[Duel], None]]) -> Callable[[float], int]:
    """A scene of such rounds."""

    def scene(seconds: float) -> int:
        play, played = prepare(), 0
        until = time.monotonic() + seconds
        with Duel() as duel:
            while not played or time.monotonic() < until:
                play(duel)
                played += 1
        return played

    return scene


def duel_of_frees(linger: bool, track: str) -> Callable[[], Callable[[Duel], None]]:
    """Two free one buffer that is viewed, if they let it linger, or that nobody looks at: one of them may.

    What the views keep is the handle of the one that did: else its memory is had by the next, while they look at it.
    """

    def prepare() -> Callable[[Duel], None]:
        pool = shared(Pool(Buffers(4096), 2, keep=2, track=track, name="duel"))

        def play(duel: Duel) -> None:
            kept, buffer = pool.alloc(), pool.alloc()
            view = buffer[:] if linger else None
            one_succeeds([*duel.both(*[lambda: pool.free(buffer, linger=linger)] * 2)], PoolError, BufferError)
            stats = pool.stats()
            check(stats.lingering == linger, "lingers, as is said:", stats)
            check(stats.out == 1 + linger, "out, as is said:", stats)
            del view
            pool.free(kept)
            stats = pool.stats()
            check((stats.out, stats.lingering) == (0, 0), "all are at home, and it is said:", stats)

        return play

    return prepare


def duel_of_addresses() -> Callable[[Duel], None]:
    """One asks where a buffer begins while the other takes its memory away: it is told, or that there is none."""
    source = Buffers(4096)

    def play(duel: Duel) -> None:
        buffers = [source.alloc() for _ in range(Duel.MANY)]
        begins = [buffer.address for buffer in buffers]
        mine: list[Callable[[], object]] = [lambda buffer=buffer: buffer.address for buffer in buffers]  # type: ignore[misc]
        theirs: list[Callable[[], object]] = [lambda buffer=buffer: source.free(buffer) for buffer in buffers]  # type: ignore[misc]
        for begin, (said, freed) in zip(begins, duel.many(mine, theirs), strict=True):
            raise_faults([freed])
            check(said == begin or isinstance(said, UseAfterFree), "an address of", repr(said))

    return play


class Named:
    """What a waiter, or a slot, is to a ticket, or to the figures of a pool."""

    mapping = None
    at = 0

    def __init__(self, number: int) -> None:
        self.number = number


def looked_at(look: Callable[[], object], times: int = 20) -> None:
    """Look so often; what is found is a Named one, or nothing, and whole."""
    for _ in range(times):
        found = look()
        check(found is None or (type(found) is Named and found.number >= 0), "found:", type(found))


def duel_of_owners() -> Callable[[Duel], None]:
    """One tells who waits, while the other forgets it, and that was the last that there was of it."""
    numbers = itertools.count()

    def play(duel: Duel) -> None:
        tickets = [new_ticket(1) for _ in range(Duel.MANY)]
        for ticket in tickets:
            ticket.set_waiter(int, Named(next(numbers)), 0)  # before anybody sees it, as who joins a line does
        theirs: list[Callable[[], object]] = [lambda one=one: looked_at(lambda: one.owner, 3) for one in tickets]  # type: ignore[misc]
        for outcomes in duel.many([ticket.forget_owner for ticket in tickets], theirs):
            raise_faults([*outcomes])

    return play


def duel_of_slots() -> Callable[[Duel], None]:
    """One asks where the figures are mirrored, while the other mirrors them elsewhere."""
    pool, numbers = Pool(Objects(Thing), 1, name="slots"), itertools.count()
    core = pool._engine.core

    def move() -> None:
        for _ in range(10):
            core.mirror_to(Named(next(numbers)))
            core.mirror_to(None)

    def play(duel: Duel) -> None:
        raise_faults([*duel.both(move, lambda: looked_at(core.slot))])

    return play


def limited() -> Callable[[], None]:
    """No more than so many exist, whoever asks."""

    def play() -> None:
        source = shared(Limited(Objects(Thing), elements_max=200))

        def take() -> int:
            taken = 0
            while True:
                try:
                    source.alloc()
                except MemoryError:
                    return taken
                taken += 1

        outcomes = together(*[take] * 6)
        raise_faults(outcomes)
        check(sum(outcomes) == 200 == source.existing, sum(outcomes), "of 200 exist, and", source.existing, "are said to")

    return play


def memory(size: int) -> Callable[[float], int]:
    """Regions of shared blocks, without a pool."""

    def scene(seconds: float) -> int:
        source, calls, until = shared(Memory(size)), [0], [0.0]

        def begin() -> None:
            until[0] = time.monotonic() + seconds

        def work() -> None:
            done, number = 0, threading.get_ident().to_bytes(8, "little")
            while not done or time.monotonic() < until[0]:
                regions = [source.take() for _ in range(20)]
                for region in regions:
                    region.view[:8] = number
                for region in regions:
                    check(bytes(region.view[:8]) == number, "a region is in two hands")
                    source.give(region)
                done += 20
            calls.append(done)

        raise_faults(together(*[work] * 4, patience=seconds + PATIENCE, begin=begin))
        check(not source._open, "blocks are left open:", len(source._open))
        return sum(calls)

    return scene


def forks(seconds: float) -> int:
    """Children, forked at any moment of a load, use the pool."""
    pool: Any = Pool(Objects(Thing), 4, limit=32, name="forks")
    run, children = Load(pool, seconds), 0
    run.begin()
    with ThreadPoolExecutor(4) as executor:
        load = [executor.submit(run.thread) for _ in range(4)]
        while not children or run.is_on():
            child = os.fork()
            if child == 0:
                try:
                    pool.write_off_all()
                    for _ in range(10):
                        pool.free(pool.alloc(timeout=10))
                    pool.resize(reserve=5)
                    os._exit(0)
                except BaseException:  # noqa: BLE001 - told, and the end of the child
                    traceback.print_exc()
                finally:
                    os._exit(1)
            children += 1
            until = time.monotonic() + PATIENCE
            while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
                if time.monotonic() > until:
                    os.kill(child, 9)
                    os.waitpid(child, 0)
                    raise Fault(f"child {children} hangs")
                time.sleep(0.001)
            check(done[1] == 0, "child", children, "ended with", done[1])
        for one in load:
            one.result()
    return children


def scenes() -> Iterator[tuple[str, Callable[[float], int]]]:
    """Each by its name."""
    kinds: list[tuple[str, Callable[[], Any]]] = [("objects", lambda: Objects(Thing))]
    kinds += [(f"{size}", lambda size=size: Buffers(size)) for size in (64, 4096, 65536, 1 << 20)]  # type: ignore[misc]
    for track in ("identity", "nothing", HOLDERS):
        for name, kind in kinds:
            for limit in (None, 8):
                yield f"load-{name}-{track}-{limit or 'no-limit'}", load(kind, track, limit)
        for name, kind in kinds[:3:2]:
            if name != "objects" or track != "nothing":  # of which nobody can tell
                yield f"frees-{name}-{track}", rounds(frees(kind, track))
            yield f"releases-{name}-{track}", rounds(releases(kind, track))
        yield f"lingering-{track}", rounds(lingering(track))
    yield "views", rounds(views)
    yield "views-against-free", rounds(views_against_free)
    for track in ("identity", "nothing"):
        yield f"duel-of-frees-{track}", duels(duel_of_frees(False, track))
        yield f"duel-of-frees-lingering-{track}", duels(duel_of_frees(True, track))
    yield "duel-of-addresses", duels(duel_of_addresses)
    yield "duel-of-owners", duels(duel_of_owners)
    if IMPLEMENTATION == "compiled":  # else a page is needed
        yield "duel-of-slots", duels(duel_of_slots)
    yield "limited", rounds(limited)
    yield "memory-64", memory(64)
    yield "memory-4096", memory(4096)
    if hasattr(os, "fork"):
        yield "forks", forks


def main(arguments: list[str]) -> int:
    """Play all scenes, or those whose names begin with one of these words. Returns how many failed."""
    seconds = float(arguments[0]) if arguments else 600.0
    chosen = [(name, scene) for name, scene in scenes() if not arguments[1:] or name.startswith(tuple(arguments[1:]))]
    if not chosen:
        print(f"no scene is called {' or '.join(arguments[1:])}")
        return 1
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"{sys.version.split()[0]}, {'with' if has_gil else 'without'} the GIL; {len(chosen)} scenes", flush=True)
    failed = 0
    for name, scene in chosen:
        try:
            played = scene(seconds / len(chosen))
            print(f"{name}: {played}", flush=True)
            check(played > 0, "it was not played")
        except BaseException as fault:
            failed += 1
            print(f"{name}: FAILED: {type(fault).__name__}: {fault}", flush=True)
            if not isinstance(fault, (Fault, Exception)):
                raise
    print(f"{len(chosen) - failed} passed, {failed} failed", flush=True)
    return failed


if __name__ == "__main__":
    failures = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(failures != 0)  # a thread that hangs shall not keep this from ending
