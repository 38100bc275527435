"""Shows a demo while it goes on: bars and the pool's state on a terminal, else plain lines."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Column
from rich.text import Text

from mempool.cli.out_of_memory.words import Progress as Told

#: Seconds between two plain lines of progress.
PLAIN_INTERVAL = 1.0
MIB = 1 << 20
#: The colour of a bar while nobody knows how it ends; red as soon as a file has failed.
OPEN = "cyan"


class Screen:
    """Plain lines, for a pipe, a file, a build's log."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._part = ""
        self._total = 0
        self._told_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        pass

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        self._console.print(Text(text, style), soft_wrap=not self._console.is_terminal)

    def event(self, seconds: float, text: str) -> None:
        """Something has happened in a run."""
        self.say(f"{self._part[0]} {seconds:5.1f} s  {text}", "dim")

    def begin(self, part: str, total: int) -> None:
        """A part of the demo begins, of so many files; 0: nobody knows how many."""
        self._part, self._total = part, total
        self._told_at = time.monotonic()

    def end(self, *, is_well: bool) -> None:
        """The part has ended."""

    def count(self, done: int) -> None:
        """So many files of this part are done."""
        if self._is_time():
            self.say(f"{self._part}: {done:,}" + (f" of {self._total:,} files" if self._total else " files"))

    def progress(self, told: Told) -> None:
        """A run goes on."""
        if self._is_time():
            files = f"{told.handled:,} of {self._total:,} files, {told.failed:,} failed"
            self.event(told.seconds, f"{files}, {state(told)}")

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self._told_at < PLAIN_INTERVAL:
            return False
        self._told_at = now
        return True


class OutcomeColumn(BarColumn):
    """Bars whose colour is how a part has ended, and not how far it is: one that failed is never green."""

    def render(self, task: Task) -> ProgressBar:
        """A neutral bar while the outcome is open."""
        bar = super().render(task)
        bar.complete_style = bar.finished_style = task.fields["style"]
        return bar


class LiveScreen(Screen):
    """A bar for each part, and under them how the pool is at this moment."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            OutcomeColumn(bar_width=None, table_column=Column(ratio=1)),
            TextColumn("{task.fields[files]}", table_column=Column(no_wrap=True, justify="right")),
            TextColumn("{task.fields[failed]}", style="bold red", table_column=Column(no_wrap=True, justify="right")),
            TextColumn("{task.fields[speed]}", table_column=Column(no_wrap=True, justify="right")),
            console=console,
            expand=True,
        )
        self._state = Text(no_wrap=True, overflow="ellipsis")
        self._live = Live(Group(self._bars, self._state), console=console, refresh_per_second=12, transient=True)
        self._bar: TaskID | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._live.stop()

    def begin(self, part: str, total: int) -> None:
        """A new bar."""
        if self._bar is not None and not self._total:
            self._bars.remove_task(self._bar)  # its count is told in words
        super().begin(part, total)
        self._bar = self._bars.add_task(part, total=total or None, files="", failed="", speed="", style=OPEN)
        self._state.plain = ""

    def end(self, *, is_well: bool) -> None:
        """The bar gets its colour."""
        assert self._bar is not None
        self._bars.update(self._bar, style="green" if is_well else "red")

    def count(self, done: int) -> None:
        """Move the bar."""
        assert self._bar is not None
        self._bars.update(self._bar, completed=done, files=self._files(done))

    def progress(self, told: Told) -> None:
        """Move the bar, and say how the pool is."""
        assert self._bar is not None
        self._bars.update(
            self._bar,
            completed=told.handled,
            files=self._files(told.handled),
            failed=f"{told.failed:,} failed" if told.failed else "",
            style="red" if told.failed else OPEN,
            speed=f"{speed(told.hashed, told.seconds):,.0f} MiB/s",
        )
        self._state.plain = state(told)

    @property
    def colour(self) -> str:
        """Of the bar of the part that runs, or ran last."""
        return str(self._bars.tasks[-1].fields["style"])

    def _files(self, done: int) -> str:
        return f"{done:,}/{self._total:,} files" if self._total else f"{done:,} files"


def state(told: Told) -> str:
    """The ballast, and the pool if there is one."""
    ballast = f"the others have {told.ballast / MIB:.0f} MiB"
    if not told.reserve:
        return ballast
    promise = "covered" if not told.unfunded else f"{told.unfunded} unfunded"
    elements = f"{told.spare} spare, {told.out} out, {told.waiting} in line"
    return f"{ballast}; {elements}; promise of {told.reserve}: {promise}"


def speed(size: int, seconds: float) -> float:
    """MiB per second."""
    return size / MIB / seconds if seconds else 0.0


def screen_for(console: Console) -> Screen:
    """What this console can show."""
    return LiveScreen(console) if console.is_terminal and not console.is_dumb_terminal else Screen(console)
