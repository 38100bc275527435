"""Each level of memory is what it says, as the kernel sees it; what cannot be had raises, with the figure and the way."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from children import run

from mempool.sources import Memory, headroom, levels, numa
from mempool.sources import memory as memory_module

if not sys.platform.startswith("linux"):
    pytest.skip("the kernel's view of memory is read as Linux tells it", allow_module_level=True)

PAGE = mmap.PAGESIZE
SIZES = (1, 24, PAGE, 3 * PAGE + 5, 1 << 20)
#: Levels that any Linux gives for a few pages; the last two depend on the machine and have tests of their own.
ALWAYS = ("virtual", "backed", "resident")


def flags_of(address: int) -> list[str]:
    found = levels.smaps(address)
    assert found is not None
    return found["VmFlags"].split()


def absent(address: int, size: int) -> int:
    start = address - address % PAGE
    return levels.pages_absent(start, address + size - start)


# -- what is had


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("level", ALWAYS)
def test_a_region_can_be_written_whole(level: str, size: int) -> None:
    """It is a writable, contiguous buffer of bytes, of exactly the size that was asked for."""
    memory = Memory(size, level=level)
    region = memory.take()
    assert (region.view.nbytes, region.view.format, region.view.c_contiguous) == (size, "B", True)
    region.view[:] = bytes([7]) * size
    assert ctypes.string_at(region.address, size) == bytes([7]) * size
    memory.give(region)


@pytest.mark.parametrize("size", SIZES)
def test_resident_memory_is_resident_before_it_is_used(size: int) -> None:
    """Each page is there when the region is handed out."""
    memory = Memory(size)
    regions = [memory.take() for _ in range(10)]
    assert [absent(region.address, size) for region in regions] == [0] * 10
    assert memory.verified == "resident"


@pytest.mark.skipif(levels.is_commit_strict(), reason="this system charges address space, too")
def test_virtual_memory_is_address_space_only() -> None:
    """Terabytes cost nothing as long as nobody writes."""
    memory = Memory("1 TiB", level="virtual")
    region = memory.take()
    assert absent(region.address, 1 << 20) == (1 << 20) // PAGE
    memory.give(region)


def test_backed_memory_is_populated_where_a_promise_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """With vm.overcommit_memory 0 or 1, only a page that was made has a place."""
    monkeypatch.setattr(levels, "is_commit_strict", lambda: False)
    region = Memory("1 MiB", level="backed").take()
    assert absent(region.address, 1 << 20) == 0


def test_backed_memory_is_only_charged_where_a_promise_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """With vm.overcommit_memory 2 the charge is the promise."""
    monkeypatch.setattr(levels, "is_commit_strict", lambda: True)
    region = Memory("1 MiB", level="backed").take()
    assert absent(region.address, 1 << 20) == (1 << 20) // PAGE
    assert "ac" in flags_of(region.address)


def test_locked_memory_is_locked() -> None:
    """It is resident, and the kernel's own record says that it stays."""
    memory = Memory(16 * PAGE, level="locked")
    before = levels.locked_bytes()
    try:
        region = memory.take()
    except MemoryError as error:
        pytest.skip(str(error))
    assert "lo" in flags_of(region.address)
    assert absent(region.address, 16 * PAGE) == 0
    assert levels.locked_bytes() == before + 16 * PAGE
    memory.give(region)
    del region
    assert levels.locked_bytes() == before


def test_huge_memory_lies_in_huge_pages_or_says_how_to_get_them() -> None:
    """Where vm.nr_hugepages gives some, the kernel's own record tells their size; else MemoryError names it."""
    memory = Memory(100, level="huge")
    try:
        region = memory.take()
    except MemoryError as error:
        assert re.search(rf"vm\.nr_hugepages is {levels.sysctl('vm.nr_hugepages')} with \d+ free", str(error))  # noqa: PT017
        assert "sysctl vm.nr_hugepages=" in str(error)  # noqa: PT017 - one of the two ways to end
        return
    found = levels.smaps(region.address)
    assert found is not None
    assert found["KernelPageSize"] == f"{levels.huge_page_size('huge') >> 10} kB"
    region.view[:] = bytes(100)
    memory.give(region)


