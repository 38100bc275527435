"""SharedEngine: a pool of memory that several processes share, without its face.

It is the compiled _engine.Transaction with what Python is good for: the file, the locks that tell who lives, tickets, forks.
Whoever waits does so through `park`, or has a `waker` called; and calls `poll` now and then, because a hint may get lost
with the process that was to give it.
"""

from __future__ import annotations

import contextlib
import enum
import os
import struct
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from mempool import messages, native
from mempool.engine import UnexpectedReserveError
from mempool.errors import ForeignElement, LineFull, PoolClosed
from mempool.shared import clients as locks
from mempool.shared import decisions, words
from mempool.shared.anew import make_anew_after_boot
from mempool.shared.audit import Words, audit
from mempool.shared.errors import ClientGone, PoolCorrupt
from mempool.shared.file import make
from mempool.shared.killed import Reclaimed, had
from mempool.shared.layout import Header, Layout, check_folder, map_file, open_file

try:
    from mempool.shared._engine import Handle, Transaction, open_lock
except ModuleNotFoundError as _missing:
    raise ImportError(
        "mempool.shared needs its compiled part, for Linux on x86-64: its transactions are 16-byte compare-and-swaps, which "
        "Python cannot do. Get a C compiler, and in a clone of mempool: MEMPOOL_REQUIRE_COMPILED=1 pip install ."
    ) from _missing

#: How long a waiter sleeps at most before it looks by itself, in seconds. A killed process is noticed within this time.
SLICE = 0.2


class TicketState(enum.IntEnum):
    """How far a call has come."""

    NEW = 0
    WAITING = 1
    SERVED = 2
    CANCELLED = 3
    CLOSED = 4
    TOO_MANY = 5


class Waker(Protocol):
    """Whom to wake: a thread, a task, a greenlet."""

    def wake(self) -> None:
        """Never blocks, from any thread, any number of times."""


@dataclass(eq=False)
class Ticket:
    """One call's record. What it owns, `cancel` returns."""

    wanted: int
    elements: list[Handle]
    state: TicketState = TicketState.NEW
    place: int = -1
    waker: Waker | None = None
    blank: list[Handle] = field(default_factory=list)


@dataclass(frozen=True)
class Snapshot:
    """Every number of one moment. Numbers are elements."""

    reserve: int
    keep: int
    limit: int
    made: int
    """Slots that have memory, or are getting or losing it."""
    spare: int
    waiting: int
    """Tickets in the line."""
    closed: bool
    version: int
    """How many transactions there have been."""
    gathered: int
    """What the first in line has got until now of what it wants."""
    offered: int
    """The part of `out` that was offered, and that nobody has adopted yet."""
    quarantined: int = 0
    """The part of `out` that is nobody's: a killed process had it who wanted it to be looked at first."""
    filling: int = 0
    """The part of `made` that processes are making for the line or the reserve."""

    @property
    def out(self) -> int:
        """In users' hands, or on the way there or back."""
        return self.made - self.spare

    @property
    def unfunded(self) -> int:
        """The part of the reserve that not even every return would fill."""
        return max(0, self.reserve - self.made)


@dataclass(frozen=True)
class Waiting:
    """One place in the line."""

    client: int
    pid: int
    wanted: int
    granted: int


@dataclass(frozen=True)
class ClientInfo:
    """A client: which one, and what it says of its process."""

    number: int
    epoch: int
    pid: int
    is_dead: bool
    """It was proven dead, and is being reaped."""


# By identity, and not a WeakSet: that is run over in Python, and fails where another thread attaches or leaves meanwhile.
_engines: weakref.WeakValueDictionary[int, SharedEngine] = weakref.WeakValueDictionary()


def _engines_here() -> list[SharedEngine]:
    """All of this process, whatever its other threads do meanwhile.

    See test_who_leaves_while_another_thread_attaches_keeps_no_descriptor.
    """
    return [engine for reference in _engines.valuerefs() if (engine := reference()) is not None]


