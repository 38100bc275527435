"""`mempool ls`, `why` and `resize`: pools of other processes, seen and steered."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from mempool.cli.tables import HEAD, cells, lines_of
from mempool.sizes import in_words
from mempool.stats import guarantee_of, stats_of
from mempool.watch import NoAnswer, Refused, WatchError, shared_pools
from mempool.watch.outside import PoolView, find, is_meant, snapshot_of
from mempool.watch.reader import Row
from mempool.watch.sources import Here
from mempool.watch.words import sentence, state_of

#: Of what `ls --json` writes: raised whenever a field changes its meaning or goes.
SCHEMA = 1
#: What commands return, beside 0 and 2: nothing found; found, and does not answer.
NOTHING, SILENT = 1, 3


class WatchUsageError(click.ClickException):
    """A directory that is unfit, a pool that is not there."""

    exit_code = NOTHING


@click.command(name="ls", short_help="List the pools of this user's processes.")
@click.option("--json", "as_json", is_flag=True, help="Write them as JSON.")
def list_pools(*, as_json: bool) -> int:
    """List the pools of all processes of this user that show them: those run with MEMPOOL_WATCH=numbers.

    Reads what they have written and asks none of them: a process that hangs or is stopped is listed like any other. The
    status is 0 if there is a pool, else 1.
    """
    here = Here()
    try:
        rows = here.rows()
    except WatchError as error:
        raise WatchUsageError(str(error)) from None
    if as_json:
        click.echo(json.dumps(as_document(here, rows), indent=2))
    elif rows:
        click.echo("\n".join(lines_of(HEAD, [cells(row) for row in sorted(rows, key=badness)])))
    else:
        click.echo(f"no process shows a pool in {here.reader.directory}; run one with MEMPOOL_WATCH=numbers", err=True)
    return 0 if rows else NOTHING


def badness(row: Row) -> tuple[int, str, str]:
    """Worst first."""
    return state_of(row.figures, row.why)[0], row.pool, row.where


def as_document(here: Here, rows: list[Row]) -> dict[str, Any]:
    """What `ls --json` writes; docs/reference/command-line.md tells its schema."""
    processes = [
        {
            "pid": page.pid,
            "program": page.header.argv0 if page.header is not None else None,
            "version": page.header.version if page.header is not None else None,
            "takes_commands": page.has_socket,
            "pools_without_slot": page.header.without_slot if page.header is not None else 0,
            "unreadable": page.why or None,
        }
        for page in here.pages
    ]
    return {"schema": SCHEMA, "processes": processes, "pools": [_as_entry(row) for row in rows]}


def _as_entry(row: Row) -> dict[str, Any]:
    entry: dict[str, Any] = {"pool": row.pool, "number": row.number, "program": row.process, "process": row.where}
    entry["state"] = state_of(row.figures, row.why)[1]
    if row.figures is None:
        return {**entry, "stats": None, "guarantee": None}
    now = snapshot_of(row.figures)
    return {
        **entry,
        "element_bytes": row.figures.element_bytes or None,
        "stats": stats_of(row.pool, now).as_dict(),
        "guarantee": dataclasses.asdict(guarantee_of(now)),
    }


def rows_for(target: str) -> list[Row]:
    """The rows that `name`, `name@process` or `name#number@process` means."""
    try:
        rows = Here().rows()
    except WatchError as error:
        raise WatchUsageError(str(error)) from None
    return [row for row in rows if is_meant(target, row.pool, row.number, row.where)]


@click.command(short_help="Say why a pool has nothing to give.")
@click.argument("target", metavar="POOL[@PID]")
@click.option("--patience", type=click.FloatRange(0.01, 3600), default=1.0, help="Seconds for an answer.")
def why(*, target: str, patience: float) -> int:
    """Say why a pool has nothing to give: what is promised, who holds what, with what the source failed.

    A process that takes commands (MEMPOOL_WATCH=steer) is asked. One that does not answer, or takes none, is told of from
    its figures. The status is 0; 1 if there is no such pool; 3 if its process takes commands and does not answer.
    """
    rows = rows_for(target)
    if not rows:
        raise WatchUsageError(f"no process shows a pool {target!r}; `mempool ls` lists those that do")
    status = 0
    for row in rows:
        said, is_silent = why_of(row, patience)
        click.echo(f"{row.target}: {said}" if len(rows) > 1 else said)
        status = SILENT if is_silent else status
    return status


def why_of(row: Row, patience: float) -> tuple[str, bool]:
    """What is said of this pool, and whether its process was silent."""
    if row.figures is None:
        return row.why, False
    if row.where == shared_pools.WHERE:
        return shared_pools.why(row.pool), False
    by_figures = f"{row.pool}: {sentence(row.figures)}"
    try:
        pool = find(f"{row.pool}#{row.number}@{row.where}")
        return pool.why(patience=patience), False
    except NoAnswer as error:
        here = Here()
        here.rows()
        if (page := here.page_of(row)) is not None and page.has_socket:
            return f"process {row.where} does not answer ({error}); by its figures: {by_figures}", True
        return f"{by_figures}. (By its figures; with MEMPOOL_WATCH=steer the process would say who holds what.)", False
    except (Refused, WatchError):
        return by_figures, False


@click.command(short_help="Change what a pool of another process promises.")
@click.argument("target", metavar="POOL[@PID]")
@click.option("--reserve", type=click.IntRange(0), help="How many elements it promises.")
@click.option("--keep", type=click.IntRange(0), help="How many spares stay warm.")
@click.option("--limit", type=click.IntRange(0), help="How many may exist at once.")
@click.option("--expect", type=click.IntRange(0), help="Only if the reserve is this: nobody else has steered meanwhile.")
@click.option("--dry-run", is_flag=True, help="Say what it would take, and do nothing.")
@click.option("--patience", type=click.FloatRange(0.01, 3600), default=30.0, help="Seconds for an answer.")
def resize(
    *,
    target: str,
    reserve: int | None,
    keep: int | None,
    limit: int | None,
    expect: int | None,
    dry_run: bool,
    patience: float,
) -> int:
    """Change what a pool promises, live, in a process that takes commands (MEMPOOL_WATCH=steer).

    The status is 0 if it is done; 1 if there is no such pool, or its process refuses; 3 if it does not answer.
    """
    if reserve is None and keep is None and limit is None:
        raise click.UsageError("a resize needs --reserve, --keep or --limit")
    if (shared := shared_name(target)) is not None and not dry_run:
        return resize_shared(shared, reserve, keep, limit, expect)
    try:
        pool = find(target)
    except WatchError as error:
        raise WatchUsageError(str(error)) from None
    before = pool.guarantee().promised
    if dry_run:
        if expect is not None and expect != before:
            raise WatchUsageError(f"{target}: the reserve is {before} and not {expect}, as expected")
        click.echo(forecast(pool, reserve if reserve is not None else before))
        return 0
    try:
        answer = pool.resize(reserve, keep=keep, limit=limit, expect=expect, patience=patience)
    except Refused as error:
        raise WatchUsageError(str(error)) from None
    except NoAnswer as error:
        click.echo(f"mempool: {target}: {error}", err=True)
        return SILENT
    click.echo(
        f"{pool.name}@{pool.pid}: {answer['promised']} promised (was {before}), {answer['spare']} spare"
        + (f", {answer['unfunded']} unfunded: memory ran out" if answer["unfunded"] else "")
    )
    return 0


def shared_name(target: str) -> str | None:
    """The name of the shared pool that is meant; None: it is a pool of one process."""
    name, _, where = target.rpartition("@")
    if where == shared_pools.WHERE:
        return name
    rows = rows_for(target)
    return rows[0].pool if rows and all(row.where == shared_pools.WHERE for row in rows) else None


def resize_shared(name: str, reserve: int | None, keep: int | None, limit: int | None, expect: int | None) -> int:
    """Change what a pool of several processes promises; this one joins it for as long as that takes."""
    try:
        before, now = shared_pools.resize(name, reserve, keep=keep, limit=limit, expect=expect)
    except WatchError as error:
        raise WatchUsageError(str(error)) from None
    click.echo(
        f"{name}@{shared_pools.WHERE}: {now.reserve} promised (was {before}), {now.spare} spare"
        + (f", {now.unfunded} unfunded: memory ran out" if now.unfunded else "")
    )
    return 0


def forecast(pool: PoolView, reserve: int) -> str:
    """What a resize to this reserve would take or give back, by the figures of now."""
    stats = pool.stats()
    said = f"{pool.name}@{pool.pid}: {stats.reserve} promised, {stats.spare} spare, {stats.out} out"
    more = max(0, reserve - stats.spare) - (0 if reserve > stats.reserve else max(0, stats.reserve - stats.spare))
    keep = stats.keep if stats.keep > 2 * stats.reserve else max(reserve, 2 * reserve)
    less = max(0, stats.spare - keep)
    what = f"would make {more}" if reserve > stats.reserve else f"would dispose of {less} now"
    number, sign = (more, "") if reserve > stats.reserve else (less, "-" if less else "")
    if pool.element_bytes is None:
        return f"{said}; a reserve of {reserve} {what} (of what size is not known)"
    return f"{said}; a reserve of {reserve} {what}: {sign}{in_words(number * pool.element_bytes)} of memory"
