"""Whether a call has begun. An element whose `free` was not even entered is still the caller's, who tries again.

Python may need memory to enter a function: for the stack that its frame lies on, or, after a debugger or a tracer came or
went (CPython 3.12 and later), for a note about its code. An interrupt may strike on the way in, too.
"""

from __future__ import annotations

import functools
import opcode
from collections.abc import Callable
from types import CodeType, FunctionType, MethodType
from typing import Any

_RESUME = opcode.opmap["RESUME"]  # the bytecode at which a function has been entered, and has done nothing yet


def was_entered(function: Callable[..., Any], error: BaseException) -> bool:
    """Whether this function, called just now, has begun, before this error came of it. Yes where nobody can tell.

    Nobody can of a function in C: calling that again might free the same memory twice, which is worse than to lose it.
    """
    code = _code_of(function)
    if code is None:
        return True
    entry = error.__traceback__  # of the caller's own frame
    while entry is not None:
        entry = entry.tb_next
        if entry is not None and entry.tb_frame.f_code is code:
            return entry.tb_lasti > 2 * code.co_code[::2].index(_RESUME)
    return True


def room_for_a_frame(_nothing: None) -> bool:
    """Raise MemoryError where the stack could not grow by a usual frame, so that the function called next can be entered.

    A call with a frame larger than most, which is all it does. (The stack grows by blocks, which only a frame that does
    not fit into the last one needs; the block that this call had needed is there to be had again.)
    """
    return True


room_for_a_frame.__code__ = room_for_a_frame.__code__.replace(co_stacksize=250)


def _code_of(function: Any) -> CodeType | None:
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, MethodType):
        function = function.__func__
    return function.__code__ if isinstance(function, FunctionType) else None
