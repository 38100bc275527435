"""`mempool.get`: a pool by its name, and which one a name means in a context that has pools of its own."""

from __future__ import annotations

import contextvars
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from notes import assert_leaves_no_note

import mempool
from mempool import Objects, Pool, linux, registry


@pytest.fixture
def register() -> Iterator[Callable[..., Callable[[], None]]]:
    """register_resolver, taken back at the end of the test."""
    removes: list[Callable[[], None]] = []

    def _register(resolve: Callable[[str], Any]) -> Callable[[], None]:
        removes.append(registry.register_resolver(resolve))
        return removes[-1]

    yield _register
    for remove in removes:
        remove()


# -- pools of the process


def test_a_pool_is_found_by_its_name_from_any_thread() -> None:
    """Also where the code has no reference to it."""
    pool = Pool(Objects(object), 1, name="registry frames")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(mempool.get("registry frames")))
    thread.start()
    thread.join()
    assert found == [pool]
    assert found[0] is pool


def test_a_pool_without_a_name_is_found_by_its_number() -> None:
    """Every pool has a name: what its messages call it."""
    pool = Pool(Objects(object), 0)
    assert mempool.get(pool.name) is pool


def test_a_pool_of_the_kernels_kind_is_found() -> None:
    """A Mempool is a Pool."""
    pool = linux.mempool_create(1, lambda _mask, _data: object(), lambda _element, _data: None, None)
    assert pool is not None
    assert mempool.get(pool.name) is pool


def test_the_registry_keeps_no_pool_alive() -> None:
    """A dropped pool disposes of its spares, as before, and is not found."""
    disposed: list[object] = []
    pool = Pool(Objects(object, disposed.append), 2, name="registry dropped")
    reference = weakref.ref(pool)
    del pool
    gc.collect()
    assert reference() is None
    assert len(disposed) == 2
    assert "registry dropped" not in {other.name for other in registry.pools()}


def test_an_unknown_name_is_told_what_there_is_and_what_to_do() -> None:
    """LookupError, which names the living pools."""
    pool = Pool(Objects(object), 0, name="registry known")
    with pytest.raises(LookupError, match=r"called 'registry unknown'; there are .*'registry known'.*Make it with Pool"):
        mempool.get("registry unknown")
    pool.close()
    with pytest.raises(LookupError) as caught:
        mempool.get("registry unknown")
    assert "registry known" not in str(caught.value), "a closed pool is of no use"


def test_a_closed_pool_is_not_found_and_a_new_one_of_its_name_is() -> None:
    """The error says that it is closed."""
    old = Pool(Objects(object), 0, name="registry again")
    old.close()
    with pytest.raises(LookupError, match="pool 'registry again' is closed; make another"):
        mempool.get("registry again")
    new = Pool(Objects(object), 0, name="registry again")
    assert mempool.get("registry again") is new
    assert [pool for pool in registry.pools() if pool.name == "registry again"] == [old, new]


def test_a_name_that_two_pools_have_is_not_guessed() -> None:
    """Either might be the wrong one."""
    pools = [Pool(Objects(object), 0, name="registry twin") for _ in range(2)]
    with pytest.raises(LookupError, match="2 pools of this process are called 'registry twin'"):
        mempool.get("registry twin")
    pools[0].close()
    assert mempool.get("registry twin") is pools[1]


def test_what_is_no_name_is_refused() -> None:
    """A pool instead of its name, for instance."""
    with pytest.raises(TypeError, match="is a str"):
        mempool.get(Pool(Objects(object), 0))  # type: ignore[arg-type]


def test_a_pool_that_could_not_be_made_is_not_found() -> None:
    """Nobody shall get one whose promise never held."""

    class Failing:
        def alloc(self) -> object:
            raise MemoryError

        def free(self, _element: object) -> None: ...

    with pytest.raises(MemoryError):
        Pool(Failing(), 1, name="registry failed")
    with pytest.raises(LookupError):
        mempool.get("registry failed")


def test_a_pool_is_not_found_before_its_reserve_is_made() -> None:
    """The constructor has not returned, and may yet fail."""
    looked: list[str] = []

    def make() -> object:
        try:
            mempool.get("registry half made")
        except LookupError as error:
            looked.append(str(error))
        return object()

    pool = Pool(Objects(make), 2, name="registry half made")
    assert len(looked) == 2
    assert mempool.get("registry half made") is pool


def test_a_pool_whose_registration_fails_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """There was no memory for its entry: the reserve does not wait for the collector."""
    disposed: list[object] = []

    def fail(_pool: object) -> None:
        raise MemoryError

    monkeypatch.setattr(registry, "register", fail)
    with pytest.raises(MemoryError) as caught:
        Pool(Objects(object, disposed.append), 2)
    assert caught.value.__traceback__ is not None, "which keeps the pool alive"
    assert len(disposed) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_child_finds_the_pools_that_it_inherited() -> None:
    """They work there, so they are found there."""
    pool = Pool(Objects(object), 1, name="registry inherited")
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if mempool.get("registry inherited") is pool else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0) == (child, 0)


# -- contexts with pools of their own


def test_a_resolver_says_which_pool_a_name_means_where_it_is_asked_for(register: Callable[..., Any]) -> None:
    """Two workers in one process have a pool of one name each: by context, and outside of both it is not guessed."""
    here: contextvars.ContextVar[dict[str, Any] | None] = contextvars.ContextVar("here", default=None)

    def resolve(name: str) -> Any:
        pools = here.get()
        if pools is None:
            return None
        if name not in pools:
            raise LookupError(f"this worker has no pool {name!r}")
        return pools[name]

    register(resolve)
    mine, yours = ({"registry staging": Pool(Objects(object), 0, name="registry staging")} for _ in range(2))

    def asked_in(pools: dict[str, Any], name: str) -> Any:
        here.set(pools)
        return mempool.get(name)

    for pools in (mine, yours):
        found = contextvars.copy_context().run(asked_in, pools, "registry staging")
        assert found is pools["registry staging"]
    with pytest.raises(LookupError, match="2 pools"):
        mempool.get("registry staging")
    elsewhere = Pool(Objects(object), 0, name="registry elsewhere")
    with pytest.raises(LookupError, match="this worker has no pool"):
        contextvars.copy_context().run(asked_in, mine, "registry elsewhere")
    assert mempool.get("registry elsewhere") is elsewhere


def test_the_latest_resolver_is_asked_first_and_can_be_taken_back(register: Callable[..., Any]) -> None:
    """Taking back is for the one that was registered, and may be done again."""
    first, second = (Pool(Objects(object), 0, name="registry order") for _ in range(2))
    register(lambda name: first if name == "registry order" else None)
    remove = register(lambda name: second if name == "registry order" else None)
    assert mempool.get("registry order") is second
    remove()
    remove()
    assert mempool.get("registry order") is first


def test_of_a_pool_that_is_gone_no_note_is_left() -> None:
    assert_leaves_no_note(registry._pools, lambda: Pool(Objects(object), 0))
