"""What threads did to a pool and in which order, and whether a pool that decides one thing at a time could have done it.

A history is a list of events in the order of time: a thread asks something of the pool, the source answers (it made an
element, it failed, it disposed of one), a call returns. What happens inside the pool is not in it. `first_unexplained`
therefore follows a model that knows no threads: a pile of spares, a line, two targets, and for each caller how far its call
has come. A call is a few decisions, each at one moment, of which nobody outside knows when it was, only between which two
events of the same thread. So the search keeps every state in which the pool can be after each event; where none is
left, no pool that keeps its word behaves like that. (Lowe, Testing for linearizability, 2017: just-in-time linearization.)

What the model demands is the pool's word, in ARCHITECTURE.md: where an alloc looks, in which order; that a free serves the
line first; that a grow fills the reserve or has been refused; that what is beyond `keep` is disposed of. What it cannot see:
how long something takes (a caller who is served and not woken is found by the recorder's clock, see Forgotten), and who
joined the line first, unless somebody's `stats` counted the one before the other came.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Any, NamedTuple

from mempool import Pool, PoolTimeout
from mempool.testing import Element

WAITING = ("alloc", "alloc at once")  # the calls that may stand in the line; the second has a timeout of 0


class Event(NamedTuple):
    """One thing that a thread did or saw."""

    who: int  # which thread
    what: str  # what it asks; "made", "failed" or "disposed", by the source; "returns"
    value: Any = None  # the element's number, a resize's targets, what is returned


class Forgotten(Exception):
    """A call took so long that nobody can have thought of it. No order of events says that: only a clock does."""


class Recorder:
    """A source with room for so many elements; all that is asked of it and of its pool is written down."""

    def __init__(self, room: int, wait_seconds_max: float) -> None:
        self.room = room
        self.wait_seconds_max = wait_seconds_max
        self.events: list[Event] = []  # whose append is one step, so that its order is that of time
        self._numbers = itertools.count()
        self._existing: dict[int, Element] = {}
        self._everything: dict[int, Element] = {}  # alive, so that no address is used twice
        self._of_thread = threading.local()

    def alloc(self) -> Element:
        if len(self._existing) >= self.room:
            self._note("failed")
            raise MemoryError
        element = Element(next(self._numbers))
        self._everything[element.number] = self._existing[element.number] = element
        self._note("made", element.number)
        return element

    def free(self, element: Element) -> None:
        self._existing.pop(element.number, None)  # if it is disposed of twice, the history says so
        self._note("disposed", element.number)

    def _note(self, what: str, value: Any = None) -> None:
        who = getattr(self._of_thread, "who", None)
        if who is not None:  # else it is the pool's constructor that asks, or its end
            self.events.append(Event(who, what, value))

    def call(self, pool: Pool[Element], who: int, what: str, value: Any = None) -> Any:
        """Do it, and write down what came of it. Elements go in and come out by their numbers."""
        self._of_thread.who = who
        began = monotonic()
        self._note(what, value)
        try:
            result = self._perform(pool, what, value)
            if monotonic() - began >= self.wait_seconds_max:
                raise Forgotten(what)
            self._note("returns", result)
        finally:
            self._of_thread.who = None
        return result

    def _perform(self, pool: Pool[Element], what: str, value: Any) -> Any:
        element: Element | None = None
        match what:
            case "alloc" | "alloc at once":
                try:
                    element = pool.alloc(timeout=0 if what == "alloc at once" else self.wait_seconds_max)
                except PoolTimeout:
                    pass
            case "try_alloc":
                element = pool.try_alloc()
            case "alloc_reserved":
                element = pool.alloc_reserved()
            case "free":
                pool.free(self._everything[value])
            case "resize":
                told = pool.resize(value[0], keep=value[1])
                return told.promised, told.spare, told.owed, told.unfunded
            case "stats":
                seen = pool.stats()
                counts = seen.spare, seen.out, seen.disposing, seen.made, seen.disposed
                return seen.reserve, seen.keep, seen.waiting, *counts
        return None if element is None else element.number


# -- the model


class Call(NamedTuple):
    """How far a thread's call has come, and what it holds."""

    phase: str = "none"  # what it does next; "has": nothing more, it returns `result`
    then: str = ""  # the phase that follows when what it carries is where it belongs
    result: Any = None
    carried: tuple[int, ...] = ()  # elements on their way back, or to the source
    permits: int = 0  # how many elements it asks the source for


