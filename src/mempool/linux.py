"""mempool.linux: the kernel's own names, with the kernel's own meaning, on the same Pool.

For following code and texts about the kernel line by line. What a call returns, which element it is, and which calls of
`alloc_fn` and `free_fn` it makes in which order are the kernel's (Linux 6.19) for every sequence of calls in one
thread; NULL is None. Between threads the Pool's rules hold: where the kernel sleeps, the line serves the first come
first, and asks `alloc_fn` by itself after 50 ms and then in doubling steps; a resize has one moment.

    mempool_create            mempool_create_slab_pool    mempool_create_kmalloc_pool   mempool_create_page_pool
    mempool_alloc             mempool_alloc_preallocated  mempool_alloc_bulk
    mempool_free              mempool_free_bulk
    mempool_resize            mempool_is_saturated        mempool_destroy
    mempool_alloc_slab ...    what the ready-made pools call
    GFP_KERNEL ...            how hard `alloc_fn` may try, and whether the call may sleep

What they make is a `Mempool`, a Pool whose `keep` is its reserve, so that the source is always asked first. All that a
Pool can do it can do too: `pool.stats()`, `with pool.lease()`. Such calls ask `alloc_fn` with GFP_KERNEL.

There is no mempool_init and no mempool_exit: Python embeds no structure in another.
"""

from __future__ import annotations

import errno
import mmap
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Generic, TypeVar, cast

from mempool import Buffer, Buffers, Pool, Source
from mempool.sizes import parse_size
from mempool.sources.entering import was_entered

T = TypeVar("T")
D = TypeVar("D")

__all__ = [
    "GFP_ATOMIC",
    "GFP_KERNEL",
    "GFP_NOFS",
    "GFP_NOIO",
    "GFP_NOWAIT",
    "__GFP_DIRECT_RECLAIM",
    "__GFP_FS",
    "__GFP_HIGH",
    "__GFP_IO",
    "__GFP_KSWAPD_RECLAIM",
    "__GFP_MEMALLOC",
    "__GFP_NOFAIL",
    "__GFP_NOMEMALLOC",
    "__GFP_NORETRY",
    "__GFP_NOWARN",
    "__GFP_RECLAIM",
    "__GFP_RETRY_MAYFAIL",
    "__GFP_ZERO",
    "KmemCache",
    "Mempool",
    "mempool_alloc",
    "mempool_alloc_bulk",
    "mempool_alloc_pages",
    "mempool_alloc_preallocated",
    "mempool_alloc_slab",
    "mempool_create",
    "mempool_create_kmalloc_pool",
    "mempool_create_page_pool",
    "mempool_create_slab_pool",
    "mempool_destroy",
    "mempool_free",
    "mempool_free_bulk",
    "mempool_free_pages",
    "mempool_free_slab",
    "mempool_is_saturated",
    "mempool_kfree",
    "mempool_kmalloc",
    "mempool_resize",
]

# -- masks
#
# The values are those of Linux 6.19. The pool itself looks at __GFP_DIRECT_RECLAIM, __GFP_IO and __GFP_ZERO; the others
# are for `alloc_fn`. Inside a class Python rewrites names that begin with two underscores: rename them first.

__GFP_HIGH: Final = 1 << 5  #: Urgent: may use what the system keeps for emergencies.
__GFP_IO: Final = 1 << 6  #: May start input and output to get memory back.
__GFP_FS: Final = 1 << 7  #: May call into file systems to get memory back.
__GFP_ZERO: Final = 1 << 8  #: Zeroed memory. A pool cannot promise that: spares come as they were freed.
__GFP_DIRECT_RECLAIM: Final = 1 << 10  #: The caller may sleep: for memory to be got back, and in the line.
__GFP_KSWAPD_RECLAIM: Final = 1 << 11  #: May have memory got back by somebody else, in the background.
__GFP_RECLAIM: Final = __GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM  #: Both ways of getting memory back.
__GFP_NOWARN: Final = 1 << 13  #: A failure is not reported.
__GFP_RETRY_MAYFAIL: Final = 1 << 14  #: Tries again as long as there is progress, then fails.
__GFP_NOFAIL: Final = 1 << 15  #: Tries for ever.
__GFP_NORETRY: Final = 1 << 16  #: Gives up soon.
__GFP_MEMALLOC: Final = 1 << 17  #: May use all memory there is: the caller is about to free some.
__GFP_NOMEMALLOC: Final = 1 << 19  #: Must not use what the system keeps for emergencies.