class SharedEngine:
    """One process' share in a pool of several. Its threads may use it together; a child of a fork attaches anew."""

    __slots__ = ("__dict__", "__weakref__", "_reaping")  # the lock where eventlet does not look: native.RLock

    def __init__(self, path: Path, file: int, layout: Layout, nonce: bytes, *, quarantines: bool = False) -> None:
        self.quarantines = quarantines
        self.path = path
        self.name: str = path.name
        self.layout = layout
        self.nonce = nonce
        # Never locked: what a child opens anew, whatever has become of the name.
        self._file = file
        found = os.fstat(file)
        #: The killed processes that were reaped when this one attached.
        self.reaped: Reclaimed = Reclaimed()
        self._identity = found.st_dev, found.st_ino
        # Held while descriptors are looked through, so that nobody closes them meanwhile. A finalizer may come back here.
        self._reaping = native.RLock()
        # An open file of its own, because locks belong to open files. -1: none.
        self._lock = -1
        self._has_locked = False
        self._tx = Transaction(map_file(file, path, layout), f"shared pool {self.name!r}", layout.offsets(), nonce)
        self._mapped_as = locks.mapped_as(self._tx.base)
        self._waiters: dict[int, Ticket] = {}  # by place: those with a waker
        self._listener: threading.Thread | None = None
        self._pid = os.getpid()
        #: Called in a child that has attached anew, before any other thread of it goes on. What it returns is called after.
        self.on_fork: Callable[[], Callable[[], object] | None] | None = None
        self._here = locks.this_process()
        self._finalizer = weakref.finalize(self, _detach, self._tx, [file], self._identity)

    # -- begin and end

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        size: int,
        slots: int,
        reserve: int,
        keep: int | None = None,
        limit: int | None = None,
        places: int = 256,
        clients: int = 64,
    ) -> Self:
        """Make the file, attach to it and fill the reserve as far as there is memory (`snapshot().unfunded` tells).

        size: bytes of an element. slots: how many there may ever be. places: how many may wait. clients: how many processes.

        Raises FileExistsError, PermissionError, MemoryError.
        """
        layout = Layout(slots, places, clients, size)
        targets = cls._targets(layout, reserve, keep, limit)
        path = Path(path)
        check_folder(path.parent)
        make(path, layout, *targets)
        engine = cls.attach(path)
        engine.refill()
        return engine

    @classmethod
    def found(
        cls, path: Path, layout: Layout, targets: tuple[int, int, int], *, follows: bool, quarantines: bool = False
    ) -> Self:
        """Make the file, with these targets, and attach to it. The reserve is for the caller to fill. Raises as `create`."""
        check_folder(path.parent)
        make(path, layout, *targets, follows=follows)
        return cls.attach(path, quarantines=quarantines)

    def unlink(self) -> None:
        """Take the file's name away, if the name is still this file's. Raises TimeoutError where another one is about to."""
        with contextlib.suppress(FileNotFoundError), locks.taking_the_name(self.path):
            found = self.path.stat(follow_symlinks=False)
            if (found.st_dev, found.st_ino) == self._identity:
                self.path.unlink()

    @classmethod
    def attach(cls, path: str | os.PathLike[str], *, quarantines: bool = False) -> Self:
        """Join the processes that use this file. Raises FileNotFoundError, PermissionError, PoolCorrupt, MemoryError.

        quarantines: if this process is killed, what it has is set aside until somebody has looked at it.
        """
        path = Path(path)
        check_folder(path.parent)
        file, header = _open_of_this_boot(path)
        try:
            engine = cls(path, file, header.layout, header.nonce, quarantines=quarantines)
        except BaseException:
            os.close(file)
            raise
        _engines[id(engine)] = engine
        try:
            engine._become_client()
        except BaseException:
            engine.detach()
            raise
        return engine

    @classmethod
    def observe(cls, path: str | os.PathLike[str], *, makes_anew: bool = False) -> Self:
        """Look without joining: `snapshot`, `queue`, `clients`, `held` and `verify` work. Raises as `attach`.

        makes_anew: as `attach` does, what an earlier boot has left.
        """
        path = Path(path)
        check_folder(path.parent)
        file, header = _open_of_this_boot(path) if makes_anew else open_file(path)
        try:
            return cls(path, file, header.layout, header.nonce)
        except BaseException:
            os.close(file)
            raise

    @staticmethod
    def _targets(layout: Layout, reserve: int, keep: int | None, limit: int | None) -> tuple[int, int, int]:
        keep = reserve if keep is None else keep
        limit = layout.slots if limit is None else limit
        if not 0 <= reserve <= keep <= limit <= layout.slots or limit < 1:
            raise ValueError(
                f"0 <= reserve <= keep <= limit <= slots, and a limit of 1 at least; "
                f"not reserve={reserve}, keep={keep}, limit={limit}, slots={layout.slots}"
            )
        return reserve, keep, limit

    def _become_client(self) -> None:
        self._open()
        self.reaped = Reclaimed()  # in a child: those are its parent's
        self._find_number()
        self._tx.revive = _Revive(self)
        if self.reaped:
            self._go_on_filling()
        self.reaped = Reclaimed((*self.reaped.processes, *self.reap_dead().processes))

    def _open(self) -> None:
        """An open file of its own, for its lock: by the descriptor, whatever has become of the name; and by the name where a
        daemon has closed the descriptor. Raises OSError.
        """
        file = self._file
        try:
            if not _is_still(file, self._identity):
                file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                if not _is_still(file, self._identity):
                    raise FileNotFoundError(f"{self.path}: that is another pool by now")
            open_lock(self, file)
        except BaseException:
            if file != self._file:
                os.close(file)
            raise
        self._file = file
        self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _detach, self._tx, [file, self._lock], self._identity)

    def _see_locks(self) -> bool:
        """Whether it can be seen who holds a lock; where a daemon has closed its descriptors, it opens and locks anew."""
        if not _is_still(self._lock, self._identity):
            self._has_locked = False
            try:
                self._open()
            except OSError:
                return False  # its name is gone, or it has as many descriptors as it may: then the second key alone tells
            self._tx.know_file(self._lock)
        if not self._has_locked:
            # Who has it just looks whether this process lives, and lets go of it: it is to be had at the next look. By the
            # lock alone do those of other pid namespaces know that this one lives. See
            # test_who_lost_its_lock_takes_it_again_though_another_one_has_it_for_a_moment.
            self._has_locked = locks.lock(self._lock, self._tx.me)
        return True

    def _find_number(self) -> None:
        for number in range(self.layout.clients):
            if not locks.lock(self._lock, number):
                continue
            state, epoch, *record = self._tx.look_at_client(number)
            if state in (words.LIVE, words.UNSETTLED) and self._maps(number, locks.Process(*record)):
                locks.unlock(self._lock, number)  # it lives, and has lost its descriptors
                continue
            if state != words.ABSENT:  # it takes a dead one's place, and returns what that had
                self.reaped = Reclaimed([had(self._tx, number, epoch, record[0])])
            here = self._here
            self._has_locked = True
            self._tx.attach(number, self._lock, here.pid, here.started, here.pid_namespace, self.quarantines)
            return
        raise LineFull(
            f"{self.path}: {self.layout.clients} processes use this pool already, as many as it was made for; "
            "end one, or make it anew with more clients"
        )

    def detach(self) -> None:
        """This process uses the pool no more; whatever it had is returned, and its handles are dead. The pool goes on."""
        with self._reaping:
            # First: the numbers of closed descriptors are soon others', and a child of a fork would close those.
            self._lock = self._file = -1
            self._finalizer()

    def after_fork(self) -> None:
        """In a child: attach anew. What the parent had stays the parent's. Called by itself at the first use.

        Threads that use it together for the first time wait for the first of them. The lock is this very process': the
        parent's may be held by a thread that does not live here.
        """
        tell: Callable[[], object] | None = None
        with self._tx.lock_here(native.RLock()):
            if not self._tx.needs_reviving():
                return
            self._tx.forget()
            try:
                self._pid = os.getpid()
                if self._file >= 0:  # else the parent had left: it can be looked at, as there
                    self._drop_inherited()
                    self._here = locks.this_process()
                    self._waiters, self._listener = {}, None
                    self._become_client()
                    if self.on_fork is not None:
                        tell = self.on_fork()
                self._tx.settle()
            except BaseException:  # it tries again at its next use
                with contextlib.suppress(PoolCorrupt, ClientGone):
                    self._tx.detach()
                self._drop_inherited()
                self._finalizer.detach()
                self._finalizer = weakref.finalize(self, _detach, self._tx, [self._file], self._identity)
                self._tx.orphan()
                raise
        if tell is not None:
            tell()

    def _drop_inherited(self) -> None:
        """Close what the parent locked. Never unlock it: the lock is one, and the parent's."""
        self._reaping = native.RLock()  # another thread of the parent may have it
        lock, self._lock = self._lock, -1
        if _is_still(lock, self._identity):
            os.close(lock)

    @property
    def number(self) -> int:
        """Which client of the file this process is."""
        return self._tx.me

    # -- take and give

    def ticket(self, wanted: int = 1) -> Ticket:
        """A record that owns nothing."""
        if not 1 <= wanted <= self.layout.slots:
            raise ValueError(f"{self.path}: 1 to {self.layout.slots} elements can be asked for, not {wanted}")
        return Ticket(wanted, [], blank=self._tx.handles(wanted))

    def try_take(self, ticket: Ticket, *, ask_source: bool = True) -> None:
        """All that can be had without waiting, in front of nobody. ask_source: new memory, too. Raises PoolClosed."""
        while len(ticket.elements) < ticket.wanted:
            handle = self._tx.take() if ask_source else self._tx.take_spare()
            if handle is None:
                return
            ticket.elements.append(handle)
        ticket.state = TicketState.SERVED

    def enqueue(self, ticket: Ticket, waker: Waker | None = None) -> None:
        """Stand in line for what the ticket lacks; maybe it is served at once. waker: who is told when it is served.

        Raises PoolClosed, LineFull; ValueError where the limit allows less than it wants.
        """
        if ticket.state is not TicketState.NEW:
            raise ValueError(f"{self.path}: this ticket was used before; a call needs one of its own")
        lacking = ticket.wanted - len(ticket.elements)
        outcome, place = self._tx.join(lacking)
        if outcome == decisions.CLOSED:
            raise PoolClosed(f"{self.path}: the pool is closed")
        if outcome == decisions.FULL:
            raise LineFull(f"{self.path}: {self.layout.places} callers wait already, as many as the pool was made for")
        if outcome == decisions.TOO_MANY:
            raise ValueError(f"{self.path}: {lacking} elements are more than the limit allows; raise it, or ask for fewer")
        ticket.place, ticket.state = place, TicketState.WAITING
        if waker is not None:
            ticket.waker = waker
            self._waiters[place] = ticket
            self._listen()
        self.poll(ticket)

    def poll(self, ticket: Ticket) -> float:
        """While it waits: get memory for the line, look for the dead, see whether it was served. When to be called again."""
        if ticket.state is not TicketState.WAITING:
            return 0.0
        self._tx.pump()
        self._tx.grow()
        if self._settle(ticket, self._tx.look_at_place(ticket.place)):
            return 0.0
        if self.reap_dead() and self._settle(ticket, self._tx.look_at_place(ticket.place)):
            return 0.0
        return SLICE

    def park(self, ticket: Ticket, seconds: float) -> TicketState:
        """Sleep until the ticket is served, or so long. Other threads run. May return early, as WAITING."""
        if ticket.state is TicketState.WAITING:
            self._settle(ticket, self._tx.wait(ticket.place, seconds))
        return ticket.state

    def _settle(self, ticket: Ticket, outcome: int) -> bool:
        """Whether the wait is over; then the ticket owns what it was granted."""
        if outcome == decisions.NOTHING:
            return False
        if outcome == decisions.NOT_YOURS:
            ticket.state = TicketState.CANCELLED
            return True
        self._leave(ticket)
        if outcome == decisions.GOT:
            ticket.state = TicketState.SERVED
        elif outcome == decisions.CLOSED:
            ticket.state = TicketState.CLOSED
        else:
            ticket.state = TicketState.TOO_MANY
        return True

    def _leave(self, ticket: Ticket) -> None:
        place, ticket.place = ticket.place, -1
        self._waiters.pop(place, None)
        had = len(ticket.elements)
        count = self._tx.leave(place, ticket.blank)
        ticket.elements[had:] = ticket.blank[:count]
        del ticket.blank[:count]

    def cancel(self, ticket: Ticket) -> None:
        """Leave the line, and return what the ticket owns. May be repeated."""
        if ticket.place >= 0:
            self._leave(ticket)
        if ticket.state in (TicketState.NEW, TicketState.WAITING):
            ticket.state = TicketState.CANCELLED
        while ticket.elements:
            self._tx.give(ticket.elements[-1])
            ticket.elements.pop()

    def check_out(self, ticket: Ticket) -> list[Handle]:
        """From now on the user's: the ticket owns them no more."""
        elements, ticket.elements = ticket.elements, []
        return elements

    def take(self) -> Handle | None:
        """One, or None: `try_take` for one, without a ticket. Raises PoolClosed, PoolCorrupt, ClientGone."""
        return self._tx.take()

    def give(self, elements: Iterable[Handle]) -> int:
        """Return them, all or none. How many were kept as spares.

        Raises DoubleFree, ForeignElement, PoolCorrupt, ClientGone.
        """
        handles: Sequence[Handle] = list(elements)
        if len(handles) > 1:
            if len({id(handle) for handle in handles}) < len(handles):
                raise ForeignElement(f"{self.path}: one element is named twice")
            for handle in handles:
                self._tx.check(handle)
        return sum(self._tx.give(handle) == decisions.KEPT for handle in handles)

    # -- the promise

    def resize(self, reserve: int, keep: int | None = None, limit: int | None = None) -> Snapshot:
        """New targets, all at one moment; then surplus memory goes back to the system and what lacks is fetched.

        limit: None: as it is. `unfunded` of the result tells what there was no memory for. Raises ValueError, PoolClosed.
        """
        limit = self.snapshot().limit if limit is None else limit
        self._tx.retarget(*self._targets(self.layout, reserve, keep, limit))
        self._tx.shrink()
        self._tx.grow()
        return self.snapshot()

    def change(self, reserve: int | None, keep: int | None, limit: int | None, *, expect: int | None = None) -> Snapshot:
        """The same, where what is None stays as it is: a keep that nobody has given follows at twice the reserve.

        expect: the reserve that there must be at the moment of the change; else UnexpectedReserveError.
        """
        wanted = reserve
        while True:
            word, old_reserve, old_keep, old_limit, follows = self._tx.targets()
            if expect is not None and old_reserve != expect:
                now = f"the reserve is {old_reserve} and not {expect}, as expected"
                raise UnexpectedReserveError(f"{messages.called(self.name)}: {now}; nothing has changed")
            reserve = old_reserve if wanted is None else wanted
            limit_now = old_limit if limit is None else limit
            keep_now = keep if keep is not None else 2 * reserve if follows else max(old_keep, reserve)
            self._targets(self.layout, reserve, min(keep_now, limit_now), limit_now)
            if self._tx.exchange(word, reserve, keep_now, limit_now, follows and keep is None):
                break
        self._tx.ring_all()
        self._tx.shrink()
        self._tx.grow()
        return self.snapshot()

    def refill(self) -> Snapshot:
        """Fetch what the reserve and the line lack, as far as there is memory."""
        self._tx.grow()
        return self.snapshot()

    def close(self) -> None:
        """For all processes: nobody takes any more, who waits is told, what is spare or comes back goes to the system."""
        self._tx.close()

    def end_waiting(self) -> None:
        """This process ends: its tickets in the line are given up."""
        for ticket in list(self._waiters.values()):
            self.cancel(ticket)

    # -- what is so

    def snapshot(self) -> Snapshot:
        """Every number of one moment."""
        return Snapshot(*self._tx.look())

    def queue(self) -> list[Waiting]:
        """Who waits, in order, over all processes."""
        return [
            Waiting(client, self._tx.look_at_client(client)[2], wanted, granted)
            for client, wanted, granted, _place in self._tx.queue()
        ]

    def clients(self) -> list[ClientInfo]:
        """The processes that use the pool, those that were killed and not reaped yet among them."""
        found = []
        for number in range(self.layout.clients):
            state, epoch, pid, *_ = self._tx.look_at_client(number)
            if state != words.ABSENT:
                found.append(ClientInfo(number, epoch, pid, state == words.DEAD))
        return found

    def living(self) -> int:
        """How many processes use the pool, without those that were killed. For who does not use it."""
        found = (self._tx.look_at_client(number) for number in range(self.layout.clients))
        return sum(
            state != words.ABSENT and (locks.is_locked(self._file, number) or self._maps(number, locks.Process(*record)))
            for number, (state, _epoch, *record) in enumerate(found)
        )

    def held(self) -> dict[int, int]:
        """How many elements each client holds, by its number. Raises as `verify`."""
        found = self._words()
        held: dict[int, int] = {}
        for slot in found.slots_in(words.LEASED):
            client = words.client_of(found.slot(slot))
            held[client] = held.get(client, 0) + 1
        return held

    def offered(self) -> dict[int, tuple[int, int]]:
        """Of each client, by its number: how many it has offered to anybody, and how many are addressed to it.

        Raises as `verify`.
        """
        found = self._words()
        offered: dict[int, tuple[int, int]] = {}
        for state, by, to in ((words.OFFERED, 1, 0), (words.ADDRESSED, 0, 1)):
            for slot in found.slots_in(state):
                client = words.client_of(found.slot(slot))
                before = offered.get(client, (0, 0))
                offered[client] = before[0] + by, before[1] + to
        return offered

    def verify(self) -> list[str]:
        """Whether the shared words agree with each other: what does not, in words. [] is as it should be.

        Raises PoolCorrupt where they cannot even be read; TimeoutError where others left no quiet moment to read them all.
        """
        return audit(self._words())

    def _words(self) -> Words:
        """All words of one moment."""
        copied = self._tx.copy()
        if copied is None:
            raise TimeoutError(f"{self.path}: others change the pool faster than all of it can be read; try again")
        gate, _, values = copied
        numbers = struct.unpack(f"<{len(values) // 8}Q", values)
        return Words(self.layout.slots, self.layout.places, self.layout.clients, gate, numbers)

    # -- the dead

    def reap_dead(self) -> Reclaimed:
        """Return what killed processes had. Which they were. Any process may do so at any time, and several at once."""
        reaped = []
        self._tx.revived()
        with self._reaping:
            sees_locks = self._lock >= 0 and self._see_locks()
            for number in range(self.layout.clients):
                if self._lock < 0:
                    break  # this process has left
                state, epoch, *record = self._tx.look_at_client(number)
                if number == self._tx.me or state == words.ABSENT:
                    continue
                if state != words.DEAD and not self._is_gone(number, locks.Process(*record), sees_locks):
                    continue
                killed = had(self._tx, number, epoch, record[0])
                if self._tx.reap(number, epoch):
                    reaped.append(killed)
        if reaped:
            self._go_on_filling()
        return Reclaimed(reaped)

    def _go_on_filling(self) -> None:
        """Others have left to a killed process what it was making: it is made here, as far as there is memory."""
        while self._tx.grow_by_one(decisions.BEYOND_OUT):
            pass

    def _is_gone(self, number: int, process: locks.Process, sees_locks: bool) -> bool:
        knows_process = self._mapped_as is not None and process.pid_namespace == self._here.pid_namespace != 0
        if not (sees_locks or knows_process):
            return False
        return not (sees_locks and locks.is_locked(self._lock, number)) and not self._maps(number, process)

    def _maps(self, number: int, process: locks.Process) -> bool:
        """Whether this client's process, which holds no lock, still maps the file.

        A program begun by `exec` has the number and the start of the one before it. If it attaches, the process maps the
        file, and yet the client of the program before is dead. So of this very process its own clients count, and where
        each of its mappings is one of theirs, no other client of its can be alive. (Where one is not, a thread may be in
        the middle of getting memory, or of giving it back.)
        """
        if self._mapped_as is None or process != self._here:
            return locks.still_maps(process, self._mapped_as, self._here)
        mine = [it for it in _engines_here() if it._pid == self._pid and it._identity == self._identity and it._lock >= 0]
        bases = [it._tx.base for it in mine]
        size = self.layout.file_bytes
        return any(it._tx.me == number for it in mine) or not all(
            any(base <= begin and end <= base + size for base in bases) for begin, end in locks.spans_of(self._mapped_as)
        )

    # -- wakers

    def _listen(self) -> None:
        """One thread for all tickets with a waker. It ends when there are none."""
        if self._listener is None or not self._listener.is_alive():
            self._listener = native.thread(_wake_waiters, f"mempool-{self.name}", weakref.ref(self), self._tx)
            self._listener.start()


