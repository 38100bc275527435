# cython: language_level=3
"""Buffer: memory of a pool, in a user's hands until it is freed, and never after.

What lies on a pool's free list is a handle that nobody has seen. `alloc` hands it out as it is; `free` moves the memory into
a new handle, which goes to the free list, and the old one is dead for ever. So an alloc needs no memory of its own, and a
free that cannot have a new handle raises MemoryError and has changed nothing.

A handle that is not dead and that a user can reach is out: a spare is known to nobody but the pool. That is how a dropped
handle knows that it must be returned.

A view is whatever refers to what the views of a handle look through: compiled its Exporter, uncompiled its `view`. The
Py_buffers that are held tell nothing: torch lets go of its own at once, and keeps the object that it names.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import math
import numbers
import operator
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, SupportsIndex, overload

from mempool import _cython as cython
from mempool import dropped
from mempool.errors import UseAfterFree
from mempool.native import get_ident
from mempool.sizes import compared, in_words

if cython.compiled and not TYPE_CHECKING:  # never: it tells Cython that the name is its own module's; see _cython.py
    import cython
if TYPE_CHECKING:
    from mempool._cython import Py_buffer

#: Whether a handle exports its memory to code in C. In CPython 3.11 no class of Python's can.
EXPORTS: bool = cython.compiled or sys.version_info >= (3, 12)

if cython.compiled:
    from cython.cimports.cpython import Py_buffer
else:  # compiled, the .pxd beside this file says the same
    from mempool._core.mutex import WITHOUT_GIL, atomic_int, atomic_ssize
    from mempool._core.transfer import Transfer

    UNUSED = 0
    LIVE = 1
    DEAD = 2


@cython.final
@cython.no_gc
@cython.cclass
class Block:
    """The memory of one element, whatever handle it is in at the moment."""

    region: Any  # address, size and view; whose it is, its source knows
    source: Any
    owner: Any  # the pool's Owner; None: no pool has it yet
    size: cython.Py_ssize_t
    pointer: cython.p_char
    is_lost: cython.bint  # it stayed with the parent of a fork
    # Uncompiled: by thread, a list that was made when this was last viewed. Nobody else refers to either of these lists but
    # who asks the collector for all that there is.
    mark: list[dict[int, list[int]]]

    def __init__(self, region: Any, source: Any) -> None:
        self.region = region
        self.source = source
        self.owner = None
        self.is_lost = False
        self.mark = [{}]
        self.size = region.size
        if cython.compiled:
            address: cython.size_t = region.address
            self.pointer = cython.cast(cython.p_char, address)

    def address(self) -> int:
        """Where it begins. Compiled, without a look at the region, which another thread may be taking away."""
        return cython.cast(cython.size_t, self.pointer) if cython.compiled else self.region.address

    def lose(self) -> None:
        """In a child of a fork: nothing is there. No handle can be looked through from now on."""
        self.is_lost = True


@cython.final
@cython.freelist(64)
@cython.no_gc  # as for Buffer
@cython.cclass
class Exporter:
    """What the views of one handle look through, compiled: made for the first of them, dead with the last reference.

    Any extension may keep it and look at the memory without holding a Py_buffer, so its life is what counts. It keeps its
    handle alive: one that is dropped while somebody looks is returned when the last view dies.
    """

    buffer: Buffer | None

    def __init__(self, *_arguments: object, **_options: object) -> None:
        raise TypeError("what exports a buffer is made by its first view: memoryview(buffer)")

    def __getbuffer__(self, view: cython.pointer[Py_buffer], flags: cython.int) -> None:
        if cython.compiled:
            if self.buffer is None:
                raise BufferError("this exports no buffer")
            view.obj = self
            expose(cython.cast(cython.p_void, self.buffer.block), view, flags)

    def __repr__(self) -> str:
        return "<Exporter of no buffer>" if self.buffer is None else f"<Exporter of {self.buffer!r}>"


@cython.final
@cython.freelist(64)
@cython.no_gc  # as for Lease; it refers to nothing that could refer to it
@cython.cclass
class Buffer:
    """A block of memory from a pool: a writable, contiguous buffer for `readinto`, `recv_into`, `memoryview`, `numpy`, ...

    After `free` the buffer is dead: every access raises UseAfterFree. `free` raises BufferError while a view of the memory
    exists. A buffer that is dropped while it is out is returned by itself, with a ResourceWarning.
    """

    block: Block
    next_handle: Buffer | None
    state: atomic_int
    lingers: cython.bint  # its user has freed it; only the views of the handle that he had keep this one
    exporter: cython.p_void  # compiled: NULL, or the Exporter, which is not owned from here
    fills: cython.int  # compiled: how many write without the GIL
    watch: atomic_ssize  # compiled, without the GIL: who looks at it, and whether it is in force; see the .pxd
    view: Any  # uncompiled: what the views look through
    lent: Any  # uncompiled: None, or what those views look through on account of which it lingers

    _is_finalizing = staticmethod(sys.is_finalizing)  # here, because at the end this module's `sys` is None already

    def __init__(self, *_arguments: object, **_options: object) -> None:
        raise TypeError("a buffer is taken from a pool of Buffers: Pool(Buffers(size), reserve).alloc()")

    # -- the buffer protocol

    def __getbuffer__(self, buffer: cython.pointer[Py_buffer], flags: cython.int) -> None:
        if cython.compiled:
            if self.state != LIVE or self.block.is_lost:
                raise self._dead()
            if WITHOUT_GIL:
                exporter: Exporter = Exporter.__new__(Exporter)
                if not begin_look(self, VIEW):  # type: ignore[name-defined]
                    raise self._dead()
                exporter.buffer = self
                buffer.obj = exporter
            else:
                name_exporter(self, buffer)
            expose(cython.cast(cython.p_void, self.block), buffer, flags)

    def __releasebuffer__(self, buffer: cython.pointer[Py_buffer]) -> None:
        """There, because NumPy only keeps a view of what has it. Not called: views name the exporter."""

    def __buffer__(self, flags: int, /) -> memoryview:
        if cython.compiled:
            return memoryview(self)
        window: memoryview = self.view  # before the look at the state: there is none in a handle that has died
        if self.state != LIVE or self.block.is_lost or window is None:
            raise self._dead()
        if not EXPORTS:
            try:
                return memoryview(window)
            finally:
                del window  # where there is no memory, this frame stays in the traceback, and would count as a view
        self.block.mark[0][get_ident()] = _wrappers.mark()
        return window

    def __release_buffer__(self, view: memoryview, /) -> None:
        """There, because NumPy only keeps a view of what has it."""
        if not cython.compiled and EXPORTS:
            if hasattr(self, "block"):  # else the collector has emptied this handle, as garbage, before the view that it had
                _look_for_keepers(view, self.block)
            if id(view) in _orphans:
                _end_views(view)

    def views(self) -> int:
        """How many look at the memory through this handle now. (Slices of one memoryview are one.)"""
        if cython.compiled:
            if WITHOUT_GIL:
                watch: cython.Py_ssize_t = self.watch & ~(GONE | CLAIMED)  # type: ignore[name-defined]
                return watch // VIEW + (watch & FILLS)  # type: ignore[name-defined]
            return references(self.exporter) + self.fills
        kept = _count_keepers(self.view, self.block) + _count_keepers(self.lent, self.block) if _kept else 0
        seen = 0 if self.view is None else sys.getrefcount(self.view) - _REFERENCES_UNSEEN
        if self.lent is not None:
            seen += sys.getrefcount(self.lent) - _REFERENCES_UNLENT
        return kept + (seen if seen <= 0 else seen - _listed(self.view, self.block) - _listed(self.lent, self.block))

    # -- what a user does with it

    def __len__(self) -> int:
        if self.state != LIVE or self.block.is_lost:
            raise self._dead()
        return self.block.size

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, key: SupportsIndex) -> int: ...
        @overload
        def __getitem__(self, key: slice) -> memoryview: ...

    def __getitem__(self, key: Any) -> Any:
        """A byte, or a slice: a memoryview, which counts as a view."""
        return self._view()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        view = self._view()
        try:  # a compiled `with` crashes where there is no memory for the traceback
            view[key] = value
        finally:
            view.release()

    @property
    def address(self) -> int:
        """Where the memory begins: for foreign functions, whose accesses nobody watches. It stays when handles change."""
        if self.state != LIVE or self.block.is_lost:
            raise self._dead()
        return self.block.address()

    def fill(self, byte: SupportsIndex = 0) -> None:
        """Write this byte everywhere."""
        number: Any = operator.index(byte)
        if not 0 <= number <= 255:
            raise ValueError(f"a byte is 0 to 255, not {number}")
        if cython.compiled:
            if self.state != LIVE or self.block.is_lost or (WITHOUT_GIL and not begin_look(self, FILL)):  # type: ignore[name-defined]
                raise self._dead()
            if WITHOUT_GIL:
                overwrite(self.block, number)
                end_look(self, FILL)  # type: ignore[name-defined]
                return
            self.fills += 1  # nobody can free it meanwhile; other threads run. An exporter would need memory
            overwrite(self.block, number)
            self.fills -= 1
            return
        with self._view() as view:
            try:
                ctypes.memset(self.block.region.address, number, len(view))
            except ctypes.ArgumentError:  # so ctypes says that it cannot have a few bytes
                raise MemoryError(f"{self._called()}: no memory to call memset with") from None

    def array(self, dtype: Any = "uint8", shape: Any = None) -> Any:
        """A NumPy array of this memory; nothing is copied. Needs NumPy.

        shape: None: as many as fit; one of its lengths may be -1, and is then as long as fits.

        Raises ValueError where the shape does not fit.
        """
        kind, items, lengths = fit(self._called(), len(self), dtype, shape)
        return _numpy().frombuffer(self if cython.compiled else self._view(), kind, items).reshape(lengths)

    def __dlpack__(self, **options: Any) -> Any:
        """For `from_dlpack` of NumPy, PyTorch, ...: the bytes, shared. Needs NumPy."""
        return self.array().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """The memory is the CPU's."""
        return (1, 0)

    def __repr__(self) -> str:
        if self.state != LIVE:
            return f"<Buffer of {self._called()}, freed>"
        if self.block.is_lost:
            return f"<Buffer of {self._called()}, left with the parent>"
        return f"<Buffer of {self._called()}: {in_words(self.block.size)} at {self.block.address():#x}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self._called()}: a buffer can be neither copied nor pickled; copy its bytes. An element must not be the "
            "result of a task: it stays out for as long as the result is kept"
        )

    # -- the end

    def _seen_through(self) -> Any:
        """What the views of this handle refer to, None: there is none. For a search for them."""
        if cython.compiled:
            return None if self.exporter == cython.NULL else cython.cast(object, self.exporter)
        return self.view if self.lent is None else self.lent

    def _is_seen_through(self, exporter: object) -> bool:
        """Without the GIL: whether views of this handle, or of the one before it, look through this."""
        if not WITHOUT_GIL or type(exporter) is not Exporter:
            return False
        its: Exporter = exporter
        return its.buffer is self or (its.buffer is not None and its.buffer.next_handle is self)

    def begin(self) -> None:
        """The memory is this handle's from now on. For a source."""
        if cython.compiled:
            enforce(self)  # type: ignore[name-defined]
        else:
            self.state = LIVE

    def _is_being_filled(self) -> bool:
        """Whether another thread is in `fill`. (Uncompiled, that is a view.)"""
        if not cython.compiled:
            return False
        if WITHOUT_GIL:
            return (self.watch & FILLS) > 0  # type: ignore[name-defined]
        return self.fills > 0

    def is_alive(self) -> bool:
        """Whether the memory can be looked at through this handle."""
        if not cython.compiled and "freed_by" in self.__dict__:
            return False  # see _renew
        return self.state == LIVE and not (WITHOUT_GIL and self.watch & CLAIMED)  # type: ignore[name-defined]

    def detach(self) -> Any:
        """Give up the memory: returns its region. Raises BufferError while somebody views it. For the source's free."""
        if self.state != LIVE or self.block.is_lost:
            raise self._dead()
        if cython.compiled:
            if self.views() > 0 or (WITHOUT_GIL and not revoke_unseen(self)):  # type: ignore[name-defined]
                raise BufferError(f"{self._called()}: {self.views()} views of this buffer are alive; drop them first")
        else:
            _shut(self)
        self.state = DEAD
        region = self.block.region
        self.block.region = None
        return region

    def _forsake(self) -> None:
        """The end of a handle whose memory is lost, whoever views it. For the source's free."""
        if WITHOUT_GIL:
            revoke_seen(self, None)  # type: ignore[name-defined]
        self.state = DEAD

    def __del__(self) -> None:
        if not cython.compiled and not hasattr(self, "state"):
            return  # interrupted while it was being made
        if self.state == LIVE and not self._is_finalizing():
            if not cython.compiled and self.views() > 0 and not self.block.is_lost:
                try:
                    _outlive(self)
                except (KeyboardInterrupt, MemoryError):
                    _outlive(self)
                    raise
            else:
                self._return()
        elif not cython.compiled and self.state == UNUSED:
            _shut(self)

    def _return(self) -> None:
        mine: list[Buffer] | None = None
        try:
            mine = [self]
            self._leave(mine)
        except (KeyboardInterrupt, MemoryError):
            # Python swallows what is raised here. Who has taken it out of the list sees to it; nobody else would come back.
            if mine is None or mine:
                self._leave([self])
            raise

    def _leave(self, mine: list[Buffer]) -> None:
        if self.block.owner is None:
            self.block.source.free(self)
            return
        why: str = self.block.owner.reclaim(mine)
        if why:
            dropped.warn(why, 0 if cython.compiled else 3)

    def _view(self) -> memoryview:
        if self.state != LIVE or self.block.is_lost:
            raise self._dead()
        return memoryview(self) if cython.compiled or EXPORTS else self.__buffer__(0)

    def _called(self) -> str:
        if self.block is None:
            raise TypeError("a buffer is taken from a pool of Buffers")
        return "no pool" if self.block.owner is None else f"pool {self.block.owner.name!r}"

    def _dead(self) -> UseAfterFree:
        if self.state == LIVE:
            return UseAfterFree(
                f"{self._called()}: the memory of this buffer stayed with the parent of a fork (dontfork=True); "
                "alloc another in this process"
            )
        return UseAfterFree(
            f"{self._called()}: this buffer was freed, and its memory may be somebody else's by now; alloc another"
        )