GFP_KERNEL: Final = __GFP_RECLAIM | __GFP_IO | __GFP_FS  #: May do everything, and sleep: the usual mask.
GFP_NOFS: Final = __GFP_RECLAIM | __GFP_IO  #: For file systems: may sleep, but not call into file systems.
GFP_NOIO: Final = __GFP_RECLAIM  #: For block devices: may sleep, but not start input and output.
GFP_ATOMIC: Final = __GFP_HIGH | __GFP_KSWAPD_RECLAIM  #: Must not sleep, and is urgent.
GFP_NOWAIT: Final = __GFP_KSWAPD_RECLAIM | __GFP_NOWARN  #: Must not sleep, and has another way when it fails.

#: The mask of the call that is under way in this context. Each thread and each task has its own, and a call within an
#: `alloc_fn` sets and restores it like any other.
_mask_now: ContextVar[int] = ContextVar("gfp_mask", default=GFP_KERNEL)


@contextmanager
def _asking_with(gfp_mask: int) -> Iterator[None]:
    """Have the source ask `alloc_fn` with this mask."""
    token = _mask_now.set(gfp_mask)
    try:
        yield
    finally:
        _mask_now.reset(token)


# -- the pool


class _Callbacks(Generic[T, D]):
    """The source that a pair of C-like functions is. None stands for NULL: there is no memory."""

    def __init__(self, alloc_fn: Callable[[int, D], T | None], free_fn: Callable[[T, D], object], pool_data: D) -> None:
        if not (callable(alloc_fn) and callable(free_fn)):
            raise TypeError(
                "mempool_create: alloc_fn(gfp_mask, pool_data) and free_fn(element, pool_data) are functions, not "
                f"{alloc_fn!r} and {free_fn!r}"
            )
        self._alloc_fn = alloc_fn
        self._free_fn = free_fn
        self._pool_data = pool_data

    def alloc(self) -> T:
        element = self._alloc_fn(_mask_now.get(), self._pool_data)
        if element is None:
            raise MemoryError("alloc_fn returned None")
        return element

    def free(self, element: T, /) -> None:
        try:
            self._free_fn(element, self._pool_data)
        except BaseException as error:
            if was_entered(self._free_fn, error):
                raise
            self._free_fn(element, self._pool_data)  # once more: who frees an element does not come back
            if not isinstance(error, MemoryError):
                raise


class Mempool(Pool[T]):
    """A Pool whose `keep` is its reserve; made by `mempool_create` and its kin. Kernel: struct mempool.

    One made for `min_nr` 0 promises nothing, yet holds one element, so that a free serves somebody who waits: as a Pool
    it has a reserve of 1 until it is resized. Change the size with `mempool_resize`, which moves `keep` along.
    """

    __slots__ = ("_was_made_for_none",)  # as in Pool: a __dict__ would slow each call down

    _batch_max = 1  # the kernel makes and disposes of one at a time, and looks again in between
    _rests = False  # the kernel asks each time
    _collects = False  # the kernel has no garbage

    def __init__(self, min_nr: int, source: Source[T]) -> None:
        self._was_made_for_none = min_nr == 0
        places = 1 if min_nr == 0 else min_nr
        super().__init__(source, places, keep=places)

    @property
    def min_nr(self) -> int:
        """How many elements are promised. Kernel: the field of that name."""
        now = self._engine.snapshot()
        if self._was_made_for_none and now.resizes == 0:
            return 0
        return int(now.reserve)


