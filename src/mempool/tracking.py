"""What is recorded of each element that is out: nothing, its identity, or who holds it since when and from where."""

from __future__ import annotations

import dis
import inspect
import os
import sys
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mempool import greenlets
from mempool._core.base_decisions import renew_locks
from mempool.buffer import Buffer
from mempool.clock import in_words
from mempool.engine import Tracker
from mempool.messages import describe
from mempool.parking import ThreadOwner, current_owner, life_of_this_thread

_PACKAGE = str(Path(__file__).parent) + os.sep
#: What CPython executes while a block is entered; while something is awaited, so many instructions after GET_AWAITABLE at
#: most; and the argument of GET_AWAITABLE where it is `async with` that awaits.
_BEGIN_BLOCK = {dis.opmap[name] for name in ("BEFORE_WITH", "BEFORE_ASYNC_WITH") if name in dis.opmap}
_AWAITING = {dis.opmap[n] for n in ("SEND", "YIELD_VALUE", "RESUME", "JUMP_BACKWARD_NO_INTERRUPT") if n in dis.opmap}
_AWAIT_LENGTH = 8
_OF_ASYNC_WITH = 1


@dataclass(frozen=True, slots=True)
class Holder:
    """One element that is out, and who took it."""

    element: str
    """What it is: type and address."""
    who: str
    """The thread or task that took it."""
    site: str
    """Where: file:line in function, outside of this package."""
    since: float
    """When, in seconds of the pool's monotonic clock."""
    seconds: float
    """How long it has been held."""
    lives: bool = field(default=True, compare=False)
    """Whether the thread or task still lives in this process. What a dead one holds may be lost: see `Pool.write_off`."""
    address: int = field(default=0, compare=False)
    """The `id()` of the element."""

    def __str__(self) -> str:
        return f"{self.who} has held {self.element} for {in_words(self.seconds)}, taken at {self.site}"


@dataclass(slots=True)
class _Entry:
    owner: object
    who: str
    site: str
    since: float
    what: str
    life: weakref.ref[object]  # of the thread
    element: weakref.ref[object] | None = None  # None: of a type that allows none, or that knows itself when it is dropped
    is_bound: bool = False  # only its owner can return it: see `in_block`, or it has said so

    def holder(self, address: int, now: float) -> Holder:
        lives = self.life() is not None and not is_over(self.owner)
        return Holder(self.what, self.who, self.site, self.since, now - self.since, lives, address)


class Untracked(Tracker):
    """Nothing is recorded: a double free goes unnoticed."""

    knows_identity: bool = False
    knows_holders: bool = False

    def forget(self, elements: Iterable[object]) -> list[_Entry | None]:
        """These elements have been returned. Returns what was known of each, for `restore`."""
        return []

    def site_of(self, element: object) -> str | None:
        """Where this element was taken."""
        return None

    def holders(self, now: float) -> tuple[Holder, ...]:
        """All of them, oldest first."""
        return ()

    def gone(self, now: float) -> list[Holder]:
        """Those whose element does not exist any more."""
        return []

    def holds(self, holder: Holder) -> bool:
        """Whether this element is still held like that."""
        return False

    def owners(self) -> list[tuple[object, bool]]:
        """Who holds an element (None: nobody knows), once per element; and whether nobody else can return it."""
        return []


class ByIdentity(Untracked):
    """Which elements are out: a double or a foreign free raises. The core keeps them, see _core/outstanding.py."""

    knows_identity = True