@pytest.mark.skipif(levels.transparent_huge_pages() in (None, "never"), reason="no transparent huge pages here")
def test_transparent_huge_pages_are_asked_for_before_the_memory_is_populated() -> None:
    """The advice stands in the kernel's record, and the memory lies so that it can be heeded."""
    whole = levels.huge_page_size("resident")
    memory = Memory(2 * whole, huge=True)
    region = memory.take()
    assert region.address % whole == 0
    assert "hg" in flags_of(region.address)
    shared = Memory(128, huge=True)
    small = [shared.take() for _ in range(whole // 128)]
    assert small[0].address % whole == 0
    assert small[-1].address == small[0].address + whole - 128  # none of it lies idle
    assert "hg" in flags_of(small[-1].address)


@pytest.mark.parametrize("level", ALWAYS)
def test_memory_lies_on_the_node_it_was_bound_to(level: str) -> None:
    """Asked of the kernel after the fact."""
    node = numa.nodes()[0] if numa.nodes() else 0
    try:
        memory = Memory(8 * PAGE, level=level, numa_node=node)
    except ValueError as error:
        pytest.skip(str(error))
    region = memory.take()
    numa.verify(region.address, 8 * PAGE, node, has_pages=level != "virtual")
    with pytest.raises(MemoryError, match=rf"bound to NUMA node {node + 1}, and the kernel says mode \d+"):
        numa.verify(region.address, 8 * PAGE, node + 1, has_pages=False)


def test_pages_that_lie_elsewhere_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy says what shall be; of the pages it is asked where they are."""
    node = numa.nodes()[0] if numa.nodes() else 0
    try:
        region = Memory(8 * PAGE, numa_node=node).take()
    except ValueError as error:
        pytest.skip(str(error))
    real = numa._call

    def lie(which: int, *arguments: Any) -> int:
        result = real(which, *arguments)
        if arguments[-1] == numa.MPOL_F_ADDR:
            ctypes.c_ulong.from_address(arguments[1]).value = 1 << node + 1
        return result

    monkeypatch.setattr(numa, "_call", lie)
    with pytest.raises(MemoryError, match=f"bound to NUMA node {node + 1} lies on node {node}"):
        numa.verify(region.address, 8 * PAGE, node + 1, has_pages=True)


@pytest.mark.parametrize("node", [0, 1, 5, 63, 64, 130])
def test_memory_is_bound_to_one_node_and_no_other(monkeypatch: pytest.MonkeyPatch, node: int) -> None:
    """Whatever its number is, which most machines have not."""
    asked: list[tuple[int, int]] = []

    def note(_which: int, _address: int, _length: int, _mode: int, mask: int, bits: int, _flags: int) -> int:
        words = (bits - 1) // numa._BITS
        asked.append(
            (sum(word << numa._BITS * n for n, word in enumerate((ctypes.c_ulong * words).from_address(mask))), bits)
        )
        return 0

    monkeypatch.setattr(numa, "_call", note)
    numa.bind(0, PAGE, node)
    ((mask, bits),) = asked
    assert mask == 1 << node
    assert node + 1 < bits <= node + 1 + numa._BITS  # one more than there are bits


def test_the_nodes_are_those_with_memory_or_all_where_the_system_says_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(numa, "_NODES", tmp_path)
    assert numa.nodes() == []
    (tmp_path / "online").write_text("0-2,5\n", "utf-8")
    assert numa.nodes() == [0, 1, 2, 5]
    (tmp_path / "has_memory").write_text("1\n", "utf-8")
    assert numa.nodes() == [1]


@pytest.mark.parametrize(
    ("text", "setting"), [("always [madvise] never\n", "madvise"), ("[always] madvise never\n", "always"), ("\n", None)]
)
def test_which_transparent_huge_pages_there_are_is_what_stands_in_brackets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, setting: str | None
) -> None:
    monkeypatch.setattr(levels, "_TRANSPARENT", tmp_path)
    assert levels.transparent_huge_pages() is None
    (tmp_path / "enabled").write_text(text, "utf-8")
    assert levels.transparent_huge_pages() == setting


def test_memory_that_nobody_bound_is_found_out() -> None:
    """The verification of a node would notice."""
    region = Memory(PAGE).take()
    with pytest.raises(MemoryError, match=r"bound to NUMA node 0, and the kernel says mode|cannot be verified"):
        numa.verify(region.address, PAGE, 0, has_pages=True)


def test_a_kernel_without_populate_gets_a_touch_of_each_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.14."""
    monkeypatch.setattr(levels, "has_populate", lambda: False)
    monkeypatch.setattr(levels, "STRIDE", 4 * PAGE)
    region = Memory(13 * PAGE).take()
    assert absent(region.address, 13 * PAGE) == 0


def test_large_memory_is_populated_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its size is no multiple of a part."""
    monkeypatch.setattr(levels, "STRIDE", 4 * PAGE)
    region = Memory(13 * PAGE).take()
    assert absent(region.address, 13 * PAGE) == 0


# -- no call of the kernel takes long: a thread that maps memory meanwhile waits for it, and the GIL with that thread


class Noting:
    """The C library, which notes the ranges that its calls are about."""

    def __init__(self) -> None:
        self._real = levels.libc()
        self.calls: list[tuple[str, int, int]] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)

        def call(address: int, length: int, *rest: Any) -> Any:
            self.calls.append((name, address, length))
            return real(address, length, *rest)

        return call


@pytest.mark.parametrize("level", ["resident", "locked"])
def test_large_memory_is_made_and_given_back_part_by_part(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """Each call of the kernel is about a part; and when the memory is unmapped, its pages have gone already."""
    assert levels.has_populate() in (True, False)  # asked of the real one
    noting = Noting()
    monkeypatch.setattr(levels, "STRIDE", 4 * PAGE)
    monkeypatch.setattr(levels, "libc", lambda: noting)
    memory = Memory(13 * PAGE, level=level)
    try:
        region = memory.take()
    except MemoryError as error:
        pytest.skip(str(error))
    start = region.address
    parts = [(start, 4 * PAGE), (start + 4 * PAGE, 4 * PAGE), (start + 8 * PAGE, 4 * PAGE), (start + 12 * PAGE, PAGE)]
    made = [(address, length) for name, address, length in noting.calls if name in {"madvise", "mlock"}]
    assert made == parts
    assert max(length for _, _, length in noting.calls) == 4 * PAGE
    noting.calls.clear()
    memory.give(region)
    assert [(address, length) for _, address, length in noting.calls] == parts


def test_the_pages_of_large_memory_go_before_it_is_unmapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left that the kernel would have to do in one step."""
    left: list[int] = []
    real = levels.empty

    def empty(level: str, address: int, length: int) -> None:
        real(level, address, length)
        left.append(length // PAGE - absent(address, length))

    monkeypatch.setattr(levels, "empty", empty)
    memory = Memory(2 * levels.STRIDE)
    memory.give(memory.take())
    assert left == [0]


@pytest.mark.parametrize("level", ALWAYS)
def test_the_kernels_record_is_read_only_where_it_says_something(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """It counts every page of the memory that was just made, in one step."""

    def smaps(_address: int) -> None:
        raise AssertionError("the kernel was asked for its record of the whole memory")

    monkeypatch.setattr(levels, "is_commit_strict", lambda: False)
    monkeypatch.setattr(levels, "smaps", smaps)
    assert Memory(PAGE, level=level).take().size == PAGE


def test_what_a_second_memoryview_looks_at_stays_as_it_is() -> None:
    """It keeps the memory mapped, and what lies in it."""
    memory = Memory(2 * levels.STRIDE)
    region = memory.take()
    region.view[:4] = b"kept"
    second = region.view[:4]
    memory.give(region)
    assert second == b"kept"


# -- a kernel that does not keep its word is found out


class Lying:
    """The C library, but for one call that says all is well and does nothing."""

    def __init__(self, call: str) -> None:
        self._real = levels.libc()
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return (lambda *_arguments: 0) if name == self._call else getattr(self._real, name)


@pytest.mark.parametrize(("level", "call"), [("resident", "madvise"), ("locked", "mlock")])
def test_pages_that_are_not_there_are_found_out(monkeypatch: pytest.MonkeyPatch, level: str, call: str) -> None:
    """mincore is asked, whatever the return code was."""
    assert levels.has_populate() in (True, False)  # asked of the real one
    liar = Lying(call)
    monkeypatch.setattr(levels, "libc", lambda: liar)
    with pytest.raises(MemoryError, match=r"16 pages were swapped out|do not stay"):
        Memory("64 KiB", level=level).take()


def test_a_lock_that_is_none_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """smaps is asked, whatever the return code was."""
    monkeypatch.setattr(levels, "lock", levels.populate)
    memory = Memory("64 KiB", level="locked")
    with pytest.raises(MemoryError, match="smaps that it is not"):
        memory.take()
    assert memory.verified is None


def test_huge_pages_that_are_none_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for them."""
    if levels.MAP_HUGETLB == 0 or not levels.has_populate():
        pytest.skip("no huge pages on this machine")
    memory = Memory("2 MiB", level="huge")
    monkeypatch.setattr(levels, "MAP_HUGETLB", 0)
    with pytest.raises(MemoryError, match=r"huge pages, and /proc/self/smaps that it is not"):
        memory.take()


# -- what cannot be had


def test_the_limit_on_locked_memory_is_named_with_both_figures() -> None:
    """And where more can be had from."""
    said = run("""
        limit("RLIMIT_MEMLOCK", 100 << 10)
        lose_the_right_to_lock()
        memory = Memory("64 KiB", level="locked")
        held = memory.take()
        try:
            memory.take()
        except MemoryError as error:
            print(error)
        held.view[:] = bytes(64 << 10)
        memory.give(held)
        del held
        memory.take()  # there is room again
    """)
    assert "64 KiB cannot be locked" in said
    assert "RLIMIT_MEMLOCK is 100 KiB" in said
    assert "64 KiB of them are in use" in said
    assert "ulimit -l" in said


@pytest.mark.parametrize("name", levels.ADDRESS_LIMITS)
def test_without_address_space_there_is_a_memory_error_that_names_the_limit(name: str) -> None:
    """For every level, and whatever was had before goes on working."""
    said = run(
        """
        NAME = sys.argv[1]
        for level in ("virtual", "backed", "resident"):
            Memory("1 MiB", level=level).take()
        kept = Memory("1 MiB").take()
        used = int(open("/proc/self/statm").read().split()[0 if NAME == "RLIMIT_AS" else 5]) * mmap.PAGESIZE
        limit(NAME, used + (8 << 20))
        for level in ("virtual", "backed", "resident"):
            try:
                Memory("64 MiB", level=level).take()
            except MemoryError as error:
                print(error)
        kept.view[:] = bytes(1 << 20)
    """,
        name,
    )
    assert len(re.findall(rf"64 MiB cannot be mapped: .*; {name} is \d+(?:\.\d)? [KMG]iB", said)) == 3


def test_what_would_wake_the_killer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than there is ends a process when it is populated; MemoryError is raised before."""
    left = headroom.bytes_left()
    if left is None:
        pytest.skip("this system does not say what is left")
    with pytest.raises(MemoryError, match=r"are more than the \d+(?:\.\d)? [KMG]iB that .* has left"):
        Memory(2 * left.size).take()
    monkeypatch.setattr(headroom, "bytes_left", lambda _node: headroom.Left(100 << 10, "the test"))
    memory = Memory("64 KiB")
    memory.take()
    monkeypatch.setattr(headroom, "bytes_left", lambda _node: headroom.Left(40, "the test"))
    with pytest.raises(MemoryError, match=r"64 KiB are more than the 40 bytes that the test has left"):
        memory.take()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"level": "lucky"}, "level is one of virtual, backed, resident, locked, huge, not 'lucky'"),
        ({"align": 3}, "align is a power of two from 1 to 2097152, not 3"),
        ({"align": 0}, "align is a power of two"),
        ({"align": -4096}, "align is a power of two"),
        ({"align": 4 << 20}, "align is a power of two"),
        ({"numa_node": 4000}, "numa_node is one of"),
        ({"numa_node": -1}, "numa_node is one of"),
    ],
)
def test_what_can_never_be_had_says_what_is_allowed(options: dict[str, Any], said: str) -> None:
    """At once, and not when memory is short."""
    with pytest.raises(ValueError, match=f"^mine: .*{re.escape(said)}"):
        Memory(100, name="mine", **options)


