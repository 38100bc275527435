"""Correct programs run the same with MEMPOOL_TRACK=holders: nobody is told of a deadlock that may end by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
from sweeps import LONG

#: How often each runs.
TIMES = 20 if LONG else 5
PROGRAMS = {
    "leases that executor threads take and the loop gives back": """
        import asyncio
        from concurrent.futures import ThreadPoolExecutor
        pool = Pool(Objects(bytearray), 2, limit=2)

        def take():
            lease = pool.lease()
            lease.element
            return lease

        async def job(executor):
            lease = await asyncio.get_running_loop().run_in_executor(executor, take)
            await asyncio.sleep(0)
            lease.release()

        async def main():
            with ThreadPoolExecutor(2) as executor:
                await asyncio.gather(*[job(executor) for _ in range(50)])

        asyncio.run(main())
    """,
    "elements that go through a queue to whoever gives them back": """
        import queue, threading
        pool = Pool(Objects(bytearray), 3, limit=3)
        elements = queue.SimpleQueue()

        def produce():
            for _ in range(50):
                elements.put(pool.alloc())
            elements.put(None)

        def consume():
            ends = 0
            while ends < 3:
                element = elements.get()
                ends += element is None
                if element is not None:
                    pool.free(element)

        threads = [threading.Thread(target=produce) for _ in range(3)] + [threading.Thread(target=consume)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """,
    "blocks of generators, which another thread ends": """
        import queue, threading
        pool = Pool(Objects(bytearray), 1, limit=1)
        begun = queue.SimpleQueue()

        def block():
            with pool.lease() as element:
                yield element

        def end_blocks():
            for _ in range(20):
                for _ in begun.get():
                    pass

        ending = threading.Thread(target=end_blocks)
        ending.start()
        for _ in range(20):
            generator = block()
            next(generator)
            begun.put(generator)
        ending.join()
    """,
    "a caller that goes without where it cannot have a second one": """
        pool = Pool(Objects(bytearray), 1, limit=1)
        for _ in range(20):
            with pool.lease():
                try:
                    pool.alloc(timeout=0.001)
                except PoolTimeout:
                    pass
    """,
    "a source that recovers while all who have something wait": """
        class Recovering:
            failures = 3
            def alloc(self):
                if pool_is_made and Recovering.failures:
                    Recovering.failures -= 1
                    raise MemoryError
                return bytearray(1)
            def free(self, element):
                pass
        pool_is_made = False
        pool = Pool(Recovering(), 1)
        pool_is_made = True
        with pool.lease(), pool.lease():
            pass
    """,
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("what", PROGRAMS)
def test_a_correct_program_runs_the_same_with_holders_tracked(what: str) -> None:
    """Each time of many: no DeadlockError, everything back in the end."""
    end = "stats = pool.stats(); assert (stats.out, stats.waiting) == (0, 0), stats; pool.close()"
    body = textwrap.indent(f"{textwrap.dedent(PROGRAMS[what])}\n{end}\n", "    ")
    main = (
        "def one():\n"
        "    global pool, pool_is_made, elements, begun\n" + body + f"for _ in range({TIMES}):\n    one()\nprint('all')"
    )
    program = f"from mempool import *\n{main}\n"
    child = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "MEMPOOL_TRACK": "holders"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (child.returncode, child.stdout.strip(), child.stderr) == (0, "all", "")
