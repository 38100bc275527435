"""Kinds of arguments that click does not know, as callbacks of its options."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mempool.sizes import compared, parse_size

RESERVE_MAX = 1_000_000
DAY = 86_400


def size(at_least: int, at_most: int | None = None) -> Callable[[click.Context, click.Parameter, str], int]:
    """Bytes, as a number or in words."""

    def convert(_context: click.Context, _option: click.Parameter, value: str) -> int:
        try:
            size = parse_size(int(value) if value.isdecimal() else value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
        if size < at_least:
            raise click.BadParameter("{} is too little, {} is the least".format(*compared(size, at_least)))
        if at_most is not None and size > at_most:
            raise click.BadParameter("{} is too much, {} is the most".format(*compared(size, at_most)))
        return size

    return convert


def seconds(_context: click.Context, _option: click.Parameter, value: str) -> float:
    """A time, above zero and at most a day."""
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number <= DAY:  # false for nan too
        raise click.BadParameter(f"a number of seconds above 0, at most {DAY}, not {value!r}")
    return number


def check_writable(file: Path, option: str) -> None:
    """Raise where it looks as if it could not be written. Nothing is touched before there is something to write."""
    if file.is_dir():
        fault = "is a folder"
    elif not file.parent.is_dir():
        fault = "there is no such folder"
    elif not os.access(file if file.exists() else file.parent, os.W_OK):
        fault = "may not be written"
    else:
        return
    raise click.BadParameter(f"{file}: {fault}", param_hint=option)


def check_figures(file: str | None) -> None:
    """The same for what `--json` names; - is the standard output."""
    if file not in (None, "-"):
        check_writable(Path(file), "--json")


def write_figures(report: dict[str, Any], file: str | None) -> None:
    """Write them as JSON to what `--json` names."""
    if file is not None:
        try:
            with click.open_file(file, "w") as figures:
                figures.write(json.dumps(report, indent=2) + "\n")
        except OSError as error:
            raise click.FileError(file, error.strerror) from None