class State(NamedTuple):
    """What a pool is between two decisions. While there is a spare, nobody is in line but one who is inside the source."""

    reserve: int
    keep: int
    spares: tuple[int, ...]  # the next to be handed out last
    line: tuple[int, ...]  # threads
    made: int
    disposed: int
    filling: int  # how many elements resizes are asking the source for
    calls: tuple[Call, ...]  # by thread
    may_rest: bool = False  # the source may be left alone now and then, which only a clock could tell

    def with_call(self, who: int, call: Call, **changes: Any) -> State:
        return self._replace(calls=(*self.calls[:who], call, *self.calls[who + 1 :]), **changes)

    def next_in_line(self) -> int | None:
        """The first in line who is not inside the source, and can take what is returned."""
        return next((who for who in self.line if not is_inside(self.calls[who])), None)

    def laid_by(self) -> int:
        """How many spares are kept for one who is inside the source, should it give nothing."""
        return 1 if self.line and self.next_in_line() is None else 0

    def seen(self, what: str) -> tuple[int, ...]:
        """What `stats`, or a resize, tells of this moment."""
        spare = len(self.spares)
        disposing = sum(len(call.carried) for call in self.calls if call.phase in ("disposes", "has disposed"))
        out = self.made - self.disposed - disposing - spare
        if what == "stats":
            return self.reserve, self.keep, len(self.line), spare, out, disposing, self.made, self.disposed
        lacking = max(0, self.reserve - spare)
        owed = min(lacking, out)
        rest = lacking - owed
        # While a resize makes elements nothing is unfunded.
        filling = rest if any({call.phase, call.then} & {"fills", "ends its fill"} for call in self.calls) else 0
        return self.reserve, spare, owed, rest - filling


def is_inside(call: Call) -> bool:
    """Whether this call stands in the line, and is asking the source."""
    return call.then == "waits" and call.phase in ("asks", "was answered")


def new_pool(reserve: int, keep: int, threads: int) -> State:
    """As the constructor leaves it."""
    return State(reserve, keep, tuple(range(reserve)), (), reserve, 0, 0, (Call(),) * threads)


def begun(event: Event) -> Call:
    """A call's first phase."""
    match event.what:
        case "free":
            return Call("returns", then="has", carried=(event.value,))
        case "resize":
            return Call("retargets")
        case "stats":
            return Call("looks")
        case "alloc_reserved":
            return Call("takes a spare")
    return Call("takes what is beyond the reserve")


def decisions(state: State, who: int, asked: Event) -> Iterator[State]:
    """What this thread's call can decide now. Each is one moment; several: nobody can tell from outside."""
    call, spares, line = state.calls[who], state.spares, state.line
    may_wait = asked.what in WAITING
    match call.phase:
        case "takes what is beyond the reserve" if not line and len(spares) > state.reserve:
            yield take(state, who)
        case "takes what is beyond the reserve":
            yield state.with_call(who, Call("sees the line"))
        case "sees the line" if may_wait and line:  # those who wait come first
            yield state.with_call(who, Call("joins"))
        case "sees the line" if state.may_rest and not line and spares:  # the source has failed a moment ago, or it asks
            yield take(state, who)
            yield state.with_call(who, Call("asks", then="has", permits=1))
        case "sees the line":
            yield state.with_call(who, Call("asks", then="has", permits=1))
        case "was refused" | "takes a spare" if not line and spares:
            yield take(state, who)
        case "joins" if state.next_in_line() is None and spares:
            yield take(state, who)
        case "was refused":
            yield state.with_call(who, Call("joins" if may_wait else "has"))
        case "takes a spare":
            yield state.with_call(who, Call("has"))
        case "joins":
            yield state.with_call(who, Call("waits"), line=(*line, who))
        case "waits" if who not in line:
            yield state.with_call(who, call._replace(phase="has"))
        case "waits":
            if line[0] == who:
                yield state.with_call(who, Call("asks", then="waits", permits=1))
            if asked.what == "alloc at once":
                yield state.with_call(who, Call("leaves"))
        case "leaves" if who in line:
            yield state.with_call(who, Call("has"), line=tuple(other for other in line if other != who))
        case "leaves":  # it was served before it could leave
            yield state.with_call(who, Call("returns", then="has", carried=(call.result,)))
        case "was answered":
            made = state.made + len(call.carried)
            filling = state.filling - (call.permits if asked.what == "resize" else 0)
            if call.then == "has":
                call = Call("has", result=call.carried[0])
            else:
                call = call._replace(phase="returns", permits=0)
            state = state.with_call(who, call, made=made, filling=filling)
            if who in line and spares:  # laid by while it was inside the source
                call = call._replace(result=spares[-1])
                state = state.with_call(who, call, spares=spares[:-1], line=tuple(other for other in line if other != who))
            yield state
        case "returns":
            yield give_back(state, who)
        case "has disposed":
            left = call.carried[1:]
            call = call._replace(phase="disposes" if left else call.then, carried=left)
            yield state.with_call(who, call, disposed=state.disposed + 1)
        case "retargets":
            reserve, keep = asked.value
            yield state.with_call(who, Call("fills" if reserve > state.reserve else "trims"), reserve=reserve, keep=keep)
        case "fills":  # in batches, of which nobody outside knows how large they are
            lacking = state.reserve - len(spares) - state.filling
            if lacking <= 0:
                yield state.with_call(who, Call("trims"))
            for permits in range(1, lacking + 1):
                yield state.with_call(who, Call("asks", then="fills", permits=permits), filling=state.filling + permits)
        case "ends its fill":
            yield state.with_call(who, Call("trims"))
        case "trims" if state.next_in_line() is None and len(spares) > max(state.keep, state.laid_by()):
            kept = max(state.keep, state.laid_by())
            surplus = Call("disposes", then="trims", carried=spares[kept:][::-1])
            yield state.with_call(who, surplus, spares=spares[:kept])
        case "trims":
            yield state.with_call(who, Call("looks"))
        case "looks":
            yield state.with_call(who, Call("has", result=state.seen(asked.what)))


