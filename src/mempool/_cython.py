"""What the uncompiled core uses in the place of the `cython` module, whether Cython is installed or not; and type checkers.

The core is written in Cython's pure-Python mode: the same files compile to C and run as they are. Uncompiled, the
decorators and types below mean nothing, so each is the identity, or a plain Python type. (Those of Cython's own module are
no methods, and cost a call each.) Cython knows its module by an `import cython`, wherever in a file that is.

Imports nothing of the package: the engine of shared pools, which `mempool top` loads without the core, imports it, too.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar, overload

_T = TypeVar("_T")

compiled: Final = False

Py_ssize_t: TypeAlias = builtins.int
size_t: TypeAlias = builtins.int
int: TypeAlias = builtins.int
longlong: TypeAlias = builtins.int
ulonglong: TypeAlias = builtins.int
double: TypeAlias = builtins.float
bint: TypeAlias = builtins.bool
void: TypeAlias = None
NULL: Any = None

if TYPE_CHECKING:  # these stand only in branches for C
    p_void: TypeAlias = Any
    p_char: TypeAlias = Any
    pp_void: TypeAlias = Any

    class pointer(Generic[_T]):
        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: object) -> None: ...

    class Py_buffer: ...

    def sizeof(kind: object) -> Any: ...


def _as_it_is(decorated: _T) -> _T:
    return decorated


cclass = cfunc = final = no_gc = inline = _as_it_is
critical_section = _as_it_is  # a decision is made one step in another way: see deciding.py


def _with_arguments(*_args: Any, **_kwargs: Any) -> Callable[[_T], _T]:
    return _as_it_is


exceptval = freelist = _with_arguments


@overload
def cast(kind: type[_T], thing: object) -> _T: ...
@overload
def cast(kind: object, thing: object) -> Any: ...
def cast(kind: object, thing: object) -> object:
    return thing
