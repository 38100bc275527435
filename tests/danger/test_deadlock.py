"""track="holders": callers that nobody can ever serve are told so, and nobody else is."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any

import pytest
import trio
from books import assert_at_rest
from callers import SOON, Caller, make

from mempool import DeadlockError, Pool, PoolError, PoolTimeout, deadlock
from mempool.testing import ScriptedSource, Step, wait_until, wait_until_async

works, fails, raises, slow = Step


def test_two_threads_that_hold_one_of_two_and_want_another() -> None:
    """The second to wait is told; it names both holders and both waiters, and where they took what they hold."""
    pool = make("frames", 2)
    anna, bert = Caller("anna"), Caller("bert")
    first, second = anna.take(pool), bert.take(pool)
    waiting = anna.waits(pool)
    with pytest.raises(DeadlockError) as caught:
        bert.does(pool.alloc).result(SOON)
    message = str(caught.value)
    assert "pool 'frames': thread 'anna' has held bytearray at" in message
    assert "pool 'frames': thread 'bert' has held bytearray at" in message
    assert "thread 'anna' waits in pool 'frames'" in message
    assert "thread 'bert' waits in pool 'frames'" in message
    assert len(re.findall(r"taken at callers\.py:\d+ in take", message)) == 2
    bert.does(lambda: pool.free(second)).result(SOON)  # which ends it
    pool.free(waiting.result(SOON))
    pool.free(first)
    anna.ends()
    bert.ends()
    assert_at_rest(pool)


def test_two_pools_taken_in_opposite_order() -> None:
    """Anna holds a frame and waits for a socket, Bert the other way round: he is told, of both pools."""
    frames, sockets = make("frames"), make("sockets")
    anna, bert = Caller("anna"), Caller("bert")
    frame, socket = anna.take(frames), bert.take(sockets)
    waiting = anna.waits(sockets)
    with pytest.raises(DeadlockError) as caught:
        bert.does(frames.alloc).result(SOON)
    message = str(caught.value)
    for fact in (
        "pool 'frames': thread 'anna' has held",
        "pool 'sockets': thread 'bert' has held",
        "thread 'anna' waits in pool 'sockets'",
        "thread 'bert' waits in pool 'frames'",
    ):
        assert fact in message
    sockets.free(socket)
    sockets.free(waiting.result(SOON))
    frames.free(frame)
    anna.ends()
    bert.ends()
    assert_at_rest(frames)
    assert_at_rest(sockets)


def test_a_ring_of_three_pools() -> None:
    """Each of three waits for what the next one holds: the last to wait is told."""
    pools = [make(name) for name in ("a", "b", "c")]
    callers = [Caller(name) for name in ("anna", "bert", "cleo")]
    held = [caller.take(pool) for caller, pool in zip(callers, pools, strict=True)]
    waiting = [callers[0].waits(pools[1]), callers[1].waits(pools[2])]
    with pytest.raises(DeadlockError, match="thread 'cleo' waits in pool 'a'"):
        callers[2].does(pools[0].alloc).result(SOON)
    pools[2].free(held[2])
    pools[2].free(waiting[1].result(SOON))
    pools[1].free(held[1])
    pools[1].free(waiting[0].result(SOON))
    pools[0].free(held[0])
    for caller, pool in zip(callers, pools, strict=True):
        caller.ends()
        assert_at_rest(pool)


def test_two_that_begin_to_wait_at_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks while the other is about to join the line: one of the two is told."""
    frames, sockets = make("frames"), make("sockets")
    both, came = threading.Barrier(2), set[int]()
    find = deadlock.find_deadlock

    def find_and_dawdle(*arguments: Any) -> Any:
        answer = find(*arguments)
        if threading.get_ident() not in came:  # else it looks a second time, alone
            came.add(threading.get_ident())
            both.wait(SOON)
        return answer

    monkeypatch.setattr(deadlock, "find_deadlock", find_and_dawdle)
    anna, bert = Caller("anna"), Caller("bert")
    frame, socket = anna.take(frames), bert.take(sockets)
    told = []
    waits = [(anna.does(lambda: sockets.alloc(timeout=2 * SOON)), frames, frame)]
    waits += [(bert.does(lambda: frames.alloc(timeout=2 * SOON)), sockets, socket)]
    wait([waits[0][0], waits[1][0]], SOON, FIRST_COMPLETED)
    for waiting, pool, held in sorted(waits, key=lambda each: not each[0].done()):
        error = waiting.exception(SOON)
        told.append(isinstance(error, DeadlockError) and isinstance(error, PoolTimeout))  # they gave a time
        pool.free(held)
    anna.ends()
    bert.ends()
    assert True in told


