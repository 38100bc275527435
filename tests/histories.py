"""What threads did to a pool and when, and whether one caller after another could have seen the same.

A history is made of calls, each with a begin and an end by one counter that all threads share. `explain` searches for an
order of what happened that respects time (what ended before another began comes first) and in which each call returns
what it did return, by a model that knows no threads: a pile of spares, two targets. Such an order is what "linearizable"
means. The search is that of Wing and Gong (1993); a state that led nowhere is not tried again, as in Lowe (2017).

A resize is no single step: its targets change at one moment, then it makes or disposes of elements one by one. The source
sees each of these, so they are recorded, too, and each is a step of its own between the resize's begin and end.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mempool import Pool

Pile = tuple[int, ...]  # the spares' numbers, the next to be handed out last
State = tuple[int, int, Pile, frozenset[int]]  # reserve, keep, spares, those made in vain that are to be disposed of


@dataclass(eq=False)
class Element:
    """Known by its number for ever: a history keeps it alive, so that no address is used twice."""

    number: int


@dataclass
class Call:
    """What one thread asked of the pool, what came of it, and what the source was asked meanwhile."""

    what: str  # "alloc", "free" or "resize"
    begins: float
    given: Any = None  # the element freed; the targets of a resize
    ends: float = -1
    result: Any = None  # the element, or None; a resize's promise and spares
    made: list[tuple[int, float]] = field(default_factory=list)  # (element, when the source had it)
    disposed: list[tuple[int, float]] = field(default_factory=list)  # (element, when the source got it)


@dataclass(frozen=True)
class Step:
    """Something that happens at one moment between `begins` and `ends`, and after the step `after` of the same call."""

    what: str
    begins: float
    ends: float
    element: int = -1
    numbers: tuple[int, int] = (0, 0)
    after: int | None = None


class Recorder:
    """A source with room for so many elements, and a pool's calls written down."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.calls: list[Call] = []
        self._now = itertools.count()
        self._numbers = itertools.count()
        self._existing: dict[int, Element] = {}
        self._everything: list[Element] = []
        self._of_thread = threading.local()

    def alloc(self) -> Element:
        if len(self._existing) >= self.room:
            raise MemoryError
        element = Element(next(self._numbers))
        self._everything.append(element)
        self._existing[element.number] = element
        if (call := getattr(self._of_thread, "call", None)) is not None:
            call.made.append((element.number, next(self._now)))
        return element

    def free(self, element: Element) -> None:
        del self._existing[element.number]
        if (call := getattr(self._of_thread, "call", None)) is not None:
            call.disposed.append((element.number, next(self._now)))

    def _record(self, what: str, given: Any, function: Callable[[], Any]) -> Any:
        call = self._of_thread.call = Call(what, next(self._now), given)
        returned = function()
        call.ends = next(self._now)
        self._of_thread.call = None
        if what == "alloc":
            call.result = None if returned is None else returned.number
        elif what == "resize":
            call.result = (returned.promised, returned.spare)
        self.calls.append(call)
        return returned

    def pool_alloc(self, pool: Pool[Element], *, waits: bool) -> Element | None:
        function = (lambda: pool.alloc(timeout=60)) if waits else pool.try_alloc
        return self._record("alloc", None, function)  # type: ignore[no-any-return]

    def pool_free(self, pool: Pool[Element], element: Element) -> None:
        self._record("free", element.number, lambda: pool.free(element))

    def pool_resize(self, pool: Pool[Element], reserve: int, keep: int) -> None:
        self._record("resize", (reserve, keep), lambda: pool.resize(reserve, keep=keep))


def steps_of(calls: list[Call]) -> list[Step]:
    """What happened, taken apart into moments."""
    steps: list[Step] = []
    for call in sorted(calls, key=lambda call: call.begins):
        steps += _steps_of(call, len(steps))
    return steps


def _steps_of(call: Call, first: int) -> Iterator[Step]:
    made, disposed = dict(call.made), dict(call.disposed)
    source_moments = [*made.values(), *disposed.values()]
    # What is made or disposed of on the way: by a resize, after its targets have changed; or by the head of the line.
    after = first if call.what == "resize" else None
    if call.what == "resize":
        yield Step("retarget", call.begins, min([*source_moments, call.ends]), numbers=call.given)
    elif call.what == "free":
        what = "discard" if call.given in disposed else "shelve"
        yield Step(what, call.begins, min(call.ends, disposed.pop(call.given, call.ends)), call.given)
    elif call.result is None:
        yield Step("nothing", call.begins, call.ends)
    else:
        yield Step("fresh" if call.result in made else "take", call.begins, call.ends, call.result)
        made.pop(call.result, None)
    for element, moment in made.items():
        yield Step("fill or discard" if element in disposed else "fill", moment, call.ends, element, after=after)
    for element, moment in disposed.items():
        yield Step("trim", call.begins, moment, element, after=after)
    if call.what == "resize":
        yield Step("told", max([*source_moments, call.begins]), call.ends, numbers=call.result, after=first)


def apply(step: Step, state: State) -> State | None:
    """The model: what one step does to a pool; None: it cannot happen here."""
    reserve, keep, pile, in_vain = state
    spares, element = len(pile), step.element
    match step.what:
        case "retarget":
            return (*step.numbers, pile, in_vain)
        case "told":  # what a resize returns is what holds at some moment before its end
            return state if step.numbers == (reserve, spares) else None
        case "take":
            return (reserve, keep, pile[:-1], in_vain) if pile and pile[-1] == element else None
        case "fresh":  # the source is asked only when there is no spare beyond the reserve
            return state if spares <= reserve else None
        case "nothing":
            return state if not pile else None
        case "discard":
            return state if spares >= keep else None
        case "shelve" | "fill" | "fill or discard" if spares < keep:
            return reserve, keep, (*pile, element), in_vain
        case "fill or discard":
            return reserve, keep, pile, in_vain | {element}
        case "trim" if element in in_vain:
            return reserve, keep, pile, in_vain - {element}
        case "trim":
            return (reserve, keep, pile[:-1], in_vain) if spares > keep and pile[-1] == element else None
    return None


def explain(steps: list[Step], start: State) -> list[Step] | None:
    """An order in which these steps make sense, or None: there is none."""
    refuted: set[tuple[int, State]] = set()
    all_done = (1 << len(steps)) - 1
    order: list[Step] = []
    # Depth first, without recursion: for each step of the order, the state it led to and what else could have come there.
    done, state = 0, start
    path: list[tuple[int, State, Iterator[int]]] = [(done, state, candidates(steps, done))]
    while path:
        done, state, untried = path[-1]
        if done == all_done:
            return order
        for i in untried:
            after = apply(steps[i], state)
            if after is not None and (done | 1 << i, after) not in refuted:
                refuted.add((done | 1 << i, after))  # unless it leads to the end, and then nobody asks
                order.append(steps[i])
                path.append((done | 1 << i, after, candidates(steps, done | 1 << i)))
                break
        else:
            path.pop()
            if order:
                order.pop()
    return None


def candidates(steps: list[Step], done: int) -> Iterator[int]:
    """The steps that can come next: nothing that is still to come ended before they began."""
    open_steps = [i for i in range(len(steps)) if not done >> i & 1]
    first_end = min((steps[i].ends for i in open_steps), default=0)
    for i in open_steps:
        after = steps[i].after
        if steps[i].begins <= first_end and (after is None or done >> after & 1):
            yield i
