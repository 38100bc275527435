# cython: language_level=3
"""Buffer: memory of a pool, in a user's hands until it is freed, and never after.

What lies on a pool's shelf is a handle that nobody has seen. `alloc` hands it out as it is; `free` moves the memory into
a new handle, which goes to the shelf, and the old one is dead for ever. So an alloc needs no memory of its own, and a
free that cannot have a new handle raises MemoryError and has changed nothing.

A handle that is not dead and that a user can reach is out: a spare is known to nobody but the pool. That is how a dropped
handle knows that it must go home.

A view is whatever refers to what the views of a handle look through: compiled its Exporter, uncompiled its `view`. The
Py_buffers that are held tell nothing: torch lets go of its own at once, and keeps the object that it names.
"""

from __future__ import annotations

import ctypes
import numbers
import operator
import sys
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, overload

from mempool import dropped
from mempool.errors import UseAfterFree

if TYPE_CHECKING:
    from mempool._core import _cython as cython
    from mempool._core._cython import Py_buffer
else:
    try:
        import cython
    except ModuleNotFoundError:
        from mempool._core import _cython as cython

if cython.compiled:
    from cython.cimports.cpython import Py_buffer
else:  # compiled, the .pxd beside this file says the same
    from mempool._core.line import Hands

    BLANK = 0
    LIVE = 1
    DEAD = 2


@cython.final
@cython.no_gc
@cython.cclass
class Block:
    """The memory of one element, whatever handle it is in at the moment."""

    region: Any  # address, size and view; whose it is, its source knows
    source: Any
    home: Any  # the pool's Home; None: no pool has it yet
    size: cython.Py_ssize_t
    pointer: cython.p_char
    is_lost: cython.bint  # it stayed with the parent of a fork
    handles: tuple[Any, ...]  # uncompiled: weak references to the last two handles; the one in force is among them

    def __init__(self, region: Any, source: Any) -> None:
        self.region = region
        self.source = source
        self.home = None
        self.is_lost = False
        self.handles = ()
        self.size = region.size
        if cython.compiled:
            address: cython.size_t = region.address
            self.pointer = cython.cast(cython.p_char, address)

    def lose(self) -> None:
        """In a child of a fork: nothing is there. No handle can be looked through from now on."""
        self.is_lost = True
        if not cython.compiled:
            _close(self)


@cython.final
@cython.freelist(64)
@cython.no_gc  # as for Buffer
@cython.cclass
class Exporter:
    """What the views of one handle look through, compiled: made for the first of them, dead with the last reference.

    Any extension may keep it and look at the memory without holding a Py_buffer, so its life is what counts. It keeps its
    handle alive: one that is dropped while somebody looks goes home when the last view dies.
    """

    buffer: Buffer | None

    def __init__(self, *_arguments: object, **_options: object) -> None:
        raise TypeError("what exports a buffer is made by its first view: memoryview(buffer)")

    def __getbuffer__(self, view: cython.pointer[Py_buffer], flags: cython.int) -> None:
        if cython.compiled:
            if self.buffer is None:
                raise BufferError("this exports no buffer")
            expose(self, view, flags)

    def __dealloc__(self) -> None:
        if cython.compiled and self.buffer is not None:
            self.buffer.exporter = cython.NULL  # before its last reference goes, whose finalizer looks here

    def __repr__(self) -> str:
        return "<Exporter of no buffer>" if self.buffer is None else f"<Exporter of {self.buffer!r}>"