def mempool_create(
    min_nr: int, alloc_fn: Callable[[int, D], T | None], free_fn: Callable[[T, D], object], pool_data: D
) -> Mempool[T] | None:
    """Make a pool that promises `min_nr` elements, and fill it. One for 0 promises nothing and holds one element.

    alloc_fn: called as alloc_fn(gfp_mask, pool_data); makes an element, or returns None (or raises MemoryError) when it
        cannot.
    free_fn: called as free_fn(element, pool_data); disposes of an element.
    pool_data: anything; handed to both.

    Returns None when memory runs out on the way; what was made is disposed of, the last first. Raises ValueError or
    TypeError for what is not a number of elements, and whatever else the functions raise. Kernel: mempool_create.
    """
    source = _Callbacks(alloc_fn, free_fn, pool_data)
    with _asking_with(GFP_KERNEL):
        try:
            return Mempool(min_nr, source)
        except MemoryError:
            return None


def mempool_destroy(pool: Mempool[Any] | None) -> None:
    """Dispose of the elements that the pool holds, the last first, and hand out nothing any more. None is ignored.

    An element still out is disposed of when it is freed (in the kernel, a bug). An alloc raises PoolClosed.
    Kernel: mempool_destroy, mempool_exit.
    """
    if pool is not None:
        pool.close()


def mempool_resize(pool: Mempool[Any], new_min_nr: int) -> int:
    """Change the promise to `new_min_nr` elements, at least 1, live. Returns 0 or -ENOMEM.

    Smaller: what is held beyond it is disposed of, the last first. Larger: elements are made (GFP_KERNEL) until the
    promise is covered or memory runs out; that is 0 too, and later frees fill the rest; `pool.guarantee()` tells.
    -ENOMEM: not even the list of places could be had, and nothing has changed. Elements are made and disposed of
    one by one; an `alloc_fn` or `free_fn` may call the pool in between.

    Raises ValueError for 0 and less, where the kernel stops the machine, PoolClosed, and what the pool's functions
    raise. Kernel: mempool_resize.
    """
    if new_min_nr <= 0:
        raise ValueError(
            f"pool {pool.name!r}: a pool is resized to 1 element or more, not to {new_min_nr}; mempool_destroy ends it"
        )
    old_min_nr = pool.min_nr
    with _asking_with(GFP_KERNEL):
        try:
            if old_min_nr == 0 and new_min_nr == 1:
                # To the Pool this is no growth: its reserve is 1 already. To the kernel it is, and growth fills.
                pool.resize(0, keep=1)
            pool.resize(new_min_nr, keep=new_min_nr)
        except MemoryError:
            if new_min_nr > old_min_nr == pool.min_nr:
                return -errno.ENOMEM
            raise  # not the list of places: the targets have changed, or had no need of one
    return 0


def mempool_is_saturated(pool: Mempool[Any]) -> bool:
    """Whether the pool holds all it promises; a free would then go to `free_fn`. Kernel: mempool_is_saturated."""
    return pool.curr_nr >= pool.min_nr


# -- allocating


def mempool_alloc(pool: Mempool[T], gfp_mask: int) -> T | None:
    """Take an element. None only where the mask forbids to sleep: it lacks __GFP_DIRECT_RECLAIM.

    Asks `alloc_fn` without leave to sleep or to start input and output; then takes a spare, the last first; then, if
    the mask allows more than that, asks `alloc_fn` with all it allows; then takes a spare that has come meanwhile; then
    waits in the pool's line, asking `alloc_fn` again from time to time. `alloc_fn` always sees __GFP_NOMEMALLOC,
    __GFP_NORETRY and __GFP_NOWARN as well: it has a pool to fall back on.

    Warns of __GFP_ZERO, which spares do not heed. Raises PoolClosed, and what `alloc_fn` raises that is not
    MemoryError. Kernel: mempool_alloc.
    """
    if gfp_mask & __GFP_ZERO:
        warnings.warn(
            f"pool {pool.name!r}: __GFP_ZERO: a spare comes as it was freed; clear the element yourself",
            RuntimeWarning,
            stacklevel=2,
        )
    taken = _take(pool, 1, gfp_mask)
    return None if taken is None else taken[0]


def mempool_alloc_preallocated(pool: Mempool[T]) -> T | None:
    """Take a spare, the last first, or None. Never asks `alloc_fn`, never waits. Kernel: mempool_alloc_preallocated.

    Raises PoolClosed.
    """
    return pool.alloc_reserved()


