"""Memory runs out at the first, second, third ... allocation of each public call: nothing crashes and nothing is lost.

`_testcapi.set_nomemory(n, n + 1)` lets one allocation of the interpreter fail, whoever makes it: an object, a list that
grows, a frame. The call then raises MemoryError, or succeeds another way, or ends with the error that it is there for.
Afterwards each element is a spare, or with a user who knows it, or disposed of, and the pool works.

One failure at a time: where all that follow fail, too, CPython itself does not come out of its handlers of exceptions.
"""

from __future__ import annotations

import functools
import gc
import itertools
import operator
import os
import pickle
import sys
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
import scenes
from every_call import CALLS, EACH_CALL, Broken, NotRaised, Prepared, in_a_task
from sweeps import LONG

import mempool
import mempool.testing
from mempool import lifecycle
from mempool._core import Ticket

_testcapi = pytest.importorskip("_testcapi", reason="this Python has no _testcapi, which lets allocations fail")

OURS = (str(Path(mempool.__file__).parent), str(Path(__file__).parent.parent))
#: More allocations than any call makes, by far: a sweep that comes so far would not end. (The longest have a few thousand.)
SWEPT_MAX = 1_000_000
#: References to each code object, in place of those that CPython drops: more than a sweep meets of its functions.
BALLAST = 4000
#: The first so many fail one by one, then each so many'th. Only what asks the system or looks through all objects has more.
IS_WHOLE = LONG or __name__ == "__main__"
ONE_BY_ONE, STRIDE = (1000, 15) if IS_WHOLE else (300, 60)
#: In a sample, each so many'th from the first, which is another one for each call.
SAMPLED = 1 if IS_WHOLE else 11
#: Objects that are made after the call, for the failure that it has not met: more than three strides.
PROBES = 64 if IS_WHOLE else 256
#: Where memory runs out in its own midst, CPython says it in other words than MemoryError.
WORDS_OF_CPYTHON = (
    "returned NULL without setting an exception",
    "error return without exception set",
    "returned a result with an exception set",
    "can't allocate lock",
    "can't allocate read lock",
    "can't start new thread",
    "not PosixPath",
    "lineterminator must be set",
    "'async for' received an invalid object from __anext__",
)


def call_short_of_memory(call: Callable[[], object], others: int) -> tuple[BaseException | None, bool]:
    """Let one allocation fail, after so many others. Returns what the call raised, and whether it met the failure.

    In one frame from beginning to end: to enter another may need memory, too.
    """
    probes: list[bytes | None] = [None] * PROBES
    outcome: BaseException | None = None
    was_met = True
    _testcapi.set_nomemory(others, others + 1)
    try:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - looked at by the caller
            outcome = error
        try:
            for place in range(PROBES):
                probes[place] = bytes(600)  # whoever meets it here has shown that nobody did before
        except MemoryError:
            was_met = False
    finally:
        _testcapi.remove_mem_hooks()
    return outcome, was_met


@dataclass
class Sweep:
    """What became of one call. Numbers are swept allocations."""

    swept: int = 0
    raised: int = 0
    wrong: dict[str, list[int]] = field(default_factory=dict)

    def note(self, what: str, n: int) -> None:
        self.wrong.setdefault(what, []).append(n)


def sweep(prepared: Prepared, first: int = 0, every: int = 1, renews_code: bool = False) -> Sweep:
    """Make the call again and again, each time with the next allocation failing, until it meets no failure."""
    found = Sweep()
    undisturbed = 0
    for n in itertools.chain(range(first, ONE_BY_ONE, every), itertools.count(ONE_BY_ONE, STRIDE)):
        assert found.swept < SWEPT_MAX, f"after {n} allocations the call still makes more"
        scene = prepared.scene()
        call = prepared(scene)
        if renews_code:
            renew_code()
        outcome, was_met = call_short_of_memory(call, n)
        if outcome is not None and (complaint := judged(outcome, was_met)):
            found.note(complaint, n)
        found.raised += outcome is not None
        forget(outcome)
        del call, outcome
        try:
            scene.end()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            found.note(f"afterwards: {type(error).__name__}: {error}", n)
            forget(error)
        lifecycle._engines.clear()  # CPython leaks what a generator was about to run over; who looks for a deadlock sees it
        # Free lists make the number of allocations differ from call to call.
        undisturbed = 0 if was_met else undisturbed + 1
        if undisturbed == 3:
            found.swept -= 2
            break
        found.swept += 1
    return found


def judged(outcome: BaseException, was_disturbed: bool) -> str:
    """What is wrong with this exception; nothing: it is one of those that may come of it."""
    if was_disturbed and isinstance(outcome, MemoryError | NotRaised):
        return ""
    if was_disturbed and any(words in str(outcome) for words in WORDS_OF_CPYTHON):
        return ""
    return f"{type(outcome).__name__}: {outcome}"


