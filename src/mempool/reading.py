"""`pool.read(file)`: a file, a socket or a stream, piece by piece in pooled buffers."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

from mempool.buffer import exported


class Chunk:
    """A buffer of a pool with `size` bytes read into it. It is returned by the end of `with`, or by `release`.

        for chunk in pool.read(file):
            with chunk as view:  # a memoryview of what was read
                digest.update(view)

    A chunk can be passed to another thread or task, which releases it. One that is dropped is returned, with a
    ResourceWarning.
    """

    __slots__ = ("_lease", "_view", "size")

    def __init__(self, lease: Any, size: int) -> None:
        self._lease = lease
        self._view: memoryview | None = None
        self.size: int = size
        """Bytes that were read."""

    @property
    def view(self) -> memoryview:
        """The bytes that were read, shared. It ends with the chunk."""
        if self._view is None:
            self._view = memoryview(exported(self._lease.element))[: self.size]
        return self._view

    def release(self) -> None:
        """Return the buffer. Raises BufferError while anything but `view` looks at it, DoubleFree the second time."""
        self._end_view()
        self._lease.release()

    def __len__(self) -> int:
        return self.size

    def __enter__(self) -> memoryview:
        return self.view

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        self._end_view()
        self._lease.__exit__(exc_type, exc, traceback)

    def _end_view(self) -> None:
        view, self._view = self._view, None
        if view is not None:
            try:
                view.release()
            except BufferError:
                pass  # somebody looks through it: the lease says so


class Reading:
    """What `pool.read` returns: iterate over it by `for`, or by `async for` in an event loop."""

    __slots__ = ("_file", "_pool", "_timeout")

    def __init__(self, pool: Any, file: Any, timeout: float | None | Literal["default"]) -> None:
        if not any(callable(getattr(file, name, None)) for name in ("readinto", "recv_into", "read")):
            raise TypeError(
                f"pool {pool.name!r}: read() takes what has readinto (a file opened with 'rb'), recv_into (a socket) or, "
                f"for `async for`, a coroutine read (a StreamReader); {type(file).__name__} has none of them"
            )
        self._pool = pool
        self._file = file
        self._timeout = timeout

    def __iter__(self) -> Iterator[Chunk]:
        fill = getattr(self._file, "readinto", None) or getattr(self._file, "recv_into", None)
        if fill is None or inspect.iscoroutinefunction(fill):
            raise TypeError(
                f"pool {self._pool.name!r}: {type(self._file).__name__} is read by `async for`; `for` takes what has "
                "readinto or recv_into"
            )
        while True:
            lease = self._pool.lease(timeout=self._timeout)
            element = lease.element
            try:
                chunk = Chunk(lease, self._counted(_fill(fill, element)))
            except BaseException as error:
                lease.__exit__(type(error), error, None)
                raise
            if not chunk.size:
                chunk.release()
                return
            del element, lease
            yield chunk

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        fill = self._filler()
        while True:
            lease = self._pool.lease(timeout=self._timeout)
            element = await lease.__aenter__()
            try:
                chunk = Chunk(lease, self._counted(await fill(element)))
            except BaseException as error:
                await lease.__aexit__(type(error), error, None)
                raise
            if not chunk.size:
                chunk.release()
                return
            del element, lease
            yield chunk

    def _filler(self) -> Callable[[Any], Any]:
        """What reads into a buffer and is awaited."""
        readinto = getattr(self._file, "readinto", None)
        if inspect.iscoroutinefunction(readinto):
            return lambda element: _fill_async(readinto, element)
        if inspect.iscoroutinefunction(getattr(self._file, "read", None)):
            return self._copy
        if readinto is None:
            raise TypeError(
                f"pool {self._pool.name!r}: {type(self._file).__name__} has neither readinto nor a coroutine read; iterate "
                "over it with `for`, in a thread"
            )
        return lambda element: _in_worker(readinto, element)

    async def _copy(self, element: Any) -> int:
        """A StreamReader owns what it reads, so its bytes are copied once."""
        data = await self._file.read(len(element))
        element[: len(data)] = data
        return len(data)

    def _counted(self, size: int | None) -> int:
        if size is None:
            raise BlockingIOError(
                f"pool {self._pool.name!r}: {type(self._file).__name__} does not block and has nothing to read now; wait "
                "until it has, or make it blocking"
            )
        return size


def _fill(function: Callable[[Any], Any], element: Any) -> Any:
    """Where handles cannot export their memory it is handed a view, which ends here, and not later with a thread."""
    whole = exported(element)
    if whole is element:
        return function(element)
    with whole:
        return function(whole)


async def _fill_async(function: Callable[[Any], Any], element: Any) -> Any:
    whole = exported(element)
    if whole is element:
        return await function(element)
    with whole:
        return await function(whole)


async def _in_worker(function: Callable[[Any], Any], element: Any) -> Any:
    """Call it in a worker thread: a file on a disk would stop the loop."""
    if asyncio._get_running_loop() is not None or "trio" not in sys.modules:
        return await asyncio.to_thread(_fill, function, element)
    return await sys.modules["trio"].to_thread.run_sync(_fill, function, element)
