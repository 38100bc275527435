"""`mempool demo`: hash files while memory runs out, once without a pool and once with one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from mempool.cli import kinds
from mempool.cli.kinds import in_words

#: Bytes. The ballast leaves smaller blocks alone: out_of_memory.memory.SMALLEST is the same.
ELEMENT_SIZE_MIN = 64 * 1024
#: Bytes that a process needs beside its reserve.
MARGIN = 1 << 20
#: Bytes. The ballast really takes them, so more is of no use to anybody.
LIMIT_MAX = 1 << 30


@click.command()
@click.argument("path", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--threads", type=click.IntRange(1, 256), default=16, show_default=True, help="How many hash.")
@click.option(
    "--element-size",
    metavar="SIZE",
    callback=kinds.size(at_least=ELEMENT_SIZE_MIN),
    default="256 KiB",
    show_default=True,
    help="Of a chunk, and of an element of the pool.",
)
@click.option(
    "--reserve",
    "reserves",
    metavar="N,N,...",
    callback=kinds.reserves,
    default="4,32,8,16",
    show_default=True,
    help="The pool's reserve at first, and what it is resized to on the way.",
)
@click.option(
    "--limit",
    metavar="SIZE",
    callback=kinds.size(at_least=MARGIN, at_most=LIMIT_MAX),
    default="32 MiB",
    show_default=True,
    help="Memory that a run may take beyond what its process has when it begins.",
)
@click.option(
    "--seconds",
    metavar="SECONDS",
    callback=kinds.seconds,
    default="15",
    show_default=True,
    help="A run takes no longer; files that it does not reach are counted.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1_000_000),
    help="How often each file is read.  [default: a small tree several times, a large one once]",
)
@click.option("--json", "figures", metavar="FILE", help="Write the figures to this file; - is the standard output.")
def demo(
    *,
    path: Path | None,
    threads: int,
    element_size: int,
    reserves: tuple[int, ...],
    limit: int,
    seconds: float,
    rounds: int | None,
    figures: str | None,
) -> int:
    """Hash every regular file below PATH while memory runs out.

    Without PATH: the standard library of this Python. Run A reads each chunk into a fresh bytearray, run B into an
    element of a pool. Each is a process of its own with a limit on its memory, and a ballast takes all that is left.

    The status is 0 if run B failed no file, its digests are right, and the pool's books balance.
    """
    if not sys.platform.startswith("linux"):
        raise click.ClickException(f"the demo needs Linux, where a limit on memory is enforced; this is {sys.platform}")
    needed = reserves[0] * element_size + MARGIN
    if limit < needed:
        raise click.UsageError(
            f"--limit {in_words(limit)} is too small for a reserve of {reserves[0]} x {in_words(element_size)}; "
            f"{in_words(needed)} is the least"
        )
    if figures not in (None, "-") and (fault := kinds.why_not_writable(Path(figures))):
        raise click.BadParameter(f"{figures}: {fault}", param_hint="--json")
    # Only here: they need Linux.
    from mempool.cli.out_of_memory.both import UnfitTreeError, run_both
    from mempool.cli.out_of_memory.children import ChildFailedError
    from mempool.cli.out_of_memory.files import standard_library
    from mempool.cli.out_of_memory.words import Job

    job = Job(
        pooled=False,
        rounds=rounds or 0,
        threads=threads,
        element_size=element_size,
        reserves=reserves,
        allowance=limit,
        address_space=None,
        seconds=seconds,
    )
    console = Console(stderr=figures == "-", highlight=False)
    try:
        report = run_both(path or standard_library(), job, console)
    except UnfitTreeError as error:
        raise click.UsageError(str(error)) from None
    except ChildFailedError as error:
        raise click.ClickException(str(error)) from None
    if figures is not None:
        try:
            with click.open_file(figures, "w") as file:
                file.write(json.dumps(report.figures(), indent=2) + "\n")
        except OSError as error:
            raise click.FileError(figures, error.strerror) from None
    return 1 if report.faults else 0