def _wake_waiters(reference: weakref.ref[SharedEngine], tx: Transaction) -> None:
    said = 0
    while True:
        engine = reference()
        if engine is None or not engine._waiters or engine._pid != os.getpid():
            return
        try:
            for ticket in list(engine._waiters.values()):
                if ticket.waker is not None and tx.look_at_place(ticket.place) != decisions.NOTHING:
                    ticket.waker.wake()
            engine.reap_dead()
        except (PoolCorrupt, ClientGone):
            for ticket in list(engine._waiters.values()):
                if ticket.waker is not None:
                    ticket.waker.wake()  # it will meet the same by itself
            return
        del engine
        said = tx.wait_for_bell(said, SLICE)


def _open_of_this_boot(path: Path) -> tuple[int, Header]:
    """What was left by an earlier boot is made anew first: its words may be of no one moment, and its memory no promise."""
    file, header = open_file(path)
    if header.is_of_an_earlier_boot():
        os.close(file)
        make_anew_after_boot(path)
        file, header = open_file(path)
    return file, header


class _Revive:
    """What a client calls first in a child: holds its engine weakly, because the engine holds the client."""

    def __init__(self, engine: SharedEngine) -> None:
        self.engine = weakref.ref(engine)

    def __call__(self) -> None:
        engine = self.engine()
        if engine is not None:
            engine.after_fork()


def _is_still(descriptor: int, identity: tuple[int, int]) -> bool:
    """Whether it is of that file still: a daemon closes all that it does not know, and the number is soon a stranger's."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == identity


def _detach(tx: Transaction, descriptors: list[int], identity: tuple[int, int]) -> None:
    """The end of an engine: by `detach`, when it is dropped, or when the interpreter ends."""
    if tx.out and native.has_other_threads():
        # The interpreter ends, and a daemon thread may be in the midst of `recv_into` still: what it writes to shall not be
        # another's by now. The end of the process returns it. See test_what_a_daemon_thread_has_is_its_own_to_the_end.
        return
    if tx.is_of_this_process():
        with contextlib.suppress(PoolCorrupt, ClientGone):
            tx.detach()
        others = {number for it in _engines_here() if it._tx is not tx for number in (it._file, it._lock)}
        for descriptor in descriptors:
            if descriptor not in others and _is_still(descriptor, identity):
                locks.unlock_all(descriptor)
                os.close(descriptor)


def _close_inherited() -> None:
    for engine in _engines_here():
        engine._drop_inherited()


os.register_at_fork(after_in_child=_close_inherited)
