"""A thread waits on a lock of its own, which is used again for each of its waits: what reaches it late, or in between."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import weakref
from typing import Any

import pytest
from callers import SOON, Caller
from children import run
from without_the_gil import IS_OFF

import mempool
from mempool import Objects, Pool, PoolTimeout, parking
from mempool.testing import assert_books, wait_until


def one_taken() -> tuple[Pool[Any], Any]:
    pool: Pool[Any] = Pool(Objects(bytearray), 1, keep=1, limit=1, patience=None)
    return pool, pool.alloc()


def test_a_wake_that_was_meant_for_an_earlier_wait_serves_nobody() -> None:
    """It is a hint: who wakes for no reason looks, and parks again."""
    pool, element = one_taken()
    waiter = Caller("waiter")
    parkers: list[Any] = waiter.does(lambda: parking._local.parked.parkers).result(SOON)
    for _ in range(3):
        waiting = waiter.does(pool.alloc)
        wait_until(lambda: pool.stats().waiting == 1)
        for parker in list(parkers):
            parker.wake()
            parker.wake()
        pool.free(element)
        assert waiting.result(SOON) is element
        for parker in list(parkers):
            parker.wake()  # late: the next wait begins with it
        with pytest.raises(PoolTimeout):
            waiter.does(lambda: pool.alloc(timeout=0.001)).result(SOON)
    pool.free(element)
    waiter.ends()
    assert_books(pool, spare=1)


def test_a_signal_handler_waits_while_its_thread_is_parked() -> None:
    """Each wait is woken by its own: the one inside first, and the one around it after that."""
    outer, of_outer = one_taken()
    inner, of_inner = one_taken()
    got: list[Any] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: got.append(inner.alloc()))
    main = threading.get_ident()

    def other() -> None:
        wait_until(lambda: outer.stats().waiting == 1)
        signal.pthread_kill(main, signal.SIGUSR1)
        wait_until(lambda: inner.stats().waiting == 1)
        outer.free(of_outer)  # the wait around it is served, and its thread is in the handler still
        inner.free(of_inner)

    helper = threading.Thread(target=other, daemon=True)
    helper.start()
    try:
        got.append(outer.alloc())
    finally:
        signal.signal(signal.SIGUSR1, before)
    helper.join(SOON)
    assert got == [of_inner, of_outer]
    inner.free(of_inner)
    outer.free(of_outer)
    assert_books(inner, spare=1)
    assert_books(outer, spare=1)


def test_what_a_thread_was_parked_on_dies_with_it() -> None:
    """And without a collection: a server may start a thread for each request."""
    pool, element = one_taken()
    refs: list[weakref.ref[Any]] = []

    def work() -> None:
        with pytest.raises(PoolTimeout):
            pool.alloc(timeout=0)
        refs.extend(weakref.ref(parker) for parker in parking._local.parked.parkers)
        refs.append(weakref.ref(parking._local.parked))

    gc.disable()
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(SOON)
        assert refs
        assert [ref() for ref in refs if ref() is not None] == []
    finally:
        gc.enable()
    pool.free(element)


def test_a_wait_has_the_pools_own_timeout_and_the_callers() -> None:
    pool: Pool[Any] = Pool(Objects(bytearray), 1, keep=1, limit=1, timeout=0.001)
    element = pool.alloc()
    with pytest.raises(PoolTimeout):
        pool.alloc()
    with pytest.raises(PoolTimeout), pool.lease():
        pass
    with pytest.raises(PoolTimeout), pool.lease(timeout=0.002):
        pass
    with pytest.raises(ValueError, match="timeout"):
        pool.alloc(timeout=-1)
    waiter = Caller("waiter")
    waiting = waiter.does(lambda: pool.alloc(timeout=None))
    wait_until(lambda: pool.stats().waiting == 1)
    pool.free(element)
    assert waiting.result(SOON) is element
    pool.free(element)
    waiter.ends()
    assert_books(pool, spare=1)


def test_who_waits_in_a_lease_returns_it_at_the_end() -> None:
    pool, element = one_taken()
    waiter = Caller("waiter")

    def use() -> bool:
        with pool.lease() as leased:
            return leased is element

    for _ in range(3):
        waiting = waiter.does(use)
        wait_until(lambda: pool.stats().waiting == 1)
        pool.free(element)
        assert waiting.result(SOON)
        assert pool.alloc() is element
    pool.free(element)
    waiter.ends()
    assert_books(pool, spare=1)


FOREIGN = """
import ctypes, threading
import mempool
from mempool import Objects, Pool, parking
from mempool.testing import wait_until

pool = Pool(Objects(bytearray), 1, keep=1, limit=1, patience=None)
libc, key = ctypes.CDLL(None), ctypes.c_uint()
still_has, parked_on, may_go_on = [], [], threading.Event()

@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def ends(_value):
    may_go_on.wait(60)
    pool.free(pool.alloc(timeout=60))
    parked_on.extend(parking._local.parked.parkers)

@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
def begins(_argument):
    pool.free(pool.alloc(timeout=60))
    still_has.extend(parking._local.parked.parkers)  # as one who has just woken it, and has not come to its next line
    assert len(still_has) == 1
    libc.pthread_setspecific(key, ctypes.c_void_p(1))

def serve():
    wait_until(lambda: pool.stats().waiting == 1)
    pool.free(element)

libc.pthread_key_create(ctypes.byref(key), ends)
element, thread = pool.alloc(), ctypes.c_ulong()
libc.pthread_create(ctypes.byref(thread), None, begins, None)
serve()
wait_until(lambda: still_has and pool.stats().out == 0)
element = pool.alloc()
still_has.clear()
may_go_on.set()
serve()
libc.pthread_join(thread, None)
assert pool.stats().out == 0
assert len(parked_on) == 1, "not on one of its own"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the threads of Linux's C library")
@pytest.mark.skipif(mempool.IMPLEMENTATION == "pure" or IS_OFF, reason="there, nothing is used again")
def test_a_thread_of_c_waits_in_each_of_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's state of it is another one each time: what it was parked on before may be gone."""
    monkeypatch.setenv("PYTHONMALLOC", "debug")  # what is gone is overwritten
    run(FOREIGN)
