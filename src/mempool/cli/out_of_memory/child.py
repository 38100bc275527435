"""One run, in a process of its own: told a Job on standard input, it tells how it goes on standard output.

    line:  a JSON list: ["progress", ...], ["event", seconds, text] or ["end", {...}]
    after the last line: a status byte per file, then a digest per file

The demo's side of it is in children.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from queue import Queue
from typing import Any

from mempool import Buffers, Guarantee, Pool, PoolTimeout
from mempool.cli.out_of_memory import memory
from mempool.cli.out_of_memory.hashing import Course, Hashing
from mempool.cli.out_of_memory.memory import Ballast, Level
from mempool.cli.out_of_memory.words import Job, Outcome, Progress, Status

#: Seconds between two lines of progress.
INTERVAL = 0.1
#: Seconds. Uncompiled, a thread that lost its turn inside a decision of the pool keeps alive what the others decide
#: meanwhile, some MiB in the usual 5 ms times the number of threads.
SWITCH_INTERVAL = 0.001
#: Bytes. The threads go a few calls deep; the usual 8 MiB each would make every figure hard to read.
STACK_SIZE = 512 * 1024
#: The share of the files after which memory runs out, half of it comes back, and it runs out again.
OUT_AT, HALF_AT, OUT_AGAIN_AT = 0.2, 0.5, 0.6
#: Half of it is back: what a resize fell short of may be filled now.
REFILL_AT = 0.55
#: The resizes are spread over this part of the course, so that most of them meet the ballast.
RESIZES_FROM, RESIZES_TO = 0.25, 1.0
REFILL = -1
LIMIT_IGNORED = 3  # exit status


class Child:
    """Threads, limit, pool, and the order in which they come."""

    def __init__(self, job: Job, paths: list[bytes]) -> None:
        self.job = job
        self.ballast: Ballast = Ballast(job.element_size, job.allowance)
        self._orders: Queue[int | None] = Queue()  # for the resizer: a reserve, REFILL, or None: enough
        self.course: Course = Course(job.rounds * len(paths), job.seconds, self._marks())
        self.hashing: Hashing = Hashing(job, paths, self.course)
        self.pool: Pool[Any] | None = None
        self.resizes: list[dict[str, int]] = []
        self._ready = threading.Barrier(job.threads + 1)
        self._go = threading.Event()
        self._over = threading.Event()
        self._at_work = job.threads
        self._leaving = threading.Lock()
        self._failure: BaseException | None = None

    def run(self) -> Outcome:
        """Do the job."""
        threading.stack_size(STACK_SIZE)
        sys.setswitchinterval(SWITCH_INTERVAL)
        workers = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(self.job.threads)]
        resizer = threading.Thread(target=self._resize, daemon=True)
        for thread in (*workers, resizer, self.ballast):
            thread.start()
        try:
            self._ready.wait()
        except threading.BrokenBarrierError:
            raise self._failure or RuntimeError("a thread did not start") from None
        stock = memory.lay_in_stock()

        # From here on run A and run B differ: the pool's elements count against the limit.
        before = memory.address_space_used()
        limit = memory.limit_address_space(self.job.address_space or before + self.job.allowance)
        if self.job.pooled:
            self.pool = Pool(Buffers(self.job.element_size), self.job.reserves[0], name="demo")
            self.hashing.pool = self.pool
        self.course.begin()
        self._go.set()
        while not self._over.wait(INTERVAL):
            self._tell_progress()
        seconds = time.monotonic() - self.course.began
        self._orders.put(None)
        resizer.join()
        if self._failure is not None:
            raise self._failure

        self.ballast.end()
        memory.lift_limit()
        del stock
        self._tell_progress()
        stats, left = self._close()
        statuses = self.hashing.statuses
        return Outcome(
            seconds=seconds,
            files={status.name.lower(): statuses.count(status) for status in Status},
            complaints=self.hashing.complaints,
            hashed=self.hashing.hashed,
            chunks=self.hashing.chunks,
            address_space=limit,
            address_space_before=before,
            ballast_max=self.ballast.size_max,
            resident_max=memory.resident_max(),
            resizes=self.resizes,
            pool=stats,
            left_after_close=left,
        )

    def _marks(self) -> list[tuple[float, Callable[[], None]]]:
        """What happens on the way: ballast and resizes, by turns."""
        steps = self.job.reserves[1:] if self.job.pooled else ()
        step = (RESIZES_TO - RESIZES_FROM) / max(1, len(steps))
        marks: list[tuple[float, Callable[[], None]]] = [
            (OUT_AT, partial(self._order, Level.ALL)),
            (HALF_AT, partial(self._order, Level.HALF)),
            (REFILL_AT, partial(self._orders.put, REFILL)),
            (OUT_AGAIN_AT, partial(self._order, Level.ALL)),
        ]
        marks += [(RESIZES_FROM + step * (n + 0.5), partial(self._orders.put, r)) for n, r in enumerate(steps)]
        return sorted(marks, key=lambda mark: mark[0])

    def _order(self, level: Level) -> None:
        self._orders.join()  # a resize meets the memory that was there when it was ordered
        self.ballast.be(level)
        what = "memory is out" if level is Level.ALL else "half of the memory comes back"
        self._tell_event(f"{what}: the ballast holds {self.ballast.size / (1 << 20):.1f} MiB")

    def _work(self, thread: int) -> None:
        try:
            self.hashing.warm_up(thread)
            self._ready.wait()
            self._go.wait()
            self.hashing.work(thread)
        except BaseException as error:  # noqa: BLE001 - the main thread raises it
            self._failure = error
            self._ready.abort()
        finally:
            with self._leaving:
                self._at_work -= 1
                if not self._at_work:
                    self._over.set()

    def _resize(self) -> None:
        """Change the reserve while the others work."""
        while (order := self._orders.get()) is not None:
            try:
                if self.pool is not None:
                    self._resize_to(self.pool, order)
            except BaseException as error:  # noqa: BLE001 - the main thread raises it
                self._failure = error
            self._orders.task_done()

    def _resize_to(self, pool: Pool[Any], order: int) -> None:
        before = pool.guarantee()
        if order == REFILL and before.held:
            return
        what = f"refill to {before.promised}" if order == REFILL else f"reserve {before.promised} -> {order}"
        try:
            now = pool.refill() if order == REFILL else pool.resize(order)
        except MemoryError:
            self._tell_event(f"{what}: refused, not even the list of its places can be had")
            return
        figures = {"spare": now.spare, "owed": now.owed, "unfunded": now.unfunded}
        self.resizes.append({"from": before.promised, "to": now.promised, **figures})
        self._tell_event(f"{what}: {covered(now)}")

    def _close(self) -> tuple[dict[str, float], int]:
        if self.pool is None:
            return {}, 0
        with contextlib.suppress(PoolTimeout):  # the audit tells it
            self.pool.drain(timeout=5)
        now = self.pool.refill()
        self._tell_event(f"memory is back, reserve {now.promised}: {covered(now)}")
        stats = self.pool.stats()
        self.pool.close()
        after = self.pool.stats()
        names = ("reserve", "spare", "out", "disposing", "made", "disposed", "resizes", "source_failures")
        served = ("served_from_spare", "served_from_source", "served_from_reserve", "served_from_line")
        waits = ("waits_served", "wait_seconds_max", "wait_seconds_total")
        return {name: getattr(stats, name) for name in (*names, *served, *waits)}, after.made - after.disposed

    def _tell_progress(self) -> None:
        try:
            statuses = self.hashing.statuses
            reserve = spare = out = waiting = unfunded = 0
            if self.pool is not None:
                stats = self.pool.stats()
                reserve, spare, out, waiting = stats.reserve, stats.spare, stats.out, stats.waiting
                unfunded = max(0, reserve - spare - out)
            progress = Progress(
                seconds=time.monotonic() - self.course.began,
                handled=len(statuses) - statuses.count(Status.NOT_REACHED),
                done=statuses.count(Status.DONE),
                failed=statuses.count(Status.OUT_OF_MEMORY),
                hashed=self.hashing.hashed,
                ballast=self.ballast.size,
                reserve=reserve,
                spare=spare,
                out=out,
                waiting=waiting,
                unfunded=unfunded,
            )
            tell("progress", *progress)
        except MemoryError:
            pass  # the next line tells it

    def _tell_event(self, text: str) -> None:
        tell("event", time.monotonic() - self.course.began, text)


def covered(now: Guarantee) -> str:
    """What became of a promise, in words."""
    return "covered" if now.held else f"{now.unfunded} unfunded until memory comes back"


_telling = threading.Lock()


def tell(*words: object) -> None:
    """Write a line to the demo; without it there is no reason to go on."""
    try:
        with _telling:
            os.write(sys.stdout.fileno(), json.dumps(words).encode() + b"\n")
    except BrokenPipeError:
        os._exit(1)


def main() -> None:
    """The job is a line of JSON on standard input; the paths follow, each ended by a NUL byte."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the demo is interrupted too, and ends this process
    line, _, paths = sys.stdin.buffer.read().partition(b"\n")
    fields = json.loads(line)
    fields["reserves"] = tuple(fields["reserves"])
    child = Child(Job(**fields), paths.split(b"\0")[:-1])
    try:
        outcome = child.run()
    except memory.LimitIgnoredError:
        os._exit(LIMIT_IGNORED)
    except BaseException as error:  # noqa: BLE001 - told in one line; the threads may stand anywhere, so no orderly end
        memory.lift_limit()
        at = traceback.extract_tb(error.__traceback__)[-1]
        sys.stderr.write(f"{type(error).__name__}: {error} ({at.filename}:{at.lineno})\n")
        sys.stderr.flush()
        os._exit(1)
    tell("end", vars(outcome))
    sys.stdout.buffer.write(child.hashing.statuses)
    sys.stdout.buffer.write(child.hashing.digests)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