def handle_of(block: Block) -> Buffer:
    """A handle of memory that was just made, or whose last handle is dead. It owns the memory from its `begin` on."""
    buffer: Buffer = new_handle(block)
    return buffer


def exported(element: Any) -> Any:
    """What code in C looks at this element through: itself; where handles cannot export their memory, a view."""
    return element if EXPORTS or type(element) is not Buffer else element[:]


def identity_of(element: object) -> int:
    """What stays the same about an element as long as it exists, though a buffer has another handle each time."""
    if type(element) is Buffer:
        buffer: Buffer = element
        return id(buffer.block)
    return id(element)


def prepare(transfer: Transfer, owner: Any, lingering: cython.bint = False) -> Buffer | None:
    """Make what `revoke` needs. Returns the first of these that cannot be freed; or None. lingering: views do not hinder."""
    elements = transfer.held()
    i: cython.Py_ssize_t
    for i, element in enumerate(elements, transfer.first):
        if type(element) is Buffer:
            buffer: Buffer = element
            if buffer.state != LIVE or buffer.block.owner is not owner:
                return buffer
            if buffer.block.is_lost:
                continue  # there is nothing to pass on, nor to be viewed
            if buffer._is_being_filled() if lingering else buffer.views() > 0:
                return buffer
            if WITHOUT_GIL:
                # In this transfer and not in the handle, which another thread may be freeing as well.
                if transfer.successors is None:
                    transfer.successors = [None] * transfer.count
                transfer.successors[i] = new_handle(buffer.block)
            elif buffer.next_handle is None:
                buffer.next_handle = new_handle(buffer.block)
                if buffer.state != LIVE:  # another thread has freed it meanwhile
                    buffer.next_handle = None
                    return buffer
    if len(elements) > 1 and len(set(map(id, elements))) < len(elements):
        for element in elements:
            if type(element) is Buffer and sum([other is element for other in elements]) > 1:
                return element
    return None


