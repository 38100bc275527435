"""A second process that makes every other call of a pool's, told through a pipe: for the contract of every pool.

What it takes it offers, and this process adopts it; what it is to free it adopts. So the buffers that a test sees are real
ones of its own process, and a call made there goes the whole way there: its ticket, its place in the line, its client's
words. What the memory does, the script of the test says (`make`, `drop`), and what the time is, its ManualClock says: both
are asked from there, in the middle of the call.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from shared_children import die_with_the_parent

from mempool.buffer import Buffer
from mempool.clock import Clock, Wakes
from mempool.shared.passing import Token
from mempool.shared.pool import SharedPool
from mempool.testing import ManualClock

SOON = 60  # seconds: no answer takes that long, but for that of a call that waits


class Line:
    """One end of the pipe. Sends from a thread of its own, because a finalizer may send in the middle of a `send`."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self._awaited: dict[int, Any] = {}
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._send_all, self._read_all)]

    def begin(self) -> None:
        for thread in self.threads:
            thread.start()

    def tell(self, *message: Any) -> None:
        self._out.put(message)

    def expect(self, awaited: Any) -> int:
        """The number of an answer, which is `put` there."""
        number = next(self._numbers)
        self._awaited[number] = awaited
        return number

    def ask(self, what: str, *arguments: Any) -> Any:
        """The answer of the other end, or what it raised."""
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.tell(what, self.expect(answers), *arguments)
        return self.understood(answers.get(timeout=SOON))

    @staticmethod
    def understood(answer: tuple[bool, Any]) -> Any:
        worked, value = answer
        if not worked:
            raise value
        return value

    def answer(self, number: int, make: Callable[[], Any]) -> None:
        try:
            answer = (True, make())
        except BaseException as error:  # noqa: BLE001 - raised at the other end
            answer = (False, error)
        self.tell("answer", number, answer)

    def on_answer(self, number: int, answer: Any) -> None:
        awaited = self._awaited.pop(number, None)
        if awaited is not None:
            awaited.put(answer)

    def _send_all(self) -> None:
        while (message := self._out.get()) is not None:
            try:
                data = pickle.dumps(message)
            except Exception as error:  # noqa: BLE001 - whoever waits for it hears of it
                data = pickle.dumps((*message[:2], (False, RuntimeError(f"cannot be sent: {message!r}: {error!r}"))))
            try:
                self._connection.send_bytes(data)
            except OSError:
                return  # the other end is gone

    def _read_all(self) -> None:
        while True:
            try:
                what, *arguments = pickle.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                self.end()
                return
            getattr(self, f"on_{what}")(*arguments)

    def end(self) -> None:
        self._out.put(None)


# -- there


class FarClock(Clock):
    """The clock of a test, seen from the second process."""

    shares_timers = False

    def __init__(self, far: Far, pool: int) -> None:
        self._far, self._pool = far, pool
        self._seen = threading.local()

    def now(self) -> float:
        moment: float = self._far.ask("now", self._pool)
        self._seen.now = moment
        return moment

    def _park(self, seconds: float | None, ring: Callable[[], object]) -> int:
        looked = getattr(self._seen, "now", None)
        key = self._far.expect(_Ring(ring))
        self._far.tell("park", self._pool, key, looked, seconds)
        return key

    def park(self, wakes: Wakes, seconds: float | None) -> None:
        key = self._park(seconds, lambda: wakes.put(None))
        try:
            wakes.get()
        finally:
            self._far.tell("forget", self._pool, key)

    def call_later(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], None]
    ) -> asyncio.TimerHandle:
        timer = FarTimer(self, loop, callback)
        timer.key = self._park(seconds, lambda: loop.call_soon_threadsafe(callback))
        return timer

    def forget(self, key: int) -> None:
        self._far.tell("forget", self._pool, key)


