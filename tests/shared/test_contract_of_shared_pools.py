"""What every pool promises, promised by a shared one: callers are threads and tasks of one process."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mempool.shared._engine", reason="needs the compiled engine: Linux on x86-64")

from scripted_memory import ScriptedPool, Slots

from mempool.testing import ScriptedSource, Step
from mempool.testing.contract import PoolContract

#: What is not promised of memory that the kernel gives, and why.
OTHERWISE = {
    "a source is no argument": "a_source_must_be_one a_source_that_returns_none_is_told_so",
    "the kernel takes memory back without a word": (
        "a_source_that_breaks_while_closing_disposes_of_the_rest a_shrink_whose_source_breaks_disposes_of_the_rest"
    ),
    "memory has no reset": (
        "drain_is_told_of_an_element_that_could_not_be_reset an_element_is_reset_when_it_is_returned "
        "an_element_whose_reset_raises_is_disposed_of what_lingers_is_reset_once_when_it_is_returned"
    ),
    "identity is always looked at": "more_frees_than_allocs_are_noticed_without_tracking",
    "what a killed process held is reclaimed, and nothing else can be lost": (
        "what_is_written_off_is_not_disposed_of_and_made_anew what_was_written_off_cannot_be_freed "
        "a_write_off_serves_who_waits_at_the_limit a_spare_is_neither_broken_nor_lost"
    ),
    "a slot that is made anew is the same slot": "what_is_discarded_is_disposed_of_and_made_anew",
    "a buffer that the test drops is returned": (
        "what_is_out_beyond_the_reserve_is_not_owed a_grow_that_ran_out_of_memory_is_unfunded the_kernels_names_are_aliases"
    ),
    "memory comes in the time of one call of the kernel's: until then what is returned is the first one's in line": (
        "what_is_returned_while_the_head_is_inside_a_slow_source_serves_those_behind "
        "who_is_behind_a_caller_inside_a_slow_source_may_be_a_thread "
        "a_newcomer_has_what_was_returned_while_the_head_is_inside_a_slow_source "
        "what_a_big_request_has_gathered_stays_its_own_while_it_asks "
        "a_big_request_behind_gathers_what_is_returned_while_the_head_asks "
        "an_element_freed_while_the_head_asks_serves_the_next"
    ),
    "nobody knows of another process that it is filling": "a_grow_that_a_disposal_leaves_no_room_is_gone_on_with",
}


#: Pools that the last tests may have left to a collection that comes later, or to a thread that ends by itself.
FEW = 20


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def otherwise(reason: str, name: str) -> Any:
    @pytest.mark.skip(reason=reason)
    def test(_self: object) -> None: ...

    test.__name__ = name
    return test


@pytest.mark.filterwarnings("ignore:.*a buffer was dropped:ResourceWarning")  # many tests end with elements out
class TestSharedPool(PoolContract):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _leaves_no_descriptors(cls) -> Iterator[None]:
        """Three a pool, which would be all that a process may have, in a suite of this size."""
        before = descriptors()
        yield
        gc.collect()
        gc.collect()
        assert descriptors() <= before + 3 * FEW

    @pytest.fixture(autouse=True)
    def _folder(self, pool_path: Path) -> Iterator[None]:
        self.folder = pool_path.parent
        self.slots: dict[int, Slots] = {}  # by source, several of which a test may have
        yield
        self.slots = {}
        with warnings.catch_warnings():  # of what was dropped in a cycle: later, between two tests, it would be an error
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
            gc.collect()  # of what that has left

    def make_source(self, *script: Any, otherwise: Any = Step.WORKS) -> ScriptedSource[Any]:
        slots = Slots()
        source: ScriptedSource[Any] = ScriptedSource(*script, otherwise=otherwise, source=slots)
        self.slots[id(source)] = slots
        return source

    def make_pool(self, source: ScriptedSource[Any], reserve: int, **options: Any) -> Any:
        return ScriptedPool(self.folder, source, self.slots[id(source)], reserve, **options)

    for _reason, _names in OTHERWISE.items():
        for _name in _names.split():
            assert hasattr(PoolContract, f"test_{_name}"), _name
            locals()[f"test_{_name}"] = otherwise(_reason, f"test_{_name}")