def revoke(transfer: Transfer, lingering: cython.bint = False) -> Buffer | None:
    """Kill the handles in this transfer; new ones of the same memory are in the transfer instead. May be done again.

    Returns a buffer that somebody has begun to view since `prepare`; it is left as it was.
    lingering: what is viewed is renewed, too; its views keep the new handle, which `lingers`.
    """
    i: cython.Py_ssize_t
    old: Buffer
    if WITHOUT_GIL:
        return _revoke_shared(transfer, lingering)
    for i in range(transfer.first, transfer.count):  # first a look at all, so that, compiled, all are renewed or none
        if type(transfer.elements[i]) is Buffer:
            old = transfer.elements[i]
            if old.state == DEAD and (cython.compiled or old.next_handle is None) and not transfer.free_called:
                return old  # another thread has freed it since `prepare`; not the source, whose `free` was called
            looked_at: cython.bint = cython.compiled and (old.fills > 0 or (old.exporter != cython.NULL and not lingering))
            if looked_at and old.next_handle is not None:
                return old
    for i in range(transfer.first, transfer.count):
        if type(transfer.elements[i]) is not Buffer:
            continue
        old = transfer.elements[i]
        if old.next_handle is None and (cython.compiled or old.state != DEAD or transfer.free_called):
            continue  # done before
        if cython.compiled:
            if old.exporter != cython.NULL:
                pass_on(old, old.next_handle)
            old.state = DEAD
            old.next_handle.state = LIVE
            transfer.elements[i] = old.next_handle
            old.next_handle = None
        elif not _renew(transfer, i, lingering):
            return old
    return None


