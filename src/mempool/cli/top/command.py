"""The command `mempool top`: a table, or the live screen in a small process of its own."""

from __future__ import annotations

import os
import sys

import click

from mempool.cli.fleet import follow
from mempool.cli.tables import HEAD, cells, lines_of
from mempool.cli.top import program
from mempool.cli.watching import badness
from mempool.watch import WatchError
from mempool.watch.sources import Here, RowSource


@click.command(short_help="Show the pools of this machine, live.")
@click.option("--interval", type=click.FloatRange(0.1, 60), default=1.0, help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="Write a table and end; so it does where it is piped.")
@click.option("--fleet", metavar="ADDRESS", help="The pools on the workers of this Dask scheduler, as tcp://farm:8786.")
def top(*, interval: float, once: bool, fleet: str | None) -> int:
    """Show the pools of all processes of this user that show them (MEMPOOL_WATCH=numbers), live, the worst first.

    Keys: up and down select; / filters; s sorts by state, line, allocs or name; enter asks why; r resizes, where the process
    takes commands; p pauses; q quits. The status is 0; with --once, 1 if there is no pool.

    With --fleet a row per pool and worker, as their last heartbeats say, without keys but Ctrl-C.
    """
    once = once or not (sys.stdin.isatty() and sys.stdout.isatty())
    if fleet is not None:
        return follow(fleet, interval, once=once)
    if once:
        return table(Here())
    # In the place of this process: one that has loaded neither the pools nor click takes a third of the memory.
    command = [sys.executable, "-I", "-S", program.__file__, str(interval)]
    sys.stdout.flush()
    os.execv(sys.executable, command)
    raise AssertionError("execv returns to nobody")  # pragma: no cover - for the type checker


def table(source: RowSource) -> int:
    """The rows of this moment, for a pipe."""
    try:
        rows = source.rows()
    except WatchError as error:
        raise click.ClickException(str(error)) from None
    click.echo("\n".join(lines_of(HEAD, [cells(row) for row in sorted(rows, key=badness)])))
    return 0 if rows else 1
