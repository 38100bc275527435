"""Who still views a buffer: a search for an error message."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mempool.buffer import Buffer

#: What may look into a buffer, by package and name, and how its address is found.
VIEWING: dict[tuple[str, str], Callable[[Any], int] | None] = {
    ("builtins", "memoryview"): None,
    ("numpy", "ndarray"): lambda array: array.__array_interface__["data"][0],
    ("pyarrow", "Buffer"): lambda arrow: arrow.address,
    ("torch", "Tensor"): lambda tensor: tensor.data_ptr(),
}


def viewers(buffer: Buffer) -> str:
    """The views of this buffer that can be found, with their types and shapes.

    Looks through everything that the garbage collector knows and the variables of all running functions. A view that
    only C code has is not found.
    """
    begin = buffer.address
    end = begin + len(buffer)
    found: dict[int, str] = {}
    may_view: dict[type, bool] = {}

    def look(candidates: Iterable[Any]) -> None:
        for candidate in candidates:
            kind = type(candidate)
            if kind not in may_view:
                may_view[kind] = (str(kind.__module__).partition(".")[0], kind.__name__) in VIEWING
            if may_view[kind] and id(candidate) not in found and _looks_into(candidate, buffer, begin, end):
                found[id(candidate)] = _tell(candidate)

    for variables in _variables():
        look(variables)
    known = gc.get_objects()
    look(known)
    for container in known:
        look(gc.get_referents(container))
    return ", ".join(sorted(found.values())) or "by something that cannot be found"


def _variables() -> Iterator[list[Any]]:
    """The values of the variables of each running function."""
    # Frames refer to each other and to what is found: none may be left in a variable of this search.
    frames = [sys._getframe(1), *(frame for thread, frame in sys._current_frames().items() if thread != get_ident())]
    while frames:
        frame = frames.pop()
        if frame.f_back is not None:
            frames.append(frame.f_back)
        names = frame.f_locals
        yield list(names.values())
        if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            names.clear()  # a copy, which the frame would keep, and with it the views
        del frame, names


def _looks_into(candidate: Any, buffer: Buffer, begin: int, end: int) -> bool:
    if isinstance(candidate, memoryview):
        try:
            owner = candidate.obj
        except ValueError:  # released
            return False
        # Uncompiled, there is a memoryview or a wrapper between the two.
        own = getattr(buffer, "view", None)
        return candidate is not own and (owner is buffer or (own is not None and (owner is own or _wraps(owner, buffer))))
    address = VIEWING[type(candidate).__module__.partition(".")[0], type(candidate).__name__]
    return address is not None and bool(begin <= address(candidate) < end)


def _wraps(owner: Any, buffer: Buffer) -> bool:
    return type(owner).__name__ == "_buffer_wrapper" and any(inner is buffer for inner in gc.get_referents(owner))


def _tell(view: Any) -> str:
    kind = f"{type(view).__module__}.{type(view).__qualname__}".removeprefix("builtins.")
    shape = getattr(view, "shape", None)
    return f"{kind} of {getattr(view, 'size', '?')} bytes" if shape is None else f"{kind} of shape {tuple(shape)}"