def test_a_task_that_waits_for_a_task_that_waits() -> None:
    """Tasks are named as threads are: by their names."""
    pool = make("frames", 2)

    async def hold_and_want(name: str) -> BaseException | None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name(name)
        async with pool.lease():
            await asyncio.sleep(0)  # sleeps: now the other takes one
            try:
                pool.free(await pool.alloc_async())
            except DeadlockError as error:
                return error
        return None

    async def main() -> list[BaseException | None]:
        return await asyncio.gather(hold_and_want("anna"), hold_and_want("bert"))

    answers = asyncio.run(main())
    assert answers[0] is None  # served, when the other had left
    assert "task anna waits in pool 'frames'" in str(answers[1])
    assert "task bert has held bytearray" in str(answers[1])
    assert_at_rest(pool)


@pytest.mark.parametrize("call", ["alloc", "alloc_many"])
def test_a_caller_that_waits_for_itself(call: str) -> None:
    """Who holds all there is and wants more is told at once."""
    pool = make("frames", 2)
    held = pool.alloc_many(2)
    for element in held:
        pool.take_over(element)
    with pytest.raises(DeadlockError, match="nobody can ever serve this caller"):
        pool.alloc() if call == "alloc" else pool.alloc_many(1)
    assert pool.stats().waiting == 0
    pool.free_many(held)
    assert_at_rest(pool)


def test_no_alarm_while_a_third_holds_one_and_does_not_wait() -> None:
    """Somebody who is free to return his element may do it at any moment: everybody else waits in peace."""
    pool = make("frames", 3)
    anna, bert, third = Caller("anna"), Caller("bert"), Caller("third")
    elements = [caller.take(pool) for caller in (anna, bert, third)]
    waiting = [anna.waits(pool), bert.waits(pool)]
    third.does(lambda: pool.free(elements[2])).result(SOON)
    pool.free(waiting[0].result(SOON))
    pool.free(waiting[1].result(SOON))
    pool.free_many(elements[:2])
    for caller in (anna, bert, third):
        caller.ends()
    assert_at_rest(pool)


def test_no_alarm_for_an_element_that_was_handed_over() -> None:
    """After hand_over the taker is no longer its holder; nobody is, and nobody knows when it is returned."""
    pool = make("frames")
    anna = Caller("anna")
    element = anna.take(pool)
    pool.hand_over(element)
    waiting = anna.waits(pool)
    assert pool.holders()[0].who == "somebody (thread 'anna' handed it over)"
    pool.free(element)
    pool.free(waiting.result(SOON))
    anna.ends()
    assert_at_rest(pool)


def test_no_alarm_while_the_source_is_being_asked() -> None:
    """An element on its way is held by nobody who waits."""
    source = ScriptedSource(works, slow)
    pool = Pool(source, 1, limit=2, keep=2, name="frames", track="holders")
    anna, bert = Caller("anna"), Caller("bert")
    source.otherwise = fails
    made = bert.does(pool.alloc)
    source.wait_until_held()
    held = pool.alloc_reserved()
    mine = anna.waits(pool)
    source.release()
    pool.free(made.result(SOON))
    pool.free(mine.result(SOON))
    pool.free(held)
    anna.ends()
    bert.ends()
    assert_at_rest(pool)


def test_no_alarm_for_what_a_thread_took_that_has_ended() -> None:
    """A new thread is not the holder of what an ended one took, even if it has the same ident."""
    pool = make("frames")
    for _ in range(20):
        anna = Caller("anna")
        element = anna.take(pool)
        anna.ends()
        bert = Caller("bert")
        waiting = bert.does(lambda: pool.alloc(timeout=SOON))
        wait_until(lambda waiting=waiting: pool.stats().waiting or waiting.done())
        pool.free(element)
        pool.free(waiting.result(SOON))
        bert.ends()


def _in_a_block(pool: Pool[Any]) -> None:
    with pool.lease():
        pool.alloc()


def _in_a_block_with_a_time(pool: Pool[Any]) -> None:
    with pool.lease():
        pool.alloc(timeout=0)


def _in_a_block_of_a_task(pool: Pool[Any]) -> None:
    async def main() -> None:
        async with pool.lease():
            await pool.alloc_async()

    asyncio.run(main())


def _in_a_block_that_a_task_waited_for(pool: Pool[Any]) -> None:
    async def block() -> None:
        async with pool.lease():
            await pool.alloc_async()

    async def main() -> None:
        held = pool.alloc()
        task = asyncio.create_task(block())
        await wait_until_async(lambda: pool.stats().waiting == 1)
        pool.free(held)
        await task

    asyncio.run(main())