@cython.cfunc
def _revoke_shared(transfer: Transfer, lingering: cython.bint) -> Buffer | None:
    """`revoke`, where other threads view and free the same handles meanwhile: each is dead in one step, by one of them."""
    i: cython.Py_ssize_t
    j: cython.Py_ssize_t
    old: Buffer
    next_handle: Buffer
    if transfer.successors is None:
        return None  # there are no buffers, or nothing to pass on
    for i in range(transfer.first, transfer.count):
        if transfer.successors[i] is None:
            continue  # done before
        old = transfer.elements[i]
        next_handle = transfer.successors[i]
        if not (revoke_seen(old, next_handle) if lingering else revoke_unseen(old)):  # type: ignore[name-defined]
            for j in range(transfer.first, i):  # all are revoked or none
                if transfer.successors[j] is not None:
                    next_handle = transfer.successors[j]
                    next_handle.lingers = False
                    reinstate(transfer.elements[j])  # type: ignore[name-defined]
            return old
    for i in range(transfer.first, transfer.count):
        if transfer.successors[i] is not None:
            next_handle = transfer.successors[i]
            enforce(next_handle)  # type: ignore[name-defined]
            transfer.elements[i] = next_handle
            transfer.successors[i] = None
    return None


def has_lost(transfer: Transfer) -> bool:
    """Whether one of these elements is a buffer whose memory stayed with the parent of a fork."""
    for element in transfer.held():
        if type(element) is Buffer:
            buffer: Buffer = element
            if buffer.block.is_lost:
                return True
    return False


