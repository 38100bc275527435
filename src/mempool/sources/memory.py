"""Memory: where the bytes of a source live. Blocks of pages, cut into regions of one size.

Pages come from the kernel by mmap and go back to it by munmap; the interpreter's allocator has no part in it. A region
that shares its block with others stays mapped until all of the block are free; then the block is unmapped at once.

No lock: take and give may be called from any thread, and by a finalizer or a signal handler in the middle of each other.
A free place is a number that lies in exactly one list, and moves from one to another within one call into C (`move`),
so whoever is interrupted, or interrupts, finds it either here or there. (Without the GIL such a call is no step for other
threads: there each takes its turn.)
"""

from __future__ import annotations

import collections
import ctypes
import itertools
import mmap
import operator
import sys
import weakref
from typing import Any, ClassVar

from mempool._core.base_decisions import renew_locks
from mempool.native import WITHOUT_GIL
from mempool.sizes import compared, in_words, parse_size
from mempool.sources import forks, headroom, levels, numa
from mempool.sources.moves import move
from mempool.sources.protocol import Room
from mempool.sources.turns import Turn, in_turn

#: Bytes. Elements smaller than it share blocks of about this size.
BLOCK = 64 << 10
#: Elements in a block at most: a deque of so many gets its room back without asking for memory. In huge pages there are
#: more, or most of the page would lie idle; there, a few hundred bytes may be needed when one is returned.
PLACES_MAX, PLACES_MAX_HUGE = 1024, 16384
#: Bytes; the largest alignment that can be asked for.
ALIGN_MAX = 2 << 20
#: Bytes; what a small element is aligned to at most if nothing is said: a cache line.
CACHE_LINE = 64
#: Blocks that are noted before those that are gone are forgotten for the first time.
SWEEP_FROM = 64


#: Of the pages of a block that nobody looks at: the block's own reference, and the one by which they are counted.
_REFERENCES_OF_A_BLOCK = 2
#: Without the GIL, of a region's window that nobody looks at: those of `give` and `_empty`, and that by which it is counted.
_REFERENCES_OF_A_WINDOW = 3


class _Byte(ctypes.Union):
    """An array of c_ubyte says that its format is "<B", one of these says "B"."""

    _fields_: ClassVar = [("byte", ctypes.c_ubyte)]


def _new_order() -> dict[_Block, None]:
    """A dict that finds its oldest entry at once; where threads would break it, one that takes longer for it."""
    return {} if WITHOUT_GIL else collections.OrderedDict()


