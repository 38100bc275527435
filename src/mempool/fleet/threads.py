"""Threads that make calls which may take long, so that an event loop does not. Kept while idle, made when all are busy.

Not an executor: one with a bound makes a resize wait for another pool's slow source, and concurrent.futures' threads are
waited for at the end of the interpreter, where a source that hangs would keep it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

#: Seconds after which an idle thread ends.
IDLE_SECONDS = 10.0

_idle: deque[queue.SimpleQueue[Callable[[], object]]] = deque()


def call(work: Callable[[], object]) -> None:
    """Have a thread make this call. It must not raise."""
    try:
        inbox = _idle.pop()
    except IndexError:
        inbox = queue.SimpleQueue()
        inbox.put(work)
        threading.Thread(target=_serve, args=(inbox,), name="mempool fleet", daemon=True).start()
    else:
        inbox.put(work)


def _serve(inbox: queue.SimpleQueue[Callable[[], object]]) -> None:
    while True:
        try:
            work = inbox.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            try:
                _idle.remove(inbox)
            except ValueError:
                continue  # somebody has just taken it, and puts work into it
            return
        work()
        del work  # an idle thread keeps nothing alive
        _idle.append(inbox)


def begin(work: Callable[[], Any]) -> asyncio.Future[Any]:
    """Have a thread make this call. What it returns or raises comes to the running loop."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(answer: Any, error: BaseException | None) -> None:
        if not future.done():
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)

    def run() -> None:
        answer, failed = None, None
        try:
            answer = work()
        except BaseException as error:  # noqa: BLE001 - it is the result
            failed = error
        try:
            loop.call_soon_threadsafe(settle, answer, failed)
        except RuntimeError:
            pass  # the loop is closed, and nobody waits

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