@pytest.mark.parametrize(
    "program", [_in_a_block, _in_a_block_with_a_time, _in_a_block_of_a_task, _in_a_block_that_a_task_waited_for]
)
def test_what_a_block_holds_only_its_end_returns(program: Any) -> None:
    """Who waits inside for what only the end of the block could give is told at once."""
    pool = make("frames")
    with pytest.raises(DeadlockError, match="nobody can ever serve this caller") as caught:
        program(pool)
    assert isinstance(caught.value, PoolTimeout) == (program is _in_a_block_with_a_time)
    assert_at_rest(pool)


def _with_an_element_of_alloc(pool: Pool[Any]) -> None:
    element = pool.alloc()
    try:
        pool.alloc(timeout=0)
    finally:
        pool.free(element)


def _with_a_held_lease(pool: Pool[Any]) -> None:
    lease = pool.lease()
    assert lease.element is not None
    try:
        pool.alloc(timeout=0)
    finally:
        lease.release()


def _in_an_exit_stack(pool: Pool[Any]) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(pool.lease())
        pool.alloc(timeout=0)


def _beside_a_generator(pool: Pool[Any]) -> None:
    def block() -> Iterator[Any]:
        with pool.lease() as element:
            yield element

    generator = block()
    next(generator)
    try:
        pool.alloc(timeout=0)
    finally:
        generator.close()


@pytest.mark.parametrize("program", [_with_an_element_of_alloc, _with_a_held_lease, _in_an_exit_stack, _beside_a_generator])
def test_what_somebody_else_may_return_only_looks_like_a_deadlock(program: Any) -> None:
    """Nothing is raised but what would be without tracking; why_empty, and so the timeout, says what it looks like."""
    pool = make("frames")
    with pytest.raises(PoolTimeout, match="it looks like a deadlock: all that is out was taken by callers") as caught:
        program(pool)
    assert not isinstance(caught.value, DeadlockError)
    assert_at_rest(pool)


def test_a_source_that_may_recover_is_a_way_out() -> None:
    """Below the limit the source is asked again: nobody knows that it never ends."""
    source = ScriptedSource()
    pool = Pool(source, 1, name="frames", track="holders")
    source.otherwise = fails
    with pool.lease(), pytest.raises(PoolTimeout) as caught:
        pool.alloc(timeout=0)
    assert not isinstance(caught.value, DeadlockError)


def test_who_takes_over_is_the_holder() -> None:
    """why_empty names who keeps it, since then; and it counts for a deadlock until it is handed over again."""
    pool = make("frames")
    anna, bert = Caller("anna"), Caller("bert")
    element = anna.take(pool)
    pool.hand_over(element)
    bert.does(lambda: pool.take_over(element)).result(SOON)
    assert [holder.who for holder in pool.holders()] == ["thread 'bert'"]
    with pytest.raises(DeadlockError, match="thread 'bert' has held"):
        bert.does(pool.alloc).result(SOON)
    bert.does(lambda: pool.hand_over(element)).result(SOON)
    with pytest.raises(PoolTimeout) as caught:
        bert.does(lambda: pool.alloc(timeout=0)).result(SOON)
    assert not isinstance(caught.value, DeadlockError)
    pool.free(element)
    pool.take_over(element)  # nobody's any more: nothing happens
    assert pool.holders() == ()
    anna.ends()
    bert.ends()
    assert_at_rest(pool)


# -- a loop that stands still

STOPS = pytest.mark.filterwarnings("ignore:.*stops its event loop:RuntimeWarning")


def _beside_a_task_of_asyncio(pool: Pool[Any], stop: Any) -> None:
    async def hold(held: asyncio.Event) -> None:
        async with pool.lease():
            held.set()
            await asyncio.Event().wait()

    async def main() -> None:
        held = asyncio.Event()
        holder = asyncio.create_task(hold(held), name="holder")
        await held.wait()
        try:
            stop(pool)
        finally:
            holder.cancel()
            await asyncio.wait([holder])

    asyncio.run(main())


def _beside_a_task_of_trio(pool: Pool[Any], stop: Any) -> None:
    async def hold(held: trio.Event) -> None:
        async with pool.lease():
            held.set()
            await trio.sleep_forever()

    async def main() -> None:
        held = trio.Event()
        raised: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, held, name="holder")
            await held.wait()
            try:
                stop(pool)
            except PoolError as error:
                raised = error
            nursery.cancel_scope.cancel()
        if raised is not None:
            raise raised

    trio.run(main)


