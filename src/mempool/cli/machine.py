"""What this machine says of its memory, and what it gives when it is asked: the facts and trials of `mempool doctor`."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mempool import IMPLEMENTATION, __version__
from mempool.sizes import in_words
from mempool.sources import headroom, levels, numa
from mempool.sources.memory import Memory, Region

OVERCOMMIT = {
    0: "heuristic: refuses only what is obviously too much",
    1: "always: promises anything",
    2: "strict: promises no more than there is",
}
CAP_IPC_LOCK = 14


@dataclass(frozen=True, slots=True)
class Machine:
    """What the system says. Sizes in bytes; None: unlimited for a limit, unknown for anything else."""

    mempool: str
    implementation: str
    python: str
    system: str
    page_size: int
    memory: int | None
    memory_available: int | None
    swap: int | None
    swap_free: int | None
    overcommit_memory: int | None
    overcommit_ratio: int | None
    overcommit_bytes: int | None
    commit_limit: int | None
    committed: int | None
    rlimit_as: int | None
    rlimit_data: int | None
    rlimit_memlock: int | None
    rlimit_memlock_hard: int | None
    may_lock_any: bool
    locked: int
    huge_page_size: int | None
    huge_pages: int | None
    huge_pages_free: int | None
    transparent_huge_pages: str | None
    populates: bool
    mappings_max: int | None
    numa_nodes: list[int]
    control_groups: list[dict[str, Any]]
    left: int | None
    left_by: str | None


@dataclass(frozen=True, slots=True)
class Trial:
    """One kind of memory that was asked for."""

    what: str
    """Its name: a level, or what was asked for beside it."""
    held: bool
    """Whether it could be had, written whole, and verified."""
    said: str
    """How it was verified; or what stood in the way, and the way out."""
    seconds: float
    """How long it took to have it."""


def look() -> Machine:
    """Ask the system, without taking anything."""
    found = levels.meminfo()
    left = headroom.bytes_left()
    memlock, memlock_hard = levels.rlimit("RLIMIT_MEMLOCK")
    kbytes = levels.sysctl("vm.overcommit_kbytes")
    linux = sys.platform.startswith("linux")
    return Machine(
        mempool=__version__,
        implementation=IMPLEMENTATION,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        page_size=mmap.PAGESIZE,
        memory=found.get("MemTotal"),
        memory_available=found.get("MemAvailable"),
        swap=found.get("SwapTotal"),
        swap_free=found.get("SwapFree"),
        overcommit_memory=levels.sysctl("vm.overcommit_memory"),
        overcommit_ratio=levels.sysctl("vm.overcommit_ratio"),
        overcommit_bytes=None if kbytes is None else kbytes * 1024,
        commit_limit=found.get("CommitLimit"),
        committed=found.get("Committed_AS"),
        rlimit_as=levels.rlimit("RLIMIT_AS")[0],
        rlimit_data=levels.rlimit("RLIMIT_DATA")[0],
        rlimit_memlock=memlock,
        rlimit_memlock_hard=memlock_hard,
        may_lock_any=may_lock_any(),
        locked=levels.locked_bytes(),
        huge_page_size=found.get("Hugepagesize"),
        huge_pages=levels.sysctl("vm.nr_hugepages"),
        huge_pages_free=found["HugePages_Free"] - found.get("HugePages_Rsvd", 0) if "HugePages_Free" in found else None,
        transparent_huge_pages=levels.transparent_huge_pages() if linux else None,
        populates=levels.has_populate(),
        mappings_max=levels.sysctl("vm.max_map_count"),
        numa_nodes=numa.nodes(),
        control_groups=[asdict(group) for group in headroom.groups()],
        left=None if left is None else left.size,
        left_by=None if left is None else left.whose,
    )


def may_lock_any() -> bool:
    """Whether this process has CAP_IPC_LOCK, for which RLIMIT_MEMLOCK does not count."""
    with contextlib.suppress(OSError), Path("/proc/self/status").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> CAP_IPC_LOCK & 1)
    return False


def facts(machine: Machine) -> Iterator[tuple[str, str, str]]:
    """The same for a person: what, how it is, and what follows from it where that is worth a word."""
    m = machine
    yield "mempool", f"{m.mempool}, {m.implementation} core", _if(m.implementation == "pure", "slower; see README, Install")
    yield "Python", m.python, ""
    yield "system", m.system, _if(not m.populates, "no MADV_POPULATE_WRITE (Linux 5.14): pages are touched instead")
    if m.memory is not None:
        yield "memory", f"{in_words(m.memory)}, {_size(m.memory_available)} available", ""
    if m.swap is not None:
        swapless = "no swap: what is resident stays" if not m.swap else "only 'locked' and 'huge' are never swapped"
        yield "swap", f"{in_words(m.swap)}, {_size(m.swap_free)} free" if m.swap else "none", swapless
    if m.overcommit_memory is not None:
        mode = f"vm.overcommit_memory {m.overcommit_memory}, {OVERCOMMIT.get(m.overcommit_memory, 'unknown')}"
        yield "overcommit", mode, _if(m.overcommit_memory != 2, "address space is no memory: 'virtual' promises nothing")
        bound = f"{m.overcommit_ratio} % of memory" if not m.overcommit_bytes else in_words(m.overcommit_bytes)
        strict = f"CommitLimit {_size(m.commit_limit)} (swap + {bound}), committed {_size(m.committed)}"
        yield "committed", strict, _if(m.overcommit_memory != 2, "the limit holds with vm.overcommit_memory 2 only")
    yield "RLIMIT_AS", _limit(m.rlimit_as), _if(m.rlimit_as is not None, "all mappings of the process together")
    yield "RLIMIT_DATA", _limit(m.rlimit_data), _if(m.rlimit_data is not None, "its private writable mappings together")
    locked = in_words(m.locked) if m.locked else "none"
    locking = f"{_limit(m.rlimit_memlock)}, hard limit {_limit(m.rlimit_memlock_hard)}, {locked} locked"
    yield "RLIMIT_MEMLOCK", locking, _if(m.may_lock_any, "does not count: this process has CAP_IPC_LOCK")
    if m.huge_pages is not None:
        of = f" of {in_words(m.huge_page_size)}" if m.huge_page_size else ""
        yield "huge pages", f"vm.nr_hugepages {m.huge_pages}{of}, {m.huge_pages_free} free", ""
    yield "transparent", m.transparent_huge_pages or "no transparent huge pages", ""
    if m.mappings_max is not None:
        yield "mappings", f"vm.max_map_count {m.mappings_max}", ""
    if m.numa_nodes:
        yield "NUMA nodes", ", ".join(map(str, m.numa_nodes)), ""
    for group in m.control_groups:
        used = f"{in_words(group['limit'])}, {in_words(group['used'])} used"
        yield "control group", used, f"{group['path']}: beyond it the kernel ends processes"
    if not m.control_groups and sys.platform.startswith("linux"):
        yield "control group", "no limit on memory", ""
    if m.left is not None:
        yield "left", in_words(m.left), f"by {m.left_by}; more is refused with MemoryError"


def trials(size: int) -> Iterator[Trial]:
    """Ask for so many bytes of each kind, one after another, and give them back."""
    for level in levels.LEVELS:
        yield ask(level, size, level=level)
    yield ask("transparent huge pages", max(size, levels.huge_page_size("resident")), huge=True)
    for node in numa.nodes():
        yield ask(f"NUMA node {node}", size, numa_node=node)


def ask(what: str, size: int, **options: Any) -> Trial:
    """Have a region, write it whole, verify it once more, and give it back."""
    began = time.perf_counter()
    try:
        memory = Memory(size, name=what, **options)
        region = memory.take()
    except (MemoryError, ValueError) as error:
        return Trial(what, False, str(error).removeprefix(f"{what}: "), time.perf_counter() - began)
    seconds = time.perf_counter() - began
    try:
        if memory.level != "virtual":  # nobody has said that there is memory behind it
            ctypes.memset(region.address, 0xA5, region.size)
        held, said = confirm(memory, region)
        return Trial(what, held, said, seconds)
    finally:
        memory.give(region)


def confirm(memory: Memory, region: Region) -> tuple[bool, str]:
    """Look at a region from outside: what mincore and smaps say of it."""
    if memory.level == "virtual":
        return True, f"{in_words(region.size)} of address space; whether there is memory, writing tells"
    start = region.address - region.address % mmap.PAGESIZE
    length = region.address + region.size - start
    pages = -(-length // mmap.PAGESIZE)
    absent = levels.pages_absent(start, length)
    said = [f"mincore: {pages - absent} of {pages} pages resident"]
    held = not absent
    found = levels.smaps(region.address) or {}
    flags = found.get("VmFlags", "").split()
    if memory.level == "backed":
        held = True
        said.append("charged to CommitLimit" if levels.is_commit_strict() else "populated once; may be swapped")
    if memory.level == "locked" and flags:
        held = held and "lo" in flags
        said.append(f"smaps: Locked {_kbytes(found.get('Locked'))}")
    if memory.level == "huge" and found:
        said.append(f"smaps: pages of {_kbytes(found.get('KernelPageSize'))}")
    if memory.huge and found:
        held = held and not found.get("AnonHugePages", "0").startswith("0 ")
        said.append(f"smaps: AnonHugePages {_kbytes(found.get('AnonHugePages'))}")
        if not held:
            said.append("the kernel had no free huge page: memory is fragmented, or the setting is off for this process")
    if memory.numa_node is not None:
        said.append(f"get_mempolicy: bound to node {memory.numa_node}, pages lie there")
    return held, "; ".join(said)


def _if(condition: bool, note: str) -> str:
    return note if condition else ""


def _size(size: int | None) -> str:
    return "unknown" if size is None else in_words(size)


def _kbytes(told: str | None) -> str:
    """A size as /proc/self/smaps tells it: so many kB, each of 1024 bytes."""
    number, _, unit = (told or "").partition(" ")
    return in_words(int(number) * 1024) if number.isdecimal() and unit == "kB" else told or "unknown"


def _limit(limit: int | None) -> str:
    return "unlimited" if limit is None else in_words(limit)
