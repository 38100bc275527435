"""`mempool demo`: hash files while memory runs out: with fresh bytearrays, with a pool, with a queue of bytearrays."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import click
from rich.console import Console

from mempool.cli import kinds
from mempool.sizes import in_words

#: Bytes. The ballast leaves smaller blocks alone: out_of_memory.memory.SMALLEST is the same.
BUFFER_SIZE_MIN = 64 * 1024
#: Bytes that a process needs beside its buffers.
MARGIN = 1 << 20
#: Bytes. The ballast really takes them, so more is of no use to anybody.
MEMORY_MAX = 1 << 30


@click.command(short_help="Hash files while memory runs out.")
@click.argument("path", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--workers", type=click.IntRange(1, 256), default=16, help="How many hash.")
@click.option(
    "--buffer-size",
    metavar="SIZE",
    callback=kinds.size(at_least=BUFFER_SIZE_MIN),
    default="256 KiB",
    help="Of a buffer, in all three runs.",
)
@click.option(
    "--reserve",
    type=click.IntRange(1, kinds.RESERVE_MAX),
    default=4,
    help="How many buffers the pool promises at first.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, kinds.RESERVE_MAX),
    default=24,
    help="How many it has at most.",
)
@click.option(
    "--promise",
    type=click.IntRange(1, kinds.RESERVE_MAX),
    show_default="one for each worker, as far as the limit goes",
    help="How many it promises once memory is out.",
)
@click.option(
    "--queue",
    type=click.IntRange(1, kinds.RESERVE_MAX),
    show_default="the reserve: memory that is always there",
    help="How many buffers the queue is filled with.",
)
@click.option(
    "--memory",
    metavar="SIZE",
    callback=kinds.size(at_least=MARGIN, at_most=MEMORY_MAX),
    default="32 MiB",
    help="What a run may take beyond what its process has when it begins.",
)
@click.option(
    "--latency",
    type=click.FloatRange(0, 1000),
    metavar="MS",
    default=5.0,
    help="Milliseconds before each read, as with a disk at the other end of a network; 0: none.",
)
@click.option(
    "--seconds",
    metavar="SECONDS",
    callback=kinds.seconds,
    default="15",
    help="A run takes no longer; files that it does not reach are counted.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1_000_000),
    help="How often each file is read.  [default: a small tree several times, a large one once]",
)
@click.option("--json", "figures", metavar="FILE", help="Write the figures to this file; - is the standard output.")
@click.option(
    "--shared", is_flag=True, help="Another demo: files go through four processes, one of which is killed again and again."
)
@click.option("--fleet", is_flag=True, help="Another demo: four workers of Dask, a resize, and one of them is killed.")
def demo(
    *,
    path: Path | None,
    workers: int,
    buffer_size: int,
    reserve: int,
    limit: int,
    promise: int | None,
    queue: int | None,
    memory: int,
    latency: float,
    seconds: float,
    rounds: int | None,
    figures: str | None,
    shared: bool,
    fleet: bool,
) -> int:
    """Hash every regular file below PATH while memory runs out.

    Without PATH: the standard library of this Python. Three runs that differ in where a worker gets its buffer:
    A, a new bytearray for each file; B, a pool; C, a queue filled with bytearrays, as many as there is always memory for.
    Each is a process of its own with a limit on its memory, and other threads of it take all that is left.

    The status is 0 if run B failed no file, its digests are right, the pool's numbers agree, and it saw the mistake that
    is planted: a buffer is used after it was returned.

    With --shared: the files below PATH go through four processes, by buffers of a pool that they share, for six seconds. One
    of them is killed every 200 ms, and the pool is resized twice a second. The status is 0 if no block is missing, every
    digest is right, and no element and no memory was lost. It takes no other option.

    With --fleet and nothing else: four workers of Dask decode sixty clips; in the midst their pools are resized, and one
    is killed. The status is 0 if every clip was decoded, and every worker, the killed one's successor, too, was resized.
    """
    if shared:
        return demo_shared(path)
    if fleet:
        return demo_fleet()
    if not sys.platform.startswith("linux"):
        raise click.ClickException(f"the demo needs Linux, where a limit on memory is enforced; this is {sys.platform}")
    if limit < reserve:
        raise click.UsageError(f"--limit {limit} is less than the reserve of {reserve}")
    promise = max(reserve, min(workers, limit)) if promise is None else promise
    if not reserve <= promise <= limit:
        raise click.UsageError(f"--promise {promise} is not between the reserve of {reserve} and the limit of {limit}")
    queue = queue or reserve
    for what, number in (("reserve", reserve), ("queue", queue)):
        needed = number * buffer_size + MARGIN
        if memory < needed:
            raise click.UsageError(
                f"--memory {in_words(memory)} is too little for a {what} of {number} x {in_words(buffer_size)}; "
                f"{in_words(needed)} is the least"
            )
    kinds.check_figures(figures)
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise click.ClickException(
            "the demo needs a Python that was built with the GIL: without, each thread keeps the memory that it has freed "
            "for itself, so memory cannot run out for all of them alike. What is tested there: docs/explanation/proof.md"
        )
    # Only here: they need Linux.
    from mempool.cli.out_of_memory.children import ChildFailedError
    from mempool.cli.out_of_memory.files import standard_library
    from mempool.cli.out_of_memory.three import UnfitTreeError, run_all
    from mempool.cli.out_of_memory.words import Job, Run

    job = Job(
        run=Run.BYTEARRAY,
        rounds=rounds or 0,
        workers=workers,
        buffer_size=buffer_size,
        reserve=reserve,
        promise=promise,
        limit=limit,
        queue=queue,
        allowance=memory,
        address_space=None,
        latency=latency / 1000,
        seconds=seconds,
    )
    console = Console(stderr=figures == "-", highlight=False)
    try:
        report = run_all(path or standard_library(), job, console)
    except UnfitTreeError as error:
        raise click.UsageError(str(error)) from None
    except ChildFailedError as error:
        raise click.ClickException(str(error)) from None
    kinds.write_figures(report.figures(), figures)
    return 1 if report.faults else 0


def demo_fleet() -> int:
    """`mempool demo --fleet`."""
    refuse_others("fleet")
    try:
        from mempool.cli.fleet_demo import run

        faults = run(click.echo)
    except ModuleNotFoundError as missing:
        raise click.ClickException(f"this demo needs {missing.name}: pip install distributed") from None
    return verdict(faults)


def demo_shared(path: Path | None) -> int:
    """`mempool demo --shared [PATH]`."""
    refuse_others("shared", "path")
    try:
        from mempool.cli.shared_demo import run

        faults = run(path or Path(sysconfig.get_path("stdlib")), Console(highlight=False))
    except (ImportError, MemoryError, OSError) as error:
        raise click.ClickException(str(error)) from None
    return verdict(faults)


def verdict(faults: list[str]) -> int:
    """Say it, and return the status."""
    click.echo(f"{len(faults)} fault{'' if len(faults) == 1 else 's'}" if faults else "every promise was kept")
    return 1 if faults else 0


def refuse_others(demo: str, *arguments: str) -> None:
    """Raise where the command line has another option than this, by which another demo is chosen, or its arguments."""
    context = click.get_current_context()
    given = [
        name
        for name in context.params
        if name not in {demo, *arguments} and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"--{demo} goes without {', '.join(given)}")
