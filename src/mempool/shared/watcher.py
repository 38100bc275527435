"""A thread that is told by the kernel when another process of a pool ends, while somebody waits here.

Without it a killed process is noticed when a waiter looks around by itself, up to a slice later. It rings the bell of this
process, whose listener then proves and reclaims; it decides nothing. What it cannot see, the slices find: a process of
another pid namespace, one that called exec, one that came since the last look.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import weakref
from pathlib import Path
from typing import Any

from mempool import native
from mempool.shared import words

#: Seconds between two looks at which processes there are.
LOOK_EVERY = 0.2

Client = tuple[int, int]  # its number and epoch


def begin(reference: weakref.ref[Any], listener: object) -> None:
    """Watch for as long as this one is the engine's listener. Does nothing where the kernel has no pidfd."""
    engine = reference()
    if hasattr(os, "pidfd_open") and native.poll is not None and engine is not None:
        native.start_thread(functools.partial(_watch, reference, listener), f"mempool-{engine.name}-watcher")


def _watch(reference: weakref.ref[Any], listener: object) -> None:
    assert native.poll is not None
    poller = native.poll()
    watched: dict[Client, int] = {}  # a pidfd; -1: there is none, or it was told of
    try:
        while True:
            engine = reference()
            if engine is None or engine._listener is not listener:
                return
            _look(engine.client, watched, poller)
            tx = engine._tx
            del engine
            ended = {descriptor for descriptor, _ in poller.poll(int(LOOK_EVERY * 1000))}
            for client, descriptor in watched.items():
                if descriptor in ended:
                    _forget(watched, client, poller)
            if ended:
                tx.ring()
    finally:
        for client in watched:
            _forget(watched, client, poller)


def _look(shared: Any, watched: dict[Client, int], poller: Any) -> None:
    """Watch who has come, and no longer who has gone."""
    there: set[Client] = set()
    for number in range(shared.layout.clients):
        state, epoch, pid, _, namespace = shared._tx.look_at_client(number)
        if state == words.ABSENT or number == shared.number:
            continue
        there.add((number, epoch))
        if (number, epoch) not in watched:
            watched[number, epoch] = -1
            if namespace == shared._here.pid_namespace != 0:
                try:
                    watched[number, epoch] = os.pidfd_open(pid)
                except ProcessLookupError:
                    shared._tx.ring()  # it has ended, maybe since the listener's last look
                except OSError:
                    pass  # no descriptor to be had: the slices find out
                else:
                    poller.register(watched[number, epoch], select.POLLIN)
    for client in watched.keys() - there:
        _forget(watched, client, poller)
        del watched[client]


def _forget(watched: dict[Client, int], client: Client, poller: Any) -> None:
    descriptor, watched[client] = watched[client], -1
    if descriptor >= 0:
        poller.unregister(descriptor)
        if _is_of_a_process(descriptor):
            os.close(descriptor)


def _is_of_a_process(descriptor: int) -> bool:
    """Whether it is a pidfd still: a daemon closes all that it does not know, and the number is soon a stranger's.

    Its inode would not tell: before Linux 6.9 all pidfds have one, with other kinds of files. And nothing is opened for it:
    a process that has as many descriptors as it may would keep this one for ever. See
    test_who_watches_processes_closes_theirs_where_no_descriptor_is_to_be_had.
    """
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith(("anon_inode:[pidfd]", "pidfd:"))
    return False