@cython.final
@cython.freelist(64)
@cython.no_gc  # as for Lease; it refers to nothing that could refer to it
@cython.cclass
class Buffer:
    """So many bytes of a pool: a writable, contiguous buffer for `readinto`, `recv_into`, `memoryview`, `numpy`, ...

    After `free` it is dead, and every access through it raises UseAfterFree. `free` raises BufferError as long as
    anybody still views the memory. One that is dropped goes home by itself, and warns with ResourceWarning.
    """

    block: Block
    heir: Buffer | None
    state: cython.int
    lingers: cython.bint  # its user has freed it; only the views of the handle that he had keep this one
    exporter: cython.p_void  # compiled: NULL, or the Exporter, which is not owned from here
    fills: cython.int  # compiled: how many write without the GIL
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
            expose(exporter_of(self), buffer, flags)

    def __releasebuffer__(self, buffer: cython.pointer[Py_buffer]) -> None:
        """There, because NumPy only keeps a view of what has it. Not called: views name the exporter."""

    def __buffer__(self, flags: int, /) -> memoryview:
        if cython.compiled:
            return memoryview(self)
        view: memoryview = self.view  # before the look at the state: there is none in a handle that has died
        if self.state != LIVE or self.block.is_lost:
            raise self._dead()
        return view

    def __release_buffer__(self, view: memoryview, /) -> None:
        """There, because NumPy only keeps a view of what has it."""

    def views(self) -> int:
        """How many look at the memory through this handle now. (Slices of one memoryview are one.)"""
        if cython.compiled:
            return references(self.exporter) + self.fills
        seen = 0 if self.view is None else sys.getrefcount(self.view) - _REFERENCES_UNSEEN
        return seen if self.lent is None else seen + sys.getrefcount(self.lent) - _REFERENCES_UNLENT

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
        address: int = self.block.region.address
        return address

    def fill(self, byte: SupportsIndex = 0) -> None:
        """Write this byte everywhere."""
        number: Any = operator.index(byte)
        if not 0 <= number <= 255:
            raise ValueError(f"a byte is 0 to 255, not {number}")
        if cython.compiled:
            if self.state != LIVE or self.block.is_lost:
                raise self._dead()
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
        np = _numpy()
        kind = np.dtype(dtype)
        if kind.itemsize == 0:
            raise ValueError(f"{self._called()}: an item of {dtype!r} takes no bytes; say how many, as in 'S8'")
        if shape is None:
            shape = len(self) // kind.itemsize
        lengths: list[Any] = [shape] if isinstance(shape, numbers.Integral) else list(shape)
        items: Any = 1
        place: Any
        for place in range(len(lengths)):
            lengths[place] = operator.index(lengths[place])  # Python's own numbers: those of NumPy overflow
            items *= lengths[place]
        if items <= 0 and lengths.count(-1) == 1:
            items = -items  # of the others
            lengths[lengths.index(-1)] = 0 if items <= 0 else len(self) // kind.itemsize // items
            items = 1
            for length in lengths:
                items *= length
        if min(lengths, default=0) < 0 or items * kind.itemsize > len(self):
            raise ValueError(
                f"{self._called()}: an array of {kind} and shape {tuple(lengths)} takes {items * kind.itemsize} bytes, "
                f"this buffer has {len(self)}; one length may be -1: as many as fit"
            )
        return np.frombuffer(self, kind, items).reshape(lengths)

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
        return f"<Buffer of {self._called()}: {self.block.size} bytes at {self.block.region.address:#x}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._called()}: a buffer can be neither copied nor pickled; copy its bytes")

    # -- the end

    def _seen_through(self) -> Any:
        """What the views of this handle refer to, None: there is none. For a search for them."""
        if cython.compiled:
            return None if self.exporter == cython.NULL else cython.cast(object, self.exporter)
        return self.view if self.lent is None else self.lent

    def begin(self) -> None:
        """The memory is this handle's from now on. For a source."""
        self.state = LIVE

    def _is_being_filled(self) -> bool:
        """Whether another thread is in `fill`. (Uncompiled, that is a view.)"""
        return cython.compiled and self.fills > 0

    def is_alive(self) -> bool:
        """Whether the memory can be looked at through this handle."""
        return self.state == LIVE

    def surrender(self) -> Any:
        """Give up the memory: returns its region. Raises BufferError while somebody views it. For the source's free."""
        if self.state != LIVE or self.block.is_lost:
            raise self._dead()
        if cython.compiled:
            if self.views() > 0:
                raise BufferError(f"{self._called()}: {self.views()} views of this buffer are alive; drop them first")
        else:
            _shut(self)
        self.state = DEAD
        region = self.block.region
        self.block.region = None
        return region

    def _forsake(self) -> None:
        """The end of a handle whose memory is lost, whoever views it. For the source's free."""
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
                self._go_home()
        elif not cython.compiled and self.state == BLANK:
            _shut(self)

    def _go_home(self) -> None:
        mine: list[Buffer] | None = None
        try:
            mine = [self]
            self._leave(mine)
        except (KeyboardInterrupt, MemoryError):
            # Python swallows what flies here. Who has taken it out of the list sees to it; nobody else would come back.
            if mine is None or mine:
                self._leave([self])
            raise

    def _leave(self, mine: list[Buffer]) -> None:
        if self.block.home is None:
            self.block.source.free(self)
            return
        why: str = self.block.home.recover(mine)
        if why:
            dropped.warn(why, 0 if cython.compiled else 3)

    def _view(self) -> memoryview:
        if self.state != LIVE or self.block.is_lost:
            raise self._dead()
        return memoryview(self)

    def _called(self) -> str:
        if self.block is None:
            raise TypeError("a buffer is taken from a pool of Buffers")
        return "no pool" if self.block.home is None else f"pool {self.block.home.name!r}"

    def _dead(self) -> UseAfterFree:
        if self.state == LIVE:
            return UseAfterFree(
                f"{self._called()}: the memory of this buffer stayed with the parent of a fork (dontfork=True); "
                "alloc another in this process"
            )
        return UseAfterFree(
            f"{self._called()}: this buffer was freed, and its memory may be somebody else's by now; alloc another"
        )


