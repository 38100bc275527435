"""What was found where memory lacks for a moment, and where the interpreter ends: one promise each, on both cores."""

from __future__ import annotations

import gc
import linecache
import subprocess
import sys
import warnings
from typing import Any

import pytest

from mempool import Buffers, DoubleFree, Objects, Pool
from mempool._core import Hands
from mempool.local.returning import Returning
from mempool.sources import Fallback, Limited, Logged
from mempool.testing import ScriptedSource

AT_THE_END = """
import sys, mempool
sys.excepthook = sys.unraisablehook = lambda *what: print("hook:", *what, file=sys.__stderr__)
pool = mempool.Pool(mempool.Buffers(4096), 2)
buffer, lease = pool.alloc(), pool.lease()
held = pool.lease()
{use}
"""


@pytest.mark.parametrize("use", ["", "held.__enter__()", "pool.close"])
def test_nothing_is_said_when_the_interpreter_ends(use: str) -> None:
    """A hook of the main program outlives the modules: their names are None when its globals die."""
    code = AT_THE_END.format(use=use)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("kind", ["buffer", "lease"])
def test_the_warning_names_the_line_that_dropped_it(kind: str) -> None:
    pool = Pool(Buffers(64), 1)
    held: list[Any] = [pool.alloc() if kind == "buffer" else pool.lease()]
    if kind == "lease":
        held[0].__enter__()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        held.clear()  # here
    [warning] = [warning for warning in told if warning.category is ResourceWarning]
    assert linecache.getline(warning.filename, warning.lineno).strip() == "held.clear()  # here"


class Short:
    """A step that lacks memory, once."""

    def __init__(self, step: Any) -> None:
        self.step = step
        self.lacks = True

    def __call__(self, *arguments: Any) -> Any:
        if self.lacks:
            self.lacks = False
            raise MemoryError
        return self.step(*arguments)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dropped_buffer_comes_home_although_memory_lacked_for_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Buffers(64), 1)
    short = Short(Returning.recover)
    monkeypatch.setattr(Returning, "recover", lambda returning, dropped: short(returning, dropped))
    buffer = pool.alloc()
    del buffer
    gc.collect()
    assert not short.lacks
    assert pool.stats().out == 0


def test_a_buffer_that_another_thread_is_freeing_is_freed_twice() -> None:
    """It is out no more, and its handle not dead yet: "never was this pool's" was said of it."""
    pool = Pool(Buffers(64), 1)
    buffer = pool.alloc()
    hands = Hands(1)
    hands.hold(buffer)
    assert pool.core.sign_in(hands)  # so far the other has come
    with pytest.raises(DoubleFree):
        pool.free(buffer)
    pool.core.put_out(hands)
    pool.free(buffer)
    assert pool.stats().out == 0


def test_an_element_reaches_the_wrapped_source_although_memory_lacked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool counts it as disposed of by then, and nobody comes back to it."""
    inner = ScriptedSource()
    for adaptor in (Limited(inner, elements_max=1), Fallback(inner, ScriptedSource()), Logged(inner, to="/dev/null")):
        element = adaptor.alloc()
        short = Short(adaptor._end)
        monkeypatch.setattr(adaptor, "_end", short)
        adaptor.free(element)
        assert not short.lacks
        assert inner.existing == []
        adaptor.free(adaptor.alloc())  # a permit came back, too


def test_what_the_wrapped_source_says_is_said_once() -> None:
    class Sour(ScriptedSource):
        def free(self, element: Any, /) -> None:
            super().free(element)
            raise MemoryError("sour")

    inner = Sour()
    limited = Limited(inner, elements_max=1)
    element = limited.alloc()
    with pytest.raises(MemoryError, match="sour"):
        limited.free(element)
    assert (inner.free_calls, limited.existing) == (1, 0)


def test_a_check_that_lacks_memory_says_nothing_about_the_element() -> None:
    class Checked(Objects[Any]):
        lacks = 1

        def check(self, element: Any) -> None:
            if self.lacks:
                self.lacks -= 1
                raise MemoryError("no memory to look")

    source = Checked(bytearray)
    pool: Pool[Any] = Pool(source, 2)
    with pytest.raises(MemoryError, match="no memory to look"):
        pool.alloc_reserved()
    assert (pool.stats().spare, pool.stats().disposed) == (2, 0)
    assert pool.try_alloc() is not None
