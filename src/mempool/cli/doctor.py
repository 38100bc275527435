"""`mempool doctor`: what this machine can guarantee, asked for real."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mempool.cli import kinds
from mempool.cli.machine import Machine, Trial, facts, look, trials
from mempool.sizes import in_words
from mempool.sources.levels import LEVELS


@click.command()
@click.option(
    "--level",
    type=click.Choice(LEVELS),
    default="resident",
    help="What you need: the status tells whether it can be had.",
)
@click.option(
    "--size",
    metavar="SIZE",
    callback=kinds.size(at_least=1),
    default="1 MiB",
    help="How much to ask for, of each kind.",
)
@click.option("--json", "figures", metavar="FILE", help="Write all of it to this file; - is the standard output.")
def doctor(*, level: str, size: int, figures: str | None) -> int:
    """Say what this machine can guarantee.

    Shows limits and settings, then asks for memory of each level for real: takes it, writes it whole, verifies it, and
    says the way out where it cannot be had.

    The status is 0 if the level that you need can be had, 1 if not, 2 for bad arguments.
    """
    kinds.check_figures(figures)
    console = Console(stderr=figures == "-", highlight=False)
    machine = look()
    show_machine(console, machine)
    tried = list(trials(size))
    show_trials(console, tried, size)
    held = next(trial.held for trial in tried if trial.what == level)
    strongest = [trial.what for trial in tried if trial.held and trial.what in LEVELS][-1:]
    console.print(
        Text(
            f"{in_words(size)} at level {level} {'can' if held else 'CANNOT'} be had; "
            f"the strongest that can is {strongest[0] if strongest else 'none'}.",
            "bold green" if held else "bold red",
        ),
        soft_wrap=not console.is_terminal,  # for a program that reads it, one line
    )
    report = {"needed": level, "held": held, "size": size, "machine": asdict(machine), "trials": list(map(asdict, tried))}
    kinds.write_figures(report, figures)
    return 0 if held else 1


def show_machine(console: Console, machine: Machine) -> None:
    """What the system says."""
    table = Table(title="This machine", title_justify="left", box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    table.add_column(overflow="fold", style="dim")
    for row in facts(machine):
        table.add_row(*row)
    console.print(table)


def show_trials(console: Console, tried: list[Trial], size: int) -> None:
    """What it gave."""
    title = f"Asked for {in_words(size)} of each kind"
    table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(overflow="fold")
    for trial in tried:
        verdict = Text("yes", "green") if trial.held else Text("no", "red")
        table.add_row(trial.what, verdict, f"{trial.seconds * 1e3:.2f} ms", trial.said)
    console.print()
    console.print(table)
    console.print()