def forget(error: BaseException | None) -> None:
    """Drop the frames, which keep pools alive."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def codes_within(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from codes_within(constant)


@functools.cache
def ballast() -> list[list[CodeType]]:
    """CPython 3.12 and 3.13 drop one reference too many to a code object each time a function cannot be made of it."""
    gc.unfreeze()
    functions = [o for o in gc.get_objects() if type(o) is FunctionType and o.__code__.co_filename.startswith(OURS)]
    return [[code] * BALLAST for function in functions for code in codes_within(function.__code__)]


@functools.cache
def functions() -> list[tuple[FunctionType, CodeType]]:
    """Those of the package, and of the sources of the scenes. A finalizer that is not entered is not called again."""
    ours = [o for o in gc.get_objects() if type(o) is FunctionType and o.__name__ != "__del__"]
    files = (OURS[0], scenes.__file__)
    return [(function, function.__code__) for function in ours if function.__code__.co_filename.startswith(files)]


def renew_code() -> None:
    """Give each function code that was never run. CPython makes notes of it as it is entered, and needs memory for them."""
    for function, code in functions():
        function.__code__ = code.replace()


@pytest.fixture(autouse=True)
def _finalizers_may_fail(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is raised in a finalizer goes to nobody; what it leaves behind is looked at afterwards."""
    ballast()
    functions()
    monkeypatch.setattr(sys, "unraisablehook", lambda _unraisable: None)
    gc.collect()
    gc.freeze()  # what is looked through once need not be looked through before each of a thousand tests
    gc.disable()
    yield
    gc.enable()


def is_beyond_this_python(name: str) -> bool:
    """Uncompiled, CPython 3.12 on counts a view for ever for which it had no memory; 3.13 crashes in an `async with`."""
    if sys.version_info < (3, 12) or mempool.IMPLEMENTATION != "pure":
        return False
    prepared = CALLS[name]
    views = "buffers" in prepared.options or prepared.prepare.__module__ == "calls_of_buffers"
    return views or (name == "lease_async_body_raises" and sys.version_info >= (3, 13))


def swept(name: str, renews_code: bool = False) -> Sweep:
    """In a process of its own: CPython 3.12 loses references where memory runs out, and crashes after too many calls."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with os.fdopen(writing, "wb") as told:
                pickle.dump(swept_here(name, renews_code), told)
            status = 0
        except BaseException:  # noqa: BLE001 - the child ends here, whatever it was
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        found = told.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return pickle.loads(found) if status == 0 else Sweep(wrong={f"the process crashed: status {status}": []})


def swept_here(name: str, renews_code: bool = False) -> Sweep:
    prepared = CALLS[name]
    found: list[Sweep] = []
    if renews_code:
        sys.settrace(lambda *_: None)  # from now on CPython makes its notes
        sys.settrace(None)

    def run() -> None:
        found.append(sweep(prepared, zlib.crc32(name.encode()) % SAMPLED, SAMPLED, renews_code))

    in_a_task(run) if prepared.in_loop else run()
    return found[0]


@pytest.mark.sample(8)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # a lease that is cut short is dropped: that is the point
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a coroutine that could not be awaited
@pytest.mark.parametrize("name", EACH_CALL)
def test_no_allocation_that_fails_loses_anything(name: str) -> None:
    """Whichever allocation of a call fails, all is accounted for afterwards, and the pool works."""
    if is_beyond_this_python(name):
        pytest.skip("CPython itself goes wrong here")
    found = swept(name)
    assert found.wrong == {}, f"{found.swept} allocations swept"


@pytest.mark.sample(8)
@pytest.mark.skipif(sys.version_info < (3, 12), reason="before CPython 3.12, to enter a function again needs no memory")
@pytest.mark.skipif(mempool.IMPLEMENTATION == "pure", reason="uncompiled, the last resort is a function, too")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", EACH_CALL)
def test_no_function_that_cannot_be_entered_loses_anything(name: str) -> None:
    """After a debugger or a tracer came or went, CPython needs memory to enter each function for the first time.

    Which is why this was seen only now and then, when some test before had traced something.
    """
    if name == "linux_pages":
        pytest.skip("its own functions are not entered, and free twice")
    found = swept(name, renews_code=True)
    assert found.wrong == {}, f"{found.swept} allocations swept"


SOURCES: dict[str, Any] = {
    "objects": mempool.Objects(bytearray),
    "objects that are reset": mempool.Objects(bytearray, reset=bytearray.clear),
    "buffers": mempool.Buffers(4096),
    "buffers that are wiped": mempool.Buffers(4096, zero="free"),
}


@pytest.mark.skipif(mempool.IMPLEMENTATION == "pure", reason="uncompiled, every call makes small objects")
@pytest.mark.parametrize("track", ["nothing", "identity"])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("way", ["alloc", "try_alloc", "alloc_reserved", "lease"])
def test_without_any_memory_the_whole_reserve_can_be_had(way: str, source: Any, track: str) -> None:
    """Not one allocation of the interpreter's works, and each element that is promised is there."""
    pool = mempool.Pool(source, 3, track=track)
    take = getattr(pool, way)
    if way == "lease":
        leases = iter([pool.lease().__enter__ for _ in range(4)])
        take = functools.partial(map(operator.call, leases).__next__)
    first = second = third = fourth = None
    failed = False
    _testcapi.set_nomemory(0, 0)
    try:  # written out, because a loop would need memory
        first = take()
        second = take()
        third = take()
        fourth = take()
    except MemoryError:
        failed = True
    finally:
        _testcapi.remove_mem_hooks()
    assert None not in (first, second, third)
    assert len({id(first), id(second), id(third)}) == 3
    assert fourth is None
    assert failed or way == "alloc_reserved"
    stats = pool.stats()
    assert (stats.spare, stats.out, stats.made, stats.served_from_reserve) == (0, 3, 3, 3)


