"""Views: whatever still refers to a buffer's memory keeps it from being freed, whichever library looks and however.

An extension may let go of its Py_buffer at once and keep only the object that this named. torch does.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import pytest
from children import run
from exports import EXPORTS, exported

import mempool
from mempool import Buffer, Buffers, Pool, viewers

COMPILED = mempool.IMPLEMENTATION == "compiled"


class PyBuffer(ctypes.Structure):
    """Py_buffer. Source: CPython's Include/pybuffer.h."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


get_buffer = ctypes.pythonapi.PyObject_GetBuffer
get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(PyBuffer), ctypes.c_int)
release = ctypes.pythonapi.PyBuffer_Release
release.argtypes = (ctypes.POINTER(PyBuffer),)
release.restype = None
WRITABLE = 1  # PyBUF_WRITABLE


class Keeper:
    """An extension's view: it has kept the object that the Py_buffer named, released the Py_buffer, and has the address."""

    def __init__(self, exporter: Any) -> None:
        view = PyBuffer()
        get_buffer(exporter, view, WRITABLE)
        self.kept = ctypes.cast(view.obj, ctypes.py_object).value
        self.address, self.size = view.buf, view.len
        release(view)

    def bytes(self) -> Any:
        return (ctypes.c_ubyte * self.size).from_address(self.address)


def _torch() -> Any:
    return importlib.import_module("torch")


def _numpy() -> Any:
    return pytest.importorskip("numpy")


def _arrow(buffer: Buffer) -> Any:
    return importlib.import_module("pyarrow").py_buffer(exported(buffer))


def _through_torch(buffer: Buffer) -> Any:
    """The capsule is NumPy's, whose array keeps the buffer."""
    return _torch().from_dlpack(buffer)


LOOKS: dict[str, Callable[[Any], Any]] = {
    "an extension that keeps obj": lambda buffer: Keeper(exported(buffer)),
    "memoryview": lambda buffer: memoryview(exported(buffer)),
    "a slice": lambda buffer: buffer[:8],
    "a slice of a cast": lambda buffer: memoryview(exported(buffer)).cast("I")[1:],
    "numpy.frombuffer": lambda buffer: _numpy().frombuffer(exported(buffer), "uint8"),
    "numpy.asarray": lambda buffer: _numpy().asarray(buffer),
    "numpy.from_dlpack": lambda buffer: _numpy().from_dlpack(buffer),
    "a view of an array": lambda buffer: buffer.array("float32").reshape(-1, 2)[1:],
    "pyarrow.py_buffer": _arrow,
    "ctypes from_buffer": lambda buffer: (ctypes.c_ubyte * 16).from_buffer(exported(buffer)),
    "torch.frombuffer": lambda buffer: _torch().frombuffer(exported(buffer), dtype=_torch().float32),
    "torch.asarray": lambda buffer: _torch().asarray(exported(buffer), dtype=_torch().uint8),
    "torch.from_dlpack": _through_torch,
    "a view of a tensor": lambda buffer: _torch().frombuffer(exported(buffer), dtype=_torch().float32)[8:].view(-1, 2),
}
#: Not a skip inside of a test: what the test has taken would be dropped.
NEEDS_TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed: pip install 'torch==2.13.0' on Python 3.11"
)
NEEDS_ARROW = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
OF_TORCH = [name for name in LOOKS if "torch" in name or "tensor" in name]
NEEDS = dict.fromkeys(OF_TORCH, NEEDS_TORCH) | {"pyarrow.py_buffer": NEEDS_ARROW}
of_every_library = pytest.mark.parametrize(
    "look", [pytest.param(look, id=name, marks=NEEDS.get(name, ())) for name, look in LOOKS.items()]
)


@of_every_library
def test_who_looks_keeps_the_memory_until_he_is_gone(look: Callable[[Any], Any]) -> None:
    """`free` raises and changes nothing while anything refers to the memory, and works when it died."""
    with Pool(Buffers(4096), 1, name="frames") as pool:
        buffer = pool.alloc()
        view = look(buffer)
        assert buffer.views() > 0
        for _ in range(2):
            with pytest.raises(BufferError, match=r"pool 'frames': .* viewed"):
                pool.free(buffer)
        assert pool.stats().out == 1
        buffer.fill(3)
        del view
        gc.collect()
        assert buffer.views() == 0
        pool.free(buffer)
        assert pool.stats().out == 0


