"""The kernel's pool in the same harness. Each of these must fail: a harness that misses them proves nothing of ours."""

from __future__ import annotations

import time
from collections.abc import Callable

from verification.schedules.kernel_port import KernelPool, mempool_alloc, mempool_free, mempool_resize
from verification.schedules.world import it, together


def three_resizers() -> None:
    """The array has a place for each element that `min_nr` promises to hold."""
    with it.no_interleave():
        pool = KernelPool(10, object, lambda _element: None)
    together(
        lambda: mempool_resize(pool, 8),
        lambda: mempool_resize(pool, 3),
        lambda: mempool_resize(pool, 5),
    )
    with it.no_interleave():
        while pool.curr_nr < pool.min_nr:
            mempool_free(object(), pool)


def grow_serves_the_line() -> None:
    """No time passes while a caller waits and the pool holds an element."""
    memory: list[object] = []
    with it.no_interleave():
        pool = KernelPool(1, object, lambda _element: None)
        pool.alloc = lambda: memory.pop() if memory else None
        mempool_alloc(pool)

    def grow() -> None:
        mempool_resize(pool, 5)

    def caller() -> None:
        began = time.monotonic()  # the tool's clock, which moves only when everybody sleeps
        mempool_alloc(pool)
        assert time.monotonic() == began, f"slept {time.monotonic() - began:.0f} s beside {pool.curr_nr} elements"

    def recover() -> None:
        memory.extend(object() for _ in range(4))
        grow()

    together(caller, recover)


#: What is wrong, the scenario, and a word of what the failure says.
KERNEL: dict[str, tuple[Callable[[], None], str]] = {
    "kernel: three resizers": (three_resizers, "out of range"),
    "kernel: grow serves the line": (grow_serves_the_line, "slept 5 s"),
}
