"""Who still views a buffer: a search for an error message."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mempool.buffer import Buffer


def viewers(buffer: Buffer) -> str:
    """The views of this buffer that can be found, with their types and shapes.

    Looks through everything that the garbage collector knows and the variables of all running functions. A view that
    only C code has is not found.
    """
    begin = buffer.address
    end = begin + len(buffer)
    seen: dict[int, str] = {}
    for candidate in _reachable():
        if id(candidate) not in seen and _looks_into(candidate, buffer, begin, end):
            seen[id(candidate)] = _tell(candidate)
    return ", ".join(sorted(seen.values())) or "by something that cannot be found"


def _reachable() -> Iterator[Any]:
    for frame in sys._current_frames().values():
        step = frame
        while step is not None:
            if step.f_globals.get("__name__") != __name__:
                yield from list(step.f_locals.values())
            step = step.f_back  # type: ignore[assignment]
    for known in gc.get_objects():
        yield known
        if isinstance(known, (dict, list, tuple, set)) or hasattr(type(known), "__slots__"):
            yield from gc.get_referents(known)


def _looks_into(candidate: Any, buffer: Buffer, begin: int, end: int) -> bool:
    kind = type(candidate)
    module = str(kind.__module__).partition(".")[0]
    if kind is memoryview:
        try:
            owner = candidate.obj
        except ValueError:  # released
            return False
        # Uncompiled, there is a memoryview or a wrapper between the two.
        own = getattr(buffer, "view", None)
        return candidate is not own and (owner is buffer or (own is not None and (owner is own or _wraps(owner, buffer))))
    if module == "numpy" and kind.__name__ == "ndarray":
        return bool(begin <= candidate.__array_interface__["data"][0] < end)
    if module == "pyarrow" and kind.__name__ == "Buffer":
        return bool(begin <= candidate.address < end)
    if module == "torch" and kind.__name__ == "Tensor":
        return bool(begin <= candidate.data_ptr() < end)
    return False


def _wraps(owner: Any, buffer: Buffer) -> bool:
    return type(owner).__name__ == "_buffer_wrapper" and any(inner is buffer for inner in gc.get_referents(owner))


def _tell(view: Any) -> str:
    kind = f"{type(view).__module__}.{type(view).__qualname__}".removeprefix("builtins.")
    shape = getattr(view, "shape", None)
    return f"{kind} of {getattr(view, 'size', '?')} bytes" if shape is None else f"{kind} of shape {tuple(shape)}"
