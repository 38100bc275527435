"""CPython 3.11, uncompiled: Python code cannot export a buffer there, so a class that should do it inherits it.

PickleBuffer passes each request on to the object it was made of, which is all that is needed, but its type says that it
is no base. That one flag is set for as long as it takes to make the subclass. From 3.12 on there is `__buffer__`.
"""

from __future__ import annotations

import ctypes
import pickle
from typing import TypeVar

_Class = TypeVar("_Class", bound=type)

TPFLAGS_BASETYPE = 1 << 10  # Source: CPython's Include/object.h
#: Where tp_flags lies in a type object, in bytes. Source: CPython's Include/cpython/object.h, 64 and 32 bits.
TP_FLAGS_OFFSET = 21 * ctypes.sizeof(ctypes.c_void_p)


def exporting(cls: _Class) -> _Class:
    """The same class, made with a PickleBuffer: `cls.__new__(cls, exporter)`. It exports what `exporter` does."""
    flags = ctypes.c_ulong.from_address(id(pickle.PickleBuffer) + TP_FLAGS_OFFSET)
    if flags.value != pickle.PickleBuffer.__flags__:
        raise ImportError("mempool: this Python is laid out in a way that is not known; install with a C compiler")
    flags.value |= TPFLAGS_BASETYPE
    try:
        body = {"__doc__": cls.__doc__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
        return type(cls)(cls.__name__, (cls, pickle.PickleBuffer), body)
    finally:
        flags.value &= ~TPFLAGS_BASETYPE
