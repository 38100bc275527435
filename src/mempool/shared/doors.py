"""Doors: an event loop reads a socket of its own: whoever serves one of its tasks tells the loop, with no thread between.

A door is a number, which stands beside a place in the line, and a datagram socket that is named after it (system.h). A
datagram says which place was served. It is a hint like every bell: where a door cannot be had, or is shut to another process
(a network namespace of its own), the thread that looks around for this process is told instead, and in time finds out by
itself.

One door for each loop, and it stays open as long as the loop. It is opened in the loop's thread, by a task that lines up.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import weakref
from typing import TYPE_CHECKING

from mempool.shared._engine import answer

if TYPE_CHECKING:
    from mempool.shared._engine import Transaction
    from mempool.shared.ticket import Ticket

#: See MP_FIRST_DOOR in system.h.
FIRST = 2


class _Socket:
    """A descriptor, closed with the last reference to it unless it is a stranger's by now: see mp_descriptor, system.h."""

    number: int = -1
    _inode: int | None = None

    def __init__(self, number: int) -> None:
        # First: whatever is raised after it, `__del__` closes the descriptor. See
        # test_a_door_that_fails_while_its_socket_is_looked_at_leaves_none_open.
        self.number = number
        self.pid: int = os.getpid()
        self._inode = os.fstat(number).st_ino

    def close(self) -> None:
        """May be done again."""
        number, self.number = self.number, -1
        with contextlib.suppress(OSError):
            if number >= 0 and (self._inode is None or os.fstat(number).st_ino == self._inode):
                os.close(number)

    __del__ = close


class Door:
    """What one loop reads, until this object is gone."""

    def __init__(self, tx: Transaction, loop: asyncio.AbstractEventLoop, number: int) -> None:
        """Raises OSError where there is no socket to be had; NotImplementedError where this loop reads none."""
        descriptor = tx.open_door(number)
        if descriptor < 0:
            raise OSError("no socket to be had")
        self.number = number
        self.served: dict[int, Ticket] = {}  # who stands at which place
        self._socket: _Socket = _Socket(descriptor)
        # No method `__del__`: of a door in a cycle of garbage, the collector may end the socket first, and clears the weak
        # reference to the loop, though the loop is alive. The loop would read on at a number that is soon another's.
        # And before it reads: an interrupt between the two would leave it so as well.
        weakref.finalize(self, _leave, weakref.ref(loop), self._socket).atexit = False
        loop.add_reader(descriptor, functools.partial(answer, weakref.ref(self)))

    def expect(self, ticket: Ticket) -> None:
        """Have whoever serves this ticket tell this door.

        Another thread may have seen it served since it lined up. Then it is out of the line, and nobody tells this door.
        """
        ticket.door, ticket.stood = self, ticket.place
        self.served[ticket.stood] = ticket
        if not ticket.stand_at(self.number):
            self.forget(ticket)  # it is served, and another thread has seen it

    def forget(self, ticket: Ticket) -> None:
        """It has left the line. May be done again."""
        if self.served.get(ticket.stood) is ticket:
            del self.served[ticket.stood]


def _leave(reference: weakref.ref[asyncio.AbstractEventLoop], socket: _Socket) -> None:
    """The door is gone: its loop, if that is there, shall read it no longer. In whatever thread."""
    loop = reference()
    # Not in a child of a fork: it has the parent's selector, and would take the parent's reader away.
    if loop is not None and socket.pid == os.getpid() and not loop.is_closed():
        with contextlib.suppress(RuntimeError):  # it is being closed
            loop.call_soon_threadsafe(_shut, loop, socket)


def _shut(loop: asyncio.AbstractEventLoop, descriptor: _Socket) -> None:
    loop.remove_reader(descriptor.number)


class Doors:
    """Those of one process to one pool."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._numbers = itertools.count(FIRST)
        self._doors: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Door | None] = weakref.WeakKeyDictionary()

    def close_inherited(self) -> None:
        """In a child of a fork: it would keep the parent's names, and whoever waited there may be referred to for ever."""
        for door in list(self._doors.values()):
            if door is not None:
                door._socket.close()

    def of(self, loop: asyncio.AbstractEventLoop) -> Door | None:
        """The door of the loop that runs here. None: it can have none."""
        try:
            return self._doors[loop]
        except KeyError:
            pass
        # Not over the loops themselves: that runs in Python, and fails where another thread's loop gets a door meanwhile.
        # See test_two_loops_that_get_their_doors_at_once_do_not_disturb_each_other.
        for reference in self._doors.keyrefs():
            other = reference()
            if other is not None and other.is_closed():
                self._doors.pop(other, None)
        door: Door | None = None
        with contextlib.suppress(OSError, NotImplementedError):
            door = Door(self._tx, loop, next(self._numbers))
        self._doors[loop] = door
        return door
