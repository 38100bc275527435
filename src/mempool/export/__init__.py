"""Figures of pools for monitoring: Prometheus, OpenTelemetry.

`mempool export` serves those of all processes; Collector and instrument, those of this one.

Collector       for a registry of prometheus_client
instrument      for a meter of OpenTelemetry
Totals          the figures of many processes as one text, whose counters never fall
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mempool.export.families import Totals

if TYPE_CHECKING:
    from mempool.export.opentelemetry import instrument
    from mempool.export.prometheus import Collector

__all__ = ["Collector", "Totals", "instrument"]


def __getattr__(name: str) -> Any:
    # Each needs a package of its own (`mempool[export]`, `mempool[otel]`), which the other does without.
    if name == "Collector":
        from mempool.export.prometheus import Collector

        return Collector
    if name == "instrument":
        from mempool.export.opentelemetry import instrument

        return instrument
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
