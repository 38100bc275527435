"""What a pool takes from a source beside `alloc` and `free`, and whether it fits.

A source may be any class, and its attributes may have been there before it ever met a pool: a `reset` that starts a
machine again, a `level` that is a number. What does not fit is refused when the pool is made, and not at the first free.
A source says by `pool_uses` which of these names it means for the pool.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

#: What a source may have beside `alloc` and `free`. An adaptor has it too, where what it wraps has.
OPTIONAL = ("check", "level", "regain", "reset", "room_for", "size")
#: Those that are called, each with what it is given. (No dict: CPython 3.11 crashes where it has no memory for
#: an iterator of a dict's items.)
_CALLED = (("check", "element"), ("reset", "element"), ("room_for", "elements"), ("regain", ""))


@dataclass(frozen=True, slots=True)
class Room:
    """How many more elements a source could make now, at most: an estimate that errs on the large side."""

    elements: int
    """Elements."""
    why: str
    """What sets the bound, for a message: "the machine has 1.5 GiB left"."""


def found(source: object, name: str, default: Any = None) -> Any:
    """What a source has of that name for a pool; `default` where it has none, or means another thing by it."""
    uses = getattr(source, "pool_uses", None)
    if uses is not None and name not in uses:
        return default
    return getattr(source, name, default)


def require(called: str, source: object) -> None:
    """Raise TypeError, with the way out, where a pool could not use this source. called: who refuses, for the message."""
    for name in ("alloc", "free"):
        if not callable(getattr(source, name, None)):
            raise TypeError(f"{called}: a source has alloc() and free(element); {source!r} has not")
        refuse_async(f"{called}: the source's {name}", getattr(source, name))
    uses = getattr(source, "pool_uses", None)
    if uses is not None and (isinstance(uses, str) or not _is_collection_of_names(uses)):
        raise TypeError(f"{called}: the source's pool_uses names what is meant for a pool, some of {OPTIONAL}; not {uses!r}")
    level = found(source, "level")
    if level is not None and not isinstance(level, str):
        raise TypeError(
            f"{called}: the source's level is a word for what is guaranteed, or None, not {level!r}; {_ways_out()}"
        )
    for name, argument in _CALLED:
        method = found(source, name)
        if method is None:
            continue
        if not callable(method):
            raise TypeError(
                f"{called}: the source's {name} is called as {name}({argument}), and {method!r} cannot be; {_ways_out()}"
            )
        refuse_async(f"{called}: the source's {name}", method)
        arguments = 1 if argument else 0
        if _takes_plainly(method, arguments):
            continue
        signature = _signature(method)
        if signature is not None and not _takes(signature, arguments):
            raise TypeError(
                f"{called}: the source's {name}{signature} cannot be called as {name}({argument}), which a pool would do; "
                f"{_ways_out()}"
            )


def refuse_async(what: str, function: Any) -> None:
    """Raise TypeError for a function whose call returns a coroutine and does nothing yet."""
    bare = function
    while isinstance(bare, functools.partial):
        bare = bare.func
    # An object is called by its class's `__call__`; a class is called to make an object.
    call = None if isinstance(bare, type) else getattr(bare, "__call__", None)  # noqa: B004
    if inspect.iscoroutinefunction(bare) or inspect.iscoroutinefunction(call):
        raise TypeError(
            f"{what} is an async function, whose call returns a coroutine; a source is called from threads, finalizers and "
            "loops alike, so give an ordinary function"
        )


def _is_collection_of_names(uses: Any) -> bool:
    try:
        return all(name in OPTIONAL for name in uses)
    except TypeError:
        return False


def _takes_plainly(function: Any, arguments: int) -> bool:
    """Whether so many positional arguments fit, as far as can be told without making a signature.

    CPython 3.12 and 3.13 crash in `inspect.signature` where memory runs out, and a pool may be made then. So that is asked
    only for what does not seem to fit, or is rare.
    """
    while True:
        if isinstance(function, functools.partial) and not function.keywords:
            arguments += len(function.args)
            function = function.func
        elif isinstance(function, MethodType):
            arguments += 1
            function = function.__func__
        elif isinstance(function, FunctionType) and "__wrapped__" in function.__dict__:
            function = function.__dict__["__wrapped__"]
        else:
            break
    if isinstance(function, type | functools.partial) or hasattr(function, "__signature__"):
        return False
    if isinstance(function, FunctionType):
        return _code_takes(function, arguments)
    if hasattr(function, "__wrapped__"):
        return False
    call = getattr(type(function), "__call__", None)  # noqa: B004 - the class's own, which is what is called
    if isinstance(call, FunctionType):
        return "__wrapped__" not in call.__dict__ and _code_takes(call, arguments + 1)
    text = getattr(function, "__text_signature__", None)
    return text is None or _text_takes(text, arguments + isinstance(function, BuiltinFunctionType))


def _code_takes(function: FunctionType, arguments: int) -> bool:
    code = function.__code__
    names, by_name = code.co_argcount, function.__kwdefaults__ or ()
    fewest = names - len(function.__defaults__ or ())
    is_enough = arguments <= names or bool(code.co_flags & inspect.CO_VARARGS)
    return fewest <= arguments and is_enough and code.co_kwonlyargcount <= len(by_name)


def _text_takes(text: str, arguments: int) -> bool:
    """A guess, of a function in C: "($self, element, default=None, /)"."""
    names = [name.strip() for name in text.strip("()").split(",")]
    names = [name for name in names if name and name != "/"]
    return sum("=" not in name for name in names) <= arguments <= len(names)


def _signature(method: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(method).replace(return_annotation=inspect.Signature.empty)
    except (TypeError, ValueError):  # written in C, mostly, and without one
        return None


def _takes(signature: inspect.Signature, arguments: int) -> bool:
    try:
        signature.bind(*[None] * arguments)
    except TypeError:
        return False
    return True


def _ways_out() -> str:
    return "rename it, wrap the source, or say pool_uses = () in its class if it has nothing to do with the pool"
