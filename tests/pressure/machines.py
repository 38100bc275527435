"""A machine in a folder, whose memory pressure a test writes, with the files that Linux has; and a follower that looks."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from mempool import Objects, Pool
from mempool.pressure import Pressure, follow
from mempool.testing import ManualClock


class Machine:
    """The root of a system: /proc/pressure/memory, and a control group of version 2 where there is to be one."""

    def __init__(self, root: Path, group: str | None = "app.slice/video.service") -> None:
        self.root = root
        self.group: Path | None = None
        self._said: tuple[float, float | None] | None = None
        if group is not None:
            self.put("proc/self/cgroup", f"0::/{group}\n")
            self.group = root / "sys/fs/cgroup" / group
            self.put(f"sys/fs/cgroup/{group}/memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n")
        self.say(0.0)

    def put(self, name: str, text: str) -> Path:
        """Write a file."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        return file

    def say(self, percent: float, machine: float | None = None) -> None:
        """So short is memory, in the group and (or as `machine` says) on the whole machine."""
        if self._said == (percent, machine):
            return
        self._said = (percent, machine)
        if self.group is not None:
            self.put(str(self.group.relative_to(self.root) / "memory.pressure"), pressure(percent))
        self.put("proc/pressure/memory", pressure(percent if machine is None else machine))


def pressure(percent: float) -> str:
    """A file as the kernel writes it."""
    return (
        f"some avg10={percent:.2f} avg60=0.10 avg300=0.05 total=1658960\n"
        f"full avg10={percent / 2:.2f} avg60=0.00 avg300=0.00 total=526383\n"
    )


class Followed:
    """A pool on such a machine, whose follower looks only when the test says so, by a clock that the test holds."""

    def __init__(self, machine: Machine, keep: tuple[int, int] = (64, 256), *, at: int = 256, **options: Any) -> None:
        self.machine = machine
        self.clock = ManualClock()
        self.pool: Pool[Any] = Pool(Objects(object), 8, keep=at, name="frames")
        self.fill()
        self.pressure: Pressure = follow(self.pool, keep, clock=self.clock, root=machine.root, thread=False, **options)

    def fill(self) -> None:
        """As many spares as it keeps."""
        self.pool.free_many(self.pool.alloc_many(self.pool.keep))

    def run(self, seconds: float, percent: float | None = None, *, every: float = 2.0) -> None:
        """Let time pass, looking as the thread would. percent: what the machine says meanwhile; None: as before."""
        if percent is not None:
            self.machine.say(percent)
        for _ in range(round(seconds / every)):
            self.clock.advance(every)
            self.pressure.look()

    def keeps(self) -> list[int]:
        """`keep` after each step."""
        return [step.keep[1] for step in self.pressure.log]

    def directions(self) -> list[int]:
        """Of each step: 1 up, -1 down."""
        return [1 if step.keep[1] > step.keep[0] else -1 for step in self.pressure.log]

    def reversals(self) -> int:
        """How often a step up was undone by the next one, down."""
        ways = self.directions()
        return sum(1 for before, after in itertools.pairwise(ways) if (before, after) == (1, -1))
