"""Threads that make calls which may take long, so that an event loop does not. Kept while idle, made when all are busy.

Not an executor: one with a bound makes a resize wait for another pool's slow source, and concurrent.futures' threads are
waited for at the end of the interpreter, where a source that hangs would keep it.

To wake a thread for each call would cost more than most calls: fifty workers of one process are resized at once, and each
resize takes some microseconds. So one thread makes what has come, call after call; where it has not begun with the next
within STALLED_SECONDS, another one helps it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from mempool import native

#: Seconds after which an idle thread ends.
IDLE_SECONDS = 10.0
#: Seconds in which the next call must have begun, until another thread is had for it.
STALLED_SECONDS = 0.002
#: Seconds without a look at what stalls, after which a loop that looked looks no more.
LOOK_LOST_SECONDS = 0.1


class Threads:
    """The threads of a process, and the calls that wait for one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], object]] = deque()
        self._idle: deque[queue.SimpleQueue[bool]] = deque()
        self._serving = 0  # threads that make calls
        self._begun = 0  # calls, ever
        # By loop: one that has ended looks no more, and another one must not rely on it.
        self._looked_at: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, float] = weakref.WeakKeyDictionary()

    def call(self, work: Callable[[], object]) -> None:
        """Have a thread make this call. It must not raise. Called on an event loop."""
        with self._lock:
            self._waiting.append(work)
            is_first = self._serving == 0
            if is_first:
                self._serving += 1
        if is_first:
            self._have_another()
        loop, now = asyncio.get_running_loop(), monotonic()
        if now - self._looked_at.get(loop, -LOOK_LOST_SECONDS) > LOOK_LOST_SECONDS:
            self._looked_at[loop] = now
            loop.call_later(STALLED_SECONDS, self._look, loop, self._begun)

    def _have_another(self) -> None:
        """Have one thread more, which `_serving` counts already."""
        try:
            self._idle.pop().put(True)
            return
        except IndexError:
            pass
        try:
            native.thread(self._serve, "mempool fleet").start()
        except RuntimeError:  # no thread can be had: those there are make the call, or the next look tries again
            with self._lock:
                self._serving -= 1

    def _look(self, loop: asyncio.AbstractEventLoop, begun: int) -> None:
        """Whether the next call has begun since the last look. Ends when nothing waits."""
        with self._lock:
            is_over = not self._waiting
            is_stalled = not is_over and begun == self._begun
            if is_stalled:
                self._serving += 1
        self._looked_at[loop] = -LOOK_LOST_SECONDS if is_over else monotonic()
        if is_stalled:
            self._have_another()
        if not is_over:
            loop.call_later(STALLED_SECONDS, self._look, loop, self._begun)

    def _serve(self) -> None:
        inbox: queue.SimpleQueue[bool] = queue.SimpleQueue()
        while True:
            self._make_calls()
            self._idle.append(inbox)
            try:
                inbox.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                try:
                    self._idle.remove(inbox)
                    return
                except ValueError:
                    inbox.get()  # somebody has just taken it, and wakes it

    def _make_calls(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._serving -= 1
                    return
                work = self._waiting.popleft()
                self._begun += 1
            work()
            del work  # an idle thread keeps nothing alive


_threads: Threads = Threads()
#: Have a thread make a call; see `Threads.call`.
call: Callable[[Callable[[], object]], None] = _threads.call


class _Results:
    """What threads have for one event loop, which is woken once for all that has come."""

    def __init__(self) -> None:
        self._come: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._lock = threading.Lock()
        self._is_told = False

    def put(self, loop: asyncio.AbstractEventLoop, result: tuple[asyncio.Future[Any], Any, BaseException | None]) -> None:
        """A call has ended: its future, what it has returned, what it has raised."""
        with self._lock:
            self._come.append(result)
            is_told, self._is_told = self._is_told, True
        if not is_told:
            try:
                loop.call_soon_threadsafe(self._settle)
            except RuntimeError:
                pass  # the loop is closed, and nobody waits

    def _settle(self) -> None:
        with self._lock:
            self._is_told = False
            come = list(self._come)
            self._come.clear()
        for future, answer, error in come:
            if future.done():
                continue
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)


_results: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Results] = weakref.WeakKeyDictionary()


def begin(work: Callable[[], Any]) -> asyncio.Future[Any]:
    """Have a thread make this call. What it returns or raises comes to the running loop."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    results = _results.get(loop)
    if results is None:
        results = _results[loop] = _Results()

    def run() -> None:
        answer, failed = None, None
        try:
            answer = work()
        except BaseException as error:  # noqa: BLE001 - it is the result
            failed = error
        results.put(loop, (future, answer, failed))

    call(run)
    return future


async def in_thread(work: Callable[[], Any]) -> Any:
    """What the call returns or raises; a thread makes it. A task that is cancelled does not stop it."""
    return await begin(work)


async def in_thread_within(seconds: float, work: Callable[[], Any], otherwise: Any) -> Any:
    """`in_thread`, or after so many seconds something else; the thread goes on."""
    future = begin(work)

    def give_up() -> None:
        if not future.done():
            future.set_result(otherwise)

    timer = asyncio.get_running_loop().call_later(seconds, give_up)
    try:
        return await future
    finally:
        timer.cancel()
