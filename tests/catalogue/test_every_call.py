"""No public call is missing from the list of every call, which the sweep and the count of leaks go through."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
from every_call import CALLS, in_a_task

import mempool

PACKAGE = str(Path(mempool.__file__).parent)
#: Not mempool.testing, nor the command line: who tests has memory.
MODULES = (
    "mempool",
    "mempool.linux",
    "mempool.maintenance",
    "mempool.parking",
    "mempool.pressure",
    "mempool.registry",
    "mempool.sources",
)
#: What no entry needs to call, and why.
EXEMPT = {
    "Buffer.__buffer__": "uncompiled, memoryview() calls it, from CPython 3.12 on",
    "Buffer.__release_buffer__": "as above, when a view ends",
    "Buffer.__getbuffer__": "compiled, Python's memoryview() calls it",
    "Buffer.__releasebuffer__": "as above, when a view ends",
    "Buffer.__init__": "refuses, where a base has not refused before",
    "Buffer.begin": "for a source: Buffers calls it",
    "Chunk.__init__": "Pool.read makes them",
    "Pressure.__init__": "`follow` makes them",
    "Upkeep.__init__": "`upkeep` makes them",
    "Lease.__call__": "compiled, `with` calls it",
    "Leases.__init__": "Pool.lease_many makes them",
    "Pool.__aexit__": "a thread does it, beside which no sweep can take memory away: test_tasks_go_on.py",
    "Pool.refill_async": "as above",
    "Pool.resize_async": "as above",
    "Pool.__cinit__": "compiled, Pool() calls it",
    "Pool.map": "its worker threads are the standard library's, which loses calls where there is no memory",
    "Region.__init__": "regions are made by Memory",
    "Parker": "a protocol: it has no code",
    "TaskParker": "a protocol: it has no code",
    "Waker": "a protocol: it has no code",
    "SharedPool": "its engine is killed at each step instead, see tests/shared; here nobody else would use the pool",
    "Provider": "a protocol: it has no code",
    "RegionLike": "a protocol: it has no code",
    "Source": "a protocol: it has no code",
}

Called = tuple[type, CodeType]


def is_plain(kind: type) -> bool:
    """Errors and frozen values: they do nothing."""
    return issubclass(kind, BaseException) or dataclasses.is_dataclass(kind) or kind.__name__ in EXEMPT


def public() -> dict[str, Any]:
    """What is promised, by its name."""
    return {name: getattr(module, name) for module in map(importlib.import_module, MODULES) for name in module.__all__}


def code_of(member: object) -> CodeType | None:
    if isinstance(member, property):
        member = member.fget
    return member.__code__ if isinstance(member, FunctionType) else None


def methods(kind: type, others: set[type]) -> Iterator[tuple[str, CodeType]]:
    """Its own, and those of its bases that are no class of the public's."""
    seen: set[str] = set()
    for base in kind.__mro__:
        if base is not kind and base in others:
            return
        for name, member in vars(base).items():
            code = code_of(member)
            is_special = name.startswith("__") and name.endswith("__")
            if code is not None and name not in seen and (is_special or not name.startswith("_")):
                seen.add(name)
                yield f"{kind.__name__}.{name}", code


def promised() -> dict[str, tuple[type | None, CodeType]]:
    """Every function and every method."""
    found: dict[str, tuple[type | None, CodeType]] = {}
    names = public()
    kinds = {thing for thing in names.values() if isinstance(thing, type)}
    for name, thing in names.items():
        if isinstance(thing, type):
            if not is_plain(thing):
                found |= {method: (thing, code) for method, code in methods(thing, kinds)}
        elif isinstance(thing, FunctionType):
            found[name] = None, thing.__code__
    return found


def called_by(name: str) -> set[Called]:
    """What this entry calls as a user does: not from within the package."""
    found: set[Called] = set()
    prepared = CALLS[name]
    scene = prepared.scene()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        caller = frame.f_back
        called = frame.f_code.co_filename.startswith(PACKAGE)
        if event == "call" and called and caller is not None and not caller.f_code.co_filename.startswith(PACKAGE):
            names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
            found.add((type(frame.f_locals[names[0]]) if names else object, frame.f_code))

    def run() -> None:
        call = prepared(scene)
        sys.setprofile(note)
        try:
            call()
        finally:
            sys.setprofile(None)
        del call
        scene.end()

    in_a_task(run) if prepared.in_loop else run()
    return found


@pytest.mark.skipif(
    mempool.IMPLEMENTATION != "pure", reason="who calls compiled functions cannot be seen; the list is the same"
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_public_call_is_made() -> None:
    """Each function, method and property that is promised is called by an entry of the list, or stands in EXEMPT."""
    called = {one for name in CALLS for one in called_by(name)}
    missing = [
        name
        for name, (kind, code) in promised().items()
        if name not in EXEMPT and not any(c is code and (kind is None or issubclass(k, kind)) for k, c in called)
    ]
    assert missing == []


@pytest.mark.skipif(mempool.IMPLEMENTATION != "pure", reason="compiled, they are no functions of Python's")
def test_what_is_exempt_exists() -> None:
    """And would be asked for otherwise."""
    assert [name for name in EXEMPT if name not in promised() and name not in public()] == []


@pytest.mark.skipif(mempool.IMPLEMENTATION != "pure", reason="compiled, they are no functions of Python's")
def test_the_promise_is_not_empty() -> None:
    """Or the test above shows nothing: these are found, each by another way."""
    assert {"Pool.alloc", "Pool.min_nr", "Buffer.fill", "Faulty.free", "rescue.__exit__", "mempool_alloc", "replay"} <= set(
        promised()
    )