def first_handle(region: Any, source: Any) -> Buffer:
    """The handle of memory that a source has just made. It owns the memory from its `begin` on."""
    buffer: Buffer = blank(Block(region, source))
    return buffer


def identity_of(element: object) -> int:
    """What stays the same about an element as long as it exists, though a buffer has another handle each time."""
    if type(element) is Buffer:
        buffer: Buffer = element
        return id(buffer.block)
    return id(element)


def prepare(hands: Hands, home: Any, lingering: cython.bint = False) -> Buffer | None:
    """Make what `renew` needs. Returns the first of these buffers that cannot be freed to this pool; None: all can.

    lingering: views are no obstacle.
    """
    elements = hands.held()
    for element in elements:
        if type(element) is Buffer:
            buffer: Buffer = element
            if buffer.state != LIVE or buffer.block.home is not home:
                return buffer
            if buffer.block.is_lost:
                continue  # there is nothing to pass on, nor to be viewed
            if buffer._is_being_filled() if lingering else buffer.views() > 0:
                return buffer
            if buffer.heir is None:
                buffer.heir = blank(buffer.block)
    if len(elements) > 1 and len(set(map(id, elements))) < len(elements):
        for element in elements:
            if type(element) is Buffer and sum([other is element for other in elements]) > 1:
                return element
    return None


def renew(hands: Hands, lingering: cython.bint = False) -> Buffer | None:
    """Kill the handles in these hands; new ones of the same memory are in the hands instead. May be done again.

    Returns a buffer that somebody has begun to view since `prepare`; it is left as it was.
    lingering: what is viewed is renewed, too; its views keep the new handle, which `lingers`.
    """
    i: cython.Py_ssize_t
    old: Buffer
    if cython.compiled:
        # First a look at all, so that all are renewed or none: nothing here lets another thread run.
        for i in range(hands.first, hands.count):
            if type(hands.elements[i]) is Buffer:
                old = hands.elements[i]
                if old.heir is not None and (old.fills > 0 or (old.exporter != cython.NULL and not lingering)):
                    return old
    for i in range(hands.first, hands.count):
        if type(hands.elements[i]) is not Buffer:
            continue
        old = hands.elements[i]
        if old.heir is None:
            continue  # done before
        if cython.compiled:
            if old.exporter != cython.NULL:
                pass_on(old, old.heir)
            old.state = DEAD
            old.heir.state = LIVE
            hands.elements[i] = old.heir
            old.heir = None
        else:
            try:
                if not lingering or (old.views() == 0 and not old.heir.lingers):
                    _shut(old)
            except BufferError:
                if not lingering:
                    return old
            # In this order: whatever exception flies between two of these lines, the next `renew` goes on from there.
            if lingering and (old.views() > 0 or old.heir.lingers):
                _pass_on(old, old.heir)
            old.heir.state = LIVE
            old.state = DEAD
            hands.elements[i] = old.heir
            old.heir = None
    return None


def has_lost(hands: Hands) -> bool:
    """Whether one of these elements is a buffer whose memory stayed with the parent of a fork."""
    for element in hands.held():
        if type(element) is Buffer:
            buffer: Buffer = element
            if buffer.block.is_lost:
                return True
    return False


def entrust(hands: Hands) -> None:
    """What has left these hands is kept by its views alone from now on. Compiled, it is already. May be done again."""
    if not cython.compiled:
        # Here, where what flies is heard, and not in the finalizer that would do the same.
        for element in hands.elements[: hands.first]:
            if type(element) is Buffer and element.lent is not None:
                _outlive(element)


def _numpy() -> Any:
    try:
        import numpy as np
    except ModuleNotFoundError:
        raise ModuleNotFoundError("Buffer.array and DLPack need NumPy: pip install numpy") from None
    return np


