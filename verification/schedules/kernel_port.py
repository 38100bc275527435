"""The Linux kernel's pool, step by step, so that the harness has something it must catch.

Written anew from a description of mm/mempool.c (no line of it is the kernel's). What matters is the order of steps, and
where the lock is let go. The array has a fixed number of places, as the kernel's has: one too many is an IndexError.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

#: Seconds a waiter sleeps at most before it looks again.
SLEEP_MAX = 5.0
ENOMEM = 12


class KernelPool:
    """mempool_create: the reserve is filled first."""

    def __init__(self, min_nr: int, alloc: Callable[[], object | None], free: Callable[[object], None]) -> None:
        self.lock = threading.Lock()
        self.wait = threading.Condition(threading.Lock())
        self.alloc, self.free = alloc, free  # alloc: None where no memory is to be had
        self.min_nr = min_nr
        self.curr_nr = 0
        self.elements: list[object] = [None] * min_nr
        while self.curr_nr < min_nr:
            self.add_element(alloc())

    def add_element(self, element: object) -> None:
        self.elements[self.curr_nr] = element
        self.curr_nr += 1

    def remove_element(self) -> object:
        self.curr_nr -= 1
        return self.elements[self.curr_nr]


def mempool_resize(pool: KernelPool, new_min_nr: int) -> int:
    pool.lock.acquire()
    if new_min_nr <= pool.min_nr:
        while new_min_nr < pool.curr_nr:
            element = pool.remove_element()
            pool.lock.release()
            pool.free(element)
            pool.lock.acquire()
        pool.min_nr = new_min_nr
        pool.lock.release()
        return 0
    pool.lock.release()

    new_elements: list[object] = [None] * new_min_nr

    pool.lock.acquire()
    if new_min_nr <= pool.min_nr:
        pool.lock.release()
        return 0
    new_elements[: pool.curr_nr] = pool.elements[: pool.curr_nr]
    pool.elements = new_elements
    pool.min_nr = new_min_nr

    while pool.curr_nr < pool.min_nr:
        pool.lock.release()
        element = pool.alloc()
        if element is None:
            return 0
        pool.lock.acquire()
        if pool.curr_nr < pool.min_nr:
            pool.add_element(element)
        else:
            pool.lock.release()
            pool.free(element)
            return 0
    pool.lock.release()
    return 0


def mempool_alloc(pool: KernelPool) -> object:
    while True:
        element = pool.alloc()
        if element is not None:
            return element
        with pool.lock:
            if pool.curr_nr:
                return pool.remove_element()
            pool.wait.acquire()  # prepare_to_wait: from here on a wake-up is not missed
        pool.wait.wait(SLEEP_MAX)
        pool.wait.release()


def mempool_free(element: object | None, pool: KernelPool) -> None:
    if element is None:
        return
    if pool.curr_nr < pool.min_nr:
        with pool.lock:
            kept = pool.curr_nr < pool.min_nr
            if kept:
                pool.add_element(element)
        if kept:
            with pool.wait:
                pool.wait.notify()
            return
    pool.free(element)