def _in_a_callback(pool: Pool[Any], stop: Any) -> None:
    async def main() -> None:
        raised: list[PoolError] = []

        def call() -> None:
            try:
                stop(pool)
            except PoolError as error:
                raised.append(error)

        task = asyncio.current_task()
        assert task is not None
        task.set_name("holder")
        async with pool.lease():
            asyncio.get_running_loop().call_soon(call)
            await wait_until_async(lambda: bool(raised))
        raise raised[0]

    asyncio.run(main())


def _above_a_block_of_its_thread(pool: Pool[Any], stop: Any) -> None:
    async def main() -> None:
        stop(pool)

    with pool.lease():
        asyncio.run(main())


@STOPS
@pytest.mark.parametrize("timeout", [None, SOON])
@pytest.mark.parametrize(
    "program", [_beside_a_task_of_asyncio, _beside_a_task_of_trio, _in_a_callback, _above_a_block_of_its_thread]
)
def test_who_stops_the_loop_whose_task_holds_all_is_told(program: Any, timeout: float | None) -> None:
    """The holder can never run, so nobody ever returns it; both are named, and who stops the loop."""
    pool = make("frames")
    with pytest.raises(DeadlockError, match="nobody can ever serve this caller") as caught:
        program(pool, lambda pool: pool.alloc(timeout=timeout))
    assert isinstance(caught.value, PoolTimeout) == (timeout is not None)
    assert "waits in pool 'frames' and stops its event loop" in str(caught.value)
    if program is not _above_a_block_of_its_thread:
        assert "holder has held bytearray at" in str(caught.value)
    assert_at_rest(pool)


@STOPS
@pytest.mark.parametrize("timeout", [None, SOON])
@pytest.mark.parametrize(
    "program", [_beside_a_task_of_asyncio, _beside_a_task_of_trio, _in_a_callback, _above_a_block_of_its_thread]
)
def test_who_drains_in_a_loop_whose_task_holds_an_element_is_told(program: Any, timeout: float | None) -> None:
    """The holder can never return it; one is enough, whatever else is out. The message names the call to use."""
    pool = make("frames", 2)
    anna = Caller("anna")
    held = anna.take(pool)
    with pytest.raises(DeadlockError, match="pool 'frames': it can never be drained by this caller") as caught:
        program(pool, lambda pool: pool.drain(timeout))
    assert isinstance(caught.value, PoolTimeout) == (timeout is not None)
    assert "stops its event loop, which `await pool.drain_async()` would not" in str(caught.value)
    pool.free(held)
    anna.ends()
    assert_at_rest(pool)


def test_who_drains_inside_a_block_of_its_own_is_told() -> None:
    """Also where no loop runs: the block ends only after the call."""
    pool = make("frames")
    with pool.lease(), pytest.raises(DeadlockError, match="Return what you hold, and then drain"):
        pool.drain()
    pool.drain(0)
    assert_at_rest(pool)


@STOPS
def test_a_drain_waits_for_what_another_may_return() -> None:
    """What a task of the stopped loop took without a block, a thread may free; and what another thread holds, it returns."""
    pool = make("frames", 2)
    anna = Caller("anna")
    theirs = anna.take(pool)

    async def main() -> None:
        element = await pool.alloc_async()

        def free() -> None:
            wait_until(lambda: "drain_async" in pool.why_empty())
            pool.free(element)
            pool.free(theirs)

        freeing = threading.Thread(target=free)
        freeing.start()
        pool.drain(SOON)
        freeing.join(SOON)

    asyncio.run(main())
    anna.ends()
    assert_at_rest(pool)


@STOPS
def test_who_waits_for_a_loop_that_stands_still_is_told_and_the_loop_goes_on() -> None:
    """A thread that holds the one element and wants the other, which a task has, whose loop waits for the first."""
    pool = make("frames", 2)
    anna = Caller("anna")
    held = anna.take(pool)
    told: list[BaseException | None] = []

    def stop(pool: Pool[Any]) -> None:
        def watch() -> None:
            wait_until(lambda: pool.stats().waiting == 1)
            told.append(anna.does(pool.alloc).exception(SOON))
            pool.free(held)

        watching = threading.Thread(target=watch)
        watching.start()
        pool.free(pool.alloc(timeout=SOON))
        watching.join(SOON)

    _beside_a_task_of_asyncio(pool, stop)
    assert isinstance(told[0], DeadlockError)
    assert "task holder has held" in str(told[0])
    anna.ends()
    assert_at_rest(pool)


