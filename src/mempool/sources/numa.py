"""On which NUMA node memory lies: bound before it is populated, verified afterwards. Source: mbind(2), get_mempolicy(2)."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys
from pathlib import Path

from mempool.sizes import in_words
from mempool.sources.levels import libc, map_pages, why_no_mapping

MPOL_BIND = 2
MPOL_F_NODE, MPOL_F_ADDR = 1, 2
#: Pages of a range that are asked where they lie, the first and the last among them.
ASKED = 64
#: More than any kernel is built for, which refuses to answer into less than it has.
NODES_MAX = 1024

# The C library has no wrapper for these; libnuma would be one more thing to install.
_NUMBERS = {
    "x86_64": (237, 239),
    "aarch64": (235, 236),
    "riscv64": (235, 236),
    "loongarch64": (235, 236),
    "s390x": (268, 269),
    "ppc64le": (259, 260),
}
_NODES = Path("/sys/devices/system/node")
_BITS = 8 * ctypes.sizeof(ctypes.c_ulong)


def nodes() -> list[int]:
    """The nodes of this machine that have memory; an empty list where the system does not say."""
    for file in ("has_memory", "online"):
        try:
            text = (_NODES / file).read_text("utf-8")
        except OSError:
            continue
        found: list[int] = []
        for part in filter(None, text.strip().split(",")):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
        return found
    return []


def require(node: int) -> None:
    """Raise ValueError, with the way out, where memory cannot be bound to this node or that cannot be verified."""
    if not sys.platform.startswith("linux") or platform.machine() not in _NUMBERS:
        raise ValueError(f"numa_node needs Linux on {', '.join(_NUMBERS)}; this is {sys.platform} on {platform.machine()}")
    if node not in nodes():
        raise ValueError(f"numa_node is one of {', '.join(map(str, nodes())) or 'none'}, the nodes with memory, not {node}")
    probe = map_pages(mmap.PAGESIZE, "virtual")
    address = ctypes.addressof(ctypes.c_char.from_buffer(probe))
    try:
        bind(address, mmap.PAGESIZE, node)
        verify(address, mmap.PAGESIZE, node, has_pages=False)
    except MemoryError as error:
        raise ValueError(
            f"numa_node={node}: {error}; in a container, allow mbind and get_mempolicy (CAP_SYS_NICE or a seccomp profile)"
        ) from None


def bind(address: int, length: int, node: int) -> None:
    """Have pages of this range made on this node and on no other."""
    mask = (ctypes.c_ulong * (node // _BITS + 1))()
    mask[node // _BITS] = 1 << node % _BITS
    # One more than there are bits: the kernel takes the number for a bound.
    if _call(0, address, length, MPOL_BIND, ctypes.addressof(mask), len(mask) * _BITS + 1, 0):
        said = os.strerror(ctypes.get_errno())
        raise MemoryError(f"{in_words(length)} cannot be bound to NUMA node {node}: {said}{why_no_mapping()}")


def verify(address: int, length: int, node: int, *, has_pages: bool) -> None:
    """Ask the kernel which policy holds for this range and, when it has pages, where some of them lie."""
    mode = ctypes.c_int(-1)
    mask = (ctypes.c_ulong * (NODES_MAX // _BITS))()
    if _call(1, ctypes.addressof(mode), ctypes.addressof(mask), NODES_MAX, address, MPOL_F_ADDR):
        raise MemoryError(f"the NUMA policy cannot be verified: {os.strerror(ctypes.get_errno())}")
    bound = sum(word << number * _BITS for number, word in enumerate(mask))
    if mode.value & 0xFF != MPOL_BIND or bound != 1 << node:
        raise MemoryError(f"memory was bound to NUMA node {node}, and the kernel says mode {mode.value}, nodes {bound:#b}")
    if not has_pages:
        return
    pages = -(-length // mmap.PAGESIZE)
    for page in sorted({(pages - 1) * part // max(1, min(pages, ASKED) - 1) for part in range(min(pages, ASKED))}):
        where = address + page * mmap.PAGESIZE
        if _call(1, ctypes.addressof(mode), None, 0, where, MPOL_F_NODE | MPOL_F_ADDR):
            raise MemoryError(f"the NUMA node of a page cannot be verified: {os.strerror(ctypes.get_errno())}")
        if mode.value != node:
            raise MemoryError(f"a page that was bound to NUMA node {node} lies on node {mode.value}")


def _call(which: int, *arguments: int | None) -> int:
    number = _NUMBERS[platform.machine()][which]
    # Each as wide as a register: a variadic call would cut an int to 32 bits.
    return int(libc().syscall(ctypes.c_long(number), *[ctypes.c_void_p(argument) for argument in arguments]))
