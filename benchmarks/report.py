"""What is printed: the machine, the verdict, and the tables of ratios with the targets beside them."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mempool.benchmarks.measure import Row
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import mempool

HEADINGS = ("what", "beside", "median", "lowest .. highest", "target", "", "note")
#: Columns. In a narrower terminal the seven columns of a table would be words of three letters.
TABLE_WIDTH = 110
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


def console_of() -> Console:
    """Folds lines between words on a terminal, and not at all elsewhere."""
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False, markup=False)


def print_head() -> None:
    facts = machine()
    console = console_of()
    console.print(f"mempool {facts['mempool']}, core: {facts['core']}, {facts['python']}, {facts['system']}")
    console.print(f"{facts['processor']}, {facts['cores']} cores, load {facts['load']}")
    if facts["core"] != "compiled":
        console.print("The targets are those of the compiled core; this one is not compiled.")
    if facts["load"] > facts["cores"] / 2:
        console.print("Others are using this machine: times are noisy, the ratios less so.")


def in_one_line() -> str:
    """For the foot of a picture."""
    facts = machine()
    where = f"{facts['processor']}, {facts['cores']} cores, load {facts['load']}"
    return f"mempool {facts['mempool']} ({facts['core']} core), {facts['python']}, {where}"


def print_report(rows: Mapping[str, Sequence[Row]]) -> None:
    """The verdict in a few lines, then a table for each group."""
    console = console_of()
    console.print()
    for line, style in verdict([row for measured in rows.values() for row in measured]):
        console.print(line, style=style)
    for group, measured in rows.items():
        print_group(console, group, measured)


def verdict(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Lines with their colours: how many targets are met, and which are not."""
    verdicts = [row.verdict for row in rows]
    bad = {word: verdicts.count(word) for word in ("missed", "not measured") if word in verdicts}
    others = "".join(f", {number} {word}" for word, number in bad.items())
    yield f"targets: {verdicts.count('met')} met{others or ', 0 missed'}", STYLES["missed" if "missed" in bad else "met"]
    for row in rows:
        if row.verdict == "missed":
            what, beside, median, *_ = cells(row)
            yield f"  missed: {what} : {beside}: {median}, target {f'{row.target} {row.unit}'.strip()}", STYLES["missed"]
    absent = ", ".join(dict.fromkeys(row.what for row in rows if row.verdict == "not measured"))
    if absent:
        yield f"  not measured (the tables say why): {absent}", STYLES["not measured"]


def print_group(console: Console, group: str, rows: Sequence[Row]) -> None:
    """A table where there is room for one, else a few lines for each row."""
    table = [cells(row) for row in rows]
    if not console.is_terminal:  # rich would fold the cells to 80 columns
        print_plainly(group, table)
    elif console.width < TABLE_WIDTH:
        console.print(f"\n{group}", style="bold")
        for row, (what, beside, median, spread, target, said, note) in zip(rows, table, strict=True):
            console.print(f"{what} : {beside}", style="bold")
            figures = f"{median} ({spread})" if spread else median
            wanted = f"; target {target}: {said}" if target else ""
            console.print(Padding(Text(figures + wanted, STYLES.get(row.verdict, "")), (0, 2)))
            if note:
                console.print(Padding(Text(note, "dim"), (0, 2)))
    else:
        shown = Table(*HEADINGS, title=group, title_justify="left")
        for row, line in zip(rows, table, strict=True):
            shown.add_row(*map(Text, line), style=STYLES.get(row.verdict))  # Text: a note with [brackets] is no markup
        console.print(shown)


def print_plainly(group: str, table: Sequence[tuple[str, ...]]) -> None:
    lines = [HEADINGS, *table]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    print(f"\n{group}")
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
