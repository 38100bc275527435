"""What the kernel is asked for, and how its answer is verified: the levels of memory.

Knows nothing of pools, elements or blocks: only ranges of addresses. Whatever cannot be had raises MemoryError with the
figure that stands in the way and the way out; nothing here can end in SIGBUS or SIGSEGV, because a page is only ever
populated by a call that reports failure. It never keeps the GIL while the kernel works.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mempool.sizes import in_words

try:  # now: when memory is out, not even an import may work
    import resource
except ModuleNotFoundError:
    resource = None  # type: ignore[assignment]

#: The levels, from the weakest to the strongest. Each says all that those before it say.
LEVELS = ("virtual", "backed", "resident", "locked", "huge")

#: Bytes that one call of the kernel populates, locks, looks at or empties. Such a call holds the kernel's lock of the
#: process's mappings. A thread that maps memory meanwhile waits for it, be it in a malloc, and mostly with the GIL: an event
#: loop stands still then. So no call takes longer than a millisecond or so.
STRIDE = 4 << 20
#: How often pages that were swapped out again before they were looked at are fetched.
TRIES = 3

#: So close to the largest number of mappings, a call that failed for want of memory has most likely failed for that. (One
#: that changes a part of a mapping makes three of it; and what failed has been undone when it is counted.)
MAPPINGS_SPARE = 8

#: The limits on what a process may map.
ADDRESS_LIMITS = ("RLIMIT_AS", "RLIMIT_DATA")

MADV_DONTNEED = 4
MADV_DONTFORK = 10
MADV_HUGEPAGE = 14
MADV_POPULATE_WRITE = 23  # Linux 5.14; madvise(2)
MADV_DONTNEED_LOCKED = 24  # Linux 5.18

# Numbers that differ between processors, where the mmap module does not tell them. Source: include/uapi/asm-*/mman*.h.
_COMMON = platform.machine() in {"x86_64", "aarch64", "riscv64", "s390x", "i686", "armv7l", "loongarch64"}
MAP_HUGETLB: int = getattr(mmap, "MAP_HUGETLB", 0x40000 if _COMMON else 0)
#: Linux 4.17; mmap(2). The same number on all processors.
MAP_FIXED_NOREPLACE = 0x100000
PROT_NONE = 0
MAP_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000 if _COMMON else 0)

#: Bytes that mincore(2) returns for pages that are resident: the lowest bit is set.
_RESIDENT = bytes(range(1, 256, 2))
_TRANSPARENT = Path("/sys/kernel/mm/transparent_hugepage")


@functools.cache
def libc() -> Any:
    """The C library, with the calls that Python lacks. Each releases the GIL."""
    library = ctypes.CDLL(None, use_errno=True)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    library.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    library.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    library.mmap.restype = ctypes.c_void_p
    library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    library.syscall.restype = ctypes.c_long
    return library


# -- what this system can do


def require(level: str, *, huge: bool) -> None:
    """Raise ValueError, with the way out, where this system cannot give or cannot verify such memory."""
    if level not in LEVELS:
        raise ValueError(f"level is one of {', '.join(LEVELS)}, not {level!r}")
    if level != "virtual" and not can_verify():
        raise ValueError(
            f"level {level!r} cannot be verified on {sys.platform}, which has no mincore(2); 'virtual' is what can be had"
        )
    if level == "huge" and not (sys.platform.startswith("linux") and MAP_HUGETLB and has_populate()):
        raise ValueError(
            f"level 'huge' needs Linux 5.14 or newer, where a huge page that cannot be had is an error and not SIGBUS; "
            f"this is {platform.system()} {platform.release()} on {platform.machine()}"
        )
    if huge and level != "huge" and transparent_huge_pages() in (None, "never"):
        raise ValueError(
            "huge=True asks for transparent huge pages, and this system gives none: "
            f"write 'madvise' or 'always' to {_TRANSPARENT / 'enabled'}, or leave huge out"
        )


@functools.cache
def can_verify() -> bool:
    """Whether the system tells which pages are resident."""
    if os.name != "posix":
        return False
    try:
        libc()
    except (OSError, AttributeError):
        return False
    return True


@functools.cache
def has_populate() -> bool:
    """Whether the kernel has MADV_POPULATE_WRITE (Linux 5.14)."""
    # Of nothing at all: an advice that the kernel does not know is EINVAL all the same.
    return bool(sys.platform.startswith("linux") and libc().madvise(None, 0, MADV_POPULATE_WRITE) == 0)


def transparent_huge_pages() -> str | None:
    """The setting: always, madvise or never; None: the kernel has none."""
    try:
        text = (_TRANSPARENT / "enabled").read_text("utf-8")
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or None


@functools.cache
def huge_page_size(level: str) -> int:
    """Bytes of a huge page: of the reserved ones for level "huge", else of the transparent ones."""
    if level == "huge":
        return meminfo().get("Hugepagesize", 2 << 20)
    try:
        return int((_TRANSPARENT / "hpage_pmd_size").read_text("utf-8"))
    except (OSError, ValueError):
        return 2 << 20


def is_commit_strict() -> bool:
    """Whether the kernel promises no more memory than it has: vm.overcommit_memory = 2."""
    return sysctl("vm.overcommit_memory") == 2


def pieces_of(path: str) -> Iterator[bytes]:
    """A file of the kernel's, so much at a time.

    A file object has a buffer, of 128 KiB from CPython 3.14 on, which cannot be had where a process has no mapping left: the
    figure that says so could not be read then. `test_without_a_mapping_left_the_figure_and_the_way_out_are_named`
    """
    file = os.open(path, os.O_RDONLY)
    try:
        while piece := os.read(file, 4096):
            yield piece
    finally:
        os.close(file)


def sysctl(name: str) -> int | None:
    """A number among the kernel's settings; None where it cannot be read."""
    try:
        return int(b"".join(pieces_of("/proc/sys/" + name.replace(".", "/"))))
    except (OSError, ValueError):
        return None


