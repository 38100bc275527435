"""A source may be any class: what does not fit a pool is refused when the pool is made, and nothing before or after."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
from wrappers import WRAPPERS

from mempool import Limited, Objects, Pool
from mempool.sources import protocol

wrapped = pytest.mark.parametrize("wrap", [lambda source: source, *WRAPPERS.values()], ids=["nothing", *WRAPPERS])


class Plain:
    """A source."""

    def __init__(self) -> None:
        self.calls = 0

    def alloc(self) -> bytearray:
        self.calls += 1
        return bytearray(1)

    def free(self, element: bytearray) -> None:
        pass


def with_own(name: str, value: Any, **more: Any) -> Any:
    return type("Factory", (Plain,), {name: value, **more})()


def _of_itself(_self: object) -> None:
    raise AssertionError("the pool has called what has nothing to do with it")


def _of_two(_self: object, _one: object, _two: object) -> None:
    raise AssertionError("the pool has called what has nothing to do with it")


def _by_name(_self: object, *, element: object) -> None:
    raise AssertionError("the pool has called what has nothing to do with it")


@wrapped
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("reset", _of_itself, r"the source's reset\(\) cannot be called as reset\(element\)"),
        ("check", _of_itself, r"the source's check\(\) cannot be called as check\(element\)"),
        ("reset", _of_two, r"the source's reset\(_one.*, _two.*\) cannot be called as reset\(element\)"),
        ("check", _by_name, r"the source's check\(\*, element.*\) cannot be called as check\(element\)"),
        ("room_for", _of_itself, r"the source's room_for\(\) cannot be called as room_for\(elements\)"),
        ("reset", True, "the source's reset is called as reset\\(element\\), and True cannot be"),
        ("check", "md5", "the source's check is called as check\\(element\\), and 'md5' cannot be"),
        ("level", 3, "the source's level is a word for what is guaranteed, or None, not 3"),
    ],
)
def test_an_unrelated_attribute_is_refused(wrap: Callable[[Any], Any], name: str, value: Any, said: str) -> None:
    """By its name and signature, with the way out; and the source was not asked for anything."""
    source = with_own(name, value)
    with pytest.raises(TypeError, match=said) as caught:
        Pool(wrap(source), 1, name="frames")
    assert re.search("rename it, wrap the source, or say pool_uses", str(caught.value))
    assert re.match("pool 'frames': |Limited|Logged|Faulty|OnFailure|Translated|Fallback", str(caught.value))
    assert source.calls == 0


@wrapped
@pytest.mark.parametrize(("name", "value"), [("reset", _of_itself), ("check", _of_two), ("level", 3), ("size", "large")])
def test_a_source_says_that_a_name_is_its_own(wrap: Callable[[Any], Any], name: str, value: Any) -> None:
    """`pool_uses` lists what is meant for a pool; the rest is not looked at, through any adaptor."""
    with Pool(wrap(with_own(name, value, pool_uses=())), 1) as pool:
        pool.free(pool.alloc())
        assert pool.guarantee().level is None


def test_what_a_source_lists_is_used() -> None:
    """And only that."""
    heard: list[object] = []
    source = with_own("reset", lambda _self, element: heard.append(element), pool_uses={"reset"}, check=_of_itself)
    with Pool(source, 1) as pool:
        element = pool.alloc()
        pool.free(element)
        assert heard == [element]


@pytest.mark.parametrize("uses", ["reset", ("reset", "colour"), 5, (None,)])
def test_only_known_names_are_listed(uses: Any) -> None:
    """A misspelt one would be lost without a word."""
    with pytest.raises(TypeError, match="the source's pool_uses names what is meant for a pool"):
        Pool(with_own("pool_uses", uses), 1)


@wrapped
@pytest.mark.parametrize("reset", [lambda _self, element: element, lambda _self, *elements: elements])
def test_what_fits_is_called(wrap: Callable[[Any], Any], reset: Any) -> None:
    """One positional argument, however it is declared; and what tells no signature is believed."""
    heard: list[object] = []

    def note(self: object, *arguments: object) -> None:
        heard.append(reset(self, *arguments))

    with Pool(wrap(with_own("reset", note)), 1) as pool:
        pool.free(pool.alloc())
    assert len(heard) == 1
    source = Plain()
    source.reset = max  # type: ignore[attr-defined]  # which has no signature
    with Pool(wrap(source), 1):
        pass


def test_a_callable_object_is_judged_by_what_its_class_takes() -> None:
    class OfNothing:
        def __call__(self) -> None:
            raise AssertionError("the pool has called what has nothing to do with it")

    class OfAnElement:
        def __call__(self, element: object) -> None:
            heard.append(element)

    heard: list[object] = []
    source = Plain()
    source.reset = OfNothing()  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"the source's reset\(\) cannot be called as reset\(element\)"):
        Pool(source, 1)
    source.reset = OfAnElement()  # type: ignore[attr-defined]
    with Pool(source, 1) as pool:
        pool.free(pool.alloc())
    assert len(heard) == 1


def test_a_partial_that_names_an_argument_fits_with_the_rest() -> None:
    """Which its signature tells, and nothing less."""
    heard: list[object] = []

    def note(element: object, *, to: list[object]) -> None:
        to.append(element)

    source = Plain()
    source.reset = functools.partial(note, to=heard)  # type: ignore[attr-defined]
    source.alloc = functools.partial(bytearray, source=b"new")  # type: ignore[method-assign]
    with Pool(source, 1) as pool:
        element = pool.alloc()
        assert element == b"new"
        pool.free(element)
    assert heard == [b"new"]


# -- coroutines


async def make() -> bytearray:
    return bytearray(1)


async def take(_element: object) -> None:
    pass


class Maker:
    async def __call__(self, *_arguments: object) -> bytearray:
        return bytearray(1)

    async def method(self, *_arguments: object) -> bytearray:
        return bytearray(1)


ASYNC = {
    "function": make,
    "partial": functools.partial(make),
    "partial of a partial": functools.partial(functools.partial(make)),
    "callable object": Maker(),
    "partial of a callable object": functools.partial(Maker(), 1),
    "method": Maker().method,
}


@pytest.mark.parametrize("function", ASYNC.values(), ids=ASYNC)
def test_objects_are_not_made_by_an_async_function(function: Any) -> None:
    """Its call returns a coroutine, which would be handed out as the element. Nor disposed of, nor reset."""
    for what, arguments in (
        ("make", (function,)),
        ("dispose", (bytearray, function)),
        ("reset", (bytearray, None, function)),
    ):
        with pytest.raises(TypeError, match=rf"Objects: {what} is an async function, whose call returns a coroutine"):
            Objects(*arguments)


@pytest.mark.parametrize("name", ["alloc", "free", "reset", "check"])
@pytest.mark.parametrize("function", ASYNC.values(), ids=ASYNC)
def test_a_source_is_not_async(name: str, function: Any) -> None:
    """The pool refuses it when it is made, by its own name."""
    source = Plain()
    setattr(source, name, function)
    with pytest.raises(TypeError, match=rf"pool 'frames': the source's {name} is an async function"):
        Pool(source, 1, name="frames")
    assert source.calls == 0


def test_a_class_with_an_async_call_makes_objects() -> None:
    """It is the instance's call that is async; calling the class makes an instance."""
    with Pool(Objects(Maker), 1) as pool:
        assert isinstance(pool.alloc(), Maker)


@pytest.mark.parametrize("wrap", [lambda source: Limited(source, elements_max=3), lambda source: source], ids=["", "bare"])
def test_a_source_that_ends_is_told_what_to_raise(wrap: Any) -> None:
    with pytest.raises(TypeError, match="raise MemoryError where nothing can be had"):
        Pool(wrap(Objects(iter(()).__next__)), 1)


@pytest.mark.parametrize("lacking", ["alloc", "free"])
def test_a_source_that_lacks_either_method_is_refused(lacking: str) -> None:
    source: Any = type("Source", (), {"alloc": object, "free": print})
    delattr(source, lacking)
    with pytest.raises(TypeError):
        Pool(source(), 0)


def test_what_is_written_in_c_is_judged_by_its_text() -> None:
    """No signature is made for it: CPython 3.12 and 3.13 crash in that where memory runs out."""
    assert protocol._takes_plainly([].append, 1)
    assert protocol._takes_plainly([].insert, 2)
    assert not protocol._takes_plainly([].append, 0)
    assert not protocol._takes_plainly([].append, 2)