@pytest.mark.parametrize("size", [0, -1, "0 B", "much", 1.5, None])
def test_a_size_is_a_number_of_bytes(size: Any) -> None:
    """As for every size of this library."""
    with pytest.raises((TypeError, ValueError)):
        Memory(size)


def test_more_bytes_than_there_are_addresses_are_out_of_memory() -> None:
    """Not an overflow of somebody's counter."""
    with pytest.raises(MemoryError):
        Memory(1 << 63, level="virtual").take()


# -- other systems


def test_a_system_that_cannot_verify_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Address space it can give; a promise about memory it cannot."""
    monkeypatch.setattr(levels, "can_verify", lambda: False)
    for level in levels.LEVELS[1:]:
        with pytest.raises(ValueError, match=f"level '{level}' cannot be verified"):
            Memory(100, level=level)
    region = Memory(100, level="virtual").take()
    region.view[:] = bytes(100)


@pytest.mark.parametrize("said", [None, {"Rss": "64 kB"}])
def test_where_smaps_says_nothing_the_return_codes_do(monkeypatch: pytest.MonkeyPatch, said: dict[str, str] | None) -> None:
    """A kernel may be built without it, and a sandbox may have but a few lines of it."""
    monkeypatch.setattr(levels, "smaps", lambda _: said)
    monkeypatch.setattr(levels, "lock", levels.populate)
    monkeypatch.setattr(levels, "is_commit_strict", lambda: True)
    for level in ("backed", "locked"):
        memory = Memory(100, level=level)
        memory.give(memory.take())
        assert memory.verified == level


def test_a_system_without_posix_mappings_gives_address_space(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no limits to ask for either."""
    monkeypatch.delattr(mmap, "MAP_PRIVATE")
    monkeypatch.setattr(levels, "resource", None)
    monkeypatch.setattr(levels, "can_verify", lambda: False)
    memory = Memory(100, level="virtual")
    region = memory.take()
    region.view[:] = bytes(100)
    memory.give(region)
    with pytest.raises(MemoryError, match="cannot be mapped"):
        Memory(1 << 63, level="virtual").take()


