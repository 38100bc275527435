"""os.fork, at whatever moment: the child has a working pool of its own, and the parent notices nothing."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from books import assert_at_rest
from children import in_child, run

from mempool import Objects, Pool, PoolClosed, PoolTimeout
from mempool.testing import ScriptedSource, Step, wait_until, wait_until_async

works, fails, raises, slow = Step
SOON = 60  # seconds

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),  # 3.12 and newer: that is what we are about
]


class Crowd:
    """Threads that stand in the line of a pool whose elements are all out."""

    def __init__(self, pool: Pool[Any], threads: int) -> None:
        self.pool = pool
        self.served: list[object] = []
        self.threads = [threading.Thread(target=self._call) for _ in range(threads)]
        for thread in self.threads:
            thread.start()
        wait_until(lambda: pool.stats().waiting == threads)

    def _call(self) -> None:
        element = self.pool.alloc()
        self.served.append(element)
        self.pool.free(element)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(SOON)
        assert not any(thread.is_alive() for thread in self.threads)
        assert len(self.served) == len(self.threads)


@pytest.mark.parametrize("track", ["identity", "nothing", "holders"])
def test_the_childs_line_is_empty_and_the_parents_is_not(track: str) -> None:
    """Threads in the line do not live in the child: it has their places not, and serves its own callers at once."""
    pool = Pool(Objects(bytearray), 2, limit=2, track=track)
    mine = pool.alloc_many(2)
    crowd = Crowd(pool, 3)

    def check() -> None:
        assert pool.stats().waiting == 0
        assert pool.stats().out == 2
        for element in mine:
            pool.free(element)
        assert_at_rest(pool)
        pool.resize(reserve=1)
        assert pool.stats().spare == 2
        with pool.lease():
            pass

    assert in_child(check) == ""
    assert pool.stats().waiting == 3
    pool.free_many(mine)
    crowd.join()
    assert_at_rest(pool)


def test_elements_of_other_threads_stay_out_in_the_child() -> None:
    """What another thread holds at the fork nobody in the child will free: it stays out there, and counts as existing."""
    pool = Pool(Objects(bytearray), 2, limit=2)
    ends, holds = threading.Event(), threading.Event()

    def hold() -> None:
        with pool.lease():
            holds.set()
            ends.wait(SOON)

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(SOON)

    def check() -> None:
        stats = pool.stats()
        assert (stats.out, stats.spare, stats.made, stats.disposed) == (1, 1, 2, 0)
        element = pool.alloc(timeout=0)
        with pytest.raises(PoolTimeout):
            pool.alloc(timeout=0)
        pool.free(element)
        assert pool.close() == 1

    assert in_child(check) == ""
    ends.set()
    holder.join(SOON)
    assert_at_rest(pool)


def test_what_another_thread_was_about_to_make_is_not_awaited_in_the_child() -> None:
    """A fork in the middle of another thread's call of the source: the child has that room under the limit to itself."""
    source = ScriptedSource(works, fails, slow)
    pool = Pool(source, 1, limit=2)
    first = pool.alloc()
    maker = threading.Thread(target=lambda: pool.free(pool.alloc()))
    maker.start()
    source.wait_until_held()

    def check() -> None:
        assert pool.core.snapshot()["permits"] == 0
        second = pool.alloc(timeout=0)
        assert pool.stats().made == 2
        pool.free_many([first, second])
        assert_at_rest(pool)

    problem = in_child(check)
    source.open()
    maker.join(SOON)
    assert problem == ""
    pool.free(first)
    assert_at_rest(pool)


