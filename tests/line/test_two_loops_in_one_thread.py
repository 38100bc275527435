"""Two loops that share a thread: trio as a guest of asyncio, asyncio inside trio, a run of trio inside a task; anyio.

Which of them suspends a task is asked for each wait: a task of trio that yields to asyncio, or the other way about, is
ended with "unrecognized yield message".
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from books import assert_at_rest
from children import run

from mempool import Objects, Pool, PoolTimeout
from mempool.parking import current_owner
from mempool.testing import ScriptedSource

trio = pytest.importorskip("trio")
testing = pytest.importorskip("trio.testing")
SOON = 60  # seconds


def one_element(track: str = "identity") -> Pool[Any]:
    return Pool(ScriptedSource(), 1, limit=1, track=track, name="shared")


async def as_guest(main: Callable[[], Awaitable[object]]) -> object:
    """Run trio within the loop of asyncio that runs here."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()
    trio.lowlevel.start_guest_run(
        main,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=ended.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    return (await ended).unwrap()


async def until(condition: Callable[[], bool], pause: Callable[[], Awaitable[None]]) -> None:
    """Let the other tasks run, of both loops, until the condition holds."""
    with_end = asyncio.get_running_loop().time() + SOON
    while not condition():
        assert asyncio.get_running_loop().time() < with_end
        await pause()


async def turn_of_asyncio() -> None:
    await asyncio.sleep(0)  # sleeps: one turn


def test_a_guest_and_its_host_stand_in_one_line_and_are_served_in_order() -> None:
    """Tasks of trio, the guest, and of asyncio, its host, and a thread wait for one element, by turns; all are woken."""
    pool = one_element()
    served: list[str] = []

    async def in_trio(name: str) -> None:
        async with pool.lease():
            served.append(name)
            await trio.lowlevel.checkpoint()

    async def in_asyncio(name: str) -> None:
        element = await pool.alloc_async(timeout=SOON)
        served.append(name)
        await asyncio.sleep(0)  # sleeps: one turn
        pool.free(element)

    def in_thread(name: str) -> None:
        with pool.lease():
            served.append(name)

    async def main() -> None:
        element = await pool.alloc_async()
        starts: list[str] = []
        loop = asyncio.get_running_loop()
        tasks = []

        async def guest() -> None:
            async with trio.open_nursery() as nursery:
                while len(starts) < 6:
                    if starts and starts[-1].startswith("trio") and pool.stats().waiting == len(starts) - 1:
                        nursery.start_soon(in_trio, starts[-1])
                        await testing.wait_all_tasks_blocked()
                    await trio.lowlevel.checkpoint()

        running = asyncio.ensure_future(as_guest(guest))
        for number in range(6):
            name = f"{('trio', 'asyncio', 'thread')[number % 3]} {number}"
            starts.append(name)
            if name.startswith("asyncio"):
                tasks.append(asyncio.ensure_future(in_asyncio(name)))
            if name.startswith("thread"):
                tasks.append(loop.run_in_executor(None, in_thread, name))
            await until(lambda number=number: pool.stats().waiting == number + 1, turn_of_asyncio)
        pool.free(element)
        await asyncio.wait_for(running, SOON)
        await asyncio.wait_for(asyncio.gather(*tasks), SOON)

    asyncio.run(main())
    assert served == ["trio 0", "asyncio 1", "thread 2", "trio 3", "asyncio 4", "thread 5"]
    assert_at_rest(pool)


def test_a_guest_times_out_and_is_cancelled_as_tasks_of_trio_are() -> None:
    """And its name is that of the task of trio, where its place in the line is told."""
    pool = one_element("holders")

    async def guest() -> None:
        async with pool.lease():
            assert pool.holders()[0].who == f"task {trio.lowlevel.current_task().name}"
            with pytest.raises(PoolTimeout):
                await in_another_task(lambda: pool.alloc_async(timeout=0.001))
            with trio.move_on_after(0.001) as scope:
                await in_another_task(pool.alloc_async)
            assert scope.cancelled_caught
        assert pool.stats().waiting == 0

    async def in_another_task(call: Callable[[], Awaitable[object]]) -> None:
        """Who holds the element would close a circle."""
        errors: list[Exception] = []

        async def run() -> None:
            try:
                await call()
            except PoolTimeout as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
        if errors:
            raise errors[0]

    asyncio.run(as_guest(guest))
    assert pool.stats().waits_cancelled == 1
    assert_at_rest(pool)


def test_a_run_of_trio_inside_a_task_of_asyncio_waits_in_trio() -> None:
    """A task of asyncio is under way in this thread, and what runs is trio all the same."""
    pool = one_element()

    async def inner() -> None:
        element = pool.try_alloc()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_and_free)
            await testing.wait_all_tasks_blocked()
            assert [type(ticket.owner).__module__.split(".")[0] for ticket in pool.core.queue()] == ["trio"]
            pool.free(element)

    async def take_and_free() -> None:
        owner = current_owner()
        assert owner is trio.lowlevel.current_task()
        pool.free(await pool.alloc_async(timeout=SOON))

    async def outer() -> None:
        assert isinstance(current_owner(), asyncio.Task)
        trio.run(inner)
        assert isinstance(current_owner(), asyncio.Task)

    asyncio.run(outer())
    assert_at_rest(pool)


