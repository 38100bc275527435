"""The pictures: one panel or two per group, drawn from the rows that were printed. Needs matplotlib."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter
from mempool.benchmarks.measure import Point, Row, in_words

OURS, THEIRS = "#0b6e4f", "#8a8d91"
#: Ours are solid and dark, theirs are dashed.
OUR_COLOURS, THEIR_COLOURS = ("#0b6e4f", "#30638e", "#5f4b8b"), ("#d1495b", "#e09f3e", "#8a8d91")
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "both",
    "grid.alpha": 0.25,
    "svg.hashsalt": "mempool",  # the same figures give the same file
    "svg.fonttype": "none",  # text stays text
    "figure.facecolor": "white",
}
#: Inches, which is 355 pixels: as wide as the text on a telephone, so that letters of nine points are not shrunk there.
WIDTH = 3.7

Points = Sequence[Point]


def panels(rows: Sequence[Row]) -> dict[str, list[Point]]:
    """The points by panel, in the order in which they were measured."""
    found: dict[str, list[Point]] = {}
    for row in rows:
        if row.point is not None:
            found.setdefault(row.point.panel, []).append(row.point)
    return found


def bars(axes: Axes, points: Points, *, ours: Callable[[str], bool], words: Callable[[float], str]) -> None:
    """One bar per series, the first on top, each with its figure."""
    names = [point.series for point in points]
    values = [point.y for point in points]
    drawn = axes.barh(names, values, color=[OURS if ours(name) else THEIRS for name in names], height=0.7)
    axes.bar_label(drawn, [words(value) for value in values], padding=3)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def curves(axes: Axes, points: Points, *, ours: Callable[[str], bool]) -> None:
    """One line per series."""
    series: dict[str, list[Point]] = {}
    for point in points:
        series.setdefault(point.series, []).append(point)
    our_colours, their_colours = itertools.cycle(OUR_COLOURS), itertools.cycle(THEIR_COLOURS)
    for name, line in series.items():
        colour, dash = (next(our_colours), "-") if ours(name) else (next(their_colours), "--")
        axes.plot([p.x for p in line], [p.y for p in line], dash, marker="o", markersize=3.5, color=colour, label=name)
    # Above the panel, where it hides no curve.
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=1)


def is_pool(series: str) -> bool:
    return series.startswith("pool")


# -- one function per group


def uncontended(figure: SubFigure, rows: Sequence[Row]) -> None:
    points = {p.series: p for p in panels(rows)[""]}  # a peer that appears twice is drawn once
    shown = [
        p for name, p in points.items() if "track=" not in name and " from the " not in name and "attributes" not in name
    ]
    axes = figure.subplots()
    mine = ("alloc", "with pool", "await alloc", "async with")
    bars(axes, sorted(shown, key=lambda p: p.y), ours=lambda name: name.startswith(mine), words=in_words)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter("s"))
    axes.set_xlabel("taken and given back (log scale)")
    axes.margins(x=0.25)  # room for the figures
    figure.suptitle("Taking an element and giving it back", x=0.02, ha="left", fontsize=10)


def contended(figure: SubFigure, rows: Sequence[Row]) -> None:
    found = panels(rows)
    figure.suptitle("16 threads share 4 elements, each held for 1 ms", x=0.02, ha="left", fontsize=10)
    above, below = figure.subplots(2, 1)
    throughput, longest = found.values()
    bars(above, throughput, ours=is_pool, words=lambda share: f"{share:.2f}")
    above.set_xlim(0, 1.25)
    bars(below, longest, ours=is_pool, words=lambda turns: f"{turns:.3g}")
    below.set_xscale("log")
    below.set_xlim(0.5, max(p.y for p in longest) * 6)
    below.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    for axes, name in zip((above, below), found, strict=True):
        axes.set_xlabel(name + (" (log)" if axes is below else ""))


def resize(figure: SubFigure, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    curves(axes, panels(rows)[""], ours=lambda _name: True)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(EngFormatter("s"))
    axes.set_xlabel("elements made (grow) or disposed of (shrink)")
    axes.set_ylabel("time per element")
    figure.suptitle("What a resize costs", x=0.02, ha="left", fontsize=10)


def memory(figure: SubFigure, rows: Sequence[Row]) -> None:
    axes = figure.subplots()
    points = panels(rows)[""]
    curves(axes, points, ours=is_pool)
    axes.set_xscale("log", base=2)
    sizes = sorted({p.x for p in points})
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("GiB/s, all threads together")
    axes.set_xlabel("MiB of a buffer: taken, written whole, given back;\n4 alive in each thread (2 of 64 MiB)")
    figure.suptitle("Warm buffers beside fresh memory", x=0.02, ha="left", fontsize=10)


def growth(figure: SubFigure, rows: Sequence[Row]) -> None:
    found = panels(rows)
    figure.suptitle("What a call costs as the pool grows", x=0.02, ha="left", fontsize=10)
    for axes, (name, points) in zip(figure.subplots(len(found), 1, squeeze=False)[:, 0], found.items(), strict=True):
        curves(axes, points, ours=lambda series: not series.startswith("asyncio"))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(EngFormatter("s"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(name)
        axes.set_ylabel("per call or pair of calls")


def failure(figure: SubFigure, rows: Sequence[Row]) -> None:
    found = panels(rows)
    figure.suptitle(
        "A source that fails: 8 threads, a reserve of 4,\neach element held for 1 ms", x=0.02, ha="left", fontsize=10
    )
    for axes, (name, points) in zip(figure.subplots(len(found), 1, squeeze=False)[:, 0], found.items(), strict=True):
        curves(axes, points, ours=is_pool)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(name)
        axes.set_xlabel("of the calls of the source fail, %")


#: Each group that has a picture, how it is drawn and how high, in inches.
PLOTS: Mapping[str, tuple[Callable[[SubFigure, Sequence[Row]], None], float]] = {
    "uncontended": (uncontended, 4.6),
    "asynchronous": (uncontended, 2.0),
    "contended": (contended, 4.0),
    "resize": (resize, 3.4),
    "memory": (memory, 4.0),
    "growth": (growth, 8.0),
    "failure": (failure, 5.6),
}
PLACEHOLDER = "{group}"


def drawable(rows: Mapping[str, Sequence[Row]]) -> dict[str, Sequence[Row]]:
    """What has a picture. The rows of the event loop are drawn among those of one thread."""
    groups = {group: list(some) for group, some in rows.items()}
    if "uncontended" in groups:
        groups["uncontended"] += groups.pop("asynchronous", [])
    return {group: some for group, some in groups.items() if group in PLOTS and panels(some)}


def draw(rows: Mapping[str, Sequence[Row]], file: Path, foot: str) -> list[Path]:
    """One picture with a part per group; or, where the name says `{group}`, a picture per group. Returns the files."""
    groups = drawable(rows)
    if PLACEHOLDER not in file.name:
        return [save(groups, file, foot)] if groups else []
    return [
        save({group: some}, file.with_name(file.name.replace(PLACEHOLDER, group)), foot) for group, some in groups.items()
    ]


def save(groups: Mapping[str, Sequence[Row]], file: Path, foot: str) -> Path:
    with mpl.rc_context(STYLE):
        heights = [PLOTS[group][1] for group in groups]
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout="constrained")
        parts = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)
        for part, (group, rows) in zip(parts[:, 0], groups.items(), strict=True):
            PLOTS[group][0](part, rows)
        told = "\n".join(textwrap.wrap(f"mempool bench {' '.join(groups)}; {foot}", 62))
        figure.supxlabel(told, fontsize=7.5, color="#555555")
        metadata = {"Date": None} if file.suffix == ".svg" else {}
        figure.savefig(file, dpi=150, metadata=metadata)
    return file