def _that_took_no_block(pool: Pool[Any], stop: Any) -> None:
    async def hold() -> None:
        element = await pool.alloc_async()
        try:
            await asyncio.Event().wait()
        finally:
            pool.free(element)

    async def main() -> None:
        holder = asyncio.create_task(hold())
        await wait_until_async(lambda: pool.stats().out == 1)
        try:
            stop(pool)
        finally:
            holder.cancel()
            await asyncio.wait([holder])

    asyncio.run(main())


def _that_is_over(pool: Pool[Any], stop: Any) -> None:
    async def take() -> Any:
        element = pool.alloc()
        pool.take_over(element)
        return element

    async def main() -> None:
        element = await asyncio.create_task(take())
        try:
            stop(pool)
        finally:
            pool.free(element)

    asyncio.run(main())


def _of_trio_that_is_over(pool: Pool[Any], stop: Any) -> None:
    taken: list[Any] = []

    async def take() -> None:
        taken.append(pool.alloc())
        pool.take_over(taken[0])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
        assert not pool.holders()[0].lives
        try:
            stop(pool)
        finally:
            pool.free(taken[0])

    trio.run(main)


def _that_handed_over(pool: Pool[Any], stop: Any) -> None:
    async def main() -> None:
        async with pool.lease() as element:
            pool.hand_over(element)
            await asyncio.create_task(asyncio.wait_for(stops(), SOON))

    async def stops() -> None:
        stop(pool)

    asyncio.run(main())


@STOPS
@pytest.mark.parametrize("program", [_that_took_no_block, _that_is_over, _of_trio_that_is_over, _that_handed_over])
def test_what_a_stopped_task_may_not_be_the_only_one_to_return_is_no_deadlock(program: Any) -> None:
    """Without a block, after a hand_over or when the task is over: somebody else may free it."""
    pool = make("frames")
    with pytest.raises(PoolTimeout) as caught:
        program(pool, lambda pool: pool.alloc(timeout=0))
    assert not isinstance(caught.value, DeadlockError)
    assert_at_rest(pool)


@STOPS
def test_who_stops_a_loop_waits_for_what_another_thread_or_another_loop_holds() -> None:
    """They go on, and so may return it: each time it is served."""
    pool = make("frames")
    pools, freeing = [pool, make("sockets")], []

    def other_loop(begun: threading.Event, ends: threading.Event) -> None:
        async def hold() -> None:
            async with pools[1].lease():
                begun.set()
                await wait_until_async(ends.is_set)

        asyncio.run(hold())

    async def main() -> None:
        begun, ends = threading.Event(), threading.Event()
        freeing.append(threading.Thread(target=other_loop, args=(begun, ends)))
        freeing[0].start()
        assert begun.wait(SOON)
        anna = Caller("anna")
        held = anna.take(pool)

        def give_back() -> None:
            wait_until(lambda: pool.stats().waiting == 1)
            pool.free(held)
            wait_until(lambda: pools[1].stats().waiting == 1)
            ends.set()

        freeing.append(threading.Thread(target=give_back))
        freeing[1].start()
        for place in pools:
            place.free(place.alloc(timeout=SOON))
        anna.ends()

    asyncio.run(main())
    for thread in freeing:
        thread.join(SOON)
    assert_at_rest(pool)
    assert_at_rest(pools[1])


@STOPS
def test_a_loop_that_stands_still_below_the_limit_is_no_deadlock() -> None:
    """The source may recover."""
    source = ScriptedSource()
    pool = Pool(source, 1, name="frames", track="holders")
    source.otherwise = fails
    with pytest.raises(PoolTimeout) as caught:
        _beside_a_task_of_asyncio(pool, lambda pool: pool.alloc(timeout=0))
    assert not isinstance(caught.value, DeadlockError)


def test_who_is_served_while_the_holders_are_looked_at_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make("p", 2)
    mine = pool.alloc()
    anna, berta = Caller("Anna"), Caller("Berta")
    hers = anna.take(pool)
    waiting = berta.waits(pool)
    is_dry, looked = deadlock._is_dry, []

    def switch_first(*arguments: Any) -> bool:
        if not looked:
            looked.append(True)
            anna.does(lambda: pool.free(hers)).result(SOON)
            waiting.result(SOON)
            wait_until(lambda: len(pool.holders()) == 2)
            threading.Timer(0.1, lambda: berta.does(lambda: pool.free(waiting.result()))).start()
        return is_dry(*arguments)

    monkeypatch.setattr(deadlock, "_is_dry", switch_first)
    pool.free_many([mine, pool.alloc(timeout=SOON)])
    assert looked
    anna.ends()
    berta.ends()
