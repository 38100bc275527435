"""`mempool demo --fleet`: four workers of Dask decode sixty clips; in the midst their pools are resized, and one is killed.

A clip is compressed frames. A task decodes each into a buffer of its worker's pool, and keeps a checksum of it: no element
leaves its task. The machine is this one: workers are processes, and everything goes over its loopback.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mempool
from mempool import Buffers

WORKERS, CLIPS, FRAMES = 4, 60, 6
FRAME = 256 * 1024  # bytes
#: Per worker, before and after the resize.
BEFORE: dict[str, Any] = {"reserve": 1, "limit": 2}
AFTER: dict[str, Any] = {"reserve": 3, "limit": 4}
#: So many clips are done when the pools are resized, and when a worker is killed.
RESIZED_AT, KILLED_AT = 15, 25
#: Seconds that a frame is looked at, and that all of it may take.
LOOK_SECONDS, MOST_SECONDS = 0.02, 55.0


def make_clip(number: int) -> list[bytes]:
    """A clip's frames, compressed: a bright bar that moves over noise which is the clip's own."""
    noise = random.Random(number).randbytes(1024)
    frames = []
    for second in range(FRAMES):
        frame = bytearray(noise * (FRAME // len(noise)))
        frame[second * 4096 : (second + 1) * 4096] = bytes([255]) * 4096
        frames.append(zlib.compress(bytes(frame), 1))
    return frames


def expected(number: int) -> int:
    """What `decode` must find."""
    found = 0
    for frame in make_clip(number):
        found = zlib.crc32(zlib.decompress(frame), found)
    return found


def decode(number: int) -> int:
    """The task: each frame in a buffer of the worker's pool, and a checksum over all of them."""
    found = 0
    staging = mempool.get("staging")
    for frame in make_clip(number):
        with staging.lease(timeout=30) as buffer, buffer[:] as view:
            view[:] = zlib.decompress(frame)
            time.sleep(LOOK_SECONDS)  # what a model would do with it
            found = zlib.crc32(view, found)
    return found


@dataclass
class Course:
    """What has happened, and what should have."""

    say: Callable[[str], None]
    faults: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def tell(self, text: str) -> None:
        """A line with the time beside it."""
        self.say(f"{time.monotonic() - self.began:5.1f} s  {text}")

    def check(self, is_right: bool, text: str) -> None:
        """A line that is a fault where it is not right."""
        self.tell(f"{'ok   ' if is_right else 'FAULT'} {text}")
        if not is_right:
            self.faults.append(text)

    @property
    def seconds_left(self) -> float:
        """Of what all of it may take."""
        return max(0.1, MOST_SECONDS - (time.monotonic() - self.began))


def run(say: Callable[[str], None]) -> list[str]:
    """Run it; returns the faults. Raises ImportError without Dask."""
    import distributed

    course = Course(say)
    course.tell(f"{WORKERS} workers start, each a process of its own")
    options = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "memory_limit": 0}
    with (
        distributed.LocalCluster(n_workers=WORKERS, threads_per_worker=2, processes=True, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(WORKERS, timeout=course.seconds_left)
        _work(course, client)
    took = time.monotonic() - course.began
    course.check(took <= 60, f"all of it took {took:.0f} s, and 60 is the most")
    return course.faults


def _work(course: Course, client: Any) -> None:
    import distributed

    from mempool.fleet.dask import Fleet

    staging = Fleet(client).create("staging", functools.partial(Buffers, FRAME), **BEFORE)
    course.check(
        staging.answer().is_applied, f"a pool of {BEFORE['reserve']} to {BEFORE['limit']} frames on each: {staging.answer()}"
    )
    clips = client.map(decode, range(CLIPS), pure=False)
    answer = None
    done = 0
    try:
        for _ in distributed.as_completed(clips, timeout=course.seconds_left):
            done += 1
            if done == RESIZED_AT:
                answer = staging.resize(**AFTER)
                course.check(
                    answer.is_applied, f"{done} clips are done; resized to {AFTER['reserve']} to {AFTER['limit']}: {answer}"
                )
            if done == KILLED_AT:
                pids = client.run(os.getpid)
                address, pid = min(pids.items())
                os.kill(pid, signal.SIGKILL)
                course.tell(f"{done} clips are done; killed the worker at {address}, pid {pid}")
    except TimeoutError:
        course.check(False, f"{done} of {CLIPS} clips in {MOST_SECONDS:.0f} s")
        return
    found = client.gather(clips, errors="skip")
    course.check(
        found == [expected(number) for number in range(CLIPS)], f"{len(found)} of {CLIPS} clips are decoded, and rightly"
    )
    _end(course, client, staging)


def _end(course: Course, client: Any, staging: Any) -> None:
    """The killed worker is back, and all have what was ordered before it was killed."""
    try:
        client.wait_for_workers(WORKERS, timeout=course.seconds_left)
        answer = staging.answer().wait(timeout=course.seconds_left)
    except TimeoutError as late:
        course.check(False, str(late))
        return
    course.check(len(answer.nodes) == WORKERS, f"the killed worker's successor has the resize, too: {answer}")
    stats = staging.fleet.stats()
    while stats.total("staging", "out") and course.seconds_left > 1:
        time.sleep(0.1)
        stats = staging.fleet.stats()
    course.check(stats.total("staging", "out") == 0, "all elements are back in their pools")
    course.say(str(stats))