def mempool_alloc_bulk(
    pool: Mempool[T], elems: list[T | None], count: int | None = None, allocated: int | None = None
) -> int:
    """Put an element into each place of `elems[:count]` that is None. Always returns 0, when all have one.

    Like `mempool_alloc` with GFP_KERNEL, but spares are taken only when they suffice for all that is missing, and the
    wait is one wait for all: several callers cannot starve each other holding a part each.

    count: how many places; None: all. allocated: how many of them are taken already; None: counted.

    Warns when more are wanted than the pool promises: then nothing but `alloc_fn` can serve the rest, and the wait may
    have no end. Raises ValueError when the figures and the list do not agree, and what `mempool_alloc` raises; the list
    is unchanged then. Kernel: mempool_alloc_bulk.
    """
    places = elems[: _checked_count(pool, elems, count)]
    missing = sum(element is None for element in places)
    if allocated is not None and allocated != len(places) - missing:
        raise ValueError(
            f"pool {pool.name!r}: {len(places) - missing} of {len(places)} places have an element, not {allocated}; "
            "what is to be filled is None"
        )
    if len(places) > pool.min_nr:
        warnings.warn(
            f"pool {pool.name!r}: {len(places)} at once, {pool.min_nr} promised; resize the pool or take fewer",
            RuntimeWarning,
            stacklevel=2,
        )
    holes = [place for place, element in enumerate(places) if element is None]
    taken = _take(pool, missing, GFP_KERNEL) or []
    try:
        for hole, element in zip(holes, taken, strict=True):
            elems[hole] = element
    except BaseException:
        elems[: len(places)] = places
        pool.free_many(taken)
        raise
    return 0


def _take(pool: Mempool[T], wanted: int, gfp_mask: int) -> list[T] | None:
    """So many elements, or None where the mask forbids to sleep. On any exception what was had is returned."""
    gfp_mask |= __GFP_NOMEMALLOC | __GFP_NORETRY | __GFP_NOWARN
    gentle_mask = gfp_mask & ~(__GFP_DIRECT_RECLAIM | __GFP_IO)
    may_sleep = gfp_mask & __GFP_DIRECT_RECLAIM != 0
    engine = pool._engine
    ticket = engine.ticket(wanted)
    try:
        with _asking_with(gentle_mask):
            served = engine.try_take(ticket, ask_source=True, may_wait=may_sleep)
        with _asking_with(gfp_mask):
            if not served and may_sleep:
                pool._obtain(ticket, None)
                return cast("list[T]", ticket.elements)
            if not served and gfp_mask != gentle_mask:
                served = engine.try_take(ticket, ask_source=True)
        if served:
            engine.check_out(ticket)
            return cast("list[T]", ticket.elements)
    except BaseException:
        engine.cancel(ticket)
        raise
    return None


# -- freeing


def mempool_free(element: T | None, pool: Mempool[T]) -> None:
    """Give an element back: to the first in line, else to the reserve where it is short, else to `free_fn`.

    None is ignored. Never blocks; may be called from anywhere. Raises DoubleFree and ForeignElement, where the kernel
    would hand one element to two users, and what `free_fn` raises. Kernel: mempool_free.
    """
    if element is not None:
        pool.free(element)


def mempool_free_bulk(pool: Mempool[T], elems: Sequence[T], count: int | None = None) -> int:
    """Give back as many of `elems[:count]` as the reserve is short of, the first ones. Returns how many.

    The rest stay with the caller, who gives `elems[returned:]` back with `mempool_free` when there is no better use for
    them. The list is unchanged. None: all of it. When another thread has filled the reserve at the same moment, some of
    those returned may have gone to `free_fn`.

    Raises DoubleFree, ForeignElement, and ValueError when `elems` is shorter than `count`. Kernel: mempool_free_bulk.
    """
    short = max(0, max(1, pool.min_nr) - pool.curr_nr)  # a pool for none holds one
    taken = elems[: min(short, _checked_count(pool, elems, count))]
    pool.free_many(taken)
    return len(taken)


def _checked_count(pool: Mempool[Any], elems: Sequence[object], count: int | None) -> int:
    if count is None:
        return len(elems)
    if not 0 <= count <= len(elems):
        raise ValueError(f"pool {pool.name!r}: {len(elems)} elements are not {count}; give a list that is as long")
    return count


# -- ready-made pools


