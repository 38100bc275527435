"""Bad input: a clear error that names the pool, the fact and the way out, and changes nothing."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from mempool.errors import DoubleFree, ForeignElement, PoolError
from mempool.testing.contract.base import Contract, fails, same, waits

NUMBERS: list[tuple[object, type[Exception]]] = [
    (-1, ValueError),
    (-(10**30), ValueError),
    (1.0, TypeError),
    (1.5, TypeError),
    ("1", TypeError),
    (float("nan"), TypeError),
]
SECONDS: list[object] = [-1, -0.001, float("nan"), "1", object()]


def name_of(value: object) -> str:
    """The same in each process: pytest-xdist compares them. An object that says where it lies has its type's name."""
    return type(value).__name__ if type(value).__repr__ is object.__repr__ else str(value)


TARGETS: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"reserve": None}, TypeError),
    *[({"reserve": number}, error) for number, error in NUMBERS],
    *[({name: number}, error) for number, error in NUMBERS for name in ("keep", "limit")],
    ({"reserve": 3, "keep": 2}, ValueError),
    ({"reserve": 3, "limit": 2}, ValueError),
]


class InputContract(Contract):
    """Wrong targets, wrong times, wrong elements."""

    needs: ClassVar[frozenset[str]] = frozenset(
        {"alloc_many", "alloc_many_async", "alloc_reserved", "drain", "lease", "name", "resize"}
    )

    # -- targets

    @pytest.mark.parametrize(("targets", "error"), TARGETS, ids=str)
    def test_a_pool_with_bad_targets_is_not_made(self, targets: dict[str, Any], error: type[Exception]) -> None:
        """Negative, not whole, keep < reserve, limit < reserve: an error before the source is asked for anything."""
        source = self.make_source()
        options = {"reserve": 2, **targets}
        with pytest.raises(error, match="'frames'"):
            self.new_pool(source, options.pop("reserve"), name="frames", **options)
        assert source.alloc_calls == 0

    @pytest.mark.parametrize(("targets", "error"), [t for t in TARGETS if t[0] != {"reserve": None}], ids=str)
    def test_a_resize_to_bad_targets_changes_nothing(self, targets: dict[str, Any], error: type[Exception]) -> None:
        """The same for resize."""
        pool, _source = self.pool(2, keep=5, limit=9, name="frames")
        before = pool.stats()
        with pytest.raises(error, match="'frames'"):
            pool.resize(**targets)
        assert pool.stats() == before

    def test_keep_below_what_the_reserve_is_now_is_refused(self) -> None:
        """resize(keep=...) alone is held against the reserve there is; so is resize(limit=...)."""
        pool, _source = self.pool(4)
        before = pool.stats()
        with pytest.raises(ValueError, match="keep"):
            pool.resize(keep=3)
        with pytest.raises(ValueError, match="limit"):
            pool.resize(limit=3)
        assert pool.stats() == before

    def test_a_reserve_above_the_limit_there_is_is_refused(self) -> None:
        """resize(reserve=...) alone is held against the limit there is."""
        pool, _source = self.pool(2, limit=4)
        before = pool.stats()
        with pytest.raises(ValueError, match="limit"):
            pool.resize(5)
        assert pool.stats() == before

    @pytest.mark.parametrize("name", ["limit", "max_waiting"])
    def test_a_huge_number_is_as_good_as_none(self, name: str) -> None:
        """Numbers beyond what a machine word holds are legal where more is only laxer."""
        options: dict[str, Any] = {name: 10**30}
        pool, _source = self.pool(1, **options)
        pool.free(pool.alloc())
        if name == "limit":
            pool.resize(limit=10**40)

    @pytest.mark.parametrize("number", [2**61, 2**63, 10**30])
    def test_a_reserve_no_list_can_hold_is_a_memory_error(self, number: int) -> None:
        """The constructor and resize raise MemoryError; nothing has changed."""
        source = self.make_source()
        with pytest.raises(MemoryError):
            self.new_pool(source, number)
        pool, _source = self.pool(1)
        with pytest.raises(MemoryError):
            pool.resize(number)
        assert pool.stats().reserve == 1

    # -- the constructor's other arguments

    @pytest.mark.parametrize("option", [{"max_waiting": -1}, {"timeout": -1}, {"patience": -1}, {"track": "everything"}])
    def test_a_pool_with_bad_options_is_not_made(self, option: dict[str, Any]) -> None:
        """The error names the pool; the source was not asked."""
        source = self.make_source()
        with pytest.raises(ValueError, match="'frames'"):
            self.new_pool(source, 1, name="frames", **option)
        assert source.alloc_calls == 0

    @pytest.mark.parametrize("source", [None, object(), "a source", dict])
    def test_a_source_must_be_one(self, source: Any) -> None:
        """A source has alloc() and free(element)."""
        with pytest.raises(TypeError, match="alloc"):
            self.new_pool(source, 1)

    # -- calls

    @waits
    @pytest.mark.parametrize("seconds", SECONDS, ids=name_of)
    def test_a_bad_timeout_takes_nothing(self, seconds: Any) -> None:
        """A timeout is a number of seconds, 0 or more, or None; also where there is a spare beyond the reserve to be had."""
        pool, source = self.pool(1, keep=2)
        for element in [self.alloc(pool), self.alloc(pool)]:
            pool.free(element)
        source.otherwise = fails
        with pytest.raises((ValueError, TypeError)):
            self.alloc(pool, timeout=seconds)
        with pytest.raises((ValueError, TypeError)):
            self.callers.enter(pool.lease(timeout=seconds)).result()
        with pytest.raises((ValueError, TypeError)):
            pool.drain(timeout=seconds)

    @waits
    @pytest.mark.parametrize(("number", "error"), NUMBERS, ids=str)
    def test_a_bad_number_of_elements_takes_nothing(self, number: Any, error: type[Exception]) -> None:
        """alloc_many takes a whole number, 0 or more."""
        pool, _source = self.pool(1)
        with pytest.raises(error, match=pool.name):
            self.alloc_many(pool, number)

    # -- elements

    def test_freeing_twice_is_an_error(self) -> None:
        """DoubleFree names the pool; the element was returned once."""
        pool, _source = self.pool(1, name="frames")
        element = pool.alloc()
        pool.free(element)
        with pytest.raises(DoubleFree, match="'frames'"):
            pool.free(element)

    def test_freeing_what_was_disposed_of_is_an_error(self) -> None:
        """An element that was returned and was disposed of is this pool's no more."""
        pool, source = self.pool(0, keep=0)
        element = pool.alloc()
        pool.free(element)
        with pytest.raises(PoolError):
            pool.free(element)
        assert source.free_calls == 1

    def test_freeing_a_foreign_element_is_an_error(self) -> None:
        """ForeignElement: also for another pool's, for an equal one, and for None."""
        pool, source = self.pool(1, name="frames")
        other, other_source = self.pool(1)
        element, others = pool.alloc(), other.alloc_reserved()
        for foreign in (others, object(), None, bytearray(4)):
            with pytest.raises(ForeignElement, match="'frames'"):
                pool.free(foreign)
        self.audit(pool, source, out=[element])
        self.audit(other, other_source, out=[others])

    def test_a_double_free_cannot_steal_what_another_holds(self) -> None:
        """What was freed and handed out again belongs to the other: freeing it is the other's, once."""
        pool, _source = self.pool(0, keep=1)
        element = pool.alloc()
        pool.free(element)
        others = pool.alloc()
        assert same(others, element)
        pool.free(others)
        for freed in (element, others):
            with pytest.raises(DoubleFree):
                pool.free(freed)

    def test_freeing_after_close_is_accepted(self) -> None:
        """A free after close disposes of the element; a second one is an error."""
        pool, source = self.pool(0)
        element = pool.alloc()
        pool.close()
        pool.free(element)
        assert source.existing == []
        with pytest.raises(PoolError):
            pool.free(element)

    def test_more_frees_than_allocs_are_noticed_without_tracking(self) -> None:
        """track="nothing" does not look at elements, but more cannot be returned than went out."""
        pool, _source = self.pool(1, track="nothing")
        element = pool.alloc()
        pool.free(element)
        with pytest.raises(PoolError):
            pool.free(element)
