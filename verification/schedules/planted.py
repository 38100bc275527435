"""Our core, broken on purpose: each must be caught by the scenario beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mempool._core import deciding
from mempool._core.decisions import UNCHANGED, Decisions
from mempool._core.state import State
from mempool._core.transfer import Ticket, Transfer
from mempool.shared import decisions as shared_decisions
from mempool.shared import operations as shared_operations
from verification.schedules import scenarios, shared_scenarios
from verification.schedules.lock import Lock
from verification.schedules.searches import ONE, PCT, SHARED_ONE, SHARED_TWO, TWO, Search
from verification.schedules.shared_scenarios import Faults, Shared

_retarget: Any = Decisions.retarget
Targets = tuple[Any, ...]  # the arguments of `retarget`


def _all_of(seen: dict[str, int], targets: Targets) -> Targets:
    """The same targets, and where none was given, that which was seen."""
    reserve, keep, limit, *others = targets
    reserve = seen["reserve"] if reserve == UNCHANGED else reserve
    keep = max(reserve, seen["keep"]) if keep == UNCHANGED else keep
    return (reserve, keep, seen["limit"] if limit == UNCHANGED else limit, *others)


def _two_steps(self: Decisions, *targets: Any) -> int:
    """A resize looks in one step and writes in another: it writes again what was true when it looked."""
    return int(_retarget(self, *_all_of(self.snapshot(), targets)))


def _impatient(self: Decisions, *targets: Any) -> int:
    """Who was beaten once since it looked writes the second time, whoever was faster again: 1 preemption cannot show it."""
    answer: int | None = _unless_beaten(self, self.snapshot(), targets)
    return _two_steps(self, *targets) if answer is None else answer


def _write(self: Decisions, seen: dict[str, int], targets: Targets) -> int | None:
    if self.state.resizes != seen["resizes"]:
        return None
    return int(_retarget.__wrapped__(self, *_all_of(seen, targets)))


_unless_beaten = deciding.decision(_write)


def _everybody_has_it(_lock: Lock, _blocking: bool = True) -> bool:
    """Decisions of several threads at once, in place."""
    return True


def _nobody_is_served(_self: Decisions, _state: State) -> None:
    """What is returned stays on the free list, whoever waits."""


def _inside_the_source(self: State) -> Ticket | None:
    """What is returned goes to the first in line, though it is inside the source and cannot take it."""
    return self.head


def _nobody_is_woken(_self: State, _ticket: Ticket) -> None:
    """Who is served finds out by itself or not at all."""


def _nothing_is_news(_self: State) -> None:
    """The head of the line is not told that there is room under the limit, and asks the source when it is due anyway."""


def _nobody_leaves(_self: Decisions, _ticket: Transfer) -> None:
    """Who gives up keeps its place in the line."""


@dataclass(frozen=True)
class Plant:
    """What stands in place of a method, the scenario that must see it, and how."""

    owner: Any
    method: str
    bug: Callable[..., Any]
    scenario: Callable[[], None]
    says: str  #: in the failure
    searches: tuple[Search, ...] = (PCT, ONE)  #: that must find it


@contextmanager
def planted(plant: Plant) -> Iterator[None]:
    sound = vars(plant.owner).get(plant.method)  # None: inherited
    setattr(plant.owner, plant.method, plant.bug)
    try:
        yield
    finally:
        if sound is None:
            delattr(plant.owner, plant.method)
        else:
            setattr(plant.owner, plant.method, sound)


def _fills_alone(tx: Any, _goal: int) -> int:
    """Who fills looks at nobody else who does."""
    return int(shared_decisions.grow(tx, shared_decisions.ALONE))


def _shared(faults: Faults, search: Search) -> Plant:
    """A bug of the transactions of several processes."""
    return Plant(Shared, "faults", lambda _shared: faults, shared_scenarios.give_and_join, "", (search,))


WRONG_STATE = "are out; users have"
LOST = "a resize was undone by another"
PLANTED = {
    "planted: a resize in two steps": Plant(Decisions, "retarget", _two_steps, scenarios.resizes_of_different_targets, LOST),
    "planted: an impatient resize": Plant(
        Decisions, "retarget", _impatient, scenarios.resizes_of_three_targets, LOST, (TWO,)
    ),
    "planted: no lock": Plant(Lock, "acquire", _everybody_has_it, scenarios.shrink_and_free, "", (PCT,)),
    "planted: nobody is served": Plant(
        Decisions, "serve_line", _nobody_is_served, scenarios.grow_serves_the_line, "deadlock"
    ),
    "planted: nobody is woken": Plant(State, "wake_later", _nobody_is_woken, scenarios.grow_serves_the_line, "deadlock"),
    "planted: a raised limit is no news": Plant(
        State, "retry_head_now", _nothing_is_news, scenarios.limit_raised, "deadlock"
    ),
    "planted: no news for those behind": Plant(
        State, "retry_head_now", _nothing_is_news, scenarios.limit_raised_for_a_line, "deadlock"
    ),
    "planted: served in the source": Plant(
        State, "next_to_serve", _inside_the_source, scenarios.a_slow_source_and_those_behind, "deadlock"
    ),
    "planted: nobody leaves": Plant(Decisions, "cancel", _nobody_leaves, scenarios.timeout_and_hand_off, WRONG_STATE),
    "planted, shared: nobody helps": _shared(Faults(nobody_helps=True), SHARED_ONE),
    "planted, shared: applied too early": _shared(Faults(applied_too_early=True), SHARED_ONE),
    "planted, shared: a word is forgotten": _shared(Faults(helper_forgets_a_word=True), SHARED_ONE),
    "planted, shared: each fills alone": Plant(
        shared_operations, "grow", _fills_alone, shared_scenarios.two_fill, "are made, and 2 are promised", (SHARED_ONE,)
    ),
    "planted, shared: a late helper": _shared(Faults(late_helper_overwrites=True), SHARED_TWO),
}