if not cython.compiled:
    # Uncompiled, views look through an object that belongs to one handle, and so its references tell how many there are.
    # From CPython 3.13 on it is a memoryview. Before, the collector crashes on a memoryview that is garbage together with
    # those who look through it, and it is a ctypes array; see _core/_export.py.
    BY_MEMORYVIEW = sys.version_info >= (3, 13)
    _orphans: dict[int, Any] = {}

    if BY_MEMORYVIEW:

        def _window(block: Block) -> Any:
            return memoryview(block.region.view)

        def _close(block: Block) -> None:
            """`__buffer__` looks."""

        def _shut(buffer: Buffer) -> None:
            """End all access through this handle. Raises BufferError while there are views. May be done again."""
            if buffer.view is None:
                return
            if buffer.views() > 0:
                raise BufferError  # of somebody who has released his, and kept what it named, its `release` knows nothing
            buffer.view.release()

    else:
        from mempool._core._export import end_of, exporting, window_on

        Buffer = exporting(Buffer)  # type: ignore[misc]

        def _window(block: Block) -> Any:
            return window_on(block.region.view)

        def _close(block: Block) -> None:
            """What is inherited does not ask whether it may be looked through."""
            for reference in block.handles:
                buffer = reference()
                if buffer is not None:
                    buffer.release()

        def _shut(buffer: Buffer) -> None:
            """As above."""
            if buffer.view is None:
                return
            if buffer.views() > 0:
                raise BufferError
            buffer.release()  # type: ignore[attr-defined]  # PickleBuffer's: nobody new can look
            if sys.getrefcount(buffer.view) > _REFERENCES_AT_THE_END:
                raise BufferError  # somebody began to between those two lines
            buffer.view = None

    def blank(block: Block) -> Buffer:
        """A handle that is not in force yet: nobody can look through it."""
        view = _window(block)
        buffer = Buffer.__new__(Buffer, *([] if BY_MEMORYVIEW else [view]))
        buffer.view = view
        buffer.lent = None
        buffer.lingers = False
        buffer.block = block
        buffer.heir = None
        buffer.state = BLANK
        block.handles = (*block.handles[-1:], weakref.ref(buffer))
        return buffer

    def _pass_on(old: Buffer, heir: Buffer) -> None:
        """The views that look through `old` keep `heir` from now on. May be done again."""
        heir.lingers = True
        if old.view is not None:
            heir.lent = old.view
        if not BY_MEMORYVIEW:
            old.release()  # type: ignore[attr-defined]  # as above
        old.state = DEAD
        old.view = None

    def _outlive(buffer: Buffer) -> None:
        """A dropped handle that is still viewed goes home when the last view dies.

        Before CPython 3.13 views do not hold the handle; later, handle and views may be garbage together.
        """

        def go_home(_reference: object) -> None:
            try:
                try:
                    buffer.view = buffer.view or _window(buffer.block)
                except (KeyboardInterrupt, MemoryError):
                    buffer.view = buffer.view or _window(buffer.block)
                buffer._go_home()
            finally:
                _orphans.pop(id(buffer), None)

        window = buffer.view if buffer.lent is None else buffer.lent
        if id(buffer) not in _orphans:  # else interrupted below, and another end would be the end of the first
            end = window if BY_MEMORYVIEW else end_of(window)
            _orphans[id(buffer)] = (buffer, weakref.ref(end, go_home))
        if buffer.lent is not None:
            buffer.lent = None
            return
        if not BY_MEMORYVIEW:
            buffer.release()  # type: ignore[attr-defined]
        buffer.view = None

    def _count_references() -> tuple[int, int, int]:
        class Region:
            view = memoryview(bytearray(1))
            address, size = 0, 1

        sample = first_handle(Region, None)
        sample.state = DEAD
        unseen = sample.views()
        sample.lent = Region()
        unlent = sample.views() - unseen
        sample.lent = None
        if not BY_MEMORYVIEW:
            sample.release()  # type: ignore[attr-defined]
        return unseen, unlent, sys.getrefcount(sample.view)

    # References to what the views look through that are not views of a user: as long as the handle lives, while it
    # lingers, and at its end.
    _REFERENCES_UNSEEN = _REFERENCES_UNLENT = 0
    _REFERENCES_UNSEEN, _REFERENCES_UNLENT, _REFERENCES_AT_THE_END = _count_references()
