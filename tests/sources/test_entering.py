"""A source's free that could not even be entered has done nothing: its element is still the pool's, which tries again.

Python may need memory to enter a function (a block of its stack, or, from 3.12 on, what it notes about code once
somebody has traced), and an interrupt may strike on the way in. Until now such a free counted as one that was called.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

import pytest

from mempool import Fallback, Faulty, Limited, Logged, OnFailure, Pool, Translated, linux
from mempool.sources.entering import was_entered


class Counted:
    """Counts how often each element was disposed of."""

    def __init__(self) -> None:
        self.freed: list[object] = []

    def alloc(self) -> list[int]:
        return []

    def free(self, element: object) -> None:
        self.freed.append(element)


class StruckOnEntry:
    """Raises as this function is entered the next time."""

    def __init__(self, function: Callable[..., Any], error: BaseException) -> None:
        self.code = function.__code__
        self.error = error
        self.has_struck = False

    def __enter__(self) -> Self:
        sys.settrace(self._look)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(None)

    def _look(self, frame: FrameType, event: str, arg: object) -> None:
        if frame.f_code is self.code and not self.has_struck:
            self.has_struck = True
            raise self.error


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda source: source,
    "Limited": lambda source: Limited(source, elements_max=9),
    "Logged": lambda source: Logged(source, to=os.devnull),
    "Faulty": Faulty,
    "OnFailure": lambda source: OnFailure(source, lambda: None),
    "Translated": lambda source: Translated(source, OSError),
    "the first of Fallback": lambda source: Fallback(source, Counted()),
    "the second of Fallback": lambda source: Fallback(Faulty(Counted(), every=1), source),
    "all": lambda source: Limited(Logged(Fallback(Faulty(Counted(), every=1), source), to=os.devnull), elements_max=9),
}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError], ids=["interrupted", "without memory"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_free_that_was_not_entered_is_called_again(wrap: Callable[[Any], Any], kind: type[BaseException]) -> None:
    """Through any adaptor: each element is disposed of, once, and an interrupt is raised all the same."""
    error = kind()  # of this test alone: it has its frames, with the pool
    source = Counted()
    pool = Pool(wrap(source), 0, keep=0)
    element = pool.alloc()
    struck = StruckOnEntry(Counted.free, error)
    raised: BaseException | None = None
    try:
        with struck:
            pool.free(element)
    except (KeyboardInterrupt, MemoryError) as caught:
        raised = caught
    assert struck.has_struck
    assert source.freed == [element]
    assert isinstance(error, MemoryError) or raised is error
    stats = pool.stats()
    assert (stats.made, stats.disposed, stats.disposing, stats.out) == (1, 1, 0, 0)


def test_a_kernels_free_that_was_not_entered_is_called_again() -> None:
    """`free_fn`, by the names of the kernel."""
    freed: list[object] = []

    def free_fn(element: object, pool_data: object) -> None:
        freed.append(element)

    pool = linux.mempool_create(1, lambda _mask, _data: [], free_fn, None)
    assert pool is not None
    with StruckOnEntry(free_fn, MemoryError()) as struck:
        linux.mempool_destroy(pool)
    assert struck.has_struck
    assert len(freed) == 1


def test_a_free_that_has_begun_is_not_called_again() -> None:
    """Whatever it raises: the memory might be freed twice."""
    calls: list[object] = []

    class Source(Counted):
        def free(self, element: object) -> None:
            calls.append(element)
            raise MemoryError

    pool = Pool(Source(), 0, keep=0)
    with pytest.raises(MemoryError):
        pool.free(pool.alloc())
    assert len(calls) == 1
    assert pool.stats().disposed == 1


def _raised_by(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - looked at
        return error
    raise AssertionError("nothing was raised")


def test_a_function_with_many_cells_has_begun_when_its_first_step_raises() -> None:
    """It makes its cells on the way in, and does nothing else before it has been entered."""

    def free(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> object:  # noqa: PLR0917 - all are cells
        a.no_such_attribute  # noqa: B018 - it raises
        return lambda: (a, b, c, d, e, f, g, h)

    assert len(free.__code__.co_cellvars) == 8
    assert was_entered(free, _raised_by(lambda: free(*range(8))))


def test_what_is_not_of_python_counts_as_entered() -> None:
    """Nobody can see whether it was; to lose an element is better than to free it twice."""
    for function in (int, [].index, functools.partial(int)):
        assert was_entered(function, _raised_by(lambda function=function: function("x")))  # type: ignore[misc]


def test_a_handler_of_signals_that_raises_on_the_way_in_is_seen_through() -> None:
    """Its frame lies above that of the function, which has done nothing."""
    source = Counted()
    with StruckOnEntry(Counted.free, KeyboardInterrupt()):
        error = _raised_by(lambda: source.free(1))
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_next is not None
    assert not was_entered(source.free, error)
    assert not was_entered(functools.partial(source.free), error)
    assert was_entered(source.alloc, error)


#: The stack of frames grows by blocks of 2048 words. This script goes so far down that some block is full at each word, and
#: there has no memory of the system from the lookup of the source's free on, until that is looked up again. (All in C, so
#: that the looking up itself needs no room on the stack.)
class Short(Counted):
    """Its free, once memory is short, finds none for its frame, each time."""

    is_short = False

    def __getattribute__(self, name: str) -> Any:
        if name == "free" and self.is_short:
            raise MemoryError
        return super().__getattribute__(name)


def test_an_element_whose_free_could_never_be_called_is_written_off() -> None:
    """It counts as none that the source has back: `written_off` says so, and the error comes out."""
    source = Short()
    pool = Pool(source, 0, keep=0)
    element = pool.alloc()
    source.is_short = True
    with pytest.raises(MemoryError):
        pool.free(element)
    stats = pool.stats()
    assert (stats.made, stats.out, stats.disposing) == (1, 0, 0)
    assert (stats.disposed, stats.written_off) == (1, 1)
    assert source.freed == []


SCRIPT = textwrap.dedent("""
    import functools, itertools, operator, resource
    from mempool import Pool

    HARD = resource.getrlimit(resource.RLIMIT_AS)[1]
    NONE, ENOUGH = (1, HARD), (HARD, HARD)
    set_limit = functools.partial(resource.setrlimit, resource.RLIMIT_AS)

    def free(element):
        freed.append(element)

    free.__code__ = free.__code__.replace(co_stacksize=150)

    def new_source():
        return type("Source", (), {"alloc": lambda self: bytearray(1), "free": staticmethod(free)})()

    def arm(source):
        limits = map(set_limit, itertools.chain([NONE], itertools.repeat(ENOUGH)))
        lookups = map(operator.itemgetter(1), zip(limits, itertools.repeat(free)))
        type(source).free = property(functools.partial(next, lookups))

    def at_depth(depth, call, *arguments):
        return at_depth(depth - 1, call, *arguments) if depth else call(*arguments)

    in_vain = 0
    for depth in range(250):
        freed = []
        source = new_source()
        pool = Pool(source, 0, keep=0)
        element = pool.alloc()
        arm(source)
        try:
            at_depth(depth, pool.free, element)
        except MemoryError:
            in_vain += 1
        finally:
            set_limit(ENOUGH)
        assert freed == [element], f"depth {depth}: freed {len(freed)} times"
        assert pool.stats().disposed == 1
    print(in_vain)
""")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space as Linux does")
def test_a_stack_that_cannot_grow_loses_no_element() -> None:
    """At whatever depth it is full just there, and the system has no memory: the element is disposed of a moment later."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0, "at none of these depths did the stack have to grow"


class Shy:
    """A source whose `free` cannot be had at first, so often; whoever asks again gets it."""

    def __init__(self, vain: int) -> None:
        self.vain = vain
        self.freed = 0

    def alloc(self) -> object:
        return object()

    @property
    def free(self) -> Callable[[object], None]:
        if self.vain > 0:
            self.vain -= 1
            raise MemoryError
        return self.count

    def count(self, _element: object) -> None:
        self.freed += 1


@pytest.mark.parametrize(("vain", "freed"), [(0, 2), (1, 2), (2, 2), (3, 1), (4, 1), (5, 1), (6, 0)])
def test_a_free_that_could_not_be_entered_is_tried_three_times(vain: int, freed: int) -> None:
    """For each element; then that one is given up, and the next has its turn."""
    source = Shy(0)
    pool = Pool(source, 2)
    source.vain = vain
    with pytest.raises(MemoryError) if vain else contextlib.nullcontext():
        pool.resize(0)
    assert (source.freed, pool.stats().disposed) == (freed, 2)
