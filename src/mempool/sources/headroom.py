"""How many bytes can still be populated before the kernel's out-of-memory killer ends a process, or mapped. Estimates."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

from mempool.sizes import in_words
from mempool.sources import levels

#: Bytes. So much of what is left may at most be credited before it is looked at again; see Memory.
CREDIT_MAX = 512 << 20

_ROOT = Path("/sys/fs/cgroup")
#: A limit from here on is none: version 1 writes a number near 2^63 for it.
_UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True)
class Left:
    """What is left, and of whose."""

    size: int
    """Bytes."""
    whose: str
    """Who sets the bound, for a message."""


def bytes_left(node: int | None = None) -> Left | None:
    """The least of what the machine (or one NUMA node) and each control group of this process has left. None: unknown."""
    found: list[Left] = []
    machine = levels.meminfo()
    if "MemAvailable" in machine:
        found.append(Left(machine["MemAvailable"] + machine.get("SwapFree", 0), "the machine"))
    if node is not None:
        on_node = levels.meminfo(f"/sys/devices/system/node/node{node}/meminfo")
        if "MemFree" in on_node:
            free = on_node["MemFree"] + on_node.get("Inactive(file)", 0) + on_node.get("Active(file)", 0)
            found.append(Left(free, f"NUMA node {node}"))
    found += [group.left() for group in groups()]
    return min(found, key=lambda left: left.size, default=None)


def addresses_left(level: str) -> Left | None:
    """The least of what may still be mapped at this level, by a limit of this process or by the kernel. None: unlimited."""
    found: list[Left] = []
    pages = _read(Path("/proc/self/statm")).split()
    for name, used in (("RLIMIT_AS", int(pages[0]) if pages else None), ("RLIMIT_DATA", _data_pages())):
        limit = levels.rlimit(name)[0]
        if limit is not None and used is not None:
            found.append(Left(max(0, limit - used * mmap.PAGESIZE), f"{name}, {in_words(limit)},"))
    machine = levels.meminfo()
    if level == "huge":
        free = machine.get("HugePages_Free", 0) - machine.get("HugePages_Rsvd", 0)
        surplus = (levels.sysctl("vm.nr_overcommit_hugepages") or 0) - machine.get("HugePages_Surp", 0)
        size = (free + max(0, surplus)) * levels.huge_page_size(level)
        found.append(Left(size, f"the stock of huge pages (vm.nr_hugepages = {levels.sysctl('vm.nr_hugepages')})"))
    elif levels.is_commit_strict() and "CommitLimit" in machine:
        found.append(Left(max(0, machine["CommitLimit"] - machine["Committed_AS"]), "vm.overcommit_memory = 2"))
    return min(found, key=lambda left: left.size, default=None)


def _data_pages() -> int | None:
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024 // mmap.PAGESIZE
    return None


@dataclass(frozen=True, slots=True)
class Group:
    """A control group that limits the memory of this process."""

    path: str
    """Its directory."""
    limit: int
    """Bytes its processes may have together."""
    used: int
    """Bytes they have."""
    reclaimable: int
    """Bytes of it that the kernel takes back when it must: cached files."""

    def left(self) -> Left:
        """What its processes can still have."""
        return Left(max(0, self.limit - self.used + self.reclaimable), f"the control group {self.path}")


def groups() -> list[Group]:
    """Each control group above this process that has a limit on memory, in version 1 and in version 2."""
    found: list[Group] = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root = _ROOT / "unified" if (_ROOT / "unified").is_dir() else _ROOT
            names = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = _ROOT / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        directory = root / path.lstrip("/")
        # In a container the path is often that of the host, and the group itself stands at the root.
        for place in (directory, *directory.parents):
            if (group := _group(place, *names)) is not None:
                found.append(group)
            if place == root:
                break
    return found


def _group(place: Path, limit: str, used: str, cached: str) -> Group | None:
    size, current = _read(place / limit).strip(), _read(place / used).strip()
    if not size.isdecimal() or not current.isdecimal() or int(size) >= _UNLIMITED:
        return None
    figures = dict(line.split() for line in _read(place / "memory.stat").splitlines())
    return Group(str(place), int(size), int(current), int(figures.get(cached, 0)))


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError:
        return ""