def meminfo(path: str = "/proc/meminfo") -> dict[str, int]:
    """The kernel's own count of memory; bytes, pages for HugePages_*. Of one NUMA node: its own file."""
    figures: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in Path(path).read_text("utf-8").splitlines():
            name, _, rest = line.rpartition(":")
            number, *unit = rest.split()
            figures[name.split()[-1]] = int(number) * (1024 if unit else 1)
    return figures


def rlimit(name: str) -> tuple[int | None, int | None]:
    """The soft and the hard limit of that name, RLIMIT_AS for example; None: unlimited, or there is no such limit."""
    if resource is None or not hasattr(resource, name):
        return None, None
    soft, hard = resource.getrlimit(getattr(resource, name))
    return None if soft == resource.RLIM_INFINITY else soft, None if hard == resource.RLIM_INFINITY else hard


# -- asking


def map_pages(length: int, level: str) -> mmap.mmap:
    """Address space of so many bytes, private to this process. With level "huge", set aside by the kernel already."""
    try:
        if not hasattr(mmap, "MAP_PRIVATE"):
            return mmap.mmap(-1, length)
        # Private, so that after a fork neither process writes into the other's elements.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        if level == "virtual":
            flags |= MAP_NORESERVE
        elif level == "huge":
            flags |= MAP_HUGETLB
        return mmap.mmap(-1, length, flags=flags)
    except (OSError, OverflowError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise MemoryError(f"{in_words(length)} cannot be mapped: {said}{_why_not_mapped(length, level)}") from None


def _why_not_mapped(length: int, level: str) -> str:
    if level == "huge":
        found, page = meminfo(), huge_page_size(level)
        return (
            f"; needed are {-(-length // page)} huge pages of {in_words(page)}, vm.nr_hugepages is "
            f"{sysctl('vm.nr_hugepages')} with {found.get('HugePages_Free', 0) - found.get('HugePages_Rsvd', 0)} free: "
            "raise it with `sysctl vm.nr_hugepages=N`"
        )
    # RLIMIT_DATA counts private writable mappings too, since Linux 4.7.
    said = why_no_mapping() + "".join(
        f"; {name} is {in_words(limit)}" for name in ADDRESS_LIMITS if (limit := rlimit(name)[0]) is not None
    )
    if is_commit_strict():
        found = meminfo()
        committed, promised = in_words(found["Committed_AS"]), in_words(found["CommitLimit"])
        said += f"; vm.overcommit_memory is 2, {committed} of {promised} are committed"
    return said


def why_no_mapping() -> str:
    """For the message of a call that may have needed one mapping more than the kernel gives a process; else nothing."""
    most, used = sysctl("vm.max_map_count"), mappings()
    if most is None or used < most - MAPPINGS_SPARE:
        return ""
    return (
        f"; this process has {used} mappings, and vm.max_map_count is {most}: raise it with `sysctl vm.max_map_count=N`, or "
        "use fewer and larger elements"
    )


def mappings() -> int:
    """How many mappings this process has: lines of /proc/self/maps; 0: the system does not say."""
    try:
        return sum(piece.count(b"\n") for piece in pieces_of("/proc/self/maps"))
    except OSError:
        return 0


def advise(address: int, length: int, advice: int, what: str) -> None:
    """madvise(2) about a range. what: what it is advised to be, for the message."""
    if libc().madvise(address, length, advice):
        said = _strerror()
        raise MemoryError(f"{in_words(length)} cannot be advised to {what}: {said}{why_no_mapping()}")


def occupy(address: int, length: int) -> bool:
    """Take these addresses, to which nobody may write or read. False: somebody has a part of them."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE
    found = libc().mmap(address, length, PROT_NONE, flags, -1, 0)
    if found == address:
        return True
    if found != ctypes.c_void_p(-1).value:
        libc().munmap(found, length)  # a kernel before 4.17 takes the address for a wish
    return False


def keep_for_ever(thing: object) -> None:
    """Have this object never finalized, not even at the end of the interpreter."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def back(level: str, address: int, length: int, *, is_fresh: bool = True) -> None:
    """Have the kernel bring this range to that level, and verify that it has.

    is_fresh: nobody has written to it, and it may be filled with zeros.
    """
    if not is_fresh and level not in ("virtual", "locked") and not has_populate():
        raise MemoryError(f"{in_words(length)} that are in use can be populated by Linux 5.14 or newer only")
    if level == "backed" and not is_commit_strict():
        populate(address, length)
    elif level in ("resident", "locked", "huge"):
        for _ in range(TRIES):
            if level == "locked":
                lock(address, length)
            else:
                populate(address, length)
            absent = pages_absent(address, length)
            if not absent:
                return
        raise MemoryError(
            f"{in_words(length)} do not stay: {absent} pages were swapped out as soon as they had been populated"
        )


def populate(address: int, length: int) -> None:
    """Have every page of a fresh range made for writing. A page that cannot be had is MemoryError."""
    if not has_populate():
        # Private anonymous pages, all zero already; a write to one can fail in no way that it survives.
        ctypes.memset(address, 0, length)
        return
    for start, part in _parts(address, length):
        while libc().madvise(start, part, MADV_POPULATE_WRITE):
            if ctypes.get_errno() != errno.EINTR:
                raise MemoryError(f"{in_words(length)} cannot be populated: {_strerror()}")


def empty(level: str, address: int, length: int) -> None:
    """Give the pages of a range back, which is then unmapped in no time; whoever reads it until then finds zeros.

    Where the kernel refuses, unmapping takes them all the same: it does not know this advice before Linux 5.18 if they are
    locked or huge.
    """
    advice = MADV_DONTNEED_LOCKED if level == "locked" else MADV_DONTNEED
    if sys.platform.startswith("linux"):
        for start, part in _parts(address, length):
            if libc().madvise(start, part, advice):
                return


def _parts(address: int, length: int) -> Iterator[tuple[int, int]]:
    """Where the parts of a range begin, and how long they are: see STRIDE."""
    for start in range(address, address + length, STRIDE):
        yield start, min(STRIDE, address + length - start)


def lock(address: int, length: int) -> None:
    """Make a range resident for good, never swapped. MemoryError names RLIMIT_MEMLOCK where that is in the way."""
    if not any(libc().mlock(start, part) for start, part in _parts(address, length)):
        return
    said = _strerror()
    soft, hard = rlimit("RLIMIT_MEMLOCK")
    if soft is None:
        raise MemoryError(f"{in_words(length)} cannot be locked: {said}{why_no_mapping()}")
    raise MemoryError(
        f"{in_words(length)} cannot be locked: {said}{why_no_mapping()}; RLIMIT_MEMLOCK is {in_words(soft)} "
        f"(at most {_words(hard)}), {in_words(locked_bytes())} of them are in use: raise it with `ulimit -l`, "
        "LimitMEMLOCK= or limits.conf, or give CAP_IPC_LOCK"
    )


# -- verifying


def pages_absent(address: int, length: int) -> int:
    """How many pages of a range are not resident now. Source: mincore(2)."""
    absent = 0
    for start, part in _parts(address, length):
        states = ctypes.create_string_buffer(-(-part // mmap.PAGESIZE))
        if libc().mincore(start, part, states):
            raise MemoryError(f"{in_words(part)} cannot be verified to be resident: {_strerror()}")
        absent += len(states.raw.translate(None, _RESIDENT))
    return absent


def verify_flags(level: str, address: int, *, strict: bool) -> None:
    """What neither a return code nor mincore says: read it from /proc/self/smaps. Slow; MemoryError where it is not so.

    Not read where it says nothing: the kernel counts all pages for it, and holds its lock meanwhile, see STRIDE.
    """
    if level in ("virtual", "resident") or (level == "backed" and not strict):
        return
    found = smaps(address) or {}  # where there is no such file or no such line, the kernel's return codes must do
    flags = found.get("VmFlags", "lo ac").split()
    page = f"{huge_page_size(level) >> 10} kB"
    if level == "locked" and "lo" not in flags:
        raise MemoryError("the kernel said that the memory is locked, and /proc/self/smaps that it is not")
    if level == "huge" and found.get("KernelPageSize", page) != page:
        raise MemoryError("the kernel said that the memory is in huge pages, and /proc/self/smaps that it is not")
    if level == "backed" and strict and "ac" not in flags:
        raise MemoryError("the kernel said that the memory is committed, and /proc/self/smaps that it is not")


def smaps(address: int) -> dict[str, str] | None:
    """What the kernel says of the mapping that holds this address, and its Range; None where it says nothing."""
    found: dict[str, str] | None = None
    try:
        with Path("/proc/self/smaps").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                first, _, last = line.split(" ", 1)[0].partition("-")
                if " " not in name and value.startswith(" "):
                    if found is not None:
                        found[name] = value.strip()
                elif found is not None:
                    break
                elif int(first, 16) <= address < int(last, 16):
                    found = {"Range": f"{first}-{last}"}
    except OSError:
        return None
    return found


def locked_bytes() -> int:
    """Bytes that this process has locked."""
    with contextlib.suppress(OSError), Path("/proc/self/status").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("VmLck:"):
                return int(line.split()[1]) * 1024
    return 0


def _strerror() -> str:
    return os.strerror(ctypes.get_errno())


def _words(limit: int | None) -> str:
    return "any number" if limit is None else in_words(limit)
