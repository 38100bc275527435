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


class NoSuchPoolError(click.ClickException):
    """It is not there, or is none."""


@contextmanager
def opened(name: str, *, joining: bool) -> Iterator[SharedEngine]:
    """The pool of this name, as one of its processes or as a bystander."""
    try:
        from mempool.shared.engine import SharedEngine

        path = listing.path_of(name)
        engine = SharedEngine.attach(path) if joining else SharedEngine.observe(path)
    except FileNotFoundError:
        there = ", ".join(listing.names()) or "there is none"
        raise NoSuchPoolError(f"there is no shared pool {name!r} in {listing.folder()}: {there}") from None
    except (ImportError, MemoryError, OSError, PoolError, ValueError) as error:
        raise NoSuchPoolError(str(error)) from error
    try:
        yield engine
    except (PoolError, TimeoutError) as error:
        raise NoSuchPoolError(str(error)) from error
    finally:
        engine.detach()


@click.command(short_help="Look whether a shared pool's words agree.")
@click.argument("name")
def verify(*, name: str) -> int:
    """Look whether all that a shared pool's words say agrees, while its processes go on.

    The status is 0 if it does; 1 if it does not, or there is no such pool.
    """
    with opened(name, joining=False) as engine:
        wrong = engine.verify()
    for line in wrong:
        click.echo(line)
    click.echo(f"{name}: {len(wrong)} do not agree" if wrong else f"{name}: all agrees")
    return 1 if wrong else 0


@click.command(short_help="Return what killed processes held.")
@click.argument("name")
def reap(*, name: str) -> int:
    """Return what killed processes held of a shared pool. Whoever waits for it does so by itself."""
    with opened(name, joining=True) as engine:
        reaped = engine.reaped + engine.reap_dead()
    click.echo(f"{name}: {reaped} killed process{'' if reaped == 1 else 'es'} reaped")
    return 0


@click.command(short_help="Remove a shared pool that nobody uses.")
@click.argument("name")
def rm(*, name: str) -> int:
    """Remove a shared pool that no living process uses: its name and its memory.

    The status is 1 if there is no such pool, or if processes use it.
    """
    with opened(name, joining=True) as engine:
        engine.reap_dead()
        users = [client.pid for client in engine.clients() if client.number != engine.number]
        if users:
            raise NoSuchPoolError(f"{name} is used by {', '.join(f'process {pid}' for pid in users)}; end them first")
        engine.close()  # who attaches in this moment finds it closed, and makes another
        engine.unlink()
    click.echo(f"{name}: removed")
    return 0
