# What type checkers take `cython` for: the names the core uses, as the uncompiled core sees them, with or without Cython
# installed, here and where mempool is used. Its partner at run time is _cython.py.
import builtins
from collections.abc import Callable
from typing import Any, Final, Generic, TypeAlias, TypeVar, overload

_T = TypeVar("_T")
_Function = TypeVar("_Function", bound=Callable[..., Any])

compiled: Final = False

Py_ssize_t: TypeAlias = builtins.int
bint: TypeAlias = builtins.bool
double: TypeAlias = builtins.float
int: TypeAlias = builtins.int
longlong: TypeAlias = builtins.int
size_t: TypeAlias = builtins.int
ulonglong: TypeAlias = builtins.int
void: TypeAlias = None
# Pointers stand only in branches for C.
p_void: TypeAlias = Any
p_char: TypeAlias = Any
pp_void: TypeAlias = Any
NULL: Any

class pointer(Generic[_T]):  # noqa: N801 - Cython's name
    def __getattr__(self, name: str) -> Any: ...
    def __setattr__(self, name: str, value: object) -> None: ...

class Py_buffer: ...  # noqa: N801 - C's name

@overload
def cast(type: type[_T], value: object) -> _T: ...
@overload
def cast(type: object, value: object) -> Any: ...
def sizeof(type: object) -> Any: ...
def cclass(cls: _T) -> _T: ...
def cfunc(function: _T) -> _T: ...
def final(cls: _T) -> _T: ...
def no_gc(cls: _T) -> _T: ...
def inline(function: _T) -> _T: ...
def exceptval(value: object = ..., *, check: builtins.bool = ...) -> Callable[[_T], _T]: ...
def freelist(size: builtins.int) -> Callable[[_T], _T]: ...
def critical_section(decision: _Function) -> _Function: ...