def entrust(transfer: Transfer) -> None:
    """What has left this transfer is kept by its views alone from now on. Compiled, it is already. May be done again."""
    if not cython.compiled:
        # Here, where what is raised is heard, and not in the finalizer that would do the same.
        for element in transfer.elements[: transfer.first]:
            if type(element) is Buffer and element.lent is not None:
                _outlive(element)


def fit(called: str, size: int, dtype: Any, shape: Any) -> tuple[Any, int, list[int]]:
    """The dtype, how many items, and the shape of an array in so many bytes. Raises ValueError where it does not fit."""
    kind = _numpy().dtype(dtype)
    if kind.itemsize == 0:
        raise ValueError(f"{called}: an item of {dtype!r} takes no bytes; say how many, as in 'S8'")
    if shape is None:
        shape = size // kind.itemsize
    # Python's own numbers: those of NumPy overflow.
    lengths = list(map(operator.index, [shape] if isinstance(shape, numbers.Integral) else shape))
    items = math.prod(lengths)
    if items <= 0 and lengths.count(-1) == 1:
        items = -items  # of the others
        lengths[lengths.index(-1)] = 0 if items <= 0 else size // kind.itemsize // items
        items = math.prod(lengths)
    if min(lengths, default=0) < 0 or items * kind.itemsize > size:
        takes, has = compared(items * kind.itemsize, size)
        raise ValueError(
            f"{called}: an array of {kind} and shape {tuple(lengths)} takes {takes}, this buffer has {has}; "
            "one length may be -1: as many as fit"
        )
    return kind, items, lengths


