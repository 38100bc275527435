"""With offload=True an event loop goes on while a source disposes of surplus, or makes anew; and nothing is lost by it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from every_call import CALLS, in_a_task
from sweeps import PLACES, interrupted_everywhere

from mempool import IMPLEMENTATION, Objects, Pool
from mempool.local import offloading
from mempool.testing import ScriptedSource, Step, wait_until


async def until(condition: Callable[[], bool]) -> None:
    """The same as wait_until, for a task: it goes on only while its loop does."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the state of a pool
            await asyncio.sleep(0.001)


def run_in_asyncio(main: Callable[[Callable[[Callable[[], bool]], Awaitable[None]]], Awaitable[None]]) -> None:
    asyncio.run(main(until))  # type: ignore[arg-type]


def run_in_trio(main: Callable[[Callable[[Callable[[], bool]], Awaitable[None]]], Awaitable[None]]) -> None:
    async def until_trio(condition: Callable[[], bool]) -> None:
        with trio.fail_after(60):
            while not condition():  # noqa: ASYNC110 - the state of a pool
                await trio.sleep(0.001)

    trio.run(main, until_trio)


def is_exact(pool: Pool[Any], source: ScriptedSource[Any], being_freed: int = 0) -> bool:
    """Whether the state tell of every element that exists, and of no other."""
    s = pool.stats()
    return s.made - s.disposed == s.spare + s.out + s.disposing == len(source.existing) + being_freed


async def end_a_lease(pool: Pool[Any]) -> None:
    async with pool.lease():
        pass


async def free(pool: Pool[Any]) -> None:
    pool.free(await pool.alloc_async())


async def free_many(pool: Pool[Any]) -> None:
    pool.free_many(await pool.alloc_many_async(3))


async def discard(pool: Pool[Any]) -> None:
    pool.discard(await pool.alloc_async())


@pytest.mark.parametrize("run", [run_in_asyncio, run_in_trio])
@pytest.mark.parametrize("use", [end_a_lease, free, free_many, discard])
def test_a_loop_goes_on_while_surplus_is_disposed_of(run: Callable[[Any], None], use: Callable[[Any], Any]) -> None:
    """Every call returns while the source is still at it, and what it is at is counted as being disposed of."""

    async def main(until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        source: ScriptedSource[Any] = ScriptedSource()
        pool = Pool(source, 0, keep=0, offload=True)
        source.otherwise_free = Step.SLOW
        await use(pool)
        elements = pool.stats().made
        for freed in range(elements):
            await until(lambda: source.held == 1)
            s = pool.stats()
            assert (s.out, s.spare, s.disposing, s.disposed) == (0, 0, elements - freed, freed)
            source.release()
            await until(lambda freed=freed: pool.stats().disposed == freed + 1)  # type: ignore[misc]
        assert pool.stats().disposing == 0
        assert source.existing == []
        pool.close()

    run(main)


def test_a_loop_goes_on_while_what_a_cancelled_task_got_is_disposed_of() -> None:
    async def main() -> None:
        source: ScriptedSource[Any] = ScriptedSource()
        pool = Pool(source, 0, keep=0, limit=1, offload=True)
        element = await pool.alloc_async()
        task = asyncio.create_task(pool.alloc_async())
        await until(lambda: pool.stats().waiting == 1)
        source.otherwise_free = Step.SLOW
        pool.free(element)  # it is the task's, who is cancelled before he can look
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: source.held == 1)
        assert (pool.stats().out, pool.stats().disposing) == (0, 1)
        source.release()
        await until(lambda: pool.stats().disposed == 1)
        pool.close()

    asyncio.run(main())