def test_what_another_thread_was_about_to_dispose_of_is_gone_in_the_child() -> None:
    """A fork in the middle of another thread's call of the source's free: the child counts the element as disposed of."""
    source = ScriptedSource()
    pool = Pool(source, 1, limit=2, keep=1)
    elements = pool.alloc_many(2)
    pool.free(elements[0])
    source.then_free(slow)
    disposer = threading.Thread(target=pool.free, args=(elements[1],))
    disposer.start()
    source.wait_until_held()

    def check() -> None:
        stats = pool.stats()
        assert (stats.made, stats.disposed, stats.disposing, stats.spare) == (2, 1, 0, 1)
        pool.free_many(pool.alloc_many(2, timeout=0))
        assert_at_rest(pool)

    problem = in_child(check)
    source.open()
    disposer.join(SOON)
    assert problem == ""
    assert_at_rest(pool)


def test_a_fork_by_a_source_that_makes_an_element() -> None:
    """The source itself forks, and both processes come back from its alloc: each has made the element."""
    pids: list[int] = []
    source = ScriptedSource(works, lambda: pids.append(os.fork()))
    pool = Pool(source, 1, limit=2, keep=2)
    elements = [pool.alloc(), pool.alloc()]
    assert _whole_in_both(pids[0], lambda: pool.free_many(elements) and assert_at_rest(pool))


def test_a_fork_by_a_source_that_disposes_of_an_element() -> None:
    """The source itself forks, and both processes come back from its free: each has disposed of the element once."""
    pids: list[int] = []
    source = ScriptedSource()
    source.then_free(lambda: pids.append(os.fork()))
    pool = Pool(source, 1, limit=2, keep=1)
    pool.free_many(pool.alloc_many(2))
    assert _whole_in_both(pids[0], lambda: assert_at_rest(pool))


def _whole_in_both(pid: int, check: Callable[[], object]) -> bool:
    """Check in the child, if this is it, and end it; else check in the parent, and tell how the child ended."""
    if pid == 0:
        try:
            check()
        except BaseException:  # noqa: BLE001 - the status tells it
            os._exit(1)
        os._exit(0)
    check()
    return os.waitpid(pid, 0)[1] == 0


def test_a_fork_inside_a_lease_leaves_two_leases() -> None:
    """The forking thread's own elements are the child's, too: each process returns its copy."""
    pool = Pool(Objects(bytearray), 1, limit=1)
    lease = pool.lease()
    lease.element.extend(b"parent")

    def check() -> None:
        lease.element[:] = b"child"
        lease.release()
        assert_at_rest(pool)

    assert in_child(check) == ""
    assert lease.element == b"parent"
    lease.release()
    assert_at_rest(pool)


def test_the_childs_threads_stand_in_a_line_of_their_own() -> None:
    """New threads of the child wait and are served there, as in any process."""
    pool = Pool(Objects(bytearray), 1, limit=1)
    mine = pool.alloc()
    crowd = Crowd(pool, 2)

    def check() -> None:
        childs = Crowd(pool, 4)
        pool.free(mine)
        childs.join()
        assert_at_rest(pool)

    assert in_child(check) == ""
    pool.free(mine)
    crowd.join()


def test_a_loop_of_the_child_uses_the_pool() -> None:
    """A task in a loop that the child begins waits in its line and is served there."""
    pool = Pool(Objects(bytearray), 1, limit=1)
    mine = pool.alloc()
    crowd = Crowd(pool, 2)

    def check() -> None:
        async def main() -> None:
            task = asyncio.ensure_future(pool.alloc_async(timeout=SOON))
            await wait_until_async(lambda: pool.stats().waiting)
            pool.free(mine)
            pool.free(await task)

        asyncio.run(main())
        assert_at_rest(pool)

    assert in_child(check) == ""
    pool.free(mine)
    crowd.join()


def test_a_drain_of_another_thread_is_not_the_childs() -> None:
    """A thread that drains in the parent is not told of what is returned in the child; the parent's is."""
    pool = Pool(Objects(bytearray), 1, limit=1)
    mine = pool.alloc()
    drainer = threading.Thread(target=pool.drain)
    drainer.start()
    wait_until(lambda: drainer.is_alive() and pool.core.snapshot()["out"] == 1)

    def check() -> None:
        pool.free(mine)
        pool.drain(timeout=SOON)
        assert_at_rest(pool)

    assert in_child(check) == ""
    assert drainer.is_alive()
    pool.free(mine)
    drainer.join(SOON)
    assert not drainer.is_alive()