def take(state: State, who: int) -> State:
    """The spare on top is this caller's."""
    return state.with_call(who, Call("has", result=state.spares[-1]), spares=state.spares[:-1])


def give_back(state: State, who: int) -> State:
    """What this call carries goes to the first in line, else to the spares, else to the source."""
    mine = state.calls[who]
    left = mine.carried
    state = state.with_call(who, mine._replace(carried=()))
    while left:
        element, *others = left
        first = state.next_in_line()
        if first is not None:
            line = tuple(other for other in state.line if other != first)
            state = state.with_call(first, state.calls[first]._replace(result=element), line=line)
        elif len(state.spares) >= max(state.keep, state.laid_by()):
            break
        else:
            state = state._replace(spares=(*state.spares, element))
        left = tuple(others)
    mine = state.calls[who]  # it may have served itself
    return state.with_call(who, mine._replace(phase="disposes" if left else mine.then, carried=left))


# -- the search


def first_unexplained(history: list[Event], start: State) -> int | None:
    """The place of the first event after which no pool that keeps its word can be in any state; None: all is explained."""
    asked: dict[int, Event] = {}  # by thread: the call that has begun
    possible = {start}
    for place, event in enumerate(history):
        coming = {who: next((e for e in history[place:] if e.who == who), None) for who in range(len(start.calls))}
        after = {observe(state, event) for state in closure(possible, asked, coming)}
        possible = after - {None}
        if not possible:
            return place
        if event.what == "returns":
            del asked[event.who]
        elif event.what not in ("made", "failed", "disposed"):
            asked[event.who] = event
    return None


def closure(possible: Iterable[State], asked: dict[int, Event], coming: dict[int, Event | None]) -> set[State]:
    """These states, and those to which decisions lead from them, before anything is seen outside."""
    found = set(possible)
    todo = list(found)
    while todo:
        state = todo.pop()
        for who, event in asked.items():
            for after in decisions(state, who, event):
                if after not in found and leads_to(after.calls[who], coming[who]):
                    found.add(after)
                    todo.append(after)
    return found


def leads_to(call: Call, coming: Event | None) -> bool:
    """Whether a call that has come so far fits what is seen of its thread next; nothing is, if it never ended."""
    if coming is None:
        return True
    match call.phase:
        case "asks":
            return coming.what in ("made", "failed")
        case "disposes":
            return (coming.what, coming.value) == ("disposed", call.carried[0])
        case "has":
            return (coming.what, coming.value) == ("returns", call.result)
    return True


def observe(state: State, event: Event) -> State | None:
    """The same state after something that is seen outside; None: it cannot be seen here."""
    call = state.calls[event.who]
    match event.what, call.phase:
        case "made", "asks":
            carried = (*call.carried, event.value)
            phase = "was answered" if len(carried) == call.permits else "asks"
            return state.with_call(event.who, call._replace(phase=phase, carried=carried))
        case "failed", "asks" if call.then == "fills":
            return state.with_call(event.who, call._replace(phase="was answered", then="ends its fill"))
        case "failed", "asks":
            if call.then == "waits":  # it is inside the source until the state knows that nothing came
                return state.with_call(event.who, call._replace(phase="was answered"))
            return state.with_call(event.who, Call("was refused", result=call.result))
        case "disposed", "disposes":
            return state.with_call(event.who, call._replace(phase="has disposed"))
        case "returns", "has":
            return state.with_call(event.who, Call())
        case _, "none":
            return state.with_call(event.who, begun(event))
    return None
