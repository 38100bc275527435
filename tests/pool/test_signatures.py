"""What tools read off the public methods, compiled or not: signatures, help, specifications for mocks."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Callable
from typing import Any
from unittest.mock import create_autospec

import pytest

from mempool import Buffer, Lease, Objects, Pool

METHODS: list[tuple[type, str, list[str]]] = [
    (Pool, "alloc", ["self", "timeout"]),
    (Pool, "free", ["self", "element"]),
    (Pool, "lease", ["self", "timeout"]),
    (Pool, "lease_many", ["self", "n", "timeout", "linger"]),
    (Pool, "alloc_async", ["self", "timeout"]),
    (Lease, "release", ["self"]),
    (Buffer, "fill", ["self", "byte"]),
    (Buffer, "array", ["self", "dtype", "shape"]),
]


@pytest.mark.parametrize(("owner", "name", "parameters"), METHODS, ids=lambda part: getattr(part, "__name__", str(part)))
def test_a_method_tells_its_signature(owner: type, name: str, parameters: list[str]) -> None:
    """`inspect.signature` knows the first parameters of each method by their names."""
    found = list(inspect.signature(getattr(owner, name)).parameters)
    assert found[: len(parameters)] == parameters


def test_a_timeout_is_given_by_keyword_only() -> None:
    with Pool(Objects(object), 1) as pool:
        methods: list[Callable[..., Any]] = [pool.alloc, pool.lease, pool.alloc_async]
        for method in methods:
            assert inspect.signature(method).parameters["timeout"].kind is inspect.Parameter.KEYWORD_ONLY


def test_help_shows_how_alloc_is_called() -> None:
    """`help(Pool.alloc)` shows its parameters, and not `alloc(...)`."""
    shown = pydoc.plain(pydoc.render_doc(Pool.alloc))
    assert "timeout" in shown.partition("Take an element")[0]
    assert "Take an element" in shown


def test_a_pool_can_be_specified_for_a_mock() -> None:
    """A mock made after a pool has its methods and no others."""
    with Pool(Objects(object), 1) as pool:
        mock = create_autospec(pool, instance=True)
        mock.alloc(timeout=1.0)
        mock.alloc.assert_called_once_with(timeout=1.0)
        with pytest.raises(AttributeError):
            mock.allocate()


@pytest.mark.parametrize("call", ["alloc", "lease", "alloc_async", "alloc_many", "alloc_many_async"])
def test_a_timeout_is_named(call: str) -> None:
    """A number alone could be taken for how many."""
    first = [1] if "many" in call else []
    with pytest.raises(TypeError, match="positional"):
        getattr(Pool(Objects(object), 1), call)(*first, 1.0)
