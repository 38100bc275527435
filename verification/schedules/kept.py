"""What must not die with a thread of a schedule, but live to the schedule's end. Not traced: it adds no steps.

The tool has noted the thread's end by then: it would stop a finalizer at its first step, and nobody would ever let it go on.
The caller may be the last to refer to a pool, which closes itself; and a thread's locals note where it is parked.
"""

from __future__ import annotations

from mempool import parking

kept: list[object] = []


class KeptLocal(parking._Local):
    """The locals of the threads, of which nothing dies with its thread."""

    def __init__(self) -> None:
        super().__init__()
        kept.append(self.parked)
