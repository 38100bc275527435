"""The layers of the package hold: who imports whom, types and .pxd files included, and nobody in a circle."""

from __future__ import annotations

from pathlib import Path

import layers
import pytest
from layers import ALLOWED, LAYER_OF

pytestmark = pytest.mark.once
TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pairs() -> set[tuple[str, str]]:
    return layers.imports()


def test_each_module_is_in_a_layer_and_each_layer_has_a_module() -> None:
    """A table that names what is not there, or leaves out what is, says nothing."""
    known = layers.modules()
    assert {layers.layer_of(module) for module in known} == set(ALLOWED)
    assert set(LAYER_OF) <= set(known)
    assert {layer for allowed in ALLOWED.values() for layer in allowed} <= set(ALLOWED)


def test_nobody_imports_from_a_layer_that_it_may_not_know(pairs: set[tuple[str, str]]) -> None:
    """Types count: who must know a class to say its own types cannot be read, or replaced, without it."""
    assert {pair for pair in pairs if not layers.is_allowed(*pair)} == set()


def test_no_module_imports_itself_by_way_of_others(pairs: set[tuple[str, str]]) -> None:
    """Also not for types only."""
    assert layers.circles(pairs) == []


def test_what_is_tested_once_has_one_life(pairs: set[tuple[str, str]]) -> None:
    """No file of tests that only one of the two runs has imports what is compiled or not, directly or by way of others."""
    suffixes = {module: {path.suffix for path in paths} for module, paths in layers.modules().items()}
    two_lives = {module for module, found in suffixes.items() if found >= {".py", ".pxd"}}
    files = [path for path in TESTS.rglob("test_*.py") if "\npytestmark = pytest.mark.once\n" in path.read_text("utf-8")]
    reached = {path.name: layers.reached_by(path, pairs) & two_lives for path in files}
    assert len(files) > 8
    assert {name: modules for name, modules in reached.items() if modules} == {}
    assert layers.reached_by(TESTS / "pool" / "test_outstanding.py", pairs) & two_lives


def test_an_import_is_found_wherever_it_stands(tmp_path: Path) -> None:
    """In a function, for a checker of types, of a module or of a name in it; in a .pxd, too."""
    known = ["mempool", "mempool.a", "mempool.b", "mempool.c", "mempool.d", "mempool.e"]
    source = tmp_path / "source.py"
    source.write_text(
        "import mempool.a\nfrom mempool import b, name\nif TYPE_CHECKING:\n    from mempool.c import T\n"
        "def function():\n    from cython.cimports.mempool.d import new\n    import os\n"
    )
    assert layers.imported_by(source, known) == {"mempool", "mempool.a", "mempool.b", "mempool.c", "mempool.d"}
    declared = tmp_path / "declared.pxd"
    declared.write_text("from libc.stdlib cimport free\nfrom mempool.e cimport A, b\n")
    assert layers.imported_by(declared, known) == {"mempool.e"}


def test_a_circle_is_found() -> None:
    """Of three, beside one of two that hangs on it; a chain is none."""
    chain = {("a", "b"), ("b", "c"), ("c", "d")}
    assert layers.circles(chain) == []
    assert sorted(layers.circles({*chain, ("c", "a"), ("d", "e"), ("e", "d")})) == [["a", "b", "c"], ["d", "e"]]


def test_a_relative_import_is_refused(tmp_path: Path) -> None:
    """It would not be seen."""
    source = tmp_path / "source.py"
    source.write_text("from . import pool\n")
    with pytest.raises(ValueError, match="absolute"):
        layers.imported_by(source, ["mempool"])