def test_a_system_without_transparent_huge_pages_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting that would help."""
    monkeypatch.setattr(levels, "transparent_huge_pages", lambda: "never")
    with pytest.raises(ValueError, match="transparent_hugepage/enabled"):
        Memory(100, huge=True)


def test_a_system_without_nodes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory cannot be bound."""
    monkeypatch.setattr(numa.platform, "machine", lambda: "abacus")
    with pytest.raises(ValueError, match="numa_node needs Linux on x86_64"):
        Memory(100, numa_node=0)


# -- what the machine and its control groups have left


def test_each_control_group_above_this_process_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """In both versions; one without a limit does not."""
    files = {
        "one/memory/outer/memory.limit_in_bytes": "5000000",
        "one/memory/outer/memory.usage_in_bytes": "4000000",
        "one/memory/outer/memory.stat": "cache 7\ntotal_inactive_file 250000\n",
        "one/memory/outer/inner/memory.limit_in_bytes": "9223372036854771712",
        "one/memory/outer/inner/memory.usage_in_bytes": "1000",
        "one/memory/outer/inner/memory.stat": "total_inactive_file 0\n",
        "two/slice/memory.max": "3000000",
        "two/slice/memory.current": "2900000",
        "two/slice/memory.stat": "anon 1\ninactive_file 50000\n",
        "two/slice/unit/memory.max": "max",
        "two/slice/unit/memory.current": "10",
        "two/slice/unit/memory.stat": "inactive_file 0\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    real = headroom._read
    monkeypatch.setattr(headroom, "_ROOT", tmp_path / "one")
    lines = {"/proc/self/cgroup": "4:memory:/outer/inner\n1:cpu:/\n0::/elsewhere\n"}
    monkeypatch.setattr(headroom, "_read", lambda file: lines.get(str(file)) or real(file))
    assert [group.left().size for group in headroom.groups()] == [1_250_000]
    left = headroom.bytes_left()
    assert left is not None
    assert (left.size, left.whose) == (1_250_000, f"the control group {tmp_path / 'one/memory/outer'}")

    monkeypatch.setattr(headroom, "_ROOT", tmp_path / "two")
    lines["/proc/self/cgroup"] = "0::/slice/unit\n"
    assert [(group.limit, group.left().size) for group in headroom.groups()] == [(3_000_000, 150_000)]


def test_huge_pages_that_are_promised_to_others_are_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel counts those that it has promised, and not yet given, among the free ones."""
    figures = {"HugePages_Free": 7, "HugePages_Rsvd": 2, "HugePages_Surp": 1}
    monkeypatch.setattr(levels, "rlimit", lambda _name: (None, None))
    monkeypatch.setattr(levels, "meminfo", lambda *_: figures)
    monkeypatch.setattr(levels, "sysctl", lambda _name: 4)
    left = headroom.addresses_left("huge")
    assert left is not None
    assert left.size == (7 - 2 + 4 - 1) * levels.huge_page_size("huge")


def test_no_more_is_mapped_than_what_the_alignment_needs() -> None:
    """The kernel aligns to pages by itself."""
    page = mmap.PAGESIZE
    shapes = [memory_module._Shape(page, align, "mapped", huge=False) for align in (page, 4 * page)]
    assert [shape.mapped - shape.length for shape in shapes] == [0, 3 * page]