class Holders(ByIdentity):
    """Who holds each element, by its address. Every change is one dict operation."""

    knows_holders = True

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}

    def after_fork(self) -> None:
        """In the child of a fork: no thread of the parent is in the middle of anything here."""
        renew_locks(self._entries)

    def record(self, elements: Iterable[object], now: float) -> None:
        """These elements have just been handed to the caller."""
        owner = current_owner()
        who, site, life = name_of(owner), call_site(), life_of_this_thread()
        is_bound = in_block()
        for element in elements:
            self._entries[id(element)] = _Entry(owner, who, site, now, describe(element), life, watched(element), is_bound)

    def forget(self, elements: Iterable[object]) -> list[_Entry | None]:
        """These elements have been returned. Returns what was known of each, for `restore`."""
        return [self._entries.pop(id(element), None) for element in elements]

    def restore(self, elements: Iterable[object], known: list[_Entry | None]) -> None:
        """They have not been returned after all, though the handles of some may be others now."""
        for element, entry in zip(elements, known, strict=False):
            if entry is not None:
                self._entries[id(element)] = entry

    def take_over(self, element: object, now: float) -> None:
        """This element is the caller's from now on, and nobody else will free it."""
        before = self._entries.get(id(element))
        if before is not None:
            owner = current_owner()
            entry = _Entry(owner, name_of(owner), call_site(), now, before.what, life_of_this_thread(), before.element, True)
            # Only in the place of that one: the element may have been returned meanwhile.
            if self._entries.get(id(element)) is before:
                self._entries[id(element)] = entry

    def hand_over(self, element: object) -> None:
        """Somebody else will free this element."""
        entry = self._entries.get(id(element))
        if entry is not None and entry.owner is not None:
            # In place: the element may have been returned meanwhile, and then nobody shall find an entry for it.
            entry.who = f"somebody ({entry.who} handed it over)"
            entry.owner = None
            entry.is_bound = False

    def site_of(self, element: object) -> str | None:
        """Where this element was taken."""
        entry = self._entries.get(id(element))
        return None if entry is None else entry.site

    def holders(self, now: float) -> tuple[Holder, ...]:
        """All of them, oldest first."""
        entries = sorted(self._entries.copy().items(), key=lambda item: item[1].since)
        return tuple(entry.holder(address, now) for address, entry in entries)

    def gone(self, now: float) -> list[Holder]:
        """Those whose element does not exist any more."""
        entries = list(self._entries.items())
        return [entry.holder(address, now) for address, entry in entries if entry.element and entry.element() is None]

    def holds(self, holder: Holder) -> bool:
        """Whether this element is still held like that."""
        entry = self._entries.get(holder.address)
        return entry is not None and (entry.since, entry.who, entry.site) == (holder.since, holder.who, holder.site)

    def drop(self, holder: Holder) -> None:
        """This element is lost. May be done again."""
        if self.holds(holder):
            self._entries.pop(holder.address, None)

    def clear(self) -> None:
        """All of them are lost."""
        self._entries.clear()

    def owners(self) -> list[tuple[object, bool]]:
        """Who holds an element (None: nobody knows), once per element; and whether nobody else can return it."""
        return [(entry.owner, entry.is_bound) for entry in list(self._entries.values())]


def watched(element: object) -> weakref.ref[object] | None:
    """How to see that an element is no more. A reference without a callback: that would run before the element's
    finalizers, or those of what is garbage with it, and these may still free it.
    """
    if type(element) is Buffer or hasattr(type(element), "__del__"):
        return None
    try:
        return weakref.ref(element)
    except TypeError:
        return None


def is_over(owner: object) -> bool:
    """Whether this is a task that is done."""
    done = getattr(owner, "done", None)
    if done is None:  # a task of trio tells by its coroutine
        coroutine = getattr(owner, "coro", None)
        return inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
    return callable(done) and bool(done())


def name_of(owner: object) -> str:
    """A thread, task or greenlet for messages."""
    if isinstance(owner, ThreadOwner):
        return f"thread {owner.name!r}"
    greenlet = greenlets.name_of(owner)
    if greenlet is not None:
        return greenlet
    get_name = getattr(owner, "get_name", None)
    return f"task {get_name() if get_name is not None else getattr(owner, 'name', owner)}"


def call_site() -> str:
    """The innermost line outside of this package: file:line in function."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    # Not a Path: where memory is lacking, CPython says AttributeError of one.
    file = os.path.basename(frame.f_code.co_filename)  # noqa: PTH119
    return f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"


def in_block() -> bool:
    """Whether the element that is handed out now is that of a `with` or `async with` block of the caller's own code.

    Then the block must end before the element is returned, and it ends in the frame that began it. A plain function's
    frame stays with its thread, and a coroutine's with its task; a generator's may be gone on with by anybody. The code
    that is being executed tells which of these it is, and that it is no call of `alloc`, of `lease.element`, or of an
    ExitStack: such elements may be returned by whoever is given them.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    code, at = frame.f_code.co_code, frame.f_lasti
    if at < 0 or frame.f_code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE):
        return False
    while at > 0 and code[at] == dis.opmap["CACHE"]:  # CPython 3.12 stands behind the SEND that it is executing
        at -= 2
    if code[at] in _BEGIN_BLOCK:
        return True
    if code[at] == dis.opmap["CALL"] and at >= 2 and code[at - 2] == dis.opmap.get("LOAD_SPECIAL"):
        return True  # `with` from CPython 3.14 on
    if code[at] not in _AWAITING:
        return False
    for place in range(at, max(-1, at - 2 * _AWAIT_LENGTH), -2):
        if code[place] == dis.opmap["GET_AWAITABLE"]:
            return code[place + 1] == _OF_ASYNC_WITH
    return False


#: What the pool's option `track` says.
TRACKERS: dict[str, Callable[[], Tracker]] = {"nothing": Untracked, "identity": ByIdentity, "holders": Holders}