def test_asyncio_inside_trio_waits_where_its_code_runs() -> None:
    """trio-asyncio: a task of asyncio, one of trio that it calls, one of trio beside the loop, and a thread: one line.

    In a child, because the import of trio_asyncio makes all new loops of asyncio those of its own for good.
    """
    spec = importlib.util.find_spec("trio_asyncio")
    if spec is None or spec.origin is None:
        pytest.skip("trio-asyncio is not installed")
    base = "asyncio.events.BaseDefaultEventLoopPolicy"  # 3.14 has it by another name
    if sys.version_info >= (3, 14) and base in Path(spec.origin).with_name("_loop.py").read_text("utf-8"):
        pytest.skip("this trio-asyncio cannot be imported on CPython 3.14 and later")
    run(
        """
        import asyncio, threading
        import trio, trio_asyncio
        from mempool import Objects, Pool
        from mempool.parking import current_owner
        from mempool.testing import wait_until

        SOON = 60
        pool = Pool(Objects(bytearray), 1, limit=1)
        served: list[str] = []
        owners: dict[str, object] = {}

        async def take(name: str) -> None:
            owners[name] = current_owner()
            async with pool.lease():
                served.append(name)

        async def trio_within_asyncio() -> None:
            await trio_asyncio.trio_as_aio(take)("trio within asyncio")

        async def main() -> None:
            element = await pool.alloc_async()
            thread = threading.Thread(target=lambda: pool.free(pool.alloc(timeout=SOON)))
            async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
                calls = [
                    lambda: take("trio"),
                    lambda: trio_asyncio.aio_as_trio(take)("asyncio"),
                    lambda: trio_asyncio.aio_as_trio(trio_within_asyncio)(),
                    lambda: take("trio, too"),
                ]
                for number, call in enumerate(calls):
                    nursery.start_soon(call)
                    with trio.fail_after(SOON):
                        while pool.stats().waiting < number + 1:
                            await trio.lowlevel.checkpoint()
                thread.start()
                await trio.to_thread.run_sync(lambda: wait_until(lambda: pool.stats().waiting == 5))
                assert asyncio._get_running_loop() is loop
                pool.free(element)
            thread.join(SOON)

        trio.run(main)
        assert served == ["trio", "asyncio", "trio within asyncio", "trio, too"]
        kinds = {name: isinstance(owner, asyncio.Task) for name, owner in owners.items()}
        assert kinds == {"trio": False, "asyncio": True, "trio within asyncio": False, "trio, too": False}
        stats = pool.stats()
        assert (stats.waiting, stats.out, stats.spare) == (0, 0, 1)
        """
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_code_written_for_anyio_waits_on_either_backend(backend: str) -> None:
    """A task group of anyio: each task waits for the one element, one is cancelled in the line, nothing is lost."""
    anyio = pytest.importorskip("anyio")
    pool = Pool(Objects(bytearray), 1, limit=1)
    served: list[int] = []

    async def take(number: int) -> None:
        async with pool.lease():
            served.append(number)
            await anyio.lowlevel.checkpoint()

    async def main() -> None:
        element = await pool.alloc_async()
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(take, number)
                await anyio.wait_all_tasks_blocked()
            with anyio.move_on_after(0.001) as scope:
                await pool.alloc_async()
            assert scope.cancelled_caught
            assert pool.stats().waiting == 3
            pool.free(element)

    anyio.run(main, backend=backend)
    assert served == [0, 1, 2]
    assert_at_rest(pool)


def test_what_is_not_loaded_is_not_loaded_to_find_out() -> None:
    """A wait in a thread or a task imports none of the libraries that are asked for."""
    script = """
        import asyncio
        from mempool import Objects, Pool, PoolTimeout, parking

        pool = Pool(Objects(bytearray), 1, limit=1)
        with pool.lease():
            parking.current_owner()
            for wait in (lambda: pool.alloc(timeout=0), lambda: asyncio.run(pool.alloc_async(timeout=0))):
                try:
                    wait()
                except PoolTimeout:
                    pass
        print([name for name in ("anyio", "eventlet", "gevent", "greenlet", "sniffio", "trio") if name in sys.modules])
        """
    assert run(script) == "[]\n"
