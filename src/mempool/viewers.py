"""Who still views a buffer: a search for an error message."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mempool.native import WITHOUT_GIL, get_ident
from mempool.sizes import in_words

if TYPE_CHECKING:
    from mempool.buffer import Buffer

#: What may look into a buffer beside memoryviews, by package and name, and how its address is found.
VIEWING: dict[tuple[str, str], Callable[[Any], int]] = {
    ("numpy", "ndarray"): lambda array: array.__array_interface__["data"][0],
    ("pyarrow", "Buffer"): lambda arrow: arrow.address,
    ("torch", "Tensor"): lambda tensor: tensor.data_ptr(),
}
#: What is said of a viewer that nothing in Python leads to.
UNSEEN = "an extension (pyarrow, uvloop, torch, ...)"
#: How deep Arrow's tables are looked into: table, column, chunk.
ARROW_DEPTH = 3


def viewers(buffer: Buffer) -> str:
    """The views of this buffer that can be found, with their types and shapes.

    Asks the garbage collector for memoryviews, and looks through the variables of all running functions, and what they
    contain, for the rest. (Not through all that the collector knows: CPython 3.12.1 does not bear that.)
    """
    begin = buffer.address
    end = begin + len(buffer)
    found = {id(view): _tell(view) for view in _memoryviews(buffer)}
    for variables in _variables():
        for value in variables:
            for candidate in (value, *_contents(value)):
                if _looks_into(candidate, begin, end):
                    found[id(candidate)] = _tell(candidate)
        del variables
    return ", ".join(sorted(found.values())) or UNSEEN


def _memoryviews(buffer: Buffer) -> list[memoryview]:
    """All of them; between them and the buffer are objects of CPython's own, and uncompiled the buffer's own memoryview."""
    own = buffer._seen_through()
    views: list[memoryview] = []
    if WITHOUT_GIL:  # each view has an exporter of its own, to which its buffer does not lead
        known = [view for view in gc.get_objects() if type(view) is memoryview and not _is_released(view)]
        return [view for view in known if buffer._is_seen_through(view.obj)]
    towards: list[Any] = [] if own is None else [own]
    while towards:
        for referrer in gc.get_referrers(towards.pop()):
            if isinstance(referrer, memoryview):
                if referrer is not own and not _is_released(referrer):
                    views.append(referrer)
            elif type(referrer).__name__ in {"managedbuffer", "_buffer_wrapper"}:
                towards.append(referrer)
    return views


def _is_released(view: memoryview) -> bool:
    """Whether it looks no more, though somebody keeps it: then nothing can be asked of it."""
    try:
        return view.nbytes < 0
    except ValueError:
        return True


def _contents(value: Any) -> list[Any]:
    """What a container or an object refers to. Asks the collector, because to ask the object would run its user's code."""
    contents = gc.get_referents(value)
    for number in range(len(contents)):
        if type(contents[number]) is dict:
            contents += contents[number].values()
    return contents


def _variables() -> Iterator[list[Any]]:
    """The values of the variables of each running function."""
    # Frames refer to each other and to what is found: none may be left in a variable of this search.
    frames = [sys._getframe(1), *(frame for thread, frame in sys._current_frames().items() if thread != get_ident())]
    while frames:
        frame = frames.pop()
        if frame.f_back is not None:
            frames.append(frame.f_back)
        try:
            names = frame.f_locals
        except MemoryError:
            names = frame.f_locals  # so far as it came, the frame keeps it
        try:
            yield list(names.values())
        finally:
            if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED and sys.getrefcount(names) <= 3:
                names.clear()  # a copy, which the frame would keep, and with it the views; unless it is what locals() gave
        del frame, names


def _looks_into(candidate: Any, begin: int, end: int) -> bool:
    kind = type(candidate)
    address = VIEWING.get((str(kind.__module__).partition(".")[0], kind.__name__))
    if address is not None:
        return bool(begin <= address(candidate) < end)
    # Exactly pyarrow's own types, whose methods run no user's code; one derived from them tells another module.
    return kind.__module__ == "pyarrow.lib" and any(begin <= at < end for at in _arrow_addresses(candidate, ARROW_DEPTH))


def _arrow_addresses(value: Any, depth: int) -> Iterator[int]:
    """Where the buffers begin of which an Arrow Table, RecordBatch, ChunkedArray or Array is made."""
    lib = sys.modules["pyarrow.lib"]
    if depth == 0:
        return
    if isinstance(value, lib.Array):
        yield from (buffer.address for buffer in value.buffers() if buffer is not None)
    elif isinstance(value, lib.ChunkedArray):
        for chunk in value.chunks:
            yield from _arrow_addresses(chunk, depth - 1)
    elif isinstance(value, lib.Table | lib.RecordBatch):
        for column in value.columns:
            yield from _arrow_addresses(column, depth - 1)


def _tell(view: Any) -> str:
    kind = f"{type(view).__module__}.{type(view).__qualname__}".removeprefix("builtins.")
    shape = getattr(view, "shape", None)
    if shape is not None:
        return f"{kind} of shape {tuple(shape)}"
    size = getattr(view, "size", None)
    return f"{kind} of {in_words(size) if isinstance(size, int) else 'unknown size'}"