@of_every_library
def test_a_lease_that_ends_meanwhile_raises(look: Callable[[Any], Any]) -> None:
    with Pool(Buffers(4096), 1, name="frames") as pool:
        lease = pool.lease()
        view = look(lease.element)
        with pytest.raises(BufferError, match=r"pool 'frames': .* viewed"):
            lease.release()
        del view
        gc.collect()
        lease.release()
        assert pool.stats().out == 0


@of_every_library
def test_a_buffer_dropped_while_somebody_looks_is_returned_when_he_is_gone(look: Callable[[Any], Any]) -> None:
    with Pool(Buffers(4096), 1, name="frames") as pool:
        buffer = pool.alloc()
        view = look(buffer)
        del buffer
        gc.collect()
        assert pool.stats().out == 1
        views = [view]

        def end() -> None:
            views.clear()
            if look is LOOKS["an extension that keeps obj"] and not COMPILED:
                gc.collect()  # uncompiled, nobody is told of the end of a wrapper: a collection looks for it

        del view
        with pytest.warns(ResourceWarning, match="dropped while it was out"):
            end()
        assert pool.stats().out == 0


LOOKING_AFTERWARDS = """
import gc, itertools, sys, warnings
sys.path.insert(0, "tests/buffers")
sys.path.insert(0, "tests")
from test_views import LOOKS
from mempool import Buffers, Pool

warnings.simplefilter("ignore", ResourceWarning)
ends = ("pool.close()", "del pool", "pool.close(); del pool, buffer", "del buffer; del pool")
for name, end in itertools.product(sys.argv[1:], ends):
    print(name, end)
    pool = Pool(Buffers(1 << 20), 2)  # pages of their own, which are unmapped when they are disposed of
    buffer = pool.alloc()
    view = LOOKS[name](buffer)
    exec(end)
    gc.collect()
    if hasattr(view, "to_pybytes"):
        assert len(view.to_pybytes()) == 1 << 20
    else:
        seen = view.bytes() if hasattr(view, "bytes") else view
        last = -1 if len(getattr(seen, "shape", (1,))) == 1 else (-1, -1)
        seen[last] = 7
        assert seen[last] == 7
        del seen
    del view
    gc.collect()
print("all looked")
"""


@pytest.mark.parametrize("library", ["all but torch", "torch"])
def test_what_a_user_still_holds_can_be_read_and_written_when_the_pool_is_gone(library: str) -> None:
    """In a process of its own, because what is to be excluded is a segmentation fault."""
    if library == "torch":
        pytest.importorskip("torch")
        names = OF_TORCH
    else:
        pytest.importorskip("numpy")
        pytest.importorskip("pyarrow")
        names = [name for name in LOOKS if name not in OF_TORCH]
    assert run(LOOKING_AFTERWARDS, *names).endswith("all looked\n")


def test_the_next_user_is_not_overwritten_through_what_an_extension_kept() -> None:
    with Pool(Buffers(4096), 1, limit=1) as pool:
        lease = pool.lease()
        keeper = Keeper(exported(lease.element))
        with pytest.raises(BufferError):
            lease.release()
        assert pool.try_alloc() is None
        keeper.bytes()[0] = 9
        assert lease.element[0] == 9
        del keeper
        lease.release()


@pytest.mark.skipif(
    not COMPILED and sys.version_info >= (3, 12),
    reason="uncompiled, CPython 3.12 and later names a wrapper of its own, which exports nothing",
)
def test_what_a_py_buffer_names_exports_the_same_memory() -> None:
    """Whoever asks it for a buffer again sees the same bytes, and is a view as well."""
    with Pool(Buffers(4096), 1) as pool:
        buffer = pool.alloc()
        keeper = Keeper(exported(buffer))
        view = memoryview(keeper.kept)
        del keeper
        view[5] = 77
        assert (buffer[5], len(view), buffer.views()) == (77, 4096, 1)
        with pytest.raises(BufferError):
            pool.free(buffer)
        del view
        pool.free(buffer)


def test_views_are_counted_one_by_one() -> None:
    with Pool(Buffers(4096), 1) as pool:
        buffer = pool.alloc()
        assert buffer.views() == 0
        keepers = [Keeper(exported(buffer)) for _ in range(3)]
        assert buffer.views() == 3
        view = buffer[:]
        several = [view[:1], view[1:]]
        assert buffer.views() == 4
        keepers.pop()
        assert buffer.views() == 3
        del view, several, keepers
        assert buffer.views() == 0
        pool.free(buffer)


