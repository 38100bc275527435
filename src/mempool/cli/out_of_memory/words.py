"""What the demo and its children tell each other: a Job down; progress, events and an Outcome up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Status(IntEnum):
    """What became of a file; one byte each."""

    NOT_REACHED = 0
    """The time was up before its turn, or before its end."""
    DONE = 1
    OUT_OF_MEMORY = 2
    UNREADABLE = 3
    """The operating system does not let us read it."""
    VANISHED = 4
    """It was there when the files were counted."""
    BROKEN = 5
    """Any other exception: a bug, of the demo or of the pool."""


@dataclass(frozen=True)
class Job:
    """What a child is to do. Beside it travel the paths. A file that is read in several rounds counts as so many."""

    pooled: bool
    """Run B; else run A."""
    rounds: int
    """How often each file is read; 0, until the files are known: often enough to see something."""
    threads: int
    """How many hash."""
    element_size: int
    """Bytes of a chunk, and of a pool's element."""
    reserves: tuple[int, ...]
    """The reserve at first, and what it is resized to on the way."""
    allowance: int
    """Bytes that the child may take beyond what it has when the job begins."""
    address_space: int | None
    """The limit itself, in bytes, for a child that is to have the same as another; else made from the allowance."""
    seconds: float
    """After these no more files are begun, and none is finished."""


class Progress(NamedTuple):
    """How far a child is; told some times a second."""

    seconds: float
    handled: int
    done: int
    failed: int
    hashed: int
    """Bytes."""
    ballast: int
    """Bytes."""
    reserve: int
    spare: int
    out: int
    waiting: int
    unfunded: int


@dataclass(frozen=True)
class Outcome:
    """How a run ended. Numbers of files and elements, unless a field says otherwise."""

    seconds: float
    files: dict[str, int]
    """Status name: how many files."""
    complaints: list[str]
    """The first few exceptions that are neither a lack of memory nor the operating system's no."""
    hashed: int
    """Bytes."""
    chunks: int
    """Fresh bytearrays that could be had (run A)."""
    address_space: int
    """The limit in bytes."""
    address_space_before: int
    """Bytes that were in use when the limit was set."""
    ballast_max: int
    """Bytes that the ballast held at most."""
    resident_max: int
    """Bytes of memory that the child had at most."""
    resizes: list[dict[str, int]]
    """Each resize and refill: the reserve from and to, and the guarantee it returned."""
    pool: dict[str, float]
    """The pool's stats after the last file, before it was closed; empty in run A."""
    left_after_close: int
    """Elements that exist although the pool is closed."""
