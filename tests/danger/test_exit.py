"""The end of the interpreter: whoever waits then is told, and nobody keeps the process from ending."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

SOON = 60  # seconds; a process that has not ended by then never will

BEGIN = """
import asyncio, concurrent.futures, sys, threading
import mempool
from mempool.testing import wait_until

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")  # one call: threads do not mix their lines
    sys.stdout.flush()

def told(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except BaseException as error:
        say(type(error).__name__)
    else:
        say("served")

pool = mempool.Pool(mempool.Objects(bytearray), 1, limit=1, name="end", patience=None)
element = pool.alloc()
"""


def run(program: str) -> list[str]:
    """What a process says that runs this and then comes to its end. A process that does not end is an error."""
    script = BEGIN + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=SOON, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout.splitlines()


@pytest.mark.parametrize("call", ["pool.alloc", "lambda: pool.alloc_many(1)", "lambda: pool.lease().__enter__()"])
def test_a_thread_that_waits_for_ever_is_told_when_the_main_thread_ends(call: str) -> None:
    """A plain thread in the line gets PoolClosed, and the interpreter ends."""
    said = run(f"""
        threading.Thread(target=told, args=({call},)).start()
        wait_until(lambda: pool.stats().waiting == 1)
    """)
    assert said == ["PoolClosed"]


def test_the_workers_of_an_executor_that_wait_for_ever_are_told() -> None:
    """Workers of a ThreadPoolExecutor that nobody shuts down get PoolClosed; so does the work that stood in its queue."""
    said = run("""
        executor = concurrent.futures.ThreadPoolExecutor(2)
        for _ in range(4):
            executor.submit(told, pool.alloc)
        wait_until(lambda: pool.stats().waiting == 2)
    """)
    assert said == ["PoolClosed"] * 4


def test_a_task_that_waits_for_ever_in_another_threads_loop_is_told() -> None:
    """A loop in a thread ends, too: its task in the line gets PoolClosed."""
    said = run("""
        threading.Thread(target=told, args=(asyncio.run, pool.alloc_async())).start()
        wait_until(lambda: pool.stats().waiting == 1)
    """)
    assert said == ["PoolClosed"]


def test_who_begins_to_wait_during_the_end_is_told_at_once() -> None:
    """A thread that tries again after PoolClosed cannot stand in the line either."""
    said = run("""
        def again():
            told(pool.alloc)
            told(pool.alloc, timeout=60)
            told(pool.alloc_many, 1)
        threading.Thread(target=again).start()
        wait_until(lambda: pool.stats().waiting == 1)
    """)
    assert said == ["PoolClosed"] * 3


def test_a_pool_made_during_the_end_lets_nobody_wait() -> None:
    """A thread that makes another pool after PoolClosed cannot wait in that one either."""
    said = run(
        """
        def again():
            told(pool.alloc)
            another = mempool.Pool(mempool.Objects(bytearray), 1, limit=1, patience=None)
            element = another.alloc()
            told(another.alloc)
        threading.Thread(target=again).start()
        wait_until(lambda: pool.stats().waiting == 1)
    """
    )
    assert said == ["PoolClosed"] * 2


def test_a_thread_that_drains_for_ever_is_told() -> None:
    """drain() without a timeout is a wait like any other: it ends with the interpreter."""
    said = run(
        """
        parks = threading.Event()
        class Telling(mempool.clock.Clock):
            def park(self, wakes, seconds):
                parks.set()
                super().park(wakes, seconds)
        pool._clock = Telling()
        threading.Thread(target=told, args=(pool.drain,)).start()
        parks.wait()
    """
    )
    assert said == ["PoolClosed"]


def test_an_element_that_is_returned_during_the_end_is_taken_without_waiting() -> None:
    """Only waiting has ended: free and an alloc that need not wait go on until the last thread has."""
    said = run("""
        def work():
            told(pool.alloc)
            pool.free(element)
            told(pool.alloc)
            say(pool)
        threading.Thread(target=work).start()
        wait_until(lambda: pool.stats().waiting == 1)
    """)
    assert said == ["PoolClosed", "served", "<Pool 'end' reserve=1: 0 spare, 1 out, 0 in line>"]


def test_a_daemon_thread_that_waits_keeps_nothing_from_ending() -> None:
    """A daemon thread in the line, whether it is told in time or not, and elements out, in leases and pools at the end."""
    said = run("""
        threading.Thread(target=lambda: pool.alloc(), daemon=True).start()
        wait_until(lambda: pool.stats().waiting == 1)
        threading.excepthook = lambda *problem: None
        spare = mempool.Pool(mempool.Objects(bytearray), 3)
        say("bye")
    """)
    assert said == ["bye"]


def test_a_pool_in_a_cycle_is_disposed_of_at_the_end() -> None:
    """Spares of a pool that only the end of the interpreter reaches do no harm there."""
    said = run("""
        class Node: pass
        node = Node()
        node.pool, node.self = mempool.Pool(mempool.Objects(bytearray), 3), node
        node.lease = node.pool.lease()
        del node
        say("bye")
    """)
    assert said == ["bye"]


AT_THE_END = """
import sys, warnings, mempool
warnings.filterwarnings("ignore", "mempool. this is Python 3.11")  # said once, at the first pool
sys.excepthook = sys.unraisablehook = lambda *what: print("hook:", *what, file=sys.__stderr__)
pool = mempool.Pool(mempool.Buffers(4096), 2)
buffer, lease = pool.alloc(), pool.lease()
held = pool.lease()
{use}
"""


@pytest.mark.parametrize("use", ["", "held.__enter__()", "pool.close"])
def test_nothing_is_said_when_the_interpreter_ends(use: str) -> None:
    """A hook of the main program outlives the modules: their names are None when its globals die."""
    code = AT_THE_END.format(use=use)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
