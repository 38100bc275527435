"""The command line, one command per file. This one loads without click and rich, to say that they are missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `mempool ARGUMENTS...`; returns the exit status. None: what the shell gave."""
    try:
        import click  # noqa: F401 - only to see that it is there
        import rich  # noqa: F401 - only to see that it is there
    except ModuleNotFoundError as missing:
        if missing.name not in ("click", "rich"):
            raise
        print(f"mempool: the command line needs {missing.name}: pip install click rich", file=sys.stderr)
        return 1
    from mempool.cli.app import run

    return run(arguments)