@pytest.mark.parametrize("how", ["resize", "refill"])
def test_a_fill_of_another_thread_has_ended_in_the_child(how: str) -> None:
    """Nobody makes there what it was making: it is unfunded until a refill. In the parent the fill goes on."""
    source = ScriptedSource()
    pool = Pool(source, 0)
    if how == "refill":
        source.then(fails)
        pool.resize(3)
    source.then(works, slow)
    filling = threading.Thread(target=lambda: pool.resize(3) if how == "resize" else pool.refill())
    filling.start()
    source.wait_until_held()

    def check() -> None:
        told = pool.guarantee()
        assert (told.spare, told.filling, told.unfunded) == (1, 0, 2)
        assert pool.refill().held
        assert pool.core.snapshot()["fills"] == 0

    assert in_child(check) == ""
    assert (pool.guarantee().filling, pool.guarantee().unfunded) == (2, 0)
    source.open()
    filling.join(SOON)
    assert pool.guarantee().held
    assert_at_rest(pool)


def test_a_fill_of_the_thread_that_forks_goes_on_in_the_child() -> None:
    """A source that forks: what the resize around it has still to make is being made there, too, and unfunded nowhere."""
    told: list[Any] = []

    def fork() -> None:
        def check() -> None:
            assert (pool.guarantee().filling, pool.guarantee().unfunded) == (3, 0)

        told.append(in_child(check))

    source = ScriptedSource()
    pool = Pool(source, 0)
    source.then(fork)
    pool.resize(3)
    assert told == [""]
    assert_at_rest(pool)


