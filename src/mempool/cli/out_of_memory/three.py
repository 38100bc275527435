"""The three runs, one after the other, and the comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from mempool import IMPLEMENTATION
from mempool.cli.out_of_memory.children import Results, run_child
from mempool.cli.out_of_memory.files import Tree, compare, find_files
from mempool.cli.out_of_memory.report import TITLES, Report
from mempool.cli.out_of_memory.screen import screen_for
from mempool.cli.out_of_memory.words import Job, Run
from mempool.sizes import in_words

#: A small tree is read in several rounds, so that there is something to see: up to about so many files and bytes.
FILES_ENOUGH = 8_000
BYTES_ENOUGH = 1 << 30


#: A digest of each stays in memory, in a child and here.
FILES_MAX = 10_000_000


class UnfitTreeError(Exception):
    """There is nothing to hash, or far too much."""


def run_all(root: Path, job: Job, console: Console) -> Report:
    """Runs A, B and C under the same limit, compare, show. Raises UnfitTreeError or ChildFailedError."""
    with screen_for(console) as screen:
        screen.begin("looking for files", 0)
        tree = find_files(root, screen.count)
        if not tree.paths:
            raise UnfitTreeError(f"there is no regular file below {root}")
        job = replace(job, rounds=job.rounds or enough_rounds(tree))
        files = job.rounds * len(tree.paths)
        if files > FILES_MAX:
            raise UnfitTreeError(
                f"{len(tree.paths):,} files x {job.rounds:,} rounds are too many, {FILES_MAX:,} is the most; "
                "take a smaller folder or fewer --rounds"
            )
        size, rounds = f"{in_words(tree.size)}", f" x {job.rounds} rounds" if job.rounds > 1 else ""
        count = "1 file" if len(tree.paths) == 1 else f"{len(tree.paths):,} files"
        screen.say(f"{count} ({size}){rounds} below {root}{skipped(tree)}")
        buffers, memory = in_words(job.buffer_size), in_words(job.allowance)
        screen.say(f"{job.workers} workers, buffers of {buffers}, {memory} of memory for all; {IMPLEMENTATION} core")
        results: dict[Run, Results] = {}
        for run in Run:
            screen.begin(f"{run} {TITLES[run]}", files)
            results[run] = run_child(replace(job, run=run), tree.paths, screen.progress, screen.event)
            failed = results[run].outcome.files
            screen.end(is_well=not failed["out_of_memory"] + failed["broken"])
            job = replace(job, address_space=results[run].outcome.address_space)
        screen.begin("hashlib, no limit", len(tree.paths))
        pooled = results[Run.POOL]
        comparison = compare(tree, pooled.statuses, pooled.digests, screen.count)
        screen.end(is_well=not comparison.different)
    report = Report(tree, job, {run: results[run].outcome for run in Run}, comparison)
    report.show(console)
    return report


def skipped(tree: Tree) -> str:
    """What of the tree is left out, in words; empty where nothing is."""
    links = f"; {tree.skipped:,} links, pipes and the like skipped" if tree.skipped else ""
    return links + (f"; {tree.unreadable_folders:,} folders may not be read" if tree.unreadable_folders else "")


def enough_rounds(tree: Tree) -> int:
    """How often to read this tree when nobody says."""
    return max(1, min(FILES_ENOUGH // len(tree.paths), BYTES_ENOUGH // max(1, tree.size)))