@pytest.mark.skipif(mempool.IMPLEMENTATION == "pure", reason="uncompiled, every call makes small objects")
def test_without_any_memory_the_reserve_can_be_had_beside_a_drain() -> None:
    """And the drain is told when it is returned."""
    pool = mempool.Pool(mempool.Objects(bytearray), 2)
    told: list[bool] = []
    drain = Ticket(0)
    drain.set_waiter(lambda: told.append(True), None, 0)
    first, second = pool.alloc_reserved(), None
    assert not pool.core.watch_drain(drain, True)
    _testcapi.set_nomemory(0, 0)
    try:
        second = pool.alloc()
    finally:
        _testcapi.remove_mem_hooks()
    assert second is not None
    pool.free(first)
    assert told == []
    pool.free(second)
    assert told == [True]


@pytest.mark.skipif(mempool.IMPLEMENTATION == "pure", reason="uncompiled, every call makes small objects")
@pytest.mark.parametrize("way", ["alloc", "try_alloc", "alloc_reserved"])
@pytest.mark.parametrize("others", range(20))
def test_memory_that_ends_for_good_in_the_midst_of_a_call_does_not_end_the_promise(others: int, way: str) -> None:
    """So many allocations work, and none after; the source fails already."""
    source = mempool.testing.ScriptedSource()
    pool = mempool.Pool(source, 2)
    source.otherwise = mempool.testing.Step.FAILS
    take = getattr(pool, way)
    first = second = None
    _testcapi.set_nomemory(others, 0)
    try:
        first = take()
        second = take()
    finally:
        _testcapi.remove_mem_hooks()
    assert first is not None
    assert second is not None
    assert (pool.stats().out, pool.stats().made) == (2, 2)


def test_a_free_that_cannot_be_entered_does_not_go_on_for_ever() -> None:
    """A source that has lost its free: each element is disposed of as far as the pool can, and the error is told."""

    class Source:
        def __init__(self) -> None:
            self.alloc = bytearray
            self.free = lambda _element: None

    source = Source()
    pool = mempool.Pool(source, 3)
    del source.free
    with pytest.raises(AttributeError, match="free"):
        pool.close()
    assert pool.stats().disposed == 3


def test_the_sweep_finds_a_lost_element() -> None:
    """A call that forgets what it has taken when memory runs out is found out."""

    def forgetful(scene: Any) -> Callable[[], object]:
        def call() -> None:
            element = scene.pool.alloc()
            [None] * 1000  # noqa: B018 - here memory runs out
            scene.pool.free(element)

        return call

    assert any("out: 1, not 0" in what for what in sweep(Prepared(forgetful)).wrong)


def test_the_sweep_finds_a_wrong_error() -> None:
    """A call that raises what it should not is found out, whether memory ran out or not."""

    def broken(scene: Any) -> Callable[[], object]:
        scene.source.alloc_raises = Broken
        return lambda: scene.pool.alloc_many(4)

    assert any("Broken" in what for what in sweep(Prepared(broken)).wrong)


def main() -> None:
    """`PYTHONPATH=tests python tests/danger/test_out_of_memory.py [call ...]`: what was swept, a line each; then the sum."""
    ballast()
    sys.unraisablehook = lambda _unraisable: None
    warnings.simplefilter("ignore")
    found: dict[str, Sweep] = {}
    for name in sys.argv[1:] or itertools.filterfalse(is_beyond_this_python, CALLS):
        one = found[name] = swept(name)
        print(f"{name:<44} {one.swept:>6} allocations, {one.raised:>6} raised{', WRONG' if one.wrong else ''}", flush=True)
        for what, where in one.wrong.items():
            print(f"    {what}: {where}")
    allocations, raised = (sum(getattr(one, what) for one in found.values()) for what in ("swept", "raised"))
    wrong = sum(bool(one.wrong) for one in found.values())
    print(f"{mempool.IMPLEMENTATION}: {len(found)} calls, {allocations} allocations, {raised} raised, {wrong} calls wrong")


if __name__ == "__main__":
    main()