class KmemCache:
    """A maker of objects of one size, for `mempool_create_slab_pool`. Kernel: struct kmem_cache.

    size: bytes, as a number or in words: 192, "4 KiB". Raises ValueError or TypeError for what is no size.

    An object is a writable memoryview of exactly that many bytes, zeroed when it is made.
    """

    def __init__(self, size: int | str) -> None:
        self.size: int = parse_size(size)

    def alloc(self, gfp_mask: int) -> memoryview | None:
        """Make an object; None when there is no memory. Kernel: kmem_cache_alloc."""
        return mempool_kmalloc(gfp_mask, self.size)

    def free(self, element: memoryview) -> None:
        """Dispose of an object. Using it afterwards raises ValueError. Kernel: kmem_cache_free."""
        mempool_kfree(element, self.size)

    def __repr__(self) -> str:
        return f"KmemCache({self.size})"


def mempool_create_slab_pool(min_nr: int, kc: KmemCache) -> Mempool[memoryview] | None:
    """A pool of the objects of a KmemCache. Returns and raises what `mempool_create` does.

    Kernel: mempool_create_slab_pool.
    """
    return mempool_create(min_nr, mempool_alloc_slab, mempool_free_slab, kc)


def mempool_create_kmalloc_pool(min_nr: int, size: int | str) -> Mempool[memoryview] | None:
    """A pool of writable memoryviews of `size` bytes: a number, or words like "4 KiB".

    Returns and raises what `mempool_create` does; ValueError or TypeError for what is no size.
    Kernel: mempool_create_kmalloc_pool.
    """
    return mempool_create(min_nr, mempool_kmalloc, mempool_kfree, parse_size(size))


def mempool_create_page_pool(min_nr: int, order: int) -> Mempool[Buffer] | None:
    """A pool of 2**order pages each, aligned to a page and populated; order 0 is one page.

    Returns and raises what `mempool_create` does; ValueError for a negative order. Kernel: mempool_create_page_pool.
    """
    return mempool_create(min_nr, mempool_alloc_pages, mempool_free_pages, _checked_order(order))


def mempool_alloc_slab(gfp_mask: int, pool_data: KmemCache) -> memoryview | None:
    """An `alloc_fn`: an object of the KmemCache. Kernel: mempool_alloc_slab."""
    return pool_data.alloc(gfp_mask)


def mempool_free_slab(element: memoryview, pool_data: KmemCache) -> None:
    """The `free_fn` beside it. Kernel: mempool_free_slab."""
    pool_data.free(element)


def mempool_kmalloc(gfp_mask: int, pool_data: int) -> memoryview | None:
    """An `alloc_fn`: so many bytes, zeroed and writable, of a size that cannot change. Kernel: mempool_kmalloc."""
    try:
        return memoryview(bytearray(pool_data))
    except (MemoryError, OverflowError):
        return None


def mempool_kfree(element: memoryview, pool_data: int) -> None:
    """The `free_fn` beside it. Using the element afterwards raises ValueError. Kernel: mempool_kfree."""
    try:
        element.release()
    except BufferError:
        pass  # somebody still has a view of it: the memory goes with the last one


def mempool_alloc_pages(gfp_mask: int, pool_data: int) -> Buffer | None:
    """An `alloc_fn`: 2**pool_data pages, aligned and populated. Kernel: mempool_alloc_pages."""
    order = _checked_order(pool_data)
    try:
        return _pages(order).alloc()
    except (MemoryError, OverflowError):
        return None


def mempool_free_pages(element: Buffer, pool_data: int) -> None:
    """The `free_fn` beside it. Kernel: mempool_free_pages."""
    _pages(_checked_order(pool_data)).free(element)


_sources_of_pages: dict[int, Buffers] = {}


def _pages(order: int) -> Buffers:
    source = _sources_of_pages.get(order)
    if source is None:  # of two threads that are here at once, both go on with the same one
        source = _sources_of_pages.setdefault(order, Buffers(mmap.PAGESIZE << order))
    return source


def _checked_order(order: int) -> int:
    order = operator.index(order)
    if order < 0:
        raise ValueError(f"an order is 0 for one page, 1 for two, 2 for four and so on, not {order}")
    return order
