"""How everything here is measured.

Contestants are measured in rounds, each once per round, and each ratio is taken within a round: what slows the machine
down for a second slows both down. Shown are the median of the ratios of all rounds, the lowest and the highest.

Within a round a contestant's time is the least of a few slices of half a millisecond. On a machine that does something
else, too, a slice is either interrupted or it is not; the least is one that was not.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROUNDS, ROUNDS_QUICK = 15, 7
#: For what takes seconds a round.
ROUNDS_LONG = 7
SLICES, SLICES_QUICK = 7, 3
SLICE_SECONDS = 0.0005
#: Statements per turn of the loop, so that the loop itself is hardly measured.
UNROLLED = 10

#: Measures once; returns the figure, mostly seconds per operation.
Contestant = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be."""

    bound: float
    at_most: bool = True

    def is_met_by(self, figure: float) -> bool:
        return figure <= self.bound if self.at_most else figure >= self.bound

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Point:
    """Where a row lies in the group's plot: the absolute figure (seconds, unless its panel says otherwise), no ratio."""

    series: str
    x: float
    y: float
    panel: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. figure: the median of the rounds; None: could not be measured, and `note` says why."""

    group: str
    what: str
    beside: str
    figure: float | None = None
    lowest: float | None = None
    highest: float | None = None
    unit: str = "x"
    target: Target | None = None
    note: str = ""
    point: Point | None = None

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        if self.figure is None:
            return "not measured"
        return "met" if self.target.is_met_by(self.figure) else "missed"

    @property
    def is_steady(self) -> bool:
        """Whether every round gave the same verdict."""
        if self.target is None or self.lowest is None or self.highest is None:
            return True
        return self.target.is_met_by(self.lowest) == self.target.is_met_by(self.highest)


def slices_of(statement: str, *, quick: bool, **names: Any) -> Contestant:
    """Seconds that one execution of this statement takes, with `names` as local variables."""
    # As locals, because a global costs more to look up, and that is none of the contestants' doing.
    setup = "\n".join(f"{name} = names[{name!r}]" for name in names)
    timer = timeit.Timer("\n".join([statement] * UNROLLED), setup, globals={"names": names})
    timer.timeit(50)  # CPython specializes the code in the first turns
    turns = max(1, int(SLICE_SECONDS / max(min(timer.repeat(3, 10)) / 10, 1e-9)))
    slices = SLICES_QUICK if quick else SLICES
    return lambda: min(timer.repeat(slices, turns)) / (turns * UNROLLED)


def in_rounds(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Measure every contestant once per round; each round begins with another one."""
    names = list(contestants)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            figures[name].append(contestants[name]())
    return figures


def ratios(figures: Mapping[str, Sequence[float]], what: str, beside: str) -> list[float]:
    """One figure as a multiple of another, round by round."""
    return [a / b for a, b in zip(figures[what], figures[beside], strict=True)]


def row_of(
    group: str,
    what: str,
    beside: str,
    figures: Sequence[float],
    *,
    unit: str = "x",
    target: Target | None = None,
    note: str = "",
    point: Point | None = None,
) -> Row:
    """The figures of all rounds as one line."""
    return Row(group, what, beside, statistics.median(figures), min(figures), max(figures), unit, target, note, point)


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def jain(shares: Sequence[float]) -> float:
    """Jain's index of fairness: 1 when all got the same, 1/n when one got all. Source: Jain, Chiu, Hawe 1984."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def in_words(seconds: float) -> str:
    """A time with the unit that fits."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
