"""Starts a child, hears what it tells, and gets its results."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import mempool
from mempool.cli.out_of_memory import child, memory
from mempool.cli.out_of_memory.hashing import DIGEST_SIZE
from mempool.cli.out_of_memory.words import Job, Outcome, Progress

#: Seconds that a child may take to start and to end, beside those it has for its files.
GRACE = 30.0

#: `-c` with the path at the end, and `-P`: a `hashlib.py` in the user's working directory must not become ours.
PROGRAM = "import sys; sys.path.append(sys.argv[1]); from mempool.cli.out_of_memory.child import main; main()"


class ChildFailedError(Exception):
    """A child has not come to its end."""


@dataclass(frozen=True)
class Results:
    """All that a run leaves."""

    outcome: Outcome
    statuses: bytes
    """A Status per file, round after round."""
    digests: bytes
    """DIGEST_SIZE bytes per file; meaningful where it is DONE."""


def run_child(
    job: Job,
    paths: Sequence[bytes],
    on_progress: Callable[[Progress], None],
    on_event: Callable[[float, str], None],
) -> Results:
    """Run the job in a new process. Raises ChildFailedError when it dies or does not end."""
    what = f"run {job.run}"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, str(Path(mempool.__file__).parent.parent)],
        env={**os.environ, **memory.ENVIRONMENT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    said: list[bytes] = []
    hearing = threading.Thread(target=_hear, args=(process.stderr, said), daemon=True)
    hearing.start()
    try:
        _give(process.stdin, job, paths)
        lines = _lines(process.stdout, time.monotonic() + job.seconds + GRACE)
        for line in lines:
            kind, *words = json.loads(line)
            if kind == "progress":
                on_progress(Progress(*words))
            elif kind == "event":
                on_event(*words)
            elif kind == "end":
                rest = b"".join(lines)
                files = job.rounds * len(paths)
                if len(rest) == files * (1 + DIGEST_SIZE):
                    return Results(Outcome(**words[0]), rest[:files], rest[files:])
        status = process.wait()
        hearing.join()  # all that it said on its way out
        if status == child.LIMIT_IGNORED:
            raise ChildFailedError("this system does not enforce RLIMIT_AS: memory does not run out, nothing to show")
        last = b"".join(said).decode(errors="replace").strip().splitlines()[-1:]
        raise ChildFailedError(f"{what} ended early, with status {status}" + "".join(f": {line}" for line in last))
    except TimeoutError:
        raise ChildFailedError(f"{what} has not ended {GRACE:.0f} s after its time was up") from None
    finally:
        process.kill()
        process.wait()
        hearing.join()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def _give(pipe: IO[bytes], job: Job, paths: Sequence[bytes]) -> None:
    # How it died, its status tells. Closing writes too, so it belongs inside.
    with contextlib.suppress(BrokenPipeError), pipe:
        pipe.write(json.dumps(asdict(job)).encode() + b"\n")
        pipe.writelines(path + b"\0" for path in paths)


def _hear(pipe: IO[bytes], said: list[bytes]) -> None:
    said.extend(pipe)


def _lines(pipe: IO[bytes], deadline: float) -> Iterator[bytes]:
    """Lines without their ends until the one that says "end"; after that, what comes. Raises TimeoutError."""
    rest, is_end = b"", False
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            piece = os.read(pipe.fileno(), 1 << 16)
            if not piece:
                return
            rest += piece
            while not is_end and b"\n" in rest:
                line, _, rest = rest.partition(b"\n")
                is_end = line.startswith(b'["end"')
                yield line
            if is_end:
                yield rest
                rest = b""
