"""One run, in a process of its own: told a Job on standard input, it tells how it goes on standard output.

    line:  a JSON list: ["progress", ...], ["event", seconds, text] or ["end", {...}]
    after the last line: a status byte per file, then a digest per file

The demo's side of it is in children.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import Queue
from typing import Any

from mempool import Buffers, Pool, PoolTimeout, watch
from mempool.cli.out_of_memory import memory
from mempool.cli.out_of_memory.hashing import Course, Hashing, Mark
from mempool.cli.out_of_memory.memory import Ballast, Level
from mempool.cli.out_of_memory.words import HALF, OUT, OUT_AGAIN, PHASES, Job, Outcome, Progress, Run, Status

#: Seconds between two lines of progress.
INTERVAL = 0.1
#: Seconds. Uncompiled, a thread that lost its turn inside a decision of the pool keeps alive what the others decide
#: meanwhile, some MiB in the usual 5 ms times the number of threads.
SWITCH_INTERVAL = 0.001
#: Bytes. The threads go a few calls deep; the usual 8 MiB each would make every figure hard to read.
STACK_SIZE = 512 * 1024
#: The share of the files after which memory runs out, half of it comes back, and it runs out again.
OUT_AT, HALF_AT, OUT_AGAIN_AT = 0.4, 0.65, 0.75
#: Memory is out, the work goes on: more is promised than there is memory for.
RESIZE_AT = 0.5
#: Half of it is back: what the resize fell short of may be filled now.
REFILL_AT = 0.7
REFILL = -1
LIMIT_IGNORED = 3  # exit status


class Child:
    """Workers, limit, pool or queue, and the order in which they come."""

    def __init__(self, job: Job, paths: list[bytes]) -> None:
        self.job = job
        self.ballast: Ballast = Ballast(job.buffer_size, job.allowance)
        self._orders: Queue[int | None] = Queue()  # for the resizer: a reserve, REFILL, or None: enough
        self.course: Course = Course(job.rounds * len(paths), job.seconds, self._marks())
        self.hashing: Hashing = Hashing(job, paths, self.course)
        self.pool: Pool[Any] | None = None
        self.resizes: list[dict[str, int]] = []
        self.steerings: list[str] = []
        self.phases: list[dict[str, float]] = []
        self._ready = threading.Barrier(job.workers + 1)
        self._go = threading.Event()
        self._over = threading.Event()
        self._at_work = job.workers
        self._leaving = threading.Lock()
        self._failure: BaseException | None = None

    def run(self) -> Outcome:
        """Do the job."""
        threading.stack_size(STACK_SIZE)
        sys.setswitchinterval(SWITCH_INTERVAL)
        jobs = [partial(self._work, self.hashing.work, n) for n in range(self.job.workers)]
        if self.job.run is Run.POOL:
            self._tell_steerings()
            jobs[-1] = partial(self._work_in_a_loop, self.job.workers - 1)
        workers = [threading.Thread(target=job, daemon=True) for job in jobs]
        resizer = threading.Thread(target=self._resize, daemon=True)
        for thread in (*workers, resizer, self.ballast):
            thread.start()
        try:
            self._ready.wait()
        except threading.BrokenBarrierError:
            raise self._failure or RuntimeError("a thread did not start") from None
        stock = memory.lay_in_stock()

        # From here on the runs differ: the buffers of the pool and of the queue count against the limit.
        before = memory.address_space_used()
        limit = memory.limit_address_space(self.job.address_space or before + self.job.allowance)
        self._lay_in_buffers()
        self.course.begin()
        self._begin_phase()
        self._go.set()
        while not self._over.wait(INTERVAL):
            self._tell_progress()
        self._end_phase()
        seconds = time.monotonic() - self.course.began
        self._orders.put(None)
        resizer.join()
        if self._failure is not None:
            raise self._failure

        self.ballast.end()
        memory.lift_limit()
        del stock
        self._tell_progress()
        misuse = self.hashing.use_after_return()
        stats, left = self._close()
        statuses = self.hashing.statuses
        return Outcome(
            seconds=seconds,
            files={status.name.lower(): statuses.count(status) for status in Status},
            complaints=self.hashing.complaints,
            hashed=self.hashing.hashed,
            phases=self.phases,
            waited_max=self.hashing.waited_max,
            files_of_the_task=self.hashing.files_of_the_task,
            is_returning=self.job.run is not Run.BYTEARRAY,
            misuse=misuse,
            address_space=limit,
            address_space_before=before,
            ballast_max=self.ballast.size_max,
            resident_max=memory.resident_max(),
            resizes=self.resizes,
            steerings=self.steerings,
            pool=stats,
            left_after_close=left,
        )

    def _lay_in_buffers(self) -> None:
        size = self.job.buffer_size
        if self.job.run is Run.POOL:
            # As few as the queue has, and no more kept warm: what is beyond them it gives back.
            self.pool = Pool(
                Buffers(size), reserve=self.job.reserve, keep=self.job.reserve, limit=self.job.limit, name="demo"
            )
            self.hashing.pool = self.pool
            if watch.is_published() and os.environ.get("MEMPOOL_WATCH") == "steer":
                self._tell_event(f"seen from outside: mempool resize demo@{os.getpid()} --reserve {self.job.limit}")
        if self.job.run is Run.QUEUE:
            for _ in range(self.job.queue):
                self.hashing.queue.put(bytearray(size))

    def _marks(self) -> list[Mark]:
        """What happens on the way. Memory runs out in a lull, so that the buffers then in use do not decide who fails."""
        return [
            Mark(OUT_AT, partial(self._turn_to, OUT), in_a_lull=True),
            Mark(RESIZE_AT, partial(self._orders.put, self.job.promise)),
            Mark(HALF_AT, partial(self._turn_to, HALF)),
            Mark(REFILL_AT, partial(self._orders.put, REFILL)),
            Mark(OUT_AGAIN_AT, partial(self._turn_to, OUT_AGAIN), in_a_lull=True),
        ]

    def _turn_to(self, phase: int) -> None:
        self._orders.join()  # a resize meets the memory that was there when it was ordered
        self._end_phase()
        self.ballast.be(Level.HALF if phase == HALF else Level.ALL)
        self._begin_phase()
        self._tell_event(f"{PHASES[phase]}: the others have {self.ballast.size / (1 << 20):.1f} MiB")

    def _begin_phase(self) -> None:
        self.hashing.in_use_max = 0
        self.phases.append({"began": time.monotonic(), "reads": self.hashing.reads, "ballast": self.ballast.size})

    def _end_phase(self) -> None:
        phase = self.phases[-1]
        phase["seconds"] = time.monotonic() - phase.pop("began")
        phase["reads"] = self.hashing.reads - phase["reads"]
        phase["buffers"] = self.hashing.in_use_max
        phase["ballast"] = max(phase["ballast"], self.ballast.size)

    def _work_in_a_loop(self, worker: int) -> None:
        """A worker that is an asyncio task; what would block its loop runs in a thread beside it."""
        with ThreadPoolExecutor(1) as beside, asyncio.Runner() as runner:
            runner.get_loop()  # made now, while there is memory
            self._work(lambda n: runner.run(self.hashing.work_as_a_task(n, beside)), worker, beside)

    def _work(self, work: Callable[[int], None], worker: int, beside: ThreadPoolExecutor | None = None) -> None:
        try:
            if beside is None:
                self.hashing.warm_up(worker)
            else:
                beside.submit(self.hashing.warm_up, worker).result()
            self._ready.wait()
            self._go.wait()
            work(worker)
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
            finally:
                self._orders.task_done()

    def _resize_to(self, pool: Pool[Any], order: int) -> None:
        before = pool.guarantee()
        if order != REFILL:
            order = max(order, before.promised)  # what somebody has asked for from outside is not taken back
        call = "refill()" if order == REFILL else f"resize(reserve={order})"
        try:
            now = pool.refill() if order == REFILL else pool.resize(order)
        except MemoryError:
            self._tell_event(f"pool.{call}: refused, not even the list of its places can be had")
            return
        figures = {"spare": now.spare, "owed": now.owed, "unfunded": now.unfunded}
        self.resizes.append({"from": before.promised, "to": now.promised, **figures})
        self._tell_event(f"pool.{call} -> {now}")

    def _close(self) -> tuple[dict[str, float], int]:
        if self.pool is None:
            return {}, 0
        with contextlib.suppress(PoolTimeout):  # the audit tells it
            self.pool.drain(timeout=5)
        self.pool.refill()
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

    def _tell_steerings(self) -> None:
        """Tell of each resize from outside, as it is logged."""
        log = logging.getLogger("mempool.watch")
        log.addHandler(_Events(self._tell_steering))
        log.setLevel(logging.INFO)

    def _tell_steering(self, text: str) -> None:
        self.steerings.append(text)
        self._tell_event(text)

    def _tell_event(self, text: str) -> None:
        tell("event", time.monotonic() - self.course.began, text)


class _Events(logging.Handler):
    """A log whose lines become events."""

    def __init__(self, tell_event: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell_event

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it, or leave it where there is no memory for its words."""
        with contextlib.suppress(MemoryError):
            self._tell(record.getMessage())


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
    sys.argv[0] = "mempool demo"  # by which it is known where it is seen from outside
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the demo is interrupted too, and ends this process
    line, _, paths = sys.stdin.buffer.read().partition(b"\n")
    fields = json.loads(line)
    fields["run"] = Run(fields["run"])
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
