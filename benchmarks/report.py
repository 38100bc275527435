"""What is printed: the machine, and the table of ratios with the targets beside them."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from mempool.benchmarks.measure import Row
from rich.console import Console
from rich.table import Table

import mempool

HEADINGS = ("what", "beside", "median", "lowest .. highest", "target", "", "note")
STYLES = {"met": "green", "missed": "bold red", "not measured": "yellow"}


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def machine() -> dict[str, str | int | float]:
    """What the figures depend on. `load` is how many others wanted a core during the last minute."""
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 0,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else -1.0,
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "mempool": mempool.__version__,
        "core": mempool.IMPLEMENTATION,
    }


def in_digits(figure: float | None) -> str:
    """Three digits that count."""
    if figure is None:
        return ""
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.3g}"


def cells(row: Row) -> tuple[str, ...]:
    if row.figure is None:
        return row.what, row.beside, "-", "", "" if row.target is None else str(row.target), row.verdict, row.note
    spread = f"{in_digits(row.lowest)} .. {in_digits(row.highest)}"
    target = "" if row.target is None else f"{row.target} {row.unit}"
    verdict = row.verdict if row.is_steady else f"{row.verdict}, not in every round"
    return row.what, row.beside, f"{in_digits(row.figure)} {row.unit}".strip(), spread, target, verdict, row.note


def print_head() -> None:
    facts = machine()
    print(f"mempool {facts['mempool']}, core: {facts['core']}, {facts['python']}, {facts['system']}")
    print(f"{facts['processor']}, {facts['cores']} cores, load {facts['load']}")
    if facts["core"] != "compiled":
        print("The targets are those of the compiled core; this one is not compiled.")
    if facts["load"] > facts["cores"] / 2:
        print("Others are using this machine: times are noisy, the ratios less so.")


def in_one_line() -> str:
    """For the foot of a picture."""
    facts = machine()
    where = f"{facts['processor']}, {facts['cores']} cores, load {facts['load']}"
    return f"mempool {facts['mempool']} ({facts['core']} core), {facts['python']}, {where}"


def print_group(group: str, rows: Sequence[Row]) -> None:
    table = [cells(row) for row in rows]
    if not sys.stdout.isatty():  # rich would fold the cells to 80 columns
        print_plainly(group, table)
        sys.stdout.flush()  # the next group takes a minute
        return
    shown = Table(*HEADINGS, title=group, title_justify="left")
    for row, line in zip(rows, table, strict=True):
        shown.add_row(*line, style=STYLES.get(row.verdict))
    Console().print(shown)


def print_plainly(group: str, table: Sequence[tuple[str, ...]]) -> None:
    lines = [HEADINGS, *table]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    print(f"\n{group}")
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_verdict(rows: Sequence[Row]) -> None:
    verdicts = [row.verdict for row in rows]
    print(f"\ntargets: {verdicts.count('met')} met, {verdicts.count('missed')} missed", end="")
    print(f", {verdicts.count('not measured')} not measured" if "not measured" in verdicts else "")
    for row in rows:
        if row.verdict in ("missed", "not measured"):
            what, beside, median, *_ = cells(row)
            print(f"  {row.verdict}: {what} : {beside}: {median}, target {row.target}{' ' if row.unit else ''}{row.unit}")