@pytest.mark.skipif(not COMPILED, reason="uncompiled there is no such class in use")
def test_an_exporter_cannot_be_made_by_hand() -> None:
    with Pool(Buffers(4096), 1) as pool, pool.lease() as buffer:
        exporter: Any = type(Keeper(buffer).kept)
        with pytest.raises(TypeError, match="memoryview"):
            exporter()
        empty = exporter.__new__(exporter)
        with pytest.raises(BufferError):
            memoryview(empty)
        assert "no buffer" in repr(empty)


def test_what_a_debugger_collects_is_no_view() -> None:
    """It may keep all that the collector knows for as long as it likes; and whoever looks is still seen."""
    with Pool(Buffers(4096), 1) as pool:
        buffer = pool.alloc()
        view = buffer[:]
        known = [gc.get_objects()]
        with pytest.raises(BufferError, match="1 view"):
            pool.free(buffer)
        view.release()
        known.append(gc.get_objects())
        assert buffer.views() == 0
        pool.free(buffer)
        assert pool.stats().out == 0
        del known


def test_an_incomplete_list_of_a_debugger_counts_as_a_view() -> None:
    """What is in doubt is viewed: memory is never taken away from under somebody who looks."""
    with Pool(Buffers(4096), 1) as pool:
        buffer = pool.alloc()
        window: Any = buffer._seen_through()
        if window is not None:  # compiled, there is none before the first view
            known = [window]
            with pytest.raises(BufferError):
                pool.free(buffer)
            known.clear()
            del window
        pool.free(buffer)


SAYING_IT_ONCE = """
import os, sys, warnings
from mempool import Buffers, Pool

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for _ in range(2):
        Pool(Buffers(4096), 1).close()
print(*(f"{warning.category.__name__} {os.path.basename(warning.filename)}: {warning.message}" for warning in said))
"""


def test_handles_that_export_nothing_are_warned_of_once_with_the_ways_out() -> None:
    said = run(SAYING_IT_ONCE)
    if EXPORTS:
        assert said == "\n"
        return
    assert said.startswith("RuntimeWarning <string>: ")
    assert said.count("Python 3.11") == 1
    assert "buf[:]" in said
    assert "C compiler" in said
    assert "Python 3.12" in said


@pytest.mark.skipif(EXPORTS, reason="here a handle exports its memory itself")
def test_where_a_handle_exports_nothing_numpy_and_bytes_take_it_all_the_same() -> None:
    """As elsewhere: an array of its bytes that looks at it, and not one of as many numbers, made of copies."""
    np = _numpy()
    with Pool(Buffers(4096), 1) as pool:
        buffer = pool.alloc()
        with pytest.raises(TypeError):
            memoryview(buffer)  # type: ignore[arg-type]
        buffer[:3] = b"abc"
        assert bytes(buffer)[:4] == b"abc\0"
        array = np.asarray(buffer)
        array[0] = 9
        assert (array.dtype, array.shape, buffer[0], buffer.views()) == ("uint8", (4096,), 9, 1)
        copied = np.array(buffer, "uint16", copy=True)
        del array
        assert (copied.dtype, copied[0]) == ("uint16", 9)
        pool.free(buffer)
        with pytest.raises(mempool.UseAfterFree):
            bytes(buffer)


@NEEDS_ARROW
def test_an_array_of_other_memory_is_no_view() -> None:
    """Neither one whose memory begins before a buffer's, nor one whose memory begins behind it."""
    array = importlib.import_module("pyarrow").array([1, 2, 3])
    begin = array.buffers()[1].address
    assert [viewers._looks_into(array, begin + at, begin + at + 64) for at in (-128, -64, -8, 0, 8)] == [
        *(False, False, True, True, False)
    ]


@pytest.mark.skipif(COMPILED or sys.version_info < (3, 12), reason="nobody searches for what an extension keeps")
def test_what_an_extension_keeps_is_seen_before_garbage_was_ever_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that has switched the collector off, say."""
    monkeypatch.setattr(importlib.import_module("mempool._core._wrappers"), "_collections", [0])
    gc.disable()
    try:
        with Pool(Buffers(4096), 1) as pool:
            buffer = pool.alloc()
            keeper = Keeper(exported(buffer))
            with pytest.raises(BufferError):
                pool.free(buffer)
            del keeper
            pool.free(buffer)
    finally:
        gc.enable()


@pytest.mark.skipif(COMPILED or sys.version_info < (3, 12), reason="nobody searches for what an extension keeps")
def test_a_collection_that_is_over_is_counted() -> None:
    """It moves what an extension keeps, which is then looked for among the young ones in vain, and freed under its hands."""
    wrappers = importlib.import_module("mempool._core._wrappers")
    before = wrappers.mark()
    gc.collect(0)
    assert wrappers.mark() > before