def test_forks_at_any_moment_of_busy_threads() -> None:
    """Threads take, give back and resize while the main thread forks: no child finds a lock that nobody will open."""
    pool = Pool(Objects(bytearray), 4, limit=8)
    ends = threading.Event()

    def busy(number: int) -> None:
        while not ends.is_set():
            with pool.lease():
                pool.resize(reserve=number)

    threads = [threading.Thread(target=busy, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()

    def check() -> None:
        snapshot = pool.core.snapshot()
        assert (snapshot["waiting"], snapshot["permits"], snapshot["filling"], snapshot["disposing"]) == (0, 0, 0, 0)
        stats = pool.stats()
        assert stats.made - stats.disposed == stats.spare + stats.out
        assert 0 <= stats.out <= 8
        pool.resize(reserve=0, limit=20)
        pool.free_many(pool.alloc_many(10, timeout=0))
        assert pool.close() == stats.out

    try:
        problems = [problem for problem in (in_child(check) for _ in range(12)) if problem]
    finally:
        ends.set()
        for thread in threads:
            thread.join(SOON)
    assert problems == []
    assert_at_rest(pool)


def _work(pool: Pool[bytearray], element: bytearray, says: Any) -> None:
    pool.free(element)
    with pool.lease() as another:
        another[:] = b"x"
    waiting = threading.Thread(target=lambda: pool.free(pool.alloc(timeout=SOON)))
    held = pool.alloc()
    waiting.start()
    wait_until(lambda: pool.stats().waiting == 1)
    pool.free(held)
    waiting.join(SOON)
    assert_at_rest(pool)
    says.put(os.getpid())


def test_multiprocessing_with_the_fork_start_method() -> None:
    """A Process that was forked takes, waits, gives back, and ends with status 0."""
    context = multiprocessing.get_context("fork")
    pool = Pool(Objects(bytearray), 1, limit=1)
    element = pool.alloc()
    crowd = Crowd(pool, 2)
    says = context.SimpleQueue()
    process = context.Process(target=_work, args=(pool, element, says))
    process.start()
    process.join(SOON)
    assert process.exitcode == 0
    assert says.get() == process.pid
    pool.free(element)
    crowd.join()
    assert_at_rest(pool)


def _wait_in_vain(pool: Pool[bytearray], says: Any) -> None:
    def call() -> None:
        with pytest.raises(PoolClosed):
            pool.alloc()
        says.put("told")

    threading.Thread(target=call).start()
    wait_until(lambda: pool.stats().waiting == 1)


def test_a_forked_process_ends_while_its_threads_wait() -> None:
    """The end of a multiprocessing child is one like the interpreter's: its threads in the line get PoolClosed."""
    context = multiprocessing.get_context("fork")
    pool = Pool(Objects(bytearray), 1, limit=1)
    element = pool.alloc()
    says = context.SimpleQueue()
    process = context.Process(target=_wait_in_vain, args=(pool, says))
    process.start()
    process.join(SOON)
    process.kill()
    process.join()
    assert process.exitcode == 0
    assert says.get() == "told"
    pool.free(element)
    assert_at_rest(pool)


PROGRAM = """
import os, signal, threading
from mempool import Objects, Pool, parking
from mempool.testing import wait_until

elements = [2]
def make():
    if not elements[0]:
        raise MemoryError
    elements[0] -= 1
    return bytearray(1)

child, struck = None, False
def fork(*_):
    global child, struck
    if struck:
        return
    struck = True
    child = os.fork()
    if child == 0:
        elements[0] += 1
        signal.alarm(8)  # ends it
signal.signal(signal.SIGUSR1, fork)

pool = Pool(Objects(make), 0, keep=2, limit=3, patience=None)
held = pool.alloc_many(2)
threading.Thread(target=pool.alloc, daemon=True).start()
wait_until(lambda: pool.stats().waiting == 1)
main = threading.get_ident()

# One signal is not enough: where it comes just before the thread sleeps, CPython runs no handler until the sleep has ended.
def has_forked():
    if not struck:
        signal.pthread_kill(main, signal.SIGUSR1)
    return child
"""


THE_NEXT_HEAD = """
def other():
    wait_until(lambda: pool.stats().waiting == 2)
    wait_until(has_forked)
    pool.free_many(held)
"""


SERVED_AND_ASLEEP = """
wake = parking.ThreadParker.wake
def fork_before(parker):
    if parker.thread == main and not struck:
        wait_until(has_forked)
    wake(parker)
parking.ThreadParker.wake = parking.ThreadParker.__call__ = fork_before  # a ticket calls the one or the other

def other():
    wait_until(lambda: pool.stats().waiting == 2)
    pool.free_many(held)
"""


END = """
threading.Thread(target=other, daemon=True).start()
pool.alloc()
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0, "the child's waiter sleeps"
"""


@pytest.mark.parametrize("story", [THE_NEXT_HEAD, SERVED_AND_ASLEEP], ids=["the next head", "served and asleep"])
def test_a_waiter_that_forks_in_a_signal_handler_is_served_in_the_child_too(story: str) -> None:
    code = PROGRAM + story + END
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_child_knows_nothing_of_a_resize_that_its_parents_thread_makes() -> None:
    source = ScriptedSource()
    pool = Pool(source, 1)
    source.then(Step.SLOW)
    growing = threading.Thread(target=pool.resize, args=(2,))
    growing.start()
    source.wait_until_held()
    child = os.fork()
    if child == 0:
        os._exit("is under way" in pool.why_empty())
    assert "is under way" in pool.why_empty()
    source.release()
    growing.join(SOON)
    assert os.waitpid(child, 0)[1] == 0


def test_a_fork_that_leaves_nothing_to_be_done_says_nothing() -> None:
    """What Python runs in the child cannot raise: Python would print it, and go on with the half of it."""
    said = run(
        """
        import os, sys
        from mempool import Objects, Pool

        sys.stderr = sys.stdout  # where Python tells what it ignores
        pools = [Pool(Objects(bytearray), 2) for _ in range(2)]
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        else:
            print([pool.alloc() for pool in pools], flush=True)
            os._exit(0)
        """
    )
    assert said == "[bytearray(b''), bytearray(b'')]\n"
