"""`mempool bench`: measure mempool beside everything else a user could pick."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import click

from mempool.cli.kinds import check_writable

PLOT_KINDS = (".svg", ".png")


@click.command(short_help="Measure mempool beside what else there is.")
@click.argument("groups", nargs=-1, metavar="[GROUP]...")
@click.option("--json", "figures", metavar="FILE", type=click.Path(path_type=Path), help="Write the figures there as well.")
@click.option(
    "--plot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Draw them, as .svg or .png; {group} in the name: a file per group.",
)
@click.option("--quick", is_flag=True, help="Fewer elements, shorter runs: half a minute instead of minutes.")
def bench(*, groups: tuple[str, ...], figures: Path | None, plot: Path | None, quick: bool) -> None:
    """Measure mempool beside everything else a user could pick: a verdict in a few lines, then tables of ratios.

    The groups, all by default:
    uncontended, running_out, asynchronous, contended, resize, memory, growth, failure, shared, watch, fleet, pressure.
    Each is one file of mempool.benchmarks, short enough to be read and doubted. A peer that is not installed is named as
    missing; pip install ".[bench]" in a clone gets most of them. A target that is missed is printed as missed.
    """
    benchmarks = load("mempool.benchmarks")
    report = load("mempool.benchmarks.report")
    unknown = [group for group in groups if group not in benchmarks.GROUPS]
    if unknown:
        raise click.UsageError(f"no group {', '.join(unknown)}; there are {', '.join(benchmarks.GROUPS)}")
    chosen = tuple(dict.fromkeys(groups or benchmarks.GROUPS))
    if figures is not None:
        check_writable(figures, "--json")
    if plot is not None:
        check_plot(plot)
    report.print_head()
    rows: dict[str, list[Any]] = {}
    try:
        for group in chosen:
            click.echo(f"measuring: {group}")
            rows[group] = list(benchmarks.run(group, quick=quick))
    finally:  # minutes were spent on the groups before one that was interrupted
        keep(rows, report, figures, plot, quick=quick)


def keep(rows: dict[str, list[Any]], report: Any, figures: Path | None, plot: Path | None, *, quick: bool) -> None:
    """The verdict, the tables, and the files that were asked for."""
    every = [row for measured in rows.values() for row in measured]
    report.print_report(rows)
    if figures is not None:
        written = [dataclasses.asdict(row) | {"verdict": row.verdict, "is_steady": row.is_steady} for row in every]
        head = {"machine": report.machine(), "quick": quick}
        figures.write_text(json.dumps(head | {"rows": written}, indent=2) + "\n", "utf-8")
    if plot is not None:
        for file in load("mempool.benchmarks.plots").draw(rows, plot, report.in_one_line()):
            click.echo(f"drawn: {file}")


def load(module: str) -> Any:
    """A module of the benchmarks: they lie outside of src, so a tree that was never installed has none."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name not in ("mempool.benchmarks", "matplotlib"):
            raise
        way = "pip install matplotlib" if missing.name == "matplotlib" else "in a clone, pip install . or make bench"
        raise click.ClickException(f"there is no {missing.name} here: {way}") from None


def check_plot(plot: Path) -> None:
    """Before minutes of measuring, not after."""
    if plot.suffix not in PLOT_KINDS:
        raise click.BadParameter(f"{plot} ends in neither {' nor '.join(PLOT_KINDS)}", param_hint="--plot")
    check_writable(plot, "--plot")
    load("mempool.benchmarks.plots")
