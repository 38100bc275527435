"""Threads that make calls for an event loop: few for many short calls, and none waits for a long one."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mempool.fleet import threads
from mempool.testing import wait_until


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> threads.Threads:
    """Threads that have made no call yet."""
    own = threads.Threads()
    monkeypatch.setattr(threads, "call", own.call)
    return own


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(work())


def test_many_short_calls_are_made_by_one_thread() -> None:
    """Each result and each error comes to whoever has called."""

    def short(number: int) -> tuple[int, int]:
        if number == 7:
            raise ValueError("seven")
        return number, threading.get_ident()

    async def main() -> list[Any]:
        calls = [threads.in_thread(functools.partial(short, number)) for number in range(50)]
        return await asyncio.gather(*calls, return_exceptions=True)

    made = run(main)
    assert isinstance(made.pop(7), ValueError)
    assert [number for number, _ in made] == [number for number in range(50) if number != 7]
    idents = {ident for _, ident in made}
    assert threading.get_ident() not in idents
    assert len(idents) < 10, "a thread for each would cost more than the calls"


def test_no_call_waits_for_one_that_stands_still() -> None:
    """Ten that do: the eleventh is made all the same, and the loop goes on meanwhile."""
    gate = threading.Event()
    standing = threading.Semaphore(0)

    def stand() -> str:
        standing.release()
        assert gate.wait(60)
        return "stood"

    async def main() -> list[str]:
        stood = [asyncio.ensure_future(threads.in_thread(stand)) for _ in range(10)]
        assert await asyncio.wait_for(threads.in_thread(lambda: "made"), 30) == "made"
        assert not any(future.done() for future in stood)
        gate.set()
        return await asyncio.gather(*stood)

    assert run(main) == ["stood"] * 10
    assert all(standing.acquire(blocking=False) for _ in range(10))


def test_a_call_that_takes_too_long_is_left_alone() -> None:
    """Something else is returned in time; what it returns later is nobody's."""
    gate = threading.Event()
    ended = threading.Event()

    def stand() -> None:
        assert gate.wait(60)
        ended.set()

    async def main() -> str:
        said = await threads.in_thread_within(0.01, stand, "otherwise")
        gate.set()
        await threads.in_thread(functools.partial(ended.wait, 30))
        return str(said)

    assert run(main) == "otherwise"


def test_a_call_whose_loop_has_ended_ends_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    """And the next loop's calls are made."""
    gate = threading.Event()
    ended = threading.Event()

    def stand() -> None:
        assert gate.wait(60)
        ended.set()

    async def begin() -> None:
        threads.begin(stand)

    async def main() -> str:
        return str(await threads.in_thread(lambda: "made"))

    run(begin)
    assert run(main) == "made"
    gate.set()
    assert ended.wait(30)
    assert run(main) == "made"
    assert not recwarn.list


def test_an_idle_thread_ends_and_is_replaced_when_it_is_needed(
    own: threads.Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps nothing alive, and nobody is woken who has gone."""
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.01)

    async def main() -> threading.Thread:
        made = await threads.in_thread(threading.current_thread)
        assert isinstance(made, threading.Thread)
        return made

    first = run(main)
    wait_until(lambda: not first.is_alive())
    assert not own._idle
    assert run(main) is not first


def test_calls_that_come_at_once_have_one_thread_until_it_stands_still(own: threads.Threads) -> None:
    """And each that was had for them makes calls no more once all are made."""
    gate = threading.Event()

    async def main() -> None:
        calls = [asyncio.ensure_future(threads.in_thread(functools.partial(gate.wait, 60))) for _ in range(5)]
        await asyncio.sleep(0)  # each has begun, and nobody has looked yet
        first = own._serving
        gate.set()
        await asyncio.gather(*calls)
        assert first == 1

    run(main)
    wait_until(lambda: own._serving == 0)


def test_of_calls_that_stand_still_none_is_counted_when_it_has_ended(own: threads.Threads) -> None:
    gate = threading.Event()

    async def main() -> None:
        calls = [asyncio.ensure_future(threads.in_thread(functools.partial(gate.wait, 60))) for _ in range(3)]
        async with asyncio.timeout(60):
            while own._begun < 3:  # noqa: ASYNC110 - the state of the threads
                await asyncio.sleep(0.001)
        gate.set()
        await asyncio.gather(*calls)

    run(main)
    wait_until(lambda: own._serving == 0)


def test_a_loop_that_looks_no_more_looks_again_at_the_next_call(own: threads.Threads) -> None:
    """Else a call would wait for one that stands still."""

    async def main() -> None:
        await threads.in_thread(lambda: None)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while own._looked_at[loop] != -threads.LOOK_LOST_SECONDS:  # noqa: ASYNC110 - the state of the threads
                await asyncio.sleep(0.001)

    run(main)
