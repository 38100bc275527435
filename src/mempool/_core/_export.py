"""CPython 3.11 and 3.12, uncompiled: a class that exports a buffer, by inheriting it.

In 3.11 Python code cannot export one. In 3.12 there is `__buffer__`, but it must return a memoryview, and the collector
crashes when it finds one that is garbage together with those who look through it (mended in 3.13).
PickleBuffer passes each request on to the object it was made of, which is all that is needed, but its type says that it
is no base. That one flag is set for as long as it takes to make the subclass.
"""

from __future__ import annotations

import ctypes
import pickle
from typing import ClassVar, TypeVar

_Class = TypeVar("_Class", bound=type)

TPFLAGS_BASETYPE = 1 << 10  # Source: CPython's Include/object.h
#: Where tp_flags lies in a type object, in bytes. Source: CPython's Include/cpython/object.h, 64 and 32 bits.
TP_FLAGS_OFFSET = 21 * ctypes.sizeof(ctypes.c_void_p)


def exporting(cls: _Class) -> _Class:
    """The same class, made with a PickleBuffer: `cls.__new__(cls, exporter)`. It exports what `exporter` does."""
    for name in ("__buffer__", "__release_buffer__"):  # they would come before what is inherited
        delattr(cls, name)
    flags = ctypes.c_ulong.from_address(id(pickle.PickleBuffer) + TP_FLAGS_OFFSET)
    if flags.value != pickle.PickleBuffer.__flags__:
        raise ImportError("mempool: this Python is laid out in a way that is not known; install with a C compiler")
    flags.value |= TPFLAGS_BASETYPE
    try:
        body = {"__doc__": cls.__doc__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
        return type(cls)(cls.__name__, (cls, pickle.PickleBuffer), body)
    finally:
        flags.value &= ~TPFLAGS_BASETYPE


class _Byte(ctypes.Union):
    """An array of c_ubyte would say that its format is "<B", which a memoryview cannot read; one of these says "B"."""

    _fields_: ClassVar = [("byte", ctypes.c_ubyte)]


def window_on(view: memoryview) -> object:
    """An object that exports the same memory, can be weakly referred to, and has a reference of each view's."""
    return (_Byte * len(view)).from_buffer(view)


def end_of(window: object) -> object:
    """An object that dies with this window.

    A code object, because the collector does not know those. What it knows it may call garbage, and tell whoever holds a
    weak reference, while finalizers of the same garbage still look through the window, or keep it for good.
    """
    end = end_of.__code__.replace()
    window.end = end  # type: ignore[attr-defined]
    return end