class Memory:
    """Memory of one size and one level, taken and given back region by region.

    size: bytes of a region, as a number or in words.
    level: what is promised of each region, one of `levels.LEVELS`, see below.
    align: the address of a region is a multiple of it, a power of two up to 2 MiB; None: a page for a size of a page or
        more, else the next power of two, at most a cache line (64).
    huge: ask for transparent huge pages (a hint: how many there are only `AnonHugePages` in /proc/self/smaps tells).
        Regions smaller than such a page share one; those that would leave much of their last one idle share several.
    numa_node: have all pages made on this node and on no other; None: where the kernel likes. Verified with
        get_mempolicy(2), for the policy and for up to 64 pages of each block.
    dontfork: keep the memory out of children (madvise(2), MADV_DONTFORK), for memory that a device writes to or that is
        registered: no write of the parent needs a new page while a child lives. A child has nothing there: who looks at a
        region from before the fork, or at a view of one, is ended by SIGSEGV; `regain` brings nothing back.
    name: for messages.

    Levels, each of which includes those before it:

    virtual     Address space only; whether there is memory behind it turns out when it is written (and the kernel may
                end a process then). Not for a reserve.
    backed      Committed by the kernel. Only with vm.overcommit_memory = 2 does the kernel promise that by mapping alone:
                such a mapping is charged against CommitLimit, which `VmFlags: ac` in smaps confirms. With the settings 0
                and 1 a mapping is charged and yet no promise, so there every page is populated once; from then on it has
                a place in memory or in swap. Unlike the next level, nobody looks whether it is in memory now.
    resident    Every page populated (MADV_POPULATE_WRITE, or a touch of each page before Linux 5.14), then verified with
                mincore(2). With swap, the kernel may later move it out: it is then slow, but still there.
    locked      Also locked with mlock(2): never swapped. Verified with mincore and, for the first block, smaps.
    huge        Reserved huge pages (MAP_HUGETLB, vm.nr_hugepages), populated; never swapped. Verified with mincore and,
                for the first block, smaps.

    After a fork, the child has copies that share their pages with the parent until one of the two writes: that needs a new
    page, which may not be had, and a lock does not pass over to the child. So there `verified` says "virtual" ("backed"
    where vm.overcommit_memory is 2, which charges the child for it) as long as a region from before the fork is mapped. What
    is taken in the child has the promised level; `regain` brings the rest to it.

    What a region holds when it is taken is zero where it is fresh, and otherwise what its last user left.
    Raises ValueError or TypeError for what can never be had here; it says what is allowed.
    """

    def __init__(
        self,
        size: int | str,
        *,
        level: str = "resident",
        align: int | None = None,
        huge: bool = False,
        numa_node: int | None = None,
        dontfork: bool = False,
        name: str = "Memory",
    ) -> None:
        self.size: int = parse_size(size)
        self.level: str = level
        self.huge: bool = huge
        self.numa_node: int | None = None if numa_node is None else operator.index(numa_node)
        self.dontfork: bool = dontfork
        self.name: str = name
        try:
            self.align: int = _alignment(self.size, align)
            levels.require(level, huge=huge)
            if self.numa_node is not None:
                numa.require(self.numa_node)
            if dontfork and not sys.platform.startswith("linux"):
                raise ValueError(f"dontfork=True needs Linux, this is {sys.platform}; leave it out")
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        self._shape = _Shape(self.size, self.align, level, huge=huge)
        self._credit = 0  # bytes that may be populated before the next look at what is left
        # Blocks that have a free place, the longest open first: whoever is full again is out of the way in one step.
        self._open: dict[_Block, None] = _new_order()
        # More than there are addresses is out of memory, when it is asked for, and no error of ctypes before.
        self._window_type: Any = _Byte * self.size if WITHOUT_GIL and self.size <= sys.maxsize else None
        self._was_verified = False
        self._forks = self._whole_since = forks.count()  # the latter: when no region was from before a fork
        # All that are mapped, each by a number of its own; those that are not any more are swept out now and then.
        self._blocks: dict[int, weakref.ref[_Block]] = {}
        self._turn = Turn(self._blocks)
        self._numbers = itertools.count()
        self._sweep_at = SWEEP_FROM
        if dontfork:
            forks.register(self)

    @property
    def verified(self) -> str | None:
        """The level that each region that is mapped now has, as it was verified; None before the first was had."""
        if not self._was_verified:
            return None
        if self._whole_since != forks.count() and all(
            block.forks == forks.count() for block in self._living() if not block.is_lost
        ):
            self._whole_since = forks.count()
        if self._whole_since == forks.count() or self.level == "virtual":
            return self.level
        return "backed" if self.level != "huge" and levels.is_commit_strict() else "virtual"

    def regain(self) -> None:
        """In a forked child: bring what was taken before the fork to its level again, whoever has it. What it holds stays.

        Nothing to do elsewhere. Raises MemoryError where it cannot be had; what was brought to its level so far keeps it.
        """
        for block in self._living():
            if block.forks == forks.count() or block.is_lost:
                continue
            try:
                if self._shape.pages_wanted:
                    self._ask_headroom(self._shape.length)
                levels.back(self.level, block.address, self._shape.length, is_fresh=False)
                levels.verify_flags(self.level, block.address, strict=False)
            except (MemoryError, ctypes.ArgumentError) as error:
                raise MemoryError(f"{self.name}: after a fork, {error}; or make the pool in the child") from None
            block.forks = forks.count()
            if block.places > 1:
                self._settle(block)

    def _pin(self) -> object:
        """Before a fork: none of the blocks is unmapped in the child before `_lose` has been there."""
        return self._living()

    def _lose(self) -> None:
        """In a child: nothing is mapped where the blocks are, and the kernel may give those addresses to anybody.

        The blocks will be unmapped some day, whoever has the addresses then. So they are taken, without any memory, before
        anybody else does; where somebody was faster, they are his, and the block is never unmapped.
        """
        renew_locks(self._blocks)
        for block in self._living():
            if not block.is_lost and not levels.occupy(block.address - block.start, self._shape.mapped):
                levels.keep_for_ever(block.pages)
            block.is_lost = True

    def _living(self) -> list[_Block]:
        return [block for reference in list(self._blocks.values()) if (block := reference()) is not None]

    @in_turn
    def take(self) -> Region:
        """A region of the promised level. Raises MemoryError, with the figure that is in the way, where there is none."""
        held: list[int] = []  # a deque would be ten times as large, and every region has one
        if self._forks != forks.count():
            # In a child: the places that are free in blocks from before the fork are not of the level that is promised.
            self._open = _new_order()
            self._credit = 0
            self._forks = forks.count()
        while True:
            try:
                block = next(iter(self._open), None)
            except RuntimeError:
                continue  # it changed in between
            try:
                if block is None:
                    block = self._map()
                    move(block.free, held)
                    if block.places > 1:
                        self._open[block] = None
                else:
                    move(block.free, held)
                    if not block.free:
                        self._shut(block)
                if held:
                    return Region(self, block, held)
            except BaseException as error:
                if block is not None and held:
                    self._give_back(block, held)
                elif isinstance(error, MemoryError) and self._open:
                    continue  # meanwhile another thread has mapped a block, or a place was returned
                raise

    @in_turn
    def give(self, region: Region) -> None:
        """Take a region back; never waits.

        `region.view` is released. If somebody has a buffer of it (a NumPy array does), the place is not used again, and is
        unmapped after; a second memoryview of it goes unnoticed, and is the caller's business.
        Raises ValueError for a region that is not of this memory or was given back already.
        """
        if region._dropped:
            return  # it and its owner were garbage together, and it was finalized first
        block, held = region._block, region._held
        if region._memory is not self or block is None or not held:
            whose = "is another memory's" if region._memory is not self else "was given back already"
            raise ValueError(f"{self.name}: this region {whose}")
        window: Any = region.view.obj if WITHOUT_GIL else None
        try:
            region.view.release()
        except BufferError:
            self._retire(block, held)
        else:
            try:
                self._give_back(block, held)
            except BaseException:
                self._give_back(block, held)
                raise
        region._block = None  # whoever keeps the region does not keep the bytes
        if block.places == 1 and self._shape.length > levels.STRIDE:
            try:
                self._empty(block, window)
            except (MemoryError, ctypes.ArgumentError):
                pass  # see _map; to unmap it needs no memory

    def room_for(self, regions: int) -> Room | None:
        """None where nothing speaks against so many more; else how many there is room for, and who says so. Takes nothing.

        What is left of the machine, of control groups, of the limits of the process and of the stock of huge pages: an
        estimate, of one moment. Raises MemoryError where there is too little to ask.
        """
        shape = self._shape
        try:
            places = sum(len(block.free) for block in self._open_blocks())
            strict = self.level == "backed" and levels.is_commit_strict()
            bounds = [(headroom.addresses_left(self.level), shape.mapped)]
            if shape.pages_wanted and not strict:
                bounds.append((headroom.bytes_left(self.numa_node), shape.length))
        except (OSError, RuntimeError, SystemError, TypeError, AttributeError, ValueError):
            return None  # the system could not be asked, or blocks came and went: taking them will tell
        room: Room | None = None
        for left, length in bounds:
            regions_left = regions if left is None else left.size // length * shape.places + places
            if left is not None and regions_left < (regions if room is None else room.elements):
                wanted, rest = compared(-(-(regions - places) // shape.places) * length, left.size)
                why = f"{regions} of {in_words(self.size)} take {wanted}, and {left.whose} has {rest} left"
                room = Room(regions_left, why)
        return room

    def __repr__(self) -> str:
        return f"<{self.name}: {in_words(self.size)} each, {self.level}, aligned to {self.align}>"

    # -- blocks

    @in_turn
    def _open_blocks(self) -> tuple[_Block, ...]:
        return tuple(self._open)

    def _map(self) -> _Block:
        """A new block, of the promised level."""
        shape = self._shape
        try:
            strict = self.level == "backed" and levels.is_commit_strict()
            if shape.pages_wanted and not strict:
                self._ask_headroom(shape.length)
            pages = levels.map_pages(shape.mapped, self.level)
            base = ctypes.addressof(ctypes.c_char.from_buffer(pages))
            start = -base % shape.align
            address = base + start
            # The whole mapping, also what is only there to align it and is never touched: mappings that are alike are one
            # for the kernel, which gives a process no more than vm.max_map_count. One that is not alike is two or three.
            if self.numa_node is not None:
                numa.bind(base, shape.mapped, self.numa_node)
            if self.dontfork:
                levels.advise(base, shape.mapped, levels.MADV_DONTFORK, "stay out of children")
            if self.huge and self.level != "huge":
                levels.advise(base, shape.mapped, levels.MADV_HUGEPAGE, "be huge pages")
            levels.back(self.level, address, shape.length)
            if self.numa_node is not None:
                numa.verify(address, shape.length, self.numa_node, has_pages=self.level != "virtual" and not strict)
            if not self._was_verified:
                levels.verify_flags(self.level, address, strict=strict)
                self._was_verified = True
        except (MemoryError, ctypes.ArgumentError) as error:  # so ctypes says that it cannot have a few bytes
            raise MemoryError(f"{self.name}: {error}" if str(error) else f"{self.name}: out of memory") from None
        except (TypeError, RuntimeError, SystemError) as error:  # and so CPython, in the midst of opening a file
            raise MemoryError(f"{self.name}: the system could not be asked for its memory: {error!r}") from error
        block = _Block(pages, start, address, shape)
        self._blocks[next(self._numbers)] = weakref.ref(block)
        if len(self._blocks) >= self._sweep_at:
            self._sweep()
        return block

    def _sweep(self) -> None:
        """Forget the blocks that are unmapped. So seldom that it costs nothing: there are twice as many as live."""
        for number, reference in list(self._blocks.items()):
            if reference() is None:
                self._blocks.pop(number, None)
        self._sweep_at = max(SWEEP_FROM, 2 * len(self._blocks))

    def _ask_headroom(self, length: int) -> None:
        """Refuse what would wake the kernel's out-of-memory killer: it ends processes instead of reporting failure."""
        if self._credit < length:
            left = headroom.bytes_left(self.numa_node)
            if left is None:
                return
            if left.size < length:
                wanted, rest = compared(length, left.size)
                raise MemoryError(f"{wanted} are more than the {rest} that {left.whose} has left")
            self._credit = length + min(left.size - length, headroom.CREDIT_MAX) // 8
        self._credit -= length

    def _give_back(self, block: _Block, held: list[int]) -> None:
        """The place is free again; a block whose places are all free is unmapped. May be done again, to finish it."""
        if block.places == 1:
            held.clear()  # nobody knows of the block but the region
            return
        move(held, block.free)
        self._settle(block)

    def _empty(self, block: _Block, window: Any) -> None:
        """Give the pages of a large block, which nobody has any more, back part by part. It is unmapped right after this.

        To unmap it as it is would take the kernel's lock of this process's mappings for all of that time: see levels.STRIDE.
        window: without the GIL, that of the region that was all of the block.
        """
        if block.is_lost:
            return
        if WITHOUT_GIL:
            is_seen = sys.getrefcount(window) > _REFERENCES_OF_A_WINDOW
        else:
            block.whole.release()
            is_seen = sys.getrefcount(block.pages) > _REFERENCES_OF_A_BLOCK
        if not is_seen:  # else a second memoryview still looks at it
            levels.empty(self.level, block.address, self._shape.length)

    @in_turn
    def _retire(self, block: _Block, held: list[int]) -> None:
        """Never use this place again: somebody still looks at it. Its block is unmapped when the last view is gone."""
        move(held, block.retired)
        if block.places > 1:
            self._settle(block)

    def _settle(self, block: _Block) -> None:
        """Have the block open if it has a free place, and gone if all of them are. May be done again, to finish it."""
        if block.is_empty():
            # Out of everybody's reach first. Who else does the same comes to the same end.
            move(block.free, block.last, block.places)
            if block.is_out_of_reach():
                self._open.pop(block, None)
                return
            move(block.last, block.free, block.places)  # somebody was faster
        if block.free and block.forks == forks.count():
            try:
                self._open[block] = None
            except MemoryError:
                pass  # nobody finds its free places until the next of its regions is returned
        if not block.free:
            self._shut(block)

    def _shut(self, block: _Block) -> None:
        try:
            self._open.pop(block, None)
        finally:
            if block.free and block.forks == forks.count():
                self._open[block] = None  # one was returned in between


class Region:
    """So many bytes of a Memory, until they are given back.

    A region keeps its bytes mapped. One that is dropped without having been given back is not used again, because nobody
    knows who still looks at it.
    """

    __slots__ = ("__weakref__", "_block", "_dropped", "_held", "_memory", "address", "size", "view")

    _is_finalizing = staticmethod(sys.is_finalizing)  # here, because at the end this module's `sys` is None already

    def __init__(self, memory: Memory, block: _Block, held: list[int]) -> None:
        self._dropped = False
        self._held = held
        self._block: _Block | None = block
        self._memory = memory
        offset = held[0] * block.stride
        self.size: int = memory.size
        """Bytes."""
        self.address: int = block.address + offset
        """Where they begin."""
        first = block.start + offset
        if WITHOUT_GIL:
            # The views of one memoryview are counted by all threads at once, and not by atomics: so each region has its own.
            window = memory._window_type.from_address(self.address)
            window.block = block
            self.view: memoryview = memoryview(window)
        else:
            self.view = block.whole[first : first + memory.size]
        """The bytes: writable, contiguous, of format "B"."""

    def __del__(self) -> None:
        # One whose constructor was interrupted is taken back by `take`.
        if getattr(self, "view", None) is None or not self._held or self._is_finalizing():
            return
        if self._block is not None:
            self._dropped = True
            try:
                self._memory._retire(self._block, self._held)
            except MemoryError:  # nobody comes back to it: its place would be lost, and its block stay mapped
                self._memory._retire(self._block, self._held)

    def __repr__(self) -> str:
        return f"<Region of {in_words(self.size)} at {self.address:#x}{'' if self._held else ', given back'}>"


class _Shape:
    """How the blocks of one memory are cut."""

    __slots__ = ("align", "length", "mapped", "pages_wanted", "places", "stride")

    def __init__(self, size: int, align: int, level: str, *, huge: bool) -> None:
        page = levels.huge_page_size(level) if level == "huge" else mmap.PAGESIZE
        granule = levels.huge_page_size(level) if huge else page
        places_max = PLACES_MAX if granule == mmap.PAGESIZE else PLACES_MAX_HUGE
        self.stride: int = _round_up(size, align)
        self.places: int = max(1, min(max(BLOCK, granule) // self.stride, places_max))
        if granule > page:
            self.places = _fitting(self.stride, granule, self.places)
        # Bytes that are brought to the level. Huge pages are only had for whole ones.
        used = (self.places - 1) * self.stride + size
        self.length: int = _round_up(used, granule)
        self.align: int = max(align, granule)
        # The kernel aligns to pages: where that is not enough, the rest of the mapping is never touched.
        self.mapped: int = self.length + max(0, self.align - page)
        self.pages_wanted: bool = level in ("backed", "resident", "locked")


def _fitting(stride: int, granule: int, places: int) -> int:
    """So many regions, from this number to eight times it, that they leave an eighth of the huge pages idle at most."""
    choices = range(places, 8 * places + 1)
    return next((n for n in choices if 8 * (-n * stride % granule) <= n * stride), choices[-1])


class _Block:
    """A mapping cut into places. It is unmapped when nobody refers to it: neither a memory, nor a region, nor a view."""

    __slots__ = (
        "__weakref__",
        "address",
        "forks",
        "free",
        "is_lost",
        "last",
        "pages",
        "places",
        "retired",
        "start",
        "stride",
        "whole",
    )

    def __init__(self, pages: mmap.mmap, start: int, address: int, shape: _Shape) -> None:
        self.pages: mmap.mmap = pages
        self.whole: memoryview = memoryview(pages)
        self.forks: int = forks.count()  # after how many its memory was brought to its level
        self.is_lost: bool = False  # its memory stayed with the parent
        self.start: int = start
        self.address: int = address
        self.stride: int = shape.stride
        self.places: int = shape.places
        # Each place that is not in a region is in one of these. They have their room from the start: being returned asks for
        # no memory.
        self.free: collections.deque[int] = collections.deque(range(shape.places - 1, -1, -1))
        self.last: collections.deque[int] = collections.deque(self.free)
        self.last.clear()
        self.retired: collections.deque[int] = collections.deque()

    def is_empty(self) -> bool:
        """Whether no region is out."""
        return len(self.free) + len(self.last) + len(self.retired) >= self.places

    def is_out_of_reach(self) -> bool:
        """Whether none can be taken any more."""
        return len(self.last) + len(self.retired) >= self.places


def _alignment(size: int, align: int | None) -> int:
    if align is None:
        if size >= mmap.PAGESIZE:
            return mmap.PAGESIZE
        return min(CACHE_LINE, 1 << (size - 1).bit_length())
    align = operator.index(align)
    if not 1 <= align <= ALIGN_MAX or align & (align - 1):
        raise ValueError(f"align is a power of two from 1 to {ALIGN_MAX}, not {align}")
    return align


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
