"""What the uncompiled core uses in the place of the `cython` module, whether Cython is installed or not.

The core is written in Cython's pure-Python mode: the same files compile to C and run as they are. Uncompiled, the
decorators and types below mean nothing, so each is the identity, or a plain Python type. (Those of Cython's own module are
no methods, and cost a call each.) Cython knows its module by an `import cython`, wherever in a file that is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

compiled = False

Py_ssize_t = int
longlong = int
ulonglong = int
double = float
bint = bool
void = None

_Decorated = TypeVar("_Decorated")


def cclass(cls: _Decorated) -> _Decorated:
    return cls


def cfunc(function: _Decorated) -> _Decorated:
    return function


def final(cls: _Decorated) -> _Decorated:
    return cls


def no_gc(cls: _Decorated) -> _Decorated:
    return cls


def inline(function: _Decorated) -> _Decorated:
    return function


def _with_arguments(*_args: Any, **_kwargs: Any) -> Callable[[_Decorated], _Decorated]:
    def decorate(decorated: _Decorated) -> _Decorated:
        return decorated

    return decorate


def cast(_kind: object, thing: Any) -> Any:
    return thing


exceptval = freelist = _with_arguments


def critical_section(decision: _Decorated) -> _Decorated:
    return decision  # it is made one in another way: see deciding.py
