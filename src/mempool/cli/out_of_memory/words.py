"""What the demo and its children tell each other: a Job down; progress, events and an Outcome up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple


class Run(StrEnum):
    """Where a worker gets its buffer; a run each. Nothing else differs."""

    BYTEARRAY = "A"
    POOL = "B"
    QUEUE = "C"


#: The parts of a run: what the memory is like.
PHASES = ("memory to spare", "memory out", "half of it back", "memory out again")
TO_SPARE, OUT, HALF, OUT_AGAIN = range(len(PHASES))


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

    run: Run
    """Which of the three."""
    rounds: int
    """How often each file is read; 0, until the files are known: often enough to see something."""
    workers: int
    """How many hash: threads; in the pool's run, one of them is an asyncio task."""
    buffer_size: int
    """Bytes of a buffer."""
    reserve: int
    """How many the pool promises at first."""
    promise: int
    """How many the pool is to promise once memory is out."""
    limit: int
    """How many the pool has at most."""
    queue: int
    """How many the queue is filled with."""
    allowance: int
    """Bytes that the child may take beyond what it has when the job begins."""
    address_space: int | None
    """The limit on memory itself, in bytes, where a child is to have the same as another; else made from the allowance."""
    latency: float
    """Seconds that pass before each read, as with a disk at the other end of a network."""
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
    phases: list[dict[str, float]]
    """Of each of PHASES: its seconds and reads; how many buffers were in use at one moment, at most; the ballast's bytes."""
    waited_max: float
    """Seconds that a worker has waited for a buffer at most."""
    files_of_the_task: int
    """Files that the asyncio task has hashed (the pool's run)."""
    is_returning: bool
    """Whether a buffer is returned after its use (a bytearray of run A is not)."""
    misuse: str | None
    """The error that the planted mistake met: a buffer is used after it was returned. None: there was none."""
    address_space: int
    """The limit in bytes."""
    address_space_before: int
    """Bytes that were in use when the limit was set."""
    ballast_max: int
    """Bytes that the ballast held at most."""
    resident_max: int
    """Bytes of memory that the child had at most."""
    resizes: list[dict[str, int]]
    """Each resize and refill: the reserve from and to, and the guarantee that it returned."""
    steerings: list[str]
    """Each resize from outside, as it was logged."""
    pool: dict[str, float]
    """The pool's stats after the last file, before it was closed; empty in the other runs."""
    left_after_close: int
    """Elements that exist although the pool is closed."""
