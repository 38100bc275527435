"""A process leaves, forks, or is interrupted while a call of it is between two steps: no element has two owners by that."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from shared_children import Parent, child
from single_steps import SINGLESTEP, TRACEME, libc, may_trace
from sweeps import LONG, struck_before_line, traced

import mempool
from mempool.errors import LineFull, PoolClosed, PoolTimeout
from mempool.shared import clients
from mempool.shared.doors import FIRST, Door
from mempool.shared.engine import SharedEngine
from mempool.shared.errors import ClientGone
from mempool.shared.layout import ROOT
from mempool.shared.pool import SharedPool
from mempool.shared.pool_engine import PoolEngine
from mempool.shared.ticket import Ticket
from mempool.testing import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
DETACH = 17


def make(path: Path, **options: Any) -> SharedPool:
    return SharedPool(path.name, **{"size": 4096, "reserve": 1, "limit": 1, "folder": path.parent, **options})


def attach(path: Path) -> SharedPool:
    return SharedPool.attach(path.name, folder=path.parent)


def has_left(pool: SharedPool) -> bool:
    return bool(pool._engine.client._lock == -1)


@contextmanager
def before_each_opcode(function: str, strike: Callable[[int], object]) -> Iterator[None]:
    """Call this with the number of each opcode of that function of pool_engine.py before it runs."""
    seen = 0

    def trace(frame: Any, event: str, _argument: object) -> Any:
        nonlocal seen
        if frame.f_code.co_name != function or not frame.f_code.co_filename.endswith("pool_engine.py"):
            return trace
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            strike(seen)
        return trace

    sys._getframe().f_trace_opcodes = True  # CPython 3.12 heeds it only if some frame has it when settrace is called
    with traced(trace):
        yield


def test_who_leaves_while_another_thread_attaches_keeps_no_descriptor(pool_path: Path) -> None:
    """It failed, because what it ran over had changed, and kept its descriptors, and by one of them its lock, to its end."""
    pool = make(pool_path)
    for number in itertools.count(1):
        more: list[SharedPool] = []
        leaving = attach(pool_path)
        client = leaving._engine.client
        descriptors = client._lock, client._file
        with struck_before_line(
            number, lambda more=more: more.append(attach(pool_path)), "engine.py", "weakref.py", "weakrefset.py"
        ):
            client.detach()
        if not more:
            break
        theirs = {more[0]._engine.client._lock, more[0]._engine.client._file}
        for descriptor in {*descriptors} - theirs:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)
        leaving.close()
        more[0].close()
    assert number > 5
    leaving.close()
    pool.close()


def test_two_loops_that_get_their_doors_at_once_do_not_disturb_each_other(pool_path: Path) -> None:
    """An alloc_async in one thread had raised RuntimeError, because a loop of another thread had just got its door."""
    pool = make(pool_path)
    doors = pool._engine._doors
    for number in itertools.count(1):
        loops: list[asyncio.AbstractEventLoop] = []

        def get_a_door(loops: list[asyncio.AbstractEventLoop] = loops) -> None:
            loops.append(asyncio.new_event_loop())
            assert doors.of(loops[-1]) is not None

        get_a_door()
        get_a_door()
        with struck_before_line(number, get_a_door, "doors.py", "weakref.py"):
            get_a_door()
        for loop in loops:
            loop.close()
        if len(loops) == 3:
            break
        assert len(loops) == 4, number
    assert number > 5
    pool.close()


def test_a_door_that_is_interrupted_while_it_opens_is_read_by_no_loop(pool_path: Path) -> None:
    """Its socket was closed, and the loop read on at a number that is soon another's."""
    pool = make(pool_path)
    tx = pool._engine._tx

    def interrupt_before(line: int) -> Callable[..., Any]:
        def trace(frame: Any, event: str, _argument: object) -> Any:
            nonlocal seen
            if frame.f_code is not Door.__init__.__code__:
                return None
            if event == "line":
                seen += 1
                if seen == line:
                    raise KeyboardInterrupt
            return trace

        seen = 0
        return trace

    async def open_it() -> int:
        loop: Any = asyncio.get_running_loop()
        read = set(loop._selector.get_map())
        for line in itertools.count(1):
            before = sys.gettrace()
            sys.settrace(interrupt_before(line))
            try:
                Door(tx, loop, FIRST + line)
                return line
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(before)
            gc.collect()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert set(loop._selector.get_map()) == read, line
        raise AssertionError

    assert asyncio.run(open_it()) > 5
    pool.close()


