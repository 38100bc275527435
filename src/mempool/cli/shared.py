"""What is done to a pool that several processes share: `mempool verify`, `mempool reap`, `mempool rm`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from mempool.errors import PoolError
from mempool.shared import listing

if TYPE_CHECKING:
    from mempool.shared.engine import SharedEngine
    from mempool.shared.repair import Finding


class NoSuchPoolError(click.ClickException):
    """It is not there, or is none."""


@contextmanager
def opened(name: str) -> Iterator[SharedEngine]:
    """The pool of this name, of whose processes this is one meanwhile."""
    with told(repr(name)):
        from mempool.shared.engine import SharedEngine

        engine = SharedEngine.attach(listing.path_of(name))
        try:
            yield engine
        finally:
            engine.detach()


@contextmanager
def told(pool: str) -> Iterator[None]:
    """What can go wrong with this pool, as one line."""
    try:
        yield
    except FileNotFoundError:
        there = ", ".join(listing.names()) or "there is none"
        raise NoSuchPoolError(f"there is no shared pool {pool} in {listing.folder()}: {there}") from None
    except (ImportError, MemoryError, OSError, PoolError, ValueError) as error:
        raise NoSuchPoolError(str(error)) from error


@click.command(short_help="Check a shared pool's words, or --repair them.")
@click.argument("name")
@click.option("--repair", "mends", is_flag=True, help="Mend it, where nobody uses it; return what killed processes held.")
def verify(*, name: str, mends: bool) -> int:
    """Look whether all that a shared pool's words say agrees, while its processes go on; and what a repair would do.

    With --repair, what killed processes held is returned. Words that do not agree are made anew, with the targets that they
    have: only where no process uses the pool, because nobody knows what one that does is about to write.

    The status is 0 if all agrees (in the end); 1 if it does not, or there is no such pool.
    """
    with told(f"{listing.folder()}/{name}"):
        from mempool.shared import repair

        path = listing.path_of(name)
        found = repair.examine(path)
        for line in found.wrong:
            click.echo(line)
        if found.wrong:
            click.echo(f"{name}: {len(found.wrong)} do not agree")
        if not mends:
            for line in _would_do(name, found):
                click.echo(line)
        elif found.wrong:
            engine = repair.make_anew(path)
            now = engine.snapshot()
            engine.detach()
            click.echo(f"{name}: made anew, with {_targets(found)}; {now.spare} spare, 0 out")
            found = repair.examine(path)
        elif found.killed:
            reaped = repair.reap(path)
            click.echo(f"{name}: {reaped} killed process{'' if reaped == 1 else 'es'} reaped")
            found = repair.examine(path)
    if not found.wrong:
        click.echo(f"{name}: all agrees")
    return 1 if found.wrong else 0


def _targets(found: Finding) -> str:
    reserve, keep, limit = found.targets
    return f"reserve {reserve}, keep {keep}, limit {limit}{'' if found.targets_are_kept else ', because its own cannot be'}"


def _would_do(name: str, found: Finding) -> Iterator[str]:
    if found.wrong:
        yield f"{name}: --repair would make its words anew, with {_targets(found)}, and nothing out"
        if found.users:
            who = ", ".join(f"process {pid}" for pid in found.users)
            yield f"{name}: but not while it is used by {who}: end them first"
    elif found.killed:
        who = ", ".join(f"process {pid}" for pid in found.killed)
        yield f"{name}: --repair would return what was left behind by {who}, which was killed; so does whoever waits"


@click.command(short_help="Return what killed processes held.")
@click.argument("name")
def reap(*, name: str) -> int:
    """Return what killed processes held of a shared pool. Whoever waits for it does so by itself."""
    with opened(name) as engine:
        reaped = engine.reaped + engine.reap_dead()
    click.echo(f"{name}: {reaped} killed process{'' if reaped == 1 else 'es'} reaped")
    return 0


@click.command(short_help="Remove a shared pool that nobody uses.")
@click.argument("name")
def rm(*, name: str) -> int:
    """Remove a shared pool that no living process uses: its name and its memory.

    The status is 1 if there is no such pool, or if processes use it.
    """
    with opened(name) as engine:
        engine.reap_dead()
        users = [client.pid for client in engine.clients() if client.number != engine.number]
        if users:
            raise NoSuchPoolError(f"{name} is used by {', '.join(f'process {pid}' for pid in users)}; end them first")
        engine.close()  # who attaches in this moment finds it closed, and makes another
        engine.unlink()
    click.echo(f"{name}: removed")
    return 0