@pytest.mark.parametrize("lose", ["discard", "write_off", "write_off_all"])
def test_a_loop_goes_on_while_what_was_lost_is_made_anew(lose: str) -> None:
    """The promise is owed meanwhile, as during a refill, and kept in the end."""

    async def main() -> None:
        source: ScriptedSource[Any] = ScriptedSource()
        pool = Pool(source, 2, offload=True)
        element = pool.alloc_reserved()
        source.then(Step.SLOW)
        getattr(pool, lose)(*([] if lose == "write_off_all" else [element]))
        await until(lambda: source.held == 1)
        told = pool.guarantee()
        assert (told.promised, told.spare, told.filling, told.unfunded, told.held) == (2, 1, 1, 0, True)
        source.release()
        await until(lambda: pool.stats().spare == 2)
        await until(lambda: pool.guarantee().filling == 0)
        pool.close()
        assert len(source.existing) == (0 if lose == "discard" else 1)

    asyncio.run(main())


class Mark:
    """Known to the contexts that were copied while it was set."""


CALLER: contextvars.ContextVar[Mark | None] = contextvars.ContextVar("CALLER", default=None)


@pytest.mark.parametrize("elements", [3, 300])  # beyond 256, equal numbers are different objects
def test_what_is_disposed_of_is_forgotten_however_many_it_was(elements: int) -> None:
    """With the context of the caller, and all that is known there."""

    async def main() -> None:
        source: ScriptedSource[Any] = ScriptedSource()
        pool = Pool(source, 0, keep=0, offload=True)
        mark = Mark()
        gone = weakref.ref(mark)
        CALLER.set(mark)
        pool.free_many(await pool.alloc_many_async(elements))
        CALLER.set(None)
        del mark
        await until(lambda: pool.stats().disposed == elements)
        await until(lambda: gone() is None)
        assert is_exact(pool, source)
        pool.close()

    asyncio.run(main())


def test_a_thread_without_a_loop_disposes_itself() -> None:
    """And has what the source raises; also in a pool that offloads."""
    source: ScriptedSource[Any] = ScriptedSource()
    pool = Pool(source, 0, keep=0, offload=True)
    source.then_free(Step.RAISES)
    with pytest.raises(RuntimeError, match="the script says so"):
        pool.free(pool.alloc())
    assert (pool.stats().out, pool.stats().disposing, pool.stats().disposed) == (0, 0, 1)
    pool.close()


