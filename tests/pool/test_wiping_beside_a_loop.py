"""With offload=True an event loop goes on while a source checks what goes out and resets what is returned."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import trio

from mempool import Buffers, Pool, PoolClosed
from mempool.local import offloading
from mempool.testing import assert_books, wait_until

SOON = 60  # seconds that a test waits in vain before it fails
Until = Callable[[Callable[[], bool]], Awaitable[None]]
Main = Callable[[Until], Awaitable[None]]


async def until(condition: Callable[[], bool]) -> None:
    """The same as wait_until, for a task: it goes on only while its loop does."""
    async with asyncio.timeout(SOON):
        while not condition():  # noqa: ASYNC110 - the state of a pool
            await asyncio.sleep(0.001)


def run_in_asyncio(main: Main) -> None:
    asyncio.run(main(until))  # type: ignore[arg-type]


def run_in_trio(main: Main) -> None:
    async def until_trio(condition: Callable[[], bool]) -> None:
        with trio.fail_after(SOON):
            while not condition():  # noqa: ASYNC110 - the state of a pool
                await trio.sleep(0.001)

    trio.run(main, until_trio)


class Wiped:
    """Its check and its reset last until they may go on. `raises`: which of them do that, and what."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.inside: list[str] = []
        self.calls: list[tuple[str, bool]] = []  # which, and whether it was in the thread of the loop
        self.raises: dict[str, BaseException] = {}
        self.existing: list[bytearray] = []

    def alloc(self) -> bytearray:
        self.existing.append(bytearray(b"pattern"))
        return self.existing[-1]

    def free(self, element: bytearray) -> None:
        self.existing = [other for other in self.existing if other is not element]

    def check(self, element: bytearray) -> None:
        self._work("check")
        assert element == b"pattern"
        element[:] = b"zeros"

    def reset(self, element: bytearray) -> None:
        self._work("reset")
        element[:] = b"pattern"

    def _work(self, what: str) -> None:
        self.calls.append((what, threading.current_thread() is threading.main_thread()))
        self.inside.append(what)
        try:
            assert self.gate.wait(SOON), "nobody let it go on"
        finally:
            self.inside.remove(what)
        if what in self.raises:
            raise self.raises[what]

    def called(self, what: str) -> list[bool]:
        return [is_loops for name, is_loops in self.calls if name == what]


@pytest.fixture(name="source")
def _source() -> Iterator[Wiped]:
    source = Wiped()
    yield source
    source.gate.set()


def assert_all_is_back(pool: Pool[Any], source: Wiped, spare: int) -> None:
    pool._engine.finish()
    assert_books(pool, spare=spare)
    assert len(source.existing) == spare
    assert all(element == b"pattern" for element in source.existing)


# -- the check


async def alloc_one(pool: Pool[Any]) -> list[Any]:
    return [await pool.alloc_async()]


async def alloc_two(pool: Pool[Any]) -> list[Any]:
    return await pool.alloc_many_async(2)


async def lease_one(pool: Pool[Any]) -> list[Any]:
    async with pool.lease() as element:
        assert element == b"zeros"
    return []


async def hold_a_lease(pool: Pool[Any]) -> list[Any]:
    lease = await pool.lease()
    assert lease.element == b"zeros"
    lease.release()
    return []


