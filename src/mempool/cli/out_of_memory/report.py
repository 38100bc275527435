"""The end of a demo: the table, the audit, the verdict, the figures."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from mempool import IMPLEMENTATION, __version__
from mempool.cli.out_of_memory.files import Comparison, Tree
from mempool.cli.out_of_memory.screen import MIB, speed
from mempool.cli.out_of_memory.words import Job, Outcome

NONE = "-"
FAILED = "files failed"


class Report:
    """What a demo has shown."""

    def __init__(self, tree: Tree, job: Job, without: Outcome, with_pool: Outcome, comparison: Comparison) -> None:
        self.tree = tree
        self.job = job
        self.without = without
        self.with_pool = with_pool
        self.comparison = comparison

    @property
    def is_balanced(self) -> bool:
        """Whether the pool's books are right and everything came home."""
        pool = self.with_pool.pool
        return (
            pool["made"] - pool["disposed"] == pool["spare"] + pool["out"]
            and pool["out"] == pool["disposing"] == 0
            and self.with_pool.left_after_close == 0
        )

    @property
    def audit(self) -> str:
        """The pool's books in one line."""
        pool = self.with_pool.pool
        sign = "==" if pool["made"] - pool["disposed"] == pool["spare"] + pool["out"] else "!="
        return (
            f"made {pool['made']} - disposed {pool['disposed']} {sign} spare {pool['spare']} + out {pool['out']}; "
            f"{self.with_pool.left_after_close} left after close"
        )

    @property
    def faults(self) -> list[str]:
        """Why the demo has failed; empty: it has not."""
        files = self.with_pool.files
        faults = []
        if files["out_of_memory"]:
            faults.append(f"run B failed {files['out_of_memory']} files for want of memory")
        if files["broken"]:
            faults.append(f"run B failed {files['broken']} files: {'; '.join(self.with_pool.complaints)}")
        if not files["done"]:
            faults.append("run B has hashed no file")
        if self.comparison.different:
            faults.append(f"{len(self.comparison.different)} digests are wrong: {self.comparison.different[:5]!r}")
        if not self.is_balanced:
            faults.append(f"the audit does not hold: {self.audit}")
        return faults

    def table(self) -> Table:
        """A beside B."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        table.add_column("A, no pool", justify="right")
        table.add_column("B, pool", justify="right")
        for name, show in ROWS:
            cells = [show(run) for run in (self.without, self.with_pool)]
            if name in RARE and set(cells) == {"0"}:
                continue
            if name == FAILED:
                cells = [f"[bold {'green' if cell == '0' else 'red'}]{cell}[/]" for cell in cells]
            table.add_row(name, *cells)
        return table

    def closing_lines(self) -> list[str]:
        """What the table cannot say."""
        compared = self.comparison
        lines = [
            f"digests: {compared.equal:,} of {compared.compared:,} equal hashlib's on whole files"
            + (f"; {compared.changed:,} files were changed meanwhile" if compared.changed else ""),
            f"audit: {self.audit}",
        ]
        if not self.without.files["out_of_memory"]:
            lines.append("note: run A failed no file, so nothing was short; lower --limit")
        return lines

    def figures(self) -> dict[str, Any]:
        """All of it, for a machine."""
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
            "options": {
                "rounds": self.job.rounds,
                "threads": self.job.threads,
                "element_size": self.job.element_size,
                "reserve": self.job.reserves,
                "limit": self.job.allowance,
                "seconds": self.job.seconds,
            },
            "run_a": vars(self.without),
            "run_b": vars(self.with_pool),
            "digests": asdict(self.comparison),
            "audit": {"line": self.audit, "holds": self.is_balanced},
            "faults": self.faults,
        }


def _file(name: str) -> Callable[[Outcome], str]:
    return lambda run: f"{run.files[name]:,}"


def _served(name: str) -> Callable[[Outcome], str]:
    return lambda run: f"{run.pool[name]:,}" if run.pool else NONE


def _source(run: Outcome) -> str:
    return f"{run.pool['served_from_source'] if run.pool else run.chunks:,}"


ROWS: tuple[tuple[str, Callable[[Outcome], str]], ...] = (
    ("files done", _file("done")),
    (FAILED, lambda run: f"{run.files['out_of_memory'] + run.files['broken']:,}"),
    ("files we may not read", _file("unreadable")),
    ("files that vanished", _file("vanished")),
    ("files not reached in time", _file("not_reached")),
    ("MB/s", lambda run: f"{speed(run.hashed, run.seconds):,.0f}"),
    ("allocations from spares", _served("served_from_spare")),
    ("allocations fresh from the source", _source),
    ("allocations from the reserve", _served("served_from_reserve")),
    ("allocations after waiting in line", _served("served_from_line")),
    ("longest wait", lambda run: f"{1000 * run.pool['wait_seconds_max']:,.1f} ms" if run.pool else NONE),
    ("resizes", _served("resizes")),
    ("peak memory (resident)", lambda run: f"{run.resident_max / MIB:,.1f} MiB"),
    ("limit (address space)", lambda run: f"{run.address_space / MIB:,.1f} MiB"),
)
#: Not shown where there are none.
RARE = ("files we may not read", "files that vanished", "files not reached in time")