def test_what_a_source_raises_in_the_thread_is_logged_and_the_rest_is_disposed_of(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        source: ScriptedSource[Any] = ScriptedSource()
        pool = Pool(source, 0, keep=0, name="noted", offload=True)
        elements = await pool.alloc_many_async(3)
        source.then_free(Step.WORKS, Step.RAISES)
        pool.free_many(elements)
        await until(lambda: pool.stats().disposed == 3)
        await until(lambda: bool(caplog.records))
        pool.close()

    with caplog.at_level(logging.ERROR, logger="mempool"):
        asyncio.run(main())
    assert [record.getMessage()[: len("pool 'noted'")] for record in caplog.records] == ["pool 'noted'"]
    assert "the script says so" in str(caplog.records[0].exc_info)


def test_the_end_of_a_task_is_the_end_of_all_disposals() -> None:
    """`async with pool` ends when what a thread was given to dispose of is gone; the loop goes on until then."""

    async def main() -> None:
        source: ScriptedSource[Any] = ScriptedSource()
        async with Pool(source, 0, keep=0, offload=True) as pool:
            source.then_free(Step.SLOW)
            pool.free_many(await pool.alloc_many_async(2))
            await until(lambda: source.held == 1)
            asyncio.get_running_loop().call_later(0.01, source.release)
        assert source.existing == []
        assert (pool.stats().disposing, pool.stats().disposed) == (0, 2)

    asyncio.run(main())


def test_close_tells_what_is_still_being_disposed_of() -> None:
    """It disposes of the spares itself, waits for no thread, and whatever is returned later goes the same way."""

    async def main() -> None:
        source: ScriptedSource[Any] = ScriptedSource()
        pool = Pool(source, 1, keep=1, offload=True)
        held, surplus = await pool.alloc_many_async(2)
        source.then_free(Step.SLOW)
        pool.free(surplus)
        await until(lambda: source.held == 1)
        assert pool.close() == 1
        assert (pool.stats().spare, pool.stats().out, pool.stats().disposing) == (0, 1, 1)
        pool.free(held)
        source.release()
        await until(lambda: pool.stats().disposed == 3)
        assert source.existing == []
        assert (pool.stats().out, pool.stats().disposing) == (0, 0)

    asyncio.run(main())


def test_nothing_is_lost_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call disposes itself then."""

    def refuse(*args: object) -> int:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        source: ScriptedSource[Any] = ScriptedSource()
        pool = Pool(source, 1, keep=1, offload=True)
        elements = await pool.alloc_many_async(3)
        monkeypatch.setattr(offloading, "start_new_thread", refuse)
        pool.free_many(elements)
        pool.discard(pool.alloc_reserved())
        assert (pool.stats().made, pool.stats().disposed, pool.stats().disposing, pool.stats().spare) == (5, 4, 0, 1)
        assert is_exact(pool, source)
        pool.close()
        assert source.existing == []

    asyncio.run(main())


def test_a_task_that_waits_for_room_has_the_work_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception kept a job from its thread, and none follows. The limit is reached: the task that waits has it done."""
    start = offloading.start_new_thread

    def interrupt(*args: object) -> int:
        monkeypatch.setattr(offloading, "start_new_thread", start)
        raise KeyboardInterrupt

    async def main() -> None:
        source: ScriptedSource[Any] = ScriptedSource()
        pool = Pool(source, 0, keep=0, limit=1, offload=True)
        element = await pool.alloc_async()
        monkeypatch.setattr(offloading, "start_new_thread", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.free(element)
        assert pool.stats().disposing == 1
        pool.free(await pool.alloc_async(timeout=60))
        await until(lambda: pool.stats().disposed == 2)
        pool.close()

    asyncio.run(main())


@pytest.mark.skipif(IMPLEMENTATION != "pure", reason="compiled code has no bytecodes")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a buffer whose free an interrupt cuts short is dropped
@pytest.mark.parametrize("name", [name for name in CALLS if name.endswith("_beside_a_loop")])
def test_an_interrupt_at_any_bytecode_of_a_hand_over_loses_nothing(name: str) -> None:
    """What was handed over is disposed of, or made, by whoever comes next; what was not is the caller's as before."""

    def sweep() -> None:
        strikes = 0
        for interrupter in interrupted_everywhere():
            scene = CALLS[name].scene()
            call = CALLS[name](scene)
            try:
                with interrupter:
                    call()
            except KeyboardInterrupt as interrupt:
                interrupt.__traceback__ = None  # keep no frames alive
                strikes += 1
            try:
                scene.end()
            except AssertionError as error:
                raise AssertionError(f"interrupted at {interrupter.struck_at}: {error}") from error
        assert strikes > min(10, PLACES - 1)

    in_a_task(sweep)


def test_many_loops_and_threads_give_surplus_at_once() -> None:
    """Each element is disposed of exactly once, and the state agree."""
    source: ScriptedSource[Any] = ScriptedSource()
    pool = Pool(source, 0, keep=1, offload=True)

    async def use(rounds: int) -> None:
        for _ in range(rounds):
            elements = await pool.alloc_many_async(3)
            await asyncio.sleep(0)
            pool.free_many(elements)

    threads = [threading.Thread(target=lambda: asyncio.run(use(100))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    wait_until(lambda: pool.stats().disposing == 0)
    assert is_exact(pool, source)
    pool.close()
    assert source.existing == []


LEAVING = """
import asyncio, hashlib, threading
from mempool import IMPLEMENTATION, Objects, Pool

gate = threading.Event()

def dispose(element):
    gate.wait()
    hashlib.sha256(bytes(20_000_000)).digest()  # a source that takes long
    print("disposed", flush=True)

async def main():
    pool = Pool(Objects(object, dispose), 0, keep=0, offload=True)
    pool.free_many(await pool.alloc_many_async(5))
    print("freed", flush=True)

asyncio.run(main())
gate.set()
"""


def test_the_interpreter_ends_when_all_is_disposed_of(tmp_path: Path) -> None:
    """Also where the pool was dropped before, and the loop is closed."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["freed"] + ["disposed"] * 5


HANGING = """
import asyncio, logging, threading
from mempool import Objects, Pool, lifecycle

logging.basicConfig(format="%(message)s")
lifecycle.END_PATIENCE = 0.05
begun = threading.Event()

def hang(element):
    begun.set()
    threading.Event().wait()

async def main():
    pool = Pool(Objects(object, hang), 0, keep=0, offload=True, name="hanging")
    pool.free_many(await pool.alloc_many_async(3))
    begun.wait()

asyncio.run(main())
"""


def test_the_interpreter_ends_although_a_source_hangs(tmp_path: Path) -> None:
    """What it waits for ends some time, or has got nothing done for a while: then it says what was left."""
    done = subprocess.run(
        [sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert done.returncode == 0
    assert done.stderr == (
        "pool 'hanging': the source has done nothing for 0.05 seconds in a thread that disposes of 3 elements; nobody waits "
        "any longer\n"
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_returns_although_the_thread_holds_a_lock_of_its_source() -> None:
    """The lock is held for ever in the child: a thread of its own waits for it, and the child goes on."""
    lock, held, go_on = threading.Lock(), threading.Event(), threading.Event()

    def dispose(_element: object) -> None:
        with lock:
            held.set()
            go_on.wait(60)

    async def main() -> None:
        pool: Pool[Any] = Pool(Objects(object, dispose), 0, keep=0, offload=True)
        pool.free_many(await pool.alloc_many_async(3))
        held.wait(60)
        child = os.fork()
        if child == 0:
            os._exit(0 if (pool.stats().disposing, pool.stats().disposed) == (0, 3) else 1)
        _, status = os.waitpid(child, 0)  # noqa: ASYNC222 - the loop stands still, which is no harm here
        go_on.set()
        assert os.waitstatus_to_exitcode(status) == 0
        await until(lambda: pool.stats().disposed == 3)
        pool.close()

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_of_a_fork_disposes_of_its_own_and_goes_on() -> None:
    """What the parent's thread had not begun, the child frees too, as it has a copy; and its loop has a thread again."""
    source: ScriptedSource[Any] = ScriptedSource()
    pool = Pool(source, 0, keep=0, offload=True)
    in_child: list[object] = []

    async def fill() -> None:
        elements = await pool.alloc_many_async(3)
        source.then_free(Step.SLOW)
        pool.free_many(elements)
        await until(lambda: source.held == 1)
        in_child.extend(elements[1:])

    async def use_again() -> None:
        pool.free(await pool.alloc_async())
        await until(lambda: pool.stats().made == pool.stats().disposed == 4)

    asyncio.run(fill())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert (pool.stats().disposing, pool.stats().disposed) == (0, 3)
            wait_until(lambda: not source.has(in_child))
            asyncio.run(use_again())
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert pool.stats().disposing == 3
    source.release()
    wait_until(lambda: pool.stats().disposed == 3)
    pool.close()
    assert source.existing == []


def test_a_pool_of_objects_is_gone_with_its_last_reference() -> None:
    """What a thread does for a pool does not keep it: it is closed when it is dropped, and what is spare is disposed of."""
    disposed: list[object] = []

    async def main() -> None:
        pool: Pool[Any] = Pool(Objects(object, disposed.append), 2, keep=2, offload=True)
        pool.free_many(await pool.alloc_many_async(3))
        engine = weakref.ref(pool._engine)
        await until(lambda: engine().snapshot().disposed == 3)  # type: ignore[union-attr]  # it lives
        del pool
        assert len(disposed) == 5
        await until(lambda: engine() is None)

    asyncio.run(main())