def test_a_child_that_is_forked_in_a_wait_is_told_that_its_place_is_gone(
    pool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told that the interpreter was ending, where it had used the pool before it looked for its place."""
    pool = make(pool_path)
    held = pool.alloc()
    poll = PoolEngine.poll
    forked: list[int] = []

    def fork_first(engine: PoolEngine, *arguments: Any) -> float:
        if not forked:
            forked.append(os.fork())
            if forked[0] == 0:
                pool.stats()
        return poll(engine, *arguments)

    monkeypatch.setattr(PoolEngine, "poll", fork_first)
    status = 70
    try:
        with pytest.raises((PoolTimeout, ClientGone)) as raised:
            pool.alloc(timeout=0.05)
        status = 0 if raised.type is ClientGone else 1
    finally:
        if forked == [0]:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1]) == 0
    assert status == 1
    pool.free(held)
    pool.close()


def test_who_closes_while_an_alloc_is_under_way_leaves_it_without_an_element(
    pool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, other = make(pool_path), attach(pool_path)
    check_out = PoolEngine.check_out

    def closed_before(engine: PoolEngine, ticket: Ticket) -> None:
        pool.close()
        check_out(engine, ticket)

    with monkeypatch.context() as patch:
        patch.setattr(PoolEngine, "check_out", closed_before)
        with pytest.raises(PoolClosed):
            pool.alloc()
    assert has_left(pool)
    other.free(other.alloc(timeout=60))
    assert other.verify() == []


def test_a_process_does_not_leave_while_a_thread_of_it_gives_memory_back(pool_path: Path) -> None:
    pool = make(pool_path, reserve=0, keep=0)
    tx = pool._engine._tx
    seen: list[int] = []

    class Memory:
        def make(self, slot: int) -> bool:
            return bool(tx.populate_here(slot))

        def drop(self, slot: int) -> None:
            if not seen:
                seen.append(pool.close())
                seen.append(has_left(pool))
            tx.punch_here(slot)

    tx.memory = Memory()
    pool.free(pool.alloc())
    assert seen == [0, False]
    assert has_left(pool)


@pytest.mark.long  # it is stopped after each instruction
def test_who_attaches_in_a_dead_ones_place_is_not_addressed_before_it_is_there(pool_path: Path) -> None:
    if not may_trace():
        pytest.skip("this process may not trace its children")
    pool = make(pool_path, reserve=2, limit=4)

    def attach_and_be_killed(parent: Parent) -> None:
        mine = attach(pool_path)
        parent.tell(mine._engine.client.number)
        parent.wait()

    with child(attach_and_be_killed) as predecessor:
        predecessor.hear()
        predecessor.end(signal.SIGKILL)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        still_maps = clients.still_maps

        def last_call_before(*arguments: Any) -> bool:
            maps = still_maps(*arguments)
            libc.ptrace(TRACEME, 0, None, None)
            os.kill(os.getpid(), signal.SIGSTOP)
            return maps

        clients.still_maps = last_call_before  # type: ignore[assignment]
        kept = SharedEngine.attach(pool_path)
        os.write(writing, b".")
        signal.pause()
        os._exit(int(kept is None))
    try:
        os.waitpid(pid, os.WUNTRACED)
        client, onlooker = pool._engine.client, SharedEngine.observe(pool_path)
        control = memoryview(client._tx.mapping)[ROOT : client.layout.control_bytes]
        before, token = bytes(control), None
        while token is None and len(client.clients()) == 2:
            while control == before:
                assert libc.ptrace(SINGLESTEP, pid, None, None) == 0
                assert os.WIFSTOPPED(os.waitpid(pid, 0)[1])
            buffer = pool.alloc()
            try:
                token = pool.offer(buffer, to=pid)
            except ProcessLookupError:
                pool.free(buffer)
            onlooker.snapshot()  # writes what this has left unwritten; else the child would, and be overtaken each time
            before = bytes(control)
        assert token is not None
        assert libc.ptrace(DETACH, pid, None, None) == 0
        assert os.read(reading, 1) == b"."  # it has looked for what its predecessor had
        pool.free(pool.recall(token))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


def test_what_is_offered_is_not_forgotten_because_another_thread_frees_meanwhile(
    pool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, other = make(pool_path, reserve=2, limit=2), attach(pool_path)
    offer = Ticket.offer

    def freed_before(ticket: Ticket, *arguments: Any) -> Any:
        for act in (lambda: pool.free(pool.alloc()), pool.close):
            thread = threading.Thread(target=act)
            thread.start()
            thread.join()
        return offer(ticket, *arguments)

    monkeypatch.setattr(Ticket, "offer", freed_before, raising=False)
    token = pool.offer(pool.alloc())
    assert pool.close() == 1
    other.free(other.adopt(token))
    assert other.verify() == []


def test_two_threads_that_get_the_pool_of_a_token_attach_once(pool_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = make(pool_path)
    token = pool.offer(pool.alloc())
    attach_it = SharedPool.attach

    both = threading.Barrier(2)

    def slowly(name: str, **options: Any) -> SharedPool:
        with contextlib.suppress(threading.BrokenBarrierError):  # one waits for the other, as it should
            both.wait(timeout=0.2)
        return attach_it(name, **options)

    def get(parent: Parent) -> None:
        monkeypatch.setattr(SharedPool, "attach", slowly)
        pool.close()  # what it has of its parent's
        got: list[SharedPool] = []
        threads = [threading.Thread(target=lambda: got.append(SharedPool.of(token))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        parent.tell(len(SharedEngine.observe(pool_path).clients()))
        parent.wait()

    with child(get) as forked:
        assert forked.hear() == 2


def test_an_alloc_that_is_interrupted_leaves_nothing_that_counts_as_out(pool_path: Path) -> None:
    number = 0
    done = False
    while not done:
        number += 1
        pool = make(pool_path, track="holders")

        def interrupt(opcode: int, at: int = number) -> None:
            if opcode == at:
                raise KeyboardInterrupt

        try:
            with before_each_opcode("check_out", interrupt):
                pool.free(pool.alloc())
            done = True
        except KeyboardInterrupt:
            pass
        assert (pool.close(), has_left(pool)) == (0, True), number
        pool.unlink()
    assert number > 20


def test_a_child_of_a_fork_that_could_not_attach_tries_again(pool_path: Path) -> None:
    pool = make(pool_path, reserve=2, limit=2, clients=1)
    pool.free(pool.alloc())

    def try_to_attach(parent: Parent) -> None:
        for _ in range(2):
            with pytest.raises(LineFull, match="1 processes use this pool"):
                pool.alloc()
        assert mempool.get(pool.name) is pool  # which tells whoever uses it
        with pytest.raises(LookupError, match=rf"'none of this name'; there are .*'{pool.name}'"):
            mempool.get("none of this name")
        parent.tell(0)
        parent.wait()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises(OSError, match="Too many open files"):
            pool.alloc()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        pool.free(pool.alloc())

    with child(try_to_attach) as forked:
        forked.hear()
        pool.close()
        forked.go()
        assert forked.end() == 0


def test_threads_of_a_child_that_use_a_pool_together_for_the_first_time_wait_for_the_one_that_attaches(
    pool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one comes while the first has no number yet. It was told that its process was the child of a fork."""
    pool = make(pool_path, reserve=2, limit=2)

    def use(_parent: Parent) -> None:
        after_fork, find_number = SharedEngine.after_fork, SharedEngine._find_number
        wrong: list[BaseException] = []
        first = threading.current_thread()
        second_is_here = threading.Event()

        def use_it() -> None:
            try:
                pool.free(pool.alloc())
            except BaseException as error:  # noqa: BLE001 - told below
                wrong.append(error)

        second = threading.Thread(target=use_it)

        def come(engine: SharedEngine) -> None:
            if threading.current_thread() is not first:
                second_is_here.set()
            after_fork(engine)

        def find_while_another_comes(engine: SharedEngine) -> None:
            second.start()
            wait_until(lambda: second_is_here.is_set() or not second.is_alive())
            find_number(engine)

        monkeypatch.setattr(SharedEngine, "after_fork", come)
        monkeypatch.setattr(SharedEngine, "_find_number", find_while_another_comes)
        use_it()
        second.join(30)
        assert (wrong, second.is_alive()) == ([], False)
        assert pool.stats().out == 0

    with child(use) as forked:
        assert forked.end() == 0
    assert pool.verify() == []


def test_a_child_of_a_fork_that_has_no_memory_to_attach_tries_again(pool_path: Path) -> None:
    """Whichever allocation fails. Where one of the first did, it was the child of a fork for ever."""
    testcapi = pytest.importorskip("_testcapi", reason="this Python has no _testcapi, which lets allocations fail")
    pool = make(pool_path, reserve=2, limit=2)
    kept = pool.alloc()

    def try_to_attach(parent: Parent) -> None:
        has_failed = False
        testcapi.set_nomemory(number, number + 1)
        try:
            pool.stats()
        except Exception:  # noqa: BLE001 - CPython does not always call it MemoryError
            has_failed = True
        finally:
            testcapi.remove_mem_hooks()
        pool.free(pool.alloc(timeout=20))
        assert pool.stats().out == 1
        parent.tell(has_failed)

    # Without the whole sweep: each of the first allocations, and of the hundreds that follow each so many'th.
    every, enough = (1, 30) if LONG else (19, 4)
    failed = undisturbed = 0
    for number in itertools.chain(range(30), itertools.count(30, every)):
        if undisturbed == enough:
            break
        with child(try_to_attach) as forked:
            has_failed = forked.hear()
            assert forked.end() == 0, number
        failed += has_failed
        undisturbed = 0 if has_failed else undisturbed + 1
    assert failed > 20
    pool.free(kept)
    assert pool.verify() == []


def test_in_a_child_of_a_fork_a_pool_that_was_closed_before_can_be_looked_at(pool_path: Path) -> None:
    pool = make(pool_path)
    pool.close()

    def look(_parent: Parent) -> None:
        assert pool.stats().out == 0
        assert "closed" in repr(pool)
        with pytest.raises(PoolClosed):
            pool.alloc()

    with child(look) as forked:
        assert forked.end() == 0


def test_a_pool_that_is_closed_while_its_gates_are_set_takes_no_more(pool_path: Path) -> None:
    number = 0
    struck = True
    while struck:
        number += 1
        pool = make(pool_path, reserve=2, limit=2)
        kept = pool.alloc()
        token = pool.offer(pool.alloc())
        struck = False

        def close(opcode: int, at: int = number, closed: SharedPool = pool) -> None:
            nonlocal struck
            if opcode == at:
                struck = True
                sys.settrace(None)
                closed.close()

        with before_each_opcode("_set_gates", close):
            try:
                pool.free(pool.recall(token))
            except PoolClosed:
                pass
        if struck:
            with pytest.raises(PoolClosed):
                pool.alloc()
        pool.free(kept)
        pool.close()
        assert has_left(pool), number
        pool.unlink()
    assert number > 5


def test_a_child_that_a_handler_forks_in_an_alloc_does_not_get_its_parents_element(
    pool_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make(pool_path)
    check_out = PoolEngine.check_out
    forked = []

    def fork_before(engine: PoolEngine, ticket: Ticket) -> None:
        forked.append(os.fork())
        check_out(engine, ticket)

    monkeypatch.setattr(PoolEngine, "check_out", fork_before)
    try:
        buffer = pool.alloc()
        status = 1
    except ClientGone:
        status = 0
    if forked[0] == 0:
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1]) == 0
    pool.free(buffer)
