"""The pure core under every schedule of its threads that a bounded search can reach.

world.py            what a scenario happens in, and what must hold when it is over
    searches.py         which schedules are tried, and before which steps a thread may be stopped
scenarios.py        what must hold, one scenario each
shared_scenarios.py the same of the pool that several processes share, each of which is a thread here
kernel_port.py      the kernel's pool, step by step as it is described, to be caught
kernel_scenarios.py the scenarios that catch it
planted.py          the core, broken on purpose, to be caught
run.py              runs all and prints a table
"""

import os

os.environ["MEMPOOL_PURE"] = "1"  # before mempool is imported: compiled code cannot be stopped between its lines
