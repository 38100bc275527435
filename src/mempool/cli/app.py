"""The commands together, and how they fail: one clear line and a status, never a traceback for a user's mistake."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence

import click

from mempool import IMPLEMENTATION, __version__
from mempool.cli.bench import bench
from mempool.cli.demo import demo
from mempool.cli.doctor import doctor
from mempool.cli.export import export
from mempool.cli.fleet import fleet
from mempool.cli.shared import reap, rm, verify
from mempool.cli.top.command import top
from mempool.cli.watching import list_pools, resize, why
from mempool.cli.web import web

INTERRUPTED = 130  # as a shell counts: 128 + SIGINT
VERSION = f"%(prog)s %(version)s, {IMPLEMENTATION} core, Python {platform.python_version()}"


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, "-V", "--version", prog_name="mempool", message=VERSION)
@click.pass_context
def mempool(context: click.Context) -> None:
    """A reserve of elements that can always be had, even when memory runs out."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (bench, demo, doctor, export, fleet, list_pools, reap, resize, rm, top, verify, web, why):
    mempool.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 well, 1 not, 2 bad arguments, 130 interrupted."""
    try:
        status = mempool.main(arguments, prog_name="mempool", standalone_mode=False)
    except click.ClickException as error:
        print(f"mempool: {' '.join(error.format_message().split())}", file=sys.stderr)
        return error.exit_code
    except click.Abort:
        print("mempool: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status if isinstance(status, int) else 0
