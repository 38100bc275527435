"""`mempool fleet`: the pools of a Dask cluster, a row per pool and worker; and a resize of one of them on all workers."""

from __future__ import annotations

import json
import logging
import time
import warnings
from typing import Any

import click

#: Seconds to reach the scheduler.
CONNECT_SECONDS = 10


@click.command(short_help="List and resize the pools of a Dask cluster.")
@click.argument("scheduler", metavar="ADDRESS")
@click.argument("pool", required=False)
@click.option("--reserve", type=click.IntRange(0), help="How many elements each worker promises from now on.")
@click.option("--limit", type=click.IntRange(0), help="How many may exist at once on each worker.")
@click.option("--keep", type=click.IntRange(0), help="How many spares stay warm on each worker.")
@click.option("--remove", is_flag=True, help="Close the pool on all workers.")
@click.option("--wait", type=click.FloatRange(0), default=0.0, metavar="SECONDS", help="Until all workers have it.")
@click.option("--json", "as_json", is_flag=True, help="Write what there is as JSON.")
def fleet(
    *,
    scheduler: str,
    pool: str | None,
    reserve: int | None,
    limit: int | None,
    keep: int | None,
    remove: bool,
    wait: float,
    as_json: bool,
) -> int:
    """List the pools on the workers of the Dask scheduler at ADDRESS, like tcp://farm:8786. With POOL and targets: resize.

    With --remove: close that pool on all of them.

    The figures are those of the last heartbeats. The status is 0 if each worker has the latest revision and covers its
    promise, 1 if one has not, or if there is no such scheduler.
    """
    given: dict[str, Any] = {"reserve": reserve, "limit": limit, "keep": keep}
    given = {what: number for what, number in given.items() if number is not None}
    if (given or remove) and pool is None:
        options = [*given, *(["remove"] if remove else [])]
        raise click.UsageError(f"say which pool gets --{', --'.join(options)}: mempool fleet {scheduler} POOL ...")
    if given and remove:
        raise click.UsageError(f"--remove goes without --{', --'.join(given)}")
    client, there = connect(scheduler)
    with client:
        try:
            if pool is not None and remove:
                return _tell(there.remove(pool), wait)
            if pool is not None and given:
                return _tell(there[pool].resize(**given), wait)
            return _show(there, pool, as_json=as_json)
        except (LookupError, ValueError) as error:
            raise click.ClickException(str(error.args[0])) from None


def connect(scheduler: str) -> tuple[Any, Any]:
    """A client of the scheduler, to be closed, and the fleet there. Raises ClickException, which says why not."""
    try:
        import distributed

        from mempool.fleet.dask import Fleet
    except ModuleNotFoundError as missing:
        raise click.ClickException(f"this needs {missing.name}: pip install distributed") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")  # distributed's, about itself
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"no scheduler answers at {scheduler}: {error}") from None
    return client, Fleet(client)


def follow(scheduler: str, interval: float, *, once: bool) -> int:
    """`mempool top --fleet`: the table again and again, until an interrupt; or once."""
    client, there = connect(scheduler)
    with client:
        if once:
            return _show(there, None, as_json=False)
        try:
            while True:
                table = str(there.stats())
                # Home, then each line over the old one, then clear what is below: nothing flickers.
                click.echo("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in table.splitlines()) + "\x1b[J", nl=False)
                time.sleep(interval)
        except KeyboardInterrupt:
            return 0


def _tell(answer: Any, wait: float) -> int:
    if wait and not answer.is_applied:
        try:
            answer = answer.wait(timeout=wait)
        except TimeoutError:
            answer = answer.now()
    click.echo(str(answer))
    for who, why in answer.reasons().items():
        click.echo(f"{who}: {why}")
    return 0 if answer.is_applied else 1


def _show(there: Any, pool: str | None, *, as_json: bool) -> int:
    stats = there.stats()
    if pool is not None and pool not in stats.pools:
        raise LookupError(f"the fleet has no pool {pool!r}; it has {', '.join(map(repr, stats.pools)) or 'none'}")
    chosen = type(stats)({name: answer for name, answer in stats.pools.items() if pool in {None, name}}, stats.faults)
    if as_json:
        click.echo(json.dumps(as_document(chosen), indent=2))
    elif chosen.pools:
        click.echo(str(chosen))
    else:
        click.echo("no pool of a fleet there; Fleet(client).create makes one", err=True)
    return 0 if chosen.pools and all(answer.is_applied for answer in chosen.pools.values()) else 1


def as_document(stats: Any) -> dict[str, Any]:
    """What `--json` writes: by pool, its revision, and by worker what its last heartbeat says."""
    pools = {}
    for name, answer in stats.pools.items():
        workers = {}
        for worker, standing in answer.nodes.items():
            r = standing.report
            figures = (
                {} if r is None else {f: getattr(r, f) for f in ("reserve", "limit", "spare", "out", "waiting", "unfunded")}
            )
            workers[worker] = {"outcome": str(standing.outcome), "detail": standing.detail, **figures}
        pools[name] = {"revision": answer.revision, "workers": workers}
    return {"schema": 1, "pools": pools, "faults": dict(stats.faults)}