async def lease_two(pool: Pool[Any]) -> list[Any]:
    async with pool.lease_many(2) as elements:
        assert elements == [b"zeros", b"zeros"]
    return []


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("run", [run_in_asyncio, run_in_trio])
@pytest.mark.parametrize("take", [alloc_one, alloc_two, lease_one, hold_a_lease, lease_two])
def test_a_loop_goes_on_while_what_goes_out_is_checked(
    run: Callable[[Main], None], take: Callable[[Pool[Any]], Awaitable[list[Any]]], warm: bool, source: Wiped
) -> None:
    """Whether it comes from the source or is a spare: a thread checks it, it counts as out, and the task has it then."""

    async def main(until: Until) -> None:
        pool = Pool(source, 2 if warm else 0, keep=4, offload=True)
        source.gate.clear()
        taken: list[list[Any]] = []

        async def use() -> None:
            taken.append(await take(pool))

        async def look() -> None:
            await until(lambda: source.inside == ["check"])
            assert (pool.stats().out > 0, taken) == (True, [])
            source.gate.set()

        if run is run_in_asyncio:
            await asyncio.gather(use(), look())
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(use)
                nursery.start_soon(look)
        assert all(element == b"zeros" for element in taken[0])
        pool.free_many(taken[0])
        made = pool.stats().made
        await until(lambda: pool.stats().spare == made)
        assert_all_is_back(pool, source, made)
        assert not any(is_loops for _, is_loops in source.calls)
        pool.close()

    run(main)


def test_what_a_task_that_was_cancelled_had_checked_is_reset_and_serves_the_next(source: Wiped) -> None:
    """The thread has it until the check is over, and resets it then; whoever stands in the line gets it, checked again."""

    async def main() -> None:
        pool = Pool(source, 1, limit=1, offload=True)
        source.gate.clear()
        gone = asyncio.create_task(pool.alloc_async())
        await until(lambda: source.inside == ["check"])
        second = asyncio.create_task(pool.alloc_async())
        await until(lambda: pool.stats().waiting == 1)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (pool.stats().out, pool.stats().spare) == (1, 0)
        source.gate.set()
        pool.free(await second)
        await until(lambda: pool.stats().spare == 1)
        assert_all_is_back(pool, source, 1)
        assert source.calls == [("check", False), ("reset", False)] * 2
        pool.close()

    asyncio.run(main())


def test_a_task_that_is_cancelled_when_its_check_is_over_leaves_the_reset_to_a_thread(source: Wiped) -> None:
    async def main() -> None:
        pool = Pool(source, 1, limit=1, offload=True)
        gone = asyncio.create_task(pool.alloc_async())
        await until(lambda: bool(source.calls))
        # From here on the loop stands still, until the thread has ended: the task has not heard of it yet.
        wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "mempool errand"], SOON)
        was_done = gone.done()
        source.gate.clear()
        gone.cancel()
        if was_done:
            pool.free(gone.result())
        else:
            with pytest.raises(asyncio.CancelledError):
                await gone
        await until(lambda: source.inside == ["reset"])
        assert (pool.stats().out, pool.stats().spare) == (1, 0)
        source.gate.set()
        assert_all_is_back(pool, source, 1)
        assert source.called("reset") == [False]
        pool.close()

    asyncio.run(main())


def test_what_a_check_found_spoilt_is_disposed_of_and_its_task_is_told(source: Wiped) -> None:
    async def main() -> None:
        pool = Pool(source, 1, limit=1, offload=True)
        source.raises["check"] = LookupError("spoilt")
        with pytest.raises(LookupError, match="spoilt"):
            await pool.alloc_async()
        assert (pool.stats().disposed, source.called("check"), source.called("reset")) == (1, [False], [])
        assert_all_is_back(pool, source, 0)
        pool.close()

    asyncio.run(main())


def test_a_check_that_lacks_memory_says_nothing_about_its_element(source: Wiped) -> None:
    """It is reset, by the thread, and stays."""

    async def main() -> None:
        pool = Pool(source, 1, limit=1, offload=True)
        source.raises["check"] = MemoryError("no room to look")
        with pytest.raises(MemoryError, match="no room to look"):
            await pool.alloc_async()
        assert source.calls == [("check", False), ("reset", False)]
        assert_all_is_back(pool, source, 1)
        pool.close()

    asyncio.run(main())


