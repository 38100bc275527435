"""instrument: the pools of this process as observable instruments of OpenTelemetry, by its API package alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from mempool.export.families import Counts, Gauges
from mempool.export.own import own_figures

#: Names as of OpenTelemetry's conventions for pools of connections, which have the same parts.
POOL = "mempool.pool.name"
#: Which of the two of `own_figures`.
GAUGES, COUNTS = 0, 1
Callback = Callable[[CallbackOptions], Iterable[Observation]]


def _by(kind: int, fields: Mapping[str, str], label: str = "") -> Callback:
    """One observation for each of these fields that is known, with its value of this label."""

    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        of: dict[tuple[str, str], Gauges] | dict[tuple[str, str], Counts] = own_figures()[kind]
        for (pool, _), numbers in of.items():
            for field, value in fields.items():
                if (number := getattr(numbers, field)) is not None:
                    yield Observation(number, {POOL: pool} | ({label: value} if label else {}))

    return observe


def instrument(meter: Meter | None = None) -> None:
    """Observe all pools of this process, those to come as well. meter: None: the one of the global provider.

    OpenTelemetry has no histogram that is observed, only one that is told of each value, which would cost each wait a call:
    so `mempool.wait_time` is the sum of all waits in seconds, and `mempool.waits` counts them by how they ended. Their
    quotient is the mean. For quantiles, scrape `mempool_wait_seconds` as Prometheus does.
    """
    meter = meter if meter is not None else get_meter("mempool")
    gauge, counter = meter.create_observable_gauge, meter.create_observable_counter
    states = {state: state for state in ("spare", "out", "disposing")}
    gauge("mempool.element.count", [_by(GAUGES, states, "state")], "{element}", "Elements that exist, by where they are")
    for name, field, told in (
        ("mempool.element.reserved", "reserve", "Elements that the pool promises"),
        ("mempool.element.idle.max", "keep", "Spares that stay warm"),
        ("mempool.element.max", "limit", "Elements that may exist at once; absent: any number"),
        ("mempool.element.unfunded", "unfunded", "The part of the promise that not even every return would fill"),
    ):
        gauge(name, [_by(GAUGES, {field: ""})], "{element}", told)
    gauge("mempool.pending_requests", [_by(GAUGES, {"waiting": ""})], "{request}", "Callers in the line")
    origins = {f"from_{origin}": origin for origin in ("spare", "source", "reserve", "line")}
    counter("mempool.served", [_by(COUNTS, origins, "origin")], "{element}", "Elements handed out, by where they came from")
    outcomes = {f"waits_{outcome}": outcome for outcome in ("served", "timed_out", "cancelled")}
    counter("mempool.waits", [_by(COUNTS, outcomes, "outcome")], "{request}", "Waits, by how they ended")
    counter("mempool.timeouts", [_by(COUNTS, {"waits_timed_out": ""})], "{timeout}", "Waits that ended with PoolTimeout")
    counter("mempool.wait_time", [_by(COUNTS, {"wait_seconds": ""})], "s", "Seconds waited, whatever the end")
    for name, field, told in (
        ("mempool.source.failures", "source_failures", "How often the source ran out of memory"),
        ("mempool.resizes", "resizes", "Calls of resize that reached their moment"),
        ("mempool.made", "made", "Elements made by the source"),
        ("mempool.disposed", "disposed", "Elements given to the source's free, or written off"),
    ):
        counter(name, [_by(COUNTS, {field: ""})], "1", told)
