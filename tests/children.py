"""A test's own process, for what would end or cripple the one that tests: limits, a lack of memory, fewer rights."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable

#: Of every script: limits as far as they are kept here, and the loss of the right to lock without a limit.
PRELUDE = """
import ctypes, mmap, os, resource, sys, sysconfig
import mempool
from mempool.sources import Memory, levels

def limit(name, size):
    kind = getattr(resource, name)
    resource.setrlimit(kind, (size, resource.getrlimit(kind)[1]))

def limit_address_space(more):
    # Without the GIL the interpreter's allocator has a GiB of addresses from the start: see ENVIRONMENT in this file.
    is_reserved = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    pages = int(open("/proc/self/statm").read().split()[5 if is_reserved else 0])
    limit("RLIMIT_DATA" if is_reserved else "RLIMIT_AS", pages * mmap.PAGESIZE + more)

def lift_limits():
    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        limit(name, resource.getrlimit(getattr(resource, name))[1])

def lose_the_right_to_lock():
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    sets[0] &= ~(1 << 14)  # CAP_IPC_LOCK; capabilities(7)
    assert libc.capset(header, sets) == 0

def fill(smallest=64 << 10):
    '''All memory that there is, in blocks down to this size. Keep what is returned.'''
    blocks, size = [], 64 << 20
    while size >= smallest:
        try:
            blocks.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        except OSError:
            size //= 2
    return blocks
"""


#: Without the GIL: what the allocator has, and nobody needs yet, is not writable, and so counts for no limit on data.
ENVIRONMENT = {"MIMALLOC_ARENA_RESERVE": "0", "MIMALLOC_EAGER_COMMIT": "0"}


def run(script: str, *arguments: str) -> str:
    """What the script prints. It must end well: neither with an exception nor by a signal."""
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *arguments]
    ended = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, f"status {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def in_child(check: Callable[[], object]) -> str:
    """Fork, and return how the child's check fails; nothing if it does not."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            check()
        except BaseException:  # noqa: BLE001 - told to the parent
            os.write(writing, traceback.format_exc()[-4000:].encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as said:  # noqa: PTH123 - a descriptor
        problem = said.read().decode()
    assert os.waitpid(child, 0) == (child, 0)
    return problem