def _numpy() -> Any:
    try:
        import numpy as np
    except ModuleNotFoundError:
        raise ModuleNotFoundError("Buffer.array and DLPack need NumPy: pip install numpy") from None
    return np


if cython.compiled:
    hear_of_ends()  # type: ignore[name-defined]
    have_handles_end_quickly()  # type: ignore[name-defined]  # in the .pxd
else:
    # Uncompiled, views look through an object that belongs to one handle, its window, whose references tell how many there
    # are. From CPython 3.12 on, `__buffer__` exports it, and it is a memoryview. In 3.11 no class of Python's can export a
    # buffer, so the handle makes its views itself, and the window is a ctypes array.
    _orphans: dict[int, Any] = {}
    # By the identity of a window, and by their own, wrappers that extensions keep. See _core/_wrappers.py.
    _kept: dict[int, dict[int, Any]] = {}

    if EXPORTS:
        from mempool._core import _wrappers

        def _window(block: Block) -> Any:
            return memoryview(block.region.view)

        def _shut(buffer: Buffer) -> None:
            """End all access through this handle. Raises BufferError while there are views. May be done again."""
            if buffer.view is None:
                return
            if buffer.views() > 0:
                raise BufferError  # of who keeps a wrapper, its `release` knows nothing
            buffer.view.release()
            _kept.pop(id(buffer.view), None)
            buffer.block.mark[0].clear()

        def _outlive(buffer: Buffer) -> None:
            """A handle that only views keep is returned with the last of them, of which `__release_buffer__` is told.

            Not by a weak reference: the collector does not call those that finalizers of its garbage have made. And on 3.12
            it crashes where it takes a window apart that is viewed by the same garbage: here it is none any more.
            """
            if buffer.state == LIVE:  # else interrupted below, where it had been returned
                window = buffer.view if buffer.lent is None else buffer.lent
                _orphans[id(window)] = buffer
                _end_views(window)  # which may have ended before it was written down

        def _end_views(window: memoryview) -> None:
            """If nobody looks through this window any more, its handle is returned. May be done again."""
            ended: list[Any] = []
            try:
                _end_orphan(window, ended)
                _return(ended)
            except (KeyboardInterrupt, MemoryError):
                _end_orphan(window, ended)
                _return(ended)
                raise

        def _end_orphan(window: memoryview, ended: list[Any]) -> None:
            orphan = _orphans.get(id(window))
            if orphan is None or _count_keepers(window, orphan.block):
                return
            try:
                window.release()
            except BufferError:
                return
            # One call into C, which may be cut short before it or after it; of two threads one gets something.
            _kept.pop(id(window), None)
            ended.extend(map(_orphans.pop, (id(window),) * (not ended), (None,)))

        def _return(ended: list[Any]) -> None:
            for buffer in ended:
                if buffer is not None and buffer.state == LIVE:
                    if buffer.lent is None:
                        buffer.view = _window(buffer.block)
                    buffer.lent = None
                    buffer._return()

        def _after_collection(phase: str, _info: object, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
            """Of the end of a wrapper nobody tells, nor of a release for which there was no memory: a collection looks."""
            if phase == "stop" and not is_finalizing():
                for orphan in list(_orphans.values()):
                    _end_views(orphan.view if orphan.lent is None else orphan.lent)

        gc.callbacks.append(_after_collection)

        def _look_for_keepers(window: memoryview, block: Block) -> None:
            """A view of this window is being released."""
            since = block.mark[0].pop(get_ident(), None)
            if since is not None:
                for wrapper in _wrappers.kept(window, since):
                    _kept.setdefault(id(window), {})[id(wrapper)] = wrapper

        def _count_keepers(window: Any, block: Block) -> int:
            keepers = _kept.get(id(window), {})
            for key in list(keepers):
                if not _wrappers.is_kept(keepers, key, _listed(keepers.get(key), block)):
                    keepers.pop(key, None)
            return len(keepers)

    else:

        class _Byte(ctypes.Union):
            """An array of c_ubyte says that its format is "<B", which a memoryview cannot read; one of these says "B"."""

            _fields_: ClassVar = [("byte", ctypes.c_ubyte)]

        def _window(block: Block) -> Any:
            """It dies together with its `end`, a code object, because the collector does not know those.

            What the collector knows it may call garbage, and tell whoever holds a weak reference, while finalizers of the
            same garbage still look through the window, or keep it for good.
            """
            window: Any = (_Byte * block.size).from_buffer(block.region.view)
            window.end = _window.__code__.replace()
            return window

        def _shut(buffer: Buffer) -> None:
            """As above."""
            window = buffer.view
            if window is None:
                return
            try:
                buffer.view = None  # nobody new can look
                if sys.getrefcount(window) - _listed(window, buffer.block) > _REFERENCES_AT_THE_END:
                    raise BufferError
            except BaseException:
                buffer.view = window
                window = None  # this frame stays in the traceback, and what it refers to would count as a view
                raise

        def _outlive(buffer: Buffer) -> None:
            """A handle that only views keep is returned when the last of them dies. May be done again."""

            def return_it(_reference: object) -> None:
                try:
                    try:
                        buffer.view = buffer.view or _window(buffer.block)
                    except (KeyboardInterrupt, MemoryError):
                        buffer.view = buffer.view or _window(buffer.block)
                    buffer._return()
                finally:
                    _orphans.pop(id(buffer), None)

            window = buffer.view if buffer.lent is None else buffer.lent
            if id(buffer) not in _orphans:  # else interrupted below, and another end would be the end of the first
                _orphans[id(buffer)] = (buffer, weakref.ref(window.end, return_it))
            if buffer.lent is None:
                buffer.view = None
            buffer.lent = None

        def _array_of(buffer: Buffer, dtype: Any = None, copy: bool | None = None) -> Any:
            """For `numpy.asarray`, which would take it for a sequence of numbers."""
            np = _numpy()
            return np.array(buffer.array(), dtype) if copy else np.asarray(buffer.array(), dtype)

        Buffer.__bytes__ = lambda buffer: buffer._view().tobytes()  # type: ignore[attr-defined]
        Buffer.__array__ = _array_of  # type: ignore[attr-defined]

    def _listed(window: Any, block: Block) -> int:
        """How often this window is in lists of all that the collector knows, which a debugger keeps: those are no views."""
        if window is None or sys.getrefcount(block.mark) <= _REFERENCES_TO_A_MARK:
            return 0
        return _count_in_lists(window, block)

    # Split off, because a variable that an inner scope uses lies in a cell: where there is no memory for the cell, CPython
    # 3.11 keeps its reference for ever, and a window would have a view that nobody can end.
    # `test_out_of_memory[buffers_free]`
    def _count_in_lists(window: Any, block: Block) -> int:
        lists = [referrer for referrer in gc.get_referrers(block.mark) if type(referrer) is list]
        return sum(sum(map(operator.is_, known, itertools.repeat(window))) for known in lists)

    def new_handle(block: Block) -> Buffer:
        """A handle that is not in force yet: nobody can look through it."""
        buffer = Buffer.__new__(Buffer)
        buffer.view = _window(block)
        buffer.lent = buffer.next_handle = None
        buffer.lingers = False
        buffer.block = block
        buffer.state = UNUSED
        return buffer

    def _renew(transfer: Transfer, i: int, lingering: bool) -> bool:
        """`revoke` one handle. False: somebody views it; or another thread frees it, which was the first in its dict."""
        old = transfer.elements[i]
        try:
            if old.__dict__.setdefault("freed_by", transfer) is not transfer or old.next_handle is None:
                return False
            try:
                if not lingering or (old.views() == 0 and not old.next_handle.lingers):
                    _shut(old)
            except BufferError:
                if not lingering:
                    raise
            # In this order: whatever exception is raised between two of these lines, the next `revoke` goes on from there.
            if lingering and (old.views() > 0 or old.next_handle.lingers):
                _pass_on(old, old.next_handle)
            old.next_handle.state = LIVE
            old.state = DEAD
            transfer.elements[i] = old.next_handle
            old.next_handle = None
            old.__dict__["freed_by"] = None
        except BaseException as error:
            if transfer.elements[i] is old and old.__dict__.get("freed_by") is transfer:
                del old.__dict__["freed_by"]
            if isinstance(error, BufferError):
                return False
            raise
        return True

    def _pass_on(old: Buffer, next_handle: Buffer) -> None:
        """The views that look through `old` keep `next_handle` from now on. May be done again."""
        next_handle.lingers = True
        if old.view is not None:
            next_handle.lent = old.view
        old.state = DEAD
        old.view = None

    def _count_references() -> tuple[int, int, int]:
        class Region:
            view = memoryview(bytearray(1))
            address, size = 0, 1

        sample = handle_of(Block(Region, None))
        sample.state = DEAD
        unseen = sample.views()
        sample.lent = Region()
        unlent = sample.views() - unseen
        sample.lent = None
        window = sample.view
        sample.view = None
        return unseen, unlent, sys.getrefcount(window)

    def _count_references_to_a_mark() -> int:
        block = Block.__new__(Block)
        block.mark = []
        return sys.getrefcount(block.mark)

    # References to what the views look through that are not views of a user: as long as the handle lives, while it
    # lingers, and at its end; and to a mark that is in no list.
    _REFERENCES_TO_A_MARK = sys.maxsize
    _REFERENCES_UNSEEN = _REFERENCES_UNLENT = 0
    _REFERENCES_UNSEEN, _REFERENCES_UNLENT, _REFERENCES_AT_THE_END = _count_references()
    _REFERENCES_TO_A_MARK = _count_references_to_a_mark()
