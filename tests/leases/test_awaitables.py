"""What `async with` a lease awaits: to whoever drives it, a coroutine; and what it got is never lost."""

import asyncio
import collections.abc
import contextlib
import gc
import traceback as tracebacks
import warnings
import weakref
from typing import Any

import pytest
import trio
from books import assert_at_rest
from scenes import in_a_task

from mempool import Objects, Pool


class Stop(BaseException):
    """Thrown in."""


def one_element() -> Pool[Any]:
    return Pool(Objects(object), 1, limit=1)


def test_what_a_lease_gives_async_with_is_a_coroutine_to_whoever_asks() -> None:
    """So asyncio makes a task of it, and an AsyncExitStack enters it."""

    async def main() -> None:
        pool = one_element()
        lease = pool.lease()
        entering = lease.__aenter__()
        assert isinstance(entering, collections.abc.Coroutine)
        element = await asyncio.ensure_future(entering)
        assert element is lease.element
        assert await asyncio.ensure_future(lease.__aexit__(None, None, None)) is None
        async with contextlib.AsyncExitStack() as stack:
            assert await stack.enter_async_context(pool.lease()) is element
            assert pool.out == 1
        assert_at_rest(pool)

    asyncio.run(main())


def test_it_is_run_as_a_main_function_of_trio() -> None:
    pool = one_element()
    lease = pool.lease()
    assert trio.run(lease.__aenter__) is lease.element
    trio.run(lease.__aexit__, None, None, None)
    assert_at_rest(pool)


@pytest.mark.parametrize("call", ["__aenter__", "__aexit__"])
def test_it_is_awaited_once(call: str) -> None:
    """A second time is an error, as with a coroutine, and changes nothing."""

    def drive() -> None:
        pool = one_element()
        lease = pool.lease()
        entering = lease.__aenter__()
        with pytest.raises(StopIteration):
            entering.send(None)
        leaving = lease.__aexit__(None, None, None)
        again: Any = entering
        if call == "__aexit__":
            with pytest.raises(StopIteration):
                leaving.send(None)
            again = leaving
        with pytest.raises(RuntimeError, match="already awaited"):
            again.send(None)
        again.close()
        with contextlib.suppress(StopIteration, RuntimeError):
            leaving.send(None)
        assert_at_rest(pool)

    in_a_task(drive)


def test_closed_before_it_was_awaited_it_takes_nothing() -> None:
    """The lease is as new; and what was thrown in comes out."""
    pool = one_element()
    lease = pool.lease()
    lease.__aenter__().close()
    thrown = Stop("words")
    for arguments in ((thrown,), (Stop, "words"), (Stop,), (Stop, thrown, None)):
        with pytest.raises(Stop):
            lease.__aenter__().throw(*arguments)
    with lease:
        assert pool.out == 1
    assert_at_rest(pool)


def test_closed_after_its_end_it_leaves_the_lease_alone() -> None:

    def drive() -> None:
        pool = one_element()
        lease = pool.lease()
        entering = lease.__aenter__()
        with pytest.raises(StopIteration):
            entering.send(None)
        entering.close()
        assert pool.out == 1
        lease.release()
        assert_at_rest(pool)

    in_a_task(drive)


def test_a_lease_that_is_in_use_is_not_taken_from_its_user() -> None:
    """Who enters it a second time gets an error; the first goes on."""

    async def main() -> None:
        pool = one_element()
        lease = pool.lease()
        async with lease as element:
            with pytest.raises(RuntimeError, match="used once"):
                await lease.__aenter__()
            assert lease.element is element
        assert_at_rest(pool)

    asyncio.run(main())


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize("end", ["close", "throw", "drop"])
def test_what_is_left_while_it_waits_is_nobodys(end: str, served: bool) -> None:
    """Ended while it waits, or when it was served and has not heard of it, it loses its place, or what it got goes back."""

    async def main() -> None:
        pool = one_element()
        element = pool.alloc()
        lease = pool.lease()
        entering: Any = lease.__aenter__()
        entering.send(None)
        assert pool.waiting == 1
        if served:
            pool.free(element)
        if end == "close":
            entering.close()
        if end == "throw":
            with pytest.raises(Stop):
                entering.throw(Stop)
        del entering
        gc.collect()
        assert pool.waiting == 0
        if not served:
            pool.free(element)
        assert_at_rest(pool)
        with pytest.raises(Exception, match="released already"):
            lease.release()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())


class Element:
    """Can be referred to weakly."""


def test_what_await_returns_is_kept_by_nothing() -> None:
    """From CPython 3.12 on it comes in an exception that is used again; compiled, of a kind of its own."""

    async def main() -> None:
        pool = Pool(Objects(Element), 0, keep=0)
        for _ in range(3):
            async with pool.lease() as element:
                is_kept = weakref.ref(element)
                del element
            assert is_kept() is None

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_the_end_of_an_awaitable_that_somebody_caught_is_his() -> None:
    """Whatever is awaited after it; and nothing of it is left in the next one."""

    async def main() -> None:
        pool: Pool[Any] = Pool(Objects(bytearray), 8)
        pool.free_many(pool.alloc_many(16))
        ends: list[StopIteration] = []
        leases = [pool.lease() for _ in range(6)]
        for lease in leases:
            entering = lease.__aenter__()
            with pytest.raises(StopIteration) as caught:
                next(entering)
            ends.append(caught.value)
            async with pool.lease(), pool.lease():
                pass
        assert [end.value for end in ends] == [lease.element for lease in leases]
        assert [end.args for end in ends] == [(lease.element,) for lease in leases]
        usual = StopIteration(leases[0].element)
        assert (repr(ends[0]), str(ends[0])) == (repr(usual), str(usual))
        assert len({id(end) for end in ends}) == 6
        for end in ends:
            assert (end.__context__, end.__cause__, getattr(end, "__notes__", None)) == (None, None, None)
            end.add_note("seen")
        del end, ends, caught
        for lease in leases:
            lease.release()
        another = pool.lease()
        with pytest.raises(StopIteration) as of_another:
            next(another.__aenter__())
        assert of_another.value.value is another.element
        assert not hasattr(of_another.value, "__notes__")
        frames = [frame.name for frame in tracebacks.extract_tb(of_another.value.__traceback__)]
        assert frames.count("main") == 1
        another.release()
        assert_at_rest(pool)

    asyncio.run(main())
