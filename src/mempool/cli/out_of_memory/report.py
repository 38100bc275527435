"""The end of a demo: the table and what its words mean, the audit, the verdict, the figures."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mempool import IMPLEMENTATION, __version__
from mempool.cli.out_of_memory.files import Comparison, Tree
from mempool.cli.out_of_memory.screen import MIB
from mempool.cli.out_of_memory.words import OUT, OUT_AGAIN, PHASES, TO_SPARE, Job, Outcome, Run
from mempool.sizes import in_words

NONE = "-"
TITLES = {Run.BYTEARRAY: "bytearray", Run.POOL: "pool", Run.QUEUE: "queue"}
#: Speeds that differ by no more than this share are called the same.
SAME = 0.05
CAUGHT = "UseAfterFree"


class Report:
    """What a demo has shown."""

    def __init__(self, tree: Tree, job: Job, runs: Mapping[Run, Outcome], comparison: Comparison) -> None:
        self.tree = tree
        self.job = job
        self.runs = runs
        self.comparison = comparison
        self.bytearrays: Outcome = runs[Run.BYTEARRAY]
        self.pooled: Outcome = runs[Run.POOL]
        self.queued: Outcome = runs[Run.QUEUE]

    @property
    def is_balanced(self) -> bool:
        """Whether the pool's numbers agree and everything was returned."""
        pool = self.pooled.pool
        return (
            pool["made"] - pool["disposed"] == pool["spare"] + pool["out"]
            and pool["out"] == pool["disposing"] == 0
            and self.pooled.left_after_close == 0
        )

    @property
    def audit(self) -> str:
        """The pool's numbers in one line."""
        pool = self.pooled.pool
        sign = "==" if pool["made"] - pool["disposed"] == pool["spare"] + pool["out"] else "!="
        return (
            f"made {pool['made']} - disposed {pool['disposed']} {sign} spare {pool['spare']} + out {pool['out']}; "
            f"{self.pooled.left_after_close} left after close"
        )

    @property
    def faults(self) -> list[str]:
        """Why the demo has failed; empty: it has not."""
        files = self.pooled.files
        faults = []
        if files["out_of_memory"]:
            faults.append(f"run B failed {files['out_of_memory']} files for want of memory")
        if files["broken"]:
            faults.append(f"run B failed {files['broken']} files: {'; '.join(self.pooled.complaints)}")
        if not files["done"]:
            faults.append("run B has hashed no file")
        if self.comparison.different:
            faults.append(f"{len(self.comparison.different)} digests are wrong: {self.comparison.different[:5]!r}")
        if not self.is_balanced:
            faults.append(f"the audit does not hold: {self.audit}")
        if self.pooled.misuse != CAUGHT:
            faults.append(f"the planted mistake met {self.pooled.misuse or 'no error'} in run B, not {CAUGHT}")
        return faults

    def show(self, console: Console) -> None:
        """The words, what comes of it, and last the table with the verdict: it fits a screen of 24 lines."""
        console.print(self.words())
        console.print()
        for kind, text in self.findings():
            say(console, kind, text)
        console.print()
        console.print(self.table())
        console.print()
        for kind, text in self.verdict():
            say(console, kind, text)

    def words(self) -> Table:
        """What the words of the table mean, a line each."""
        job, size = self.job, in_words(self.job.buffer_size)
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column(style="bold", width=WIDTH_OF_NAMES)
        table.add_column()
        table.add_row("A bytearray", "a new bytearray for each file")
        pool = f"Pool(Buffers({size!r}), reserve={job.reserve}, keep={job.reserve}, limit={job.limit})"
        table.add_row("B pool", Text(pool))
        table.add_row("C queue", f"a SimpleQueue with {job.queue} bytearrays in it")
        for row in self._rows():
            table.add_row(row.name, row.meaning.format(size=size, latency=f"{1000 * job.latency:g} ms"))
        return table

    def table(self) -> Table:
        """The runs beside each other."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
        table.add_column("", width=WIDTH_OF_NAMES)
        for run, title in TITLES.items():
            table.add_column(f"{run} {title}", justify="right", no_wrap=True)
        for row in self._rows():
            cells = [Text(row.show(self.runs[run])) for run in TITLES]
            if row.is_good is not None:
                for cell, run in zip(cells, TITLES, strict=True):
                    if cell.plain != NONE:
                        cell.stylize("bold green" if row.is_good(self.runs[run]) else "bold red")
            table.add_row(row.name, *cells)
        return table

    def _rows(self) -> Iterator[Row]:
        for row in ROWS:
            if not row.is_rare or any(row.show(run) != "0" for run in self.runs.values()):
                yield row

    def findings(self) -> Iterator[tuple[str, str]]:
        """What the table says, in sentences, each of a kind: one of STYLES."""
        pooled = self.pooled
        if not failed(self.bytearrays):
            yield "note", "run A failed no file, so nothing was short; lower --memory"
        yield from self._beside_the_queue()
        if pooled.resizes:
            first, last = pooled.resizes[0], pooled.resizes[-1]
            told = f"said that {first['unfunded']} of them were not there yet; after refill(): {last['unfunded']}"
            yield "pool", f"resize() promised {first['to']} while memory was out, and {told}"
        for steering in pooled.steerings:
            yield "pool", f"{steering}: run B's figures are those of a pool that was resized from outside"
        if pooled.files_of_the_task:
            in_line = "a worker was an asyncio task, in one line with the threads"
            yield "pool", f"{in_line}: {pooled.files_of_the_task:,} files"
        if pooled.misuse:
            yield "pool", f"a buffer that was used after its return raised {pooled.misuse}; the queue's raised nothing"

    def verdict(self) -> Iterator[tuple[str, str]]:
        """Whether all is right, in the same form."""
        compared = self.comparison
        changed = f"; {compared.changed:,} files were changed meanwhile" if compared.changed else ""
        yield "digests", f"{compared.equal:,} of {compared.compared:,} equal hashlib's on whole files{changed}"
        yield "audit", f"of the pool's buffers: {self.audit}"
        for fault in self.faults:
            yield "FAILED", fault
        if not self.faults:
            yield "passed", "run B failed no file"

    def _beside_the_queue(self) -> Iterator[tuple[str, str]]:
        """Where the queue does as well, and where it does not."""
        job, pooled, queued = self.job, self.pooled, self.queued
        if not failed(queued):
            yield "queue", "failed no file either"
        waited, queue_waited = (f"{1000 * run.waited_max:,.0f} ms" for run in (pooled, queued))
        if queued.waited_max > 2 * pooled.waited_max:
            yield "pool", f"first come, first served: nobody waited longer than {waited}; with the queue {queue_waited}"
        kind, text = compare_speeds("while memory is out", speed(pooled, OUT), speed(queued, OUT))
        if kind == "queue" and job.queue > job.reserve:
            text += f"; it has {job.queue} buffers then, and the pool {job.reserve}"
        elif kind == "queue":
            text += "; it gives a buffer to whoever is running, the pool to whoever has waited longest"
        yield kind, text
        spare = compare_speeds("with memory to spare", speed(pooled, TO_SPARE), speed(queued, TO_SPARE))
        yield spare
        more = pooled.phases[OUT]["ballast"] - queued.phases[OUT]["ballast"]
        useful = min(job.limit, job.workers)  # a worker has one at a time
        if job.queue < useful and spare[0] == "pool":
            kept = in_words((useful - job.queue) * job.buffer_size)
            as_fast = (
                f"with {useful} buffers it would be as fast; the others would have {kept} less, also while memory is out"
            )
            yield "queue", f"{as_fast} (try --queue {useful})"
        elif more >= job.buffer_size:
            yield "queue", f"keeps {in_words(int(more))} more than the pool from the others while memory is out"

    def figures(self) -> dict[str, Any]:
        """All of it, for a machine."""
        options = asdict(self.job)
        del options["run"], options["address_space"]
        options["memory"] = options.pop("allowance")
        return {
            "mempool": __version__,
            "implementation": IMPLEMENTATION,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "path": str(self.tree.root),
            "files": len(self.tree.paths),
            "bytes": self.tree.size,
            "not_regular": self.tree.skipped,
            "unreadable_folders": self.tree.unreadable_folders,
            "options": options,
            "phases": PHASES,
            **{f"run_{run.lower()}": vars(outcome) for run, outcome in self.runs.items()},
            "digests": asdict(self.comparison),
            "audit": {"line": self.audit, "holds": self.is_balanced},
            "faults": self.faults,
        }


#: Kinds of findings, and how they look.
STYLES = {
    "pool": "bold cyan",
    "queue": "bold cyan",
    "same": "bold cyan",
    "note": "bold yellow",
    "digests": "bold",
    "audit": "bold",
    "FAILED": "bold red",
    "passed": "bold green",
}


def compare_speeds(when: str, pooled: float, queued: float) -> tuple[str, str]:
    """Who is faster, if anybody is."""
    if not pooled or not queued:
        return "note", f"no speeds to compare {when}: too few files"
    ratio = pooled / queued
    if max(ratio, 1 / ratio) <= 1 + SAME:
        return "same", f"pool and queue are equally fast {when} ({ratio:.2f} x)"
    if ratio > 1:
        return "pool", f"{_times(ratio)} as fast as the queue {when}"
    return "queue", f"{_times(1 / ratio)} as fast as the pool {when}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times" if ratio < 2 else f"{ratio:.1f} times"


def speed(run: Outcome, phase: int) -> float:
    """Reads per second in a phase that came."""
    if phase >= len(run.phases) or not run.phases[phase]["seconds"]:
        return 0.0
    return run.phases[phase]["reads"] / run.phases[phase]["seconds"]


def failed(run: Outcome) -> int:
    """Files that a run should have done and has not."""
    return run.files["out_of_memory"] + run.files["broken"]


def say(console: Console, kind: str, text: str) -> None:
    """A finding: its kind stands before it."""
    if not console.is_terminal:
        console.print(Text(f"{kind}: {text}"), soft_wrap=True)
        return
    found = Table.grid(padding=(0, 1))
    found.add_column(width=8, style=STYLES[kind])
    found.add_column()
    found.add_row(kind, text)
    console.print(found)


class Row(NamedTuple):
    """A row of the table."""

    name: str
    meaning: str
    show: Callable[[Outcome], str]
    is_good: Callable[[Outcome], bool] | None = None
    """Tells the colour of a cell: green, or red."""
    is_rare: bool = False
    """Not shown where all are zero."""


def _file(name: str) -> Callable[[Outcome], str]:
    return lambda run: f"{run.files[name]:,}"


def _speed(phase: int) -> Callable[[Outcome], str]:
    return lambda run: f"{speed(run, phase):,.0f}"


def _buffers(phase: int) -> Callable[[Outcome], str]:
    return lambda run: f"{run.phases[phase]['buffers']:.0f}"


WIDTH_OF_NAMES = 24
ROWS = (
    Row("files done", "read and hashed", _file("done")),
    Row("files failed", "MemoryError: there was no buffer", lambda run: f"{failed(run):,}", lambda run: not failed(run)),
    Row("files not readable", "the system does not let us read them", _file("unreadable"), is_rare=True),
    Row("files that vanished", "since they were counted", _file("vanished"), is_rare=True),
    Row("files not reached", "in the time for a run", _file("not_reached"), is_rare=True),
    Row("reads/s, memory to spare", "a read: {latency} for a far disk, then up to {size}", _speed(TO_SPARE)),
    Row("reads/s, memory out", "others of the process take all that is free", _speed(OUT)),
    Row("reads/s, out again", "half of it was back, and is gone", _speed(OUT_AGAIN)),
    Row("buffers, memory to spare", "in use at one moment, at most", _buffers(TO_SPARE)),
    Row("buffers, memory out", "the same, while memory is out", _buffers(OUT)),
    Row("buffers, out again", "the pool has promised more meanwhile", _buffers(OUT_AGAIN)),
    Row("memory the others got", "while memory is out", lambda run: f"{run.phases[OUT]['ballast'] / MIB:.1f} MiB"),
    Row("longest wait", "from asking for a buffer to having it", lambda run: f"{1000 * run.waited_max:,.0f} ms"),
    Row(
        "used after its return",
        "a planted mistake, with a buffer that another has",
        lambda run: run.misuse or ("no error" if run.is_returning else NONE),
        lambda run: run.misuse is not None,
    ),
    Row(
        "files of an asyncio task",
        "it waits in the threads' line; get() of a queue stops a loop",
        lambda run: f"{run.files_of_the_task:,}" if run.files_of_the_task else NONE,
    ),
)