def test_what_is_checked_for_a_loop_that_is_closed_is_returned(source: Wiped) -> None:
    pool = Pool(source, 1, limit=1, offload=True)
    loop = asyncio.new_event_loop()
    source.gate.clear()
    task = loop.create_task(pool.alloc_async())
    loop.run_until_complete(until(lambda: source.inside == ["check"]))
    loop.close()
    source.gate.set()
    wait_until(lambda: pool.stats().spare == 1, SOON)
    assert_all_is_back(pool, source, 1)
    assert not task.done()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # of asyncio: as is meant
    del task
    gc.collect()
    assert_all_is_back(pool, source, 1)
    pool.close()


@pytest.mark.parametrize("has_begun", [False, True])
def test_an_interrupt_at_the_start_of_the_thread_loses_nothing(
    has_begun: bool, source: Wiped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there is one, or after: either the thread has the element or the task has, and never both."""

    class Interrupted(threading.Thread):
        def start(self) -> None:
            if has_begun:
                super().start()
            raise KeyboardInterrupt

    pool = Pool(source, 1, limit=1, offload=True)

    async def main() -> None:
        try:
            await pool.alloc_async()
        except KeyboardInterrupt:
            return
        raise AssertionError("not interrupted")

    monkeypatch.setattr(threading, "Thread", Interrupted)
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
    monkeypatch.undo()
    wait_until(lambda: pool.stats().spare == 1, SOON)
    assert_all_is_back(pool, source, 1)
    pool.close()


def test_without_a_thread_the_task_checks_itself(source: Wiped, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    def refuse(*_arguments: object) -> int:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        pool = Pool(source, 1, limit=1, offload=True)
        monkeypatch.setattr(threading, "Thread", Refused)
        monkeypatch.setattr(offloading, "start_new_thread", refuse)
        pool.free(await pool.alloc_async())
        assert source.calls == [("check", True), ("reset", True)]
        assert_all_is_back(pool, source, 1)
        pool.close()

    asyncio.run(main())


# -- the reset


async def free(pool: Pool[Any]) -> None:
    pool.free(await pool.alloc_async())


async def free_two(pool: Pool[Any]) -> None:
    assert pool.free_many(await pool.alloc_many_async(2)) == 2


async def end_a_lease(pool: Pool[Any]) -> None:
    async with pool.lease():
        pass


async def end_leases(pool: Pool[Any]) -> None:
    async with pool.lease_many(2):
        pass


async def drop_a_lease(pool: Pool[Any]) -> None:
    lease = await pool.lease()
    del lease
    gc.collect()


class Resetting(Wiped):
    """Without a check."""

    check = None  # type: ignore[assignment]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of a lease that is dropped
@pytest.mark.parametrize("run", [run_in_asyncio, run_in_trio])
@pytest.mark.parametrize("use", [free, free_two, end_a_lease, end_leases, drop_a_lease])
def test_a_loop_goes_on_while_what_is_returned_is_reset(
    run: Callable[[Main], None], use: Callable[[Pool[Any]], Awaitable[None]]
) -> None:
    """The call returns at once. What a thread resets is out until then: owed, and no spare; `why_empty` tells of it."""
    source = Resetting()

    async def main(until: Until) -> None:
        pool = Pool(source, 2, limit=2, offload=True)
        source.gate.clear()
        await use(pool)
        await until(lambda: source.inside == ["reset"])
        out = pool.stats().out
        assert (out + pool.stats().spare, pool.stats().disposing) == (2, 0)
        assert pool.guarantee().held
        assert f"a thread resets {out} that were freed" in pool.why_empty()
        source.gate.set()
        await until(lambda: pool.stats().spare == 2)
        assert_all_is_back(pool, source, 2)
        assert not any(source.called("reset"))
        assert "a thread resets" not in pool.why_empty()
        pool.close()

    run(main)


def test_who_waits_is_served_with_what_a_thread_has_reset() -> None:
    source = Resetting()

    async def main() -> None:
        pool = Pool(source, 1, limit=1, offload=True)
        element = await pool.alloc_async()
        waiting = asyncio.create_task(pool.alloc_async())
        await until(lambda: pool.stats().waiting == 1)
        source.gate.clear()
        pool.free(element)
        await until(lambda: source.inside == ["reset"])
        assert not waiting.done()
        source.gate.set()
        assert await waiting is element
        pool.free(element)
        assert_all_is_back(pool, source, 1)
        pool.close()

    asyncio.run(main())


def test_what_a_thread_cannot_reset_is_logged_and_disposed_of(caplog: pytest.LogCaptureFixture) -> None:
    source = Resetting()

    async def main() -> None:
        pool = Pool(source, 1, keep=4, name="noted", offload=True)
        elements = await pool.alloc_many_async(2)
        source.raises["reset"] = RuntimeError("cannot be wiped")
        pool.free_many(elements)
        await until(lambda: pool.stats().disposed == 2)
        assert_all_is_back(pool, source, pool.stats().spare)
        pool.close()

    with caplog.at_level(logging.ERROR, logger="mempool"):
        asyncio.run(main())
    assert [record.getMessage()[: len("pool 'noted'")] for record in caplog.records] == ["pool 'noted'"]
    assert "cannot be wiped" in str(caplog.records[0].exc_info)


def test_a_reset_that_lacked_memory_once_is_done_again_by_the_thread() -> None:
    source = Resetting()
    lacks = iter([True])

    def reset(element: bytearray) -> None:
        Resetting.reset(source, element)
        if next(lacks, False):
            raise MemoryError

    source.reset = reset  # type: ignore[method-assign]

    async def main() -> None:
        pool = Pool(source, 1, limit=1, offload=True)
        pool.free(await pool.alloc_async())
        await until(lambda: pool.stats().spare == 1)
        assert source.called("reset") == [False, False]
        assert_all_is_back(pool, source, 1)
        pool.close()

    asyncio.run(main())


def test_a_thread_without_a_loop_resets_itself(source: Wiped) -> None:
    """And has what that raises; also in a pool that offloads."""
    pool = Pool(source, 1, limit=1, offload=True)
    element = pool.alloc()
    source.raises["reset"] = RuntimeError("cannot be wiped")
    with pytest.raises(RuntimeError, match="cannot be wiped"):
        pool.free(element)
    assert source.calls == [("check", True), ("reset", True)]
    pool.close()


def test_closing_leaves_what_a_thread_is_at_to_the_thread(source: Wiped) -> None:
    """It is out until then, and disposed of after; a task whose element is being checked has it, to free it."""

    async def main() -> None:
        pool = Pool(source, 2, limit=2, offload=True)
        element = await pool.alloc_async()
        source.gate.clear()
        checked = asyncio.create_task(pool.alloc_async())
        pool.free(element)
        await until(lambda: sorted(source.inside) == ["check", "reset"])
        assert pool.close() == 2
        source.gate.set()
        with suppress(PoolClosed):
            pool.free(await checked)
        await until(lambda: pool.stats().disposed == 2)
        assert_all_is_back(pool, source, 0)

    asyncio.run(main())


def test_the_end_of_a_pool_in_a_task_awaits_what_is_reset() -> None:
    source = Resetting()

    async def main() -> None:
        async with Pool(source, 1, limit=1, offload=True) as pool:
            element = await pool.alloc_async()
            source.gate.clear()
            pool.free(element)
            await until(lambda: source.inside == ["reset"])
            asyncio.get_running_loop().call_soon(source.gate.set)  # which a loop that stands still never does
        assert (pool.stats().out, pool.stats().disposed, source.existing) == (0, 1, [])

    asyncio.run(main())


def test_what_a_view_kept_is_reset_by_a_thread_when_the_view_ends() -> None:
    """It lingers as long as somebody looks, and no longer."""
    source = SlowBuffers(4096, zero="free")

    async def main() -> None:
        pool = Pool(source, 1, limit=1, offload=True)
        buffer = await pool.alloc_async()
        view = buffer[:3]
        view[:] = b"abc"
        pool.free(buffer, linger=True)
        assert (pool.stats().lingering, pool.stats().out) == (1, 1)
        source.is_open = False
        del view
        await until(lambda: source.inside == 1)
        assert (pool.stats().lingering, pool.stats().out, pool.stats().spare) == (0, 1, 0)
        source.is_open = True
        await until(lambda: pool.stats().spare == 1)
        buffer = await pool.alloc_async()
        assert bytes(buffer[:3]) == b"\0\0\0"
        pool.free(buffer)
        pool._engine.finish()
        assert_books(pool, spare=1)
        pool.close()

    asyncio.run(main())


# -- buffers


class SlowBuffers(Buffers):
    """Its wipes last until they may go on. (No lock: whoever forks may have the state of one that is held.)"""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.is_open = True
        self.inside = 0
        self.in_main = 0  # how many were made in the thread of the loop
        super().__init__(*arguments, **options)

    def _wipe(self, element: Any) -> None:
        self._wait()
        super()._wipe(element)

    def _inspect(self, element: Any) -> None:
        self._wait()
        super()._inspect(element)

    def _wait(self) -> None:
        self.inside += 1
        self.in_main += threading.current_thread() is threading.main_thread()
        wait_until(lambda: self.is_open, SOON)
        self.inside -= 1


@pytest.mark.parametrize(
    "options", [{"zero": "alloc"}, {"zero": "free"}, {"poison": True}, {"zero": "alloc", "poison": True}]
)
def test_a_loop_goes_on_while_buffers_are_wiped(options: dict[str, Any]) -> None:
    """Whichever way: when it is handed out, when it is returned, or both; and what comes out is what was asked for."""
    source = SlowBuffers(1 << 16, **options)

    async def main() -> None:
        pool = Pool(source, 0, keep=1, limit=1, offload=True)
        for _ in range(3):
            source.is_open = False
            taking = asyncio.create_task(pool.alloc_async())
            await until(lambda: source.inside == 1 or pool.stats().out == 1)  # the latter: where nothing is looked at
            source.is_open = True
            buffer = await taking
            if "zero" in options:
                assert bytes(buffer) == bytes(1 << 16)
            buffer[0] = buffer[-1] = 7
            source.is_open = False
            pool.free(buffer)
            await until(lambda: source.inside == 1 or pool.stats().spare == 1)
            assert not buffer.is_alive()
            source.is_open = True
            await until(lambda: pool.stats().spare == 1)
        assert source.in_main == 0
        pool._engine.finish()
        assert_books(pool, spare=1)
        pool.close()

    asyncio.run(main())


# -- a fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_of_a_fork_resets_what_the_thread_had_not_begun() -> None:
    """What the thread was at stays out in the child, until it is written off there; the parent's goes on."""
    source = SlowBuffers(4096, zero="free")
    pool = Pool(source, 2, limit=2, offload=True)

    async def give_both() -> None:
        first, second = await pool.alloc_many_async(2)
        source.is_open = False
        pool.free(first)
        await until(lambda: source.inside == 1)
        pool.free(second)

    asyncio.run(give_both())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            source.is_open = True
            wait_until(lambda: pool.stats().spare == 1, SOON)
            assert (pool.stats().out, pool.write_off_all()) == (1, 1)
            pool.refill()
            both = pool.alloc_many(2, timeout=SOON)
            pool.free_many(both)
            assert (pool.stats().out, pool.stats().spare) == (0, 2)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (pool.stats().out, pool.stats().spare) == (2, 0)
    source.is_open = True
    wait_until(lambda: pool.stats().spare == 2, SOON)
    pool._engine.finish()
    assert_books(pool, spare=2)
    pool.close()
