"""What the page shows: the last ten minutes of each pool, a sample a second, and what happened last, as a sentence."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from mempool.watch.layout import Figures
from mempool.watch.rates import memory_pressure
from mempool.watch.reader import Row
from mempool.watch.sources import Here
from mempool.watch.words import quantile, sentence, state_of

SAMPLES = 600
#: Seconds over which the quantiles of waits are taken.
WINDOW = 10
#: Of each sample, in this order.
SERIES = ("time", "promised", "spare", "out", "line", "p50", "p99", "failures", "pressure")
#: A wait longer than the last bucket's bound is drawn there.
LONGEST = 200.0


class Track:
    """One pool's last ten minutes."""

    def __init__(self, row: Row) -> None:
        self.row: Row = row
        self.samples: deque[tuple[float | None, ...]] = deque(maxlen=SAMPLES)
        self.said: str = ""
        self._recent: deque[tuple[int, ...]] = deque(maxlen=WINDOW + 1)
        self._last: Figures | None = None
        self._last_at = 0.0

    def add(self, row: Row, now: float, pressure: float | None) -> None:
        """The figures of this moment."""
        self.row = row
        f = row.figures
        if f is None:
            return
        self._recent.append(f.wait_histogram)
        delta = [new - old for new, old in zip(f.wait_histogram, self._recent[0], strict=True)]
        last, seconds = self._last, max(1e-3, now - self._last_at)
        failures = 0.0 if last is None else max(0, f.source_failures - last.source_failures) / seconds
        quantiles = [None if q is None else min(q, LONGEST) for q in (quantile(delta, 0.5), quantile(delta, 0.99))]
        self.samples.append((now, f.reserve, f.spare, f.out, f.waiting, *quantiles, failures, pressure))
        if last is not None and (event := event_of(last, f)):
            self.said = f"{time.strftime('%H:%M:%S', time.localtime(now))}: {event}"
        self._last, self._last_at = f, now

    def numbers(self) -> dict[str, int | float | None]:
        """The eight numbers above the plots."""
        f = self.row.figures
        if f is None:
            return {}
        latest = self.samples[-1] if self.samples else (None,) * len(SERIES)
        return {
            "promised": f.reserve,
            "spare": f.spare,
            "out": f.out,
            "in line": f.waiting,
            "limit": f.limit,
            "unfunded": f.unfunded,
            "failures": f.source_failures,
            "p99 of waits": latest[SERIES.index("p99")],
        }


def event_of(before: Figures, now: Figures) -> str:
    """What happened between two looks, the most telling thing first; empty: nothing."""
    if now.reserve != before.reserve:
        return f"resized from {before.reserve} to {now.reserve}" + (f", {now.unfunded} unfunded" if now.unfunded else "")
    if now.closed and not before.closed:
        return "closed"
    if now.unfunded != before.unfunded:
        return f"{now.unfunded} of the promise unfunded" if now.unfunded else "the promise is covered again"
    if now.source_failures > before.source_failures:
        times = now.source_failures - before.source_failures
        return f"the source failed {times} time{'' if times == 1 else 's'}" + (f": {now.said}" if now.said else "")
    if now.waiting and not before.waiting:
        return "a line has formed" + (f": the limit of {now.limit} is reached" if now.limit_reached else "")
    if before.waiting and not now.waiting:
        return "the line is empty again"
    if now.spare == 0 and before.spare and now.reserve:
        return "the reserve is used up"
    return ""


class Sampler:
    """Looks at all pools once a second, in a thread, until `stop`."""

    def __init__(self, directory: str | None = None) -> None:
        self.here: Here = Here(directory)
        self._tracks: dict[tuple[str, int], Track] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mempool.web", daemon=True)
        self.fault: str = ""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._ending.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._ending.is_set():
            self.look(time.time())
            self._ending.wait(1.0)

    def look(self, now: float) -> None:
        """Sample all pools."""
        try:
            rows = self.here.rows()
            self.fault = ""
        except OSError as error:
            rows, self.fault = [], str(error)
        pressure = memory_pressure()
        with self._lock:
            for row in rows:
                self._tracks.setdefault(row.key, Track(row)).add(row, now, pressure)
            there = {row.key for row in rows}
            self._tracks = {key: track for key, track in self._tracks.items() if key in there}

    def row(self, name: str) -> Row | None:
        """The row with this name, as `report` gives it."""
        with self._lock:
            return next((track.row for key, track in self._tracks.items() if name_of(key) == name), None)

    def report(self, name: str, since: float) -> dict[str, Any]:
        """All pools by name, and the samples of one of them, later than this moment."""
        with self._lock:
            ordered: Sequence[tuple[tuple[str, int], Track]] = sorted(
                self._tracks.items(), key=lambda item: (*state_of(item[1].row.figures, item[1].row.why), item[1].row.pool)
            )
            pools = [
                {
                    "key": name_of(key),
                    "name": track.row.target,
                    "program": track.row.process,
                    "state": state_of(track.row.figures, track.row.why)[1],
                }
                for key, track in ordered
            ]
            chosen = next((track for key, track in ordered if name_of(key) == name), None)
            if chosen is None and ordered:
                name, chosen, since = name_of(ordered[0][0]), ordered[0][1], 0.0
            if chosen is None:
                return {"pools": [], "chosen": "", "fault": self.fault, "numbers": {}, "said": "", "why": "", "series": []}
            f = chosen.row.figures
            samples = [sample for sample in chosen.samples if (sample[0] or 0.0) > since]
            return {
                "pools": pools,
                "chosen": name,
                "fault": self.fault,
                "numbers": chosen.numbers(),
                "said": chosen.said,
                "why": chosen.row.why if f is None else sentence(f),
                "series": [list(column) for column in zip(*samples, strict=True)] or [[] for _ in SERIES],
            }


def name_of(key: tuple[str, int]) -> str:
    """How a page calls a pool."""
    return f"{key[0]}.{key[1]}"