class FarTimer(asyncio.TimerHandle):
    """A timer of the test's clock."""

    def __init__(self, clock: FarClock, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        super().__init__(0.0, callback, (), loop)
        self.clock, self.key = clock, 0

    def cancel(self) -> None:
        self.clock.forget(self.key)


class _Ring:
    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring = ring

    def put(self, _answer: Any) -> None:
        self._ring()


class FarMemory:
    """What the engine there asks instead of the kernel: the script of the test."""

    def __init__(self, far: Far, pool: int, engine: Any) -> None:
        self._far, self._pool, self._engine = far, pool, weakref.ref(engine)

    def make(self, slot: int) -> bool:
        worked, said = self._far.ask("work", self._pool, "make", slot, getattr(self._far.here, "call", 0))
        engine = self._engine()
        if engine is not None and not worked:
            engine._said = said
        return bool(worked)

    def drop(self, slot: int) -> None:
        self._far.ask("work", self._pool, "drop", slot, getattr(self._far.here, "call", 0))


class FarPool(SharedPool):
    """The pool of a test, in the second process."""

    def __init__(self, far: Far, number: int, name: str, folder: Path, options: dict[str, Any]) -> None:
        self._far, self._number = far, number
        super().__init__(name, None, 0, folder=folder, **options)

    def _prepare(self, engine: Any) -> None:
        engine._tx.memory = FarMemory(self._far, self._number, engine)


class Far(Line):
    """The second process."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        super().__init__(connection)
        self.pools: dict[int, FarPool] = {}
        self.here = threading.local()
        self.tasks: dict[int, Future[Any]] = {}
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self.threads.append(threading.Thread(target=self.loop.run_forever, daemon=True))

    def on_attach(self, number: int, pool: int, *arguments: Any) -> None:
        def attach() -> None:
            self.pools[pool] = FarPool(self, pool, *arguments)

        threading.Thread(target=self.answer, args=(number, attach), daemon=True).start()

    def on_clock(self, pool: int) -> None:
        self.pools[pool]._clock = FarClock(self, pool)

    def on_call(self, number: int, pool: int, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        """In a thread of its own, or as a task of the loop."""
        if name.endswith("_async"):
            self.tasks[number] = asyncio.run_coroutine_threadsafe(
                self._run_task(number, self.pools[pool], name, arguments, options), self.loop
            )
        else:
            run = self._run, (number, self.pools[pool], name, arguments, options)
            threading.Thread(target=run[0], args=run[1], daemon=True).start()

    def _run(self, number: int, pool: FarPool, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.here.call = number
        self.answer(number, lambda: sent(pool, getattr(pool, name)(*received(pool, arguments), **options)))

    async def _run_task(
        self, number: int, pool: FarPool, name: str, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        try:
            value = await getattr(pool, name)(*arguments, **options)
        except BaseException as error:  # noqa: BLE001 - raised at the other end
            answer: tuple[bool, Any] = (False, error)
        else:
            answer = (True, sent(pool, value))
        finally:
            self.tasks.pop(number, None)
        self.tell("answer", number, answer)

    def on_cancel(self, number: int) -> None:
        task = self.tasks.get(number)
        if task is not None:
            task.cancel()

    def on_gone(self, key: int) -> None:
        """Nobody waits for that time any more."""
        self._awaited.pop(key, None)

    def on_figures(self, number: int, pool: int) -> None:
        """What the engine there alone knows."""
        engine = self.pools[pool]._engine if pool in self.pools else None
        figures = (0, 0, 0, False)  # of a pool that has outlived its test
        if engine is not None:
            figures = engine._tx.being_made - engine._tx.filling, engine._tx.disposing, engine._failures, engine._fills > 0
        self.tell("answer", number, (True, figures))

    def on_leave(self, number: int) -> None:
        """The test is over."""
        pools, self.pools = self.pools, {}
        self.answer(number, lambda: [pool.close() for pool in pools.values()])


def sent(pool: SharedPool, value: Any) -> Any:
    """Buffers as tokens."""
    if isinstance(value, Buffer):
        return pool.offer(value)
    return [sent(pool, each) for each in value] if isinstance(value, list) else value


def received(pool: SharedPool, value: Any) -> Any:
    """Tokens as buffers."""
    if isinstance(value, Token):
        return pool.adopt(value)
    return type(value)(received(pool, each) for each in value) if isinstance(value, list | tuple) else value


def serve(file: int) -> None:
    """The whole life of the second process."""
    die_with_the_parent()
    far = Far(Connection(file))
    far.begin()
    far.threads[1].join()  # until the first one has gone


# -- here


class _Later:
    """An answer that a task awaits; it may be gone."""

    def __init__(self, near: Near) -> None:
        self.near = near
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()

    def put(self, answer: Any) -> None:
        if answer[0] == "work":
            threading.Thread(target=answer[1], daemon=True).start()
        else:
            self.loop.call_soon_threadsafe(lambda: self.future.done() or self.future.set_result(answer))


class Near(Line):
    """The first process' end."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        super().__init__(Connection(os.dup(here.fileno())))
        self._socket = here
        folder = str(Path(__file__).parent)
        begin = f"import sys; sys.path.insert(0, {folder!r}); import second_process as it; it.serve({there.fileno()})"
        self.process = subprocess.Popen([sys.executable, "-c", begin], pass_fds=[there.fileno()])
        there.close()
        self.memories: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self.clocks: dict[int, ManualClock] = {}
        self._past: dict[int, ManualClock] = {}
        self.calls = 0
        self.is_over = False
        self.begin()

    def attach(self, memory: Any, name: str, folder: Path, options: dict[str, Any]) -> int:
        """The number of a pool there."""
        number = next(self._numbers)
        self.memories[number] = memory
        self.ask("attach", number, name, folder, options)
        return number

    def set_clock(self, pool: int, clock: ManualClock) -> None:
        self.clocks[pool] = clock
        self.tell("clock", pool)

    def call(self, pool: int, name: str, *arguments: Any, **options: Any) -> Any:
        """Have it called there, by a thread. What the source does meanwhile, it does in this thread here."""
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.calls += 1
        self.tell("call", self.expect(answers), pool, name, arguments, options)
        while True:
            answer = answers.get()
            if answer[0] == "work":
                answer[1]()
            else:
                return self.understood(answer)

    async def call_async(self, pool: int, name: str, *arguments: Any, **options: Any) -> Any:
        """Have it called there, by a task, which is cancelled with this one."""
        later = _Later(self)
        self.calls += 1
        number = self.expect(later)
        self.tell("call", number, pool, name, arguments, options)
        cancelled: asyncio.CancelledError | None = None
        while not later.future.done():
            try:
                await asyncio.shield(later.future)
            except asyncio.CancelledError as error:
                cancelled = error
                self.tell("cancel", number)
        if cancelled is not None:
            worked, value = later.future.result()
            raise Cancelled(value if worked else None) from cancelled
        return self.understood(later.future.result())

    # -- what is asked from there

    def clock_of(self, pool: int) -> ManualClock:
        return self.clocks.get(pool) or self._past.get(pool) or ManualClock()

    def on_now(self, number: int, pool: int) -> None:
        self.tell("answer", number, (True, self.clock_of(pool).now()))

    def on_park(self, pool: int, key: int, looked: float | None, seconds: float | None) -> None:
        clock = self.clock_of(pool)

        def ring() -> None:
            self.tell("answer", key, None)

        with clock._lock:  # as ManualClock.park does for threads of this process
            if looked is not None:
                clock._seen.now = looked
            due = float("inf") if seconds is None else clock._due(seconds)
            if due > clock._now:
                clock._alarms[pool, key] = (due, ring)
                return
        ring()

    def on_forget(self, pool: int, key: int) -> None:
        clock = self.clock_of(pool)
        with clock._lock:
            clock._alarms.pop((pool, key), None)
        self.tell("gone", key)

    def on_work(self, number: int, pool: int, what: str, slot: int, call: int) -> None:
        """In the thread that has made the call, or in one of its own."""
        memory = self.memories.get(pool)

        def work() -> tuple[bool, str | None]:
            if memory is None:
                return False, None
            worked, engine = getattr(memory, what)(slot) is not False, memory.engine()
            return worked, None if engine is None else engine._said

        awaited = self._awaited.get(call)
        run = ("work", lambda: self.answer(number, work))
        if awaited is not None:
            awaited.put(run)
        else:
            threading.Thread(target=run[1], daemon=True).start()

    def leave(self) -> None:
        """The test is over: what is there leaves its pools."""
        self.ask("leave")
        self.clocks, self._past = {}, self.clocks  # who has just woken up there still lets go of its alarms

    def close(self) -> None:
        self.is_over = True
        self._socket.shutdown(socket.SHUT_RDWR)  # a close does not end a read that is under way
        self.process.wait(SOON)
        self.end()
        for thread in self.threads:
            thread.join(SOON)
        self._connection.close()
        self._socket.close()


class Cancelled(asyncio.CancelledError):
    """Cancelled, and maybe with an answer that came in the same moment."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value
